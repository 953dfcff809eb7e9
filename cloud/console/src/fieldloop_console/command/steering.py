"""Commands about rollouts: they ask, delivery obeys at its next look, and its answer is told."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fieldloop_console.command.client import Client, Refused
from fieldloop_console.command.context import FleetOption, JsonOption, opened
from fieldloop_console.command.showing import moment, say, show_json, show_pairs, show_table

rollout = typer.Typer(
    help="Rollouts: list, show, start, pause, resume, approve, abort, retry.", no_args_is_help=True
)


WhyOption = Annotated[str, typer.Option("--why", help="The reason, for the record.")]
_LOOK_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(rollout, name="rollout")


@rollout.command("list")
def list_rollouts(fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """Rollouts, newest first."""
    with opened() as client:
        rows = client.get(f"/fleets/{client.fleet(fleet)}/rollouts")
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"rollout": "id", "model": lambda r: f"{r['model']} v{r['version']}", "slot": "slot",
         "state": "state", "begun": lambda r: moment(r["created_ns"]),
         "verdict": lambda r: r["document"].get("verdict")},
        nothing="no rollout yet",
    )  # fmt: skip


@rollout.command("show")
def show_rollout(rollout: str, fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """One rollout and its waves."""
    with opened() as client:
        found = client.get(f"/fleets/{client.fleet(fleet)}/rollouts/{rollout}")
    if as_json:
        show_json(found)
        return
    show_pairs({
        "rollout": found["id"], "model": f"{found['model']} v{found['version']}",
        "slot": found["slot"], "state": found["state"],
        "verdict": found["document"].get("verdict"),
    })  # fmt: skip
    show_table(
        found["document"].get("waves", []),
        {"devices": lambda w: len(w["devices"]), "installed": "installed", "windows": "windows",
         "passed": "passed"},
        nothing="no wave has begun",
    )  # fmt: skip


@rollout.command("start")
def start(
    model: str,
    version: int,
    lane: Annotated[str | None, typer.Option(help="Slot, where the model has several.")] = None,
    why: WhyOption = "",
    fleet: FleetOption = None,
) -> None:
    """Roll a version out."""
    body = {"model": model, "version": version, "lane": lane, "why": why}
    with opened() as client:
        name = client.fleet(fleet)
        _follow(client, name, client.ask("POST", f"/fleets/{name}/rollouts", body=body))


@rollout.command("pause")
def pause(rollout: str, why: WhyOption = "", fleet: FleetOption = None) -> None:
    """Touch nobody new; what was touched is still watched."""
    _steer("pause", rollout, why, fleet)


@rollout.command("resume")
def resume(rollout: str, why: WhyOption = "", fleet: FleetOption = None) -> None:
    """Go on after a pause."""
    _steer("resume", rollout, why, fleet)


@rollout.command("approve")
def approve(rollout: str, why: WhyOption = "", fleet: FleetOption = None) -> None:
    """Let the next wave begin, where its policy waits for a person."""
    _steer("approve", rollout, why, fleet)


@rollout.command("abort")
def abort(rollout: str, why: WhyOption = "", fleet: FleetOption = None) -> None:
    """Give every touched device back what it had."""
    _steer("abort", rollout, why, fleet)


@rollout.command("retry")
def retry(rollout: str, why: WhyOption = "", fleet: FleetOption = None) -> None:
    """Begin a halted or aborted rollout again, as a new one."""
    _steer("retry", rollout, why, fleet)


def _steer(kind: str, rollout: str, why: str, fleet: str | None) -> None:
    with opened() as client:
        name = client.fleet(fleet)
        path = f"/fleets/{name}/rollouts/{rollout}/requests"
        _follow(client, name, client.ask("POST", path, body={"kind": kind, "why": why}))


def _follow(client: Client, fleet: str, asked: dict[str, str], timeout_s: float = 30) -> None:
    """Wait for delivery's answer, and tell it."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = client.get(f"/fleets/{fleet}/requests/{asked['request']}")
        if found["state"] == "refused":
            raise Refused(found["answer"], code="rollout.refused")
        if found["state"] == "done":
            say(found["answer"] or "done")
            return
        if time.monotonic() > deadline:
            say(f"asked as {asked['request']}; delivery has not answered yet: is it running?")
            return
        time.sleep(_LOOK_S)
