"""A slot learns its machine, judges by what it learnt, and goes back to it with its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_buffer import Kind
from fieldloop_contract.calibration import Calibration
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import CalibrationRule
from fieldloop_inference.slots import Phase
from fieldloop_scoring.calibrating import fit
from support.bundles import frame, make_bundle
from support.device import Bench, InstantTrial

RULE = {"windows": 40, "factor": 8.0, "threshold_min": 0.0, "threshold_max": 1.0}
RUNNING = {"feature": "deviation", "above": 0.3}


def noise(level: float, count: int, first: int) -> list[Frame]:
    rng = np.random.default_rng(first + 1)
    samples = rng.normal(0, level, (count, 16, 3)).astype(np.float32)
    return [frame(s, 10**18, 16 * (first + i)) for i, s in enumerate(samples)]


def watcher(version: int = 1, **rule: Any) -> Any:
    output = {"name": "residual", "kind": "reconstruction", "threshold": 1e-6}
    return make_bundle(
        "autoencoder",
        version=version,
        task="anomaly",
        outputs=[output],
        running_when=RUNNING,
        calibration={**RULE, **rule},
    )


def records(bench: Bench) -> list[Calibration]:
    rows = [e["data"] for e in bench.rows(Kind.EVENT) if e["type"] == "calibration.made"]
    made = [Calibration.model_validate(r["record"]) for r in rows]
    assert [m.digest() for m in made] == [r["digest"] for r in rows]
    return made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    device = Bench(tmp_path, begin_trial=InstantTrial).open()
    yield device
    device.close()
    device.input.close()


def test_a_slot_commissions_then_judges_by_its_own_record(bench: Bench) -> None:
    bench.put(noise(1.0, 21, 0))
    ref = bench.source.add(*watcher())
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    bench.idle()
    (state,) = bench.service.reported().slots
    assert state.reason == "COMMISSIONING: 20 of 40 running windows"
    assert not any(r["alarm"] for r in bench.results()), "though above the manifest's threshold"
    bench.close(cleanly=False)
    bench.open()
    bench.put(noise(0.01, 10, 21) + noise(1.0, 40, 31))
    bench.idle()
    (record,) = records(bench)
    assert bench.slot.report().reason == "CALIBRATED"
    rows = bench.results()
    judged = [r for r in rows if r.get("calibration")]
    assert {r["calibration"] for r in judged} == {record.digest()}
    # The cloud makes the same record of the same rows.
    named = [
        r["score"]
        for r in rows
        if r["running"] and record.seq_first <= r["seq_first"] and r["seq_last"] <= record.seq_last
    ]
    assert len(named) == record.windows == 40
    again = fit(named, CalibrationRule(**RULE))
    assert (again.centre, again.scale, again.threshold) == (
        record.centre,
        record.scale,
        record.threshold,
    )
    assert not any(r["alarm"] for r in judged)
    bench.put(noise(4.0, 10, 71))
    bench.idle()
    assert bench.results()[-1]["alarm"] is True


def calibrated(bench: Bench) -> Any:
    """A device whose first model knows its machine: after 60 noisy windows of a running one."""
    bench.put(noise(1.0, 60, 0))
    first = bench.source.add(*watcher())
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.idle()
    return first


def derived(bench: Bench) -> None:
    """Turn until the candidate in shadow has done with the rows of the old record."""
    bench.until(Phase.SHADOW)
    for _ in range(2_000):
        if bench.slot._candidate.shadow.deriving is None:
            return
        bench.turn()
    raise AssertionError("it derives for ever")


def test_a_candidate_derives_its_record_in_shadow_from_the_rows_of_the_old_one(
    bench: Bench,
) -> None:
    first = calibrated(bench)
    (one,) = records(bench)
    second = bench.source.add(*watcher(2))
    bench.source.order(second)
    derived(bench)
    bench.put(noise(1.0, 60, 60))
    bench.until(Phase.ACTIVE)
    bench.idle()
    _, two = records(bench)
    assert (two.model, two.derived_from) == (second, one.digest())
    assert (two.epoch, two.seq_first, two.seq_last) == (one.epoch, one.seq_first, one.seq_last)
    assert (two.centre, two.scale) == (one.centre, one.scale), "the two models are the same file"
    rows = bench.results()
    assert {r["calibration"] for r in rows if r["model"]["version"] == 2} == {two.digest()}
    assert all("calibration" not in r for r in bench.results("shadow")), "it judges nothing yet"
    assert bench.slot.report().reason == "CALIBRATED"
    bench.put(noise(4.0, 10, 120))
    bench.idle()
    assert bench.results()[-1]["alarm"] is True, "it may alarm from its first window on"
    assert bench.slot.slot.previous == first


def by_hand(record: Calibration, **changes: Any) -> Calibration:
    """The record that a person armed in the cloud, from rows of the same device."""
    return record.model_copy(update={"threshold": 1e-5, "method": "return-level-1", **changes})


def as_text(record: Calibration) -> str:
    return record.encode().decode()


def test_where_a_person_arms_a_record_of_the_device_is_a_proposal_only(bench: Bench) -> None:
    bench.put(noise(1.0, 60, 0))
    first = bench.source.add(*watcher(arm="person"))
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.idle()
    (proposed,) = records(bench)
    assert "waits for a person" in bench.slot.report().reason
    bench.put(noise(4.0, 10, 60))
    bench.idle()
    assert not any(r["alarm"] for r in bench.results())
    armed = by_hand(proposed)
    bench.source.order(first, calibration=as_text(armed))
    bench.put(noise(4.0, 10, 70))
    bench.idle()
    assert bench.slot.report().reason == "CALIBRATED"
    last = bench.results()[-1]
    assert (last["alarm"], last["calibration"]) == (True, armed.digest())
    bench.close(cleanly=False)
    bench.open()
    bench.put(noise(4.0, 2, 80))
    bench.idle()
    assert bench.results()[-1]["calibration"] == armed.digest(), "it survives a kill"
    # A candidate's record from the rows of an armed one may alarm, and so may its successor's.
    for version in (2, 3):
        ref = bench.source.add(*watcher(version, arm="person"))
        bench.source.order(ref, calibration=as_text(armed))
        derived(bench)
        bench.put(noise(1.0, 60, 100 * version))
        bench.until(Phase.ACTIVE)
        bench.idle()
        assert bench.slot.report().reason == "CALIBRATED"
    bench.source.order(ref, calibration=as_text(armed), calibration_stale="new bearing")
    bench.idle()
    assert bench.slot.report().reason == "STALE: new bearing"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "other"}, "the record is of"),
        ({"slot": "second"}, "the record is of"),
        ({"threshold": 2.0}, "outside the model's bounds"),
    ],
)
def test_an_ordered_record_that_does_not_fit_changes_nothing_and_is_told(
    bench: Bench, changes: dict[str, Any], words: str
) -> None:
    first = calibrated(bench)
    (own,) = records(bench)
    bench.source.order(first, calibration=as_text(by_hand(own, **changes)))
    bench.put(noise(1.0, 5, 60))
    bench.idle()
    (told,) = [e for e in bench.rows(Kind.EVENT) if e["type"] == "calibration.refused"]
    assert words in told["data"]["reason"]
    assert bench.results()[-1]["calibration"] == own.digest()


def test_an_ordered_record_that_is_none_is_told_once(bench: Bench) -> None:
    first = calibrated(bench)
    (own,) = records(bench)
    bench.source.order(first, calibration="{}")
    bench.put(noise(1.0, 5, 60))
    bench.idle()
    (told,) = [e for e in bench.rows(Kind.EVENT) if e["type"] == "calibration.refused"]
    assert "Calibration" in told["data"]["reason"]
    assert bench.results()[-1]["calibration"] == own.digest()


def test_a_rollback_restores_model_and_record_together(bench: Bench) -> None:
    first = calibrated(bench)
    second = bench.source.add(*watcher(2, windows=8))
    bench.source.order(second)
    derived(bench)
    bench.put(noise(1.0, 60, 60))
    bench.until(Phase.ACTIVE)
    bench.idle()
    one, two = records(bench)
    assert (one.model, two.model, two.windows) == (first, second, 8)
    assert bench.results()[-1]["calibration"] == two.digest()
    bench.close()
    bench.open()
    bench.source.order(first)
    bench.put(noise(1.0, 5, 120))
    bench.idle()
    last = bench.results()[-1]
    assert (last["model"]["version"], last["calibration"]) == (1, one.digest())
    bench.source.order(second)
    bench.put(noise(1.0, 5, 125))
    bench.idle()
    assert bench.results()[-1]["calibration"] == two.digest()
    assert len(records(bench)) == 2


def test_a_kill_while_a_candidate_derives_begins_that_again(bench: Bench) -> None:
    calibrated(bench)
    bench.put(noise(1.0, 3, 60))
    second = bench.source.add(*watcher(2))
    bench.source.order(second)
    bench.until(Phase.SHADOW)
    assert bench.slot._candidate.shadow.deriving is not None
    bench.close(cleanly=False)
    bench.open()
    derived(bench)
    bench.put(noise(1.0, 60, 63))
    bench.until(Phase.ACTIVE)
    bench.idle()
    _, two = records(bench)
    assert bench.results()[-1]["calibration"] == two.digest()
    bench.close(cleanly=False)
    bench.open()
    bench.put(noise(1.0, 5, 123))
    bench.idle()
    assert bench.results()[-1]["calibration"] == two.digest()


def test_rows_that_are_gone_make_a_candidate_commission_live(bench: Bench) -> None:
    calibrated(bench)
    second = bench.source.add(*watcher(2, windows=50))
    bench.source.order(second)
    derived(bench)
    bench.put(noise(1.0, 40, 60))
    bench.until(Phase.ACTIVE)
    bench.idle()
    (event,) = [e["data"] for e in bench.rows(Kind.EVENT) if e["type"] == "calibration.not-derived"]
    assert event["reason"].startswith("40 of 50 running windows are left")
    assert event["model"]["version"] == 2
    assert bench.slot.report().reason.startswith("COMMISSIONING: ")
    assert not any(r["alarm"] for r in bench.results() if r["model"]["version"] == 2)


def test_records_of_rejected_candidates_never_push_out_the_active_models(bench: Bench) -> None:
    first = calibrated(bench)
    (one,) = records(bench)
    put = 60
    for version in range(2, 8):
        bench.source.order(bench.source.add(*watcher(version)))
        derived(bench)
        assert len(records(bench)) == version
        bench.source.order(first)
        bench.put(noise(1.0, 3, put))
        put += 3
        bench.until(Phase.ACTIVE)
    bench.close(cleanly=False)
    bench.open()
    bench.put(noise(1.0, 3, put))
    bench.idle()
    assert bench.results()[-1]["calibration"] == one.digest()


def test_damaged_records_are_commissioned_again(bench: Bench) -> None:
    bench.put(noise(1.0, 60, 0))
    bench.source.order(bench.source.add(*watcher()))
    bench.until(Phase.ACTIVE)
    bench.idle()
    bench.log.set_state("calibration:main", '{"records":[{"v":1}]}')
    bench.log.commit(force=True)
    bench.close(cleanly=False)
    bench.open()
    assert bench.slot.report().reason == "COMMISSIONING: 0 of 40 running windows"
