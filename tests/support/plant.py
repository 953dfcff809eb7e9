"""A pump that fills a tank through a valve: the physics of a small process, with faults.

Affinity laws: flow goes with speed, pressure with its square and with what the valve takes, power
with pressure times flow. A controller moves the speed slowly about its set point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import Channel

CHANNELS = [Channel(name=n, unit=u) for n, u in zip(
    ("current", "pressure", "flow", "vibration"), ("A", "bar", "L/min", "g"), strict=True
)]  # fmt: skip
NOISE = np.array([0.02, 0.02, 0.3, 0.01])


def pump(
    n: int, seed: int, *, valve: float = 1.0, wear: float = 0.0, pace: float = 1.0
) -> NDArray[np.float32]:
    """float32[n, 4]: current, pressure, flow and vibration, one row a second.

    Args:
        valve: how far the valve is open; it throttles the flow and raises the pressure.
        wear: of the bearing; vibration grows without more power.
        pace: how many times too fast the controller swings.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(n) + rng.uniform(0, 1_000)
    swing = np.sin(2 * np.pi * pace * t / 23.1) + 0.5 * np.sin(2 * np.pi * t / 173)
    speed = 1 + 0.05 * swing
    flow = 30 * speed * np.sqrt(valve)
    pressure = 2 * speed**2 + 0.8 * (1 - valve)
    current = 1 + 0.03 * pressure * flow / 2
    vibration = 0.1 * speed**2 + wear
    rows = np.stack([current, pressure, flow, vibration], axis=1)
    made: NDArray[np.float32] = (rows + rng.normal(size=rows.shape) * NOISE).astype(np.float32)
    return made


def cut(rows: NDArray[np.float32], window: int, hop: int) -> NDArray[np.float32]:
    """float32[windows, window, channels]."""
    return np.stack([rows[at : at + window] for at in range(0, len(rows) - window + 1, hop)])
