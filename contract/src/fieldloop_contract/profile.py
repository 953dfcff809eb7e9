"""The device profile: which streams a device has, and which sources fill them.

Written by people as YAML, checked here on both sides: by the cloud before it signs one into an
order, and by the device's ingestion, which also knows the kinds of sources it has installed and
so has the last word. Pure; reading files and telling lines is `fieldloop_ingestion.profile`'s.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fieldloop_contract.frames import CHANNELS_MAX, RATE_HZ_MAX
from fieldloop_contract.ids import Id, Text
from fieldloop_contract.messages import Finite, Policy, StreamState

PROFILE_BYTES_MAX = 65_536
"""UTF-8 bytes of a profile's text, in an order and on a device."""
STREAMS_MAX = 64
CAPTURE_S_MAX = 3_600
SOURCES_MAX = 32


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CaptureProfile(_Strict):
    """When a stream is recorded."""

    mode: Literal["continuous", "periodic", "on_alarm", "on_request"] = "continuous"
    length_s: Annotated[float, Field(gt=0, le=CAPTURE_S_MAX)] = 10.0
    """Seconds of each stretch."""
    every_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """periodic: seconds from the start of one stretch to the start of the next."""
    before_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """on_alarm, on_request: seconds from before the moment that are recorded too."""

    @model_validator(mode="after")
    def _fits(self) -> CaptureProfile:
        if self.mode == "periodic" and (self.every_s is None or self.every_s <= self.length_s):
            raise ValueError("periodic needs every_s, longer than length_s")
        if self.mode != "periodic" and self.every_s is not None:
            raise ValueError("every_s belongs to periodic")
        if self.before_s and self.mode not in ("on_alarm", "on_request"):
            raise ValueError("before_s belongs to on_alarm and on_request")
        return self

    @property
    def share(self) -> float:
        """Share of the time that is recorded by plan; 0 where only a trigger records."""
        if self.mode == "periodic":
            return self.length_s / (self.every_s or math.inf)
        return 1.0 if self.mode == "continuous" else 0.0


class ChannelProfile(_Strict):
    """One channel: name, unit (UCUM where there is one, `1` for none), plausible range."""

    name: Text = Field(min_length=1)
    unit: Text = "1"
    min: Finite | None = None
    max: Finite | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ChannelProfile:
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError("min is below max")
        return self


class StreamProfile(_Strict):
    """One stream, as declared."""

    id: Id
    rate_hz: Annotated[float, Field(gt=0, le=RATE_HZ_MAX, allow_inf_nan=False)]
    channels: list[ChannelProfile] = Field(min_length=1, max_length=CHANNELS_MAX)
    uplink: Literal["all", "none"] = "all"
    policy: Policy = "drop_oldest"
    capture: CaptureProfile = CaptureProfile()

    @model_validator(mode="after")
    def _names_differ(self) -> StreamProfile:
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise ValueError("two channels have one name")
        return self

    def state(self, samples: int) -> StreamState:
        """As it is reported."""
        return StreamState(
            stream=self.id,
            channels=[c.name for c in self.channels],
            units=[c.unit for c in self.channels],
            rate_hz=self.rate_hz,
            samples=samples,
        )


class ResampleProfile(_Strict):
    """How a source of another rate fills its stream; needs the extra `resample`."""

    method: Literal["hold", "linear", "decimate"]
    rate_hz: Annotated[float, Field(gt=0, le=RATE_HZ_MAX, allow_inf_nan=False)]
    """Rate of the source; the stream's own is what is kept."""
    gap_tolerance_periods: Annotated[float, Field(gt=0, le=1_000)] = 1.5


class SourceProfile(BaseModel):
    """One source: its id, its kind, the stream it fills, and options that its kind declares."""

    model_config = ConfigDict(frozen=True, extra="allow")
    id: Id
    kind: Id
    stream: Id
    resample: ResampleProfile | None = None

    def given(self, stream: StreamProfile) -> StreamProfile:
        """The stream as the source gives it: before resampling."""
        if self.resample is None:
            return stream
        return stream.model_copy(update={"rate_hz": self.resample.rate_hz})

    @property
    def options(self) -> dict[str, Any]:
        """What its kind has to understand."""
        return dict(self.model_extra or {})


class Profile(_Strict):
    """A whole device."""

    streams: list[StreamProfile] = Field(min_length=1, max_length=STREAMS_MAX)
    sources: list[SourceProfile] = Field(default_factory=list, max_length=SOURCES_MAX)

    def stream(self, stream: str) -> StreamProfile | None:
        """The stream of that id."""
        return next((s for s in self.streams if s.id == stream), None)
