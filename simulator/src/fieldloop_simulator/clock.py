"""A device's clock: the machine's, with the plan's faults. One thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from fieldloop_contract.frames import Clock
from fieldloop_runtime.clock import Now, SystemClock
from fieldloop_simulator.plan import ClockFault


class VirtualClock(SystemClock):
    """Stands in for `SystemClock`.

    Args:
        elapsed_s: seconds from the start of the plan, of monotonic seconds.
    """

    def __init__(
        self, fault: ClockFault | None, seed: int, elapsed_s: Callable[[float], float]
    ) -> None:
        super().__init__(trusted=True)
        self.calm = False
        self._fault = fault
        self._random = Random(seed)
        self._elapsed_s = elapsed_s
        self.boot = ""
        self.reboot()

    def reboot(self) -> None:
        """A new boot has a new id."""
        self.boot = f"{self._random.getrandbits(128):032x}"

    def now(self) -> Now:
        """Both clocks as this device believes them."""
        mono_ns, utc_ns, fault = time.monotonic_ns(), time.time_ns(), self._fault
        state = Clock.SYNCHRONISED
        if fault is not None and not self.calm:
            at_s = self._elapsed_s(mono_ns / 1e9)
            if fault.begin_s <= at_s < fault.end_s:
                utc_ns = max(0, utc_ns + round(fault.offset_s * 1e9))
                state = Clock.UNKNOWN if fault.unset else Clock.HELD
        return Now(utc_ns, mono_ns, self.boot, state)
