"""Only what is committed is acknowledged, in as few and as small messages as that takes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.messages import RANGES_MAX, Ack, decode
from fieldloop_store.rows import LogKey
from fieldloop_telemetry.acks import Outbox, merge, ranges_of
from support.telemetry import EPOCH, LOG

_SEQS = st.sets(st.integers(1, 60))


class Broker:
    """Takes so many messages, then no more."""

    def __init__(self, room: int = 1_000) -> None:
        self.room = room
        self.taken: list[tuple[str, Ack]] = []

    def publish(self, topic: str, payload: bytes) -> int:
        if len(self.taken) >= self.room:
            raise RetryLater("full")
        self.taken.append((topic, decode(Ack, payload)))
        return len(self.taken)


def expand(ranges: list[tuple[int, int]]) -> list[int]:
    return [seq for first, last in ranges for seq in range(first, last + 1)]


@given(_SEQS)
def test_ranges_cover_exactly_the_seqs(seqs: set[int]) -> None:
    ranges = ranges_of(seqs)
    assert expand(ranges) == sorted(seqs)
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(ranges))


@given(_SEQS, _SEQS)
def test_merging_is_the_union(a: set[int], b: set[int]) -> None:
    assert merge([*ranges_of(a), *ranges_of(b)]) == ranges_of(a | b)


def test_one_message_for_each_log() -> None:
    outbox, broker = Outbox(), Broker()
    other = LogKey("demo", "subject-2", "inference", EPOCH)
    outbox.add(LOG, [1, 2, 3])
    outbox.add(other, [7])
    outbox.add(LOG, [5, 4])
    outbox.send(broker.publish)
    assert [(topic, ack.ranges) for topic, ack in broker.taken] == [
        ("fieldloop/v1/demo/subject-1/ingestion/ack", [(1, 5)]),
        ("fieldloop/v1/demo/subject-2/inference/ack", [(7, 7)]),
    ]
    assert len(outbox) == 0


def test_what_the_broker_does_not_take_waits() -> None:
    outbox, broker = Outbox(), Broker(room=1)
    logs = [LogKey("demo", f"subject-{n}", "ingestion", EPOCH) for n in range(3)]
    for log in logs:
        outbox.add(log, [1])
    outbox.send(broker.publish)
    assert (len(broker.taken), len(outbox)) == (1, 2)
    outbox.add(logs[1], [2])
    broker.room = 10
    outbox.send(broker.publish)
    assert [ack.ranges for _topic, ack in broker.taken] == [[(1, 1)], [(1, 2)], [(1, 1)]]


def test_many_ranges_go_in_several_messages() -> None:
    outbox, broker = Outbox(), Broker()
    seqs = range(1, 2 * (RANGES_MAX + 10), 2)
    outbox.add(LOG, seqs)
    outbox.send(broker.publish)
    assert [len(ack.ranges) for _topic, ack in broker.taken] == [RANGES_MAX, 10]
    assert expand([r for _topic, ack in broker.taken for r in ack.ranges]) == list(seqs)


def test_beyond_the_bound_the_oldest_log_is_forgotten_and_counted() -> None:
    outbox, broker = Outbox(logs_max=2), Broker()
    for n in range(3):
        outbox.add(LogKey("demo", f"subject-{n}", "ingestion", EPOCH), [1])
    outbox.send(broker.publish)
    assert [topic.split("/")[3] for topic, _ack in broker.taken] == ["subject-1", "subject-2"]
    assert outbox.forgotten == 1
