"""The inference service against a bare interpreter loop on the same model and the same windows.

The bare loop sets the tensor, invokes and gets the output: no log, no windowing, no normalisation,
no result. Rounds of both are interleaved. Added latency is what a turn of the service takes for one
window that has just been committed, less the bare loop's median: reading the log, windowing,
scoring, encoding, appending, and the group commits that fall due. End to end runs the service as a
process over a real mosquitto, with its default settings and with those of a quick device; times are
from the commit of a window's last sample until a reader of the result log, or a subscriber, has it.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.inference_models import WORK, model
from fieldloop_buffer import Kind, Reader
from fieldloop_contract.batch import load_json
from fieldloop_contract.errors import RetryLater
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import GOLDEN_FILE, MODEL_FILE
from fieldloop_contract.messages import Ack
from fieldloop_contract.topics import Topic
from fieldloop_inference.slots import Phase
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_scoring.golden import golden_outputs, make_golden
from fieldloop_scoring.runners import choose_runtime, open_runner
from support.broker import Mosquitto
from support.bundles import frames, make_manifest
from support.device import DEVICE, FLEET, Bench, InstantTrial
from support.inference_process import Process
from support.models import windows

ROUNDS = 5
RATE_WINDOWS = 1_000
QUICK_DEVICE = {"FIELDLOOP_IDLE_MS": "1", "FIELDLOOP_LOG_COMMIT_INTERVAL_MS": "20"}
_T0 = 10**18


def _bundle(data: bytes) -> Any:
    inputs = windows(4)
    manifest = make_manifest(data, b"-")
    vectors = make_golden(inputs, golden_outputs(manifest, inputs, open_runner(data)))
    return make_manifest(data, vectors), {MODEL_FILE: data, GOLDEN_FILE: vectors}


@contextmanager
def _device(data: bytes) -> Iterator[tuple[Bench, list[Frame]]]:
    """A device on which a model serves, and the frames that are still to come."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), begin_trial=InstantTrial).open()
        items = frames(30_000)
        bench.put(items[:20])
        bench.source.order(bench.source.add(*_bundle(data)))
        bench.until(Phase.ACTIVE)
        bench.idle()
        yield bench, items[20:]
        bench.close()
        bench.input.close()


class _Bare:
    """The interpreter alone."""

    def __init__(self, data: bytes) -> None:
        if choose_runtime() == "litert":
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
        else:
            from tflite_runtime.interpreter import Interpreter  # noqa: PLC0415
        self._interpreter = Interpreter(model_content=data, num_threads=1)
        self._interpreter.allocate_tensors()
        self._in = self._interpreter.get_input_details()[0]["index"]
        self._out = self._interpreter.get_output_details()[0]["index"]

    def run(self, window: Any) -> Any:
        self._interpreter.set_tensor(self._in, window)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._out)

    def rate(self, given: Any) -> float:
        begun = time.perf_counter()
        for window in given:
            self.run(window)
        return len(given) / (time.perf_counter() - begun)

    def median_us(self, given: Any) -> float:
        taken = []
        for window in given:
            begun = time.perf_counter_ns()
            self.run(window)
            taken.append((time.perf_counter_ns() - begun) / 1000)
        return statistics.median(taken)


def _windows_of(items: list[Frame]) -> Any:
    samples = np.concatenate([f.array() for f in items]).reshape(-1, 16, 3)
    return np.concatenate([samples[:-1], samples[1:]], axis=1)[:, None]


def _throughput(name: str, quick: bool) -> list[dict[str, Any]]:
    """Windows a second with a backlog, and how long one takes at a steady rate."""
    data = model(name)
    bare = _Bare(data)
    rounds, count = (2, 300) if quick else (ROUNDS, 2_000)
    with _device(data) as (bench, items):
        given = _windows_of(items[: count + 1])
        ours, plain = [], []
        for n in range(rounds):
            bench.put(items[n * count : (n + 1) * count])
            plain.append(bare.rate(given))
            before = bench.service.windows
            begun = time.perf_counter()
            bench.idle()
            bench.log.commit(force=True)
            ours.append((bench.service.windows - before) / (time.perf_counter() - begun))
        rest = items[rounds * count :]
        bare_us = bare.median_us(given)
        added = _paced(bench, rest[: 500 if quick else 6_000], bare_us)
    p50, p99 = np.percentile(added, [50, 99])
    ours_rate, bare_rate = statistics.median(ours), statistics.median(plain)
    return [
        _row(f"{name} model: windows/s, bare loop", ours_rate, bare_rate),
        _row(f"{name} model: added us at 1,000/s, p50; bare us", float(p50), bare_us),
        _row(f"{name} model: added us at 1,000/s, p99; bare us", float(p99), bare_us),
    ]


def _row(what: str, figure: float, yardstick: float | None = None) -> dict[str, Any]:
    ratio = "" if yardstick is None else figure / yardstick
    return {"what": what, "figure": figure, "yardstick": yardstick or "", "ratio": ratio}


def _paced(bench: Bench, items: list[Frame], bare_us: float) -> list[float]:
    """Microseconds that the service adds to each window at `RATE_WINDOWS` a second."""
    added = []
    due_s = time.perf_counter()
    for item in items:
        bench.put([item])
        due_s = max(due_s + 1 / RATE_WINDOWS, time.perf_counter() - 0.01)
        time.sleep(max(0.0, due_s - time.perf_counter()))
        begun = time.perf_counter_ns()
        scored = bench.turn()
        taken_us = (time.perf_counter_ns() - begun) / 1000
        if scored:
            added.append(taken_us / scored - bare_us)
    return added


class _Watcher(threading.Thread):
    """Notes when each window's result is first seen: in the log, and on the broker."""

    def __init__(self, path: str, port: int) -> None:
        super().__init__(daemon=True)
        self.logged: dict[int, float] = {}
        self.heard: dict[int, float] = {}
        self.done = threading.Event()
        self._reader = Reader(path)
        self._cursor = self._reader.latest()
        topic = str(Topic(FLEET, DEVICE, "inference", "results"))
        self._session = Session(MqttSettings(port=port), "watcher", subscriptions=[topic])
        self._session.start()

    def run(self) -> None:
        while not self.done.is_set():
            chunk = self._reader.read(self._cursor, kinds=(Kind.RESULT,), limit=500)
            self._cursor = chunk.cursor
            now_s = time.perf_counter()
            for row in chunk.rows:
                self.logged.setdefault(row.t_ns, now_s)
            event = self._session.poll(0.001)
            if isinstance(event, Received):
                now_s = time.perf_counter()
                self._take(load_json(event.payload, 1 << 20), now_s)
        self._session.stop()
        self._reader.close()

    def _take(self, batch: Any, now_s: float) -> None:
        """Note a batch, and acknowledge it as a cloud does: without that the uplink would wait."""
        for row in batch["rows"]:
            self.heard.setdefault(row["t0_ns"], now_s)
        seqs = [row["seq"] for row in batch["rows"]]
        ack = Ack(epoch=batch["epoch"], ranges=[(min(seqs), max(seqs))])
        topic = str(Topic(FLEET, DEVICE, "inference", "ack"))
        with contextlib.suppress(RetryLater):
            self._session.publish(topic, ack.encode())


def _end_to_end(what: str, quick: bool, **settings: str) -> list[dict[str, Any]]:
    """The service as a process: start, memory, and the way of a sample to the broker."""
    count, rate = (300, 100) if quick else (3_000, 100)
    with tempfile.TemporaryDirectory() as name, _device(model("10 us")) as (bench, items):
        broker = Mosquitto(Path(name)).start()
        bench.close()
        begun = time.perf_counter()
        service = Process(bench, broker.port, **settings)
        watcher = _Watcher(str(bench.folder / "inference.sqlite"), broker.port)
        try:
            watcher.start()
            bench.put(items[:1])
            while not watcher.logged:
                time.sleep(0.002)
            started_s = time.perf_counter() - begun
            time.sleep(3)
            committed: dict[int, float] = {}
            due_s = time.perf_counter()
            for before, item in itertools.pairwise(items[:count]):
                due_s += 1 / rate
                time.sleep(max(0.0, due_s - time.perf_counter()))
                bench.put([item])
                committed[before.t0_ns] = time.perf_counter()
            end_s = time.monotonic() + 10
            while not committed.keys() <= watcher.heard.keys() and time.monotonic() < end_s:
                time.sleep(0.05)
            resident = psutil.Process(service.process.pid).memory_info().rss
        finally:
            watcher.done.set()
            watcher.join(10)
            service.end()
            broker.kill()
            bench.open()
    rows = [
        _row(f"{what}: s from process start to the first result", started_s),
        _row(f"{what}: MiB resident", resident / (1 << 20)),
    ]
    for title, seen in (("the log", watcher.logged), ("MQTT", watcher.heard)):
        taken = [(seen[t] - s) * 1000 for t, s in committed.items() if t in seen]
        p50, p99 = np.percentile(taken, [50, 99]) if taken else (float("nan"),) * 2
        rows.append(_row(f"{what}: ms from sample committed to result in {title}, p50", float(p50)))
        rows.append(_row(f"{what}: ms from sample committed to result in {title}, p99", float(p99)))
        if len(taken) < len(committed):
            rows.append(_row(f"{what}: not seen in {title}", len(committed) - len(taken)))
    return rows


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Throughput and added latency by model, then end to end; each row says what it is."""
    table = [row for name in WORK for row in _throughput(name, quick)]
    table += _end_to_end("defaults", quick)
    return table + _end_to_end("quick device", quick, **QUICK_DEVICE)
