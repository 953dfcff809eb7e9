"""The digest says whether two rows say the same, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fieldloop_contract.batch import SequencedFrame, decode_frames
from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.frames import Clock
from fieldloop_store.rows import DIGEST_AT, canonical, content, digest, frame_row
from support.telemetry import LOG, frame


def digest_of(changes: dict[str, Any], received_ns: int = 1) -> bytes:
    item = SequencedFrame(1, dataclasses.replace(frame(1), **changes))
    found = frame_row(LOG, item, received_ns)[DIGEST_AT["frames"]]
    assert isinstance(found, bytes)
    return found


def test_the_time_of_arrival_is_not_part_of_a_row() -> None:
    assert digest_of({}, 1) == digest_of({}, 2)
    assert len(digest_of({})) == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": "imv"},
        {"t0_ns": 5},
        {"mono_ns": 5},
        {"boot": "00" * 16},
        {"clock": Clock.HELD},
        {"rate_hz": 51.0},
        {"channels": 1},
        {"samples": bytes(16)},
    ],
)
def test_any_change_of_a_frame_changes_its_digest(changes: dict[str, Any]) -> None:
    assert digest_of(changes) != digest_of({})


def test_parts_of_a_digest_do_not_run_into_each_other() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_a_row_can_be_turned_back_into_what_was_sent() -> None:
    row = frame_row(LOG, SequencedFrame(9, frame(9)), 1)
    batch = decode_frames(content("frames", row))
    assert (batch.epoch, batch.rows) == (LOG.epoch, [SequencedFrame(9, frame(9))])


def test_canonical_json_has_one_order_and_no_value_a_database_refuses() -> None:
    assert canonical({"b": 1, "a": {"d": 2, "c": "\\u0000"}}) == (
        '{"a":{"c":"\\\\u0000","d":2},"b":1}'
    )
    for bad in ("\0", "\ud800", float("nan"), float("inf"), ["x", {"y": "\0"}]):
        with pytest.raises(MalformedMessage):
            canonical({"a": bad})
    with pytest.raises(MalformedMessage):
        canonical({"k\0": 1})
