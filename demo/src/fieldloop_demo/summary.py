"""The end of the demo: tables for people, JSON for machines, and the exit status. Does no I/O.

The run succeeded if the books balance, the last rollout completed, and accuracy rose.
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from fieldloop_contract.manifest import Manifest
from fieldloop_demo.measure import Scored, mean_accuracy
from fieldloop_demo.story import Outcome, settled


def succeeded(outcome: Outcome) -> bool:
    """Whether the run did what it set out to do."""
    return (
        outcome.balanced
        and bool(outcome.rollouts)
        and outcome.rollouts[-1].state == "completed"
        and outcome.accuracy is not None
        and outcome.accuracy.difference > 0
    )


def _of(scored: dict[str, Scored], device: str) -> float | None:
    return mean_accuracy([s for s in scored.values() if s.device == device])


def document(
    outcome: Outcome, manifests: list[Manifest], seconds: dict[str, float], versions: dict[str, int]
) -> dict[str, Any]:
    """The summary as JSON.

    Args:
        manifests: of the models, by version.
        seconds: of each stage.
        versions: active model version of each device.
    """
    accuracy = outcome.accuracy
    return {
        "succeeded": succeeded(outcome),
        "broker": outcome.broker,
        "broker_kills": outcome.broker_kills,
        "devices": [
            {
                "device": device.id,
                "model_version": versions.get(device.id),
                "windows": outcome.windows.get(device.id, 0),
                "accuracy_before": _of(outcome.before, device.id),
                "accuracy_after": _of(outcome.after, device.id),
            }
            for device in outcome.devices
        ],
        "models": [
            {
                "version": manifest.version,
                "digest": manifest.digest(),
                "float_accuracy": manifest.lineage.metrics.get("float", {}).get("accuracy"),
                "int8_accuracy": manifest.lineage.metrics.get("int8", {}).get("accuracy"),
                "bytes": manifest.files["model.tflite"].length,
                "dataset": manifest.lineage.dataset,
            }
            for manifest in manifests
        ],
        "accuracy": None
        if accuracy is None
        else {
            "before": accuracy.before,
            "after": accuracy.after,
            "difference": accuracy.difference,
            "interval_95": [accuracy.low, accuracy.high],
            "n": accuracy.n,
            "unit": "recording",
        },
        "rollout": {
            "state": outcome.rollouts[-1].state if outcome.rollouts else "none",
            "history": [{"version": r.version, **r.document} for r in outcome.rollouts],
        },
        "ledger": {
            "balanced": outcome.balanced,
            "logs": [
                {
                    "device": b.log.device,
                    "service": b.log.service,
                    "epoch": b.log.epoch,
                    "produced": report.produced,
                    "stored": report.stored,
                    "in_store": b.held.distinct,
                    "pending": report.pending,
                    "withheld": report.withheld,
                    "dropped": report.dropped,
                    "balanced": settled(b),
                    "faults": list(b.faults),
                }
                for b in outcome.books
                if (report := b.report) is not None
            ],
        },
        "wire_bytes": outcome.wire_bytes,
        "seconds": {**seconds, "total": sum(seconds.values())},
    }


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def tables(summary: dict[str, Any]) -> list[Table]:
    """The summary as tables."""
    devices = _table("Devices", "device", "model", "windows scored", "accuracy before", "after")
    for row in summary["devices"]:
        devices.add_row(
            row["device"],
            f"v{row['model_version']}",
            f"{row['windows']:,}",
            _share(row["accuracy_before"]),
            _share(row["accuracy_after"]),
        )
    accounts = ("produced", "stored", "pending", "withheld")
    title = "The books: produced = stored + pending + withheld + dropped"
    ledger = _table(title, "log", *accounts, "dropped", "ok", "KiB up")
    for row in summary["ledger"]["logs"]:
        name = f"{row['device']}/{row['service']}"
        ledger.add_row(
            name,
            *(f"{row[key]:,}" for key in accounts),
            f"{sum(row['dropped'].values()):,}",
            "yes" if row["balanced"] else "[red]no[/red]",
            f"{summary['wire_bytes'].get(name, 0) / 1024:,.0f}",
        )
    stages = _table("Seconds", "stage", "s")
    for stage, seconds in summary["seconds"].items():
        stages.add_row(stage.replace("_", " "), f"{seconds:.1f}")
    return [devices, ledger, stages]
