"""What all slots of the service share, and what they ask of the source of models. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fieldloop_buffer import Log, Reader
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.feed import Policy
from fieldloop_inference.local import Outlet
from fieldloop_inference.selection import SampleSettings
from fieldloop_inference.trials import Trial
from fieldloop_runtime.journal import Journal
from fieldloop_scoring.runners import Runner
from fieldloop_update import Bundle


class Source(Protocol):
    """What a slot asks of `fieldloop_update.ModelSource`."""

    def fetch(self, ref: ModelRef) -> None:
        """Begin a download."""

    def cancel(self, ref: ModelRef) -> None:
        """Stop a download."""

    def bundle(self, ref: ModelRef) -> Bundle | None:
        """The bundle if it is complete on disk."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What all slots of the service share.

    Attributes:
        emit: writes an event: type, stream, data.
        now_ns: UTC in ns as the device believes.
        samples: what is sent raw of the windows.
        outlet: the device's local broker, or None without one.
        begin_trial: starts a trial; what it returns has `poll` and `stop`.
        load: makes the runner of a bundle; the installed TFLite runtime by default.
    """

    fleet: str
    device: str
    source: Source
    log: Log
    reader: Reader
    emit: Callable[[str, str, dict[str, Any]], None]
    now_ns: Callable[[], int]
    journal: Journal
    runtime: str
    threads: int
    backlog: Policy
    skip_rows_max: int
    shadow_windows: int
    shadow_cpu_percent: float
    samples: SampleSettings
    delegate: str = ""
    outlet: Outlet | None = None
    begin_trial: Callable[..., Any] = Trial
    load: Callable[..., Runner] | None = None
