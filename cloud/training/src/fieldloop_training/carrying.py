"""Carrying out a run that was claimed: its heart, its stages, its end; the same wherever it runs.

Used by the service's child, by Ray's workers and by `run --local`. A run that fails by itself goes
back to the queue and is tried again, at most `runqueue.ATTEMPTS_MAX` times. One run in a process at
a time; TensorFlow is loaded here.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_runtime.journal import Journal
from fieldloop_store import runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_training import tracking
from fieldloop_training.context import Context
from fieldloop_training.options import parse_options
from fieldloop_training.pipeline import run as run_pipeline
from fieldloop_training.progress import LEASE_S, Heart, Progress, Stopped
from fieldloop_training.settings import TrainingSettings
from fieldloop_training.workplace import Workplace


def owner_name() -> str:
    """Names this process among all that may claim runs."""
    return f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def claim(
    store: Store, settings: TrainingSettings, owner: str, run: str | None = None
) -> runs.RunRow | None:
    """Take the next run of this fleet, or one run.

    Raises:
        RetryLater: the store is away.
    """
    return runqueue.claim(
        store, owner, fleet=settings.fleet, lease_ns=round(LEASE_S * 1e9), now_ns=time.time_ns(),
        run=run,
    )  # fmt: skip


def carry_out(
    store: Store, settings: TrainingSettings, row: runs.RunRow, owner: str, journal: Journal
) -> str:
    """See a claimed run through.

    Returns:
        How it ended: a state of the run, or `lost` or `released`.

    Raises:
        RetryLater: the store is away; the lease will run out, and the run is claimed again.
    """
    begun_s = time.monotonic()
    journal.info("run.began", run=row.id, recipe=row.recipe, attempt=row.attempt)
    heart = Heart(store, row.id, owner, time.time_ns)
    heart.start()
    progress = Progress(store, row.id, owner, heart, time.time_ns)
    try:
        state = _run(store, settings, row, owner, progress)
    except Stopped as stopped:
        state = _stopped(store, row.id, owner, progress, stopped)
    except RetryLater:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, the run is tried again
        words = f"{type(error).__name__}: {error!s:.300}"
        runqueue.release(store, row.id, owner, words=words, counts=True, now_ns=time.time_ns())
        journal.error("run.released", trace=True, run=row.id, error=words)
        return "released"
    finally:
        heart.close()
    journal.info(
        "run.ended", run=row.id, state=state, seconds=round(time.monotonic() - begun_s, 2),
        stages=progress.last["seconds"],
    )  # fmt: skip
    if state in runs.ENDED_STATES:
        tracking.record(store, settings, row.id, journal)
    return state


def _run(
    store: Store, settings: TrainingSettings, row: runs.RunRow, owner: str, progress: Progress
) -> str:
    place = Workplace(Path(settings.work_dir), row.id)
    try:
        options = parse_options(row.options or {}, settings.run_options())
    except FieldloopError as error:
        verdict: dict[str, Any] = {"words": f"refused: {error}", "code": error.code}
        mine = runqueue.finish(
            store, row.id, owner, "refused", verdict, now_ns=time.time_ns(),
            progress=progress.ended(),
        )  # fmt: skip
        return "refused" if mine else "lost"
    context = Context(
        store, row, owner, options, progress, place, Path(settings.datasets_dir), time.time_ns
    )
    return run_pipeline(context)


def _stopped(store: Store, run: str, owner: str, progress: Progress, stopped: Stopped) -> str:
    if stopped.why == "lost":
        return "lost"
    found = runs.find_run(store, run)
    by = (found.cancel_by if found else None) or "somebody"
    verdict = {"words": f"cancelled by {by}"}
    mine = runqueue.finish(
        store, run, owner, "cancelled", verdict, now_ns=time.time_ns(), progress=progress.ended()
    )
    return "cancelled" if mine else "lost"
