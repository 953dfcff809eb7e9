"""`make bench`: run all benchmarks, or those named in ARGS, and print their tables.

The machines these run on are shared and noisy, so each figure stands beside a yardstick from the
same run, and the rounds of both are interleaved.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import platform
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from fieldloop_contract.errors import FieldloopError

NAMES = ("log", "log_service", "backlog", "telemetry", "delivery", "inference", "training")
MODELS = ("skab", "skab_machines", "watch", "machines", "console")
"""What models are worth, and the console on a large store: long, and only run by name."""


def main() -> int:
    """Run the benchmarks; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(NAMES)} (all by default), {', '.join(MODELS)}"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to try it out")
    parser.add_argument(
        "--data", type=Path, help="data set (skab, skab_machines), or folder of the store (console)"
    )
    parser.add_argument("--seeds", type=int, help="trainings of each model (skab, watch, machines)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES + MODELS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    console = Console()
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    console.print(f"{platform.platform()}, {versions}")
    figures: dict[str, Any] = {}
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        with console.status(f"benchmark {name}"):
            try:
                rows = module.measure(quick=arguments.quick, **_asked(module, arguments))
            except FieldloopError as error:
                parser.error(str(error))
        figures[name] = rows
        table = Table(title=name, title_justify="left")
        for column in rows[0]:
            table.add_column(column, justify="left" if column == "what" else "right")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console.print(table)
        for line in module.closing(rows) if hasattr(module, "closing") else ():
            print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def _asked(module: ModuleType, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that this benchmark takes and that were given."""
    takes = inspect.signature(module.measure).parameters
    given = {"data": arguments.data, "seeds": arguments.seeds}
    return {name: value for name, value in given.items() if name in takes and value is not None}


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
