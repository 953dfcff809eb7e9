"""An inference device without MQTT: a log to write, a service to turn, results to read."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fieldloop_buffer import Chunk, Cursor, Entry, Kind, Log, LogSettings, Reader, pack_frame
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import Manifest
from fieldloop_inference.service import Inference
from fieldloop_inference.settings import InferenceSettings
from fieldloop_inference.slots import Phase
from fieldloop_inference.trial import Verdict, try_model
from fieldloop_inference.trials import Trial
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.journal import Journal
from support.bundles import FolderSource
from support.models import RATE_HZ, WINDOW

HOP = WINDOW // 2
FLEET, DEVICE = "demo", "subject-1"


@functools.cache
def _empty_log(service: str) -> Path:
    """An empty log to copy; making one starts a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fieldloop-empty-log-"))
    path = folder / "log.sqlite"
    Log.open(LogSettings(path=str(path)), fleet=FLEET, device=DEVICE, service=service).close()
    return path


class InstantTrial:
    """A trial in this very process, for tests that are about something else."""

    def __init__(
        self,
        manifest: Manifest,
        folder: str,
        *,
        runtime: str,
        threads: int,
        delegate: str,
        now_s: float,
    ) -> None:
        files = {name: (Path(folder) / name).read_bytes() for name in manifest.files}
        self._verdict = try_model(manifest, files, runtime, threads)

    def poll(self, now_s: float) -> Verdict:
        return self._verdict

    def stop(self) -> None:
        pass


class Drip(Reader):
    """A reader that gets a few rows in each turn, as from a sensor, however many there are."""

    rows_per_turn = 2
    allowed = 0

    def read(self, cursor: Cursor | None, **arguments: Any) -> Chunk:
        limit = min(arguments.pop("limit", 500), self.allowed)
        if limit == 0:
            return Chunk([], cursor)
        chunk = super().read(cursor, limit=limit, **arguments)
        self.allowed -= len(chunk.rows)
        return chunk


class Bench:
    """One device. Close it, open it again, kill it."""

    reader_type: type[Reader] = Reader
    boot = ""

    def __init__(self, folder: Path, *, begin_trial: Callable[..., Any] = Trial) -> None:
        self.folder = folder
        self.begin_trial = begin_trial
        for service in ("ingestion", "inference"):
            shutil.copy(_empty_log(service), folder / f"{service}.sqlite")
        self.input = Log.open(
            LogSettings(path=str(folder / "ingestion.sqlite")),
            fleet=FLEET,
            device=DEVICE,
            service="ingestion",
        )
        self.source = FolderSource(folder / "models")

    def open(self, **changes: Any) -> Bench:
        values: dict[str, Any] = {
            "fleet": FLEET,
            "device": DEVICE,
            "log": {"path": str(self.folder / "inference.sqlite")},
            "input_path": str(self.folder / "ingestion.sqlite"),
            "root_file": "-",
            "update": {"dir": str(self.folder / "models")},
            **changes,
        }
        settings = InferenceSettings.model_validate(values)
        self.log = Log.open(
            settings.log, fleet=FLEET, device=DEVICE, service="inference", boot=self.boot
        )
        self.reader = self.reader_type(settings.input_path)
        self.service = Inference(
            settings,
            source=self.source,
            log=self.log,
            reader=self.reader,
            clock=SystemClock(trusted=True),
            journal=Journal("test"),
            begin_trial=self.begin_trial,
        )
        self.service.start()
        return self

    def close(self, *, cleanly: bool = True) -> None:
        """End the service; not cleanly: without its saying so to its slots."""
        if cleanly:
            self.service.stop()
        self.reader.close()
        self.log.close()

    def put(self, items: list[Frame]) -> None:
        """Write frames as the ingestion service does."""
        for item in items:
            self.input.append(Entry(Kind.FRAME, item.stream, item.t0_ns, pack_frame(item)))
        self.input.commit(force=True)

    def turn(self) -> int:
        if isinstance(self.reader, Drip):
            self.reader.allowed = Drip.rows_per_turn
        return self.service.turn(time.monotonic())

    def until(self, phase: Phase, timeout_s: float = 60.0) -> None:
        """Turn until the slot is in `phase`."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            self.turn()
            if "main" in self.service.slots and self.slot.slot.phase is phase:
                return
            time.sleep(0.002)
        raise AssertionError(f"{self.slot.slot} is not {phase}")

    def idle(self) -> None:
        """Turn until nothing waits."""
        while self.turn():
            pass

    @property
    def slot(self) -> Any:
        return self.service.slots["main"]

    def rows(self, kind: Kind) -> list[dict[str, Any]]:
        """What the service's log holds."""
        self.log.commit(force=True)
        return stored(self.folder / "inference.sqlite", kind)

    def results(self, role: str = "active") -> list[dict[str, Any]]:
        return [r for r in self.rows(Kind.RESULT) if r["role"] == role]

    def events(self) -> list[str]:
        return [e["type"] for e in self.rows(Kind.EVENT) if e["type"].startswith("model.")]

    def starts(self) -> list[int]:
        """Window starts in samples, in the order of the results."""
        return [round((r["t0_ns"] - 10**18) * RATE_HZ / 1e9) for r in self.results()]


def stored(path: Path, kind: Kind) -> list[dict[str, Any]]:
    """All rows of a kind in a log, in order."""
    reader = Reader(str(path))
    rows: list[dict[str, Any]] = []
    cursor = None
    while True:
        chunk = reader.read(cursor, kinds=(kind,), limit=100_000)
        if chunk.cursor == cursor:
            break
        rows += [json.loads(row.payload) for row in chunk.rows]
        cursor = chunk.cursor
    reader.close()
    return rows


def every_window(count: int) -> list[int]:
    """Starts of all windows of `count` frames of 16 samples."""
    return [HOP * i for i in range(count - 1)]
