"""How sensitive a record is that follows from another one."""

from __future__ import annotations

import pytest

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.manifest import CalibrationRule
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.deriving import as_sensitive

RULE = CalibrationRule(windows=8, factor=8.0, threshold_min=0.1, threshold_max=100.0)


def record(**changes: object) -> Calibration:
    fields = {
        "fleet": "acme", "device": "pump-1", "slot": "main", "stream": "vibration",
        "model": ModelRef(name="m", version=1, digest="a" * 64), "epoch": "b" * 32, "seq_first": 1,
        "epoch_last": "b" * 32, "seq_last": 9, "t0_ns": 1, "t1_ns": 2, "windows": 9,
        "centre": 1.0, "scale": 0.5, "threshold": 2.75,
    }  # fmt: skip
    return Calibration.model_validate({**fields, **changes})


@pytest.mark.parametrize("base", [{"method": "return-level-1"}, {"derived_from": "c" * 64}])
def test_a_record_that_follows_an_armed_one_is_as_sensitive(base: dict[str, str]) -> None:
    rule = as_sensitive(record(**base), RULE)
    assert rule == RULE.model_copy(update={"factor": 3.5})


@pytest.mark.parametrize(
    "base", [{}, {"method": "m", "scale": 0.0}, {"method": "m", "threshold": 0.5}]
)
def test_any_other_is_by_the_models_own_factor(base: dict[str, object]) -> None:
    assert as_sensitive(record(**base), RULE) == RULE
