"""From the store to a dataset for anomaly recipes: what `learnable` lets through, and the faults.

A recording is one day (UTC) of one machine. Windows that may be learnt are labelled `HEALTHY`,
windows within a confirmed fault with the fault's kind: they measure, and never train. Alarms and
drift are what the devices' events say. Reads the store only. One thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from fieldloop_contract.errors import LimitExceeded, RejectedInput
from fieldloop_models.recipe import WindowPlan
from fieldloop_scoring.regimes import Regimes
from fieldloop_scoring.windows import Window
from fieldloop_store import clocks, queries
from fieldloop_store.engine import Store
from fieldloop_training.datasets import WINDOWS_MAX, Dataset, Place, plain_input
from fieldloop_training.labels import CONFIDENCE_MIN, UNKNOWN, Recording
from fieldloop_training.learnable import Candidate, HoldBack, Sign, Span, select
from fieldloop_training.options import HEALTHY_LABELS, RunOptions
from fieldloop_training.snapshot import (
    Snapshot,
    asked,
    cut,
    describe,
    frames_of,
    machines_of,
    stack,
)

HEALTHY: Final = "healthy"
IDLE_LABELS: Final = ("idle", "stopped", "off")
DAY_NS: Final = 86_400 * 10**9
EVENTS_MAX: Final = 100_000
_OPENING = {"alarm.raised": "alarm", "drift.detected": "drift"}
_CLOSING = {"alarm.cleared": "alarm", "drift.ended": "drift"}


def take(
    store: Store, *, fleet: str, options: RunOptions, plan: WindowPlan, now_ns: int
) -> Snapshot:
    """All windows that may be learnt, and those of confirmed faults.

    Raises:
        RejectedInput: no stored signal, or nothing of it may be learnt; the message says why not.
        FixConfiguration, LimitExceeded, RetryLater: as `snapshot.take`.
    """
    stream = options.stream
    rows = [r for r in queries.streams(store, fleet) if r.stream == stream]
    if not rows:
        raise RejectedInput(f"no frame of stream {stream} is stored", code="dataset.no-frames")
    devices = sorted({r.log.device for r in rows})
    channels, rate_hz = describe(store, fleet, stream, set(devices), list(options.channels))
    spec = plain_input(stream, channels, rate_hz, plan)
    machines, sites = machines_of(store, fleet, stream, devices)
    spans = known_spans(store, fleet, stream, machines)
    regimes = None if options.running_when is None else Regimes(options.running_when, [spec])
    cuts: list[tuple[str, Window]] = []
    for device in devices:
        span = (min(r.t0_ns for r in rows), max(r.t1_ns for r in rows) + 1)
        offsets = clocks.clock_offsets(store, fleet, device)
        if offsets:  # frames from before the clock was set stand in 1970 as they are
            span = (0, span[1])
        whole = Recording(device, stream, span[0], span[1], HEALTHY)
        windows = cut(whole, frames_of(store, fleet, whole, offsets), spec)
        if regimes is not None and windows:
            runs = regimes.running_mask(np.stack([w.samples for w in windows]))
            windows = [w for w, on in zip(windows, runs, strict=True) if on]
        cuts += [(device, w) for w in windows]
        if len(cuts) > WINDOWS_MAX:
            raise LimitExceeded(f"more than {WINDOWS_MAX} windows", code="dataset.limit")
    rule = HoldBack(
        period_ns=round(options.hold_back_s * 1e9), machine_max=options.machine_windows_max
    )
    candidates = [Candidate(machines[d], w.t0_ns, w.t1_ns) for d, w in cuts]
    selection = select(candidates, spans, rule, now_ns, options.seed)
    if not selection.chosen:
        raise RejectedInput(
            "no window may be learnt",
            code="dataset.no-healthy",
            hint=f"left out: {selection.left_out or 'nothing'}; confirm machines healthy, or wait "
            f"until windows are older than {options.hold_back_s:g} s without alarm, drift or fault",
        )
    dataset = _assemble(spec, cuts, selection.chosen, spans, machines)
    query = {
        "kind": "healthy", "hold_back_s": options.hold_back_s,
        "machine_windows_max": options.machine_windows_max, "now_ns": now_ns,
        **asked(fleet, stream, plan),
    }  # fmt: skip
    return Snapshot(dataset, query, selection.left_out, machines, sites)


def _assemble(
    spec: Any, cuts: list[tuple[str, Window]], chosen: list[int], spans: list[Span],
    machines: dict[str, str],
) -> Dataset:  # fmt: skip
    """Learnable windows by day, then fault windows by span."""
    found: dict[Recording, list[Window]] = {}
    for index in chosen:
        device, window = cuts[index]
        day = window.t0_ns // DAY_NS * DAY_NS
        key = Recording(device, spec.name, day, day + DAY_NS, HEALTHY)
        found.setdefault(key, []).append(window)
    faults = [s for s in spans if s.sign == "fault"]
    for device, window in cuts:
        for span in faults:
            inside = span.t0_ns <= window.t0_ns and window.t1_ns <= span.t1_ns
            if inside and span.machine == machines[device]:
                key = Recording(device, spec.name, span.t0_ns, span.t1_ns, span.kind or "fault")
                found.setdefault(key, []).append(window)
                break
    recordings = sorted(found, key=lambda r: (r.device, r.t0_ns, r.label))
    places, samples = [], []
    for number, recording in enumerate(recordings):
        for w in found[recording]:
            places.append(Place(number, w.epoch, w.seq_first, w.seq_last, w.t0_ns, w.t1_ns))
            samples.append(w.samples)
    return Dataset(spec, recordings, places, stack(samples, spec))


def known_spans(store: Store, fleet: str, stream: str, machines: dict[str, str]) -> list[Span]:
    """What people and devices said of the machines, as spans of time."""
    spans = []
    for row in queries.annotations(store, fleet, stream=stream):
        if row.device not in machines or row.confidence < CONFIDENCE_MIN:
            continue
        label = row.label.strip().lower()
        sign: Sign = "fault"
        if label in HEALTHY_LABELS:
            sign = "healthy"
        elif label == UNKNOWN:
            sign = "unknown"
        elif label in IDLE_LABELS:
            sign = "idle"
        spans.append(Span(machines[row.device], row.t0_ns, row.t1_ns, sign, row.label))
    return spans + _told(_events(store, fleet), stream, machines)


def _events(store: Store, fleet: str) -> Iterable[queries.EventRow]:
    """Events of alarm and drift, in order; the newest `EVENTS_MAX` do not end a run."""
    cursor, seen = None, 0
    types = [*_OPENING, *_CLOSING]
    while page := queries.events_since(store, fleet, cursor, types=types):
        yield from page
        cursor, seen = page[-1].cursor, seen + len(page)
        if seen > EVENTS_MAX:
            raise LimitExceeded(f"more than {EVENTS_MAX} events of alarm and drift")


def _told(events: Iterable[queries.EventRow], stream: str, machines: dict[str, str]) -> list[Span]:
    """Spans from pairs of events; one that was not ended reaches to the end of time."""
    open_: dict[tuple[str, str, str], int] = {}
    spans: list[Span] = []
    for event in events:
        data, device = event.data, event.log.device
        at = data.get("t_ns")
        if device not in machines or data.get("stream") != stream or not isinstance(at, int):
            continue
        sign = _OPENING.get(event.type) or _CLOSING[event.type]
        key = (device, str(data.get("slot")), sign)
        if event.type in _OPENING:
            open_.setdefault(key, at)
        elif key in open_:
            spans.append(_span(machines[device], open_.pop(key), at, sign))
    for (device, _, sign), at in open_.items():
        spans.append(_span(machines[device], at, 1 << 62, sign))
    return spans


def _span(machine: str, t0_ns: int, t1_ns: int, sign: str) -> Span:
    return Span(machine, t0_ns, max(t1_ns, t0_ns + 1), "alarm" if sign == "alarm" else "drift")
