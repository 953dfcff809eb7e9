"""Splitting a dataset: what is held out, so that nothing leaks. Pure.

The unit is a recording (one labelled span of one device), since windows of one recording are not
independent. Where a device has at least four recordings of a label, one in four of them is held out
whole. Where it has fewer, that would leave the device without the label, and teach the model that
this device never shows it; there, each recording is split in time: its last quarter is held out,
and windows that reach over the border are used for nothing. What a recording once was it stays, so
that a later model is never compared with an earlier one on what only one of the two has seen.

With `DEVICES_FROM` devices or more, one in `DEVICE_ONE_IN` is held out whole: all that it recorded,
now and later. What a model is worth on a device that it never saw shows nowhere else. Only a device
of which nothing was trained on yet can become one, and only where each of its labels is left on
other devices.

Once `SEALED_FROM` whole recordings are held out, one in `SEALED_ONE_IN` of those that come later is
sealed: nothing looks at it until the frozen set has been looked at so often that it is used up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

HELD_SHARE = 0.25
ONE_IN = 4
DEVICES_FROM = 12
DEVICE_ONE_IN = 8
SEALED_FROM = 40
SEALED_ONE_IN = 5


class Part(StrEnum):
    """Role of a recording: all for training, all held out, its last quarter held out, or sealed."""

    TRAIN = "train"
    HELD = "held"
    TAIL = "tail"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Labelled:
    """What the split needs to know of a recording."""

    key: str
    device: str
    label: str


def assign(
    recordings: Sequence[Labelled], known: Mapping[str, Part], *, whole_devices: bool = True
) -> dict[str, Part]:
    """Give each recording its part.

    Args:
        known: parts given in earlier datasets; they stay.
        whole_devices: whether some of many devices are held out whole.

    Returns:
        Part by key. Independent of the order of `recordings`.
    """
    parts = {r.key: known[r.key] for r in recordings if r.key in known}
    if whole_devices:
        apart = _devices_apart(recordings, known)
        fresh_apart = (r.key for r in recordings if r.device in apart)
        parts.update((key, Part.HELD) for key in fresh_apart if key not in parts)
        recordings = [r for r in recordings if r.device not in apart]
    groups: dict[tuple[str, str], list[str]] = {}
    for recording in recordings:
        groups.setdefault((recording.device, recording.label), []).append(recording.key)
    for keys in groups.values():
        fresh = sorted((k for k in keys if k not in parts), key=_rank)
        whole = [k for k in keys if parts.get(k) is not Part.TAIL]
        if len(whole) < ONE_IN:
            parts.update((k, Part.TAIL) for k in fresh)
            continue
        out = sum(parts.get(k) in (Part.HELD, Part.SEALED) for k in keys)
        wanted = len(whole) // ONE_IN - out
        for at, key in enumerate(fresh):
            parts[key] = Part.HELD if at < wanted else Part.TRAIN
    before = sum(part is Part.HELD for key, part in parts.items() if key in known)
    if before >= SEALED_FROM:
        fresh_held = (k for k, part in parts.items() if part is Part.HELD and k not in known)
        lot = [k for k in fresh_held if _rank(k)[-1] % SEALED_ONE_IN == 0]
        parts.update((k, Part.SEALED) for k in lot)
    return parts


def _devices_apart(recordings: Sequence[Labelled], known: Mapping[str, Part]) -> set[str]:
    """The devices that are held out whole: those of earlier datasets, and as many as are due."""
    labels: dict[str, set[str]] = {}
    before: dict[str, set[Part]] = {}
    for r in recordings:
        labels.setdefault(r.device, set()).add(r.label)
        before.setdefault(r.device, set())
        if r.key in known:
            before[r.device].add(known[r.key])
    untaught = {d for d, parts in before.items() if parts <= {Part.HELD, Part.SEALED}}
    # Where recordings are held out one by one, some of the same device are always trained on.
    apart = {d for d in untaught if before[d]}
    wanted = len(labels) // DEVICE_ONE_IN if len(labels) >= DEVICES_FROM else 0
    for device in sorted(untaught - apart, key=_rank):
        if len(apart) >= wanted:
            break
        rest = [labels[d] for d in labels if d not in apart and d != device]
        if labels[device] <= set().union(*rest):
            apart.add(device)
    return apart


def _rank(key: str) -> bytes:
    """An order that depends on nothing but the recording itself."""
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True)
class Span:
    """A window's place in time, in ns, and the span of its recording's windows."""

    t0_ns: int
    t1_ns: int
    first_ns: int
    last_ns: int


class Use(StrEnum):
    """What one window is used for; `none` lies between two uses."""

    FIT = "fit"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    HELD = "held"
    SEALED = "sealed"
    NONE = "none"


def use_of(part: Part, span: Span, validation_share: float, calibration_share: float = 0.0) -> Use:
    """What a window is used for.

    Windows overlap, so one that reaches over a border is used for nothing.

    Args:
        validation_share: share of the time for training, after what is fitted, that watches it.
        calibration_share: share of the time for training, at its end, that later decisions use.
    """
    if part is Part.SEALED:
        return Use.SEALED
    if part is Part.HELD:
        return Use.HELD
    border = span.last_ns
    if part is Part.TAIL:
        border = span.first_ns + round((span.last_ns - span.first_ns) * (1 - HELD_SHARE))
        if span.t0_ns >= border:
            return Use.HELD
    length = border - span.first_ns
    inner = span.first_ns + round(length * (1 - validation_share - calibration_share))
    outer = span.first_ns + round(length * (1 - calibration_share))
    for begins, ends, use in (
        (span.first_ns, inner, Use.FIT),
        (inner, outer, Use.VALIDATION),
        (outer, border, Use.CALIBRATION),
    ):
        if begins <= span.t0_ns and span.t1_ns <= ends:
            return use
    return Use.NONE
