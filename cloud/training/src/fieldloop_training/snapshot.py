"""From the store to a dataset: annotations joined with frames, cut by the device's own code.

Reads the store in short transactions and writes the dataset's file. Annotations name (device,
stream, span); frames are found by the same and cut by `fieldloop_scoring.joining.make_builder`, so
that a window here is one that the device would have made. One thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FixConfiguration, LimitExceeded, RejectedInput, WrongStream
from fieldloop_contract.manifest import Channel, Input
from fieldloop_models.recipe import WindowPlan
from fieldloop_scoring.joining import Builder, make_builder
from fieldloop_scoring.windows import Window
from fieldloop_store import clocks, queries
from fieldloop_store.engine import Store
from fieldloop_store.machines import assignments_of, list_machines
from fieldloop_training.datasets import WINDOWS_MAX, Dataset, Place, plain_input
from fieldloop_training.labels import CONFIDENCE_MIN, Recording, resolve

ANNOTATIONS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A dataset as it was taken, with the query that made it and what was left out.

    Attributes:
        machines: machine of each device, which is the device itself where none is assigned.
        sites: site of each machine that has one.
    """

    dataset: Dataset
    query: dict[str, Any]
    left_out: dict[str, int]
    machines: dict[str, str]
    sites: dict[str, str]


def take(
    store: Store, *, fleet: str, stream: str, plan: WindowPlan, fallback: list[Channel]
) -> Snapshot:
    """Cut all labelled windows of a stream.

    Args:
        plan: window, hop and gap rule.
        fallback: channels of the stream where no device declares them.

    Raises:
        RejectedInput: nothing is labelled, or the devices' streams do not agree.
        FixConfiguration: the channels are not known.
        LimitExceeded: more annotations or windows than a dataset may hold.
        RetryLater: the store is away.
    """
    rows = []
    for row in queries.annotations(store, fleet, stream=stream):
        rows.append(row)
        if len(rows) > ANNOTATIONS_MAX:
            raise LimitExceeded(f"more than {ANNOTATIONS_MAX} annotations", code="dataset.limit")
    recordings, left_out = resolve(rows)
    if not recordings:
        raise RejectedInput(
            f"no usable label on stream {stream}",
            code="dataset.no-labels",
            hint=f"{len(rows)} annotations, left out: {left_out or 'none'}",
        )
    channels, rate_hz = describe(store, fleet, stream, {r.device for r in recordings}, fallback)
    spec = plain_input(stream, channels, rate_hz, plan)
    kept: list[Recording] = []
    places: list[Place] = []
    samples = []
    offsets = {r.device: clocks.clock_offsets(store, fleet, r.device) for r in recordings}
    for recording in recordings:
        frames = frames_of(store, fleet, recording, offsets[recording.device])
        windows = cut(recording, frames, spec)
        if not windows:
            left_out["without a whole window"] = left_out.get("without a whole window", 0) + 1
            continue
        for w in windows:
            places.append(Place(len(kept), w.epoch, w.seq_first, w.seq_last, w.t0_ns, w.t1_ns))
            samples.append(w.samples)
        kept.append(recording)
        if len(places) > WINDOWS_MAX:
            raise LimitExceeded(f"more than {WINDOWS_MAX} windows", code="dataset.limit")
    query = {
        "kind": "labels", "confidence_min": CONFIDENCE_MIN, "annotations": len(rows),
        **asked(fleet, stream, plan),
    }  # fmt: skip
    machines, sites = machines_of(store, fleet, stream, sorted({r.device for r in kept}))
    dataset = Dataset(spec, kept, places, stack(samples, spec))
    return Snapshot(dataset, query, left_out, machines, sites)


def asked(fleet: str, stream: str, plan: WindowPlan) -> dict[str, Any]:
    """The part of the query that all snapshots have."""
    return {
        "fleet": fleet, "stream": stream, "window_samples": plan.window_samples,
        "hop_samples": plan.hop_samples, "gap_tolerance_periods": plan.gap_tolerance_periods,
        "fill": plan.fill,
    }  # fmt: skip


def stack(samples: list[NDArray[np.float32]], spec: Input) -> NDArray[np.float32]:
    """float32[n, window_samples, channels], also of no window."""
    shape = (0, spec.window_samples, len(spec.channels))
    return np.stack(samples).astype(np.float32) if samples else np.empty(shape, np.float32)


def machines_of(
    store: Store, fleet: str, stream: str, devices: list[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Machine of each device (its newest assignment, else itself), and site of each machine."""
    machines = {device: device for device in devices}
    for row in assignments_of(store, fleet):
        if row.device in machines and row.stream == stream:
            machines[row.device] = row.machine
    sites = {machine: site for machine, site, _ in list_machines(store, fleet) if site}
    return machines, {m: sites[m] for m in sorted(set(machines.values())) if m in sites}


def cut(recording: Recording, frames: Iterable[queries.FrameRow], spec: Input) -> list[Window]:
    """The windows that lie wholly within a recording, in the order of the logs and of time.

    Raises:
        RejectedInput: a frame does not have the channels or the rate of the others.
    """
    builders: dict[tuple[str, str], Builder] = {}
    streams = {spec.name: recording.stream}
    windows: list[Window] = []
    tolerance_ns = round(0.5e9 / spec.rate_hz)
    for row in frames:
        log = (row.log.service, row.log.epoch)
        builder = builders.setdefault(log, make_builder([spec], streams))
        try:
            made = builder.push(row.log.epoch, row.seq, row.frame)
        except WrongStream as error:
            raise RejectedInput(
                f"stream {recording.stream} of {recording.device}: {error}", code="dataset.streams"
            ) from error
        windows += [
            w
            for w in made
            if w.t0_ns >= recording.t0_ns - tolerance_ns
            and w.t1_ns <= recording.t1_ns + tolerance_ns
        ]
    return windows


def frames_of(
    store: Store, fleet: str, recording: Recording, offsets: dict[str, int]
) -> Iterable[queries.FrameRow]:
    """Frames of a recording, at the times that its device would have said with its clock set."""
    return clocks.placed_frames_between(
        store,
        fleet,
        device=recording.device,
        stream=recording.stream,
        t0_ns=recording.t0_ns,
        t1_ns=recording.t1_ns,
        offsets=offsets,
    )


def describe(
    store: Store, fleet: str, stream: str, devices: set[str], fallback: list[Channel]
) -> tuple[list[Channel], float]:
    """Channels and rate of the stream, which all labelled devices must share."""
    declared: dict[tuple[tuple[str, str], ...], str] = {}
    rates: dict[float, str] = {}
    for service in queries.device_services(store, fleet):
        if service.device not in devices or not service.reported:
            continue
        for entry in service.reported.get("streams") or []:
            if not isinstance(entry, dict) or entry.get("stream") != stream:
                continue
            names, units = entry.get("channels") or [], entry.get("units") or []
            if names and len(names) == len(units):
                declared.setdefault(tuple(zip(names, units, strict=True)), service.device)
    for row in queries.streams(store, fleet):
        if row.log.device in devices and row.stream == stream:
            known = next((r for r in rates if math.isclose(r, row.rate_hz, rel_tol=1e-6)), None)
            rates.setdefault(row.rate_hz if known is None else known, row.log.device)
    if not rates:
        raise RejectedInput(
            f"no frame of stream {stream} is stored",
            code="dataset.no-frames",
            hint="labels are there, but the signal of the labelled devices is not",
        )
    if len(rates) > 1 or len(declared) > 1:
        different: dict[Any, str] = dict(rates) if len(rates) > 1 else dict(declared)
        shown = "; ".join(f"{device}: {what}" for what, device in different.items())
        raise RejectedInput(
            f"the devices' streams called {stream} differ: {shown:.300}", code="dataset.streams"
        )
    if declared:
        pairs = next(iter(declared))
        return [Channel(name=n, unit=u) for n, u in pairs], next(iter(rates))
    if fallback:
        return fallback, next(iter(rates))
    raise FixConfiguration(
        f"no device declares the channels of stream {stream}",
        code="dataset.channels",
        hint="set FIELDLOOP_CHANNELS to name:unit,name:unit",
    )
