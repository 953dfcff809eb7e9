"""Reference pages that are read out of the code: commands, REST API, metrics, error codes.

`tools/docs.py` writes and checks them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from prometheus_client import CollectorRegistry

TREE = Path(__file__).resolve().parents[1]
COMMANDS = (
    "fieldloop_ingestion", "fieldloop_inference", "fieldloop_update", "fieldloop_agent",
    "fieldloop_telemetry", "fieldloop_delivery", "fieldloop_machines",
    "fieldloop_identity", "fieldloop_store", "fieldloop_console", "fieldloop_simulator",
)  # fmt: skip
TYPER = {
    "fieldloop": "fieldloop_console.command.main",
    "fieldloop-training": "fieldloop_training.commands",
}
_SERVICES = ("edge", "cloud", "runtime", "simulator")


class _Caught(BaseException):
    """Carries a parser out of the command that made it."""


def parser_of(package: str) -> argparse.ArgumentParser:
    """The parser of `python -m PACKAGE`, caught when it is about to read the command line."""
    module = importlib.import_module(f"{package}.__main__")

    def catch(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Caught(self)

    with (
        mock.patch("sys.argv", [package]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", catch),
    ):
        try:
            module.main()
        except _Caught as caught:
            return caught.args[0]
    raise SystemExit(f"{package} reads no command line")


def commands_of(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, argparse.ArgumentParser]]:
    """Every command below a parser: its words, what it does, its parser."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, below in action.choices.items():
            yield (*path, name), helps.get(name, ""), below
            yield from commands_of(below, (*path, name))


def options_of(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Arguments and options of one command, with what they mean."""
    found = []
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            values = "|".join(map(str, action.choices)) if action.choices else ""
            name += f" {values or action.metavar or action.dest.upper()}"
        found.append((name, (action.help or "").replace("%%", "%")))
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(rows: list[tuple[str, str]], head: tuple[str, str]) -> list[str]:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return [*lines, *(f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows), ""]


def cli_page() -> str:
    """Every command of every program, with its options."""
    lines = ["# Commands\n", "`--help` of each says the same, with all settings.\n"]
    for name, module in TYPER.items():
        lines += [f"## {name}\n", f"`{name} COMMAND --help` has the options.\n"]
        lines += _table(sorted(_typer_commands(name, module)), ("command", "what"))
    for package in COMMANDS:
        parser = parser_of(package)
        lines.append(f"## {package.replace('_', '-')}\n")
        lines.append(f"`python -m {package}`\n")
        own = options_of(parser)
        if own:
            lines += _table(own, ("argument", "what"))
        for path, text, below in commands_of(parser):
            lines += [f"### {package.replace('_', '-')} {' '.join(path)}\n"]
            lines += [text[:1].upper() + text[1:] + ".\n"] if text else []
            options = options_of(below)
            lines += _table(options, ("argument", "what")) if options else []
    return "\n".join(lines).rstrip() + "\n"


def _typer_commands(program: str, module: str) -> Iterator[tuple[str, str]]:
    import typer.main

    app = importlib.import_module(module).app

    def walk(command: Any, path: str) -> Iterator[tuple[str, str]]:
        below = getattr(command, "commands", None)
        if below is None:
            arguments = [p for p in command.params if p.param_type_name == "argument"]
            usage = " ".join([path, *(p.name.upper() for p in arguments)])
            yield usage, (command.help or "").split("\n\n")[0]
            return
        for name, one in below.items():
            yield from walk(one, f"{path} {name}")

    return walk(typer.main.get_command(app), program)


def api_page() -> str:
    """Routes of the console's REST API."""
    from fastapi import FastAPI

    from fieldloop_console import api

    app = FastAPI()
    app.include_router(api.router())
    lines = [
        "# REST API\n",
        "Served by the console, described in full by `/api/v1/openapi.json`. Errors are"
        " `application/problem+json`. Who may do what: [console](../../cloud/console/README.md).\n",
    ]
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, methods in sorted(app.openapi()["paths"].items()):
        for method, about in methods.items():
            (tag, *_) = about.get("tags") or ["other"]
            summary = about.get("description") or about.get("summary", "")
            groups.setdefault(tag, []).append(
                (f"{method.upper()} {path}", summary.split("\n\n")[0])
            )
    for tag, rows in sorted(groups.items()):
        lines += [f"## {tag}\n", *_table(rows, ("route", "what"))]
    return "\n".join(lines).rstrip() + "\n"


def metrics_page() -> str:
    """Prometheus metrics, by service."""
    from fieldloop_buffer.metrics import Metrics as LogMetrics
    from fieldloop_telemetry.fleetmetrics import FleetMetrics
    from fieldloop_telemetry.metrics import Metrics as TelemetryMetrics

    lines = [
        "# Metrics\n",
        "Where `FIELDLOOP_HEALTH_PORT` is set, `/metrics` has these in the text format of"
        " Prometheus, beside those of the process, and `/healthz` says whether the loop turns."
        " A dashboard for Grafana: [docs/grafana](../grafana/fleet.json).\n",
    ]
    for title, make in (
        ("ingestion, inference", LogMetrics),
        ("telemetry", TelemetryMetrics),
        ("telemetry, of the fleet", FleetMetrics),
    ):
        registry = CollectorRegistry()
        make(registry)
        rows = [(f"{m.name} ({m.type})", m.documentation) for m in registry.collect()]
        lines += [f"## {title}\n", *_table(sorted(rows), ("metric", "what"))]
    rows = sorted(_literal_metrics())
    lines += ["## others\n", *_table(rows, ("metric", "what"))]
    return "\n".join(lines).rstrip() + "\n"


def _calls() -> Iterator[tuple[Path, ast.Call, str]]:
    for folder in (*_SERVICES, "contract"):
        for path in sorted((TREE / folder).rglob("src/**/*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    yield path, node, name


def _literal_metrics() -> Iterator[tuple[str, str]]:
    """Metrics that are made outside of the classes above, by a literal name."""
    for path, node, name in _calls():
        if name not in ("Gauge", "Counter", "Histogram") or len(node.args) < 2:
            continue
        first, second = node.args[0], node.args[1]
        if "telemetry" in path.parts or not isinstance(first, ast.Constant):
            continue
        with contextlib.suppress(AttributeError):
            yield f"{first.value} ({name.lower()})", second.value


def error_codes() -> list[tuple[str, str]]:
    """Every code that an error of ours can carry, and the package that raises it."""
    found: dict[str, set[str]] = {}
    for path, node, _ in _calls():
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg == "code" and isinstance(value, ast.Constant):
                code = str(value.value)
                if re.fullmatch(r"[a-z0-9]+([.-][a-z0-9-]+)+", code):
                    package = next(p for p in path.parts if p.startswith("fieldloop_"))
                    found.setdefault(code, set()).add(package.removeprefix("fieldloop_"))
    return [(code, ", ".join(sorted(packages))) for code, packages in sorted(found.items())]
