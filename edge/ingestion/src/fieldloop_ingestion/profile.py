"""The device profile: which streams a device has, and which sources fill them.

    streams:
      - id: imu
        rate_hz: 50
        channels:
          - {name: ax, unit: g, min: -16, max: 16}
        uplink: all            # all | none: none stays on the device, counted as withheld
        policy: drop_oldest    # what goes when the log is full
        capture: {mode: periodic, length_s: 10, every_s: 600}    # default: continuous
    sources:
      - id: recordings
        kind: replay           # an entry point of the group `fieldloop.sources`
        path: recordings/

All faults are reported at once, each with file and line. Does no I/O beyond reading the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fieldloop_buffer.settings import Policy
from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import CHANNELS_MAX, RATE_HZ_MAX
from fieldloop_contract.ids import Id, Text
from fieldloop_contract.messages import Finite, StreamState
from fieldloop_ingestion import located_yaml
from fieldloop_ingestion.capture import CaptureProfile

STREAMS_MAX = 64
SOURCES_MAX = 32


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    path: located_yaml.Path
    message: str


Fit = Callable[[SourceProfile, StreamProfile | None], None]
"""Checks a source's options, and against the stream it fills where there is one.

Raises pydantic's ValidationError, or FixConfiguration: for a kind that is not installed, or options
that do not fit the stream.
"""


def load_profile(path: str, fit: Fit) -> Profile:
    """Read and check a profile.

    Raises:
        FixConfiguration: every fault, each as `file:line: where: what`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FixConfiguration(
            f"the profile {path} cannot be read: {error}",
            hint="FIELDLOOP_PROFILE names a YAML file; see the package's README",
        ) from error
    document, lines = located_yaml.load(text, path)
    profile, faults = check(document, fit)
    if faults or profile is None:
        raise FixConfiguration(
            "\n".join(
                f"{path}:{located_yaml.line_of(lines, fault.path)}:"
                f" {'.'.join(map(str, fault.path)) or 'profile'}: {fault.message}"
                for fault in sorted(faults, key=lambda f: located_yaml.line_of(lines, f.path))
            )
        )
    return profile


def check(document: Any, fit: Fit) -> tuple[Profile | None, list[Fault]]:
    """Check a parsed profile; the profile is None where it has faults."""
    try:
        profile = Profile.model_validate(document)
    except ValidationError as error:
        return None, _faults(error, ())
    faults: list[Fault] = []
    faults += _twice([s.id for s in profile.streams], "streams")
    faults += _twice([s.id for s in profile.sources], "sources")
    for index, source in enumerate(profile.sources):
        at: located_yaml.Path = ("sources", index)
        stream = profile.stream(source.stream)
        if stream is None:
            faults.append(Fault((*at, "stream"), f"no stream is called {source.stream}"))
        try:
            fit(source, stream)
        except ValidationError as error:
            faults += _faults(error, at)
        except FixConfiguration as error:
            faults.append(Fault((*at, "kind"), str(error)))
    return (None if faults else profile), faults


def _faults(error: ValidationError, prefix: located_yaml.Path) -> list[Fault]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [Fault((*prefix, *fault["loc"]), fault["msg"]) for fault in found]


def _twice(ids: list[str], where: str) -> list[Fault]:
    return [
        Fault((where, index, "id"), f"{name} stands twice")
        for index, name in enumerate(ids)
        if name in ids[:index]
    ]
