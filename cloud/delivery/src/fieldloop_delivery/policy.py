"""The deployment policy: which model belongs in which slot of which devices, and how it gets there.

A YAML or JSON file, read at start:

    slots:
      - slot: main
        model: activity
        streams: {imu: imu}          # the model's input: the device's stream
        devices: ["*"]               # shell patterns of device ids
        waves: [{count: 1}, {percent: 20, approval: true}, {all: true}]
        gates: {windows_min: 20, wait_s_max: 86400}
        cohorts: [site]              # tags by which first waves are stratified
        maintenance: [{days: [sat, sun], start: "22:00", end: "04:00", timezone: Europe/Berlin}]
    containers:                      # releases of the containers, where balena manages them
      waves: [{count: 1}, {percent: 20}, {all: true}]
      gates: {soak_s: 600}
    tags:
      "pump-*": {site: north}        # for fleets without another inventory

`Plan` is what every rollout has, of models and of container releases alike; `SlotPolicy` adds what
only models have.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.ids import Id
from fieldloop_contract.messages import describe
from fieldloop_delivery.gatelimits import Gates
from fieldloop_runtime.settings import Settings

POLICY_BYTES_MAX = 1 << 20
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Tags = Annotated[dict[str, str], Field(max_length=64)]
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")


class Wave(Settings):
    """How many devices have the new version once this wave has begun: a number, a share, all."""

    count: Annotated[int, Field(ge=1)] | None = None
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    all: Literal[True] | None = None
    tags: Tags = Field(default_factory=dict)
    """Only devices with all of these tags are chosen; within them the hash of the id decides."""
    approval: bool = False
    """Whether somebody has to approve this wave before it begins."""

    @model_validator(mode="after")
    def _one(self) -> Wave:
        if sum(x is not None for x in (self.count, self.percent, self.all)) != 1:
            raise ValueError("a wave has one of count, percent and all")
        return self

    def size(self, eligible: int) -> int:
        """Devices of `eligible` that may be touched, this wave and earlier ones together."""
        if self.count is not None:
            return min(self.count, eligible)
        percent = 100.0 if self.percent is None else self.percent
        return min(eligible, math.ceil(eligible * percent / 100))

    def takes(self, tags: dict[str, str]) -> bool:
        """Whether a device with these tags may be in it."""
        return all(tags.get(name) == value for name, value in self.tags.items())


class Maintenance(Settings):
    """When devices may be given a version. `end` at or before `start` is on the next day."""

    days: list[Day] = Field(default=list(DAYS), min_length=1)
    start: str = "00:00"
    end: str = "24:00"
    timezone: str = "UTC"

    @field_validator("start", "end")
    @classmethod
    def _is_clock(cls, value: str) -> str:
        if value != "24:00" and not _CLOCK.match(value):
            raise ValueError("a time of day is HH:MM")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"no time zone is called {value!r}; say e.g. Europe/Berlin") from error
        return value

    def open(self, now_s: float) -> bool:
        """Whether it is open at a moment (s since 1970)."""
        here = datetime.fromtimestamp(now_s, UTC).astimezone(ZoneInfo(self.timezone))
        minute = here.hour * 60 + here.minute
        start, end = _minutes(self.start), _minutes(self.end)
        if start < end:
            return start <= minute < end and DAYS[here.weekday()] in self.days
        if minute >= start:
            return DAYS[here.weekday()] in self.days
        return minute < end and DAYS[(here - timedelta(days=1)).weekday()] in self.days


def _minutes(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


class Plan(Settings):
    """How a version of anything reaches its devices."""

    waves: list[Wave] = Field(
        default=[Wave(count=1), Wave(percent=20), Wave(percent=100)], min_length=1, max_length=32
    )
    gates: Gates = Gates()
    start: Literal["automatic", "manual"] = "automatic"
    """Whether an approved version begins by itself, or when somebody starts it."""
    maintenance: list[Maintenance] = Field(default_factory=list, max_length=32)
    """When devices may be given a version; at any time where empty. Going back never waits."""
    in_flight_max: Annotated[int, Field(ge=1)] | None = None
    """Devices that may be at work on it at once: told, there, and neither done nor failed."""
    cohorts: list[str] = Field(default_factory=list, max_length=8)
    """Tags that make up a cohort. Waves take of each its share, and controls come from the same."""
    controls_per_device: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Devices that stay as they are, of the same cohort, for each one that was touched."""
    away_s_max: Annotated[float, Field(gt=0)] = 7 * 86_400.0
    """Devices not heard of for longer are not waited for; they catch up when they are back."""

    def open(self, now_s: float) -> bool:
        """Whether a device may be given a version now."""
        return not self.maintenance or any(m.open(now_s) for m in self.maintenance)

    def cohort(self, tags: dict[str, str]) -> str:
        """The cohort of a device with these tags."""
        return "/".join(tags.get(name, "-") for name in self.cohorts)


def challenger_slot(slot: str) -> str:
    """Where a challenger runs beside the champion of a slot."""
    return f"{slot[:52]}-challenger"


class Challenger(Settings):
    """An approved version that a share of the devices runs beside the champion, in shadow.

    It runs in a slot of its own, `{slot}-challenger`, on the same windows; nothing acts on what it
    says. `fieldloop-delivery challenger` reports on both.
    """

    version: Annotated[int, Field(ge=1)]
    percent: Annotated[float, Field(gt=0, le=100)] = 10.0

    def takes(self, device: str) -> bool:
        """Whether a device is in the share, by the hash of its id and the version."""
        digest = hashlib.sha256(f"challenger/{self.version}/{device}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.percent / 100 * 2**64


class SlotPolicy(Plan):
    """One slot of a set of devices."""

    slot: Id = "main"
    model: Id
    streams: dict[Id, Id] = Field(default_factory=dict, max_length=16)
    devices: list[str] = Field(default=["*"], min_length=1, max_length=10_000)
    challenger: Challenger | None = None

    def matches(self, device: str) -> bool:
        """Whether a device belongs to this policy."""
        return any(fnmatch.fnmatchcase(device, pattern) for pattern in self.devices)


class ContainerGates(Gates):
    """What a wave of a container release must show: containers score no windows of their own."""

    windows_min: Annotated[int, Field(ge=0, le=0)] = 0
    soak_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds between full evidence and the next wave: longer than a crash loop needs to show."""


class ContainerPlan(Plan):
    """How a container release reaches its devices. It begins when somebody starts it."""

    gates: ContainerGates = ContainerGates()
    start: Literal["manual"] = "manual"
    controls_per_device: Annotated[float, Field(ge=0, le=0)] = 0.0


class Policy(Settings):
    """All slots of a fleet, tags of its devices, and how its containers are updated."""

    slots: list[SlotPolicy] = Field(default_factory=list, max_length=256)
    containers: ContainerPlan = ContainerPlan()
    tags: dict[str, Tags] = Field(default_factory=dict, max_length=10_000)
    """By pattern of the device id; a later pattern adds to an earlier one and overrides it."""

    @model_validator(mode="after")
    def _slots_once(self) -> Policy:
        names = [s.slot for s in self.slots]
        names += [challenger_slot(s.slot) for s in self.slots if s.challenger is not None]
        if len(names) != len(set(names)):
            raise ValueError("a slot stands twice; one rollout at a time belongs to a slot")
        return self

    def tags_of(self, device: str) -> dict[str, str]:
        """The tags that this file gives a device."""
        found: dict[str, str] = {}
        for pattern, tags in self.tags.items():
            if fnmatch.fnmatchcase(device, pattern):
                found.update(tags)
        return found


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
