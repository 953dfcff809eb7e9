"""Telemetry against the database it writes to, and the broker it reads from.

Each figure stands beside a yardstick of the same run: rows stored through broker and service
against the same rows put into the same kind of database by bare bulk insertion, and against a
consumer that makes one insert of each message; two replicas against one; bytes on the wire against
JSON; the age of rows when they are acknowledged, at a steady rate; and what one mosquitto takes.
Rows are frames of 50 samples of 6 channels (1,200 bytes) unless said otherwise. Devices, broker,
service and database share this machine.
"""

from __future__ import annotations

import functools
import json
import math
import random
import resource
import shutil
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil
import psycopg
from paho.mqtt.enums import CallbackAPIVersion

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fieldloop_contract.batch import SequencedFrame, encode_frames
from fieldloop_contract.frames import Clock, Frame
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.rows import COLUMNS, LogKey, Row, frame_row
from fieldloop_telemetry.door import admit
from support.broker import Mosquitto
from support.postgres import Postgres
from support.telemetry import BOOT, EPOCH, Device, TelemetryProcess

ROUNDS = 3
_BATCH_ROWS = 75
_COMMIT_ROWS = 5_000
_WINDOW = 64
_PUBLISHERS = 8
_DIFFERENT = 500
_CHANNELS, _SAMPLES, _RATE_HZ = 6, 50, 50.0
_LOG = LogKey("demo", "bench", "ingestion", EPOCH)
_TOPIC = "fieldloop/v1/demo/bench/ingestion/frames"
Row_ = dict[str, Any]


def _signal(seq: int, *, random_bits: bool = False) -> Frame:
    """A frame of a 12-bit sensor: sine waves with noise, in steps of 1/256; or pure noise."""
    t_ns = 1_800_000_000 * 10**9 + seq * 10**9
    samples = _some_samples(seq % _DIFFERENT, random_bits)
    return Frame("imu", t_ns, seq * 10**9, BOOT, Clock.HELD, _RATE_HZ, _CHANNELS, samples)


@functools.cache
def _some_samples(seq: int, random_bits: bool) -> bytes:
    chooser = random.Random(seq)
    values = array("f")
    for n in range(_SAMPLES):
        for channel in range(_CHANNELS):
            wave = math.sin((seq * _SAMPLES + n) * 0.05 * (channel + 1)) * 2
            step = chooser.random() if random_bits else round((wave + chooser.gauss(0, 0.02)) * 256)
            values.append(step if random_bits else step / 256)
    return values.tobytes()


def _row(what: str, unit: str, ours: float, against: str, yardstick: float) -> Row_:
    ratio = ours / yardstick if yardstick else float("nan")
    return {
        "what": what, "unit": unit, "ours": ours, "yardstick": yardstick, "ratio": ratio,
        "against": against,
    }  # fmt: skip


@contextmanager
def _databases() -> Iterator[Callable[[str], str]]:
    """Makes empty databases of both kinds; yields kind -> URL."""
    folder = Path(tempfile.mkdtemp(prefix="fieldloop-bench-"))
    cluster = Postgres().start()
    made = 0

    def new(kind: str) -> str:
        nonlocal made
        made += 1
        return cluster.new_database() if kind == "postgresql" else f"sqlite:///{folder}/{made}.db"

    try:
        yield new
    finally:
        cluster.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _bare_sqlite(url: str, rows: list[Row]) -> float:
    """Rows a second by `executemany` into the same table, durable, a commit each 5,000 rows."""
    Store.open(url).close()
    names = COLUMNS["frames"]
    statement = f"INSERT INTO frames ({','.join(names)}) VALUES ({','.join('?' * len(names))})"
    db = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    begun = time.perf_counter()
    for at in range(0, len(rows), _COMMIT_ROWS):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(statement, rows[at : at + _COMMIT_ROWS])
        db.execute("COMMIT")
    seconds = time.perf_counter() - begun
    db.close()
    return len(rows) / seconds


def _bare_postgresql(url: str, rows: list[Row]) -> float:
    """Rows a second by COPY into the same table, a commit each 5,000 rows."""
    Store.open(url).close()
    statement = f"COPY frames ({','.join(COLUMNS['frames'])}) FROM STDIN"
    begun = time.perf_counter()
    with psycopg.connect(url) as db:
        for at in range(0, len(rows), _COMMIT_ROWS):
            with db.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows[at : at + _COMMIT_ROWS]:
                    copy.write_row(row)
            db.commit()
    return len(rows) / (time.perf_counter() - begun)


def _in_process(url: str, batches: list[bytes], rows: int) -> float:
    """Rows a second through door and store, without broker and service."""
    store = Store.open(url)
    begun = time.perf_counter()
    intake, waiting = Intake(), 0
    for batch in batches:
        parcel = admit(_TOPIC, batch, 1)
        intake.rows["frames"].extend(parcel.rows)
        intake.received_ns, waiting = 1, waiting + len(parcel.rows)
        if waiting >= _COMMIT_ROWS:
            store_intake(store, intake)
            intake, waiting = Intake(), 0
    store_intake(store, intake)
    seconds = time.perf_counter() - begun
    store.close()
    return rows / seconds


def _served(url: str, batches: list[bytes], rows: int, replicas: int = 1) -> float:
    """Rows a second from a device's publication to its acknowledgement, through everything."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker", extra="max_queued_messages 0").start()
        share = {"FIELDLOOP_SHARE": "t", "FIELDLOOP_MQTT_PROTOCOL": "5"} if replicas > 1 else {}
        services = []
        for at in range(replicas):
            own = Path(folder) / str(at)
            own.mkdir()
            services.append(TelemetryProcess(own, broker.port, url, **share).start())
        device = Device(broker.port, "bench")
        try:
            begun = time.perf_counter()
            sent = 0
            while device.ranges() != [(1, rows)]:
                acked = sum(last - first + 1 for first, last in device.ranges())
                while sent < len(batches) and sent * _BATCH_ROWS - acked < _WINDOW * _BATCH_ROWS:
                    device.send("ingestion", "frames", batches[sent])
                    sent += 1
                time.sleep(0.001)
            return rows / (time.perf_counter() - begun)
        finally:
            device.stop()
            for service in services:
                service.kill()
            broker.kill()


def _naive(url: str, frames: list[Frame]) -> float:
    """Rows a second of a plain consumer: a JSON message for each frame, an insert for each."""
    path = url.removeprefix("sqlite:///")
    done = threading.Event()
    left = len(frames)

    def consume(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        nonlocal left
        document = json.loads(message.payload)
        samples = array("f", [x for row in document["samples"] for x in row]).tobytes()
        db.execute(
            "INSERT INTO frames VALUES (?, ?, ?)", (document["seq"], document["t0"], samples)
        )
        db.commit()
        left -= 1
        if left == 0:
            done.set()

    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE frames (seq INTEGER PRIMARY KEY, t0 INTEGER, samples BLOB)")
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder), extra="max_queued_messages 0").start()
        reader = paho.Client(CallbackAPIVersion.VERSION2, "reader")
        reader.on_message = consume
        reader.connect("127.0.0.1", broker.port)
        reader.subscribe("frames", 1)
        reader.loop_start()
        writer = paho.Client(CallbackAPIVersion.VERSION2, "writer")
        writer.connect("127.0.0.1", broker.port)
        writer.loop_start()
        time.sleep(0.3)
        payloads = [_json_row(n, frame) for n, frame in enumerate(frames, 1)]
        begun = time.perf_counter()
        for payload in payloads:
            writer.publish("frames", payload, 1)
        done.wait(120)
        seconds = time.perf_counter() - begun
        for client in (writer, reader):
            client.disconnect()
            client.loop_stop()
        broker.kill()
    db.close()
    return len(frames) / seconds


def _json_row(seq: int, frame: Frame) -> bytes:
    values = array("f")
    values.frombytes(frame.samples)
    rows = [
        [round(x, 4) for x in values[n : n + _CHANNELS]] for n in range(0, len(values), _CHANNELS)
    ]
    return json.dumps(
        {"seq": seq, "t0": frame.t0_ns, "samples": rows}, separators=(",", ":")
    ).encode()


def _lag(url: str, seconds: float, rate_rows_s: int) -> tuple[list[float], float]:
    """Milliseconds from publication to acknowledgement at a steady rate, and rows/s held."""
    rows = 20
    batches = [
        encode_frames(EPOCH, [SequencedFrame(s, _signal(s)) for s in range(at, at + rows)])
        for at in range(1, round(seconds * rate_rows_s), rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker").start()
        service = TelemetryProcess(Path(folder), broker.port, url).start()
        device = Device(broker.port, "bench")
        sent: list[float] = []
        lags: list[float] = []
        begun = time.perf_counter()
        try:
            while len(lags) < len(batches):
                now = time.perf_counter()
                if len(sent) < len(batches) and now >= begun + len(sent) * rows / rate_rows_s:
                    device.send("ingestion", "frames", batches[len(sent)])
                    sent.append(now)
                known = device.ranges()
                until = known[0][1] if known else 0
                while len(lags) < len(sent) and until >= (len(lags) + 1) * rows:
                    lags.append((time.perf_counter() - sent[len(lags)]) * 1000)
                time.sleep(0.0005)
            return lags, len(batches) * rows / (time.perf_counter() - begun)
        finally:
            device.stop()
            service.kill()
            broker.kill()


def _broker(messages: int, connections: int) -> list[Row_]:
    """What one mosquitto takes: small messages and batches by its own C clients, idle clients."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder), extra="max_queued_messages 0").start()
        process = psutil.Process(broker._process.pid)
        for bytes_each, count in ((200, messages), (60_000, messages // 20)):
            each = count // _PUBLISHERS
            address = ["-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", "bench"]
            reader = subprocess.Popen(
                ["mosquitto_sub", *address, "-C", str(each * _PUBLISHERS), "-W", "120"],
                stdout=subprocess.DEVNULL,
            )
            time.sleep(0.3)
            cpu, begun = sum(process.cpu_times()[:2]), time.perf_counter()
            repeat = ["--repeat", str(each), "--repeat-delay", "0", "-m", "x" * bytes_each]
            writers = [
                subprocess.Popen(["mosquitto_pub", *address, *repeat]) for _ in range(_PUBLISHERS)
            ]
            for writer in writers:
                writer.wait(120)
            reader.wait(120)
            seconds = time.perf_counter() - begun
            used = sum(process.cpu_times()[:2]) - cpu
            what = f"one mosquitto, messages of {bytes_each} bytes"
            table.append(
                _row(what, "messages/s", count / seconds, "per second of its CPU", count / used)
            )
        before = process.memory_info().rss
        sockets = [_connect(broker.port, n) for n in range(connections)]
        time.sleep(0.5)
        grown = process.memory_info().rss - before
        table.append(
            _row(f"one mosquitto, {connections} idle clients", "KiB each",
                 grown / connections / 1024, "KiB in all", grown / 1024)
        )  # fmt: skip
        for item in sockets:
            item.close()
        broker.kill()
    return table


def _connect(port: int, n: int) -> socket.socket:
    """A client that only connects (MQTT 3.1.1, 3.1) and subscribes to its acknowledgements."""
    made = socket.create_connection(("127.0.0.1", port), 10)
    name = f"demo/device-{n}/ingestion/up".encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(name)) + name
    made.sendall(bytes([0x10, len(body)]) + body)
    made.recv(4)
    topic = f"fieldloop/v1/demo/device-{n}/ingestion/ack".encode()
    body = b"\x00\x01" + struct.pack(">H", len(topic)) + topic + b"\x01"
    made.sendall(bytes([0x82, len(body)]) + body)
    made.recv(5)
    return made


def _wire(rows: int) -> list[Row_]:
    """Bytes on the wire for each sample of each channel."""
    table = []
    for what, noise in (("a 12-bit sensor", False), ("pure noise", True)):
        frames = [_signal(n, random_bits=noise) for n in range(rows)]
        batch = encode_frames(EPOCH, [SequencedFrame(n + 1, f) for n, f in enumerate(frames)])
        count = rows * _SAMPLES * _CHANNELS
        plain = sum(len(_json_row(n, frame)) for n, frame in enumerate(frames)) / count
        table.append(_row(f"wire, {what}", "bytes/value", len(batch) / count, "JSON", plain))
    return table


def measure(*, quick: bool = False) -> list[Row_]:
    """All figures: medians of interleaved rounds."""
    count = 3_000 if quick else 24_000
    rounds = 1 if quick else ROUNDS
    frames = [_signal(seq) for seq in range(1, count + 1)]
    numbered = [SequencedFrame(seq, frame) for seq, frame in enumerate(frames, 1)]
    batches = [
        encode_frames(EPOCH, numbered[at : at + _BATCH_ROWS]) for at in range(0, count, _BATCH_ROWS)
    ]
    rows = [frame_row(_LOG, item, 1) for item in numbered]
    table: list[Row_] = []
    with _databases() as new:
        for kind, bare in (("sqlite", _bare_sqlite), ("postgresql", _bare_postgresql)):
            runs: dict[str, list[float]] = {"bare": [], "inside": [], "served": [], "two": []}
            for _ in range(rounds):
                runs["bare"].append(bare(new(kind), rows))
                runs["inside"].append(_in_process(new(kind), batches, count))
                runs["served"].append(_served(new(kind), batches, count))
                if kind == "postgresql":
                    runs["two"].append(_served(new(kind), batches, count, replicas=2))
            found = {name: statistics.median(values) for name, values in runs.items() if values}
            table.append(
                _row(f"{kind}, door and store", "rows/s", found["inside"], "bulk insertion",
                     found["bare"])
            )  # fmt: skip
            table.append(
                _row(f"{kind}, through broker and service", "rows/s", found["served"],
                     "bulk insertion", found["bare"])
            )  # fmt: skip
            if kind == "sqlite":
                naive = _naive(new(kind), frames[: count // 10])
                table.append(
                    _row("sqlite, through broker and service", "rows/s", found["served"],
                         "a message, an insert", naive)
                )  # fmt: skip
            else:
                table.append(
                    _row("postgresql, two replicas", "rows/s", found["two"], "one replica",
                         found["served"])
                )  # fmt: skip
        rate = 1_000
        lags, held = _lag(new("sqlite"), 2 if quick else 10, rate)
        lags.sort()
        for name, at in (("median", 0.5), ("99 %", 0.99)):
            table.append(
                _row(f"lag to the acknowledgement, {name}", "ms", lags[int(len(lags) * at)],
                     "rows/s held", held)
            )  # fmt: skip
    table += _wire(_BATCH_ROWS)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    table += _broker(8_000 if quick else 80_000, min(5_000, limit // 2))
    return table
