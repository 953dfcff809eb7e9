"""Commands about models and trainings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fieldloop_console.command.context import FleetOption, JsonOption, opened
from fieldloop_console.command.showing import moment, say, show_json, show_pairs, show_table
from fieldloop_contract.errors import FixConfiguration

models = typer.Typer(help="Models: list, show, recall, download.", no_args_is_help=True)
train = typer.Typer(help="Trainings: start, cancel, list, show, wait.", no_args_is_help=True)
WAIT_S = 30


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(models, name="models")
    app.add_typer(train, name="train")


@models.command("list")
def list_models(fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """All versions."""
    with opened() as client:
        rows = client.get(f"/fleets/{client.fleet(fleet)}/models")
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"model": "name", "version": "version", "state": "state",
         "int8 accuracy": lambda m: (m["metrics"].get("int8") or {}).get("accuracy"),
         "bytes": lambda m: m["metrics"].get("bytes"), "made": lambda m: moment(m["created_ns"])},
        nothing="no model yet",
    )  # fmt: skip


@models.command("show")
def show_model(
    name: str, version: int, fleet: FleetOption = None, as_json: JsonOption = False
) -> None:
    """One version: figures, gates, and where it runs."""
    with opened() as client:
        found = client.get(f"/fleets/{client.fleet(fleet)}/models/{name}/{version}")
    if as_json:
        show_json(found)
        return
    row = found["model"]
    show_pairs({
        "model": f"{row['name']} v{row['version']}", "state": row["state"],
        "digest": row["digest"], "made": moment(row["created_ns"]), "run": row["run"],
        "devices": ", ".join(found["devices"][:20]) or None,
    })  # fmt: skip
    show_table(
        row["metrics"].get("gates", []),
        {"gate": "name", "outcome": "outcome", "words": "words"},
        nothing="no gates",
    )


@models.command("recall")
def recall(name: str, version: int, fleet: FleetOption = None) -> None:
    """Take a version back from every device."""
    _state(fleet, name, version, "recalled")


@models.command("approve")
def approve(name: str, version: int, fleet: FleetOption = None) -> None:
    """Approve a recalled version again."""
    _state(fleet, name, version, "approved")


def _state(fleet: str | None, name: str, version: int, state: str) -> None:
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/models/{name}/{version}"
        client.ask("PATCH", path, body={"state": state})
    say(f"{name} v{version} is {state}")


@models.command("download")
def download(
    name: str,
    version: int,
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    fleet: FleetOption = None,
) -> None:
    """Write the `.tflite` file of a version."""
    target = out or Path(f"{name}-{version}.tflite")
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/models/{name}/{version}/file"
        say(f"{target}: {client.save(path, target):,} bytes")


@train.command("list")
def list_runs(fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """Trainings, newest first."""
    with opened() as client:
        rows = client.get(f"/fleets/{client.fleet(fleet)}/runs")
    if as_json:
        show_json(rows)
        return
    show_table(
        rows,
        {"run": "id", "model": "model", "state": "state",
         "begun": lambda r: moment(r["created_ns"]),
         "verdict": lambda r: (r["verdict"] or {}).get("words")},
        nothing="nothing was trained yet",
    )  # fmt: skip


@train.command("show")
def show_run(run: str, fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """One training."""
    with opened() as client:
        found = client.get(f"/fleets/{client.fleet(fleet)}/runs/{run}")
    _show(found, as_json)


@train.command("start")
def start(
    model: str,
    recipe: Annotated[str, typer.Option(help="Recipe that trains it.")] = "activity_cnn",
    settings: Annotated[str, typer.Option(help="The recipe's settings as a JSON object.")] = "{}",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    fleet: FleetOption = None,
) -> None:
    """Put a training in the queue; prints its id, for `fieldloop train wait`."""
    try:
        given = json.loads(settings)
    except ValueError as error:
        raise FixConfiguration(f"--settings is no JSON: {error}") from error
    body = {"model": model, "recipe": recipe, "settings": given, "reason": reason}
    with opened() as client:
        say(client.ask("POST", f"/fleets/{client.fleet(fleet)}/runs", body=body)["run"])


@train.command("cancel")
def cancel(run: str, fleet: FleetOption = None) -> None:
    """End a training that waits or runs."""
    with opened() as client:
        client.ask("DELETE", f"/fleets/{client.fleet(fleet)}/runs/{run}")
    say(f"{run} is ended, or ends at its next heartbeat")


@train.command("wait")
def wait(run: str, fleet: FleetOption = None, as_json: JsonOption = False) -> None:
    """Wait until a training ends; status 0 only if its model was approved."""
    with opened() as client:
        path = f"/fleets/{client.fleet(fleet)}/runs/{run}"
        while True:
            query = {"wait_s": WAIT_S}
            found = client.ask("GET", path, query=query, timeout_s=WAIT_S + 30)
            if found["state"] not in ("queued", "running"):
                break
    _show(found, as_json)
    raise typer.Exit(0 if found["state"] == "approved" else 1)


def _show(run: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(run)
        return
    progress = run["progress"] or {}
    show_pairs({
        "run": run["id"], "model": run["model"], "recipe": run["recipe"], "state": run["state"],
        "stage": progress.get("stage"), "epoch": progress.get("epoch"),
        "why": run["trigger"].get("reason"), "verdict": (run["verdict"] or {}).get("words"),
    })  # fmt: skip
