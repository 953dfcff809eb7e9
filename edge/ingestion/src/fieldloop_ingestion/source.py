"""What a source is, and what it is given.

A source is named by an entry point of the group `fieldloop.sources`: a class with an `Options`
model and the constructor below. The service's loop calls `poll`, which never blocks; a source that
has to wait for a device does so in a thread of its own and hands over through a bounded queue.
Whatever `poll` raises, other than OutOfSpace, closes the source and makes a new one after a
back-off, while the others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import Frame
from fieldloop_contract.profile import SourceProfile, StreamProfile
from fieldloop_ingestion.resample import make_resampler
from fieldloop_runtime.clock import Now
from fieldloop_runtime.journal import Journal

GROUP = "fieldloop.sources"


class Sink(Protocol):
    """Where a source puts what it has; committed by the loop, in the order in which it came.

    A call that raises OutOfSpace took nothing: the source keeps its position and comes again.
    """

    @property
    def epoch(self) -> str:
        """The log's current epoch."""
        ...

    def frame(self, frame: Frame) -> int | None:
        """Put a frame into the log; its seq, or None where it was refused and dead-lettered."""
        ...

    def event(self, type_: str, data: dict[str, Any], t_ns: int) -> int:
        """Put an event into the log."""
        ...

    def refuse(self, code: str, reason: str, excerpt: bytes = b"") -> None:
        """Dead-letter something that never became a frame."""
        ...

    def remember(self, name: str, value: str) -> None:
        """Set a value of this source's state, in the transaction of what was put before it."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a source is made from, besides its options.

    Attributes:
        recall: gives a value of its state by name, or None.
    """

    id: str
    stream: StreamProfile
    clock: Callable[[], Now]
    recall: Callable[[str], str | None]
    journal: Journal


class Source(Protocol):
    """A plug-in."""

    Options: ClassVar[type[BaseModel]]

    def __init__(self, options: Any, context: Context) -> None: ...

    def poll(self, sink: Sink, now_s: float) -> float:
        """Put what is due into the sink, a bounded amount; never wait.

        Args:
            now_s: monotonic time in s.

        Returns:
            Seconds after which there may be more; 0 to be called again at once.
        """
        ...

    def close(self) -> None:
        """Let go of files and devices."""
        ...


def find_source(kind: str) -> type[Source]:
    """The source class of a kind.

    Raises:
        FixConfiguration: no installed package offers it, or it cannot be imported.
    """
    offered = entry_points(group=GROUP)
    names = sorted({point.name for point in offered})
    for point in offered:
        if point.name == kind:
            try:
                found: type[Source] = point.load()
            except ImportError as error:
                raise FixConfiguration(f"source {kind} cannot be imported: {error}") from error
            return found
    raise FixConfiguration(f"no source is called {kind}", hint=f"installed: {', '.join(names)}")


def fit(source: SourceProfile, stream: StreamProfile | None) -> None:
    """Check a source's options, by themselves and against the stream it fills.

    A kind may have a class method `check(options, stream)` for the latter.

    Raises:
        ValidationError: pydantic's, for the options.
        FixConfiguration: the kind is not installed, or its options do not fit the stream.
    """
    kind = find_source(source.kind)
    options = kind.Options.model_validate(source.options)
    if stream is None:
        return
    fits = getattr(kind, "check", None)
    if fits is not None:
        fits(options, source.given(stream))
    if source.resample is not None:
        make_resampler(source.resample, stream)
