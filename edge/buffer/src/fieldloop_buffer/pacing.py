"""When to send what: a token bucket, the window of batches in flight, the lanes. Pure.

Time comes in as monotonic seconds, randomness as a `Random`; nothing here sends or reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

from fieldloop_buffer.ranges import Range, contains, count, intersect, normalise, subtract

BURST_S = 1.0
_JITTER = 0.25
_ATTEMPT_MAX = 30
IGNORED_TO_HALVE = 2
IGNORED_TO_GIVE_UP = 6
_ATTEMPTS_COUNTED = 2
SUSPECTS_MAX = 64
SAMPLES = "samples"


class Verdict(Enum):
    """What becomes of a batch that the cloud was silent about."""

    RESEND = "resend"
    HALVE = "halve"
    GIVE_UP = "give up"


class TokenBucket:
    """Lets through `rate` units a second, with a burst of one second.

    A taker may go into debt, so that one batch larger than the burst passes too.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._level = rate * BURST_S
        self._at_s: float | None = None

    def ready(self, now_s: float) -> bool:
        """Whether something may be taken now."""
        if self._at_s is not None:
            gained = max(now_s - self._at_s, 0.0) * self._rate
            self._level = min(self._level + gained, self._rate * BURST_S)
        self._at_s = now_s
        return self._level > 0

    def take(self, n: float) -> None:
        """Take `n` units."""
        self._level -= n


@dataclass(slots=True, eq=False)
class Flight:
    """A batch that is not wholly acknowledged: which rows, and when it is due again.

    `ignored` counts silences in which the cloud answered other batches, `answers` what it had
    answered on its channel when this one was sent.
    """

    epoch_no: int
    epoch: str
    channel: str
    historical: bool
    seqs: list[Range]
    due_s: float
    attempts: int = 0
    ignored: int = 0
    answers: int = 0


class Window:
    """The batches in flight. The cloud's `ack` empties it, never the broker's.

    Args:
        flights_max: how many may be in flight before new ones wait.
        resend_after_s: silence after which a batch is due again; doubled for each repetition up to
            `resend_cap_s`, each give or take a quarter.
    """

    def __init__(
        self, flights_max: int, resend_after_s: float, resend_cap_s: float, random: Random
    ) -> None:
        self.flights: list[Flight] = []
        self._answers: dict[str, int] = {}
        self._suspects: list[Flight] = []
        self._flights_max = flights_max
        self._after_s = resend_after_s
        self._cap_s = max(resend_cap_s, resend_after_s)
        self._random = random

    @property
    def open(self) -> bool:
        """Whether one more batch may be sent.

        A batch that was sent three times holds no other back, up to as many such: whether the cloud
        is away or cannot read that batch shows when it is sent another one.
        """
        return self._has_room(self._flights_max)

    @property
    def open_for_backlog(self) -> bool:
        """Whether one more batch of backlog may be sent: a quarter is kept for live data."""
        return self._has_room(max(self._flights_max - self._flights_max // 4, 1))

    @property
    def open_for_samples(self) -> bool:
        """Whether a batch of samples may be sent: one at a time, so that no more than that is
        before a live row on a slow link."""
        samples = [flight for flight in self.flights if flight.channel == SAMPLES]
        waited_for = any(flight.attempts <= _ATTEMPTS_COUNTED for flight in samples)
        return self.open_for_backlog and not waited_for and len(samples) < self._flights_max

    def _has_room(self, most: int) -> bool:
        counted = sum(flight.attempts <= _ATTEMPTS_COUNTED for flight in self.flights)
        return counted < most and len(self.flights) < most + self._flights_max

    def launch(self, flight: Flight, now_s: float) -> None:
        """Enter a batch that is being sent, or sent again."""
        wait_s = min(self._after_s * 2 ** min(flight.attempts, _ATTEMPT_MAX), self._cap_s)
        flight.due_s = now_s + wait_s * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        flight.attempts += 1
        flight.answers = self._answers.get(flight.channel, 0)
        if flight not in self.flights:
            self.flights.append(flight)

    def land(self, flight: Flight) -> None:
        """Forget a batch of which nothing is left to send."""
        if flight in self.flights:
            self.flights.remove(flight)

    def acknowledge(self, epoch: str, ranges: Sequence[Range], now_s: float) -> int:
        """Take acknowledged rows out; returns how many were in flight.

        An answer shows that the cloud is there again: batches whose back-off had grown beyond the
        first silence are due after that at the latest.
        """
        acknowledged = normalise(ranges)
        n = 0
        channels: set[str] = set()
        for flight in list(self.flights):
            if flight.epoch != epoch:
                continue
            hit = intersect(flight.seqs, acknowledged)
            if hit:
                n += count(hit)
                channels.add(flight.channel)
                flight.seqs = subtract(flight.seqs, hit)
                if not flight.seqs:
                    self.flights.remove(flight)
        if n:
            for channel in channels:
                self._answers[channel] = self._answers.get(channel, 0) + 1
            for flight in self.flights:
                flight.due_s = min(flight.due_s, now_s + self._after_s)
        return n

    def due(self, now_s: float) -> list[Flight]:
        """Batches that the cloud has been silent about for too long."""
        return [flight for flight in self.flights if flight.due_s <= now_s]

    def judge(self, flight: Flight) -> Verdict:
        """What to do with a batch that is due; call once for each time it is.

        Silence alone proves nothing, nor that of one channel, which may be denied to us. But where
        others of its channel are answered meanwhile, a row is in this batch that the cloud cannot
        read: halves find out which.
        """
        flight.ignored += self._answers.get(flight.channel, 0) > flight.answers
        if count(flight.seqs) > 1:
            return Verdict.HALVE if flight.ignored >= IGNORED_TO_HALVE else Verdict.RESEND
        return Verdict.GIVE_UP if flight.ignored >= IGNORED_TO_GIVE_UP else Verdict.RESEND

    def suspicion(self, epoch_no: int, seq: int) -> Flight | None:
        """The ignored batch that a row was in before the connection was made anew."""
        for flight in self._suspects:
            if flight.epoch_no == epoch_no and contains(flight.seqs, seq):
                return flight
        return None

    def holds(self, epoch_no: int, seq: int) -> bool:
        """Whether a row is in flight."""
        return any(f.epoch_no == epoch_no and contains(f.seqs, seq) for f in self.flights)

    def clear(self) -> None:
        """Forget all, as when the connection is new, but for which rows were ignored."""
        ignored = [flight for flight in self.flights if flight.ignored]
        self._suspects = [*self._suspects, *ignored][-SUSPECTS_MAX:]
        self.flights.clear()


@dataclass(slots=True)
class Lanes:
    """Positions in the log: live data from `floor` on, the backlog up to it, and samples in both.

    Positions are keys of rows; each lane has sent, or is sending, everything up to its own. Samples
    are only in theirs, which goes last.
    """

    live: int = 0
    backlog: int = 0
    floor: int = 0
    samples: int = 0

    def restart(self, durable: int) -> None:
        """All that is pending now is backlog; what comes is live."""
        self.live = self.floor = durable
        self.backlog = self.samples = 0

    def sweep(self) -> None:
        """Look again for pending rows behind the positions."""
        self.floor = self.live
        self.backlog = self.samples = 0

    @property
    def backlog_done(self) -> bool:
        """Whether the backlog was sent, though perhaps not acknowledged."""
        return self.backlog >= self.floor
