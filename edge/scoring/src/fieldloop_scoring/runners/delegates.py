"""Delegates by entry point: other hardware for a graph, or a part of it.

An entry point of the group `fieldloop.delegates` names a function that is given the runtime's own
`load_delegate(library, options)` and returns the delegate. One that cannot be had is refused: a
model that was meant for other hardware shall not run on the CPU in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from fieldloop_contract.errors import FixConfiguration

GROUP = "fieldloop.delegates"
LoadDelegate = Callable[..., Any]


def open_delegate(name: str, load_delegate: LoadDelegate) -> Any:
    """The delegate of that name.

    Args:
        load_delegate: of the runtime that is in use.

    Raises:
        FixConfiguration: none is called that, or its library or device is absent.
    """
    known = {point.name: point for point in entry_points(group=GROUP)}
    if name not in known:
        raise FixConfiguration(
            f"no delegate is called {name!r:.40}",
            code="delegate.unknown",
            hint=f"installed: {', '.join(sorted(known)) or 'none'}",
        )
    try:
        return known[name].load()(load_delegate)
    except (OSError, ValueError, RuntimeError, ImportError, AttributeError) as error:
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise FixConfiguration(
            f"delegate {name} cannot be had: {words}",
            code="delegate.absent",
            hint="its library or its device is missing on this machine",
        ) from error
