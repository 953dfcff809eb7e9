"""The commands that steer rollouts and show them.

Each writes a request to the store; the running delivery obeys it at its next look and answers. The
command waits for the answer and prints it; the exit status is 0 where it was done, 1 where it was
refused, 2 where nobody answered. `simulate` needs no store.
"""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_delivery import challenging, simulation
from fieldloop_delivery.policy import Plan, load_policy
from fieldloop_delivery.simworld import Fleet
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import find_rollout, list_rollout_devices, list_rollouts
from fieldloop_store.steering import ask, audit_trail, find_request

_EXAMPLES = {
    "start": """\
Rolls an approved version out, wave by wave, as the policy says. It queues where another rollout of
the slot is under way; a version that is on its way already, or that all run already, is refused.

  fieldloop-delivery start activity 3 --why "new mounting on line 2"
""",
    "pause": """\
No new device is touched until `resume`; gates still watch the touched ones, and may halt it.

  fieldloop-delivery pause 4f1c... --why "inventory on Friday"
""",
    "resume": """\
Goes on after a pause. Time in pause does not count against the wave.

  fieldloop-delivery resume 4f1c...
""",
    "approve": """\
Lets the next wave begin, where the policy asks for an approval (`approval: true`).

  fieldloop-delivery approve 4f1c... --why "line 3 agrees"
""",
    "abort": """\
Ends a rollout; every touched device is told to run what it had before. It cannot be undone, but
`retry` begins it again. It is not deleted: a rollout is the record of what devices were told.

  fieldloop-delivery abort 4f1c... --why "wrong dataset"
""",
    "retry": """\
Begins a halted or aborted rollout again, as a new one. Devices that refused the version lift it
from their blacklist by the new, signed order.

  fieldloop-delivery retry 4f1c... --why "broken cable replaced"
""",
    "delete": """\
Is always refused: a rollout is the record of what devices were told. `abort` ends one.
""",
}
_STATUS = """\
Without a name: all rollouts, newest last. With the first characters of an id: its waves, gates and
figures, the devices that were touched, and who did what.
"""
NAMES = (*_EXAMPLES, "status", "challenger")
SHOWN_DEVICES = 20


def add(commands: Any) -> None:
    """Add them to the command line."""
    for name, text in _EXAMPLES.items():
        first = text.split(".")[0].split(";")[0].replace("\n", " ").lower()
        command = commands.add_parser(
            name,
            help=first,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "start":
            command.add_argument("model", help="name of the model, as in the policy")
            command.add_argument("version", help="an approved version of it")
            command.add_argument("--slot", help="only there, where several slots run the model")
        else:
            command.add_argument("rollout", help="first characters of its id; see `status`")
        command.add_argument("--why", default="", help="kept in the audit trail")
        command.add_argument("--by", default=_user(), help="who asks; by default the user")
        command.add_argument("--wait-s", type=float, default=15.0, help="for the answer")
    status = commands.add_parser("status", help="print rollouts from the store",
                                 description=_STATUS)  # fmt: skip
    status.add_argument("rollout", nargs="?", help="first characters of an id")
    beside = commands.add_parser(
        "challenger", help="what a challenger said beside the champion, on the same windows"
    )
    beside.add_argument("slot", nargs="?", default="main")
    beside.add_argument("--days", type=float, default=7.0, help="how far back")
    simulate_ = commands.add_parser(
        "simulate",
        help="roll versions out on simulated fleets, by the engine that runs in production",
        description=simulation.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    simulate_.add_argument("--devices", type=int, default=1_000)
    simulate_.add_argument("--seeds", type=int, default=20, help="runs of each version")
    simulate_.add_argument("--first-seed", type=int, default=0)
    simulate_.add_argument("--policy", type=Path, help="policy file, and which of its slots")
    simulate_.add_argument("--slot", default="main")
    simulate_.add_argument(
        "--version", action="append", choices=list(simulation.SCENARIOS), help="repeatable"
    )
    simulate_.add_argument("--curve", type=int, nargs="+", help="instead: fleets of these sizes")
    simulate_.add_argument("--out", type=Path, help="report as JSON")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "command line"


def run(options: argparse.Namespace, store: Store, fleet: str) -> int:
    """Run one of `NAMES`; returns the exit status."""
    if options.command == "status":
        return _status(options, store, fleet)
    if options.command == "challenger":
        since_ns = time.time_ns() - int(options.days * 86_400e9)
        for line in challenging.report(challenging.pairings(store, fleet, options.slot, since_ns)):
            _say(line)
        return 0
    names: dict[str, Any] = {}
    if options.command == "start":
        names = {"model": options.model, "version": options.version, "lane": options.slot}
    else:
        names = {"rollout": _find(store, fleet, options.rollout)}
    request = ask(
        store,
        fleet,
        options.command,
        by=options.by,
        why=options.why,
        now_ns=time.time_ns(),
        **names,
    )
    return wait(store, request, options.wait_s, "delivery")


def wait(store: Store, request: str, wait_s: float, who: str) -> int:
    """Wait for the answer of a request and print it; returns the exit status."""
    until = time.monotonic() + wait_s
    while True:
        found = find_request(store, request)
        if found is not None and found.state != "waiting":
            _say(found.answer)
            return 0 if found.state == "done" else 1
        if time.monotonic() > until:
            break
        time.sleep(0.1)
    print(  # noqa: T201
        f"no answer in {wait_s:.0f} s: is {who} running? The request {request} stays,"
        " and is obeyed when it is",
        file=sys.stderr,
    )
    return 2


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command speaks to a person


def _find(store: Store, fleet: str, start: str) -> str:
    """The id that begins so; FixConfiguration where there is none, or more than one."""
    ids = [r.id for r in list_rollouts(store, fleet) if r.id.startswith(start)]
    if len(ids) != 1:
        what = "no rollout" if not ids else f"{len(ids)} rollouts"
        raise FixConfiguration(
            f"{what} of fleet {fleet} begin with {start!r:.40}",
            code="rollout.unknown",
            hint="`fieldloop-delivery status` lists them",
        )
    return ids[0]


def _status(options: argparse.Namespace, store: Store, fleet: str) -> int:
    if options.rollout is None:
        for row in reversed(list_rollouts(store, fleet)):
            _say(
                f"{row.id[:8]}  {row.slot}  {row.model} {row.version}  {row.state}"
                f"  {row.document.get('verdict', '')}"
            )
            for device, reason in row.document.get("skipped", {}).items():
                _say(f"    {device} is passed over: {reason}")
        return 0
    rollout = _find(store, fleet, options.rollout)
    found = find_rollout(store, fleet, rollout)
    assert found is not None  # just listed; rollouts are never deleted
    _say(f"{found.id}\n{found.slot}  {found.model} {found.version}  {found.state}")
    _say(f"  {found.document.get('verdict', '')}")
    for number, wave in enumerate(found.document.get("waves", []), 1):
        state = "passed" if wave["passed"] else "not passed"
        _say(
            f"  wave {number}: {wave.get('count', len(wave['devices']))} of {wave['size']} devices,"
            f" {wave['installed']} installed, {wave['windows']} windows, {state}"
        )
    for finding in found.document.get("findings", []):
        mark = "FAILED" if finding["failed"] else "ok" if finding["judged"] else "-"
        _say(f"  {mark:<6} {finding['gate']}: {finding['text']}")
    devices = list_rollout_devices(store, fleet, rollout, limit=SHOWN_DEVICES)
    for member in devices:
        back = ", back" if member.back_s is not None else ""
        where = "control" if member.role == "control" else f"wave {member.wave + 1}"
        _say(f"  {member.device}: {where}{back}")
    if len(devices) == SHOWN_DEVICES:
        _say("  ...")
    for entry in audit_trail(store, fleet, rollout=rollout):
        at = datetime.fromtimestamp(entry.at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
        _say(f"  {at}  {entry.type} by {entry.actor}  {entry.reason}")
    return 0


def simulate(options: argparse.Namespace) -> int:
    """Run simulations; the exit status is 1 where harm was missed or lost telemetry passed."""
    plan: Plan = simulation.PLAN
    if options.policy is not None:
        slots = {s.slot: s for s in load_policy(options.policy).slots}
        if options.slot not in slots:
            raise FixConfiguration(f"{options.policy} has no slot {options.slot}")
        plan = slots[options.slot]
    if min(options.devices, options.seeds) < 1:
        raise FixConfiguration("--devices and --seeds are at least 1")
    report: dict[str, Any]
    if options.curve:
        rows = []
        for row in simulation.curve(options.curve, "same", plan):
            rows.append(row)
            _say("  ".join(f"{k} {v}" for k, v in row.items()))
        report = {"curve": rows}
    else:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        names = options.version or list(simulation.SCENARIOS)
        report = simulation.campaign(Fleet(devices=options.devices), names, seeds, plan, _say)
    if options.out is not None:
        try:
            options.out.write_text(simulation.dump(report) + "\n", encoding="utf-8")
        except OSError as error:
            raise FieldloopError(f"{options.out}: {error.strerror}", code="simulate.out") from error
    return 1 if report.get("missed_harm", [0])[0] else 0
