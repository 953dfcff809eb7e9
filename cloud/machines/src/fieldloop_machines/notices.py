"""Which notices go out: grouped by site, limited in rate, and one for all where all ring. Pure.

An alarm waits a moment for others of its site, and they go out as one notice. `BUCKET` ordinary
notices may go out at once and one more each `REFILL_S`; what comes meanwhile waits and goes with
the next. More than `FLOOD_ALARMS` alarms within `FLOOD_S` are a flood (ISA-18.2 calls more than ten
in ten minutes so): one notice says how many, and what they have in common that the rest of the
fleet has not. While a flood lasts there is at most one more notice each `FLOOD_S`.

`step` takes the state, what happened and the time, and returns the state and the notices. Bounded:
beyond `WAITING_MAX` alarms in waiting, and `LISTED_MAX` named in one notice, they are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

GATHER_S = 15.0
BUCKET = 2
REFILL_S = 300.0
FLOOD_ALARMS = 10
FLOOD_S = 600.0
WAITING_MAX = 1_000
LISTED_MAX = 50
COMMON_SHARE = 0.9
"""Share of a flood's alarms that a thing has to be in, to be named as what they have in common."""
TRAITS = ("model", "release", "site", "broker")
NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Ringing:
    """An alarm that people are to hear of.

    Attributes:
        traits: what it may have in common with others, by name of `TRAITS`.
        what: `raised`, `raised again` or `back from the shelf`.
    """

    at_ns: int
    alarm: str
    machine: str
    site: str
    what: str
    words: str
    traits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to people.

    Attributes:
        site: where, or "" for all.
        flood: whether it stands for a flood.
        alarms: the first `LISTED_MAX` of `count`.
        common: trait, value, share among these alarms, share in the fleet (None: not known).
    """

    at_ns: int
    site: str
    flood: bool
    count: int
    alarms: tuple[Ringing, ...]
    common: tuple[tuple[str, str, float, float | None], ...] = ()

    @property
    def subject(self) -> str:
        """One line."""
        if self.flood:
            said = [
                f"{trait} {value}" for trait, value, _, share in self.common if not _usual(share)
            ]
            cause = f", all with {', '.join(said)}" if said else ""
            return f"{self.count} alarms within {FLOOD_S / 60:.0f} minutes{cause}"
        where = f" at {self.site}" if self.site else ""
        if self.count == 1:
            return f"alarm {self.alarms[0].what} on {self.alarms[0].machine}{where}"
        return f"{self.count} alarms{where}"

    @property
    def body(self) -> str:
        """The whole text."""
        lines = [self.subject, ""]
        for trait, value, share, fleet in self.common:
            beside = "" if fleet is None else f" (and {fleet:.0%} of all machines)"
            lines.append(f"{share:.0%} have {trait} {value}{beside}")
        lines += [""] if self.common else []
        lines += [f"{a.machine}: {a.words} [{a.alarm}]" for a in self.alarms]
        if self.count > len(self.alarms):
            lines.append(f"and {self.count - len(self.alarms)} more")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """As JSON, for webhooks, MQTT and the record."""
        return {
            "at_ns": self.at_ns,
            "subject": self.subject,
            "site": self.site,
            "flood": self.flood,
            "count": self.count,
            "alarms": [{**asdict(a), "traits": dict(a.traits)} for a in self.alarms],
            "common": [
                {"trait": trait, "value": value, "share": share, "fleet_share": fleet}
                for trait, value, share, fleet in self.common
            ],
        }


@dataclass(frozen=True, slots=True)
class Desk:
    """The state: who waits, what rang lately, how many notices may go out at once.

    Attributes:
        waiting: alarms that no notice named yet, oldest first.
        crowd: how many more wait than `WAITING_MAX`.
        recent_ns: times of the alarms of the last `FLOOD_S`, oldest first, as many as tell a flood.
        tokens: ordinary notices that may go out now; `filled_ns` when that was counted.
        flood_ns: the last notice of a flood; None outside of one.
    """

    waiting: tuple[Ringing, ...] = ()
    crowd: int = 0
    recent_ns: tuple[int, ...] = ()
    tokens: float = float(BUCKET)
    filled_ns: int | None = None
    flood_ns: int | None = None


def step(
    desk: Desk,
    ringing: Sequence[Ringing],
    now_ns: int,
    fleet: Mapping[tuple[str, str], float] | None = None,
) -> tuple[Desk, list[Notice]]:
    """Take what rang, and say what goes out now.

    Args:
        fleet: share of all machines that have a trait's value, by (trait, value), where known.
    """
    desk = _take(desk, ringing, now_ns)
    if desk.flood_ns is not None or len(desk.recent_ns) > FLOOD_ALARMS:
        return _flood(desk, now_ns, fleet or {})
    return _ordinary(desk, now_ns)


def _take(desk: Desk, ringing: Sequence[Ringing], now_ns: int) -> Desk:
    waiting = (*desk.waiting, *ringing)
    recent = sorted((*desk.recent_ns, *(r.at_ns for r in ringing)))[-(FLOOD_ALARMS + 1) :]
    since_ns = now_ns - int(FLOOD_S * NS)
    earned = 0.0 if desk.filled_ns is None else (now_ns - desk.filled_ns) / NS / REFILL_S
    return replace(
        desk,
        waiting=waiting[:WAITING_MAX],
        crowd=desk.crowd + max(0, len(waiting) - WAITING_MAX),
        recent_ns=tuple(t for t in recent if t > since_ns),
        tokens=min(float(BUCKET), desk.tokens + max(0.0, earned)),
        filled_ns=now_ns,
    )


def _ordinary(desk: Desk, now_ns: int) -> tuple[Desk, list[Notice]]:
    notices: list[Notice] = []
    for site in dict.fromkeys(r.site for r in desk.waiting):
        own = [r for r in desk.waiting if r.site == site]
        if now_ns - own[0].at_ns < GATHER_S * NS or desk.tokens < 1:
            continue
        notices.append(Notice(now_ns, site, False, len(own), tuple(own[:LISTED_MAX])))
        rest = tuple(r for r in desk.waiting if r.site != site)
        desk = replace(desk, waiting=rest, tokens=desk.tokens - 1)
    return desk, notices


def _flood(
    desk: Desk, now_ns: int, fleet: Mapping[tuple[str, str], float]
) -> tuple[Desk, list[Notice]]:
    begins = desk.flood_ns is None
    if not begins and now_ns - (desk.flood_ns or 0) < FLOOD_S * NS:
        return desk, []
    if begins and now_ns - desk.recent_ns[-1] < GATHER_S * NS:
        return desk, []  # still growing: a moment later one notice names more of them
    if not desk.waiting:
        return replace(desk, flood_ns=None), []
    count = len(desk.waiting) + desk.crowd
    sites = {r.site for r in desk.waiting}
    notice = Notice(
        now_ns,
        next(iter(sites)) if len(sites) == 1 else "",
        True,
        count,
        desk.waiting[:LISTED_MAX],
        common(desk.waiting, fleet),
    )
    return replace(desk, waiting=(), crowd=0, flood_ns=now_ns), [notice]


def common(
    ringing: Sequence[Ringing], fleet: Mapping[tuple[str, str], float]
) -> tuple[tuple[str, str, float, float | None], ...]:
    """What at least `COMMON_SHARE` of the alarms share, what is rarest in the fleet first."""
    found: list[tuple[str, str, float, float | None]] = []
    for trait in TRAITS:
        values = Counter(r.traits[trait] for r in ringing if r.traits.get(trait))
        for value, count in values.most_common(1):
            if count / len(ringing) >= COMMON_SHARE:
                found.append((trait, value, count / len(ringing), fleet.get((trait, value))))
    return tuple(sorted(found, key=lambda c: (c[3] is None, c[3] or 0.0)))


def _usual(share: float | None) -> bool:
    """Whether nearly every machine has it, so that it explains nothing."""
    return share is not None and share >= COMMON_SHARE
