"""Notices: grouped by site, limited in rate, and one for all in a flood."""

from __future__ import annotations

import random

from fieldloop_machines import notices
from fieldloop_machines.notices import Desk, Notice, Ringing

S = 1_000_000_000
MODEL, BROKER = "pump-model 7", "broker-1"


def ring(i: int, at_s: float, site: str = "north", model: str = MODEL) -> Ringing:
    traits = {"model": model, "site": site, "broker": BROKER}
    at_ns = int(at_s * S)
    return Ringing(at_ns, f"a{i}", f"pump-{i}", site, "raised", "score 3.1 over 2.0", traits)


def play(ringing: list[Ringing], until_s: int, fleet: dict[tuple[str, str], float] | None = None):
    """Step once a second, as the service does."""
    desk, sent = Desk(), []
    for second in range(until_s):
        now = [r for r in ringing if second <= r.at_ns / S < second + 1]
        desk, out = notices.step(desk, now, (second + 1) * S, fleet)
        sent += out
    return desk, sent


def named(sent: list[Notice]) -> list[str]:
    return sorted(r.alarm for notice in sent for r in notice.alarms)


def test_a_single_alarm_is_told_within_half_a_minute() -> None:
    desk, sent = play([ring(1, 3)], 60)
    assert [n.subject for n in sent] == ["alarm raised on pump-1 at north"]
    assert sent[0].at_ns <= 33 * S
    assert not desk.waiting


def test_alarms_of_one_site_go_out_as_one_notice_and_sites_apart() -> None:
    _, sent = play([ring(1, 1), ring(2, 3), ring(3, 5, "south")], 60)
    assert sorted(n.subject for n in sent) == [
        "2 alarms at north",
        "alarm raised on pump-3 at south",
    ]


def test_forty_machines_with_a_bad_model_are_at_most_three_notices_that_name_it() -> None:
    sites = ("north", "south", "east", "west")
    for seed in range(20):
        pick = random.Random(seed)
        ringing = [ring(i, pick.uniform(0, 300), sites[i % 4], "pump-model 8") for i in range(40)]
        fleet = {("model", "pump-model 8"): 0.2, ("broker", BROKER): 1.0}
        desk, sent = play(ringing, 3_000, fleet)
        first = [n for n in sent if n.at_ns <= 600 * S]
        assert len(first) <= 3, [n.subject for n in first]
        flood = next(n for n in sent if n.flood)
        assert flood.common[0][:2] == ("model", "pump-model 8")
        assert "all with model pump-model 8" in flood.subject
        assert BROKER not in flood.subject  # every machine is on it: it explains nothing
        assert named(sent) == sorted(r.alarm for r in ringing)
        assert not desk.waiting


def test_no_alarm_is_lost_and_none_named_twice_at_any_rate() -> None:
    for seed in range(30):
        pick = random.Random(seed)
        ringing = [ring(i, pick.uniform(0, 2_000), f"s{pick.randrange(6)}") for i in range(60)]
        desk, sent = play(ringing, 5_000)
        assert named(sent) == sorted(r.alarm for r in ringing)
        assert not desk.waiting


def test_ordinary_notices_are_limited_in_rate() -> None:
    ringing = [ring(i, 240 * i, f"site-{i}") for i in range(20)]
    _, sent = play(ringing, 8_000)
    for notice in sent:
        near = [n for n in sent if 0 <= n.at_ns - notice.at_ns < 600 * S]
        assert len(near) <= 4
    assert named(sent) == sorted(r.alarm for r in ringing)


def test_what_does_not_fit_is_counted() -> None:
    many = [ring(i, 1) for i in range(notices.WAITING_MAX + 500)]
    desk, _ = notices.step(Desk(), many, 2 * S)
    assert (len(desk.waiting), desk.crowd) == (notices.WAITING_MAX, 500)
    desk, sent = notices.step(desk, [], 60 * S)
    assert sent[0].count == notices.WAITING_MAX + 500
    assert len(sent[0].alarms) == notices.LISTED_MAX
    assert f"and {sent[0].count - notices.LISTED_MAX} more" in sent[0].body


def test_a_flood_that_ends_lets_ordinary_notices_through_again() -> None:
    ringing = [ring(i, 10) for i in range(20)] + [ring(99, 2_000)]
    _, sent = play(ringing, 2_100)
    assert [n.flood for n in sent] == [True, False]
    assert sent[-1].subject == "alarm raised on pump-99 at north"
