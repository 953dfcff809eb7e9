"""Flash wear: bytes that this process has caused to be written to storage, as the kernel counts.

`/proc/self/io` (proc(5)) counts pages when they are dirtied, all files of the process together;
none on a tmpfs. Where there is no such file, the figures stay 0.
"""

from __future__ import annotations

from collections import deque

DAY_S = 86_400.0
_STEP_S, _LEAST_S = 600.0, 60.0


def written_bytes(path: str = "/proc/self/io") -> int:
    """Bytes written so far by this process."""
    try:
        with open(path, encoding="ascii") as file:
            found = dict(line.split(": ") for line in file.read().splitlines())
        return int(found["write_bytes"])
    except (OSError, ValueError, KeyError):
        return 0


class Wear:
    """Bytes a day: those of the last day, or of the time since the start scaled to a day."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque(maxlen=int(DAY_S / _STEP_S) + 1)

    def per_day(self, now_s: float, written: int) -> float:
        """Take a reading.

        Args:
            now_s: monotonic.
            written: bytes so far.

        Returns:
            Bytes a day; 0 within the first minute.
        """
        if not self._points or now_s - self._points[-1][0] >= _STEP_S:
            self._points.append((now_s, written))
        since_s, before = self._points[0]
        span_s = now_s - since_s
        return (written - before) / span_s * DAY_S if span_s >= _LEAST_S else 0.0
