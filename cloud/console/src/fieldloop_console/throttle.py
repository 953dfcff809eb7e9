"""Token buckets against guessing: so many attempts at once, then one in a while. Pure.

    level(now) = min(burst, level(before) + (now - before) / refill_s)

At most `KEYS_MAX` keys are remembered; the longest unused one is forgotten, and begins full again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

KEYS_MAX = 20_000


@dataclass(slots=True)
class Throttle:
    """One kind of attempt, counted by key. The caller serialises.

    Attributes:
        burst: attempts at once.
        refill_s: seconds after which one more is granted.
    """

    burst: int
    refill_s: float
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait_s(self, key: str, now_s: float) -> float:
        """Seconds until `key` may try again; 0 where it may now."""
        return max(0.0, (1.0 - self._level(key, now_s)) * self.refill_s)

    def spend(self, key: str, now_s: float) -> None:
        """Count one attempt of `key`."""
        level = max(0.0, self._level(key, now_s) - 1.0)
        self._levels[key] = (level, now_s)
        self._levels.move_to_end(key)
        while len(self._levels) > KEYS_MAX:
            self._levels.popitem(last=False)

    def forget(self, key: str) -> None:
        """Let `key` begin anew, after it has shown who it is."""
        self._levels.pop(key, None)

    def _level(self, key: str, now_s: float) -> float:
        level, at_s = self._levels.get(key, (float(self.burst), now_s))
        return min(float(self.burst), level + max(0.0, now_s - at_s) / self.refill_s)
