"""What can happen to a slot, and what a slot wants done: the vocabulary of `slots.step`. Values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fieldloop_contract.messages import ModelRef

# Events.


@dataclass(frozen=True, slots=True)
class Order:
    """A signed order: what the slot shall run (None: nothing), what is lifted and recalled."""

    model: ModelRef | None
    lift: tuple[str, ...] = ()
    recalled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bundle is complete and verified on disk."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class FetchRefused:
    """The bundle cannot be had: not named by signed metadata, damaged, no room."""

    ref: ModelRef
    reason: str


@dataclass(frozen=True, slots=True)
class TrialBegun:
    """The trial's child process is about to be started."""


@dataclass(frozen=True, slots=True)
class TrialPassed:
    """The trial passed. `shadow_windows` is 0 where a shadow run makes no sense."""

    shadow_windows: int
    probation_windows: int


@dataclass(frozen=True, slots=True)
class Unfit:
    """The candidate cannot run here (stream, runtime); not by its own fault, so no blacklist."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """The candidate failed: trial, error, output that is not finite or constant, latency."""

    reason: str


@dataclass(frozen=True, slots=True)
class ShadowScored:
    """Both models scored a window."""

    agreed: bool


@dataclass(frozen=True, slots=True)
class ServedWell:
    """The model on probation scored windows without fault."""

    windows: int = 1


@dataclass(frozen=True, slots=True)
class Unloadable:
    """The active model cannot be loaded from disk."""

    reason: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The process begins with this state, read from disk.

    Attributes:
        rebooted: the machine has begun anew since, as after a power cut.
    """

    rebooted: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """The process ends cleanly: the candidate is not to blame."""


Event = (
    Order
    | Fetched
    | FetchRefused
    | TrialBegun
    | TrialPassed
    | Unfit
    | Fault
    | ShadowScored
    | ServedWell
    | Unloadable
    | Restarted
    | Stopped
)
EVENTS: Final[tuple[type[Any], ...]] = (
    Order,
    Fetched,
    FetchRefused,
    TrialBegun,
    TrialPassed,
    Unfit,
    Fault,
    ShadowScored,
    ServedWell,
    Unloadable,
    Restarted,
    Stopped,
)


# Effects.


@dataclass(frozen=True, slots=True)
class Fetch:
    """Download this bundle."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop whatever is being done for this candidate: download, trial or shadow."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Try:
    """Begin the trial of this candidate; the event `TrialBegun` comes first."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Shadow:
    """Load this candidate beside the active model."""

    ref: ModelRef


@dataclass(frozen=True, slots=True)
class Serve:
    """Score the next window with this model (None: with none)."""

    ref: ModelRef | None


@dataclass(frozen=True, slots=True)
class Report:
    """Write an event to the log."""

    type: str
    ref: ModelRef | None
    reason: str = ""


Effect = Fetch | Cancel | Try | Shadow | Serve | Report
