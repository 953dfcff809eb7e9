"""Showing answers: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Cell = Callable[[Any], Any] | str
_WIDE = 200


def show_json(document: Any) -> None:
    """Write JSON to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def screen() -> Console:
    """Where people read; a file or a pipe gets no escape codes and wide lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def say(text: str) -> None:
    """A line for a person."""
    screen().print(escape(text), soft_wrap=True)


def show_table(rows: Iterable[Any], columns: Mapping[str, Cell], *, nothing: str) -> None:
    """A table; `columns` are titles with a key or a function of the row."""
    found = list(rows)
    if not found:
        say(nothing)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in found:
        table.add_row(*(escape(_text(_cell(row, cell))) for cell in columns.values()))
    screen().print(table)


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values below each other."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(escape(name), escape(_text(value)))
    screen().print(table)


def moment(t_ns: int | None) -> str:
    """A time in UTC; a dash for none."""
    if not t_ns:
        return "–"
    return datetime.fromtimestamp(t_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _cell(row: Any, cell: Cell) -> Any:
    return row.get(cell) if isinstance(cell, str) else cell(row)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1 else f"{value:,.1f}"
    # What a device wrote must not steer a terminal.
    return "".join(c if c.isprintable() else "?" for c in str(value))
