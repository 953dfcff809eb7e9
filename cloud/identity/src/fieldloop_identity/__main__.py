"""`python -m fieldloop_identity`: make the authority, provision, revoke, run the service.

The composition root: everything is made here and passed in.
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
from functools import partial
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_identity import many
from fieldloop_identity.authority import Authority
from fieldloop_identity.enrolment import Enrolment, Terms, to_ns, utc_now
from fieldloop_identity.keeping import Keeper, Places
from fieldloop_identity.server import Door
from fieldloop_identity.settings import IdentitySettings
from fieldloop_runtime import health, journal, life
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.settings import help_text, load
from fieldloop_store import identities
from fieldloop_store.engine import Store

_ABOUT = """\
The fleet's certificate authority: who may connect to the broker, and as whom.

  fieldloop-identity init                     make the authority and the broker's files
  fieldloop-identity adopt CERT KEY [CHAIN]   take an authority of your own instead
  fieldloop-identity provision DEVICE         a one-time token, which the device's agent is given
  fieldloop-identity provision --csv FILE     one for each row (device, uuid); - is stdin
  fieldloop-identity run                      the service: enrolment and renewal over HTTPS
  fieldloop-identity revoke DEVICE            nothing that it holds counts any more
  fieldloop-identity rotate                   a new authority; the old one stays trusted too
  fieldloop-identity list | incidents         what was issued; what a person should look at
  fieldloop-identity doctor                   certificates, broker, access, devices: or the remedy

All settings come from the environment, for every command:

"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="fieldloop-identity",
        description=_ABOUT + help_text(IdentitySettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="run the service; makes what `init` makes where it lacks")
    commands.add_parser("init", help="make the authority, and the files of broker and services")
    adopt = commands.add_parser("adopt", help="take an authority of your own")
    adopt.add_argument("certificate", type=Path, help="its certificate (PEM), CA:TRUE")
    adopt.add_argument("key", type=Path, help="its private key (PEM, not encrypted)")
    adopt.add_argument("chain", type=Path, nargs="?", help="the certificates above it (PEM)")
    provision = commands.add_parser("provision", help="print a one-time token for a device")
    provision.add_argument("device", nargs="?", default="", help="id of the device")
    provision.add_argument(
        "--csv",
        default="",
        metavar="FILE",
        help="many at once: rows with a header `device` or `device,uuid`; prints JSON lines, for"
        " `fieldloop-delivery fleet enrol`; a device that is enrolled gets no token",
    )
    provision.add_argument("--hours", type=float, default=24.0, help="its life (default 24)")
    revoke = commands.add_parser("revoke", help="revoke a device")
    revoke.add_argument("device", help="id of the device")
    commands.add_parser("rotate", help="a new authority beside the old one")
    commands.add_parser("list", help="certificates, as JSON")
    commands.add_parser("incidents", help="what a person should look at, as JSON")
    doctor = commands.add_parser("doctor", help="say what is wrong; status 1 where something is")
    doctor.add_argument(
        "--host", help="name under which the broker is reached from here; as devices by default"
    )
    doctor.add_argument("--json", action="store_true", help="findings as JSON")
    return top


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run one command; returns the exit status."""
    options = parser().parse_args(argv)
    if options.command == "run":
        return life.run("identity", lambda running: serve(running, environ))
    try:
        settings = load(IdentitySettings, environ)
        journal.configure("WARNING")
        return (
            diagnose(options, settings)
            if options.command == "doctor"
            else command(options, settings)
        )
    except FieldloopError as error:
        sys.stderr.write(f"fieldloop-identity: {error}\n")
        return int(life.ExitCode.CONFIGURATION)
    except OSError as error:
        sys.stderr.write(f"fieldloop-identity: {error}\n")
        return int(life.ExitCode.FAILED)


def command(options: argparse.Namespace, settings: IdentitySettings) -> int:
    """One command other than `run`: prints what came of it as JSON, a token as it is."""
    folder = Path(settings.dir)
    if options.command == "adopt":
        chain = options.chain.read_bytes() if options.chain else b""
        pair = (options.certificate.read_bytes(), options.key.read_bytes())
        shown: Any = {"authority": Authority.adopt(folder, *pair, chain).fingerprint}
    elif options.command == "rotate":
        shown = {"authority": Authority.open(folder).rotate(utc_now()).fingerprint}
    else:
        store = Store.open(settings.store_url)
        try:
            shown = _with_store(options, settings, store)
        finally:
            store.close()
    sys.stdout.write((shown if isinstance(shown, str) else json.dumps(shown, indent=2)) + "\n")
    return int(life.ExitCode.OK)


def diagnose(options: argparse.Namespace, settings: IdentitySettings) -> int:
    """Print findings; the status says whether something needs a person."""
    from fieldloop_identity.doctor import examine  # noqa: PLC0415 - not needed by the service

    store = Store.open(settings.store_url)
    try:
        found = examine(settings, store, utc_now(), options.host or settings.broker.host)
    finally:
        store.close()
    if options.json:
        sys.stdout.write(json.dumps([asdict(f) for f in found], indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(str(f) for f in found) + "\n")
    return int(life.ExitCode.OK if all(f.fine for f in found) else life.ExitCode.FAILED)


def _with_store(options: argparse.Namespace, settings: IdentitySettings, store: Store) -> Any:
    now, fleet = utc_now(), settings.fleet
    enrolment = compose(settings, store, Journal("identity"))
    match options.command:
        case "init":
            keeper(settings, enrolment, Journal("identity")).look(now, time.monotonic())
            return {"authority": Authority.open(Path(settings.dir)).fingerprint}
        case "provision":
            made = partial(enrolment.provision, fleet, actor=_actor(), hours=options.hours, now=now)
            if bool(options.device) == bool(options.csv):
                raise FixConfiguration("name one device, or a file with --csv")
            if options.device:
                return made(options.device)
            named = many.read(fleet, options.csv)
            return "\n".join(many.lines(store, fleet, named, made, to_ns(now)))
        case "revoke":
            count = enrolment.revoke(fleet, options.device, now)
            return {"device": options.device, "certificates": count}
        case "list":
            with store.read() as connection:
                rows = identities.list_certificates(connection, fleet=fleet)
            tokens = identities.open_tokens(store, fleet, to_ns(now))
            issued = [asdict(row) for row in rows]
            return {"certificates": issued, "waiting": [row.device for row in tokens]}
        case _:
            return {"incidents": [asdict(r) for r in identities.list_incidents(store, fleet)]}


def compose(settings: IdentitySettings, store: Store, log: Journal) -> Enrolment:
    """Enrolment on an authority, which is made where there is none."""
    folder = Path(settings.dir)
    if not (folder / "ca.pem").exists():
        Authority.create(folder, f"fieldloop {settings.fleet}", utc_now())
        log.warning("authority.made", folder=str(folder))
    terms = Terms(
        broker_host=settings.broker.host,
        broker_port=settings.broker.port,
        root_file=Path(settings.root_file),
        profiles_dir=Path(settings.profiles_dir) if settings.profiles_dir else None,
        certificate_days=settings.certificate_days,
        grace_days=settings.grace_days,
    )
    return Enrolment(store, lambda: Authority.open(folder), terms, log)


def keeper(settings: IdentitySettings, enrolment: Enrolment, log: Journal) -> Keeper:
    """Who keeps the files of broker and services."""
    places = Places(
        authority=Path(settings.dir),
        broker=Path(settings.broker.dir),
        seen_as=settings.broker.dir,
        clients=Path(settings.clients_dir),
        hosts=tuple(h.strip() for h in settings.hosts.split(",") if h.strip()),
        fleet=settings.fleet,
        service_days=settings.service_days,
    )
    return Keeper(places, enrolment, log)


def serve(running: life.Life, environ: Mapping[str, str]) -> None:
    """The service's body."""
    settings = load(IdentitySettings, environ)
    journal.configure(settings.log_level)
    log = Journal("identity")
    store = Store.open(settings.store_url)
    state = health.Health()
    stop_health = health.serve(state, settings.health)
    enrolment = compose(settings, store, log)
    files = keeper(settings, enrolment, log)
    files.look(utc_now(), time.monotonic())
    broker = Path(settings.broker.dir)
    door = Door(
        (settings.listen_host, settings.listen_port),
        broker / "server.pem",
        broker / "server-key.pem",
        enrolment,
        lambda: Authority.open(Path(settings.dir)).trust,
        log,
    )
    running.spawn("door", door.serve_forever)
    log.info("service.started", fleet=settings.fleet, port=door.server_address[1])
    try:
        while not running.stop.is_set():
            state.tick("owner", limit_s=3 * settings.refresh_s + 30)
            running.stop.wait(settings.refresh_s)
            try:
                if files.look(utc_now(), time.monotonic()):
                    door.reload()
            except FieldloopError as error:
                log.error("files.not_kept", error=str(error))
    finally:
        door.shutdown()
        running.join()
        door.server_close()
        stop_health()
        store.close()
        log.info("service.stopped")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
