"""Gathers what `naming` compares: raw signal of the commissioning, and of the windows that alarmed.

Reads the store only, bounded. Any thread. Raises RetryLater where the store is away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.manifest import AlarmRule, Manifest
from fieldloop_machines.naming import Named, name
from fieldloop_scoring.regimes import Regimes
from fieldloop_store import commissionings
from fieldloop_store.engine import Store
from fieldloop_store.queries import frames_between, results_between
from fieldloop_store.registry import find_manifest

LOOK_BACK_NS = 86_400 * 10**9
RESULTS_MAX = 20_000
POINTS, FRAMES_AT_POINT = 8, 8
FRAMES_OF_WINDOW = 8
RAN_MIN = 8
"""Frames of a running machine from which something is said of a span."""
Samples = list[NDArray[np.float32]]


def looks_like(
    store: Store, fleet: str, device: str, data: dict[str, Any], *, shaft_hz: float | None = None
) -> dict[str, Any] | None:
    """What an alarm looks like, as JSON; None where it was not raised by a machine's own record.

    Args:
        data: of the event `alarm.raised`.
    """
    slot, stream, t_ns = str(data["slot"]), str(data["stream"]), int(data["t_ns"])
    # A record that is stale still judges: what it says is beside the machine that it was made of.
    rows = commissionings.latest_armed(store, fleet)
    records = [r for r in rows if (r.device, r.slot) == (device, slot)]
    manifest = find_manifest(store, str((data.get("model") or {}).get("digest", "")))
    if not records or manifest is None or len(manifest.inputs) != 1:
        return None
    healthy = _healthy(store, fleet, records[0].record, stream, manifest)
    now = _alarmed(store, fleet, device, slot, stream, t_ns, data, manifest)
    found = name(healthy, now, manifest.inputs[0].rate_hz, shaft_hz)
    return asdict(found)


def machine_looks_like(
    store: Store, fleet: str, record: Calibration, t0_ns: int, t1_ns: int, *,
    shaft_hz: float | None = None,
) -> Named | None:  # fmt: skip
    """What a machine looks like over a span, beside its commissioning, whatever its model says.

    None where it is not known: no manifest, or too little signal of a running machine. A sensor
    that stands still is told whether the machine seems to run or not: one that is stopped is still
    heard a little.
    """
    manifest = find_manifest(store, record.model.digest)
    if manifest is None or len(manifest.inputs) != 1:
        return None
    rule = Regimes.of(manifest)
    step_ns = max(1, (t1_ns - t0_ns) // POINTS)
    everything: Samples = []
    for point in range(POINTS):
        at_ns = t0_ns + point * step_ns
        for chosen in (False, True):
            rows = frames_between(
                store, fleet, device=record.device, stream=record.stream, t0_ns=at_ns,
                t1_ns=at_ns + step_ns, chosen=chosen,
            )  # fmt: skip
            part = [row.frame.array() for row in islice(rows, FRAMES_AT_POINT)]
            if part:
                everything += part
                break
    healthy = _healthy(store, fleet, record, record.stream, manifest)
    rate_hz = manifest.inputs[0].rate_hz
    found = name(healthy, everything, rate_hz, shaft_hz)
    if found.kind == "sensor":
        return found
    ran = [
        x for x in everything
        if rule is None or rule.running(rule.level(x), was_running=False)
    ]  # fmt: skip
    return name(healthy, ran, rate_hz, shaft_hz) if len(ran) >= RAN_MIN else None


def _healthy(
    store: Store, fleet: str, record: Calibration, stream: str, manifest: Manifest
) -> Samples:
    """Frames of the commissioning while the machine ran, from `POINTS` places of its span."""
    rule = Regimes.of(manifest)
    step_ns = max(1, (record.t1_ns - record.t0_ns) // POINTS)
    found: Samples = []
    for point in range(POINTS):
        at_ns = record.t0_ns + point * step_ns
        rows = frames_between(
            store, fleet, device=record.device, stream=stream, t0_ns=at_ns, t1_ns=at_ns + step_ns
        )
        for row in islice(rows, FRAMES_AT_POINT):
            samples = row.frame.array()
            if rule is None or rule.running(rule.level(samples), was_running=False):
                found.append(samples)
    return found


def _alarmed(
    store: Store, fleet: str, device: str, slot: str, stream: str, t_ns: int,
    data: dict[str, Any], manifest: Manifest,
) -> Samples:  # fmt: skip
    """Frames of the windows above the threshold, the latest that the alarm rule looked at."""
    rule = manifest.outputs[0].alarm or AlarmRule()
    threshold = float(data.get("threshold") or 0.0)
    rows = results_between(
        store, fleet, device=device, slot=slot, role="active", t0_ns=t_ns - LOOK_BACK_NS,
        t1_ns=t_ns + 1,
    )  # fmt: skip
    spans: deque[tuple[int, int]] = deque(maxlen=rule.raise_count)
    for row in islice(rows, RESULTS_MAX):
        if row.score is not None and row.score > threshold and row.t0_ns <= t_ns:
            spans.append((row.t0_ns, row.t1_ns))
    found: Samples = []
    for t0_ns, t1_ns in spans or [(t_ns, t_ns + 1)]:
        for chosen in (False, True):
            measured = frames_between(
                store, fleet, device=device, stream=stream, t0_ns=t0_ns, t1_ns=t1_ns, chosen=chosen
            )
            part = [row.frame.array() for row in islice(measured, FRAMES_OF_WINDOW)]
            if part:
                found += part
                break
    return found
