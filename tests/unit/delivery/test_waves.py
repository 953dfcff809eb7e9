"""Who is touched: by hash, by tag, of each cohort its share; controls of the same cohorts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fieldloop_delivery.evidence import Evidence
from fieldloop_delivery.policy import Maintenance, Plan, Policy, Wave
from fieldloop_delivery.waves import choose, shares

SITES = ["north"] * 70 + ["south"] * 25 + ["east"] * 5
FLEET = {
    f"d{i}": Evidence(online=True, tags={"site": site, "ring": "canary" if i % 10 == 0 else "all"})
    for i, site in enumerate(SITES)
}


def plan(**changes: object) -> Plan:
    return Plan.model_validate(
        {"waves": [{"count": 20}, {"all": True}], "cohorts": ["site"], **changes}
    )


def test_first_wave_has_every_cohort_by_its_share():
    chosen = choose("r", {}, {}, plan(), 0, FLEET)
    assert Counter(chosen.devices.values()) == {"north": 14, "south": 5, "east": 1}


def test_controls_are_of_the_same_cohorts_and_nobody_else():
    chosen = choose("r", {}, {}, plan(), 0, FLEET)
    assert Counter(chosen.controls.values()) == {"north": 14, "south": 5, "east": 1}
    assert not set(chosen.controls) & set(chosen.devices)


def test_last_wave_keeps_no_controls():
    chosen = choose("r", {}, {}, plan(waves=[{"all": True}]), 0, FLEET)
    assert len(chosen.devices) == 100
    assert chosen.controls == {}


def test_same_rollout_chooses_the_same_and_another_one_others():
    once = choose("r", {}, {}, plan(), 0, FLEET)
    assert once == choose("r", {}, {}, plan(), 0, dict(reversed(FLEET.items())))
    assert set(once.devices) != set(choose("s", {}, {}, plan(), 0, FLEET).devices)


def test_wave_by_tag_takes_nobody_else():
    rings = plan(waves=[{"percent": 100, "tags": {"ring": "canary"}}, {"all": True}])
    chosen = choose("r", {}, {}, rings, 0, FLEET)
    assert set(chosen.devices) == {f"d{i}" for i in range(0, 100, 10)}


def test_cohort_with_nobody_there_leaves_its_places():
    there = {d: e if e.tags["site"] != "east" else Evidence(tags=e.tags) for d, e in FLEET.items()}
    assert len(choose("r", {}, {}, plan(), 0, there).devices) == 20


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 50), max_size=6),
    st.integers(0, 200),
)
def test_shares_add_up_and_never_exceed(weights, size):
    found = shares(weights, size)
    assert sum(found.values()) == min(size, sum(weights.values()))
    assert all(0 <= found[c] <= weights[c] for c in weights)


@pytest.mark.parametrize(
    ("wave", "said"),
    [
        ({}, "one of count, percent and all"),
        ({"count": 1, "percent": 5}, "one of count, percent and all"),
        ({"percent": 0}, "greater than 0"),
        ({"all": False}, "Input should be True"),
    ],
)
def test_bad_wave_is_refused_in_words(wave, said):
    with pytest.raises(ValidationError, match=said):
        Wave.model_validate(wave)


def test_maintenance_runs_past_midnight_in_its_own_time_zone():
    night = Maintenance(days=["fri"], start="22:00", end="04:00", timezone="Europe/Berlin")
    friday_2230 = 1_785_529_800.0  # 2026-07-31 20:30 UTC
    assert night.open(friday_2230)
    assert night.open(friday_2230 + 5 * 3600)  # Saturday, 03:30
    assert not night.open(friday_2230 + 6 * 3600)
    assert not night.open(friday_2230 + 24 * 3600)


@pytest.mark.parametrize("bad", [{"start": "25:00"}, {"end": "4"}, {"timezone": "Mars/Olympus"}])
def test_bad_maintenance_is_refused(bad):
    with pytest.raises(ValidationError):
        Maintenance.model_validate(bad)


def test_tags_come_from_the_policy_later_patterns_over_earlier_ones():
    policy = Policy.model_validate(
        {"tags": {"pump-*": {"site": "north", "ring": "all"}, "pump-7": {"ring": "canary"}}}
    )
    assert policy.tags_of("pump-7") == {"site": "north", "ring": "canary"}
    assert policy.tags_of("press-1") == {}
