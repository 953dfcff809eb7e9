"""`make pumps SEEDS=10`: the second scenario with several seeds, and what is to be shown of it.

    python -m fieldloop_demo.pumps --seeds 10 --summary pumps.json

Each seed is another plant: other pumps, other stories, other faults. The exit status is 0 only if
each seed shows everything.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fieldloop_demo.pumps import report
from fieldloop_demo.pumps.scenario import Scenario, Tell
from fieldloop_runtime import journal


def play(seed: int, folder: Path, tell: Tell) -> dict[str, Any]:
    """One seed; its summary. FieldloopError where the training process fails."""
    begun_s = time.monotonic()
    scenario = Scenario(folder, seed, tell)
    try:
        outcome = scenario.play()
    finally:
        scenario.close()
    return report.document(outcome, seed, time.monotonic() - begun_s)


def together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures over all seeds."""
    faults = [f["faults"] for f in found]
    weeks = sum(p["weeks"] for f in found for p in f["pumps"])
    return {
        "seeds": [f["seed"] for f in found],
        "faults": {
            "injected": sum(f["injected"] for f in faults),
            "detected": sum(f["detected"] for f in faults),
            "days_from_onset_to_alarm": [d for f in faults for d in f["days_from_onset_to_alarm"]],
        },
        "false_alarms_per_machine_week": round(
            sum(f["false_alarms"] for f in found) / max(weeks, 1e-9), 4
        ),
        "worst_machine_per_week": max(f["worst_machine_per_week"] for f in found),
        "load_named": sum(f["named"].get("load") == "load" for f in found),
        "sensor_named": sum(f["named"].get("sensor") == "sensor" for f in found),
        "no_later_model_detects_later": sum(_in_step(f, 0.0) for f in found),
        "no_later_model_detects_later_by_more_than_the_rule_looks_at": sum(
            _in_step(f, report.SAME_DAYS) for f in found
        ),
        "most_later_days": [f["most_later_days"] for f in found],
        "balanced": sum(f["ledger"]["balanced"] for f in found),
        "succeeded": sum(f["succeeded"] for f in found),
    }


def _in_step(found: dict[str, Any], days: float) -> bool:
    later = found["most_later_days"]
    return later is not None and later <= days


def table(found: list[dict[str, Any]]) -> Table:
    """A line for each seed."""
    made = Table(title="Pumps, by seed", title_justify="left")
    for column in ("seed", "fault after days", "false a week", "worst pump", "load", "sensor",
                   "models' days", "books", "s"):  # fmt: skip
        made.add_column(column)
    for f in found:
        days = [m["detection_day"] for m in f["models"]]
        made.add_row(
            str(f["seed"]),
            ", ".join("-" if d is None else f"{d:.1f}" for d in
                      f["faults"]["days_from_onset_to_alarm"]),
            f"{f['false_alarms_per_machine_week']:.3f}", f"{f['worst_machine_per_week']:.2f}",
            str(f["named"].get("load")), str(f["named"].get("sensor")),
            " ".join("-" if d is None else f"{d:.1f}" for d in days),
            "balanced" if f["ledger"]["balanced"] else "NO", f"{f['seconds']:.0f}",
        )  # fmt: skip
    return made


def seeds(
    count: Annotated[int, typer.Option("--seeds", min=1, max=1_000)] = 10,
    first: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    summary: Annotated[
        Path | None, typer.Option(help="Write all summaries as JSON to this file.")
    ] = None,
) -> None:
    """Play the pumps with several seeds, one after the other."""
    journal.configure("ERROR", sys.stderr)
    console = Console(highlight=False)
    found = []
    for seed in range(first, first + count):
        folder = Path(tempfile.mkdtemp(prefix="fieldloop-pumps-"))
        try:
            found.append(play(seed, folder, lambda _day, _what: None))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        console.print(table(found[-1:]))
        if summary is not None:
            content = {"together": together(found), "seeds": found}
            summary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    console.print(table(found))
    console.print_json(data=together(found))
    raise typer.Exit(0 if all(f["succeeded"] for f in found) else 1)


if __name__ == "__main__":
    typer.run(seeds)
