"""A fleet fetching one model from one mosquitto, against the same bytes fanned out barely.

Devices are the real fetch code (`Fetcher`, windows of chunk topics, digests, files), many to a
process, each with an MQTT client of its own; their files lie in memory, since real devices do not
share a disk. The yardstick is the same clients, each subscribed to one topic, and a publisher that
sends the same chunks to all of them once. Verification of metadata is not in it: on a device that
is one child process, whatever the model's size.

Deltas are of real int8 files: one small network trained on synthetic windows, then retrained three
ways with its calibration set kept (TensorFlow, in a process of its own).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Carriage,
    Channel,
    FileRef,
    Golden,
    Input,
    Manifest,
    Normalisation,
    Output,
    split,
)
from fieldloop_contract.topics import blob_topic, parse_blob
from fieldloop_delivery.packing import compress, xor
from fieldloop_update.bundles import Bundles
from fieldloop_update.fetch import Fetcher
from fieldloop_update.outcomes import Ready
from fieldloop_update.settings import UpdateSettings

FLEET, SIZE, PROCESSES, ROUNDS = "bench", 300_000, 4, 3
SLOW_S = 0.5
FAN = "fieldloop/bench/fan"
_LIMIT_S = 240.0


def _bundle(version: int, size: int = SIZE) -> tuple[Manifest, dict[str, bytes]]:
    rng = random.Random(version)
    files = {MODEL_FILE: rng.randbytes(size), GOLDEN_FILE: rng.randbytes(2_000)}
    manifest = Manifest(
        name="activity",
        version=version,
        task="classification",
        files={n: FileRef.of(data) for n, data in files.items()},
        inputs=[
            Input(
                name="imu",
                channels=[Channel(name="ax", unit="g")],
                rate_hz=50,
                window_samples=50,
                hop_samples=25,
                normalisation=Normalisation(centre=[0.0], scale=[1.0]),
            )
        ],
        outputs=[Output(name="class", kind="probabilities", labels=["a", "b"])],
        golden=Golden(count=1, tolerance=0.1),
    )
    return manifest, files


def _chunks(manifest: Manifest, files: dict[str, bytes]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for data in [manifest.encode(), *files.values()]:
        found.update(zip(FileRef.of(data).chunks, split(data), strict=True))
    return found


class _Broker:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
        from support.broker import find_mosquitto, free_port  # noqa: PLC0415

        self.port = free_port()
        text = f"listener {self.port} 127.0.0.1\nallow_anonymous true\nlog_type none\n"
        text += "max_queued_messages 0\nmax_inflight_messages 100\nset_tcp_nodelay true\n"
        if os.geteuid() == 0:
            text += "user root\n"
        (folder / "conf").write_text(text, encoding="utf-8")
        _raise_file_limit()
        self._process = subprocess.Popen(
            [find_mosquitto(), "-c", str(folder / "conf")], stderr=subprocess.DEVNULL
        )
        time.sleep(0.5)

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS"))

    def publish(self, chunks: dict[str, bytes], *, fan: bool) -> None:
        client = _client("publisher", self.port)
        client.loop_start()
        last = None
        for digest, data in chunks.items():
            topic = FAN if fan else blob_topic(FLEET, digest)
            last = client.publish(topic, data, qos=1, retain=not fan)
        if last is not None:
            last.wait_for_publish(60)
        client.loop_stop()
        client.disconnect()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _raise_file_limit() -> None:
    """As many open files as the machine lets us have: sockets, and the files of each download."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _client(name: str, port: int) -> paho.Client:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, name, reconnect_on_failure=False)
    client.connect("127.0.0.1", port, 600)
    return client


class _Device:
    """One client; `fetcher` None for the yardstick, which only counts bytes."""

    def __init__(self, name: str, port: int, folder: Path | None, wanted: int) -> None:
        self.client = _client(name, port)
        self.client.on_message = self._message
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.subscribed = self.done = False
        self.done_s = 0.0
        self.bytes = 0
        self.slow_s = 0.0
        self.held_until_s = 0.0
        self._wanted = wanted
        self.fetcher: Fetcher | None = None
        if folder is not None:
            settings = UpdateSettings(dir=str(folder), disk_reserve_bytes=0)
            self.fetcher = Fetcher(
                settings, FLEET, Bundles(folder, 2), self._subscribe, self._unsubscribe, seed=1
            )

    def _subscribe(self, *filters: str) -> None:
        self.client.subscribe([(f, 1) for f in filters])

    def _unsubscribe(self, *filters: str) -> None:
        self.client.unsubscribe(list(filters))

    def _message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.bytes += len(message.payload) + len(message.topic) + 8
        if self.fetcher is None:
            self.done = self.bytes >= self._wanted
            return
        self.fetcher.message(parse_blob(message.topic), message.payload)
        self.held_until_s = time.monotonic() + self.slow_s
        self.turn()

    def turn(self) -> None:
        if self.fetcher is None or self.done:
            return
        for outcome in self.fetcher.step(time.monotonic(), online=True):
            self.done = self.done or isinstance(outcome, Ready)


def _work(
    names: list[str], port: int, folder: str, mode: str, barrier: Barrier, answers: Any
) -> None:
    """One process of devices: connect, wait for the others, fetch, tell when each was done."""
    _raise_file_limit()
    manifest, files = _bundle(1)
    wanted = sum(len(c) for c in _chunks(manifest, files).values())
    devices = [_Device(n, port, Path(folder, n) if mode != "fan" else None, wanted) for n in names]
    if mode == "slow" and names[0] == "d-0":
        devices[0].slow_s = SLOW_S
    selector = selectors.DefaultSelector()
    for device in devices:
        selector.register(device.client.socket(), selectors.EVENT_READ, device)
        if mode == "fan":
            device.client.subscribe(FAN, 1)
    until_s = time.monotonic() + 2.0
    while time.monotonic() < until_s or not (mode != "fan" or all(d.subscribed for d in devices)):
        _serve(selector, devices)
    barrier.wait()
    begun_s = time.monotonic()
    if mode != "fan":
        carriage = Carriage(manifest=FileRef.of(manifest.encode()))
        for device in devices:
            assert device.fetcher is not None
            device.fetcher.start(manifest.ref(), carriage)
            device.turn()
    while any(not d.done for d in devices) and time.monotonic() - begun_s < _LIMIT_S:
        _serve(selector, devices)
    answers.put([(d.done_s - begun_s if d.done else _LIMIT_S, d.bytes) for d in devices])


def _serve(selector: selectors.BaseSelector, devices: list[_Device]) -> None:
    """Read and write what there is."""
    for key, _ in selector.select(0.02):
        if time.monotonic() >= key.data.held_until_s:
            key.data.client.loop_read(100)
    for device in devices:
        if device.client.want_write():
            device.client.loop_write()
        if device.done and not device.done_s:
            device.done_s = time.monotonic()


def _round(devices: int, mode: str) -> tuple[list[float], int, int]:
    """Seconds until each device was done (slow one first), bytes of all, bytes of the model."""
    room = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(dir=room))
    broker = _Broker(folder / "broker")
    context = multiprocessing.get_context("spawn")
    try:
        chunks = _chunks(*_bundle(1))
        if mode != "fan":
            broker.publish(chunks, fan=False)
        barrier, answers = context.Barrier(PROCESSES + 1), context.Queue()
        workers = []
        for k in range(PROCESSES):
            names = [f"d{k}-{i}" for i in range(devices // PROCESSES)]
            names = [f"d-{i}" if k == 0 else n for i, n in enumerate(names)]
            arguments = (names, broker.port, str(folder), mode, barrier, answers)
            workers.append(context.Process(target=_work, args=arguments))
            workers[-1].start()
        barrier.wait(_LIMIT_S)
        if mode == "fan":
            broker.publish(chunks, fan=True)
        found = [answers.get(timeout=_LIMIT_S + 60) for _ in workers]
        for worker in workers:
            worker.join()
        rows = sorted((row for rows in found for row in rows), reverse=True)
        return [s for s, _ in rows], sum(n for _, n in rows), SIZE * len(rows)
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _memory(versions: int = 20) -> float:
    """KiB of the broker for each live version that it retains."""
    with tempfile.TemporaryDirectory() as folder:
        broker = _Broker(Path(folder) / "broker")
        try:
            broker.publish(_chunks(*_bundle(1000)), fan=False)
            before = broker.rss_kib()
            for version in range(versions):
                broker.publish(_chunks(*_bundle(version + 1)), fan=False)
            return (broker.rss_kib() - before) / versions
        finally:
            broker.stop()


_TRAINING = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
out = sys.argv[1]
def data(seed, n=1500):
    rng = np.random.default_rng(seed); y = rng.integers(0, 7, n)
    t = np.arange(100)[None, :, None]; f = (1 + y)[:, None, None] * (1 + 0.1 * np.arange(6))
    x = np.sin(t * f / 15 + rng.uniform(0, 6, (n, 1, 6))) + rng.normal(0, 0.5, (n, 100, 6))
    return x.astype("float32"), y
def net():
    return tf.keras.Sequential([tf.keras.Input((100, 6)),
        tf.keras.layers.Conv1D(96, 7, strides=2, activation="relu"),
        tf.keras.layers.Conv1D(192, 5, strides=2, activation="relu"),
        tf.keras.layers.Conv1D(192, 5, activation="relu"),
        tf.keras.layers.GlobalAveragePooling1D(), tf.keras.layers.Dense(7, activation="softmax")])
def fit(m, seed, epochs, rate):
    m.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    m.fit(*data(seed), epochs=epochs, verbose=0, batch_size=64)
calibration = data(0, 100)[0]
def save(m, name):
    c = tf.lite.TFLiteConverter.from_keras_model(m); c.optimizations = [tf.lite.Optimize.DEFAULT]
    c.representative_dataset = lambda: ([w[None]] for w in calibration)
    c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    c.inference_input_type = c.inference_output_type = tf.int8
    open(os.path.join(out, name), "wb").write(c.convert())
tf.keras.utils.set_random_seed(1); m = net(); fit(m, 1, 4, 1e-3); save(m, "base")
weights = m.get_weights()
for layer in m.layers[:-1]: layer.trainable = False
fit(m, 2, 2, 1e-3); save(m, "head-only retrain")
for layer in m.layers: layer.trainable = True
m.set_weights(weights); fit(m, 2, 1, 1e-5); save(m, "gentle warm retrain")
tf.keras.utils.set_random_seed(2); m = net(); fit(m, 2, 4, 1e-3); save(m, "full retrain")
"""


def _deltas() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _TRAINING, folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return [_row(f"deltas: not measured ({done.stderr.strip()[-80:]})", 0, "", 0)]
        base = Path(folder, "base").read_bytes()
        rows = []
        for name in ("head-only retrain", "gentle warm retrain", "full retrain"):
            data = Path(folder, name).read_bytes()
            equal = len(data) == len(base)
            size = len(compress(xor(data, base))) if equal else len(compress(data))
            how = "delta" if equal else "compressed (other length)"
            rows.append(_row(f"{how}, {name}", size, f"bytes of {len(data):,}", size / len(data)))
    return rows


def _row(what: str, value: float, unit: str, ratio: float) -> dict[str, Any]:
    return {"what": what, "value": value, "of": unit, "ratio": ratio}


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Medians of interleaved rounds, with ratios to the yardstick."""
    devices, rounds = (100, 1) if quick else (1000, ROUNDS)
    fetched, fanned = [], []
    total = model = 0
    for _ in range(rounds):
        seconds, _, _ = _round(devices, "fan")
        fanned.append(seconds[0])
        seconds, total, model = _round(devices, "fetch")
        fetched.append(seconds[0])
    slow, _, _ = _round(devices, "slow")
    ours, bare = sorted(fetched)[rounds // 2], sorted(fanned)[rounds // 2]
    kib = _memory()
    return [
        _row(f"{devices} devices fetch {SIZE:,} bytes, all done", ours, "s", ours / bare),
        _row("the same bytes fanned out barely", bare, "s", 1.0),
        _row("bytes for each device", total / devices, "bytes", total / model),
        _row("with one slow device, all others done", slow[1], "s", slow[1] / ours),
        _row("the slow device itself", slow[0], "s", slow[0] / ours),
        _row("broker's memory for each live version", kib, "KiB", kib * 1024 / SIZE),
        *_deltas(),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(quick="--quick" in sys.argv), indent=2))
