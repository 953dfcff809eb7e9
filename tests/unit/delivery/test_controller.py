"""What every device of a slot is assigned."""

from __future__ import annotations

from dataclasses import replace

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.controller import (
    Assign,
    Version,
    assign,
    champion,
    opened,
    propose,
    taken_back,
)
from fieldloop_delivery.evidence import Evidence, model_target
from fieldloop_delivery.gatelimits import Gates
from fieldloop_delivery.policy import Maintenance, SlotPolicy, Wave
from fieldloop_delivery.rollout import Begin, Look, Observation, Phase, Rollout, step

ONE = ModelRef(name="activity", version=1, digest="1" * 64)
TWO = ModelRef(name="activity", version=2, digest="2" * 64)
THREE = ModelRef(name="activity", version=3, digest="3" * 64)
POLICY = SlotPolicy(
    model="activity", waves=[Wave(count=1), Wave(percent=100)], gates=Gates(wait_s_max=100)
)
HERE = Evidence(online=True)


def versions(*refs: ModelRef, recalled: tuple[ModelRef, ...] = ()) -> list[Version]:
    return [Version(r, "approved") for r in refs] + [Version(r, "recalled") for r in recalled]


def done(ref: ModelRef, phase: Phase = Phase.COMPLETED, ended_s: float | None = None) -> Rollout:
    return Rollout(
        id=f"r{ref.version}", lane="main", target=model_target(ref), phase=phase,
        ended_s=float(ref.version) if ended_s is None else ended_s,
    )  # fmt: skip


def begun(before: list[Rollout], known: list[Version]) -> Rollout:
    fresh = propose(POLICY, before, known, "new")
    assert fresh is not None
    return step(fresh, POLICY, Begin(), 0.0)[0]


def turn(
    active: Rollout,
    before: list[Rollout],
    known: list[Version],
    devices: dict[str, Evidence],
    held: dict[str, ModelRef | None],
    now_s: float,
    policy: SlotPolicy = POLICY,
    withdrawn: str = "",
) -> tuple[Rollout, list[Assign]]:
    """A look at the rollout, and what is assigned by it."""
    seen = {
        d: replace(e, holds=model_target(ref) if (ref := held.get(d)) is not None else None)
        for d, e in devices.items()
    }
    after, _ = step(active, policy, Look(Observation(seen, withdrawn)), now_s)
    return after, assign(policy, [after, *before], known, seen, held, now_s)


def test_newest_approved_version_is_begun_once():
    fresh = propose(POLICY, [], versions(ONE, TWO), "new")
    assert fresh is not None
    assert fresh.target == model_target(TWO)
    assert propose(POLICY, [done(TWO)], versions(ONE, TWO), "new") is None
    assert propose(POLICY, [done(TWO, Phase.HALTED)], versions(TWO), "new") is None


def test_nothing_begins_by_itself_where_a_person_starts():
    manual = POLICY.model_copy(update={"start": "manual"})
    assert propose(manual, [], versions(ONE), "new") is None


def test_older_version_is_not_rolled_out_over_the_champion():
    assert propose(POLICY, [done(TWO)], versions(ONE, TWO), "new") is None


def test_other_models_are_left_alone():
    other = ModelRef(name="vibration", version=9, digest="9" * 64)
    assert propose(POLICY, [], versions(other), "new") is None


def test_recalled_champion_gives_way_to_the_one_before():
    rollouts = [done(ONE), done(TWO)]
    assert champion(rollouts, versions(ONE, TWO)) == TWO
    assert champion(rollouts, versions(ONE, recalled=(TWO,))) == ONE
    assert champion(rollouts, versions(recalled=(ONE, TWO))) is None


def test_version_rolled_out_last_is_the_champion_even_if_it_is_older():
    rollouts = [done(TWO), done(ONE, ended_s=99.0)]
    assert champion(rollouts, versions(ONE, TWO)) == ONE


def test_new_device_gets_the_champion_at_once():
    changes = assign(POLICY, [done(ONE)], versions(ONE), {"d1": HERE}, {}, 0.0)
    assert changes == [Assign("d1", ONE)]


def test_device_without_any_model_is_sent_no_order():
    assert assign(POLICY, [], [], {"d1": HERE}, {}, 0.0) == []


def test_untouched_devices_keep_the_champion_during_a_rollout():
    known = versions(ONE, TWO)
    active = begun([done(ONE)], known)
    devices = {"d1": HERE, "d2": HERE, "d3": HERE}
    after, changes = turn(active, [done(ONE)], known, devices, {"d1": ONE, "d2": ONE}, 0.0)
    touched = next(iter(after.members))
    assert {c.device: c.model for c in changes} == {touched: TWO} | (
        {"d3": ONE} if touched != "d3" else {}
    )


def test_halted_rollout_gives_every_touched_device_what_it_had():
    known = versions(ONE, TWO)
    devices = {"d1": HERE, "d2": HERE}
    held: dict[str, ModelRef | None] = {"d1": ONE, "d2": ONE}
    after, changes = turn(begun([done(ONE)], known), [done(ONE)], known, devices, held, 5.0)
    held.update({c.device: c.model for c in changes})
    failed = {d: Evidence(online=True, failed="REJECTED") for d in devices}
    after, changes = turn(after, [done(ONE)], known, failed, held, 6.0)
    assert after.phase is Phase.HALTED
    assert changes == [Assign(next(iter(after.members)), ONE)]


def test_device_behind_the_champion_goes_back_to_its_own_version_after_a_halt():
    known = versions(ONE, TWO, THREE)
    before = [done(TWO), done(ONE)]
    active = begun(before, known)
    held: dict[str, ModelRef | None] = {"d1": ONE}
    after, changes = turn(active, before, known, {"d1": HERE}, held, 5.0)
    assert changes == [Assign("d1", THREE)]
    broken = {"d1": Evidence(online=True, failed="REJECTED")}
    after, changes = turn(after, before, known, broken, {"d1": THREE}, 6.0)
    assert changes == [Assign("d1", ONE)]
    assert taken_back([after, *before], known) is after


def test_first_version_that_fails_leaves_devices_with_none():
    known = versions(ONE)
    after, changes = turn(begun([], known), [], known, {"d1": HERE}, {}, 0.0)
    assert changes == [Assign("d1", ONE)]
    failed = {"d1": Evidence(online=True, failed="REJECTED")}
    _, changes = turn(after, [], known, failed, {"d1": ONE}, 1.0)
    assert changes == [Assign("d1", None)]


def test_version_withdrawn_during_its_rollout_is_taken_back():
    known = versions(ONE, TWO)
    after, _ = turn(begun([done(ONE)], known), [done(ONE)], known, {"d1": HERE}, {"d1": ONE}, 5.0)
    gone = versions(ONE, recalled=(TWO,))
    after, changes = turn(
        after, [done(ONE)], gone, {"d1": HERE}, {"d1": TWO}, 6.0,
        withdrawn="the version is recalled",
    )  # fmt: skip
    assert after.verdict == "halted: the version is recalled"
    assert changes == [Assign("d1", ONE)]


def test_next_version_waits_for_the_running_rollout():
    known = versions(TWO, THREE)
    active = begun([], versions(TWO))
    after, _ = turn(active, [], known, {"d1": HERE}, {}, 0.0)
    assert opened([after]) is after
    assert after.target == model_target(TWO)


def test_late_devices_catch_up_under_the_limit_and_in_maintenance():
    known, made = versions(ONE, TWO), [done(TWO), done(ONE)]
    late = dict.fromkeys([f"d{i}" for i in range(5)], replace(HERE, runs=ONE.digest))
    held: dict[str, ModelRef | None] = dict.fromkeys(late, ONE)
    policy = POLICY.model_copy(
        update={"in_flight_max": 2, "maintenance": [Maintenance(start="01:00", end="02:00")]}
    )
    assert assign(policy, made, known, late, held, 0.0) == []
    changes = assign(policy, made, known, late, held, 3_600.0)
    assert changes == [Assign("d0", TWO), Assign("d1", TWO)]
    held.update({c.device: c.model for c in changes})
    assert assign(policy, made, known, late, held, 3_601.0) == []
    late["d0"] = replace(HERE, runs=TWO.digest)
    assert assign(policy, made, known, late, held, 3_602.0) == [Assign("d2", TWO)]


def test_recalled_version_is_taken_away_outside_maintenance_too():
    policy = POLICY.model_copy(update={"maintenance": [Maintenance(start="01:00", end="02:00")]})
    known, made = versions(ONE, recalled=(TWO,)), [done(TWO), done(ONE)]
    changes = assign(policy, made, known, {"d1": HERE}, {"d1": TWO}, 0.0)
    assert changes == [Assign("d1", ONE)]
