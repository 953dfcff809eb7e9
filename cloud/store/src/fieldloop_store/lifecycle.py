"""The life of an alarm, after ISA-18.2: raised, acknowledged, shelved, cleared. Pure.

    (none)          --Raised-->                     UNACKNOWLEDGED
    UNACKNOWLEDGED  --Acknowledged-->               ACKNOWLEDGED
    UNACKNOWLEDGED  --Cleared-->                    RETURNED
    ACKNOWLEDGED    --Cleared-->                    CLOSED
    RETURNED        --Acknowledged-->               CLOSED
    RETURNED        --Raised-->                     UNACKNOWLEDGED
    any open one    --Shelved-->                    SHELVED
    SHELVED         --Unshelved, or its time up-->  UNACKNOWLEDGED if it still stands, else CLOSED

These are states A to D and G of ANSI/ISA-18.2-2016, figure 2; NORMAL is an alarm that is closed, or
that never was. The device decides whether an alarm stands, with hysteresis and debounce
(`fieldloop_scoring.alarms`); people decide everything else. An alarm is one occurrence on one slot
of one device: while one is open there, the device's word goes to it, and the next raise after its
end is another. A verdict may be given at any time and given again; the last one holds.

`step(alarm, event)` returns what the alarm is now and what follows. An event that a state does not
know leaves it as it was, with the reason in words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

Verdict = Literal["fault", "false-alarm", "maintenance", "sensor"]
VERDICTS: tuple[Verdict, ...] = ("fault", "false-alarm", "maintenance", "sensor")
SHELF_S_MAX = 30 * 86_400.0
"""Longest time on the shelf: a shelf without an end is a switched-off alarm."""


class Phase(StrEnum):
    """Where an alarm is in its life."""

    UNACKNOWLEDGED = "unacknowledged"
    ACKNOWLEDGED = "acknowledged"
    RETURNED = "returned"
    SHELVED = "shelved"
    CLOSED = "closed"


OPEN = (Phase.UNACKNOWLEDGED, Phase.ACKNOWLEDGED, Phase.RETURNED, Phase.SHELVED)


@dataclass(frozen=True, slots=True)
class Alarm:
    """One occurrence.

    Attributes:
        standing: whether the device says that it stands, shelved or not.
        raises: how often it was raised in this life.
        raised_ns: first raised, UTC; `cleared_ns` when it last cleared, None while it stands.
        shelved_until_ns: end of the shelf, while it is on one.
        acknowledged_by: who last acknowledged it, or "".
    """

    phase: Phase
    standing: bool
    raises: int
    raised_ns: int
    cleared_ns: int | None = None
    shelved_until_ns: int | None = None
    acknowledged_by: str = ""
    verdict: Verdict | None = None
    verdict_by: str = ""


# What happens to an alarm. `at_ns` is UTC.


@dataclass(frozen=True, slots=True)
class Raised:
    """The device raised it."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """The device cleared it."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A person has seen it."""

    at_ns: int
    by: str


@dataclass(frozen=True, slots=True)
class Shelved:
    """A person does not want to hear of it until a time, and says why."""

    at_ns: int
    by: str
    until_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unshelved:
    """A person takes it off the shelf, or its time is up (`by` is "")."""

    at_ns: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A person says what it was."""

    at_ns: int
    by: str
    verdict: Verdict


Event = Raised | Cleared | Acknowledged | Shelved | Unshelved | Judged


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell people: `raised`, `raised again`, or `back from the shelf`."""

    what: str


@dataclass(frozen=True, slots=True)
class Label:
    """Write the verdict as a label of the alarm's span."""

    verdict: Verdict
    by: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The event means nothing in this state, for this reason."""

    reason: str


Effect = Notify | Label | Refused
Outcome = tuple[Alarm, list[Effect]]


def begin(event: Raised) -> Outcome:
    """A new alarm."""
    return Alarm(Phase.UNACKNOWLEDGED, True, 1, event.at_ns), [Notify("raised")]


def step(alarm: Alarm, event: Event) -> Outcome:
    """What an event does to an alarm.

    >>> alarm, effects = begin(Raised(10))
    >>> alarm, _ = step(alarm, Cleared(20))
    >>> alarm.phase.value
    'returned'
    >>> alarm, _ = step(alarm, Acknowledged(30, "ann"))
    >>> alarm.phase.value, alarm.cleared_ns
    ('closed', 20)
    """
    act = _TABLE.get((alarm.phase, type(event)))
    if act is None:
        name = type(event).__name__.lower()
        return alarm, [Refused(f"an alarm that is {alarm.phase.value} cannot be {name}")]
    return act(alarm, event)


def due(alarm: Alarm, now_ns: int) -> Unshelved | None:
    """The end of the shelf, where its time is up."""
    until_ns = alarm.shelved_until_ns
    if alarm.phase is Phase.SHELVED and until_ns is not None and now_ns >= until_ns:
        return Unshelved(now_ns)
    return None


def _raise_again(alarm: Alarm, _event: Event) -> Outcome:
    known = replace(alarm, standing=True, raises=alarm.raises + 1, cleared_ns=None)
    return replace(known, phase=Phase.UNACKNOWLEDGED), [Notify("raised again")]


def _clear(to: Phase) -> Callable[[Alarm, Event], Outcome]:
    def act(alarm: Alarm, event: Event) -> Outcome:
        return replace(alarm, phase=to, standing=False, cleared_ns=event.at_ns), []

    return act


def _acknowledge(to: Phase) -> Callable[[Alarm, Event], Outcome]:
    def act(alarm: Alarm, event: Event) -> Outcome:
        by = event.by if isinstance(event, Acknowledged) else ""
        return replace(alarm, phase=to, acknowledged_by=by), []

    return act


def _shelve(alarm: Alarm, event: Event) -> Outcome:
    if not isinstance(event, Shelved):
        return alarm, []
    shelf_s = (event.until_ns - event.at_ns) / 1e9
    if shelf_s <= 0:
        return alarm, [Refused("a shelf ends after it begins")]
    if shelf_s > SHELF_S_MAX:
        return alarm, [Refused(f"a shelf is at most {SHELF_S_MAX / 86_400:.0f} days long")]
    if not event.reason.strip():
        return alarm, [Refused("whoever shelves an alarm says why")]
    return replace(alarm, phase=Phase.SHELVED, shelved_until_ns=event.until_ns), []


def _unshelve(alarm: Alarm, _event: Event) -> Outcome:
    alarm = replace(alarm, shelved_until_ns=None)
    if alarm.standing:
        return replace(alarm, phase=Phase.UNACKNOWLEDGED), [Notify("back from the shelf")]
    return replace(alarm, phase=Phase.CLOSED), []


def _on_the_shelf(alarm: Alarm, event: Event) -> Outcome:
    """The device's word changes what stands, and tells nobody."""
    if isinstance(event, Raised):
        again = alarm.raises + (not alarm.standing)
        return replace(alarm, standing=True, raises=again, cleared_ns=None), []
    return replace(alarm, standing=False, cleared_ns=event.at_ns), []


def _judge(alarm: Alarm, event: Event) -> Outcome:
    if not isinstance(event, Judged):
        return alarm, []
    judged = replace(alarm, verdict=event.verdict, verdict_by=event.by)
    return judged, [Label(event.verdict, event.by)]


def _same(alarm: Alarm, _event: Event) -> Outcome:
    """Said before: a device may say it twice."""
    return alarm, []


_P = Phase
_TABLE: dict[tuple[Phase, type[Event]], Callable[[Alarm, Event], Outcome]] = {
    (_P.UNACKNOWLEDGED, Raised): _same,
    (_P.UNACKNOWLEDGED, Cleared): _clear(_P.RETURNED),
    (_P.UNACKNOWLEDGED, Acknowledged): _acknowledge(_P.ACKNOWLEDGED),
    (_P.UNACKNOWLEDGED, Shelved): _shelve,
    (_P.ACKNOWLEDGED, Raised): _same,
    (_P.ACKNOWLEDGED, Cleared): _clear(_P.CLOSED),
    (_P.ACKNOWLEDGED, Acknowledged): _same,
    (_P.ACKNOWLEDGED, Shelved): _shelve,
    (_P.RETURNED, Raised): _raise_again,
    (_P.RETURNED, Cleared): _same,
    (_P.RETURNED, Acknowledged): _acknowledge(_P.CLOSED),
    (_P.RETURNED, Shelved): _shelve,
    (_P.SHELVED, Raised): _on_the_shelf,
    (_P.SHELVED, Cleared): _on_the_shelf,
    (_P.SHELVED, Shelved): _shelve,
    (_P.SHELVED, Unshelved): _unshelve,
    (_P.CLOSED, Cleared): _same,
    **{(phase, Judged): _judge for phase in Phase},
}
