"""The deployment policy: which model belongs in which slot of which devices, and how it gets there.

A YAML or JSON file, read at start:

    slots:
      - slot: main
        model: activity
        streams: {imu: imu}          # the model's input: the device's stream
        devices: ["*"]               # shell patterns of device ids
        waves: [{count: 1}, {percent: 20}, {percent: 100}]
        gates: {windows_min: 20, wait_s_max: 86400}
"""

from __future__ import annotations

import fnmatch
import math
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.ids import Id
from fieldloop_contract.messages import describe
from fieldloop_runtime.settings import Settings

POLICY_BYTES_MAX = 1 << 20
Share = Annotated[float, Field(ge=0, le=1)]


class Wave(Settings):
    """How many devices have the new version once this wave has begun: a number or a share."""

    count: Annotated[int, Field(ge=1)] | None = None
    percent: Annotated[float, Field(gt=0, le=100)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Wave:
        if (self.count is None) == (self.percent is None):
            raise ValueError("a wave has either count or percent")
        return self

    def size(self, eligible: int) -> int:
        """Devices of `eligible` that may be touched, this wave and earlier ones together."""
        if self.count is not None:
            return min(self.count, eligible)
        return min(eligible, math.ceil(eligible * (self.percent or 0.0) / 100))


class Gates(Settings):
    """What a wave must show. Without evidence it does not pass, and after `wait_s_max` it halts."""

    windows_min: Annotated[int, Field(ge=1)] = 20
    """Windows that each counted device must have scored with the new version."""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of touched devices that must have given full evidence; at least one."""
    soak_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between full evidence and the next wave."""
    wait_s_max: Annotated[float, Field(gt=0)] = 86_400.0
    """Seconds a wave may take in all."""
    failed_share_max: Share = 0.0
    """Share of touched devices that may reject the version or roll it back."""
    invalid_share_max: Share = 0.05
    """Share of windows whose output may be invalid."""
    latency_ratio_max: Annotated[float, Field(gt=0)] = 2.0
    """Mean latency against that of the earlier version on the same devices."""
    latency_floor_us: Annotated[float, Field(ge=0)] = 5_000.0
    """Means below this are never too slow."""
    agreement_min: Share | None = None
    """Share of windows on which shadow and active model must agree; None for no such gate."""
    accuracy_drop_max: Share = 0.0
    """Loss of accuracy against the earlier version that is put up with."""
    labels_min: Annotated[int, Field(ge=1)] = 100
    """Labelled windows of both versions below which accuracy is not judged."""
    independent_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Windows of one recording overlap: this share of them counts as independent."""


class SlotPolicy(Settings):
    """One slot of a set of devices."""

    slot: Id = "main"
    model: Id
    streams: dict[Id, Id] = Field(default_factory=dict, max_length=16)
    devices: list[str] = Field(default=["*"], min_length=1, max_length=10_000)
    waves: list[Wave] = Field(
        default=[Wave(count=1), Wave(percent=20), Wave(percent=100)], min_length=1, max_length=32
    )
    gates: Gates = Gates()

    def matches(self, device: str) -> bool:
        """Whether a device belongs to this policy."""
        return any(fnmatch.fnmatchcase(device, pattern) for pattern in self.devices)


class Policy(Settings):
    """All slots of a fleet."""

    slots: list[SlotPolicy] = Field(default_factory=list, max_length=256)

    @model_validator(mode="after")
    def _slots_once(self) -> Policy:
        names = [s.slot for s in self.slots]
        if len(names) != len(set(names)):
            raise ValueError("a slot stands twice; one rollout at a time belongs to a slot")
        return self


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        FixConfiguration: it cannot be read, with the faults in words.
    """
    try:
        payload = path.read_bytes()
        if len(payload) > POLICY_BYTES_MAX:
            raise FixConfiguration(f"{path} is too long", code="policy.invalid")
        return Policy.model_validate(yaml.safe_load(payload) or {})
    except (OSError, yaml.YAMLError) as error:
        raise FixConfiguration(f"{path}: {error}", code="policy.invalid") from error
    except ValidationError as error:
        raise FixConfiguration(f"{path}: {describe(error)}", code="policy.invalid") from error
