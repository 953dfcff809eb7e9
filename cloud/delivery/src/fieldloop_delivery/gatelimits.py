"""The limits of the gates: what a wave must show, and what may not get worse."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fieldloop_runtime.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
JUDGED = ("latency", "disagreement", "tails", "alarms", "accuracy")
"""Gates that are judged by sequential evidence, among which the error is divided."""
Judged = Literal["latency", "disagreement", "tails", "alarms", "accuracy"]


class Gates(Settings):
    """What a wave must show. Without evidence it does not pass, and after `wait_s_max` it halts."""

    windows_min: Annotated[int, Field(ge=0)] = 20
    """Running windows that each counted device must have scored with the new version."""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the wave's devices that must have given full evidence; at least one."""
    soak_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between full evidence and the next wave."""
    wait_s_max: Positive = 86_400.0
    """Seconds a wave may take in all; time in pause or before an approval does not count."""
    failed_share_max: Share = 0.0
    """Share of the wave's devices that may reject the version or roll it back."""
    invalid_share_max: Share = 0.05
    """Share of windows whose output may be invalid."""
    error_max: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance that a version no worse than allowed is halted by the judged gates, over all looks."""
    required: list[Judged] = Field(default_factory=list)
    """Judged gates without whose minimum of samples no wave passes."""
    independent_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Windows of one recording overlap: this share of them counts as independent."""
    latency_ratio_max: Positive = 2.0
    """Latency against that of the earlier version on the same devices."""
    latency_floor_us: Annotated[float, Field(ge=0)] = 5_000.0
    """Means below this are never too slow."""
    agreement_min: Share | None = None
    """Share of windows on which shadow and active model must agree; None for no such limit."""
    disagreement_excess_max: Share = 0.1
    """Disagreement in shadow above that measured on the recent set, where that is stated."""
    shadow_min: Annotated[int, Field(ge=1)] = 50
    """Windows scored by both below which disagreement and tails are not judged."""
    tail_excess_max: Share = 0.05
    """Share of the same windows that only the new version scores above its threshold."""
    alarm_ratio_max: Positive = 1.3
    """Alarms for each running window, each machine against itself."""
    alarms_min: Annotated[int, Field(ge=1)] = 20
    """Alarms, before and after together, below which they are not judged."""
    accuracy_drop_max: Share = 0.0
    """Loss of accuracy against the earlier version that is put up with."""
    labels_min: Annotated[int, Field(ge=1)] = 100
    """Labelled windows of both versions below which accuracy is not judged."""
