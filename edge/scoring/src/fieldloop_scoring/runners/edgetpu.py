"""Coral Edge TPU: a delegate in a system library, `libedgetpu` (Debian: libedgetpu1-std).

The model has to be compiled for it; what is not falls to the CPU within the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LIBRARY = "libedgetpu.so.1"


def open_delegate(load_delegate: Callable[..., Any]) -> Any:
    """The first Edge TPU of the machine; see `fieldloop_scoring.runners.delegates`."""
    return load_delegate(LIBRARY, {"device": ""})
