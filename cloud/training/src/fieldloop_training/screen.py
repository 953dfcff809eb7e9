"""What the commands show to a person, on a console that is given; follows runs in the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from fieldloop_contract.errors import RetryLater
from fieldloop_store import runs
from fieldloop_store.engine import Store
from fieldloop_store.questions import Question
from fieldloop_store.runs import Compared, RunRow

POLL_S = 0.3
_COLOURS = {
    "approved": "green", "passed": "green", "rejected": "red", "failed": "red", "refused": "red",
    "insufficient evidence": "yellow", "running": "cyan", "recalled": "magenta",
}  # fmt: skip


def _coloured(word: str) -> str:
    colour = _COLOURS.get(word)
    return f"[{colour}]{word}[/{colour}]" if colour else word


class Live:
    """A line that follows a run while something else goes on; ends with the block."""

    def __init__(self, console: Console) -> None:
        self._status = Status("waiting", console=console)
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Live:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._end.set()
        if self._thread is not None:
            self._thread.join(5)
        self._status.stop()

    def follow(self, store: Store, run: str) -> None:
        """Follow this run from a thread of its own."""
        self._thread = threading.Thread(target=self._read, args=(store, run), daemon=True)
        self._thread.start()

    def _read(self, store: Store, run: str) -> None:
        while not self._end.wait(POLL_S):
            try:
                row = runs.find_run(store, run)
            except RetryLater:
                continue
            if row is not None:
                self._status.update(escape(progress_words(row)))


def progress_words(row: RunRow) -> str:
    """How far a run is, in a few words."""
    progress = row.progress or {}
    words = [row.state, str(progress.get("stage", ""))]
    if "epoch" in progress and row.state == "running":
        words.append(f"epoch {progress['epoch']} of {progress.get('epochs', '?')}")
        words += [
            f"{name} {progress[name]:.4g}"
            for name in ("loss", "accuracy", "validation_loss")
            if isinstance(progress.get(name), float)
        ]
    return ", ".join(w for w in words if w)


def verdict(console: Console, row: RunRow) -> None:
    """How a run ended: the verdict, each gate, the figures."""
    said = row.verdict or {}
    console.print(f"[bold]{_coloured(row.state)}[/bold]  {escape(str(said.get('words', '')))}")
    gates = said.get("gates") or []
    if gates:
        table = Table("gate", "outcome", "why", box=None)
        for gate in gates:
            table.add_row(gate["name"], _coloured(gate["outcome"]), escape(gate["words"]))
        console.print(table)
    metrics = said.get("metrics") or {}
    names = sorted({name for figures in metrics.values() for name in figures})
    if names:
        table = Table("candidate", *(n.replace("_", " ") for n in names), box=None)
        for candidate, figures in metrics.items():
            table.add_row(candidate, *(_number(figures.get(n)) for n in names))
        console.print(table)


def status(console: Console, shown: dict[str, Any]) -> None:
    """Runs, versions and open questions."""
    table = Table("run", "model", "state", "stage", "why, and what came of it", title="runs")
    for r in shown["runs"]:
        words = r["words"] or (r["trigger"] or {}).get("reason") or ""
        stage = (r["progress"] or {}).get("stage", "")
        table.add_row(r["id"][:12], r["model"], _coloured(r["state"]), stage, escape(str(words)))
    console.print(table)
    table = Table("version", "state", "dataset", "bytes", title="models")
    for m in shown["models"]:
        name = f"{m['name']} {m['version']}"
        table.add_row(name, _coloured(m["state"]), (m["dataset"] or "")[:12], f"{m['bytes'] or ''}")
    console.print(table)
    for q in shown["questions"]:
        console.print(f"[yellow]?[/yellow] {q['id'][:12]} {escape(q['words'])}")


def questions(console: Console, found: Sequence[Question]) -> None:
    """Each open question with its evidence."""
    for q in found:
        age_h = (time.time_ns() - q.created_ns) / 3.6e12
        console.print(f"[bold]{q.id[:12]}[/bold] {q.model}, {age_h:.1f} h ago, looks like "
                      f"{escape(str(q.evidence.get('nature')))}")  # fmt: skip
        console.print(f"  {escape(str(q.evidence.get('words')))}")
        for f in q.evidence.get("findings", []):
            told = f"{f['device']} {f['channel']}: index {f['psi']}, p {f['p']:.2g}"
            console.print(f"  [dim]{escape(told)}[/dim]")
    if not found:
        console.print("nothing is asked")


def compared(console: Console, seen: Compared) -> None:
    """What differs between runs, and their figures."""
    table = Table("", *(f"{r.id[:12]} {_coloured(r.state)}" for r in seen.runs))
    for name, values in seen.differing.items():
        table.add_row(name, *(escape(str(v)) for v in values))
    table.add_section()
    for name, figures in seen.metrics.items():
        table.add_row(name, *(_number(v) for v in figures))
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
