"""Recipes and their settings, files about a run, and the questions that training asks."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi.responses import Response
from pydantic import BaseModel, Field

from fieldloop_console.api.doors import Fleet, Here, Operator, Viewer, not_found
from fieldloop_console.api.learning import RunId
from fieldloop_store import artefacts, questions, recipes, runs
from fieldloop_store.artefacts import Artefact
from fieldloop_store.questions import Question
from fieldloop_store.recipes import RecipeRow

router = APIRouter(tags=["learning"])
QuestionId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
FileName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,119}$")]
SHOWN_TYPES = ("image/png", "application/json")
"""What a browser may show; anything else, such as weights, it only saves."""


class Answer(BaseModel):
    """`train` enqueues the proposed run. `what`: what it was, in the view of whoever answers."""

    train: bool
    what: Literal["", "sensor", "regime", "wear", "fault", "other"] = ""
    note: Annotated[str, Field(max_length=2_000)] = ""


class Answered(BaseModel):
    """The run that came of it; null where it was dismissed."""

    run: str | None


@router.get("/recipes")
def list_recipes(_actor: Viewer, here: Here) -> list[RecipeRow]:
    """Recipes that the training service has, each with the JSON Schema of its settings."""
    return recipes.list_recipes(here.store)


@router.get("/fleets/{fleet}/runs/{run}/files")
def list_files(_actor: Viewer, fleet: Fleet, run: RunId, here: Here) -> list[Artefact]:
    """Plots, the model card, and what else a run left."""
    row = runs.find_run(here.store, run)
    if row is None or row.fleet != fleet:
        raise not_found(f"run {run}")
    return artefacts.list_artefacts(here.store, run)


@router.get(
    "/fleets/{fleet}/runs/{run}/files/{name}",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}, "image/png": {}}}},
)
def download_file(_actor: Viewer, fleet: Fleet, run: RunId, name: FileName, here: Here) -> Response:
    """One file of a run."""
    row = runs.find_run(here.store, run)
    found = artefacts.load_artefact(here.store, run, name) if row and row.fleet == fleet else None
    if found is None:
        raise not_found(f"file {name} of run {run}")
    kind, data = found
    if kind in SHOWN_TYPES:
        return Response(data, media_type=kind)
    named = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type="application/octet-stream", headers=named)


@router.get("/fleets/{fleet}/questions")
def list_questions(_actor: Viewer, fleet: Fleet, here: Here, open: bool = False) -> list[Question]:
    """What training asks a person, newest first, with its evidence."""
    return questions.list_questions(here.store, fleet, states=["open"] if open else None)


@router.post("/fleets/{fleet}/questions/{question}")
def answer_question(
    actor: Operator, fleet: Fleet, question: QuestionId, body: Answer, here: Here
) -> Answered:
    """Answer one that is open."""
    run = here.actions.answer_question(
        actor, fleet, question, train=body.train, what=body.what, note=body.note
    )
    return Answered(run=run)
