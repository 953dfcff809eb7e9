"""A last will speaks for one session only."""

from __future__ import annotations

import pytest

from fieldloop_contract.messages import Status
from fieldloop_store.presence import Standing, judge


@pytest.mark.parametrize("before", [Standing(), Standing("online", "a"), Standing("offline", "b")])
def test_the_last_session_that_came_online_speaks(before: Standing) -> None:
    assert judge(before, Status(state="online", session="c")) == Standing("online", "c")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Standing(), Standing("offline", "a")),
        (Standing("online", "a"), Standing("offline", "a")),
        (Standing("offline", "a"), Standing("offline", "a")),
        (Standing("online", "b"), None),
        (Standing("offline", "b"), None),
    ],
)
def test_a_will_is_believed_from_the_session_that_speaks(
    before: Standing, after: Standing | None
) -> None:
    assert judge(before, Status(state="offline", session="a")) == after
