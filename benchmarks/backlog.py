"""A backlog of a million rows: what it costs ingestion in memory, at its start, and its live data.

The yardstick of each figure is the same service, in the same run, with an empty log. The service is
`python -m fieldloop_ingestion run` with a simulated machine of three axes at 3.2 kHz, with a real
broker, and a cloud in this process that acknowledges each batch.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.log import open_log
from benchmarks.log_service import PROFILE, Figures, figure, temporary
from fieldloop_buffer import Entry, Kind, Reader
from fieldloop_contract.batch import decode_frames, decode_rows
from fieldloop_contract.messages import Ack
from fieldloop_contract.topics import parse
from fieldloop_runtime.mqtt import Received
from support.broker import Mosquitto
from support.cloud import PretendCloud

ROWS = 1_000_000
_COMMIT_ROWS = 4_000


@dataclass
class Seen:
    """What came to the cloud.

    Attributes:
        live_ms: from the end of each live frame to its arrival.
    """

    live_ms: list[float] = field(default_factory=list)
    backlog_rows: int = 0


class Counting(PretendCloud):
    """A cloud that acknowledges everything and remembers only counts."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "acme")
        self.seen = Seen()

    def _take(self, event: Received) -> None:
        topic = parse(event.topic)
        if topic.channel != "frames":
            batch = decode_rows(event.payload)
            self.seen.backlog_rows += len(batch.rows)
            epoch, seqs = batch.epoch, [row.seq for row in batch.rows]
        else:
            frames = decode_frames(event.payload)
            epoch, seqs = frames.epoch, [row.seq for row in frames.rows]
            now_ns = time.time_ns()
            for row in frames.rows if not frames.historical else ():
                frame = row.frame
                seconds = len(frame.samples) / 4 / frame.channels / frame.rate_hz
                self.seen.live_ms.append((now_ns - frame.t0_ns) / 1e6 - seconds * 1_000)
        ranges = (
            [(seqs[0], seqs[-1])]
            if len(seqs) == seqs[-1] - seqs[0] + 1
            else [(seq, seq) for seq in seqs]
        )
        self.acknowledge(topic.device, topic.service, Ack(epoch=epoch, ranges=ranges))


def fill(path: Path, rows: int) -> None:
    """Make a log with so many rows that wait: results of about 120 bytes."""
    payload = json.dumps({"slot": "main", "label": "walking", "text": "x" * 80}).encode()
    entry = Entry(Kind.RESULT, "imu", 1, payload)
    log = open_log(path, "balanced")
    for n in range(rows):
        log.append(entry)
        if n % _COMMIT_ROWS == _COMMIT_ROWS - 1:
            log.commit(force=True)
    log.commit(force=True)
    log.close()


def _start_up_s(path: Path) -> float:
    """Seconds to open a log and read its first rows."""
    begun = time.perf_counter()
    log = open_log(path, "balanced")
    reader = Reader(str(path))
    reader.read(None, kinds=tuple(Kind))
    seconds = time.perf_counter() - begun
    reader.close()
    log.close()
    return seconds


@contextmanager
def _service(place: Path, port: int) -> Iterator[psutil.Process]:
    (place / "profile.yaml").write_text(PROFILE, encoding="utf-8")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")} | {
        "FIELDLOOP_FLEET": "acme",
        "FIELDLOOP_DEVICE": "bench",
        "FIELDLOOP_PROFILE": str(place / "profile.yaml"),
        "FIELDLOOP_LOG_PATH": str(place / "log.db"),
        "FIELDLOOP_LOG_BYTES_MAX": str(1 << 36),
        "FIELDLOOP_MQTT_PORT": str(port),
        "FIELDLOOP_TRUST_CLOCK": "true",
    }
    command = [sys.executable, "-m", "fieldloop_ingestion", "run"]
    with (place / "out").open("wb") as out:
        child = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.send_signal(signal.SIGKILL)  # so that the next start-up is one after a crash
        child.wait(20)


def _run(place: Path, rows: int, seconds: float) -> tuple[float, Seen]:
    """Most resident MiB, and what arrived, of the service on a log, until its rows are sent."""
    broker = Mosquitto(place / "mosquitto").start()
    cloud = Counting(broker.port)
    cloud.start()
    with _service(place, broker.port) as process:
        while not cloud.seen.live_ms:  # the first ones were made while it connected
            time.sleep(0.1)
        cloud.seen.live_ms.clear()
        resident = 0
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and not 0 < rows <= cloud.seen.backlog_rows:
            time.sleep(0.1)
            resident = max(resident, process.memory_info().rss)
    cloud.stop()
    broker.kill()
    return resident / 2**20, cloud.seen


def measure(*, quick: bool = False) -> list[Figures]:
    """All of it; `quick` does a tenth."""
    rows, seconds = (ROWS // 10, 5.0) if quick else (ROWS, 30.0)
    with temporary() as empty, temporary() as full:
        fill(empty / "log.db", 0)
        fill(full / "log.db", rows)
        opened = _start_up_s(full / "log.db"), _start_up_s(empty / "log.db")
        idle_mib, idle = _run(empty, 0, seconds)
        busy_mib, busy = _run(full, rows, 4 * seconds)
        crashed = _start_up_s(full / "log.db"), _start_up_s(empty / "log.db")
    sent = busy.backlog_rows
    p95 = [statistics.quantiles(seen.live_ms, n=20)[18] for seen in (busy, idle)]
    what = f"{rows:,} rows waiting"
    return [
        figure(f"memory, most while draining, {what}", busy_mib, "MiB", "no backlog", idle_mib),
        figure(f"open and first read, {what}", opened[0], "s", "no rows", opened[1]),
        figure(f"the same after a kill, {what}", crashed[0], "s", "no rows", crashed[1]),
        figure(f"live frame to cloud, p95, {sent:,} sent", p95[0], "ms", "no backlog", p95[1]),
    ]
