"""The demo's services and devices as processes, and the folders they work in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import FieldloopError
from fieldloop_demo.recordings import CHANNELS, RATE_HZ, UNITS, Recording
from fieldloop_runtime.hosting.processes import Processes

FLEET, STREAM, SLOT, MODEL = "demo", "imu", "main", "activity"
FRAME_SAMPLES = 50


@dataclass(slots=True)
class Device:
    """One device of the fleet: the subject who wears it, its recordings, its drop folder."""

    id: str
    folder: Path
    train: list[Recording]
    held_out: list[Recording]
    dropped: int = 0
    traffic: bool = False
    files: dict[str, str] = field(default_factory=dict)

    def drop(self, purpose: str, recording: Recording) -> str:
        """Put a recording where the ingestion service looks; returns the file's name.

        Written under another name first, so that the service never sees half a file.
        """
        name = f"{self.dropped:05d}-{purpose}-{recording.name}.npz"
        folder = self.folder / "drop"
        folder.mkdir(parents=True, exist_ok=True)
        _write_npz(folder / name, recording.samples)
        self.dropped += 1
        self.files[name] = recording.label
        return name


def _write_npz(path: Path, samples: NDArray[np.float32]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, samples=samples)
    os.replace(part, path)


def profile(speed: float, drop: Path) -> str:
    """The device profile of the ingestion service; YAML is a superset of JSON."""
    document = {
        "streams": [
            {
                "id": STREAM,
                "rate_hz": RATE_HZ,
                "channels": [
                    {"name": name, "unit": unit} for name, unit in zip(CHANNELS, UNITS, strict=True)
                ],
            }
        ],
        "sources": [
            {
                "id": "recordings",
                "kind": "replay",
                "stream": STREAM,
                "path": str(drop),
                "watch": True,
                "speed": speed,
                "frame_samples": FRAME_SAMPLES,
            }
        ],
    }
    return json.dumps(document, indent=2)


class Services:
    """Starts the services with their settings.

    Args:
        root: folder of this run.
        port: of the broker.
        speed: of the replay, in times of real time.
    """

    def __init__(self, root: Path, port: int, speed: float, processes: Processes) -> None:
        self.root = root
        self.store_url = f"sqlite:///{root / 'cloud' / 'store.sqlite'}"
        self._processes = processes
        self._speed = speed
        self._mqtt = {
            "FIELDLOOP_MQTT_HOST": "127.0.0.1",
            "FIELDLOOP_MQTT_PORT": str(port),
            "FIELDLOOP_MQTT_RECONNECT_CAP_S": "3",
        }
        (root / "cloud").mkdir(parents=True, exist_ok=True)

    def _cloud(self) -> dict[str, str]:
        return {"FIELDLOOP_FLEET": FLEET, "FIELDLOOP_STORE_URL": self.store_url}

    def _run(self, name: str, module: str, environ: dict[str, str], *arguments: str) -> None:
        command = [sys.executable, "-m", module, *(arguments or ("run",))]
        self._processes.start(name, command, environ)

    def telemetry(self) -> None:
        """Start telemetry."""
        environ = self._mqtt | {"FIELDLOOP_FLEETS": FLEET, "FIELDLOOP_STORE_URL": self.store_url}
        self._run("telemetry", "fieldloop_telemetry", environ)

    def training(self, recipe_settings: dict[str, object]) -> None:
        """Start training."""
        environ = self._cloud() | {
            "FIELDLOOP_DATASETS_DIR": str(self.root / "cloud" / "datasets"),
            "FIELDLOOP_MODEL": MODEL,
            "FIELDLOOP_RECIPE": "activity_cnn",
            "FIELDLOOP_STREAM": STREAM,
            "FIELDLOOP_MIN_ANNOTATIONS": "20",
            "FIELDLOOP_QUIET_S": "1.5",
            "FIELDLOOP_RECIPE_SETTINGS": json.dumps(recipe_settings),
        }
        self._run("training", "fieldloop_training", environ)

    def delivery(self) -> None:
        """Make the fleet's keys and start delivery."""
        policy = {
            "slots": [
                {
                    "slot": SLOT,
                    "model": MODEL,
                    "streams": {STREAM: STREAM},
                    "devices": ["subject-*"],
                    "waves": [{"count": 1}, {"percent": 100}],
                    "gates": {"windows_min": 20, "quorum": 1.0, "wait_s_max": 180},
                }
            ]
        }
        policy_path = self.root / "cloud" / "policy.json"
        policy_path.write_text(json.dumps(policy, indent=2), encoding="utf-8")
        folder = str(self.root / "cloud" / "delivery")
        _call("keys", "init", "--fleet", FLEET, "--dir", folder)
        root_file = self.root / "cloud" / "root.json"
        root_file.write_bytes(_call("root", "--dir", folder))
        environ = self._mqtt | self._cloud()
        environ |= {"FIELDLOOP_DIR": folder, "FIELDLOOP_POLICY": str(policy_path)}
        self._run("delivery", "fieldloop_delivery", environ)

    def console(self, port: int) -> Path:
        """Start the console; returns the file that will hold the link to its first log-in."""
        link = self.root / "cloud" / "first-link"
        environ = {
            "FIELDLOOP_STORE_URL": self.store_url, "FIELDLOOP_FLEETS": FLEET,
            "FIELDLOOP_PORT": str(port), "FIELDLOOP_FIRST_LINK_FILE": str(link),
        }  # fmt: skip
        self._run("console", "fieldloop_console", environ)
        return link

    def device(self, device: Device) -> None:
        """Start a device's two services, which share nothing but its folder."""
        self.ingestion(device)
        self._run(
            f"{device.id}-inference",
            "fieldloop_inference",
            self._edge(device)
            | {
                "FIELDLOOP_LOG_PATH": str(device.folder / "inference.sqlite"),
                "FIELDLOOP_INPUT_PATH": str(device.folder / "ingestion.sqlite"),
                "FIELDLOOP_UPDATE_DIR": str(device.folder / "update"),
                "FIELDLOOP_ROOT_FILE": str(self.root / "cloud" / "root.json"),
            },
        )

    def ingestion(self, device: Device) -> None:
        """Start a device's ingestion service alone."""
        drop = device.folder / "drop"
        drop.mkdir(parents=True, exist_ok=True)
        profile_path = device.folder / "profile.yaml"
        profile_path.write_text(profile(self._speed, drop), encoding="utf-8")
        environ = self._edge(device) | {
            "FIELDLOOP_LOG_PATH": str(device.folder / "ingestion.sqlite"),
            "FIELDLOOP_PROFILE": str(profile_path),
        }
        self._run(f"{device.id}-ingestion", "fieldloop_ingestion", environ)

    def _edge(self, device: Device) -> dict[str, str]:
        return self._mqtt | {
            "FIELDLOOP_FLEET": FLEET,
            "FIELDLOOP_DEVICE": device.id,
            "FIELDLOOP_TRUST_CLOCK": "true",
        }


def _call(*arguments: str) -> bytes:
    """Run a command of delivery to its end; returns what it prints."""
    command = [sys.executable, "-m", "fieldloop_delivery", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode:
        raise FieldloopError(f"delivery {arguments[0]} failed: {done.stderr.decode()[-500:]}")
    return done.stdout


def choose(
    recordings: list[Recording], first: Sequence[int], later: Sequence[int], folder: Path
) -> list[Device]:
    """One device for each subject: one arm to learn from, the other never seen by any training.

    The first subjects all wear the watch on the right arm, the later ones on the right and the left
    in turn. So the first model has never seen a left arm, and most of what the second one gains is
    just that: it meets the variety that the field has and the first recordings lacked.
    """
    arms = [(subject, "right") for subject in first]
    arms += [(subject, ("right", "left")[index % 2]) for index, subject in enumerate(later)]
    devices: list[Device] = []
    for subject, learnt in arms:
        own = [r for r in recordings if r.subject == subject]
        if not own:
            raise FieldloopError(f"no recordings of subject {subject}", code="demo.subject")
        name = f"subject-{subject}"
        devices.append(
            Device(
                id=name,
                folder=folder / name,
                train=[r for r in own if r.arm == learnt],
                held_out=[r for r in own if r.arm != learnt],
            )
        )
    return devices
