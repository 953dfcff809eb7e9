"""The watcher: looks at the store, decides when to train, sees runs through.

Two duties in one owner loop, which is the caller's thread. It enqueues runs where `triggers` says
so, and asks where `fleetdrift` finds something. And it carries out what is in the queue, whoever
enqueued it: in a local child, one at a time, or on Ray. Small on purpose: TensorFlow lives in the
child. What it knows is in the store, so a restart loses nothing.
"""

from __future__ import annotations

import time
from typing import Protocol

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_models.recipe import load_recipe, recipe_names, recipe_task, settings_schema
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.life import Life
from fieldloop_store import runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_store.recipes import RecipeRow, publish_recipes
from fieldloop_training import carrying
from fieldloop_training.fleetdrift import FleetDrift
from fieldloop_training.marks import frame_marks, history, usable_marks
from fieldloop_training.settings import TrainingSettings
from fieldloop_training.triggers import Decision, LogMark, Rule, Watch, decide, marks_to_object
from fieldloop_training.worker import Worker

TICK_LIMIT_S = 60.0
CANCEL_GRACE_S = 30.0
"""A child that does not end this long after a person asked for it is killed."""


class Carrier(Protocol):
    """Carries out what is in the queue."""

    @property
    def busy(self) -> bool:
        """Whether it has all that it can do."""
        ...

    def step(self, now_s: float) -> None:
        """Look after what is under way, and claim more where there is room."""
        ...

    def prepare(self, now_s: float) -> None:
        """A run is likely soon."""
        ...

    def close(self) -> None:
        """Give back what is under way."""
        ...


class LocalCarrier:
    """One child of this process at a time."""

    def __init__(
        self, store: Store, settings: TrainingSettings, journal: Journal, worker: Worker
    ) -> None:
        self._store, self._settings = store, settings
        self._journal, self._worker = journal, worker
        self._owner = ""
        self._asked_s: float | None = None

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._worker.busy

    def prepare(self, now_s: float) -> None:
        """Have a child ready."""
        if self._settings.prewarm:
            self._worker.warm(now_s)

    def step(self, now_s: float) -> None:
        """Look after the child; claim a run where it has none."""
        self._see_to_cancel(now_s)
        ended = self._worker.poll(now_s)
        if ended is not None and ended.run is not None:
            self._give_back(ended.run, ended.words, counts=True)
        if self._worker.busy:
            return
        owner = carrying.owner_name()
        row = carrying.claim(self._store, self._settings, owner)
        if row is not None:
            self._owner, self._asked_s = owner, None
            self._worker.order(row.id, owner, self._settings.model_dump(mode="json"), now_s)

    def _see_to_cancel(self, now_s: float) -> None:
        """The child sees to it by itself; one that cannot is killed."""
        if self._worker.run is None:
            return
        row = runs.find_run(self._store, self._worker.run)
        if row is None or row.cancel_by is None or row.state != "running":
            return
        self._asked_s = self._asked_s or now_s
        if now_s - self._asked_s > CANCEL_GRACE_S:
            verdict = {"words": f"cancelled by {row.cancel_by}"}
            runqueue.finish(
                self._store, row.id, self._owner, "cancelled", verdict, now_ns=time.time_ns()
            )
            self._worker.end("cancelled")

    def _give_back(self, run: str, words: str, *, counts: bool) -> None:
        """Put a run back in the queue, unless it has ended by itself."""
        back = runqueue.release(
            self._store, run, self._owner, words=words, counts=counts, now_ns=time.time_ns()
        )
        if back:
            self._journal.error("run.released", run=run, reason=words)

    def close(self) -> None:
        """End the child; a run under way waits for the next start, and goes on then."""
        ended = self._worker.stop()
        if ended is not None and ended.run is not None:
            self._give_back(ended.run, ended.words, counts=False)


class Watcher:
    """State of the watcher between two looks at the store."""

    def __init__(
        self, store: Store, settings: TrainingSettings, journal: Journal, carrier: Carrier
    ) -> None:
        self._store, self._settings = store, settings
        self._journal, self._carrier = journal, carrier
        self._watch = Watch()
        self._said = ""
        self._drift = FleetDrift(store, settings)
        task = load_recipe(settings.recipe, settings.recipe_object()).task
        self._by_frames = task == "anomaly"
        self._rule = Rule(
            min_new=settings.min_frames if self._by_frames else settings.min_annotations,
            quiet_s=settings.quiet_s,
            what="frames" if self._by_frames else "labels",
            every_s=settings.every_s,
            cool_down_s=settings.cool_down_s,
            runs_per_day_max=settings.runs_per_day_max,
        )

    def step(self, now_s: float) -> Decision | None:
        """One look; None where nothing starts a run by itself, or the carrier is busy.

        Raises:
            RetryLater: the store is away.
        """
        self._carrier.step(now_s)
        for question in self._drift.look(time.time_ns()):
            self._journal.info("drift.question", question=question)
            if self._settings.drift_starts_runs:
                self._drift.start(question, self._journal)
        if self._carrier.busy or (self._by_frames and not self._rule.min_new):
            return None
        s, now_ns = self._settings, time.time_ns()
        read = frame_marks if self._by_frames else usable_marks
        marks = read(self._store, s.fleet, s.stream)
        past = history(self._store, s.fleet, s.model, now_ns)
        self._watch, decision = decide(self._rule, self._watch, marks, past, now_s)
        if decision.action == "gather":
            self._carrier.prepare(now_s)
        if decision.action == "start":
            self._enqueue(decision, marks, now_ns)
            self._carrier.step(now_s)
        said = f"{decision.action} {decision.new}"
        if said != self._said and decision.action != "idle":
            self._journal.info(
                "trigger", action=decision.action, new=decision.new, reason=decision.reason
            )
        self._said = said
        return decision

    def _enqueue(self, decision: Decision, marks: dict[str, LogMark], now_ns: int) -> None:
        s = self._settings
        runqueue.enqueue(
            self._store, fleet=s.fleet, model=s.model, recipe=s.recipe,
            settings=s.recipe_object(), options=s.run_options().model_dump(mode="json"),
            trigger={
                "kind": decision.kind, "reason": decision.reason, "new": decision.new,
                "marks": marks_to_object(marks),
            },
            now_ns=now_ns,
        )  # fmt: skip

    def close(self) -> None:
        """Give back what is under way."""
        self._carrier.close()


def make_carrier(store: Store, settings: TrainingSettings, journal: Journal) -> Carrier:
    """The one that the settings ask for.

    Raises:
        FixConfiguration: Ray is asked for and not installed.
    """
    if settings.workers == "local":
        worker = Worker(journal, run_seconds_max=settings.run_seconds_max)
        return LocalCarrier(store, settings, journal, worker)
    try:
        from fieldloop_training.rays import RayCarrier  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise FixConfiguration(
            f"Ray is not installed: {error}", hint="install fieldloop-training[ray]"
        ) from error
    return RayCarrier(store, settings, journal)


def publish_own_recipes(store: Store) -> None:
    """Say which recipes are installed here, and what they take.

    Raises:
        RetryLater: the store is away.
    """
    own = [RecipeRow(n, recipe_task(n), settings_schema(n)) for n in recipe_names()]
    publish_recipes(store, own, now_ns=time.time_ns())


def serve(life: Life, settings: TrainingSettings, health: Health) -> None:
    """Watch until `life` ends.

    Raises:
        FixConfiguration: the store's URL, the recipe or its settings are wrong.
    """
    journal = Journal("training")
    store = Store.open(settings.store_url)
    carrier = make_carrier(store, settings, journal)
    watcher = Watcher(store, settings, journal, carrier)
    away = Throttle(60.0)
    told = False
    journal.info("service.started", model=settings.model, recipe=settings.recipe)
    try:
        while not life.stop.is_set():
            health.tick("watch", TICK_LIMIT_S)
            try:
                if not told:
                    publish_own_recipes(store)
                    told = True
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
