"""Live figures: a table that is redrawn on a terminal, one line in ten seconds elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

_LINE_S = 10.0


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "-"


def rows(figures: dict[str, Any], devices: int) -> list[tuple[str, str]]:
    """What is shown, as pairs of words."""
    return [
        ("elapsed", f"{figures['at_s']:.0f} s"),
        ("devices on / all, boots", f"{figures['on']:,} / {devices:,}, {figures['boots']:,}"),
        ("connections", f"{figures['connections']:,}"),
        ("frames, labels, windows",
         f"{figures['frames']:,}, {figures['labels']:,}, {figures['windows']:,}"),
        ("rows produced", f"{figures['produced']:,}"),
        ("rows stored", f"{figures['stored']:,} ({figures['stored_per_s']:,.0f}/s)"),
        ("rows pending", f"{figures['pending']:,}"),
        ("rows dropped", _counts(figures["dropped"])),
        ("until acknowledged",
         f"p50 {figures['ack_p50_s']:.2f} s, p95 {figures['ack_p95_s']:.2f} s"),
        ("slots", _counts(figures["phases"])),
        ("active versions", _counts(figures["active"])),
        ("simulator", f"{figures['cores']:.2f} cores, {figures['rss'] / 2**20:,.0f} MiB, "
         f"latest turn {figures['late_s']:.2f} s behind"),
    ]  # fmt: skip


def table(figures: dict[str, Any], devices: int, title: str) -> Table:
    """The table."""
    made = Table(title=title, show_header=False)
    for name, value in rows(figures, devices):
        made.add_row(name, value)
    return made


class Screen:
    """Shows figures as they come; a context manager."""

    def __init__(self, devices: int, title: str) -> None:
        self._devices = devices
        self._title = title
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._told_s = -_LINE_S

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def show(self, figures: dict[str, Any]) -> None:
        """Figures of the whole fleet, about once a second."""
        if self._console.is_terminal:
            self._live.update(table(figures, self._devices, self._title), refresh=True)
        elif figures["at_s"] - self._told_s >= _LINE_S:
            self._told_s = figures["at_s"]
            sys.stderr.write(
                f"{figures['at_s']:6.0f} s  on {figures['on']}  stored {figures['stored']}  "
                f"pending {figures['pending']}  p95 {figures['ack_p95_s']:.2f} s  "
                f"cores {figures['cores']:.2f}\n"
            )
            sys.stderr.flush()
