"""`python -m fieldloop_agent run | doctor`: composition root of the agent."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random

from fieldloop_agent.home import Home
from fieldloop_agent.service import Agent
from fieldloop_agent.settings import ENROLMENT_PREFIX, AgentSettings, EnrolmentSettings
from fieldloop_contract.errors import FieldloopError
from fieldloop_runtime import health as health_server
from fieldloop_runtime import journal, life
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.settings import help_text, load

_ABOUT = """\
Enrols this device with a one-time token, keeps its certificate renewed, and says what is wrong.

  fieldloop-agent run             the service
  fieldloop-agent doctor [--json] clock, identity, TLS, access, disk, logs, slots: or the remedy

What a device is provisioned with:
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fieldloop-agent",
        description=_ABOUT
        + help_text(EnrolmentSettings, ENROLMENT_PREFIX).split("\n", 1)[1]
        + "\n\n"
        + help_text(AgentSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="run the service")
    doctor = commands.add_parser("doctor", help="say what is wrong; status 1 where something is")
    doctor.add_argument("--json", action="store_true", help="findings as JSON")
    return top


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Entry; returns the exit status."""
    options = parser().parse_args(argv)
    if options.command == "run":
        return life.run("agent", lambda process: serve(process, environ))
    from fieldloop_agent.doctor import examine  # noqa: PLC0415 - not needed by the service

    try:
        journal.configure("ERROR")
        found = examine(load(AgentSettings, environ))
    except FieldloopError as error:
        sys.stderr.write(f"fieldloop-agent: {error}\n")
        return int(life.ExitCode.CONFIGURATION)
    if options.json:
        sys.stdout.write(json.dumps([asdict(f) for f in found], indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(str(f) for f in found) + "\n")
    return int(life.ExitCode.OK if all(f.fine for f in found) else life.ExitCode.FAILED)


def serve(process: life.Life, environ: Mapping[str, str]) -> None:
    """The service's body: look, do what is due, wait."""
    settings = load(AgentSettings, environ)
    enrolment = load(EnrolmentSettings, environ, prefix=ENROLMENT_PREFIX)
    journal.configure(settings.log_level)
    log = Journal("agent")
    agent = Agent(
        settings,
        enrolment,
        Home(Path(settings.dir)),
        SystemClock(trusted=settings.trust_clock),
        log,
        Random(),
    )
    state = Health()
    # A device that is offline is healthy: only what a person has to do makes it unwell.
    state.condition("identity", lambda: agent.complaint)
    stop_health = health_server.serve(state, settings.health)
    log.info("service.started", dir=settings.dir)
    try:
        while not process.stop.is_set():
            agent.turn(time.monotonic())
            state.tick("owner", limit_s=settings.look_s + 120)
            process.stop.wait(min(settings.look_s, 2.0 if agent.complaint else settings.look_s))
    finally:
        stop_health()
        log.info("service.stopped")


if __name__ == "__main__":
    sys.exit(main())
