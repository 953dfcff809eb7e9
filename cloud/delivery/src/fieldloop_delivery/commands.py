"""The commands beside `run`: keys, root, status, import, export, import-bundle."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fieldloop_contract.airgap import Archive
from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import MODEL_BYTES_MAX, Normalisation
from fieldloop_contract.messages import from_object
from fieldloop_delivery import drafting, sites, steercommands
from fieldloop_delivery.ceremonies import Ceremony
from fieldloop_delivery.fleets import commands as fleet
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.policy import load_policy
from fieldloop_delivery.repository import Repository
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_runtime.settings import help_text, load
from fieldloop_store.engine import Store
from fieldloop_store.registry import next_version, register_model

_ABOUT = """\
Signs models, publishes them to the broker as retained messages, and rolls them out in waves.

  fieldloop-delivery keys init --fleet acme --dir delivery   make keys and a signed repository
  fieldloop-delivery root --dir delivery > root.json         what devices embed
  fieldloop-delivery run                                     the service; settings below
  fieldloop-delivery status [ROLLOUT]                        rollouts, from the store
  fieldloop-delivery start|pause|resume|approve|abort|retry  steer them; each has its own --help
  fieldloop-delivery simulate                                what a policy catches, and when
  fieldloop-delivery fleet --help                            devices and containers, on balena
  fieldloop-delivery import MODEL.tflite --name ...          a model from elsewhere
  fieldloop-delivery export OUT --name ... --version ...     one file for a site without a network
  fieldloop-delivery import-bundle FILE --root root.json     take such a file here

`keys init` leaves private keys in DIR/keys. In production move root-*.pem to offline media, and
targets-1.pem once the fleet's model names exist; `--offline FOLDER` names them when they must sign.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fieldloop-delivery",
        description=_ABOUT,
        epilog=help_text(DeliverySettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    _add_keys(commands.add_parser("keys", help="make, rotate, revoke and list the fleet's keys"))
    root = commands.add_parser("root", help="print the newest root.json, which devices embed")
    root.add_argument("--fleet", help="id of the fleet; checked against the repository if given")
    root.add_argument("--dir", type=Path, required=True, help="folder of the repository")
    root.add_argument("--out", type=Path, help="file to write instead of stdout")
    commands.add_parser("run", help="run the service")
    steercommands.add(commands)
    fleet.add(commands.add_parser("fleet", help="devices, their variables and containers"))
    _add_import(commands.add_parser("import", help="register any .tflite as an approved version"))
    export = commands.add_parser("export", help="write one file for a site without a network")
    export.add_argument("out", type=Path, help="file to write")
    export.add_argument("--name", required=True)
    export.add_argument("--version", type=int, required=True)
    export.add_argument("--device", action="append", default=[], help="with an order; repeatable")
    take = commands.add_parser("import-bundle", help="verify such a file and register its model")
    take.add_argument("file", type=Path)
    take.add_argument("--root", type=Path, help="root.json of the sender; by default our own")
    return top


def _add_keys(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(dest="action", required=True)
    init = actions.add_parser("init", help="make all keys and the first signed repository")
    init.add_argument("--root-keys", type=int, default=3, help="number of root keys")
    init.add_argument("--root-threshold", type=int, default=2, help="of them must sign a root")
    rotate = actions.add_parser("rotate", help="give a role new keys; its old ones count no more")
    rotate.add_argument("role", help="root, targets, snapshot, timestamp, director, or a model")
    rotate.add_argument("--root-keys", type=int, help="number of new keys (root)")
    rotate.add_argument("--root-threshold", type=int, help="of them must sign (root)")
    revoke = actions.add_parser(
        "revoke", help="take one key from a role that has more than it needs"
    )
    revoke.add_argument("role")
    revoke.add_argument("key", help="first characters of its id, as `keys status` prints them")
    renew = actions.add_parser("renew", help="sign root and targets again before they expire")
    status = actions.add_parser("status", help="versions, expiry and keys; status 1 with a warning")
    for action in (init, rotate, revoke, renew, status):
        action.add_argument("--fleet", required=action is init, help="id of the fleet")
        action.add_argument("--dir", type=Path, required=True, help="folder of keys/ and metadata/")
        action.add_argument("--offline", type=Path, help="folder of private keys kept offline")


def _add_import(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, help="the .tflite file")
    command.add_argument("--name", required=True, help="model name, as in the policy")
    command.add_argument("--stream", required=True, help="name of its input; a stream by default")
    command.add_argument("--window", type=int, default=0, help="samples; by default the tensor's")
    command.add_argument("--hop", type=int, default=0, help="samples; by default the window")
    command.add_argument("--rate", type=float, required=True, help="samples per second")
    command.add_argument("--channels", required=True, help="name:unit,... in the tensor's order")
    command.add_argument("--labels", default="", help="comma-separated, in the output's order")
    command.add_argument(
        "--task", default="classification", choices=("classification", "anomaly", "regression")
    )
    command.add_argument("--threshold", type=float, help="score above which an anomaly alarms")
    command.add_argument("--normalisation", type=Path, help="JSON: centre, scale, clip")
    command.add_argument("--windows", type=Path, help="JSON: golden windows in physical units")
    command.add_argument("--version", type=int, help="by default the next one")
    command.add_argument("--runtime", default="auto", choices=("auto", "litert", "tflite"))


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run one command; returns the exit status."""
    storeless = {"keys": _keys, "root": _print_root, "simulate": steercommands.simulate}
    if options.command in storeless:
        return storeless[options.command](options)
    settings = load(DeliverySettings, environ)
    store = Store.open(settings.store_url)
    try:
        if options.command in steercommands.NAMES:
            return steercommands.run(options, store, settings.fleet)
        if options.command == "import":
            return _import(options, settings, store)
        if options.command == "export":
            return _export(options, settings, store)
        return _take(options, settings, store)
    finally:
        store.close()


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command speaks to a person


def _keys(options: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    if options.action == "init":
        repository = Repository.create(
            options.dir,
            KeyRing(options.dir / "keys", options.offline),
            fleet=options.fleet,
            now=now,
            root_keys=options.root_keys,
            root_threshold=options.root_threshold,
        )
        _say(f"repository of fleet {repository.fleet} in {options.dir}")
        return 0
    fleet = options.fleet or Repository.fleet_of(options.dir)
    ceremony = Ceremony(options.dir, fleet=fleet, offline=options.offline)
    if options.action == "rotate":
        ceremony.rotate(
            options.role, now, count=options.root_keys, threshold=options.root_threshold
        )
        _say(f"{options.role} has new keys; its old ones are in {options.dir / 'keys' / 'retired'}")
    elif options.action == "revoke":
        ceremony.revoke(options.role, options.key, now)
        _say(f"{options.key} counts no more for {options.role}")
    elif options.action == "renew":
        _say(f"signed again: {', '.join(ceremony.renew(now))}")
    return _print_keys(ceremony, now)


def _print_keys(ceremony: Ceremony, now: datetime) -> int:
    worried = 0
    for status in ceremony.status():
        left = (status.expires - now).days
        keys = " ".join(status.keys)
        _say(
            f"{status.role:<16} version {status.version:<6} {left:>4} days left"
            f"  {status.threshold} of {len(status.keys)} keys must sign, {status.here} here  {keys}"
        )
        if status.warning(now):
            worried = 1
            print(f"warning: {status.warning(now)}", file=sys.stderr)  # noqa: T201
    return worried


def _print_root(options: argparse.Namespace) -> int:
    payload = Repository.root_of(options.dir, fleet=options.fleet)
    if options.out is not None:
        options.out.write_bytes(payload)
    else:
        sys.stdout.write(payload.decode())
    return 0


def _import(options: argparse.Namespace, settings: DeliverySettings, store: Store) -> int:
    model = _read(options.model, MODEL_BYTES_MAX)
    channels = [_channel(text) for text in options.channels.split(",")]
    normalisation: dict[str, Any] | None = None
    if options.normalisation is not None:
        read = from_object(Normalisation, _read_json(options.normalisation))
        normalisation = read.model_dump(mode="json")
    wish = drafting.Wish(
        name=options.name,
        version=options.version or next_version(store, settings.fleet, options.name),
        stream=options.stream,
        window_samples=options.window,
        hop_samples=options.hop,
        rate_hz=options.rate,
        channels=channels,
        labels=[label for label in options.labels.split(",") if label],
        task=options.task,
        normalisation=normalisation,
        windows=_read_json(options.windows) if options.windows is not None else None,
        threshold=options.threshold,
        runtime=options.runtime,
    )
    manifest, files = drafting.draft(model, wish)
    register_model(
        store,
        fleet=settings.fleet,
        manifest=manifest,
        files=files,
        run=None,
        metrics={"imported": {"file": options.model.name}},
        state="approved",
        now_ns=time.time_ns(),
    )
    _say(f"{manifest.name} {manifest.version} is approved: {manifest.digest()}")
    return 0


def _channel(text: str) -> tuple[str, str]:
    name, _, unit = text.partition(":")
    return name.strip(), unit.strip() or "1"


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        if path.stat().st_size > bytes_max:
            raise FixConfiguration(f"{path} has more than {bytes_max} bytes")
        return path.read_bytes()
    except OSError as error:
        raise FixConfiguration(f"{path}: {error.strerror}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path, 64 << 20))
    except ValueError as error:
        raise FixConfiguration(f"{path} is no JSON: {error}") from error


def _export(options: argparse.Namespace, settings: DeliverySettings, store: Store) -> int:
    folder = Path(settings.dir)
    repository = Repository.open(folder, KeyRing(folder / "keys"), fleet=settings.fleet)
    signed = sites.export(
        store,
        repository,
        load_policy(Path(settings.policy)),
        name=options.name,
        version=options.version,
        devices=options.device,
        out=options.out,
        now=datetime.now(UTC),
    )
    _say(
        f"{options.out}: {options.name} {options.version},"
        f" {len(options.device)} orders, {signed} of them new"
    )
    return 0


def _take(options: argparse.Namespace, settings: DeliverySettings, store: Store) -> int:
    if options.root is not None:
        root = _read(options.root, 1 << 20)
    else:
        root = Repository.root_of(Path(settings.dir), fleet=settings.fleet)
    with Archive(options.file) as archive:
        manifest = sites.take(
            store, archive, fleet=settings.fleet, root=root, now=datetime.now(UTC)
        )
    _say(f"{manifest.name} {manifest.version} is approved: {manifest.digest()}")
    return 0
