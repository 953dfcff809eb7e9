"""`python -m fieldloop_update load FILE`: take a signed model from a file, without any network."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from fieldloop_contract.airgap import Archive
from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.life import ExitCode
from fieldloop_runtime.settings import IdentitySettings, help_text, load, variables
from fieldloop_update.load import load_archive
from fieldloop_update.settings import UpdateSettings

_ABOUT = """\
Takes the order and the bundle for this device from a file that `fieldloop-delivery export` wrote.
Stop the service that updates in the same folder first, and start it afterwards. Settings are those
of the service; others are passed over.
"""


class LoadSettings(IdentitySettings):
    """The part of a service's settings that loading needs."""

    root_file: str = Field(default="/data/root.json", description="the fleet's trusted root.json")
    trust_clock: bool = Field(default=False, description="a person vouches for the clock")
    update: UpdateSettings = UpdateSettings()


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; returns the exit status."""
    top = argparse.ArgumentParser(
        prog="python -m fieldloop_update",
        description=_ABOUT,
        epilog=help_text(LoadSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    command = commands.add_parser("load", help="take a signed model from a file")
    command.add_argument("file", type=Path)
    command.add_argument("--service", default="inference", help="whose order it is")
    options = top.parse_args(argv)
    known = {v.name for v in variables(LoadSettings)}
    mine = {k: v for k, v in environ.items() if k in known or k.removesuffix("_FILE") in known}
    try:
        _load(options, load(LoadSettings, mine))
    except FieldloopError as error:
        print(f"load: {error.code}: {error}", file=sys.stderr)  # noqa: T201
        wrong = isinstance(error, FixConfiguration)
        return int(ExitCode.CONFIGURATION if wrong else ExitCode.FAILED)
    return 0


def _load(options: argparse.Namespace, settings: LoadSettings) -> None:
    try:
        root = Path(settings.root_file).read_bytes()
    except OSError as error:
        raise FixConfiguration(f"{settings.root_file}: {error.strerror}") from error
    trusted = settings.trust_clock or settings.update.trust_clock
    with Archive(options.file) as archive:
        ref = load_archive(
            archive,
            settings.update.model_copy(update={"trust_clock": trusted}),
            fleet=settings.fleet,
            device=settings.device,
            service=options.service,
            root=root,
            clock=SystemClock(trusted=trusted),
            say=print,
        )
    print(f"{ref.name} {ref.version} is on disk")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
