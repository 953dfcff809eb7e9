"""The life of an alarm: every state against every event, and the ways people go through it."""

from __future__ import annotations

import itertools

import pytest

from fieldloop_store import lifecycle as life
from fieldloop_store.lifecycle import Alarm, Phase

EVENTS: tuple[life.Event, ...] = (
    life.Raised(100),
    life.Cleared(101),
    life.Acknowledged(102, "ann"),
    life.Shelved(103, "ann", 103 + 3_600 * 10**9, "pump is being greased"),
    life.Unshelved(104, "ann"),
    life.Judged(105, "ann", "fault"),
)
REACHED = {
    Phase.UNACKNOWLEDGED: {Phase.RETURNED, Phase.ACKNOWLEDGED, Phase.SHELVED},
    Phase.ACKNOWLEDGED: {Phase.CLOSED, Phase.SHELVED},
    Phase.RETURNED: {Phase.CLOSED, Phase.UNACKNOWLEDGED, Phase.SHELVED},
    Phase.SHELVED: {Phase.UNACKNOWLEDGED, Phase.CLOSED},
    Phase.CLOSED: set(),
}


def walk(*events: life.Event) -> Alarm:
    alarm, _ = life.begin(life.Raised(1))
    for event in events:
        alarm, _ = life.step(alarm, event)
    return alarm


STATES = {
    Phase.UNACKNOWLEDGED: walk(),
    Phase.ACKNOWLEDGED: walk(EVENTS[2]),
    Phase.RETURNED: walk(EVENTS[1]),
    Phase.SHELVED: walk(EVENTS[3]),
    Phase.CLOSED: walk(EVENTS[2], EVENTS[1]),
}


def test_every_event_in_every_state_is_a_known_step_or_changes_nothing() -> None:
    for phase, event in itertools.product(Phase, EVENTS):
        before = STATES[phase]
        after, effects = life.step(before, event)
        if any(isinstance(e, life.Refused) for e in effects):
            assert after == before
        assert after.phase is phase or after.phase in REACHED[phase], (phase, event)
        assert (after.shelved_until_ns is not None) == (after.phase is Phase.SHELVED)


def test_the_table_reaches_what_the_theory_draws() -> None:
    for phase, wanted in REACHED.items():
        starts = [STATES[phase], life.step(STATES[phase], life.Cleared(99))[0]]
        starts = [alarm for alarm in starts if alarm.phase is phase]
        reached = {life.step(a, event)[0].phase for a in starts for event in EVENTS} - {phase}
        assert reached == wanted, phase


def test_an_alarm_that_cleared_by_itself_stays_open_until_somebody_has_seen_it() -> None:
    alarm = walk(life.Cleared(5))
    assert alarm.phase is Phase.RETURNED
    assert walk(life.Cleared(5), life.Acknowledged(6, "ann")).phase is Phase.CLOSED


def test_one_that_comes_again_is_the_same_alarm_and_is_told_again() -> None:
    alarm, effects = life.step(walk(life.Cleared(5)), life.Raised(9))
    assert (alarm.phase, alarm.raises, alarm.cleared_ns) == (Phase.UNACKNOWLEDGED, 2, None)
    assert effects == [life.Notify("raised again")]
    assert life.step(alarm, life.Raised(10)) == (alarm, [])  # a device may say it twice


def test_nothing_is_told_from_the_shelf_and_all_that_stands_when_it_ends() -> None:
    alarm, effects = walk(EVENTS[3]), []
    for event in (life.Cleared(200), life.Raised(201), life.Cleared(202), life.Raised(203)):
        alarm, told = life.step(alarm, event)
        effects += told
    assert effects == []
    assert alarm.raises == 3
    assert life.due(alarm, 104) is None
    ended = life.due(alarm, alarm.shelved_until_ns or 0)
    assert ended is not None
    alarm, effects = life.step(alarm, ended)
    assert (alarm.phase, effects) == (Phase.UNACKNOWLEDGED, [life.Notify("back from the shelf")])


def test_what_cleared_on_the_shelf_is_over_when_it_ends() -> None:
    alarm, _ = life.step(walk(EVENTS[3], life.Cleared(200)), life.Unshelved(300))
    assert alarm.phase is Phase.CLOSED


@pytest.mark.parametrize(
    ("until_ns", "reason", "words"),
    [
        (103, "why", "ends after it begins"),
        (103 + 10**9 * 86_400 * 31, "why", "at most 30 days"),
        (10**12, "  ", "says why"),
    ],
)
def test_a_shelf_has_an_end_and_a_reason(until_ns: int, reason: str, words: str) -> None:
    alarm, effects = life.step(walk(), life.Shelved(103, "ann", until_ns, reason))
    assert alarm.phase is Phase.UNACKNOWLEDGED
    assert isinstance(effects[0], life.Refused)
    assert words in effects[0].reason


def test_a_verdict_is_a_label_at_any_time_and_may_be_changed() -> None:
    for phase, alarm in STATES.items():
        judged, effects = life.step(alarm, life.Judged(7, "bo", "false-alarm"))
        assert judged.phase is phase
        assert effects == [life.Label("false-alarm", "bo")]
        again, _ = life.step(judged, life.Judged(8, "ann", "fault"))
        assert (again.verdict, again.verdict_by) == ("fault", "ann")
