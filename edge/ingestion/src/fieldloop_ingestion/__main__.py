"""`python -m fieldloop_ingestion`: run the service, check a profile, look into a log."""

from __future__ import annotations

import argparse
import os
import sys

from fieldloop_contract.errors import FieldloopError
from fieldloop_ingestion.profile import Profile, load_profile
from fieldloop_ingestion.settings import SERVICE, IngestionSettings
from fieldloop_ingestion.source import options_of
from fieldloop_runtime.journal import configure
from fieldloop_runtime.life import ExitCode, Life, run
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
    look = commands.add_parser("log", help="show streams, books, gaps and dead letters of a log")
    look.add_argument("path", help="path of the log's file; it may be in use")
    return parser


def _run() -> int:
    def body(life: Life) -> None:
        from fieldloop_ingestion.service import Service  # noqa: PLC0415 - `check` does without

        settings = load(IngestionSettings, os.environ)
        configure(settings.log_level)
        profile = load_profile(settings.profile, options_of)
        Service(settings, profile).run(life)

    return run(SERVICE, body)


def _check(path: str) -> int:
    from fieldloop_ingestion.cost import cost_lines  # noqa: PLC0415 - only here

    profile: Profile = load_profile(path, options_of)
    sys.stdout.write("\n".join([f"{path}: ok", *cost_lines(profile)]) + "\n")
    return ExitCode.OK


def _log(path: str) -> int:
    from fieldloop_buffer.looking import describe  # noqa: PLC0415 - only here

    sys.stdout.write("\n".join(describe(path)) + "\n")
    return ExitCode.OK


def main() -> int:
    """Entry of the command line."""
    arguments = _parser().parse_args()
    if arguments.command == "run":
        return _run()
    try:
        return _check(arguments.profile) if arguments.command == "check" else _log(arguments.path)
    except FieldloopError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the person at the keyboard
        return ExitCode.CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
