"""`python -m fieldloop_ingestion`: run the service, check a profile, look into a log."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from fieldloop_buffer.settings import LogSettings
from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_contract.profile import Profile
from fieldloop_ingestion.profile import load_profile
from fieldloop_ingestion.settings import SERVICE, IngestionSettings
from fieldloop_ingestion.source import fit
from fieldloop_runtime.journal import Journal, configure
from fieldloop_runtime.life import ExitCode, Life, run
from fieldloop_runtime.link import LinkSettings
from fieldloop_runtime.settings import help_text, load


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fieldloop_ingestion",
        description="Takes readings from sources, keeps every one in a SQLite log, and sends them "
        "to the cloud until it says that it has them.",
        epilog=help_text(IngestionSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the service; settings come from the environment")
    check = commands.add_parser("check", help="check a device profile and say what it costs")
    check.add_argument("profile", help="path of the profile")
    measure = commands.add_parser(
        "probe",
        help="run the sources for some seconds and compare with the profile; stores nothing",
    )
    measure.add_argument("profile", help="path of the profile")
    measure.add_argument("--seconds", type=float, default=5.0, help="how long (default 5)")
    ask = commands.add_parser("capture", help="ask the running service for a stretch of a stream")
    ask.add_argument("path", help="path of the service's log")
    ask.add_argument("stream", help="id of a stream that is captured on_request or on_alarm")
    look = commands.add_parser("log", help="show streams, books, gaps and dead letters of a log")
    look.add_argument("path", help="path of the log's file; it may be in use")
    return parser


def _run() -> int:
    def body(life: Life) -> None:
        from fieldloop_ingestion.ordered import OrderedProfile  # noqa: PLC0415
        from fieldloop_ingestion.service import Service  # noqa: PLC0415 - `check` does without

        settings = load(IngestionSettings, os.environ)
        configure(settings.log_level)
        profiles = OrderedProfile(
            settings.profile,
            settings.ordered_profile,
            f"{settings.log.path}.profile",
            fit,
            Journal(SERVICE),
        )
        while not life.stop.is_set():  # a newer profile begins anew, as a restart would
            profile = profiles.start()
            try:
                Service(settings, profile, profiles).run(life)
            except FixConfiguration as error:
                if not profiles.on_trial:
                    raise
                profiles.fail(error)

    return run(SERVICE, body)


def _check(path: str) -> int:
    from fieldloop_ingestion.cost import cost_lines  # noqa: PLC0415 - only here

    profile: Profile = load_profile(path, fit)
    log = load(LogSettings, os.environ, prefix="FIELDLOOP_LOG_", overrides={"path": "-"})
    link = load(LinkSettings, os.environ, prefix="FIELDLOOP_LINK_")
    lines = cost_lines(profile, log.bytes_max, link.bytes_per_month)
    sys.stdout.write("\n".join([f"{path}: ok", *lines]) + "\n")
    return ExitCode.OK


def _log(path: str) -> int:
    from fieldloop_buffer.looking import describe  # noqa: PLC0415 - only here

    sys.stdout.write("\n".join(describe(path)) + "\n")
    return ExitCode.OK


def _probe(path: str, seconds: float) -> int:
    from fieldloop_ingestion.probe import probe, report  # noqa: PLC0415 - only here

    profile = load_profile(path, fit)
    if sys.stderr.isatty():
        sys.stderr.write(f"probing {len(profile.sources)} sources for {seconds:g} s ...\n")
    found = probe(profile, seconds)
    sys.stdout.write("\n".join(report(found)) + "\n")
    return ExitCode.FAILED if any(figures.faults() for figures in found) else ExitCode.OK


def _capture(path: str, stream: str) -> int:
    from fieldloop_ingestion.triggers import request  # noqa: PLC0415 - only here

    sys.stdout.write(f"asked: {request(path, stream)}\n")
    return ExitCode.OK


def main() -> int:
    """Entry of the command line."""
    arguments = _parser().parse_args()
    commands: dict[str, Callable[[], int]] = {
        "run": _run,
        "check": lambda: _check(arguments.profile),
        "probe": lambda: _probe(arguments.profile, arguments.seconds),
        "capture": lambda: _capture(arguments.path, arguments.stream),
        "log": lambda: _log(arguments.path),
    }
    try:
        return commands[arguments.command]()
    except FieldloopError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
