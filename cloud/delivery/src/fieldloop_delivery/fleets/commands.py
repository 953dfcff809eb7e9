"""`fieldloop-delivery fleet ...`: devices, variables and containers, for people and for scripts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fieldloop_contract.errors import FixConfiguration, RejectedInput
from fieldloop_delivery import steercommands
from fieldloop_delivery.fleets.backend import FleetBackend, Inventory, Scope, named
from fieldloop_delivery.fleets.open import open_backend
from fieldloop_delivery.fleets.pinning import LANE
from fieldloop_delivery.fleets.pushing import enrol, push_variables, read_lines, read_variables
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import list_rollouts
from fieldloop_store.steering import ask

PATIENCE_S: Final = 90.0
SHOWN_MAX: Final = 20
_ABOUT = """\
Devices, their variables and their containers. With FIELDLOOP_BALENA_FLEET=organisation/fleet and
FIELDLOOP_BALENA_TOKEN_FILE they are balena's; without, devices are those that were heard by MQTT,
and containers and variables are yours to manage.

  fleet sync                                     what there is, and what is wrong with it
  fleet devices --tag site=north                 one line for each device; --json for scripts
  fleet releases                                 container releases, newest first
  fleet variables list --device pump-7           and `set NAME=VALUE`, `remove NAME`; the scope is
                                                 the fleet, --device, --service, or both
  fleet push FOLDER [--device pump-7]            a rendered folder's variables.json
  fleet enrol --url URL < LINES                  tokens of `fieldloop-identity provision --csv` as
                                                 variables of the devices; used ones are removed
  fleet tag pump-7 site=north line=              set one tag and remove another
  fleet pin pump-7 --release 1.4.0               a device by hand; --follow lets it follow the fleet
  fleet pin --all --release 1.4.0                the fleet itself, all at once: rather roll out

  fleet run                                      carries container rollouts out (a service)
  fleet rollout 1.4.0                            wave by wave as `containers` of the policy says,
                                                 then the fleet; on a failed gate all go back
  fleet rollouts                                 how they stand. `fieldloop-delivery pause`, resume,
                                                 approve, abort, retry and status take their ids
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The subcommands."""
    parser.description = _ABOUT
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("run", help="carry container rollouts out, until stopped")
    sync = actions.add_parser("sync", help="read the fleet; status 1 where something is wrong")
    devices = actions.add_parser("devices", help="list devices")
    devices.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE")
    releases = actions.add_parser("releases", help="list container releases")
    _add_variables(actions.add_parser("variables", help="list, set and remove variables"))
    push = actions.add_parser("push", help="set a board's variables")
    push.add_argument("folder", help="with variables.json")
    push.add_argument("--device", default="", help="of this device instead of the fleet")
    push.add_argument("--prune", action="store_true", help="remove ours that the file lacks")
    push.add_argument("--dry-run", action="store_true", help="only say what would be done")
    enrolling = actions.add_parser("enrol", help="give tokens to devices, take used ones away")
    enrolling.add_argument("--url", default="", help="ENROLMENT_URL; empty: the fleet has it")
    tag = actions.add_parser("tag", help="set and remove tags of a device")
    tag.add_argument("device")
    tag.add_argument("tags", nargs="+", metavar="KEY=VALUE", help="KEY= removes it")
    pin = actions.add_parser("pin", help="pin devices, or the fleet, by hand")
    pin.add_argument("devices", nargs="*", metavar="DEVICE")
    pin.add_argument("--all", action="store_true", help="the fleet instead of single devices")
    to = pin.add_mutually_exclusive_group(required=True)
    to.add_argument("--release", help="version or commit")
    to.add_argument("--follow", action="store_true", help="let the devices follow the fleet again")
    rollout = actions.add_parser("rollout", help="ask for a rollout of a container release")
    rollout.add_argument("release", help="version or commit, as `fleet releases` lists them")
    rollouts = actions.add_parser("rollouts", help="list container rollouts")
    rollout.add_argument("--by", default="", help="who asks; by default who runs this")
    rollout.add_argument("--why", default="", help="for the audit trail")
    rollout.add_argument("--wait-s", type=float, default=30.0, help="for the answer")
    for command in (sync, devices, releases, rollouts):
        command.add_argument("--json", action="store_true", help="for scripts")


def _add_variables(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="what", required=True)
    listing = actions.add_parser("list", help="variables of exactly this scope")
    listing.add_argument("--json", action="store_true", help="for scripts")
    setting = actions.add_parser("set", help="set one or more")
    setting.add_argument("pairs", nargs="+", metavar="NAME=VALUE")
    removing = actions.add_parser("remove", help="remove one or more")
    removing.add_argument("names", nargs="+", metavar="NAME")
    for action in (listing, setting, removing):
        action.add_argument("--device", default="", help="of this device only")
        action.add_argument("--service", default="", help="of this service only")


def run(options: argparse.Namespace, settings: DeliverySettings, environ: Mapping[str, str]) -> int:
    """Run one command; returns the exit status."""
    store = Store.open(settings.store_url)
    try:
        if options.action == "rollouts":
            return _rollouts(options, settings, store)
        if options.action == "rollout":
            return _rollout(options, settings, store, environ)
        backend = open_backend(settings, store, patience_s=PATIENCE_S)
        try:
            return _COMMANDS[options.action](options, backend)
        finally:
            backend.close()
    finally:
        store.close()


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command speaks to a person


def _dump(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, sort_keys=True, default=dict)
    sys.stdout.write("\n")


def _pairs(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given or not name:
            raise RejectedInput(f"{text!r:.80} is not KEY=VALUE", code="command.malformed")
        if name in found:
            raise RejectedInput(f"{name!r:.80} stands twice", code="command.malformed")
        found[name] = value
    return found


def _sync(options: argparse.Namespace, backend: FleetBackend) -> int:
    seen = backend.inventory(time.time_ns())
    names = _versions(backend)
    online = sum(d.online for d in seen.devices.values())
    faulty = {d.device: d.fault for d in seen.devices.values() if d.fault}
    pinned = sorted(d.device for d in seen.devices.values() if d.pinned)
    behind = sorted(d.device for d in seen.devices.values() if d.target and d.running != d.target)
    if options.json:
        _dump(
            {
                "backend": backend.name,
                "devices": len(seen.devices),
                "online": online,
                "release": seen.release,
                "tracking": seen.tracking,
                "pinned": pinned,
                "behind": behind,
                "faulty": faulty,
                "refused": dict(seen.refused),
            }
        )
    else:
        _say(f"{len(seen.devices)} devices by {backend.name}, {online} online")
        if seen.release:
            how = "takes each new release by itself" if seen.tracking else "is pinned"
            _say(f"the fleet {how}: {_named(seen.release, names)}")
        for what, some in (("pinned by themselves", pinned), ("not yet there", behind)):
            if some:
                _say(f"{len(some)} {what}: {' '.join(some[:SHOWN_MAX])}")
        for device, why in [*sorted(faulty.items()), *sorted(seen.refused.items())][:SHOWN_MAX]:
            _say(f"    {device}: {why}")
    return 1 if seen.refused or faulty else 0


def _devices(options: argparse.Namespace, backend: FleetBackend) -> int:
    seen = backend.inventory(time.time_ns())
    chosen = seen.having(_pairs(options.tag))
    if options.json:
        _dump([asdict(seen.devices[name]) for name in chosen])
        return 0
    names = _versions(backend)
    for name in chosen:
        device = seen.devices[name]
        state = "online " if device.online else "offline"
        runs = _named(device.running, names) or "-"
        towards = "" if device.running == device.target else f" -> {_named(device.target, names)}"
        pin = " (pinned)" if device.pinned else ""
        tags = " ".join(f"{k}={v}" for k, v in sorted(device.tags.items()))
        _say(f"{name:<24} {state} {device.type:<20} {runs}{towards}{pin}  {tags}  {device.fault}")
    if not chosen:
        _say(_nobody(options, seen))
    return 0


def _nobody(options: argparse.Namespace, seen: Inventory) -> str:
    if options.tag:
        return f"none of {len(seen.devices)} devices has the tags {' '.join(options.tag)}"
    return "there are no devices"


def _versions(backend: FleetBackend) -> dict[str, str]:
    return {r.commit: r.version for r in backend.releases()}


def _named(commit: str, names: Mapping[str, str]) -> str:
    version = names.get(commit, "")
    return f"{version} {commit[:7]}".strip()


def _releases(options: argparse.Namespace, backend: FleetBackend) -> int:
    found = backend.releases()
    if options.json:
        _dump([asdict(r) for r in found])
    for r in found if not options.json else ():
        _say(f"{r.version:<16} {r.commit}  {r.created}  {'' if r.usable else 'not usable'}")
    return 0


def _find(backend: FleetBackend, wanted: str) -> str:
    """The commit of a release. Raises RejectedInput."""
    if backend.name == "mqtt":
        return wanted  # it knows of none, and says what it cannot do by itself
    found = named(backend.releases(), wanted)
    if isinstance(found, str):
        raise RejectedInput(found, code="release.unknown", hint="`fleet releases` lists them")
    return found.commit


def _pin(options: argparse.Namespace, backend: FleetBackend) -> int:
    if options.all == bool(options.devices) or (options.all and options.follow):
        raise RejectedInput("name devices, or say --all with a --release", code="command.malformed")
    if options.follow:
        backend.pin(options.devices, "")
        _say(f"{len(options.devices)} devices follow the fleet")
        return 0
    commit = _find(backend, options.release)
    if options.all:
        backend.pin_fleet(commit)
        _say(f"the fleet is pinned to {options.release}")
    else:
        backend.pin(options.devices, commit)
        _say(f"{len(options.devices)} devices are pinned to {options.release}")
    return 0


def _tag(options: argparse.Namespace, backend: FleetBackend) -> int:
    backend.tag(options.device, {k: v or None for k, v in _pairs(options.tags).items()})
    return 0


def _push(options: argparse.Namespace, backend: FleetBackend) -> int:
    wanted = read_variables(Path(options.folder) / "variables.json")
    how = {"device": options.device, "prune": options.prune, "dry": options.dry_run}
    changed = push_variables(backend, wanted, say=_say, **how)
    _say(f"{changed} variables {'would be ' if options.dry_run else ''}changed")
    return 0


def _enrol(options: argparse.Namespace, backend: FleetBackend) -> int:
    return 1 if enrol(backend, read_lines(sys.stdin), options.url, _say) else 0


def _variables(options: argparse.Namespace, backend: FleetBackend) -> int:
    scope = Scope(options.device, options.service)
    if options.what == "list":
        found = backend.variables(scope)
        if options.json:
            _dump(found)
        for name, value in sorted(found.items()) if not options.json else ():
            _say(f"{name}={value}")
    elif options.what == "set":
        for name, value in _pairs(options.pairs).items():
            backend.set_variable(scope, name, value)
    else:
        for name in options.names:
            backend.remove_variable(scope, name)
    return 0


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace, FleetBackend], int]]] = {
    "sync": _sync,
    "devices": _devices,
    "releases": _releases,
    "pin": _pin,
    "push": _push,
    "enrol": _enrol,
    "tag": _tag,
    "variables": _variables,
}


# Rollouts: asked for in the store, carried out by `fleet run`.


def _rollouts(options: argparse.Namespace, settings: DeliverySettings, store: Store) -> int:
    rows = list_rollouts(store, settings.fleet, slot=LANE)
    if options.json:
        _dump([{"id": r.id, "state": r.state, **r.document} for r in rows])
    for row in rows if not options.json else ():
        target = row.document["rollout"]["target"]
        _say(f"{row.id[:8]}  {target['version']:<12} {row.state:<10} {row.document['verdict']}")
    return 0


def _rollout(
    options: argparse.Namespace,
    settings: DeliverySettings,
    store: Store,
    environ: Mapping[str, str],
) -> int:
    if not settings.balena.fleet:
        raise FixConfiguration(
            "nobody manages this fleet's containers",
            code="fleet.unmanaged",
            hint="with balena, set FIELDLOOP_BALENA_FLEET",
        )
    request = ask(
        store,
        settings.fleet,
        "start",
        lane=LANE,
        version=options.release,
        by=options.by or environ.get("USER") or "command line",
        why=options.why,
        now_ns=time.time_ns(),
    )
    return steercommands.wait(store, request, options.wait_s, "`fleet run`")
