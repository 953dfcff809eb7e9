"""A machine's own threshold: robust, within signed bounds, and a record that is frozen."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from fieldloop_contract.calibration import Calibration, parse_calibration
from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.manifest import CalibrationRule
from fieldloop_scoring import calibrating
from fieldloop_scoring.calibrating import fit
from support.bundles import make_manifest

RULE = CalibrationRule(windows=100, factor=6, threshold_min=0.0, threshold_max=50.0)
VECTOR = Path(__file__).parent / "calibration_vector.json"
GOLDEN_RECORD = Path(__file__).parents[3] / "contract" / "vectors" / "calibration.json"


def test_the_example_in_the_module_is_true() -> None:
    assert doctest.testmod(calibrating).failed == 0


def test_centre_and_scale_are_those_of_normal_data() -> None:
    scores = np.random.default_rng(1).normal(10, 2, 5_000)
    fitted = fit(scores.tolist(), RULE)
    assert fitted.centre == pytest.approx(10, abs=0.1)
    assert fitted.scale == pytest.approx(2, rel=0.05)
    assert fitted.threshold == pytest.approx(22, rel=0.03)


def test_anomalous_rows_among_them_do_not_move_the_threshold() -> None:
    scores = np.random.default_rng(1).normal(10, 2, 100)
    clean = fit(scores.tolist(), RULE).threshold
    for bad in (1, 5, 10):
        scores[:bad] = 1_000.0
        assert fit(scores.tolist(), RULE).threshold == pytest.approx(clean, rel=0.25)
    assert np.quantile(scores, 0.99) == 1_000.0, "a quantile would have been theirs"


def test_the_threshold_stays_within_its_signed_bounds() -> None:
    assert fit([5.0] * 10, RULE).threshold == 5.0
    assert fit([500.0] * 10, RULE).threshold == 50.0
    low = RULE.model_copy(update={"threshold_min": 7.0})
    assert fit([5.0] * 10, low).threshold == 7.0


def test_the_golden_record_is_what_its_scores_make_of_it_for_ever() -> None:
    vector = json.loads(VECTOR.read_text(encoding="utf-8"))
    rule = CalibrationRule.model_validate(vector["rule"])
    record = parse_calibration(GOLDEN_RECORD.read_bytes())
    assert record == parse_calibration(json.dumps(vector["record"]).encode())
    assert record.digest() == vector["digest"]
    fitted = fit(vector["scores"], rule)
    assert (fitted.centre, fitted.scale, fitted.threshold, fitted.scores) == (
        record.centre,
        record.scale,
        record.threshold,
        record.scores,
    )
    other = record.model_copy(update={"threshold": record.threshold + 1e-9})
    assert other.digest() != record.digest()


def test_a_record_or_rule_that_is_none_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        parse_calibration(b'{"v":1,"windows":0}')
    with pytest.raises(ValidationError):
        CalibrationRule(threshold_min=2.0, threshold_max=1.0)
    with pytest.raises(ValidationError):
        make_manifest(b"x", b"y", calibration=RULE)
    assert Calibration.model_config["frozen"]
