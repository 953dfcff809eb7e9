"""Back-off with full jitter, as pure arithmetic.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: a delay drawn
uniformly from [0, min(cap, base * 2**attempt)] clears a crowd of clients soonest.
"""

from __future__ import annotations

from random import Random

ATTEMPT_MAX = 32


def full_jitter(attempt: int, base_s: float, cap_s: float, random: Random) -> float:
    """Seconds to wait before attempt number `attempt` (0 is the first repetition)."""
    ceiling: float = min(cap_s, base_s * 2 ** min(attempt, ATTEMPT_MAX))
    return random.uniform(0.0, ceiling)
