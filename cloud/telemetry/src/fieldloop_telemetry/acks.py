"""Acknowledgements on their way out: seq ranges of what was committed, by log.

Only what is committed may be added. Losing one is harmless: the device sends again, finds its rows
known, and is told again. So this is bounded and forgets the oldest. For the owner thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.messages import RANGES_MAX, Ack
from fieldloop_contract.topics import Topic
from fieldloop_store.retirement import merge, ranges_of
from fieldloop_store.rows import LogKey

__all__ = ["Outbox", "merge", "ranges_of"]
LOGS_MAX = 20_000
WAITING_RANGES_MAX = 20_000
Range = tuple[int, int]


class Outbox:
    """Ranges waiting to be published.

    Attributes:
        forgotten: ranges given up at a bound.
        sent: messages published.
    """

    def __init__(self, logs_max: int = LOGS_MAX) -> None:
        self.forgotten = 0
        self.sent = 0
        self._logs_max = logs_max
        self._waiting: OrderedDict[LogKey, list[Range]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, log: LogKey, seqs: Iterable[int]) -> None:
        """Add committed seqs of a log."""
        ranges = merge([*self._waiting.get(log, ()), *ranges_of(seqs)])
        if not ranges:
            return
        self.forgotten += max(0, len(ranges) - WAITING_RANGES_MAX)
        self._waiting[log] = ranges[-WAITING_RANGES_MAX:]
        while len(self._waiting) > self._logs_max:
            _log, dropped = self._waiting.popitem(last=False)
            self.forgotten += len(dropped)

    def send(self, publish: Callable[[str, bytes], object]) -> None:
        """Publish what waits, oldest log first; at the first RetryLater, keep the rest."""
        while self._waiting:
            log, ranges = next(iter(self._waiting.items()))
            topic = Topic(log.fleet, log.device, log.service, "ack")
            ack = Ack(epoch=log.epoch, ranges=ranges[:RANGES_MAX])
            try:
                publish(str(topic), ack.encode())
            except RetryLater:
                return
            self.sent += 1
            if len(ranges) > RANGES_MAX:
                self._waiting[log] = ranges[RANGES_MAX:]
            else:
                del self._waiting[log]
