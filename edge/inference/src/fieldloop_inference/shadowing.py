"""A candidate in SHADOW: what it is asked, at whose expense, and what it said. Owner thread only.

It first derives its calibration, where it needs one and the active model has a record, and then
scores the windows that the active one scores. Both are paid from one CPU budget; a window for which
nothing is left is passed over, and counts as no evidence. CPU time is that of this thread, times
the threads of the runtime.
"""

from __future__ import annotations

import time
from typing import Final

from fieldloop_inference.budget import CpuBudget
from fieldloop_inference.deriving import Deriving
from fieldloop_inference.engine import Engine
from fieldloop_inference.watch import agree
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Window

SLICE_S: Final = 0.002
"""Most that deriving takes of one turn, beyond the window it is at."""


class Shadowing:
    """One shadow run.

    Attributes:
        engine: the candidate, loaded.
        deriving: its calibration under way, or None.
        scored: windows it scored beside the active model.
        agreed: of those, the ones on which both said the same.
        passed_over: windows for which no CPU was left.
    """

    def __init__(
        self, engine: Engine, budget: CpuBudget, threads: int, deriving: Deriving | None = None
    ) -> None:
        self.engine = engine
        self.deriving = deriving
        self.scored = 0
        self.agreed = 0
        self.passed_over = 0
        self._budget = budget
        self._threads = threads

    def derive(self) -> Deriving | None:
        """Go on with the calibration for a slice of time; it, where that ended it."""
        work = self.deriving
        if work is None or not self._budget.allows(time.monotonic()):
            return None
        begun, end_s = time.thread_time(), time.monotonic() + SLICE_S
        while not work.ended and time.monotonic() < end_s:
            work.step()
        self._spend(begun)
        if not work.ended:
            return None
        self.deriving = None
        self.engine.restart()
        return work

    def score(self, window: Window) -> tuple[Scored, float] | None:
        """Score a window, if its calibration is done and CPU is left for it.

        Returns:
            What it says, and the microseconds it took.
        """
        if self.deriving is not None:
            return None
        if not self._budget.allows(time.monotonic()):
            self.passed_over += 1
            return None
        begun = time.thread_time()
        said = self.engine.score(window)
        self._spend(begun)
        return said

    def compare(self, active: Scored, own: Scored) -> bool:
        """Whether both say the same of a window; counted."""
        same = agree(active, own)
        self.scored += 1
        self.agreed += same
        return same

    def _spend(self, begun_s: float) -> None:
        self._budget.spend((time.thread_time() - begun_s) * self._threads)

    def figures(self) -> dict[str, int]:
        """For the report."""
        told = {
            "shadow_passed_over": self.passed_over,
            "shadow_cpu_ms": round(1000 * self._budget.spent_s),
        }
        if self.deriving is not None:
            told.update(deriving=self.deriving.windows, deriving_of=self.deriving.wanted)
        return told
