"""The raw signal around an alarm is kept by the device, within the budget of its samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fieldloop_buffer import Kind, Reader, unpack_frame
from fieldloop_contract.frames import Frame
from fieldloop_inference.slots import Phase
from support.bundles import frame, make_bundle
from support.device import Bench, InstantTrial
from support.models import RATE_HZ

FRAME_S = 16 / RATE_HZ
CAPTURE = {"bytes_per_day": 1_000_000, "chance": 0.0, "control": 0.0, "before_s": 10 * FRAME_S,
           "after_s": 6 * FRAME_S}  # fmt: skip
RULE = {"clear_below": 0.01, "raise_count": 2, "raise_of": 3, "clear_count": 2}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    device = Bench(tmp_path, begin_trial=InstantTrial)
    yield device
    device.close()
    device.input.close()


def signal(levels: list[float], first: int = 0) -> list[Frame]:
    rng = np.random.default_rng(first)
    return [
        frame(rng.normal(0, level, (16, 3)).astype(np.float32), 10**18, 16 * (first + index))
        for index, level in enumerate(levels)
    ]


def serve(bench: Bench) -> None:
    bench.put(signal([0.9] * 60))
    output = {"name": "residual", "kind": "reconstruction", "threshold": 0.03, "alarm": RULE}
    ref = bench.source.add(*make_bundle("autoencoder", task="anomaly", outputs=[output]))
    bench.source.order(ref)
    bench.until(Phase.ACTIVE)
    bench.idle()


def kept(bench: Bench) -> list[Frame]:
    bench.log.commit(force=True)
    reader = Reader(str(bench.folder / "inference.sqlite"))
    rows = reader.read(None, kinds=(Kind.SAMPLE,), limit=10_000).rows
    reader.close()
    return [unpack_frame(row.payload) for row in rows]


def raised_at(bench: Bench) -> int:
    (told,) = [e["data"] for e in bench.rows(Kind.EVENT) if e["type"] == "alarm.raised"]
    return int(told["t_ns"])


def test_the_signal_from_before_and_after_an_alarm_is_kept_across_a_kill(bench: Bench) -> None:
    bench.open(samples=CAPTURE)
    serve(bench)
    assert kept(bench) == [], "nothing is kept while nothing happens"
    faulty = signal([3.0] * 4, 60)
    bench.put(faulty)
    bench.idle()
    bench.log.commit(force=True)
    bench.close(cleanly=False)
    bench.open(samples=CAPTURE)
    after = signal([0.9] * 20, 64)
    bench.put(after)
    bench.idle()
    times = [f.t0_ns for f in kept(bench)]
    assert times == sorted(set(times)), "each row once, in order"
    assert np.ptp(np.diff(times)) <= 1, "and none left out"
    raised_ns, frame_ns = raised_at(bench), round(FRAME_S * 1e9)
    assert raised_ns - 11 * frame_ns <= times[0] <= raised_ns - 9 * frame_ns
    assert raised_ns + 7 * frame_ns <= times[-1] <= raised_ns + 10 * frame_ns
    given = {f.t0_ns: f.samples for f in [*signal([0.9] * 60), *faulty, *after]}
    assert all(f.samples == given[f.t0_ns] for f in kept(bench))


def test_where_the_budget_is_small_what_lies_nearest_is_kept(bench: Bench) -> None:
    bench.open(samples={**CAPTURE, "bytes_per_day": 1_200, "control_share": 0.0})
    serve(bench)
    bench.put(signal([3.0] * 20, 60))
    bench.idle()
    times = [f.t0_ns for f in kept(bench)]
    assert 3 <= len(times) <= 6, "a frame has some 200 bytes"
    assert raised_at(bench) - 5 * round(FRAME_S * 1e9) < min(times) <= raised_at(bench)
