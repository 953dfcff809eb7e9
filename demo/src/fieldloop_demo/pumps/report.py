"""What the pumps came to: figures as JSON, tables for people, and whether it is good enough. Pure.

A false alarm is one that nothing was behind: on a pump that nothing had befallen, or after a change
of load or a lost sensor, one that was not called what it was.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table

from fieldloop_demo.pumps.plant import ARMED_DAY, DAY_S, DAYS, EVERY_S, SENSOR_AWAY_DAYS, Pump
from fieldloop_demo.pumps.scenario import Outcome, Raised

WEEK_DAYS = 7.0
FALSE_PER_WEEK_MAX = 1.0
SAME_DAYS = 5 * EVERY_S / DAY_S
"""Two versions find a fault at the same time if no more windows lie between than the alarm rule
looks at."""


def is_false(one: Raised) -> bool:
    """Whether nothing was behind an alarm, or it was called something else."""
    pump, hit = one.pump, one.pump.befallen(one.day)
    if pump.story == "fault" and hit:
        return False
    if pump.story == "load" and hit:
        return one.looks != "load"
    return not (pump.story == "sensor" and pump.sensor_lost(one.day) and one.looks == "sensor")


def watched_weeks(pump: Pump, armed_day: float | None) -> float:
    """Weeks in which a false alarm was possible: armed, and not after the onset of the fault."""
    if armed_day is None:
        return 0.0
    end = pump.at_day if pump.story == "fault" else DAYS
    return max(0.0, end - armed_day) / WEEK_DAYS


def document(outcome: Outcome, seed: int, seconds: float) -> dict[str, Any]:
    """The summary."""
    faults = [p for p in outcome.pumps if p.story == "fault"]
    first = {
        p.name: min((r.day for r in outcome.raised if r.pump is p and r.day >= p.at_day),
                    default=None)
        for p in outcome.pumps if p.story != "healthy"
    }  # fmt: skip
    false = [r for r in outcome.raised if is_false(r)]
    weeks = {p.name: watched_weeks(p, outcome.armed_days.get(p.name)) for p in outcome.pumps}
    per_pump = {
        name: sum(r.pump.name == name for r in false) / w for name, w in weeks.items() if w > 1
    }
    named = {p.story: _named(outcome, p) for p in outcome.pumps if p.story in ("load", "sensor")}
    later = most_later([d.day for d in outcome.detections])
    found: dict[str, Any] = {
        "seed": seed,
        "days": {"commissioned": ARMED_DAY, "all": DAYS},
        "pumps": [
            {"pump": p.name, "story": p.story, "shaft_hz": round(p.machine.shaft_hz, 1),
             "armed_day": outcome.armed_days.get(p.name), "weeks": round(weeks[p.name], 2),
             "at_day": p.at_day if p.story != "healthy" else None}
            for p in outcome.pumps
        ],
        "faults": {
            "injected": len(faults),
            "detected": sum(first[p.name] is not None for p in faults),
            "days_from_onset_to_alarm": [
                None if (d := first[p.name]) is None else round(d - p.at_day, 2) for p in faults
            ],
        },
        "alarms": [
            {"pump": r.pump.name, "day": round(r.day, 2), "looks": r.looks, "version": r.version,
             "false": is_false(r)}
            for r in outcome.raised
        ],
        "named": named,
        "stale": [
            {"pump": c.pump.name, "day": round(c.day, 2), "kind": c.kind,
             "false": not c.pump.befallen(c.day)}
            for c in outcome.changes
        ],
        "false_alarms": len(false),
        "false_alarms_per_machine_week": round(len(false) / max(sum(weeks.values()), 1e-9), 4),
        "worst_machine_per_week": round(max(per_pump.values(), default=0.0), 4),
        "models": [
            {"version": d.version, "published_day": outcome.published[d.version],
             "detection_day": None if d.day is None else round(d.day, 2),
             "false_before_onset": d.false_before, "threshold": round(d.threshold, 4)}
            for d in outcome.detections
        ],
        "runs": [{"day": day, "state": state} for day, state in outcome.runs],
        "most_later_days": None if later is None else round(later, 3),
        "verdicts": [{"day": d, "pump": n, "verdict": v} for d, n, v in outcome.verdicts],
        "windows": outcome.windows,
        "ledger": {
            "balanced": bool(outcome.books) and all(b.balanced for b in outcome.books),
            "logs": len(outcome.books),
        },
        "seconds": round(seconds, 1),
    }  # fmt: skip
    found["succeeded"] = succeeded(found)
    return found


def _named(outcome: Outcome, pump: Pump) -> str | None:
    """What the service called the change first, with an alarm or without; None for nothing."""
    until = pump.at_day + (SENSOR_AWAY_DAYS if pump.story == "sensor" else DAYS)
    said = [(r.day, r.looks) for r in outcome.raised if r.pump is pump]
    said += [(c.day, c.kind) for c in outcome.changes if c.pump is pump]
    after = [(day, kind) for day, kind in said if pump.at_day <= day < until]
    return min(after)[1] if after else None


def most_later(days: list[float | None]) -> float | None:
    """Days by which the slowest later version is behind the first; None where one finds nothing."""
    found = [d for d in days if d is not None]
    if not days or len(found) < len(days):
        return None
    return max([d - found[0] for d in found[1:]], default=0.0)


def succeeded(found: dict[str, Any]) -> bool:
    """Whether all that is to be shown was shown."""
    return bool(
        found["faults"]["injected"] == found["faults"]["detected"]
        and found["worst_machine_per_week"] <= FALSE_PER_WEEK_MAX
        and found["named"] == {"load": "load", "sensor": "sensor"}
        and found["most_later_days"] is not None
        and found["most_later_days"] <= SAME_DAYS
        and found["ledger"]["balanced"]
    )


def tables(found: dict[str, Any]) -> list[Table]:
    """The summary as tables."""
    alarms = Table(title="Alarms", title_justify="left")
    for column in ("day", "pump", "looks like", "model", "false"):
        alarms.add_column(column)
    for row in found["alarms"]:
        alarms.add_row(
            f"{row['day']:.1f}", row["pump"], row["looks"], f"v{row['version']}",
            "yes" if row["false"] else "",
        )  # fmt: skip
    models = Table(title="Published models", title_justify="left")
    for column in ("version", "published on day", "days from onset to alarm"):
        models.add_column(column)
    for row in found["models"]:
        day = row["detection_day"]
        models.add_row(
            f"v{row['version']}", f"{row['published_day']:.1f}",
            "never" if day is None else f"{day:.1f}",
        )  # fmt: skip
    return [alarms, models]
