"""A fault storm: devices send numbered rows while everything around them is killed.

Duplicated and reordered deliveries, telemetry killed by SIGKILL, the broker killed with all it
held, the database killed (PostgreSQL). At the end each row must be in the store exactly once with
the content it was sent with, and the books must balance.

    python tests/crash/telemetry/storm.py --rows 1000000 --devices 8 --seed 7
    python tests/crash/telemetry/storm.py --rows 1000000 --store postgresql --replicas 3

Prints one JSON document; exit status 0 only if nothing is missing, doubled or changed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.messages import LedgerTotals, Reported
from fieldloop_store.engine import Store
from fieldloop_store.ledger import books
from fieldloop_store.queries import frames_between
from support.broker import Mosquitto
from support.postgres import Postgres
from support.telemetry import EPOCH, Device, TelemetryProcess, frame, frames

_RESEND_S = 2.0
_WINDOW = 12
_TIMEOUT_S = 1_800.0


@dataclass
class Sender:
    """A device that keeps sending each batch until it is acknowledged, badly ordered and twice."""

    device: Device
    total: int
    batch_rows: int
    chooser: random.Random
    in_flight: dict[int, float] = field(default_factory=dict)
    next_seq: int = 1
    sent: int = 0

    def covered(self, seq: int) -> bool:
        return any(first <= seq <= last for first, last in self.device.ranges())

    @property
    def done(self) -> bool:
        return self.device.ranges() == [(1, self.total)]

    def pump(self, now_s: float) -> None:
        known = self.device.ranges()
        for first in [f for f in self.in_flight if _holds(known, f, self._last(f))]:
            del self.in_flight[first]
        while len(self.in_flight) < _WINDOW and self.next_seq <= self.total:
            self.in_flight[self.next_seq] = float("-inf")
            self.next_seq += self.batch_rows
        due = [f for f, at in self.in_flight.items() if now_s - at > _RESEND_S]
        self.chooser.shuffle(due)
        for first in due:
            self._send(first, now_s)
            if self.chooser.random() < 0.2:
                self._send(first, now_s)
        if self.next_seq > 1 and self.chooser.random() < 0.02:
            old = 1 + self.batch_rows * self.chooser.randrange(
                (self.next_seq - 1) // self.batch_rows
            )
            self._send(old, now_s)

    def report(self) -> None:
        """Publish the books, as a device does."""
        totals = LedgerTotals(
            epoch=EPOCH, produced=self.total, stored=self.total, pending=0, withheld=0
        )
        message = Reported(session="storm", ledgers=[totals])
        self.device.send("ingestion", "reported", message.encode(), retain=True)

    def _last(self, first: int) -> int:
        return min(first + self.batch_rows - 1, self.total)

    def _send(self, first: int, now_s: float) -> None:
        try:
            self.device.send("ingestion", "frames", frames(range(first, self._last(first) + 1)))
        except RetryLater:
            return
        self.sent += 1
        if first in self.in_flight:
            self.in_flight[first] = now_s


def _holds(ranges: list[tuple[int, int]], first: int, last: int) -> bool:
    return any(a <= first and last <= b for a, b in ranges)


def storm(
    folder: Path,
    *,
    rows: int,
    devices: int,
    store: str,
    replicas: int,
    kills: int,
    seed: int,
    batch_rows: int = 250,
) -> dict[str, object]:
    """Run one storm; returns what was found."""
    chooser = random.Random(seed)
    broker = Mosquitto(folder / "broker").start()
    cluster = Postgres().start() if store == "postgresql" else None
    url = cluster.new_database() if cluster else f"sqlite:///{folder / 'store.sqlite'}"
    services = []
    share = {"FIELDLOOP_SHARE": "t", "FIELDLOOP_MQTT_PROTOCOL": "5"} if replicas > 1 else {}
    for at in range(replicas):
        (folder / f"telemetry-{at}").mkdir()
        services.append(
            TelemetryProcess(folder / f"telemetry-{at}", broker.port, url, **share).start()
        )
    per_device = rows // devices
    senders = [
        Sender(Device(broker.port, f"device-{n}"), per_device, batch_rows, random.Random(seed + n))
        for n in range(devices)
    ]
    begun_s = time.monotonic()
    # A kill is due each time so many more rows are acknowledged: the storm lasts to the end.
    killed = {"telemetry": 0, "broker": 0, "database": 0}
    try:
        while not all(sender.done for sender in senders):
            now_s = time.monotonic()
            if now_s - begun_s > _TIMEOUT_S:
                break
            for sender in senders:
                sender.pump(now_s)
            acked = sum(b - a + 1 for s in senders for a, b in s.device.ranges())
            if sum(killed.values()) < kills * acked // rows:
                victims = ["telemetry", "telemetry", "broker"] + ["database"] * bool(cluster)
                victim = chooser.choice(victims)
                killed[victim] += 1
                if victim == "telemetry":
                    service = chooser.choice(services)
                    service.kill()
                    service.start()
                elif victim == "broker":
                    broker.kill()
                    broker.start()
                elif cluster is not None:
                    cluster.kill()
                    cluster.start()
            time.sleep(0.005)
        seconds = time.monotonic() - begun_s
        return _verify(url, senders) | {
            "rows": per_device * devices,
            "batches_sent": sum(sender.sent for sender in senders),
            "batches_needed": devices * -(-per_device // batch_rows),
            "killed": killed,
            "seconds": round(seconds, 1),
            "rows_per_s": round(per_device * devices / seconds),
            "seed": seed,
        }
    finally:
        for sender in senders:
            sender.device.stop()
        for service in services:
            service.kill()
        broker.kill()
        if cluster is not None:
            cluster.remove()


def _verify(url: str, senders: list[Sender]) -> dict[str, object]:
    """Compare the store, row by row, with what was sent."""
    opened = Store.open(url)
    missing = doubled = changed = disordered = 0
    try:
        for at, sender in enumerate(senders):
            seen: set[int] = set()
            last = 0
            found = frames_between(
                opened, "demo", device=f"device-{at}", stream="imu", page_rows=5_000
            )
            for row in found:
                doubled += row.seq in seen
                disordered += row.seq < last
                changed += row.frame != frame(row.seq)
                seen.add(row.seq)
                last = row.seq
            missing += sender.total - len(seen)
            while not sender.device.session.connected:
                time.sleep(0.05)
            sender.report()
        verdict = False
        for _ in range(100):
            entries = list(books(opened, fleet="demo"))
            verdict = len(entries) == len(senders) and all(entry.balanced for entry in entries)
            if verdict:
                break
            time.sleep(0.2)
    finally:
        opened.close()
    return {
        "missing": missing,
        "doubled": doubled,
        "changed": changed,
        "disordered": disordered,
        "balanced": verdict,
    }


def clean(found: dict[str, object]) -> bool:
    """Whether a storm did no harm."""
    faults = ("missing", "doubled", "changed", "disordered")
    return found["balanced"] is True and all(found[name] == 0 for name in faults)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(prefix="fieldloop-storm-") as folder:
        found = storm(Path(folder), **arguments)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if clean(found) else 1


if __name__ == "__main__":
    sys.exit(main())
