"""A device's line to the broker: delays, loss, bandwidth, partitions. One thread.

Over TCP a lost segment comes late: after a retransmission time-out of 200 ms (RFC 6298 and the
minimum that Linux keeps), doubled for each further loss. What was sent later arrives later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from random import Random

from fieldloop_simulator.plan import Network, Span

_RTO_S, _RTO_S_MAX = 0.2, 6.4
_SEGMENT_BYTES = 1_400


class SimulatedLine:
    """A `fieldloop_runtime.switchboard.Line`.

    Args:
        elapsed_s: turns monotonic seconds into seconds from the start of the plan.
    """

    def __init__(
        self,
        network: Network,
        cuts: tuple[Span, ...],
        seed: int,
        elapsed_s: Callable[[float], float],
    ) -> None:
        self.calm = False
        self._network = network
        self._begins = [cut.begin_s for cut in cuts]
        self._cuts = cuts
        self._random = Random(seed)
        self._elapsed_s = elapsed_s
        self._free_s = self._arrived_s = 0.0

    def up(self, now_s: float) -> bool:
        """Whether no partition is planned for now."""
        if self.calm or not self._cuts:
            return True
        at_s = self._elapsed_s(now_s)
        found = bisect_right(self._begins, at_s) - 1
        return found < 0 or at_s >= self._cuts[found].end_s

    def delay_s(self, size: int, now_s: float) -> float:
        """Half a round trip, the time on the wire behind what is there already, and losses."""
        network = self._network
        if self.calm or (network.rtt_s <= 0 and network.bytes_s <= 0):
            return 0.0
        begin_s = max(now_s, self._free_s)
        self._free_s = begin_s + (size / network.bytes_s if network.bytes_s > 0 else 0.0)
        arrival_s = self._free_s + self._half_way_s(1 + size // _SEGMENT_BYTES)
        self._arrived_s = max(self._arrived_s, arrival_s)
        return self._arrived_s - now_s

    def delay_back_s(self, now_s: float) -> float:  # noqa: ARG002 - part of the interface
        """Half a round trip and losses."""
        if self.calm or self._network.rtt_s <= 0:
            return 0.0
        return self._half_way_s(1)

    def _half_way_s(self, segments: int) -> float:
        network, random = self._network, self._random
        half_s = max(0.0, random.gauss(network.rtt_s, network.spread_s)) / 2
        for _ in range(min(segments, 64)):
            rto_s = _RTO_S
            while network.loss > 0 and random.random() < network.loss and rto_s <= _RTO_S_MAX:
                half_s += rto_s
                rto_s *= 2
        return half_s
