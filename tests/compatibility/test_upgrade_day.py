"""Upgrade day: the previous release, this one, and back, with a hundred thousand rows waiting.

Real processes on one log, one broker and one store. While the cloud is out of reach the previous
release fills its log; this release goes on with it, and the previous one again (pinned back). Then
the cloud comes: devices of either release in turn, each killed while it sends what waited, and the
cloud upgraded under way. In the end the store holds every row, each once, and the books balance.
The cloud's own way back ends at its store: the previous release says so and touches nothing.

Long: `make upgrade-day`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compatibility.test_previous_release import ROOT, Running, environ
from fieldloop_buffer.connection import open_reader
from fieldloop_buffer.ledger import Books
from support.broker import Mosquitto

ROWS = int(os.environ.get("FIELDLOOP_ROWS", "100000"))
MORE = 1_000
LIMIT_S = 900.0

pytestmark = [
    pytest.mark.timeout(3_000),
    pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="long: make upgrade-day"),
]


class Site:
    """One device and one cloud, each of either release at any time."""

    def __init__(self, folder: Path, release: Path, broker: Mosquitto, running: Running) -> None:
        self.folder, self.running, self.broker = folder, running, broker
        self.trees = {"old": release, "new": ROOT}
        self.url = f"sqlite:///{folder / 'store.sqlite'}"
        self.log = folder / "log" / "ingestion.sqlite"
        (folder / "drop").mkdir()
        source = {"id": "rec", "kind": "replay", "stream": "imu", "path": str(folder / "drop")}
        profile = {
            "streams": [{"id": "imu", "rate_hz": 50, "channels": [{"name": "ax", "unit": "g"}]}],
            "sources": [{**source, "watch": True, "speed": 0, "frame_samples": 1}],
        }
        (folder / "profile.yaml").write_text(json.dumps(profile), "utf-8")
        self._made = 0

    def record(self, rows: int) -> None:
        """A recording that makes so many rows, and two events."""
        self._made += 1
        lines = "\n".join(f"{n % 1000 / 1000}" for n in range(rows))
        hidden = self.folder / "drop" / f".{self._made:03}.csv"
        hidden.write_text(f"ax\n{lines}\n", "utf-8")
        hidden.rename(self.folder / "drop" / f"{self._made:03}.csv")

    def device(self, which: str, port: int) -> None:
        settings = {
            "FIELDLOOP_FLEET": "demo",
            "FIELDLOOP_DEVICE": "pump-1",
            "FIELDLOOP_TRUST_CLOCK": "true",
            "FIELDLOOP_LOG_PATH": str(self.log),
            "FIELDLOOP_PROFILE": str(self.folder / "profile.yaml"),
        }
        environment = environ(self.trees[which], port, **settings)
        self.running.start("ingestion", environment, "-m", "fieldloop_ingestion", "run")

    def cloud(self, which: str) -> None:
        environment = environ(self.trees[which], self.broker.port, FIELDLOOP_STORE_URL=self.url)
        self.running.start("telemetry", environment, "-m", "fieldloop_telemetry", "run")

    def end(self, name: str, *, kill: bool = False) -> None:
        process = self.running.processes.pop(name)
        process.kill() if kill else process.terminate()
        assert process.wait(60) == (-9 if kill else 0), self.running.log(name)

    def totals(self) -> tuple[int, int]:
        """Rows produced and pending, by the log itself."""
        try:
            db = open_reader(str(self.log))
        except sqlite3.Error:
            return 0, 0
        try:
            totals = [account.totals() for account in Books(db).accounts.values()]
        except sqlite3.Error:
            return 0, 0
        finally:
            db.close()
        return sum(t.produced for t in totals), sum(t.pending for t in totals)

    def wait(self, what: str, rows: int, *, pending_below: int | None = None) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            produced, pending = self.totals()
            if produced >= rows and (pending_below is None or pending < pending_below):
                sys.stdout.write(f"{what}: {produced} rows produced, {pending} pending\n")
                return
            for name, process in self.running.processes.items():
                assert process.poll() is None, self.running.log(name)[-3_000:]
            assert time.monotonic() < deadline, (what, produced, pending)
            time.sleep(0.5)

    def ledger(self, which: str) -> dict[str, object]:
        told = subprocess.run(
            [sys.executable, "-m", "fieldloop_telemetry", "ledger", "--store", self.url, "--json"],
            env=environ(self.trees[which], self.broker.port), capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        document: dict[str, object] = json.loads(told.stdout)
        return document


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path)
    yield found
    found.stop()


def test_nothing_is_lost_from_one_release_to_the_next_and_back(
    release: Path, running: Running, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    site = Site(tmp_path, release, mosquitto, running)
    site.record(ROWS)
    made = ROWS
    for which in ("old", "new", "old"):  # nobody listens at port 1
        site.device(which, 1)
        site.wait(f"{which}, no cloud", made)
        site.end("ingestion", kill=which == "new")
        site.record(MORE)
        made += MORE
    waiting = site.totals()[1]
    assert waiting >= ROWS

    turns = [("old", "old"), ("old", "new"), ("new", "new"), ("new", "old"), ("new", "new")]
    for turn, (cloud, device) in enumerate(turns, 1):
        site.cloud(cloud)
        site.device(device, mosquitto.port)
        left = waiting * (len(turns) - turn) // len(turns)
        what = f"cloud {cloud}, device {device}, draining"
        site.wait(what, made, pending_below=max(left, 1))
        site.end("ingestion", kill=left > 0)
        site.end("telemetry", kill=left > 0)
    site.cloud("old")
    assert running.processes.pop("telemetry").wait(60) == 78
    assert "which this release does not know" in running.log("telemetry")

    document = site.ledger("new")
    [log] = document["logs"]  # type: ignore[misc]
    produced, pending = site.totals()
    assert document["balanced"]
    assert pending == 0
    assert log["held"]["rows"]["frames"] == made
    assert log["held"]["distinct"] == produced, "each row once, and every row"
    sys.stdout.write(f"stored {produced} of {produced} rows, lost 0, doubled 0\n")
