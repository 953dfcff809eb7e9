"""`fieldloop-simulate run | plan | model`: a fleet of virtual devices against any broker."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FieldloopError
from fieldloop_runtime.life import ExitCode
from fieldloop_runtime.settings import help_text, load
from fieldloop_simulator.plan import device_plan, digest
from fieldloop_simulator.settings import SimulatorSettings

_DESCRIPTION = """\
Runs virtual devices with the production contract, log, uplink, fetch, trust and slots; only
sampling and the model's arithmetic are stood in for. Everything that happens to them follows from
the seed. At the end all logs are emptied and their books are checked.
"""
_OPTIONS: tuple[tuple[str, str, type, str], ...] = (
    ("fleet", "fleet", str, "id of the fleet"),
    ("devices", "devices", int, "virtual devices"),
    ("processes", "processes", int, "processes that share them"),
    ("seconds", "seconds", float, "seconds of sampling"),
    ("seed", "seed", int, "of everything that is drawn"),
    ("host", "mqtt.host", str, "the broker"),
    ("port", "mqtt.port", int, "its port"),
    ("network", "network.profile", str, "good, wifi, lte or bad"),
    ("root", "root_file", str, "the fleet's trusted root; without it no models"),
    ("store", "store_url", str, "the cloud's store, to compare the books with"),
    ("report", "report_dir", str, "folder of report.html and report.json"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fieldloop-simulate",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=help_text(SimulatorSettings),
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words in (
        ("run", "run the fleet; exit status 0 only if all books balance and nothing is left"),
        ("plan", "say what will happen to each device, as JSON lines; connects to nothing"),
    ):
        command = commands.add_parser(name, help=words)
        for option, _, kind, text in _OPTIONS:
            command.add_argument(f"--{option}", type=kind, help=text)
    model = commands.add_parser(
        "model", help="register a simulated model in a store, for delivery to roll out"
    )
    model.add_argument("--store", required=True, help="URL of the cloud's store")
    model.add_argument("--fleet", required=True, help="id of the fleet")
    model.add_argument("--name", default="activity", help="name of the model (default activity)")
    model.add_argument("--version", type=int, required=True, help="its version")
    model.add_argument("--size", type=int, default=200_000, help="bytes of its file")
    model.add_argument(
        "--accuracy", type=float, default=0.95, help="share of windows it gets right"
    )
    model.add_argument("--fault", choices=("trial", "nan"), help="how it fails on devices")
    model.add_argument("--share", type=float, default=1.0, help="share of devices it fails on")
    return top


def _settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> SimulatorSettings:
    overrides: dict[str, Any] = {
        path: getattr(arguments, option) for option, path, _, _ in _OPTIONS
    }
    return load(SimulatorSettings, environ, overrides=overrides)


def _run(settings: SimulatorSettings) -> int:
    # Imported here, so that `plan` and `--help` do without numpy and plots.
    from fieldloop_simulator import report  # noqa: PLC0415
    from fieldloop_simulator.fleet import Fleet  # noqa: PLC0415
    from fieldloop_simulator.screen import Screen  # noqa: PLC0415

    title = f"{settings.devices} devices, seed {settings.seed}, {settings.network.profile} network"
    with Screen(settings.devices, title) as screen:
        fleet = Fleet(settings, screen.show)
        audit = fleet.run()
    made = report.document(settings, fleet.plan_digest, fleet.history, audit)
    if settings.report_dir:
        sys.stderr.write(f"report: {report.write(Path(settings.report_dir), made)}\n")
    shown = {name: made[name] for name in ("plan", "summary", "audit")}
    sys.stdout.write(json.dumps(shown) + "\n")
    pending = audit.totals.get("pending", 0)
    if pending:
        sys.stderr.write(f"{pending} rows were still waiting after {settings.drain_s:.0f} s\n")
    return ExitCode.OK if audit.clean and not pending else ExitCode.FAILED


def _plan(settings: SimulatorSettings) -> int:
    plans = [device_plan(settings, index) for index in range(settings.devices)]
    for plan in plans:
        line = {
            "device": plan.device,
            "join_s": round(plan.join_s, 3),
            "network_cuts": [[round(c.begin_s, 3), round(c.end_s, 3)] for c in plan.cuts],
            "power_cuts": [[round(c.begin_s, 3), round(c.end_s, 3)] for c in plan.power],
            "clock_off_s": plan.clock.offset_s if plan.clock else None,
            "drift_s": plan.drift_s,
        }
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stderr.write(f"plan {digest(plans)}\n")
    return ExitCode.OK


def _model(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from fieldloop_simulator.models import bundle  # noqa: PLC0415
    from fieldloop_simulator.standins import Behaviour  # noqa: PLC0415
    from fieldloop_store.engine import Store  # noqa: PLC0415
    from fieldloop_store.registry import register_model  # noqa: PLC0415

    settings = load(SimulatorSettings, environ, overrides={"fleet": arguments.fleet})
    behaviour = Behaviour(arguments.accuracy, arguments.fault or "", arguments.share)
    manifest, files = bundle(
        settings.signal,
        name=arguments.name,
        version=arguments.version,
        size=arguments.size,
        behaviour=behaviour,
    )
    store = Store.open(arguments.store)
    try:
        register_model(
            store,
            fleet=arguments.fleet,
            manifest=manifest,
            files=files,
            run=None,
            metrics={},
            state="approved",
            now_ns=time.time_ns(),
        )
    finally:
        store.close()
    sys.stdout.write(f"{arguments.name} {arguments.version} {manifest.ref().digest}\n")
    return ExitCode.OK


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Entry; returns the exit status."""
    arguments = parser().parse_args(argv)
    environment = os.environ if environ is None else environ
    try:
        if arguments.command == "model":
            return _model(arguments, environment)
        settings = _settings(arguments, environment)
        return _run(settings) if arguments.command == "run" else _plan(settings)
    except FieldloopError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
