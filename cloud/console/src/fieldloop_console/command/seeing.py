"""Commands that look: status, devices, machines, events, data, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fieldloop_console.command.client import Refused
from fieldloop_console.command.context import FleetOption, JsonOption, MostOption, opened
from fieldloop_console.command.showing import moment, say, show_json, show_pairs, show_table

devices = typer.Typer(help="Devices: list, show, name, retire.", no_args_is_help=True)
machines = typer.Typer(help="Machines and what measures them.", no_args_is_help=True)
data = typer.Typer(help="Streams, labels, samples.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(events)
    app.command()(doctor)
    app.command(name="fleet")(fleets)
    app.add_typer(devices, name="devices")
    app.add_typer(machines, name="machines")
    app.add_typer(data, name="data")


def status(fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """A fleet at a glance, and what needs you now."""
    with opened() as client:
        found = client.get(f"/fleets/{client.fleet(fleet)}")
    if as_json:
        show_json(found)
        return
    books = found["books"]
    show_pairs({
        "fleet": found["fleet"],
        "devices online": f"{found['online']} of {found['devices']}",
        "rows per second": found["rows_s"],
        "rows stored": f"{books['stored']:,}",
        "books": f"{books['audited'] - books['faulty']} of {books['logs']} logs balanced",
        "under way": f"{found['running_runs']} trainings, {found['running_rollouts']} rollouts",
    })  # fmt: skip
    show_table(
        found["models"],
        {"slot": "slot", "model": lambda m: f"{m['model']} v{m['version']}", "devices": "devices",
         "states": lambda m: ", ".join(f"{n} {s.lower()}" for s, n in m["states"].items())},
        nothing="no model runs yet",
    )  # fmt: skip
    for need in found["needs"]:
        say(f"{ {'bad': 'trouble', 'warn': 'look at'}.get(need['kind'], 'note') }: {need['text']}")


def fleets(as_json: JsonOption = False) -> None:
    """The fleets there are."""
    with opened() as client:
        found = client.get("/fleets")
    if as_json:
        show_json(found)
    else:
        show_table([{"fleet": f} for f in found], {"fleet": "fleet"}, nothing="no fleet was heard")


def events(
    fleet: FleetOption = None,
    kind: Annotated[str | None, typer.Option("--type", help="A type, or `model.*`.")] = None,
    device: Annotated[str | None, typer.Option(help="Of this device only.")] = None,
    most: MostOption = 50,
    as_json: JsonOption = False,
) -> None:
    """What devices told, newest first."""
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/events"
        rows = list(client.pages(path, most, type=kind, device=device))
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"when": lambda r: moment(r["received_ns"]), "device": lambda r: r["log"]["device"],
         "event": "type", "data": lambda r: _words(r["document"].get("data") or {})},
        nothing="nothing of this kind was told",
    )  # fmt: skip


def _words(told: dict[str, Any]) -> str:
    plain = {k: v for k, v in told.items() if isinstance(v, str | int | float)}
    return ", ".join(f"{k} {v}" for k, v in plain.items())[:160]


def doctor(fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """Look at everything that can be wrong between you and the fleet; status 1 where it is."""
    checks: list[dict[str, Any]] = []
    with opened() as client:
        me = client.get("/session")
        checks.append(_check("console answers", True, client.account.url))
        checks.append(_check("you are known", True, f"{me['name']} ({me['role']})"))
        name = client.fleet(fleet)
        found = client.get(f"/fleets/{name}")
    books = found["books"]
    away = found["devices"] - found["online"]
    checks += [
        _check("devices are online", away <= 0, f"{found['online']} of {found['devices']}"),
        _check("books balance", books["faulty"] == 0, f"{books['faulty']} logs do not"),
        _check("rows arrive", bool(found["rows_s"]), f"{found['rows_s'] or 0:.1f} per second"),
        _check("nothing needs you", not found["needs"], f"{len(found['needs'])} things do"),
    ]
    if as_json:
        show_json(checks)
    else:
        show_table(
            checks,
            {"": lambda c: "ok" if c["ok"] else "LOOK", "check": "check", "seen": "seen"},
            nothing="",
        )
    if not all(c["ok"] for c in checks):
        raise typer.Exit(1)


def _check(check: str, good: bool, seen: str) -> dict[str, Any]:
    return {"check": check, "ok": good, "seen": seen}


@devices.command("list")
def list_devices(
    fleet: FleetOption = None,
    text: Annotated[str, typer.Option(help="Part of id or name.")] = "",
    online: Annotated[bool | None, typer.Option(help="Only those online, or offline.")] = None,
    most: MostOption = 100,
    as_json: JsonOption = False,
) -> None:
    """Devices by id."""
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/devices"
        rows = list(client.pages(path, most, text=text or None, online=online))
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"device": "device", "name": "name", "state": "state", "online": "online",
         "last word": lambda r: moment(r["heard_ns"])},
        nothing="no device fits",
    )  # fmt: skip


@devices.command("show")
def show_device(device: str, fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """One device: services, slots, streams."""
    with opened() as client:
        found = client.get(f"/fleets/{client.fleet(fleet)}/devices/{device}")
    if as_json:
        show_json(found)
        return
    own = found["device"]
    show_pairs({
        "device": own["device"], "name": own["name"], "state": own["state"],
        "online": own["online"], "last word": moment(own["heard_ns"]),
    })  # fmt: skip
    show_table(
        found["slots"],
        {"slot": "slot", "runs": lambda s: s["model"] and f"{s['model']} v{s['version']}",
         "ordered": "ordered"},
        nothing="no slots",
    )  # fmt: skip
    show_table(
        found["streams"],
        {"stream": "stream", "Hz": "rate_hz", "channels": lambda s: ", ".join(s["names"]),
         "last": lambda s: moment(s["t1_ns"])},
        nothing="no frames",
    )  # fmt: skip


@devices.command("rename")
def rename_device(device: str, name: str, fleet: FleetOption = None) -> None:
    """Say what people call a device."""
    _change(fleet, device, {"name": name}, f"{device} is now called {name}")


@devices.command("retire")
def retire_device(device: str, fleet: FleetOption = None) -> None:
    """Take a device out of service."""
    _change(fleet, device, {"state": "retired"}, f"{device} is out of service")


@devices.command("reinstate")
def reinstate_device(device: str, fleet: FleetOption = None) -> None:
    """Bring a device back into service."""
    _change(fleet, device, {"state": "active"}, f"{device} is in service")


def _change(fleet: str | None, device: str, body: dict[str, str], done: str) -> None:
    with opened() as client:
        client.ask("PATCH", f"/fleets/{client.fleet(fleet)}/devices/{device}", body=body)
    say(done)


@machines.command("list")
def list_machines(fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """Machines and what measures them now."""
    with opened() as client:
        rows = client.get(f"/fleets/{client.fleet(fleet)}/machines")
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"machine": "machine", "site": "site", "measured by": lambda m: ", ".join(
            f"{a['device']}/{a['stream']}" for a in m["assignments"] if a["to_ns"] is None)},
        nothing="no machine yet; fieldloop machines add makes one",
    )  # fmt: skip


@machines.command("add")
def add_machine(
    machine: str,
    site: Annotated[str, typer.Option(help="Where it stands.")] = "",
    cohort: Annotated[str, typer.Option(help="Machines like it, that help it when new.")] = "",
    fleet: FleetOption = None,
) -> None:
    """Add a machine, or change its site and cohort."""
    body: dict[str, Any] = {"site": site, "nameplate": {"cohort": cohort} if cohort else {}}
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/machines/{machine}"
        client.ask("PUT", path, body=body)
    say(f"{machine} is known")


@machines.command("assign")
def assign(machine: str, device: str, stream: str, fleet: FleetOption = None) -> None:
    """Say that a stream of a device measures a machine, from now on."""
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/machines/{machine}/streams"
        client.ask("POST", path, body={"device": device, "stream": stream})
    say(f"{device}/{stream} measures {machine}")


@data.command("streams")
def streams(device: str, fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """Streams of which a device has sent frames."""
    with opened() as client:
        rows = client.get(f"/fleets/{client.fleet(fleet)}/devices/{device}/streams")
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"stream": "stream", "Hz": "rate_hz", "channels": lambda s: ", ".join(s["names"]),
         "first": lambda s: moment(s["t0_ns"]), "last": lambda s: moment(s["t1_ns"]),
         "t0_ns": "t0_ns", "t1_ns": "t1_ns"},
        nothing="it has sent none",
    )  # fmt: skip


@data.command("label")
def label(
    device: str, stream: str, t0_ns: int, t1_ns: int, text: str, fleet: FleetOption = None
) -> None:
    """Label a span of a stream's time, in ns of UTC."""
    item = {"device": device, "stream": stream, "t0_ns": t0_ns, "t1_ns": t1_ns, "label": text}
    with opened() as client:
        done = client.ask("POST", f"/fleets/{client.fleet(fleet)}/labels", body={"labels": [item]})
    if done["refused"]:
        raise Refused(done["refused"][0][1])
    say("labelled")


@data.command("export")
def export(
    device: str,
    stream: str,
    t0_ns: int,
    t1_ns: int,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("samples.csv"),
    fleet: FleetOption = None,
) -> None:
    """Write every sample of a span to a CSV file."""
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/devices/{device}/streams/{stream}/samples.csv"
        size = client.save(path, out, t0_ns=t0_ns, t1_ns=t1_ns)
    say(f"{out}: {size:,} bytes")
