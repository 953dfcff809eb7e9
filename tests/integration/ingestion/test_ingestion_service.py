"""The service as a process: settings in, frames out, books reported, a clean end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fieldloop_buffer import STREAM_STATE, Reader
from fieldloop_contract.messages import Reported, Status, StreamState, decode
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from support.broker import Mosquitto, free_port
from support.cloud import PretendCloud

PROFILE = """
streams:
  - id: imu
    rate_hz: 50
    channels: [{name: a, unit: g}, {name: b, unit: g, max: 100}]
  - id: secret
    rate_hz: 50
    uplink: none
    channels: [{name: a}, {name: b}]
sources:
  - {id: rec, kind: replay, stream: imu, path: %s, watch: true, speed: 0}
  - {id: own, kind: replay, stream: secret, path: %s, watch: true, speed: 0}
"""


class Process:
    """`python -m fieldloop_ingestion run` in a folder of its own."""

    def __init__(self, folder: Path, broker_port: int) -> None:
        self.folder = folder
        self.health_port = free_port()
        for name in ("rec", "own"):
            (folder / name).mkdir(exist_ok=True)
        profile = folder / "p.yaml"
        profile.write_text(PROFILE % (folder / "rec", folder / "own"), encoding="utf-8")
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
            "FIELDLOOP_FLEET": "demo",
            "FIELDLOOP_DEVICE": "pump-1",
            "FIELDLOOP_PROFILE": str(profile),
            "FIELDLOOP_LOG_PATH": str(folder / "log" / "log.db"),
            "FIELDLOOP_MQTT_HOST": "127.0.0.1",
            "FIELDLOOP_MQTT_PORT": str(broker_port),
            "FIELDLOOP_MQTT_RECONNECT_BASE_S": "0.1",
            "FIELDLOOP_HEALTH_PORT": str(self.health_port),
            "FIELDLOOP_TRUST_CLOCK": "true",
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fieldloop_ingestion", "run"],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> tuple[int, float, str]:
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=20)
        return self.process.returncode, time.monotonic() - begun, out

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.health_port}{path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return str(answer.read().decode())
        return ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fieldloop_ingestion", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environ,
        )


@pytest.fixture
def service(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Process]:
    found = Process(tmp_path, mosquitto.port)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.process.kill()
        found.process.wait()


def until(done: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def record(folder: Path, name: str, n: int) -> None:
    samples = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    np.savez(folder / f".{name}", samples=samples)
    (folder / f".{name}.npz").rename(folder / f"{name}.npz")


class Listener:
    """Hears what is retained about one device."""

    def __init__(self, port: int) -> None:
        settings = MqttSettings(host="127.0.0.1", port=port, reconnect_base_s=0.1)
        filters = [f"fieldloop/v1/demo/pump-1/ingestion/{c}" for c in ("status", "reported")]
        self._session = Session(settings, "listener", subscriptions=filters)
        self._session.start()
        self.status: list[Status] = []
        self.reported: list[Reported] = []

    def hear(self) -> None:
        while (event := self._session.poll(0.02)) is not None:
            if isinstance(event, Received) and event.topic.endswith("status"):
                self.status.append(decode(Status, event.payload))
            elif isinstance(event, Received):
                self.reported.append(decode(Reported, event.payload))

    def stop(self) -> None:
        self._session.stop(timeout_s=1)


def test_the_service_sends_reports_and_ends_in_order(
    service: Process, mosquitto: Mosquitto
) -> None:
    cloud = PretendCloud(mosquitto.port).start()
    listener = Listener(mosquitto.port)
    record(service.folder / "rec", "one", 1_003)
    record(service.folder / "own", "two", 500)
    service.start()

    def settled() -> bool:
        listener.hear()
        if not listener.reported:
            return False
        ledgers = listener.reported[-1].ledgers
        return bool(ledgers) and ledgers[-1].pending == 0 and ledgers[-1].produced >= 33

    until(settled)
    reported = listener.reported[-1]
    (ledger,) = reported.ledgers
    assert ledger.balanced
    # 21 frames and two events go up; ten frames stay
    assert (ledger.produced, ledger.stored, ledger.withheld) == (33, 23, 10)
    assert {s.stream: s.samples for s in reported.streams} == {"imu": 1_003, "secret": 500}
    assert reported.counters["bytes_sent"] > 0
    assert {frame.stream for frame in cloud.frames.values()} == {"imu"}
    assert listener.status[-1].state == "online"
    assert listener.status[-1].versions["fieldloop-ingestion"]
    assert json.loads(service.get("/healthz"))["healthy"] is True
    assert 'fieldloop_log_rows{account="stored"} 23.0' in service.get("/metrics")

    reader = Reader(str(service.folder / "log" / "log.db"))
    declared = decode(StreamState, (reader.state(STREAM_STATE + "imu") or "").encode())
    reader.close()
    assert (declared.channels, declared.units, declared.rate_hz) == (["a", "b"], ["g", "g"], 50.0)

    record(service.folder / "rec", "two", 5_000)
    time.sleep(0.7)
    code, seconds, out = service.stop()
    assert code == 0, out
    assert seconds < 5
    until(lambda: (listener.hear(), listener.status[-1].state == "offline")[1])
    shown = service.command("log", str(service.folder / "log" / "log.db"))
    assert "(balanced)" in shown.stdout
    assert "stream secret: 10 frame rows" in shown.stdout
    cloud.stop()
    listener.stop()


def test_an_idle_service_writes_nothing_and_says_its_backlog_and_its_wear(
    service: Process, mosquitto: Mosquitto
) -> None:
    cloud = PretendCloud(mosquitto.port).start()
    listener = Listener(mosquitto.port)
    cloud.mute.set()
    service.environ["FIELDLOOP_UPLINK_RESEND_AFTER_S"] = "0.5"
    record(service.folder / "rec", "one", 5_000)
    service.start()

    def backlog(rows: int) -> bool:
        listener.hear()
        last = listener.reported[-1].backlog if listener.reported else None
        return last is not None and last.rows == rows

    until(lambda: backlog(101))  # frames, and the event that tells of the recording's end
    told = listener.reported[-1].backlog
    assert told is not None
    assert told.bytes > 5_000 * 2 * 4
    assert told.drain_h is None
    cloud.mute.clear()
    until(lambda: backlog(0))
    assert listener.reported[-1].counters["link.spent_bytes"] >= 0
    assert "link.budget_bytes" not in listener.reported[-1].counters
    time.sleep(2)  # the last answers are being written
    assert service.process is not None
    before, files = written(service.process.pid), seen(service.folder / "log")
    said = len(listener.reported)
    time.sleep(4)
    assert written(service.process.pid) == before
    assert seen(service.folder / "log") == files
    listener.hear()
    assert len(listener.reported) <= said + 1, "nothing changed, so nothing is reported"
    metrics = service.get("/metrics")
    for name in ("disk_written_bytes", "disk_written_bytes_per_day", 'backlog{what="rows"}'):
        assert f"fieldloop_{name} " in metrics
    cloud.stop()
    listener.stop()


def written(pid: int) -> int:
    """Bytes that a process caused to be written to storage."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file."""
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_a_kill_is_told_by_the_will_and_nothing_is_lost(
    service: Process, mosquitto: Mosquitto
) -> None:
    cloud = PretendCloud(mosquitto.port).start()
    listener = Listener(mosquitto.port)
    record(service.folder / "rec", "one", 20_000)
    service.start()
    until(lambda: len(cloud.frames) > 20)
    assert service.process is not None
    service.process.kill()
    service.process.communicate()
    until(lambda: (listener.hear(), listener.status and listener.status[-1].state == "offline")[1])
    service.start()
    until(lambda: len(cloud.frames) == 400)
    assert cloud.clashes == []
    assert sum(frame.n for frame in cloud.frames.values()) == 20_000
    cloud.stop()
    listener.stop()


def test_resident_memory_stays_small(service: Process, mosquitto: Mosquitto) -> None:
    cloud = PretendCloud(mosquitto.port).start()
    record(service.folder / "rec", "one", 50_000)
    service.start()
    until(lambda: len(cloud.frames) == 1_000)
    assert service.process is not None
    status = Path(f"/proc/{service.process.pid}/status").read_text(encoding="ascii")
    resident_mib = int(status.split("VmRSS:")[1].split()[0]) / 1024
    maps = Path(f"/proc/{service.process.pid}/maps").read_text(encoding="utf-8")
    assert "numpy" not in maps
    assert resident_mib < 60, "far over the budget; benchmarks hold the exact figure"
    cloud.stop()


def test_wrong_settings_and_profiles_are_refused_with_all_their_faults(
    service: Process, tmp_path: Path
) -> None:
    service.environ["FIELDLOOP_LOGG_PATH"] = "x"
    service.environ["FIELDLOOP_MQTT_PORT"] = "99999"
    service.start()
    assert service.process is not None
    out, _ = service.process.communicate(timeout=30)
    assert service.process.returncode == 78
    assert "FIELDLOOP_LOGG_PATH: no such setting" in out
    assert "FIELDLOOP_MQTT_PORT" in out

    bad = tmp_path / "bad.yaml"
    bad.write_text("streams: []\nsources: [{id: X, kind: y}]\n", encoding="utf-8")
    done = service.command("check", str(bad))
    assert done.returncode == 78
    assert f"{bad}:1: streams" in done.stderr
    assert f"{bad}:2: sources.0.id" in done.stderr
    good = service.command("check", str(service.folder / "p.yaml"))
    assert good.returncode == 0
    assert "MB a month on the link" in good.stdout
    assert service.command("log", str(tmp_path / "none.db")).returncode == 78


def test_help_lists_every_setting(service: Process) -> None:
    text = service.command("--help").stdout
    for name in ("FIELDLOOP_LOG_BYTES_MAX", "FIELDLOOP_UPLINK_BATCH_AGE_S", "FIELDLOOP_PROFILE"):
        assert name in text


def test_a_profile_from_an_order_replaces_the_running_one_and_a_wrong_one_does_not(
    service: Process, mosquitto: Mosquitto
) -> None:
    cloud = PretendCloud(mosquitto.port).start()
    listener = Listener(mosquitto.port)
    ordered = service.folder / "ordered.yaml"
    service.environ["FIELDLOOP_ORDERED_PROFILE"] = str(ordered)

    def order(text: str) -> str:
        (service.folder / "new").write_text(text, "utf-8")
        (service.folder / "new").replace(ordered)
        return hashlib.sha256(text.encode()).hexdigest()

    def heard(what: Callable[[], object]) -> Callable[[], object]:
        return lambda: (listener.hear(), listener.reported and what())[1]

    record(service.folder / "rec", "one", 500)
    service.start()
    until(heard(lambda: listener.reported[-1].streams[0].samples == 500))
    assert listener.reported[-1].profile is None
    text = (service.folder / "p.yaml").read_text("utf-8").replace("rate_hz: 50", "rate_hz: 25.5")
    digest = order(text)
    until(heard(lambda: listener.reported[-1].profile == digest))
    assert {s.rate_hz for s in listener.reported[-1].streams} == {25.5}
    record(service.folder / "rec", "two", 500)
    until(heard(lambda: listener.reported[-1].streams[0].samples == 1_000))

    order(text.replace("kind: replay", "kind: crystal"))

    def refusals() -> list[dict[str, Any]]:
        found = [cast("dict[str, Any]", d) for d in list(cloud.documents.values())]
        return [d["data"] for d in found if d.get("type") == "profile.refused"]

    until(refusals)
    assert "crystal" in refusals()[0]["reason"]
    record(service.folder / "rec", "three", 500)
    until(heard(lambda: listener.reported[-1].streams[0].samples == 1_500))
    assert listener.reported[-1].profile == digest
    assert all(ledger.balanced for ledger in listener.reported[-1].ledgers)
    assert service.stop()[0] == 0
    cloud.stop()
    listener.stop()
