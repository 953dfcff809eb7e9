"""Commands for the people of the floor: commission, commissionings, alarms, evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fieldloop_console.command.context import FleetOption, JsonOption, MostOption, opened
from fieldloop_console.command.showing import moment, say, show_json, show_pairs, show_table
from fieldloop_store.commissionings import BUDGET_PER_WEEK, RUNNING_HOURS
from fieldloop_store.lifecycle import VERDICTS

commissionings = typer.Typer(help="Commissionings: list, show, arm, end.", no_args_is_help=True)
alarms = typer.Typer(
    help="Alarms: what stands; show, acknowledge, shelve, judge.", invoke_without_command=True
)
Machine = Annotated[str, typer.Argument(help="Of this machine only.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(commission)
    app.command()(evidence)
    app.add_typer(commissionings, name="commissionings")
    app.add_typer(alarms, name="alarms")


def commission(
    whom: Annotated[str, typer.Argument(metavar="MACHINE|COHORT")],
    cohort: Annotated[bool, typer.Option("--cohort", help="It names a cohort.")] = False,
    slot: Annotated[str, typer.Option(help="Slot whose model is calibrated.")] = "main",
    hours: Annotated[float, typer.Option(help="Running hours to learn from.")] = RUNNING_HOURS,
    false_alarms_per_week: Annotated[
        float, typer.Option(help="False alarms that you put up with in a week of running.")
    ] = BUDGET_PER_WEEK,
    unlike_its_cohort: Annotated[
        bool, typer.Option("--unlike-its-cohort", help="It is meant to differ from its cohort.")
    ] = False,
    fleet: FleetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn what is normal for a machine, or for each machine of a cohort."""
    with opened() as client:
        name = client.fleet(fleet)
        if not cohort:  # a name that is no machine's may be a cohort's
            known = client.get(f"/fleets/{name}/machines")
            cohort = whom not in {m["machine"] for m in known} and any(
                m["nameplate"].get("cohort") == whom for m in known
            )
        body = {
            "cohort" if cohort else "machine": whom, "slot": slot, "running_hours": hours,
            "budget_per_week": false_alarms_per_week, "far_is_meant": unlike_its_cohort,
        }  # fmt: skip
        rows = client.ask("POST", f"/fleets/{name}/commissionings", body=body)
    _show(rows, as_json)


@commissionings.command("list")
def list_commissionings(
    machine: Annotated[str | None, typer.Option(help="Of this machine only.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    fleet: FleetOption = None,
    as_json: JsonOption = False,
) -> None:
    """How commissionings stand, what is missing, and how long it will take."""
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/commissionings"
        _show(client.get(path, machine=machine, under_way=not every), as_json)


@commissionings.command("show")
def show_commissioning(
    commissioning: str, fleet: FleetOption = None, as_json: JsonOption = False
) -> None:
    """One commissioning."""
    with opened() as client:
        found = client.get(f"/fleets/{client.fleet(fleet)}/commissionings/{commissioning}")
    if as_json:
        show_json(found)
        return
    show_pairs({
        "machine": found["machine"], "device": found["device"], "slot": found["slot"],
        "state": found["state"], "says": found["words"], "ready in": _hours(found["ready_in_s"]),
        "threshold": found["threshold"], "record": found["record"],
        "begun": moment(found["begun_ns"]),
    })  # fmt: skip
    show_table(
        found["stretches"],
        {"left out from": lambda s: moment(s["t0_ns"]), "to": lambda s: moment(s["t1_ns"]),
         "windows": "windows", "level": "level"},
        nothing="nothing was left out",
    )  # fmt: skip


@commissionings.command("arm")
def arm(commissioning: str, fleet: FleetOption = None) -> None:
    """Say that the machine is healthy: its alarms may ring."""
    _decide("arm", commissioning, fleet, "armed")


@commissionings.command("end")
def end(commissioning: str, fleet: FleetOption = None) -> None:
    """Give one up."""
    _decide("end", commissioning, fleet, "ended")


def _decide(kind: str, commissioning: str, fleet: str | None, done: str) -> None:
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/commissionings/{commissioning}"
        found = client.ask("POST", path, body={"kind": kind})
    say(f"the commissioning of {found['machine']} is {done}")


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"commissioning": "id", "machine": "machine", "slot": "slot", "state": "state",
         "says": "words", "ready in": lambda r: _hours(r["ready_in_s"])},
        nothing="none is under way; fieldloop commission MACHINE begins one",
    )  # fmt: skip


def _hours(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds / 3600:.1f} h"


@alarms.callback()
def list_alarms(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Closed ones, too.")] = False,
    machine: Annotated[str | None, typer.Option(help="Of this machine only.")] = None,
    fleet: FleetOption = None,
    most: MostOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Alarms that stand, newest first."""
    if context.invoked_subcommand is not None:
        return
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/alarms"
        rows = list(client.pages(path, most, open=not every, machine=machine))
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"alarm": "id", "machine": lambda r: r["machine"] or r["device"], "site": "site",
         "phase": lambda r: r["life"]["phase"], "raised": lambda r: moment(r["life"]["raised_ns"]),
         "verdict": lambda r: r["life"]["verdict"]},
        nothing="no alarm stands",
    )  # fmt: skip


@alarms.command("show")
def show_alarm(alarm: str, fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """One alarm and its history."""
    with opened() as client:
        found = client.get(f"/fleets/{client.fleet(fleet)}/alarms/{alarm}")
    if as_json:
        show_json(found)
        return
    own, told = found["alarm"], found["alarm"]["document"]
    show_pairs({
        "machine": own["machine"], "site": own["site"], "device": own["device"],
        "slot": own["slot"], "phase": own["life"]["phase"], "stands": own["life"]["standing"],
        "score": told.get("score"), "threshold": told.get("threshold"),
        "verdict": own["life"]["verdict"],
    })  # fmt: skip
    show_table(
        found["history"],
        {"when": lambda h: moment(h["at_ns"]), "event": "event", "by": "actor"},
        nothing="nothing happened",
    )  # fmt: skip


@alarms.command("acknowledge")
def acknowledge(alarm: str, fleet: FleetOption = None) -> None:
    """Say that you have seen it."""
    _act(alarm, fleet, {"kind": "acknowledge"})


@alarms.command("shelve")
def shelve(
    alarm: str,
    hours: Annotated[float, typer.Option(help="For so long.")] = 8.0,
    why: Annotated[str, typer.Option("--why", help="The reason, for the record.")] = "",
    fleet: FleetOption = None,
) -> None:
    """Hear nothing of it for a while."""
    _act(alarm, fleet, {"kind": "shelve", "hours": hours, "why": why})


@alarms.command("judge")
def judge(
    alarm: str,
    verdict: Annotated[str, typer.Argument(help=f"One of {', '.join(VERDICTS)}.")],
    fleet: FleetOption = None,
) -> None:
    """Say what it was: that is a label of its span at once."""
    _act(alarm, fleet, {"kind": "judge", "verdict": verdict})


def _act(alarm: str, fleet: str | None, body: dict[str, Any]) -> None:
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/alarms/{alarm}"
        found = client.ask("POST", path, body=body)
    life = found["life"]
    words = f", judged {life['verdict']}" if life["verdict"] else ""
    say(f"the alarm of {found['machine'] or found['device']} is {life['phase']}{words}")


def evidence(
    alarm: str,
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    fleet: FleetOption = None,
) -> None:
    """Write all that belongs to an alarm as one zip, for an audit or a supplier."""
    target = out or Path(f"alarm-{alarm[:12]}.zip")
    with opened() as client:
        size = client.save(f"/fleets/{client.fleet(fleet)}/alarms/{alarm}/evidence.zip", target)
    say(f"{target}: {size:,} bytes")
