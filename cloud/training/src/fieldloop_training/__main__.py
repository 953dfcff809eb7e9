"""`fieldloop-training`: run the service, or look at what it has done.

The composition root: settings are read here, once, and everything is passed on from here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_runtime.health import Health
from fieldloop_runtime.health import serve as serve_health
from fieldloop_runtime.journal import configure
from fieldloop_runtime.life import ExitCode, Life, run
from fieldloop_runtime.settings import help_text, load
from fieldloop_store.engine import Store
from fieldloop_training.lineage import lineage, overview
from fieldloop_training.service import serve
from fieldloop_training.settings import TrainingSettings

_ABOUT = """\
Watches the store for new labels and trains a better model when there are enough of them.

  run                      watch and train until stopped
  status                   the newest runs and all model versions, as JSON
  lineage MODEL VERSION    what made a version, and which devices run it, as JSON
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fieldloop-training",
        description=_ABOUT,
        epilog=help_text(TrainingSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="watch and train until stopped")
    commands.add_parser("status", help="the newest runs and all model versions")
    lines = commands.add_parser("lineage", help="what made a version, and where it runs")
    lines.add_argument("model", help="name of the model")
    lines.add_argument("version", type=int, help="its version")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    given = _parser().parse_args(arguments)
    try:
        settings = load(TrainingSettings, os.environ)
    except FixConfiguration as error:
        print(f"fieldloop-training: {error}", file=sys.stderr)  # noqa: T201 - for a person
        return ExitCode.CONFIGURATION
    if given.command == "run":
        configure(settings.log_level)
        return run("training", lambda life: _serve(life, settings))
    try:
        store = Store.open(settings.store_url, create=False)
        shown: dict[str, Any]
        if given.command == "status":
            shown = overview(store, settings.fleet)
        else:
            shown = lineage(store, settings.fleet, given.model, given.version)
    except FieldloopError as error:
        print(f"fieldloop-training: {error}", file=sys.stderr)  # noqa: T201 - for a person
        return ExitCode.FAILED
    sys.stdout.write(json.dumps(shown, indent=2, sort_keys=True) + "\n")
    return ExitCode.OK


def _serve(life: Life, settings: TrainingSettings) -> None:
    health = Health()
    stop = serve_health(health, settings.health)
    try:
        serve(life, settings, health)
    finally:
        stop()


if __name__ == "__main__":
    sys.exit(main())
