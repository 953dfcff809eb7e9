"""A whole small fleet: broker, telemetry, delivery, and devices that really infer, as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from fieldloop_buffer import Entry, Kind, Log, LogSettings, pack_frame
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import MODEL_FILE
from fieldloop_contract.messages import ModelRef, Reported, from_object
from fieldloop_scoring.runners import Runner, open_runner
from fieldloop_store.queries import device_services
from fieldloop_store.registry import register_model
from fieldloop_store.schema import annotations
from support.broker import Mosquitto
from support.bundles import STREAM, frames, make_bundle
from support.delivering import DeliveryProcess, wait_for
from support.models import LABELS, WINDOW, model
from support.signed import FLEET
from support.telemetry import TelemetryProcess

HOP = WINDOW // 2
FRAMES_MAX = 12_000


class RealDevice:
    """An inference process, and an ingestion log that a thread of the fleet feeds."""

    def __init__(self, folder: Path, name: str, port: int, root: Path, seed: int) -> None:
        folder.mkdir(parents=True)
        self.name = name
        self.folder = folder
        self._input: Log | None = None
        self.frames = frames(FRAMES_MAX, seed=seed)
        self.fed = 0
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
            "FIELDLOOP_FLEET": FLEET,
            "FIELDLOOP_DEVICE": name,
            "FIELDLOOP_MQTT_HOST": "127.0.0.1",
            "FIELDLOOP_MQTT_PORT": str(port),
            "FIELDLOOP_MQTT_RECONNECT_BASE_S": "0.1",
            "FIELDLOOP_MQTT_RECONNECT_CAP_S": "0.5",
            "FIELDLOOP_LOG_PATH": str(folder / "inference.sqlite"),
            "FIELDLOOP_INPUT_PATH": str(folder / "ingestion.sqlite"),
            "FIELDLOOP_UPDATE_DIR": str(folder / "models"),
            "FIELDLOOP_ROOT_FILE": str(root),
            "FIELDLOOP_TRUST_CLOCK": "true",
            "FIELDLOOP_SHADOW_WINDOWS": "5",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> RealDevice:
        with (self.folder / "inference.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fieldloop_inference", "run"],
                env=self._environ, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def feed(self, count: int) -> list[Frame]:
        """Write the next frames as the ingestion service does. The feeding thread only."""
        if self._input is None:
            path = str(self.folder / "ingestion.sqlite")
            self._input = Log.open(
                LogSettings(path=path), fleet=FLEET, device=self.name, service="ingestion"
            )
        some = self.frames[self.fed : self.fed + count]
        for item in some:
            self._input.append(Entry(Kind.FRAME, item.stream, item.t0_ns, pack_frame(item)))
        self._input.commit(force=True)
        self.fed += len(some)
        return some

    def end_feeding(self) -> None:
        if self._input is not None:
            self._input.close()

    def crash(self) -> None:
        """Die as of a fault, and be started again, as a supervisor does."""
        self.close()
        self.start()

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class RealFleet:
    """All of it; `close` ends every process."""

    def __init__(self, folder: Path, names: list[str], slot: dict[str, Any]) -> None:
        self.broker = Mosquitto(folder / "broker").start()
        slots = [{"model": "activity", "streams": {STREAM: STREAM}, **slot}]
        self.delivery = DeliveryProcess(folder / "delivery", self.broker.port, slots=slots)
        self.telemetry = TelemetryProcess(
            folder, self.broker.port, self.delivery.url, FIELDLOOP_FLEETS=FLEET
        )
        self.store = self.delivery.store
        self.devices = {
            name: RealDevice(folder / name, name, self.broker.port, self.delivery.root, seed)
            for seed, name in enumerate(names)
        }
        self.pause_s = 0.25
        self._seq = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def start(self) -> RealFleet:
        self.telemetry.start()
        self.delivery.start()
        for device in self.devices.values():
            device.start()
        self._thread.start()
        return self

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        for device in self.devices.values():
            device.close()
        self.delivery.close()
        self.telemetry.kill()
        self.broker.kill()

    def _feed(self) -> None:
        """Two frames for every device, and their labels, again and again."""
        truth = open_runner(model("good"))
        while not self._stop.is_set():
            for device in self.devices.values():
                self._label(truth, device, device.fed, len(device.feed(2)))
            self._stop.wait(self.pause_s)
        for device in self.devices.values():
            device.end_feeding()

    def _label(self, truth: Runner, device: RealDevice, first: int, count: int) -> None:
        """What the first model says of a window is the truth here."""
        rows = []
        for i in range(max(1, first), first + count):
            pair = device.frames[i - 1 : i + 1]
            window = np.concatenate(
                [np.frombuffer(f.samples, "<f4").reshape(-1, f.channels) for f in pair]
            )
            (said,) = truth.run([window[None]])
            self._seq += 1
            rows.append(
                {
                    "fleet": FLEET, "device": "desk", "service": "labels", "epoch": "cd" * 16,
                    "seq": self._seq, "about_device": device.name, "stream": STREAM,
                    "t0_ns": pair[0].t0_ns, "t1_ns": pair[0].t0_ns + 650_000_000,
                    "label": LABELS[int(np.argmax(said))], "annotator": "truth", "confidence": 1.0,
                    "digest": b"12345678", "received_ns": time.time_ns(),
                }
            )  # fmt: skip
        if rows:
            with self.store.begin() as connection:
                connection.execute(insert(annotations), rows)

    def release(self, name: str, version: int, **changes: Any) -> ModelRef:
        """Register one of the test models as an approved version."""
        limits = {"probation_windows": 5, "latency_ms_max": 60_000, **changes.pop("limits", {})}
        manifest, files = make_bundle(name, version=version, limits=limits, **changes)
        assert MODEL_FILE in files
        register_model(
            self.store, fleet=FLEET, manifest=manifest, files=files, run=None, metrics={},
            state="approved", now_ns=time.time_ns(),
        )  # fmt: skip
        return manifest.ref()

    def active(self) -> dict[str, int]:
        """The version that each device reports to serve with."""
        found = {}
        for row in device_services(self.store, FLEET, service="inference"):
            if row.reported is not None:
                for slot in from_object(Reported, row.reported).slots:
                    if slot.active is not None:
                        found[row.device] = slot.active.version
        return found

    def all_on(self, version: int, timeout_s: float = 120.0) -> None:
        wanted = dict.fromkeys(self.devices, version)
        wait_for(lambda: self.active() == wanted, timeout_s, f"all on {version}: {self.active()}")
