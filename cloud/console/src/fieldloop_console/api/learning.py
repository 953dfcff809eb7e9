"""Models and training runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel

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
from fieldloop_contract.manifest import MODEL_FILE
from fieldloop_store import registry
from fieldloop_store.registry import ModelRow, RunRow

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
    return registry.list_runs(here.store, fleet, model=model, limit=limit)


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
        row = registry.find_run(here.store, run)
        if row is None or row.fleet != fleet:
            raise not_found(f"run {run}")
        if row.state not in ("queued", "running") or here.now_ns() >= deadline_ns:
            return row
        if here.stop.wait(0.5):
            return row
