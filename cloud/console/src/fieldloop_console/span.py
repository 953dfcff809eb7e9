"""A span of a signal's time on a screen, and the ways to move it. Pure.

All times are ns of UTC, by the device's clock.
"""

from __future__ import annotations

from dataclasses import dataclass

SHOWN_FIRST_NS = 60 * 10**9
LENGTH_MIN_NS = 1_000_000
T_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Span:
    """`[t0_ns, t1_ns)`, at least a millisecond long."""

    t0_ns: int
    t1_ns: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.t1_ns - self.t0_ns) / 1e9

    def moved(self, how: str, first_ns: int, last_ns: int) -> Span:
        """The span after a move: `in`, `out`, `earlier`, `later`, `all`, `newest`.

        Args:
            first_ns, last_ns: of the whole signal, beyond which nothing is to be seen.
        """
        length = self.t1_ns - self.t0_ns
        middle = self.t0_ns + length // 2
        start = max(first_ns, self.t0_ns - length // 2)
        end = min(last_ns, self.t1_ns + length // 2)
        double = min(2 * length, max(last_ns - first_ns, length))
        wider = min(max(first_ns, middle - double // 2), max(first_ns, last_ns - double))
        places = {
            "in": (middle - length // 4, middle + length // 4),
            "out": (wider, wider + double),
            "earlier": (start, start + length),
            "later": (end - length, end),
            "all": (first_ns, last_ns),
            "newest": (last_ns - length, last_ns),
        }
        return span(*places.get(how, (self.t0_ns, self.t1_ns)))

    def within(self, a_ns: float, b_ns: float) -> Span | None:
        """The part between two times; None where nothing of the span is left."""
        low, high = sorted((round(a_ns), round(b_ns)))
        low, high = max(low, self.t0_ns), min(high, self.t1_ns)
        return Span(low, high) if high - low >= LENGTH_MIN_NS else None

    def part(self, start_s: str, end_s: str) -> Span | None:
        """The part between two numbers of seconds from the beginning, as a person typed them."""
        try:
            a, b = float(start_s), float(end_s)
        except ValueError:
            return None
        if not (abs(a) < 1e10 and abs(b) < 1e10):
            return None
        return self.within(self.t0_ns + a * 1e9, self.t0_ns + b * 1e9)


def span(t0_ns: int, t1_ns: int) -> Span:
    """A span within what an int64 holds, and not too short to be drawn."""
    t0_ns = min(max(0, t0_ns), T_MAX - LENGTH_MIN_NS)
    return Span(t0_ns, min(max(t1_ns, t0_ns + LENGTH_MIN_NS), T_MAX))


def read_span(t0: str, t1: str, first_ns: int, last_ns: int) -> Span:
    """The span that an address names, or the last minute of the signal."""
    if t0.isdigit() and t1.isdigit() and len(t0) < 20 and len(t1) < 20:
        return span(int(t0), int(t1))
    return span(max(first_ns, last_ns - SHOWN_FIRST_NS), last_ns)
