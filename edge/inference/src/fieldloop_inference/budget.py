"""How much CPU a candidate may have beside the model that serves: a token bucket. Pure.

It fills with `share` of the wall time up to `BURST_S` seconds of CPU, and is full at the beginning.
What was spent is known only afterwards, so it can be overdrawn by one window, and then has to fill
up again before the next.
"""

from __future__ import annotations

from typing import Final

BURST_S: Final = 0.5


class CpuBudget:
    """The budget of one shadow run.

    Args:
        share: of one core, above 0.

    Attributes:
        spent_s: seconds of CPU so far.
        refused: how often there was nothing left.
    """

    def __init__(self, share: float, now_s: float) -> None:
        self.spent_s = 0.0
        self.refused = 0
        self._share = share
        self._left_s = BURST_S
        self._at_s = now_s

    def allows(self, now_s: float) -> bool:
        """Whether something is left; counts where not."""
        self._left_s = min(BURST_S, self._left_s + self._share * max(0.0, now_s - self._at_s))
        self._at_s = max(self._at_s, now_s)
        if self._left_s > 0:
            return True
        self.refused += 1
        return False

    def spend(self, cpu_s: float) -> None:
        """Take off what was used."""
        self.spent_s += cpu_s
        self._left_s -= cpu_s
