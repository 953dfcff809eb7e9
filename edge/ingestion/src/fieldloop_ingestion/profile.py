"""Reading a device profile: which streams a device has, and which sources fill them.

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

All faults are reported at once, each with file and line; the models themselves stand in
`fieldloop_contract.profile`. Does no I/O beyond reading the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.profile import Profile, SourceProfile, StreamProfile
from fieldloop_ingestion import located_yaml


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
    return parse_profile(text, path, fit)


def parse_profile(text: str, path: str, fit: Fit) -> Profile:
    """Check a profile's text; `path` is what faults call it.

    Raises:
        FixConfiguration: every fault, each as `path:line: where: what`.
    """
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
