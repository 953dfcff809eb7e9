"""`fieldloop-machines`: the service, and what a person does with machines and their alarms.

The composition root: everything that the service stands on is made here and passed in.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fieldloop_contract.errors import FieldloopError, RejectedInput
from fieldloop_machines.service import serve
from fieldloop_machines.settings import MachinesSettings
from fieldloop_runtime import health, journal, life
from fieldloop_runtime.settings import help_text, load
from fieldloop_store import alarms, commissionings, lifecycle
from fieldloop_store.engine import Store
from fieldloop_store.evidence import write_evidence
from fieldloop_store.machines import device_of

NS = 1_000_000_000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fieldloop-machines",
        description="Machines commissioned, alarms with a life, notices to people.",
        epilog=help_text(MachinesSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--store", default="", help="URL of the store; FIELDLOOP_STORE_URL otherwise")
    top.add_argument("--fleet", default="", help="id of the fleet; FIELDLOOP_FLEET otherwise")
    top.add_argument("--actor", default="", help="who does it, for the record; the user's name")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run the service; all settings are environment variables")
    _commissioning(commands)
    command = commands.add_parser("alarms", help="list alarms, newest first")
    command.add_argument("--all", action="store_true", help="closed ones too")
    command.add_argument("--machine")
    for name, text in (
        ("show", "one alarm and its history"),
        ("acknowledge", "say that you have seen it"),
        ("unshelve", "take it off the shelf"),
    ):
        commands.add_parser(name, help=text).add_argument("alarm")
    command = commands.add_parser("shelve", help="do not hear of it for a while")
    command.add_argument("alarm")
    command.add_argument("--hours", type=float, required=True)
    command.add_argument("--reason", required=True)
    command = commands.add_parser("judge", help="say what it was: that is a label at once")
    command.add_argument("alarm")
    command.add_argument("verdict", choices=lifecycle.VERDICTS)
    command = commands.add_parser("evidence", help="write all that belongs to an alarm as one zip")
    command.add_argument("alarm")
    command.add_argument("file", help="the zip to write")
    return top


def _commissioning(commands: Any) -> None:
    command = commands.add_parser("commission", help="learn what is normal for a machine")
    command.add_argument("machine")
    command.add_argument("--slot", default="main")
    command.add_argument(
        "--hours",
        type=float,
        default=commissionings.RUNNING_HOURS,
        help="running hours to learn from",
    )
    command.add_argument(
        "--false-alarms-per-week",
        type=float,
        default=commissionings.BUDGET_PER_WEEK,
        help="what you put up with",
    )
    command.add_argument(
        "--unlike-its-cohort", action="store_true", help="it is meant to differ from its cohort"
    )
    command = commands.add_parser("commissionings", help="how commissionings stand")
    command.add_argument("--machine")
    for name, text in (
        ("arm", "the machine is healthy: let its alarms ring"),
        ("give-up", "end a commissioning"),
    ):
        commands.add_parser(name, help=text).add_argument("commissioning")
    command = commands.add_parser("repaired", help="the machine changed: its calibration is stale")
    command.add_argument("machine")
    command.add_argument("--because", required=True)


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(arguments)
    journal.configure(environ.get("FIELDLOOP_LOG_LEVEL", "INFO"))
    variables = {k: v for k, v in environ.items() if k != "FIELDLOOP_LOG_LEVEL"}
    if options.store:
        variables["FIELDLOOP_STORE_URL"] = options.store
    if options.fleet:
        variables["FIELDLOOP_FLEET"] = options.fleet
    if options.command == "run":
        return life.run("machines", lambda running: _serve(running, variables))
    try:
        settings = load(MachinesSettings, variables)
        store = Store.open(settings.store_url, create=False)
        try:
            answer = _COMMANDS[options.command](store, settings.fleet, options)
        finally:
            store.close()
    except FieldloopError as error:
        print(f"fieldloop-machines: {error}", file=sys.stderr)  # noqa: T201
        return int(life.ExitCode.CONFIGURATION)
    print(json.dumps(answer, indent=2, default=str))  # noqa: T201
    return int(life.ExitCode.OK)


def _serve(running: life.Life, environ: Mapping[str, str]) -> None:
    settings = load(MachinesSettings, environ)
    state = health.Health()
    stop_health = health.serve(state, settings.health)
    try:
        serve(running, settings, state)
    finally:
        stop_health()


def _actor(options: argparse.Namespace) -> str:
    return str(options.actor or getpass.getuser())


def _commission(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    plan = commissionings.checked_plan(
        options.hours, options.false_alarms_per_week, options.unlike_its_cohort
    )
    row = commissionings.begin(
        store, fleet, machine=options.machine, device=device_of(store, fleet, options.machine),
        slot=options.slot, plan=plan, actor=_actor(options), now_ns=time.time_ns(),
    )  # fmt: skip
    return _stand(row)


def _stand(row: commissionings.CommissioningRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "machine": row.machine,
        "device": row.device,
        "slot": row.slot,
        "state": row.state,
        "plan": row.plan,
        "assessment": row.assessment,
        "record": None if row.record is None else row.record.digest(),
    }


def _list_commissionings(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    rows = commissionings.list_commissionings(store, fleet, machine=options.machine)
    return [_stand(row) for row in rows]


def _arm(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    row = commissionings.arm(
        store, fleet, options.commissioning, actor=_actor(options), now_ns=time.time_ns()
    )
    return {"machine": row.machine, "record": row.digest, "threshold": row.record.threshold}


def _give_up(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    commissionings.end(
        store, fleet, options.commissioning, actor=_actor(options), now_ns=time.time_ns()
    )
    return {"ended": options.commissioning}


def _repaired(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    rows = [r for r in commissionings.in_force(store, fleet) if r.machine == options.machine]
    for row in rows:
        commissionings.go_stale(
            store, fleet, row.device, row.slot, because=options.because,
            actor=_actor(options), now_ns=time.time_ns(),
        )  # fmt: skip
    return {"machine": options.machine, "stale": [row.digest for row in rows]}


def _alarm(row: alarms.AlarmRow) -> dict[str, Any]:
    document = asdict(row)
    return {**document.pop("life"), **document}


def _list_alarms(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    rows = alarms.list_alarms(store, fleet, open_only=not options.all, machine=options.machine)
    return [_alarm(row) for row in rows]


def _show(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    row = alarms.find_alarm(store, fleet, options.alarm)
    if row is None:
        raise RejectedInput(f"no alarm {options.alarm} in {fleet}", code="alarm.unknown")
    history = [asdict(line) for line in alarms.history_of(store, fleet, row.id)]
    return {**_alarm(row), "history": history}


def _act(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    now_ns, by = time.time_ns(), _actor(options)
    if options.command == "acknowledge":
        event: Any = lifecycle.Acknowledged(now_ns, by)
    elif options.command == "shelve":
        event = lifecycle.Shelved(
            now_ns, by, now_ns + int(options.hours * 3600) * NS, options.reason
        )
    elif options.command == "judge":
        event = lifecycle.Judged(now_ns, by, options.verdict)
    else:
        event = lifecycle.Unshelved(now_ns, by)
    return _alarm(alarms.act(store, fleet, options.alarm, event, now_ns=now_ns))


def _evidence(store: Store, fleet: str, options: argparse.Namespace) -> Any:
    return write_evidence(store, fleet, options.alarm, options.file, now_ns=time.time_ns())


_COMMANDS = {
    "commission": _commission,
    "commissionings": _list_commissionings,
    "arm": _arm,
    "give-up": _give_up,
    "repaired": _repaired,
    "alarms": _list_alarms,
    "show": _show,
    "acknowledge": _act,
    "shelve": _act,
    "unshelve": _act,
    "judge": _act,
    "evidence": _evidence,
}


if __name__ == "__main__":
    sys.exit(main())
