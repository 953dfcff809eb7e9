"""The books of every log, as a table for people or JSON for programs."""

from __future__ import annotations

import json
from typing import Any, TextIO

from fieldloop_store.engine import Store
from fieldloop_store.ledger import Books, books


def document_of(entry: Books) -> dict[str, Any]:
    """One log's books as a JSON object."""
    report, held, log = entry.report, entry.held, entry.log
    return {
        "fleet": log.fleet,
        "device": log.device,
        "service": log.service,
        "epoch": log.epoch,
        "balanced": entry.balanced,
        "faults": list(entry.faults),
        "notes": list(entry.notes),
        "reported": None
        if report is None
        else {
            "produced": report.produced,
            "stored": report.stored,
            "pending": report.pending,
            "withheld": report.withheld,
            "dropped": report.dropped,
        },
        "held": {
            "rows": held.rows,
            "refused": held.refused,
            "overflowed": held.overflowed,
            "conflicts": held.conflicts,
            "distinct": held.distinct,
            "seq_first": held.seq_first,
            "seq_last": held.seq_last,
        },
    }


def print_books(
    url: str, *, fleet: str | None, device: str | None, as_json: bool, out: TextIO
) -> bool:
    """Print the books of the store at `url`; returns whether all of them balance.

    Raises:
        FixConfiguration, RetryLater: the store cannot be read.
    """
    store = Store.open(url, create=False)
    try:
        entries = list(books(store, fleet=fleet, device=device))
    finally:
        store.close()
    balanced = all(entry.balanced for entry in entries)
    if as_json:
        logs = [document_of(entry) for entry in entries]
        json.dump({"balanced": balanced, "logs": logs}, out, indent=2)
        out.write("\n")
        return balanced
    names = ("produced", "stored", "pending", "withheld", "dropped", "in store", "refused")
    out.write(f"{'log':<44}" + "".join(f"{name:>10}" for name in names) + "  books\n")
    for entry in entries:
        report, held, log = entry.report, entry.held, entry.log
        label = f"{log.fleet}/{log.device}/{log.service} {log.epoch[:8]}"
        figures: list[int | str] = ["-"] * 5
        if report is not None:
            dropped = sum(report.dropped.values())
            figures = [report.produced, report.stored, report.pending, report.withheld, dropped]
        cells = "".join(f"{cell:>10}" for cell in [*figures, held.distinct, held.refused])
        out.write(f"{label:<44}{cells}  {'balanced' if entry.balanced else 'NOT BALANCED'}\n")
        out.writelines(f"    {line}\n" for line in (*entry.faults, *entry.notes))
    verdict = "balance" if balanced else "do not balance"
    out.write(f"{len(entries)} logs: the books {verdict}\n")
    return balanced
