"""On which day would each published model have raised the alarm, had it been there from the start?

The windows of the pump with the fault are scored by each version's own file in the edge runtime.
Its threshold is the one that the loop gave it: the record that a person armed is of one version;
the others' follow from it and from the windows of that commissioning, by the device's own rule.
Pure but for the runtime. One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.manifest import MODEL_FILE, AlarmRule, Manifest
from fieldloop_inference.deriving import as_sensitive
from fieldloop_scoring import alarms
from fieldloop_scoring.calibrating import fit
from fieldloop_scoring.regimes import Regimes
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Detection:
    """What one version would have done.

    Attributes:
        day: days from the onset to the alarm; None: never.
        false_before: alarms after the commissioning and before the onset.
    """

    version: int
    threshold: float
    day: float | None
    false_before: int


def detect(
    manifest: Manifest,
    files: dict[str, bytes],
    windows: Sequence[NDArray[np.float32]],
    days: NDArray[np.float64],
    *,
    armed: Calibration,
    commissioned: tuple[float, float],
    onset_day: float,
) -> Detection:
    """Score all windows and step the alarm.

    Args:
        windows: float32[n, channels] each, in order; `days` are their times.
        armed: the record that a person armed, of this version or of another one.
        commissioned: days of the commissioning's first and last window.
    """
    scorer = Scorer(manifest, open_runner(files[MODEL_FILE]))
    running = np.ones(len(windows), np.bool_)
    if (regimes := Regimes.of(manifest)) is not None:
        running = regimes.running_mask(np.stack(windows))
    scores = np.full(len(windows), np.nan)
    for i in np.flatnonzero(running & (days >= commissioned[0])):
        scored = scorer.score(windows[i])
        scores[i] = np.nan if scored.score is None else scored.score
    known = np.isfinite(scores)
    threshold = armed.threshold
    if armed.model.digest != manifest.ref().digest:
        assert manifest.calibration is not None
        rule = as_sensitive(armed, manifest.calibration)
        inside = known & (days >= commissioned[0]) & (days <= commissioned[1])
        threshold = fit(scores[inside][: rule.windows].tolist(), rule).threshold
    state, before, day = alarms.Alarm(), 0, None
    rule_of = manifest.outputs[0].alarm or AlarmRule()
    fresh = False
    for i in np.flatnonzero(known & (days > commissioned[1])):
        if days[i] >= onset_day and not fresh:
            state, fresh = alarms.Alarm(), True
        after = alarms.step(state, float(scores[i]), threshold, rule_of)
        if after.raised and not state.raised:
            if days[i] >= onset_day:
                day = float(days[i] - onset_day)
                break
            before += 1
        state = after
    return Detection(manifest.version, threshold, day, before)
