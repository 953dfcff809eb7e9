"""What an agent has to do, by what it holds, what it is told and the time."""

from __future__ import annotations

import pytest

from fieldloop_agent.home import Held
from fieldloop_agent.service import Due, due

DAY = 86_400.0


def held(token: str = "t1") -> Held:
    return Held(
        fleet="acme",
        device="pump-7",
        broker_host="localhost",
        broker_port=8883,
        not_before_s=0,
        not_after_s=90 * DAY,
        grace_days=180,
        token_sha256=token,
    )


@pytest.mark.parametrize(
    ("identity", "token", "day", "expected"),
    [
        (None, "", 0, Due.WAIT_FOR_TOKEN),
        (None, "t1", 0, Due.ENROL),
        (held(), "t1", 0, Due.NOTHING),
        (held(), "", 44.9, Due.NOTHING),
        (held(), "", 45.1, Due.RENEW),
        (held(), "t1", 91, Due.RENEW),
        (held(), "", 90 + 179.9, Due.RENEW),
        (held(), "", 90 + 180.1, Due.TOO_LATE),
        (held(), "t2", 1, Due.ENROL),  # another token: a new key is wanted
        (held(), "t2", 500, Due.ENROL),
    ],
)
def test_what_is_due(identity: Held | None, token: str, day: float, expected: Due) -> None:
    assert due(identity, token, day * DAY) is expected
