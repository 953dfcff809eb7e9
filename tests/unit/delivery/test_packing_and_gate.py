"""Deltas that pay, and devices that cannot run a version."""

from __future__ import annotations

from fieldloop_contract.manifest import MODEL_FILE, Carriage, FileRef, Manifest, sha256
from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.controller import Assign, Version, assign
from fieldloop_delivery.evidence import Evidence, Tally, model_target
from fieldloop_delivery.figures import document
from fieldloop_delivery.gatelimits import Gates
from fieldloop_delivery.packing import Packings
from fieldloop_delivery.policy import Plan, SlotPolicy, Wave
from fieldloop_delivery.repository import target_file
from fieldloop_delivery.rollout import Give, Look, Observation, Phase, Rollout, step
from support.signed import bundle

ONE = ModelRef(name="activity", version=1, digest="1" * 64)
TWO = ModelRef(name="activity", version=2, digest="2" * 64)
WAVES, GATES = [Wave(count=1), Wave(percent=100)], Gates(windows_min=1, wait_s_max=100)
PLAN = Plan(waves=WAVES, gates=GATES)
START = Rollout("r", "main", model_target(TWO), phase=Phase.RUNNING)
UNFIT = Evidence(online=True, unfit="capability.memory: too small")
HERE = Evidence(online=True)


def changed(
    manifest: Manifest, files: dict[str, bytes], share: float
) -> tuple[Manifest, dict[str, bytes]]:
    old = files[MODEL_FILE]
    at = int(len(old) * (1 - share))
    later = {**files, MODEL_FILE: old[:at] + bytes((b * 7 + 1) % 256 for b in old[at:])}
    refs = {n: FileRef.of(d) for n, d in later.items()}
    return manifest.model_copy(update={"version": 2, "files": refs}), later


def test_delta_is_kept_only_if_it_pays(tmp_path):
    packings = Packings(tmp_path, 32768)
    one, files = bundle(1)
    two, little = changed(one, files, 0.2)
    three, much = changed(one, files, 0.9)
    forms = packings.of(two, little, [(one, files)])[MODEL_FILE]
    assert [p.source for p in forms] == [sha256(files[MODEL_FILE])]
    assert forms[0].blob.length < 0.3 * len(little[MODEL_FILE])
    assert packings.of(three, much, [(one, files)]) == {}
    longer = {**little, MODEL_FILE: little[MODEL_FILE] + b"x"}
    refs = {n: FileRef.of(d) for n, d in longer.items()}
    grown = two.model_copy(update={"files": refs})
    assert packings.of(grown, longer, [(one, files)]) == {}


def test_packings_are_made_once_and_go_with_the_versions_that_list_them(tmp_path):
    packings = Packings(tmp_path, 32768)
    one, files = bundle(1)
    two, little = changed(one, files, 0.2)
    first = packings.of(two, little, [(one, files)])
    blob = first[MODEL_FILE][0].blob.sha256
    stamp = (tmp_path / blob).stat().st_mtime_ns
    assert packings.of(two, little, [(one, files)]) == first
    assert (tmp_path / blob).stat().st_mtime_ns == stamp
    packings.keep({blob})
    assert packings.read(blob) is not None
    packings.keep(set())
    assert packings.read(blob) is None


def test_delta_stands_in_the_signed_entry_and_the_versions_identity_is_the_same(tmp_path):
    one, files = bundle(1)
    two, little = changed(one, files, 0.2)
    packed = Packings(tmp_path, 32768).of(two, little, [(one, files)])
    payload = two.encode()
    carriage = Carriage(manifest=FileRef.of(payload), packed=packed)
    entry = target_file("activity/2/manifest.json", payload, carriage)
    assert entry.custom["packed"][MODEL_FILE][0]["source"] == sha256(files[MODEL_FILE])
    assert entry.hashes["sha256"] == two.digest()


def run(state: Rollout, devices: dict[str, Evidence], now_s: float) -> tuple[Rollout, list[Give]]:
    state, effects = step(state, PLAN, Look(Observation(devices)), now_s)
    return state, [e for e in effects if isinstance(e, Give)]


def test_device_that_cannot_is_passed_over_and_counts_neither_way():
    state = START
    devices = {"a": UNFIT, "b": HERE, "c": HERE}
    state, effects = run(state, devices, 0.0)
    assert {e.device for e in effects} <= {"b", "c"}
    assert len(effects) == 1
    good = Evidence(online=True, installed=True, new=Tally(windows=5))
    devices |= {effects[0].device: good}
    state, _ = run(state, devices, 1.0)
    state, effects = run(state, devices, 2.0)
    devices |= {e.device: good for e in effects}
    state, _ = run(state, devices, 3.0)
    assert state.phase is Phase.COMPLETED
    assert set(state.members) == {"b", "c"}
    assert document(state, PLAN, devices)["skipped"] == {"a": UNFIT.unfit}


def test_fleet_of_which_none_can_waits_and_touches_nobody():
    state, effects = run(START, {"a": UNFIT}, 0.0)
    assert effects == []
    assert run(state, {"a": UNFIT}, 10_000.0)[0].phase is Phase.RUNNING


def test_champion_is_not_ordered_where_it_cannot_run():
    policy = SlotPolicy(model="activity", waves=WAVES, gates=GATES)
    done = [Rollout("r", "main", model_target(TWO), phase=Phase.COMPLETED)]
    versions = [Version(ONE, "approved"), Version(TWO, "approved")]
    devices = {"small": HERE, "old": HERE, "new": HERE}

    def fits(device: str, ref: ModelRef) -> bool:
        return device == "new" or ref != TWO

    changes = assign(policy, done, versions, devices, {"old": ONE}, 0.0, fits)
    assert changes == [Assign("new", TWO)]
