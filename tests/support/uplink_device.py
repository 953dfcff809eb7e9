"""A device's log with its uplink, and an owner that does what the uplink asks for."""

from __future__ import annotations

import contextlib
import json
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from fieldloop_buffer import Entry, Kind, Log, LogSettings, Uplink, UplinkSettings, pack_frame
from fieldloop_buffer.entry import BULK
from fieldloop_contract.frames import Clock, Frame
from fieldloop_runtime.link import LinkMeter
from fieldloop_runtime.settings import MqttSettings
from support.cloud import PretendCloud

FAST = UplinkSettings(batch_age_s=0.05, resend_after_s=0.6, resend_cap_s=1.5, batch_rows=50)


class Device:
    """A log with its uplink, and an owner that does what the uplink asks for."""

    def __init__(
        self,
        folder: Path,
        port: int,
        settings: UplinkSettings = FAST,
        meter: LinkMeter | None = None,
    ) -> None:
        self.path = folder / "log.db"
        self.log = Log.open(
            LogSettings(path=str(self.path), mode="balanced", commit_interval_ms=20),
            fleet="demo",
            device="pump-1",
            service="ingestion",
        )
        mqtt = MqttSettings(
            host="127.0.0.1",
            port=port,
            keepalive_s=5,
            reconnect_base_s=0.05,
            reconnect_cap_s=0.3,
            connect_timeout_s=2,
        )
        self.uplink = Uplink(
            settings,
            mqtt=mqtt,
            fleet="demo",
            device="pump-1",
            service="ingestion",
            log_path=str(self.path),
            seed=1,
            meter=meter,
        )
        self.written: set[tuple[str, int]] = set()
        self.number = 0

    def write(self, n: int, *, kind: Kind = Kind.FRAME, withheld: bool = False) -> None:
        for _ in range(n):
            self.number += 1
            if kind in BULK:
                samples = array("f", [self.number + i / 8 for i in range(60)]).tobytes()
                frame = Frame(
                    "imu", self.number, self.number, "a" * 32, Clock.HELD, 50.0, 6, samples
                )
                payload = pack_frame(frame)
            else:
                payload = json.dumps({"n": self.number}).encode()
            seq = self.log.append(Entry(kind, "imu", self.number, payload, withheld))
            if not withheld:
                self.written.add((self.log.epoch, seq))

    def turn(self) -> None:
        self.log.apply(self.uplink.take_orders())
        self.log.commit()
        assert self.uplink.alive

    def run_until(self, done: Callable[[], bool], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            self.turn()
            if time.monotonic() > deadline:
                pytest.fail(f"not in time: {self.uplink.figures}, {self.log.ledgers()}")
            time.sleep(0.01)

    def drained(self) -> bool:
        return sum(ledger.pending for ledger in self.log.ledgers()) == 0

    def close(self) -> None:
        self.uplink.stop(timeout_s=1)
        with contextlib.suppress(Exception):
            self.log.close()


def check(device: Device, cloud: PretendCloud) -> None:
    """Nothing lost, nothing with two contents, and the books balance."""
    assert cloud.keys("ingestion") == device.written
    assert cloud.clashes == []
    assert cloud.refused == 0
    (ledger,) = device.log.ledgers()
    assert ledger.balanced
    assert ledger.stored == len(device.written)
    assert ledger.pending == 0
