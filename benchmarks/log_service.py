"""The log at work: acknowledgement latency, draining, a busy uplink, memory, disk; and the SQLite
storage of ThingsBoard Gateway, installed in an environment of its own (`.bench/`, kept).

Each figure stands beside a yardstick from the same run; `ratio` is figure over yardstick.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.log import PRAGMAS, frame_entry, open_log
from fieldloop_buffer import Entry, Kind, Log, Uplink, UplinkSettings
from fieldloop_buffer.batching import encode
from fieldloop_buffer.outbox import Outbox
from fieldloop_runtime.settings import MqttSettings
from support.broker import Mosquitto
from support.cloud import PretendCloud

ROOT = Path(__file__).resolve().parents[1]
GATEWAY = "thingsboard-gateway==3.8.5"
ROUNDS = 3
_RATE = 1_000
_JSON_BYTES = 1_250
Figures = dict[str, Any]


def figure(what: str, value: float, unit: str, yardstick: str, other: float) -> Figures:
    ratio = value / other if other else float("nan")
    return {
        "what": what,
        "figure": value,
        "unit": unit,
        "yardstick": yardstick,
        "its figure": other,
        "ratio": ratio,
    }


@contextmanager
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-log-") as folder:
        yield Path(folder)


# ---- acknowledgement ---------------------------------------------------------------------------


def _paced(seconds: float, put: Any, commit: Any) -> list[float]:
    """Latencies in ms of rows that come 1,000 times a second, from `put` to a covering commit."""
    waiting: list[tuple[int, float]] = []
    found: list[float] = []
    begun = time.perf_counter()
    n = 0
    while (now := time.perf_counter() - begun) < seconds or waiting:
        due = min(int(now * _RATE), int(seconds * _RATE))
        while n < due:
            n += 1
            waiting.append((put(), n / _RATE))
        durable = commit()
        at = time.perf_counter() - begun
        while waiting and waiting[0][0] <= durable:
            found.append((at - waiting.pop(0)[1]) * 1_000)
        time.sleep(0.0005)
    return found


def _log_latency(mode: str, seconds: float, entry: Entry) -> list[float]:
    with temporary() as folder:
        log = open_log(folder / "log.db", mode)
        found = _paced(seconds, lambda: log.append(entry), log.commit)
        log.close()
    return found


def _plain_latency(seconds: float, entry: Entry) -> list[float]:
    with temporary() as folder:
        db = sqlite3.connect(folder / "plain.db", isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={PRAGMAS['durable']}")
        db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, payload BLOB)")
        rows: list[tuple[int, bytes]] = []
        number = 0

        def put() -> int:
            nonlocal number
            number += 1
            rows.append((number, entry.payload))
            return number

        def commit() -> int:
            if rows:
                db.execute("BEGIN")
                db.executemany("INSERT INTO rows VALUES (?, ?)", rows)
                db.execute("COMMIT")
                rows.clear()
            return number

        found = _paced(seconds, put, commit)
        db.close()
    return found


def _latency(seconds: float, entry: Entry) -> list[Figures]:
    plain = statistics.quantiles(_plain_latency(seconds, entry), n=100)
    table = []
    for mode in ("durable", "balanced"):
        ours = statistics.quantiles(_log_latency(mode, seconds, entry), n=100)
        for name, at in (("p50", 49), ("p99", 98)):
            what = f"acknowledged at {_RATE:,} rows/s, {mode}, {name}"
            table.append(figure(what, ours[at], "ms", "executemany, FULL", plain[at]))
    return table


# ---- draining ----------------------------------------------------------------------------------


def _fill(path: Path, rows: int, entry: Entry) -> Log:
    log = open_log(path, "balanced")
    for n in range(rows):
        log.append(entry)
        if n % 1_000 == 999:
            log.commit(force=True)
    log.commit(force=True)
    return log


def _encoding(path: Path, rows: int) -> float:
    """Rows a second of reading and encoding alone."""
    outbox = Outbox(str(path))
    view = outbox.view()
    assert view is not None
    begun = time.perf_counter()
    at = 0
    while waiting := outbox.waiting(at, view.durable, 1_000, 96 * 1024):
        letters = outbox.fetch([(waiting[0].key, waiting[-1].key)])
        encode(letters, view.epochs, historical=True)
        at = waiting[-1].key
    seconds = time.perf_counter() - begun
    outbox.file.close()
    return rows / seconds


def _uplink(log: Log, port: int) -> Uplink:
    return Uplink(
        UplinkSettings(backlog_bytes_s=1 << 40),
        mqtt=MqttSettings(host="127.0.0.1", port=port),
        fleet="demo",
        device="pump-1",
        service="ingestion",
        log_path=log.path,
    )


def _drain(rows: int, entry: Entry) -> list[Figures]:
    with temporary() as folder:
        broker = Mosquitto(folder / "mosquitto").start()
        cloud = PretendCloud(broker.port).start()
        log = _fill(folder / "log.db", rows, entry)
        alone = _encoding(folder / "log.db", rows)
        before = psutil.Process().memory_info().rss
        uplink = _uplink(log, broker.port)
        begun = time.perf_counter()
        uplink.start()
        while sum(ledger.pending for ledger in log.ledgers()):
            log.apply(uplink.take_orders())
            log.commit()
            time.sleep(0.005)
        seconds = time.perf_counter() - begun
        grown = psutil.Process().memory_info().rss - before
        uplink.stop()
        cloud.stop()
        broker.kill()
        log.close()
    table = [
        figure(
            "backlog to acknowledged, one process with its cloud",
            rows / seconds,
            "rows/s",
            "read and encode alone",
            alone,
        )
    ]
    shown = f"memory grown while draining {rows:,} rows"
    table.append(figure(shown, grown / 2**20, "MiB", "payload", rows * len(entry.payload) / 2**20))
    return table


def _busy(batches: int, rows: int, entry: Entry) -> list[Figures]:
    """Commits of 100 rows while the uplink drains, against the same with no uplink."""

    def commits(log: Log) -> float:
        begun = time.perf_counter()
        for _ in range(batches):
            for _ in range(100):
                log.append(entry)
            log.commit(force=True)
            time.sleep(0.01)
        return (time.perf_counter() - begun) / batches * 1_000 - 10

    code = "import sys; from benchmarks.log_service import cloud; cloud(int(sys.argv[1]))"
    with temporary() as folder:
        broker = Mosquitto(folder / "mosquitto").start()
        command = [sys.executable, "-c", code, str(broker.port)]
        other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert other.stdout is not None
        other.stdout.readline()
        log = _fill(folder / "log.db", rows, entry)
        quiet = commits(log)
        uplink = _uplink(log, broker.port)
        uplink.start()
        while not uplink.figures.batches_sent:
            time.sleep(0.01)
        busy = commits(log)
        sent = uplink.figures.batches_sent
        uplink.stop()
        log.close()
        other.terminate()
        other.wait(10)
        broker.kill()
    what = f"commit of 100 rows while {sent} batches go up"
    return [figure(what, busy, "ms", "with no uplink", quiet)]


def cloud(port: int) -> None:
    """A cloud in a process of its own, until it is ended."""
    PretendCloud(port).start()
    print("ready", flush=True)
    threading.Event().wait(600)


# ---- memory and disk ---------------------------------------------------------------------------

PROFILE = """
streams:
  - id: vibration
    rate_hz: 3200
    channels: [{name: ax, unit: g}, {name: ay, unit: g}, {name: az, unit: g}]
sources:
  - {id: rig, kind: machine, stream: vibration, machine: {shaft_hz: 24.5}}
"""


def _memory(seconds: float) -> list[Figures]:
    with temporary() as folder:
        (folder / "profile.yaml").write_text(PROFILE, encoding="utf-8")
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")} | {
            "FIELDLOOP_FLEET": "demo",
            "FIELDLOOP_DEVICE": "pump-1",
            "FIELDLOOP_PROFILE": str(folder / "profile.yaml"),
            "FIELDLOOP_LOG_PATH": str(folder / "log.db"),
            "FIELDLOOP_MQTT_PORT": "1",
        }
        with (folder / "out").open("wb") as out:
            service = subprocess.Popen(
                [sys.executable, "-m", "fieldloop_ingestion", "run"],
                env=environ,
                stdout=out,
                stderr=out,
            )
        time.sleep(seconds)
        resident = psutil.Process(service.pid).memory_info().rss
        service.send_signal(signal.SIGTERM)
        service.wait(20)
        bare = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        time.sleep(0.3)
        python = psutil.Process(bare.pid).memory_info().rss
        bare.kill()
        bare.wait()
    what = f"ingestion's memory, three axes at 3.2 kHz for {seconds:g} s"
    return [figure(what, resident / 2**20, "MiB", "Python alone", python / 2**20)]


def _disk(rows: int, entry: Entry) -> list[Figures]:
    with temporary() as folder:
        log = _fill(folder / "log.db", rows, entry)
        log.close()
        size = (folder / "log.db").stat().st_size
    scale = 1_000_000 / rows / 1e6
    payload = rows * len(entry.payload) * scale
    return [figure("disk of a million rows", size * scale, "MB", "their payload", payload)]


# ---- the gateway -------------------------------------------------------------------------------


def _gateway_python() -> Path:
    """The environment of the gateway, made where it is missing."""
    folder = ROOT / ".bench" / "gateway"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", GATEWAY]
        subprocess.run(install, check=True, timeout=900)
        (folder / ".ready").touch()
    return python


def _gateway(rows: int) -> list[Figures]:
    python = _gateway_python()
    script = Path(__file__).with_name("gateway_storage.py")
    entry = Entry(Kind.RESULT, "imu", 1, json.dumps({"x": "y" * (_JSON_BYTES - 8)}).encode())
    theirs: list[float] = []
    ours: dict[str, list[float]] = {"durable": [], "balanced": []}
    for _ in range(ROUNDS):
        with temporary() as folder:
            command = [str(python), str(script), str(folder), str(rows), str(_JSON_BYTES)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            theirs.append(json.loads(done.stdout.splitlines()[-1])["rows_s"])
        for mode, found in ours.items():
            with temporary() as folder:
                log = open_log(folder / "log.db", mode)
                begun = time.perf_counter()
                for n in range(rows):
                    log.append(entry)
                    if n % 1_000 == 999:
                        log.commit(force=True)
                log.commit(force=True)
                found.append(rows / (time.perf_counter() - begun))
                log.close()
    gateway = statistics.median(theirs)
    return [
        figure(
            f"synced every 1,000 rows, acknowledged after it, {mode}",
            statistics.median(found),
            "rows/s",
            "ThingsBoard Gateway, unsynced",
            gateway,
        )
        for mode, found in ours.items()
    ]


def measure(*, quick: bool = False) -> list[Figures]:
    """All of it; `quick` does a tenth."""
    entry = frame_entry()
    share = 10 if quick else 1
    return [
        *_latency(10 / share, entry),
        *_drain(50_000 // share, entry),
        *_busy(300 // share, 50_000 // share, entry),
        *_memory(20 / share + 3),
        *_disk(100_000 // share, entry),
        *_gateway(50_000 // share),
    ]
