"""The watcher: looks at the store, decides when to train, sees runs through.

Owns the rows of runs from their start to the end of a run that did not end by itself. Small on
purpose: TensorFlow lives in the child. One owner loop, which is the caller's thread.
"""

from __future__ import annotations

import time
import uuid

from sqlalchemy import func, select

from fieldloop_contract.errors import RetryLater
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.life import Life
from fieldloop_store import registry, schema
from fieldloop_store.engine import Store
from fieldloop_training.labels import CONFIDENCE_MIN, UNKNOWN
from fieldloop_training.settings import TrainingSettings
from fieldloop_training.triggers import (
    Decision,
    LastRun,
    LogMark,
    Rule,
    Watch,
    decide,
    marks_from_object,
    marks_to_object,
)
from fieldloop_training.worker import Worker

SLACK_NS = 250_000_000
"""How far before the end of a label the signal may end and still be taken as complete."""
FRAME_NS_MAX = 600 * 10**9
"""A label whose last frame began longer than this before the label is not seen as complete."""
TICK_LIMIT_S = 60.0


def usable_marks(store: Store, fleet: str, stream: str) -> dict[str, LogMark]:
    """Marks of the annotations whose signal has arrived up to their end.

    Raises:
        RetryLater: the store is away.
    """
    a, f = schema.annotations.c, schema.frames.c
    arrived = (
        select(f.seq)
        .where(
            f.fleet == a.fleet,
            f.device == a.about_device,
            f.stream == a.stream,
            f.t0_ns < a.t1_ns,
            f.t0_ns >= a.t0_ns - FRAME_NS_MAX,
            f.t1_ns >= a.t1_ns - SLACK_NS,
        )
        .exists()
    )
    query = (
        select(a.device, a.service, a.epoch, func.count(), func.max(a.seq))
        .where(
            a.fleet == fleet,
            a.stream == stream,
            a.label != UNKNOWN,
            a.confidence >= CONFIDENCE_MIN,
            arrived,
        )
        .group_by(a.device, a.service, a.epoch)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return {"/".join(row[:3]): LogMark(int(row[3]), int(row[4])) for row in rows}


class Watcher:
    """State of the watcher between two looks at the store."""

    def __init__(
        self, store: Store, settings: TrainingSettings, journal: Journal, worker: Worker
    ) -> None:
        self._store, self._settings = store, settings
        self._journal, self._worker = journal, worker
        self._rule = Rule(settings.min_annotations, settings.quiet_s)
        self._watch = Watch()
        self._said = ""

    def adopt(self) -> int:
        """Mark runs as failed that a former process of this service left open; how many."""
        left = registry.list_runs(
            self._store, self._settings.fleet, model=self._settings.model, states=["running"]
        )
        for row in left:
            self._fail(row.id, "the service ended during the run")
        return len(left)

    def step(self, now_s: float) -> Decision | None:
        """One look; None while a run is under way.

        Raises:
            RetryLater: the store is away.
        """
        ended = self._worker.poll(now_s)
        if ended is not None and ended.run is not None:
            self._fail(ended.run, ended.words)
        if self._worker.busy:
            return None
        s = self._settings
        newest = registry.list_runs(self._store, s.fleet, model=s.model, limit=1)
        last = None
        if newest:
            trigger = newest[0].trigger
            last = LastRun(
                newest[0].state,
                int(trigger.get("attempt", 1)),
                marks_from_object(trigger.get("marks")),
            )
        marks = usable_marks(self._store, s.fleet, s.stream)
        self._watch, decision = decide(self._rule, self._watch, marks, last, now_s)
        if decision.action == "gather" and s.prewarm:
            self._worker.warm(now_s)
        if decision.action == "start":
            self._start(decision, marks, now_s)
        said = f"{decision.action} {decision.new_annotations}"
        if said != self._said and decision.action != "idle":
            self._journal.info(
                "trigger", action=decision.action, new=decision.new_annotations,
                reason=decision.reason,
            )  # fmt: skip
        self._said = said
        return decision

    def _start(self, decision: Decision, marks: dict[str, LogMark], now_s: float) -> None:
        s, now_ns = self._settings, time.time_ns()
        run = uuid.uuid4().hex
        registry.create_run(
            self._store,
            registry.RunRow(
                id=run,
                fleet=s.fleet,
                recipe=s.recipe,
                model=s.model,
                state="running",
                trigger={
                    "reason": decision.reason,
                    "new_annotations": decision.new_annotations,
                    "attempt": decision.attempt,
                    "marks": marks_to_object(marks),
                },
                settings=s.recipe_object(),
                dataset=None,
                progress={"stage": "start"},
                verdict=None,
                created_ns=now_ns,
                updated_ns=now_ns,
            ),
        )
        self._worker.order(run, s.model_dump(mode="json"), now_s)

    def _fail(self, run: str, words: str) -> None:
        """Mark a run as failed, unless it has ended by itself."""
        changed = registry.update_run(
            self._store,
            run,
            now_ns=time.time_ns(),
            state="failed",
            verdict={"words": f"failed: {words}"},
        )
        if changed:
            self._journal.error("run.failed", run=run, reason=words)

    def close(self) -> None:
        """End the child; a run under way is marked as failed and repeated at the next start."""
        ended = self._worker.stop()
        if ended is not None and ended.run is not None:
            self._fail(ended.run, ended.words)


def serve(life: Life, settings: TrainingSettings, health: Health) -> None:
    """Watch until `life` ends.

    Raises:
        FixConfiguration: the store's URL is wrong.
    """
    journal = Journal("training")
    store = Store.open(settings.store_url)
    worker = Worker(journal, run_seconds_max=settings.run_seconds_max)
    watcher = Watcher(store, settings, journal, worker)
    away = Throttle(60.0)
    adopted = False
    journal.info("service.started", model=settings.model, recipe=settings.recipe)
    try:
        while not life.stop.is_set():
            health.tick("watch", TICK_LIMIT_S)
            try:
                if not adopted:
                    watcher.adopt()
                    adopted = True
                watcher.step(time.monotonic())
            except RetryLater as error:
                if away.allow():
                    journal.warning("store.away", error=str(error))
            life.stop.wait(settings.poll_s)
    finally:
        try:
            watcher.close()
        except RetryLater as error:
            journal.warning("store.away", error=str(error))
        store.close()
        journal.info("service.stopped")
