"""Live progress of a run, written under its lease; and its heart, which keeps the lease.

`Progress` belongs to the run's thread; `Heart` is a thread of its own. Where the run was cancelled
or is not this process's any more, the next report raises `Stopped`, which goes through the recipe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from fieldloop_contract.errors import RetryLater
from fieldloop_store import runqueue
from fieldloop_store.engine import Store
from fieldloop_store.runs import Epoch

EVERY_S = 0.5
LEASE_S = 60.0
BEAT_S = 3.0
_NOT_FIGURES = ("stage", "epoch", "epochs")


class Stopped(Exception):
    """The run has to end now: `cancel` by a person's word, `lost` to another owner."""

    def __init__(self, why: Literal["cancel", "lost"]) -> None:
        super().__init__(why)
        self.why = why


class Heart(threading.Thread):
    """Extends the lease of a run until it is stopped.

    Attributes:
        stopped: why the run has to end, once it has to.
    """

    def __init__(self, store: Store, run: str, owner: str, now_ns: Callable[[], int]) -> None:
        super().__init__(name="heart", daemon=True)
        self.stopped: Literal["cancel", "lost"] | None = None
        self._store, self._run_id, self._owner, self._now_ns = store, run, owner, now_ns
        self._end = threading.Event()
        self._heard_s = time.monotonic()

    def run(self) -> None:
        """Beat."""
        while not self._end.wait(BEAT_S):
            self.beat()

    def beat(self) -> None:
        """Once; a store that is away for as long as the lease has cost the run."""
        try:
            said = runqueue.heartbeat(
                self._store, self._run_id, self._owner, lease_ns=round(LEASE_S * 1e9),
                now_ns=self._now_ns(),
            )  # fmt: skip
            self._heard_s = time.monotonic()
        except RetryLater:
            said = "lost" if time.monotonic() - self._heard_s > LEASE_S else "mine"
        if said != "mine":
            self.stopped = said

    def close(self) -> None:
        """Stop beating."""
        self._end.set()
        if self.is_alive():
            self.join(BEAT_S)


class Progress:
    """Keeps what is known of a run and writes it, at most twice a second within a stage.

    Attributes:
        last: `stage`, `seconds` spent in each stage so far, and the newest figures.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        owner: str,
        heart: Heart | None,
        now_ns: Callable[[], int],
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last: dict[str, Any] = {"stage": "start", "seconds": {}}
        self._store, self._run, self._owner, self._heart = store, run, owner, heart
        self._now_ns, self._mono_s = now_ns, mono_s
        self._stage_since_s = mono_s()
        self._written_s = float("-inf")
        self._unwritten: list[Epoch] = []

    def report(self, news: dict[str, Any]) -> None:
        """Take news; a new stage is written at once.

        Args:
            news: `stage`, and in training `epoch`, `epochs` and figures, which make the curves.

        Raises:
            Stopped: the run has to end.
            RetryLater: the store is away.
        """
        if self._heart is not None and self._heart.stopped is not None:
            raise Stopped(self._heart.stopped)
        now_s = self._mono_s()
        stage = news.get("stage", self.last["stage"])
        fresh = stage != self.last["stage"]
        if fresh:
            self._count(now_s)
        if "epoch" in news:
            figures = {
                name: round(float(value), 6)
                for name, value in news.items()
                if name not in _NOT_FIGURES and isinstance(value, int | float)
            }
            self._unwritten.append(Epoch(int(news["epoch"]), figures, self._now_ns()))
        self.last = {**self.last, **news}
        if fresh or now_s - self._written_s >= EVERY_S:
            self.write()

    def ended(self) -> dict[str, Any]:
        """The last word, for the transaction that ends the run."""
        self._count(self._mono_s())
        self.last = {**self.last, "stage": "done"}
        return self.last

    def _count(self, now_s: float) -> None:
        """Add the time since the last change of stage to the stage that it was."""
        seconds = {**self.last["seconds"]}
        before = self.last["stage"]
        spent = seconds.get(before, 0.0) + now_s - self._stage_since_s
        seconds[before] = round(spent, 3)
        self._stage_since_s = now_s
        self.last = {**self.last, "seconds": seconds}

    def write(self) -> None:
        """Write what is not written yet.

        Raises:
            Stopped: the run is another's.
            RetryLater: the store is away.
        """
        self._written_s = self._mono_s()
        epochs = self._unwritten
        mine = runqueue.update_run(
            self._store, self._run, self._owner, now_ns=self._now_ns(), progress=self.last,
            epochs=epochs,
        )  # fmt: skip
        if not mine:
            raise Stopped("lost")
        self._unwritten = self._unwritten[len(epochs) :]
