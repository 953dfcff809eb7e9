"""What the machine knows of time: boot id, both clocks, and whether to believe them."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

from fieldloop_contract.frames import Clock

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STA_UNSYNC = 0x40
BUILD_FLOOR_NS = 1_780_000_000 * 10**9
"""2026-05-28: no release is older, so a clock before it is wrong."""


def boot_id() -> str:
    """The kernel's id of this boot as 32 hex digits."""
    return _BOOT_ID.read_text(encoding="ascii").strip().replace("-", "")


class _Timex(ctypes.Structure):
    _fields_ = [("modes", ctypes.c_uint), ("_a", ctypes.c_long * 4), ("status", ctypes.c_int),
                ("_rest", ctypes.c_byte * 256)]  # fmt: skip


def synchronised() -> bool:
    """Whether the kernel says that its clock is disciplined (adjtimex(2), STA_UNSYNC clear)."""
    try:
        timex = _Timex()
        if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
            return False
    except (OSError, AttributeError):
        return False
    return not timex.status & _STA_UNSYNC


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of both clocks, in ns, with the boot it belongs to."""

    utc_ns: int
    mono_ns: int
    boot: str
    clock: Clock


class SystemClock:
    """Reads the machine's clocks.

    Args:
        trusted: a person vouches for the clock (containers, laptops), whatever the kernel says.
        floor_ns: the last time this machine is known to have seen; an earlier clock is wrong.
    """

    def __init__(self, *, trusted: bool = False, floor_ns: int = BUILD_FLOOR_NS) -> None:
        self._boot = boot_id()
        self._trusted = trusted
        self._floor_ns = max(floor_ns, BUILD_FLOOR_NS)
        self._was_synchronised = False
        self._checked_s = float("-inf")
        self._state = Clock.UNKNOWN

    def now(self) -> Now:
        """Both clocks; the synchronisation state is read at most once a second."""
        mono_ns = time.monotonic_ns()
        utc_ns = time.time_ns()
        if mono_ns / 1e9 - self._checked_s >= 1.0:
            self._checked_s = mono_ns / 1e9
            self._state = self._read_state(utc_ns)
        return Now(utc_ns, mono_ns, self._boot, self._state)

    def _read_state(self, utc_ns: int) -> Clock:
        if utc_ns < self._floor_ns:
            return Clock.UNKNOWN
        if self._trusted or synchronised():
            self._was_synchronised = True
            return Clock.SYNCHRONISED
        return Clock.HELD if self._was_synchronised else Clock.UNKNOWN
