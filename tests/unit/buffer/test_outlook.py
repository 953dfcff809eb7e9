"""What the backlog takes, and when rows would be lost."""

from __future__ import annotations

import pytest

from fieldloop_buffer.outlook import Outlook
from fieldloop_contract.messages import LedgerTotals


def books(produced: int, stored: int, withheld: int = 0) -> list[LedgerTotals]:
    pending = produced - stored - withheld
    return [
        LedgerTotals(
            epoch="a" * 32, produced=produced, stored=stored, pending=pending, withheld=withheld
        )
    ]


def test_offline_it_says_when_dropping_starts_and_that_nothing_drains() -> None:
    outlook = Outlook()
    for second in range(601):
        found = outlook.look(float(second), books(second * 10, 0), 1_000.0, 360_000_000)
    assert (found.rows, found.bytes) == (6_000, 6_000_000)
    assert found.drain_h is None
    assert found.drops_in_h == pytest.approx(354_000 / 10 / 3_600, rel=0.1)


def test_draining_it_says_how_long_at_the_rate_that_is_left_beside_live_rows() -> None:
    outlook = Outlook()
    for second in range(601):
        produced = 1_000_000 + second * 10
        found = outlook.look(float(second), books(produced, second * 110), 1_000.0, 1 << 40)
    assert found.drops_in_h is None
    assert found.drain_h == pytest.approx(found.rows / 100 / 3_600, rel=0.1)


def test_an_idle_device_says_the_same_thing_again_and_again() -> None:
    outlook = Outlook()
    seen = {
        outlook.look(float(s), books(100, 100), 1_000.0, 1 << 30).model_dump_json()
        for s in range(50)
    }
    assert len(seen) == 1
    assert '"drain_h":0.0,"drops_in_h":null' in seen.pop()


def test_rows_that_are_never_sent_are_no_backlog() -> None:
    outlook = Outlook()
    for second in range(100):
        found = outlook.look(float(second), books(second, 0, second), 1_000.0, 1 << 30)
    assert (found.rows, found.drops_in_h) == (0, None)


def test_a_full_log_drops_now() -> None:
    outlook = Outlook()
    for second in range(100):
        found = outlook.look(float(second), books(5_000 + second, 0), 1_000.0, 1_000_000)
    assert found.drops_in_h == 0.0
