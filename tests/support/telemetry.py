"""What a device sends, and a telemetry service of the tests' own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fieldloop_contract.batch import SequencedFrame, SequencedRow, encode_frames, encode_rows
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.messages import Ack, decode
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_store.engine import Store
from fieldloop_store.rows import LogKey
from fieldloop_telemetry.acks import merge

EPOCH = "ab" * 16
BOOT = "cd" * 16
DIGEST = "ef" * 32
T0_NS = 1_800_000_000 * 10**9
LOG = LogKey("demo", "subject-1", "ingestion", EPOCH)


def frame(seq: int, *, stream: str = "imu", value: float | None = None, n: int = 2) -> Frame:
    """A frame of 2 channels whose content follows from its seq."""
    sample = float(seq) if value is None else value
    return Frame(
        stream=stream,
        t0_ns=T0_NS + seq * 40_000_000,
        mono_ns=seq * 40_000_000,
        boot=BOOT,
        clock=Clock.SYNCHRONISED,
        rate_hz=50.0,
        channels=2,
        samples=array("f", [sample] * (2 * n)).tobytes(),
    )


def frames(seqs: Iterable[int], *, epoch: str = EPOCH, value: float | None = None) -> bytes:
    """A CBOR batch."""
    return encode_frames(epoch, [SequencedFrame(s, frame(s, value=value)) for s in seqs])


def result(seq: int, **changes: Any) -> dict[str, Any]:
    """A result row."""
    return {
        "stream": "imu", "slot": "main", "role": "active", "t0_ns": T0_NS + seq * 10**9,
        "t1_ns": T0_NS + (seq + 1) * 10**9, "epoch": EPOCH, "seq_first": seq, "seq_last": seq,
        "model": {"name": "activity", "version": 1, "digest": DIGEST}, "task": "classification",
        "label": "PEN", "probabilities": {"PEN": 0.75, "ROW": 0.25}, "latency_us": 12.5,
    } | changes  # fmt: skip


def annotation(seq: int, **changes: Any) -> dict[str, Any]:
    """An annotation row of subject-1."""
    return {
        "device": "subject-1", "stream": "imu", "t0_ns": T0_NS + seq, "t1_ns": T0_NS + seq + 10,
        "label": "PEN", "annotator": "anna",
    } | changes  # fmt: skip


def event(seq: int, **changes: Any) -> dict[str, Any]:
    """An event row."""
    return {
        "specversion": "1.0", "id": f"e{seq}", "source": "demo/subject-1/inference",
        "type": "model.activated", "time": "2027-01-15T08:00:00Z", "data": {"n": seq},
    } | changes  # fmt: skip


def rows(items: Iterable[tuple[int, dict[str, Any]]], *, epoch: str = EPOCH) -> bytes:
    """A JSON batch."""
    return encode_rows(epoch, [SequencedRow(seq, row) for seq, row in items])


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for a condition; fails the test when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.02)


class Device:
    """The MQTT side of one device: publishes whatever it is given, collects acknowledgements."""

    def __init__(self, port: int, name: str = "subject-1", *, fleet: str = "demo") -> None:
        self.root = f"fieldloop/v1/{fleet}/{name}"
        self.acked: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self.ack_messages = 0
        settings = MqttSettings(
            port=port, inflight_max=200, reconnect_base_s=0.1, reconnect_cap_s=0.5
        )
        self.session = Session(settings, f"{fleet}-{name}", subscriptions=[f"{self.root}/+/ack"])
        self.session.start()
        wait_until(lambda: self.session.connected)

    def send(self, service: str, channel: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish one message."""
        self.session.publish(f"{self.root}/{service}/{channel}", payload, retain=retain)

    def collect(self) -> None:
        """Take in the acknowledgements that have come."""
        while (received := self.session.poll()) is not None:
            if isinstance(received, Received):
                ack = decode(Ack, received.payload, 1 << 20)
                key = (received.topic.split("/")[4], ack.epoch)
                self.acked[key] = merge([*self.acked.get(key, ()), *ack.ranges])
                self.ack_messages += 1

    def ranges(self, service: str = "ingestion", epoch: str = EPOCH) -> list[tuple[int, int]]:
        """What was acknowledged of one log so far."""
        self.collect()
        return self.acked.get((service, epoch), [])

    def await_ack(
        self, *ranges: tuple[int, int], service: str = "ingestion", epoch: str = EPOCH
    ) -> None:
        """Wait until exactly these ranges are acknowledged."""
        wait_until(lambda: self.ranges(service, epoch) == list(ranges))

    def stop(self) -> None:
        """Disconnect."""
        self.session.stop()


class TelemetryProcess:
    """`python -m fieldloop_telemetry run`, or another script in its place, as a real process."""

    def __init__(self, folder: Path, port: int, url: str, *, script: Path | None = None,
                 **settings: str) -> None:  # fmt: skip
        self._log = folder / "telemetry.log"
        self._arguments = [str(script)] if script else ["-m", "fieldloop_telemetry", "run"]
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
            "FIELDLOOP_MQTT_HOST": "127.0.0.1",
            "FIELDLOOP_MQTT_PORT": str(port),
            "FIELDLOOP_MQTT_RECONNECT_BASE_S": "0.1",
            "FIELDLOOP_MQTT_RECONNECT_CAP_S": "0.5",
            "FIELDLOOP_STORE_URL": url,
            "FIELDLOOP_STORE_BUSY_TIMEOUT_S": "1",
            "FIELDLOOP_COMMIT_RETRY_CAP_S": "0.5",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> TelemetryProcess:
        """Start it and wait until the broker has granted its subscriptions."""
        seen = self.log().count('"broker.connected"')
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._arguments], stdout=log, stderr=log, env=self._environ
            )
        process = self.process
        wait_until(
            lambda: self.log().count('"broker.connected"') > seen or process.poll() is not None, 60
        )
        assert process.poll() is None, self.log()
        return self

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.process = None
        return status


def count(store: Store, table: str) -> int:
    """Rows in a table."""
    with store.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())
