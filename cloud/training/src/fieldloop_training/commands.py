"""The commands of `fieldloop-training`, for people: typed with typer, shown with rich.

`--json` where a program reads. Every command but `run --local` speaks with the store that
`FIELDLOOP_STORE_URL` names. Errors say what to do, on stderr, with a stable exit status.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fieldloop_contract.errors import FieldloopError, FixConfiguration, RejectedInput, RetryLater
from fieldloop_runtime.health import Health
from fieldloop_runtime.health import serve as serve_health
from fieldloop_runtime.journal import configure
from fieldloop_runtime.life import ExitCode, Life
from fieldloop_runtime.life import run as run_service
from fieldloop_runtime.settings import help_text, load
from fieldloop_store import artefacts, questions, registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_training import screen
from fieldloop_training.lineage import lineage as lineage_of
from fieldloop_training.lineage import overview
from fieldloop_training.settings import TrainingSettings

app = typer.Typer(
    help="Trains models from what devices sent and people labelled, and judges them before any "
    "device sees one.\n\nTry it with a file and no server:\n\n"
    "    fieldloop-training run --local windows.npz --out result\n\n"
    "As a service, with the variables that `settings` explains:\n\n"
    "    FIELDLOOP_FLEET=demo FIELDLOOP_STORE_URL=sqlite:////var/lib/fieldloop/store.sqlite "
    "fieldloop-training run",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out, _err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
Json = Annotated[bool, typer.Option("--json", help="print JSON for a program")]
Run = Annotated[str, typer.Argument(help="id of the run, or how it begins")]
WATCH_S = 0.5


@contextmanager
def _told() -> Iterator[None]:
    """Turn an error on purpose into words and an exit status."""
    try:
        yield
    except FieldloopError as error:
        _err.print(f"fieldloop-training: {error}", markup=False, highlight=False)
        codes = {FixConfiguration: ExitCode.CONFIGURATION, RetryLater: ExitCode.TEMPORARY}
        raise typer.Exit(codes.get(type(error), ExitCode.FAILED)) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error


@contextmanager
def _store() -> Iterator[tuple[Store, TrainingSettings]]:
    with _told():
        settings = load(TrainingSettings, os.environ)
        store = Store.open(settings.store_url, create=False)
        try:
            yield store, settings
        finally:
            store.close()


def _show(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2, sort_keys=True) + "\n")


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise FixConfiguration(f"{what} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise FixConfiguration(f"{what} is not a JSON object", hint='such as {"epochs": 20}')
    return parsed


def _find(store: Store, settings: TrainingSettings, run: str) -> runs.RunRow:
    """A run by its id, or by how it begins."""
    rows = runs.list_runs(store, settings.fleet, limit=runs.ROWS_MAX)
    found = [row for row in rows if row.id.startswith(run)]
    if len(found) != 1:
        raise RejectedInput(
            f"{len(found)} runs begin with {run!r:.40}", code="runs.unknown",
            hint="`fieldloop-training status` lists them",
        )  # fmt: skip
    return found[0]


@app.command(epilog="Without --local: watches the store, and runs until it is stopped.")
def run(
    local: Annotated[
        Path | None,
        typer.Option(
            help="train on this file (.parquet snapshot or .npz of windows) and judge, with no "
            "server; the result goes to --out"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the result, with --local")] = Path("result"),
    recipe: Annotated[str, typer.Option(help="with --local: the recipe")] = "activity_cnn",
    settings: Annotated[
        str, typer.Option(help="with --local: the recipe's settings as JSON")
    ] = "{}",
    options: Annotated[
        str, typer.Option(help='with --local: options as JSON, such as {"variant": "float16"}')
    ] = "{}",
    model: Annotated[str, typer.Option(help="with --local: name of the model")] = "model",
) -> None:
    """Watch and train until stopped; or train on one file with --local."""
    if local is not None:
        with _told():
            _run_local(local, out, recipe, settings, options, model)
        return
    with _told():
        given = load(TrainingSettings, os.environ)
    configure(given.log_level)
    raise typer.Exit(run_service("training", lambda life: _serve(life, given)))


def _run_local(path: Path, out: Path, recipe: str, settings: str, options: str, model: str) -> None:
    from fieldloop_training.local import run_local  # noqa: PLC0415 - only here

    given, wanted = _object(settings, "--settings"), _object(options, "--options")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    out.mkdir(parents=True, exist_ok=True)
    with _quiet(out / "libraries.log") as console, screen.Live(console) as live:
        row = run_local(
            path, out, recipe=recipe, settings=given, options=wanted, model=model,
            watch=live.follow,
        )  # fmt: skip
    screen.verdict(_out, row)
    _out.print(f"[dim]plots, card and bundle are in {out}[/dim]")
    if row.state not in ("approved", "rejected"):
        raise typer.Exit(ExitCode.FAILED)


@contextmanager
def _quiet(log: Path) -> Iterator[Console]:
    """Let what libraries write to stderr go to a file; a console on the real stderr."""
    with os.fdopen(os.dup(2), "w") as real, log.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield Console(file=real, force_terminal=real.isatty(), soft_wrap=True)
        finally:
            os.dup2(real.fileno(), 2)


def _serve(life: Life, settings: TrainingSettings) -> None:
    from fieldloop_training.service import serve  # noqa: PLC0415 - only the service needs it

    health = Health()
    stop = serve_health(health, settings.health)
    try:
        serve(life, settings, health)
    finally:
        stop()


@app.command("settings")
def show_settings() -> None:
    """The environment variables that the service reads, with their defaults."""
    sys.stdout.write(help_text(TrainingSettings) + "\n")


@app.command()
def status(as_json: Json = False) -> None:
    """The newest runs, all versions, and what is asked of you."""
    with _store() as (store, settings):
        shown = overview(store, settings.fleet)
    if as_json:
        _show(shown)
    else:
        screen.status(_out, shown)


@app.command()
def enqueue(
    recipe: Annotated[str | None, typer.Option(help="recipe, if not the service's")] = None,
    settings: Annotated[str | None, typer.Option(help="the recipe's settings as JSON")] = None,
    options: Annotated[str, typer.Option(help="options of the run as JSON")] = "{}",
    priority: Annotated[int, typer.Option(help="-100 to 100, higher first")] = 0,
    by: Annotated[str, typer.Option(help="who asks for it")] = "command",
) -> None:
    """Put a run in the queue by hand; a running service carries it out. Prints its id."""
    with _store() as (store, given):
        mine = given.recipe_object() if settings is None else _object(settings, "--settings")
        wanted = given.run_options().model_dump(mode="json") | _object(options, "--options")
        made = runqueue.enqueue(
            store, fleet=given.fleet, model=given.model, recipe=recipe or given.recipe,
            settings=mine, options=wanted, trigger={"kind": "hand", "by": by},
            priority=priority, now_ns=time.time_ns(),
        )  # fmt: skip
    sys.stdout.write(made + "\n")


@app.command()
def watch(run: Run, as_json: Json = False) -> None:
    """Follow a run to its end: stage, epochs, figures, and the verdict."""
    with _store() as (store, settings):
        row = _find(store, settings, run)
        with screen.Live(_err) as live:
            live.follow(store, row.id)
            while row.state in runs.OPEN_STATES:
                time.sleep(WATCH_S)
                row = _find(store, settings, row.id)
        if as_json:
            _show({"id": row.id, "state": row.state, "verdict": row.verdict})
        else:
            screen.verdict(_out, row)


@app.command()
def cancel(run: Run, by: Annotated[str, typer.Option(help="who wants it")] = "command") -> None:
    """End a run that waits; ask the one that runs to end, which takes seconds."""
    with _store() as (store, settings):
        row = _find(store, settings, run)
        said = runqueue.cancel(store, row.id, by=by, now_ns=time.time_ns())
        if said == "no":
            raise RejectedInput(f"run {row.id[:12]} has ended: {row.state}", code="runs.ended")
    words = {"cancelled": "cancelled", "asked": "asked to end; `watch` shows when it has"}
    _out.print(f"{row.id[:12]} {words[said]}")


@app.command()
def compare(
    ids: Annotated[list[str], typer.Argument(help="ids of runs, or how they begin")],
    as_json: Json = False,
) -> None:
    """Runs side by side: what was set differently, and what came of it."""
    with _store() as (store, settings):
        seen = runs.compare(store, [_find(store, settings, run).id for run in ids])
    if as_json:
        _show({"runs": [r.id for r in seen.runs], "differing": seen.differing,
               "metrics": seen.metrics})  # fmt: skip
    else:
        screen.compared(_out, seen)


@app.command()
def lineage(
    model: Annotated[str, typer.Argument(help="name of the model")],
    version: Annotated[int, typer.Argument(help="its version")],
) -> None:
    """What made a version, and which devices run anything trained on its data, as JSON."""
    with _store() as (store, settings):
        _show(lineage_of(store, settings.fleet, model, version))


@app.command()
def recall(
    dataset: Annotated[str, typer.Argument(help="digest of the dataset")],
    reason: Annotated[str, typer.Option(help="why, for those who meet it later")],
) -> None:
    """Retire every model that learnt from a dataset; delivery takes them off the devices."""
    with _store() as (store, settings):
        gone = registry.recall_dataset(
            store, settings.fleet, dataset, reason=reason, now_ns=time.time_ns()
        )
    for name, version in gone:
        _out.print(f"recalled {name} version {version}")
    _out.print(f"{len(gone)} versions recalled; the dataset trains nothing from now on")


@app.command()
def sealed(
    model: Annotated[str, typer.Argument(help="name of the model")],
    version: Annotated[int, typer.Argument(help="its version")],
    by: Annotated[str, typer.Option(help="who looks")],
    reason: Annotated[str, typer.Option(help="why, for the audit")],
    again: Annotated[bool, typer.Option("--again", help="although it was looked at")] = False,
    as_json: Json = False,
) -> None:
    """Look once at how good a version is on the sealed recordings; counted, and in the audit."""
    from fieldloop_training.sealed import look  # noqa: PLC0415 - with the dataset's file format

    with _store() as (store, settings):
        told = look(
            store, settings.fleet, model, version, by=by, reason=reason, insist=again,
            now_ns=time.time_ns(),
        )  # fmt: skip
    if as_json:
        _show(told.to_object())
    else:
        _out.print(told.words, highlight=False)


@app.command("import")
def bring(
    model: Annotated[Path, typer.Argument(help="a .tflite file")],
    manifest: Annotated[Path, typer.Argument(help="its manifest, as JSON")],
    dataset: Annotated[str, typer.Option(help="digest of the dataset to judge it on")],
    by: Annotated[str, typer.Option(help="who brings it")] = "command",
) -> None:
    """Judge a file that was made elsewhere by the same gates. Prints the id of the run."""
    # Imported here: it knows the recipes, which the other commands do not need.
    from fieldloop_training.fitting import IMPORTED_MANIFEST, IMPORTED_MODEL  # noqa: PLC0415

    with _store() as (store, given):
        try:
            files = {
                IMPORTED_MODEL: ("application/octet-stream", model.read_bytes()),
                IMPORTED_MANIFEST: ("application/json", manifest.read_bytes()),
            }
        except OSError as error:
            raise FixConfiguration(str(error)) from error
        made, now_ns = os.urandom(16).hex(), time.time_ns()
        with store.begin() as connection:
            artefacts.add_artefacts(connection, made, files, now_ns)
        options = given.run_options().model_dump(mode="json")
        runqueue.enqueue(
            store, fleet=given.fleet, model=given.model, recipe=given.recipe,
            settings=given.recipe_object(), run=made, now_ns=now_ns,
            options=options | {"dataset": dataset, "imported": True},
            trigger={"kind": "hand", "by": by, "reason": f"import of {model.name}"},
        )  # fmt: skip
    sys.stdout.write(made + "\n")


@app.command("questions")
def show_questions(as_json: Json = False) -> None:
    """What is asked of you: drift that was seen, with its evidence."""
    with _store() as (store, settings):
        found = questions.list_questions(store, settings.fleet, states=["open"])
    if as_json:
        _show([{"id": q.id, "model": q.model, "evidence": q.evidence} for q in found])
    else:
        screen.questions(_out, found)


@app.command()
def answer(
    question: Annotated[str, typer.Argument(help="id of the question")],
    train: Annotated[bool, typer.Option("--train/--dismiss", help="start the proposed run?")],
    what: Annotated[str, typer.Option(help="what it was: sensor, regime, wear, fault")] = "",
    note: Annotated[str, typer.Option(help="for those who read it later")] = "",
    by: Annotated[str, typer.Option(help="who answers")] = "command",
) -> None:
    """Answer a question; --train enqueues the run that it proposes."""
    with _store() as (store, settings):
        found = questions.list_questions(store, settings.fleet, states=["open"])
        mine = [q.id for q in found if q.id.startswith(question)]
        if len(mine) != 1:
            raise RejectedInput(f"{len(mine)} open questions begin with {question!r:.40}")
        run = questions.answer(
            store, mine[0], accept=train, by=by, what=what, note=note, now_ns=time.time_ns()
        )
    _out.print("dismissed" if run is None else f"run {run} is enqueued")
