"""A restored store asks the devices for what it lacks, and what they hold comes again."""

from __future__ import annotations

import time
from pathlib import Path

from fieldloop_buffer import (
    Damaged,
    Entry,
    Kind,
    Log,
    LogSettings,
    Uplink,
    UplinkSettings,
    pack_frame,
)
from fieldloop_contract.messages import Ack, Reported, Status, Want
from fieldloop_runtime.settings import MqttSettings
from fieldloop_store.backup import restore, take
from fieldloop_store.engine import Store
from fieldloop_store.ledger import books
from support.broker import Mosquitto
from support.telemetry import Device, TelemetryProcess, count, frame

_WHO = {"fleet": "demo", "device": "subject-1", "service": "ingestion"}


class Edge:
    """A device with a real log and a real uplink; turned by the test."""

    def __init__(self, folder: Path, port: int) -> None:
        path = str(folder / "ingestion.sqlite")
        self.log = Log.open(LogSettings(path=path), **_WHO)
        self.uplink = Uplink(
            UplinkSettings(resend_after_s=1.0, batch_age_s=0.05),
            mqtt=MqttSettings(host="127.0.0.1", port=port, reconnect_base_s=0.1),
            log_path=path,
            **_WHO,
        )
        self.uplink.start()
        self.voice = Device(port)
        self.wanted = 0
        self._seq = 0
        self._told: bytes = b""

    def append(self, n: int) -> None:
        for _ in range(n):
            self._seq += 1
            item = frame(self._seq)
            self.log.append(Entry(Kind.FRAME, "imu", item.t0_ns, pack_frame(item)))
        self.log.commit(force=True)

    def turn(self) -> None:
        for order in self.uplink.take_orders():
            assert not isinstance(order, Damaged)
            if isinstance(order, Ack):
                self.log.acknowledge(order.epoch, order.ranges)
            elif isinstance(order, Want):
                self.wanted += self.log.want(order.epoch, order.ranges)
        self.log.commit()
        told = Reported(session="s", ledgers=self.log.ledgers()).encode()
        if told != self._told:
            self._told = told
            self.voice.send("ingestion", "reported", told, retain=True)

    def until_stored(self, n: int, timeout_s: float = 40.0) -> None:
        end_s = time.monotonic() + timeout_s
        while self.log.ledgers()[-1].stored != n:
            assert time.monotonic() < end_s, self.log.ledgers()
            self.turn()
            time.sleep(0.02)
        self.turn()

    def close(self) -> None:
        self.uplink.stop()
        self.voice.stop()
        self.log.close()


def test_nothing_is_missing_after_yesterdays_backup_is_restored(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    care = {
        "FIELDLOOP_CARE_AUDIT_INTERVAL_S": "0.3",
        "FIELDLOOP_CARE_RECOVER_INTERVAL_S": "0.3",
        "FIELDLOOP_CARE_RECOVER_ROWS_MAX": "300",
    }
    service = TelemetryProcess(tmp_path, mosquitto.port, url, **care).start()
    edge = Edge(tmp_path, mosquitto.port)
    edge.voice.send(
        "ingestion", "status", Status(state="online", session="s").encode(), retain=True
    )
    edge.append(400)
    edge.until_stored(400)
    take(url, tmp_path / "backup", keys=None, now_ns=1)
    edge.append(800)
    edge.until_stored(1200)
    service.kill()
    for path in tmp_path.glob("store.sqlite*"):
        path.unlink()
    restore(tmp_path / "backup", url, keys=None)
    service.start()
    store = Store.open(url)
    assert count(store, "frames") == 400

    end_s = time.monotonic() + 60
    while count(store, "frames") < 1200:
        assert time.monotonic() < end_s, service.log()[-2000:]
        edge.turn()
        time.sleep(0.05)
    edge.until_stored(1200)
    assert edge.wanted == 800
    end_s = time.monotonic() + 10
    while not all(entry.balanced for entry in books(store)):
        assert time.monotonic() < end_s, list(books(store))
        time.sleep(0.1)
    (entry,) = books(store)
    assert entry.held.rows == {"frames": 1200}
    assert '"event": "rows.wanted"' in service.log()
    store.close()
    edge.close()
    service.stop()
