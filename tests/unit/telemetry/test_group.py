"""A group is committed at the first of its bounds."""

from __future__ import annotations

from fieldloop_telemetry.door import admit
from fieldloop_telemetry.group import Group
from support.telemetry import LOG, frames

_TOPIC = "fieldloop/v1/demo/subject-1/ingestion/frames"


def test_an_empty_group_is_never_due() -> None:
    assert Group(10, 1000, 0.05).wait_s(1e9) is None


def test_a_group_is_due_when_its_first_parcel_is_old_enough() -> None:
    group = Group(100, 10_000, 0.5)
    group.add(admit(_TOPIC, frames([1]), 1), 10.0, 1)
    group.add(admit(_TOPIC, frames([2]), 2), 10.4, 2)
    assert group.wait_s(10.25) == 0.25
    assert group.wait_s(11.0) == 0.0
    assert (group.rows, group.seqs[LOG], group.intake.received_ns) == (2, [1, 2], 2)


def test_a_group_is_full_at_its_rows_or_its_bytes() -> None:
    for group in (Group(3, 10_000, 60.0), Group(100, len(frames([1, 2, 3])), 60.0)):
        group.add(admit(_TOPIC, frames([1, 2, 3]), 1), 0.0, 1)
        assert group.full
        assert group.wait_s(0.0) == 0.0


def test_a_letter_counts_as_a_row() -> None:
    group = Group(1, 10_000, 60.0)
    group.add(admit(_TOPIC, b"rubbish", 1), 0.0, 1)
    assert group.full
    assert group.seqs == {}


def test_a_cleared_group_is_empty() -> None:
    group = Group(10, 1000, 0.05)
    group.add(admit(_TOPIC, frames([1]), 1), 0.0, 1)
    group.clear()
    assert (group.rows, group.bytes, bool(group.intake), group.wait_s(9.0)) == (0, 0, False, None)
