"""What every device of a slot is assigned."""

from __future__ import annotations

from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.controller import Version, begin, champion, look
from fieldloop_delivery.policy import Gates, SlotPolicy, Wave
from fieldloop_delivery.rollout import Assign, Evidence, Phase, Rollout

ONE = ModelRef(name="activity", version=1, digest="1" * 64)
TWO = ModelRef(name="activity", version=2, digest="2" * 64)
THREE = ModelRef(name="activity", version=3, digest="3" * 64)
POLICY = SlotPolicy(
    model="activity", waves=[Wave(count=1), Wave(percent=100)], gates=Gates(wait_s_max=100)
)
HERE = Evidence(online=True)


def versions(*refs: ModelRef, recalled: tuple[ModelRef, ...] = ()) -> list[Version]:
    return [Version(r, "approved") for r in refs] + [Version(r, "recalled") for r in recalled]


def done(ref: ModelRef, phase: Phase = Phase.COMPLETED) -> Rollout:
    return Rollout(id=f"r{ref.version}", slot="main", target=ref, phase=phase)


def test_newest_approved_version_is_begun_once():
    begun = begin(POLICY, [], versions(ONE, TWO), "new")
    assert begun is not None
    assert begun.target == TWO
    assert begin(POLICY, [done(TWO)], versions(ONE, TWO), "new") is None
    assert begin(POLICY, [done(TWO, Phase.HALTED)], versions(TWO), "new") is None


def test_older_version_is_not_rolled_out_over_the_champion():
    assert begin(POLICY, [done(TWO)], versions(ONE, TWO), "new") is None


def test_other_models_are_left_alone():
    other = ModelRef(name="vibration", version=9, digest="9" * 64)
    assert begin(POLICY, [], versions(other), "new") is None


def test_recalled_champion_gives_way_to_the_one_before():
    rollouts = [done(ONE), done(TWO)]
    assert champion(rollouts, versions(ONE, TWO)) == TWO
    assert champion(rollouts, versions(ONE, recalled=(TWO,))) == ONE
    assert champion(rollouts, versions(recalled=(ONE, TWO))) is None


def test_new_device_gets_the_champion_at_once():
    _, changes = look(POLICY, None, [done(ONE)], versions(ONE), {"d1": HERE}, {}, 0.0)
    assert changes == [Assign("d1", ONE)]


def test_device_without_any_model_is_sent_no_order():
    _, changes = look(POLICY, None, [], [], {"d1": HERE}, {}, 0.0)
    assert changes == []


def test_untouched_devices_keep_the_champion_during_a_rollout():
    active = begin(POLICY, [done(ONE)], versions(ONE, TWO), "new")
    devices = {"d1": HERE, "d2": HERE, "d3": HERE}
    held = {"d1": ONE, "d2": ONE}
    after, changes = look(POLICY, active, [done(ONE)], versions(ONE, TWO), devices, held, 0.0)
    assert after is not None
    touched = after.touched[0].device
    assert {c.device: c.model for c in changes} == {touched: TWO} | (
        {"d3": ONE} if touched != "d3" else {}
    )


def test_halted_rollout_gives_every_touched_device_the_champion():
    active = begin(POLICY, [done(ONE)], versions(ONE, TWO), "new")
    devices = {"d1": HERE, "d2": HERE}
    held = {"d1": ONE, "d2": ONE}
    after, changes = look(POLICY, active, [done(ONE)], versions(ONE, TWO), devices, held, 0.0)
    held.update({c.device: c.model for c in changes})
    failed = {d: Evidence(online=True, failed="REJECTED") for d in devices}
    after, changes = look(POLICY, after, [done(ONE)], versions(ONE, TWO), failed, held, 1.0)
    assert after is not None
    assert after.phase is Phase.HALTED
    assert changes == [Assign(after.touched[0].device, ONE)]


def test_first_version_that_fails_leaves_devices_with_none():
    active = begin(POLICY, [], versions(ONE), "new")
    after, changes = look(POLICY, active, [], versions(ONE), {"d1": HERE}, {}, 0.0)
    assert changes == [Assign("d1", ONE)]
    failed = {"d1": Evidence(online=True, failed="REJECTED")}
    _, changes = look(POLICY, after, [], versions(ONE), failed, {"d1": ONE}, 1.0)
    assert changes == [Assign("d1", None)]


def test_version_withdrawn_during_its_rollout_is_taken_back():
    active = begin(POLICY, [done(ONE)], versions(ONE, TWO), "new")
    devices = {"d1": HERE}
    after, changes = look(POLICY, active, [done(ONE)], versions(ONE, TWO), devices, {"d1": ONE}, 0)
    gone = versions(ONE, recalled=(TWO,))
    after, changes = look(POLICY, after, [done(ONE)], gone, devices, {"d1": TWO}, 1.0)
    assert after is not None
    assert after.verdict == "halted: the version is recalled"
    assert changes == [Assign("d1", ONE)]


def test_next_version_waits_for_the_running_rollout():
    active = begin(POLICY, [], versions(TWO), "new")
    after, _ = look(POLICY, active, [], versions(TWO, THREE), {"d1": HERE}, {}, 0.0)
    assert after is not None
    assert (after.target, after.phase) == (TWO, Phase.RUNNING)
