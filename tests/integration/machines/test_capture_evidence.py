"""The raw signal around an alarm: from the device's log to the store, and into the evidence."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fieldloop_buffer import Kind, Reader, unpack_frame
from fieldloop_buffer.outbox import Outbox
from fieldloop_contract.frames import Frame
from fieldloop_demo.pumps.device import FLEET, ferry_log
from fieldloop_inference.slots import Phase
from fieldloop_machines.attendant import Attendant
from fieldloop_runtime.journal import Journal
from fieldloop_store import alarms
from fieldloop_store.engine import Store
from fieldloop_store.evidence import gather_evidence
from support.bundles import frame, make_bundle
from support.device import DEVICE, Bench, InstantTrial
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


def test_the_capture_arrives_in_the_cloud_and_stands_in_the_evidence(
    bench: Bench, tmp_path: Path
) -> None:
    bench.open(samples=CAPTURE)
    serve(bench)
    bench.put(signal([3.0] * 4, 60) + signal([0.9] * 20, 64))
    bench.idle()
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    outbox = Outbox(bench.log.path)
    now_ns = raised_at(bench) + 60 * 10**9
    assert ferry_log(store, bench.log, outbox, DEVICE, "inference", now_ns) > 20
    outbox.file.close()
    Attendant(store, FLEET, channels=(), broker="b", journal=Journal("t")).look(now_ns + 1)
    (alarm,) = alarms.list_alarms(store, FLEET)
    found = gather_evidence(store, FLEET, alarm.id, now_ns=now_ns)
    with zipfile.ZipFile(io.BytesIO(found.data)) as archive:
        with np.load(io.BytesIO(archive.read("signal.npz"))) as arrays:
            measured: dict[str, Any] = dict(arrays)
        assert archive.read("plots/signal.png").startswith(b"\x89PNG")
    frames = kept(bench)
    assert measured["t0_ns"].tolist() == [f.t0_ns for f in frames]
    assert np.array_equal(measured["samples"], np.concatenate([f.array() for f in frames]))
    store.close()
