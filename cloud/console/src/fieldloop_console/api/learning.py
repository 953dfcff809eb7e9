"""Models and training runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field

from fieldloop_console.api.doors import (
    Done,
    Fleet,
    Here,
    IdPath,
    Limit,
    Operator,
    Viewer,
    not_found,
)
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import Id
from fieldloop_contract.manifest import MODEL_FILE
from fieldloop_store import registry, runs
from fieldloop_store.registry import ModelRow
from fieldloop_store.runs import Epoch, RunRow

router = APIRouter(tags=["learning"])
Version = Annotated[int, Path(ge=1, le=1 << 53)]
RunId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


class ModelDetail(BaseModel):
    """A version with its manifest, and the devices in whose slots it serves."""

    model: ModelRow
    manifest: dict[str, Any]
    devices: list[str]


class ModelState(BaseModel):
    """The state to give a version: recalled versions may not run, and devices go back."""

    state: Literal["approved", "recalled"]


class NewRun(BaseModel):
    """A training to put in the queue; the recipe checks its settings when the run begins."""

    model: Id
    recipe: Annotated[str, Field(min_length=1, max_length=63)]
    settings: Annotated[dict[str, Any], Field(max_length=200)] = {}
    reason: Annotated[str, Field(max_length=200)] = ""


class Begun(BaseModel):
    """The id of the run; `GET .../runs/{run}?wait_s=60` waits for its end."""

    run: str


@router.get("/fleets/{fleet}/models")
def list_models(
    _actor: Viewer, fleet: Fleet, here: Here, name: Annotated[
        str | None, Query(max_length=63)
    ] = None,
) -> list[ModelRow]:  # fmt: skip
    """Versions by name and version."""
    return registry.list_models(here.store, fleet, name=name)


@router.get("/fleets/{fleet}/models/{name}/{version}")
def show_model(
    _actor: Viewer, fleet: Fleet, name: IdPath, version: Version, here: Here
) -> ModelDetail:
    """One version."""
    row = registry.find_model(here.store, fleet, name, version)
    if row is None:
        raise not_found(f"model {name} v{version}")
    manifest, _ = registry.load_bundle(here.store, row.digest)
    return ModelDetail(
        model=row,
        manifest=manifest.model_dump(mode="json"),
        devices=here.pulse.devices_with(fleet, name, version),
    )


@router.get(
    "/fleets/{fleet}/models/{name}/{version}/file",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def download_model(
    _actor: Viewer, fleet: Fleet, name: IdPath, version: Version, here: Here
) -> Response:
    """The `.tflite` file."""
    row = registry.find_model(here.store, fleet, name, version)
    if row is None:
        raise not_found(f"model {name} v{version}")
    _, files = registry.load_bundle(here.store, row.digest)
    return Response(
        files[MODEL_FILE],
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{name}-{version}.tflite"'},
    )


@router.patch("/fleets/{fleet}/models/{name}/{version}")
def change_model(
    actor: Operator, fleet: Fleet, name: IdPath, version: Version, body: ModelState, here: Here
) -> Done:
    """Recall a version, or approve it again."""
    row = registry.find_model(here.store, fleet, name, version)
    if row is None:
        raise not_found(f"model {name} v{version}")
    if row.state == "rejected":
        raise RejectedInput(
            "the gates rejected this version", code="model.rejected",
            hint="train again; a rejected version cannot be approved by hand",
        )  # fmt: skip
    here.actions.set_model_state(actor, fleet, name, version, body.state)
    return Done()


@router.get("/fleets/{fleet}/runs")
def list_runs(
    _actor: Viewer, fleet: Fleet, here: Here, model: Annotated[
        str | None, Query(max_length=63)
    ] = None, limit: Limit = 50,
) -> list[RunRow]:  # fmt: skip
    """Training runs, newest first."""
    return runs.list_runs(here.store, fleet, model=model, limit=limit)


@router.get("/fleets/{fleet}/runs/{run}")
def show_run(
    _actor: Viewer,
    fleet: Fleet,
    run: RunId,
    here: Here,
    wait_s: Annotated[float, Query(ge=0, le=60, description="wait so long for the run to end")] = 0,
) -> RunRow:
    """One run; with `wait_s`, as soon as it has ended or the time is over."""
    deadline_ns = here.now_ns() + round(wait_s * 1e9)
    while True:
        row = runs.find_run(here.store, run)
        if row is None or row.fleet != fleet:
            raise not_found(f"run {run}")
        if row.state not in ("queued", "running") or here.now_ns() >= deadline_ns:
            return row
        if here.stop.wait(0.5):
            return row


@router.post("/fleets/{fleet}/runs", status_code=202)
def start_run(actor: Operator, fleet: Fleet, body: NewRun, here: Here) -> Begun:
    """Put a training in the queue."""
    run = here.actions.start_run(
        actor, fleet, model=body.model, recipe=body.recipe, settings=body.settings,
        reason=body.reason,
    )  # fmt: skip
    return Begun(run=run)


@router.delete("/fleets/{fleet}/runs/{run}")
def cancel_run(actor: Operator, fleet: Fleet, run: RunId, here: Here) -> Done:
    """End a training that waits or runs; a running one ends at its next heartbeat."""
    here.actions.cancel_run(actor, fleet, run)
    return Done()


@router.get("/fleets/{fleet}/runs/{run}/epochs")
def list_epochs(
    _actor: Viewer, fleet: Fleet, run: RunId, here: Here, after: Annotated[
        int, Query(ge=-1, le=1 << 30, description="the last epoch seen")
    ] = -1,
) -> list[Epoch]:  # fmt: skip
    """The curve of a run, from the epoch after `after`."""
    row = runs.find_run(here.store, run)
    if row is None or row.fleet != fleet:
        raise not_found(f"run {run}")
    return runs.epochs_of(here.store, run, after=after)
