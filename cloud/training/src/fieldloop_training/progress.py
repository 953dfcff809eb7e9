"""Live progress of a run, written to its row in the store. One thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fieldloop_store import registry
from fieldloop_store.engine import Store

EVERY_S = 0.5
CURVE_POINTS_MAX = 500


class Progress:
    """Keeps what is known of a run and writes it, at most twice a second within a stage.

    Attributes:
        last: stage, seconds spent in each stage so far, and the newest figures and curve.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        now_ns: Callable[[], int],
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last: dict[str, Any] = {"stage": "start", "seconds": {}}
        self._store, self._run = store, run
        self._now_ns, self._mono_s = now_ns, mono_s
        self._stage_since_s = mono_s()
        self._written_s = float("-inf")
        self._curve: list[list[float]] = []

    def report(self, news: dict[str, Any]) -> None:
        """Take news; a new stage is written at once.

        Raises:
            RetryLater: the store is away.
        """
        now_s = self._mono_s()
        stage = news.get("stage", self.last["stage"])
        fresh = stage != self.last["stage"]
        if fresh:
            seconds = {**self.last["seconds"]}
            seconds[self.last["stage"]] = round(now_s - self._stage_since_s, 3)
            self._stage_since_s = now_s
            self.last = {**self.last, "seconds": seconds}
        if "epoch" in news and len(self._curve) < CURVE_POINTS_MAX:
            self._curve.append([round(float(news[k]), 5) for k in ("loss", "accuracy")])
        self.last = {**self.last, **news, "curve": self._curve}
        if fresh or now_s - self._written_s >= EVERY_S:
            self._written_s = now_s
            registry.update_run(self._store, self._run, now_ns=self._now_ns(), progress=self.last)
