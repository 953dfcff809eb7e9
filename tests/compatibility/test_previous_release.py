"""The edge of the previous release against today's cloud, and the reverse, as real processes.

`RELEASE` names the revision of the last release; it is taken out of the repository's own history.
Where that is not at hand (a shallow clone, an unpacked archive) there is nothing to run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broker import Mosquitto
from support.telemetry import wait_until

ROOT = Path(__file__).resolve().parents[2]
ROWS, SAMPLES = 200, 2_000
_PROFILE = {
    "streams": [{"id": "imu", "rate_hz": 50, "channels": [{"name": "ax", "unit": "g"}]}],
    "sources": [{"id": "rec", "kind": "replay", "stream": "imu", "path": "", "speed": 0,
                 "frame_samples": 50}],
}  # fmt: skip


def environ(tree: Path, port: int, **more: str) -> dict[str, str]:
    """The environment in which Python finds the packages of a tree before the installed ones."""
    sources = sorted(str(p) for p in tree.glob("*/src")) + sorted(
        str(p) for p in tree.glob("*/*/src")
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
    return clean | {
        "PYTHONPATH": os.pathsep.join(sources),
        "FIELDLOOP_MQTT_HOST": "127.0.0.1",
        "FIELDLOOP_MQTT_PORT": str(port),
        "FIELDLOOP_MQTT_RECONNECT_CAP_S": "1",
    } | more  # fmt: skip


class Running:
    """Processes that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, environment: dict[str, str], *command: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=log, stderr=log
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(20)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Processes of one test."""
    found = Running(tmp_path)
    yield found
    found.stop()


@pytest.mark.parametrize("old", ["edge", "cloud"])
def test_the_previous_release_works_with_this_one(
    release: Path, running: Running, mosquitto: Mosquitto, tmp_path: Path, old: str
) -> None:
    edge, cloud = (release, ROOT) if old == "edge" else (ROOT, release)
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    recording = tmp_path / "recording.csv"
    lines = [f"{n / 1000}" for n in range(SAMPLES)]
    recording.write_text("ax\n" + "\n".join(lines) + "\n", encoding="utf-8")
    _PROFILE["sources"][0]["path"] = str(recording)
    (tmp_path / "profile.yaml").write_text(json.dumps(_PROFILE), encoding="utf-8")

    cloud_environ = environ(cloud, mosquitto.port)
    running.start(
        "telemetry", cloud_environ | {"FIELDLOOP_STORE_URL": url},
        "-m", "fieldloop_telemetry", "run",
    )  # fmt: skip
    wait_until(lambda: '"broker.connected"' in running.log("telemetry"), 30)
    edge_environ = environ(edge, mosquitto.port)
    running.start(
        "ingestion",
        edge_environ
        | {
            "FIELDLOOP_FLEET": "demo",
            "FIELDLOOP_DEVICE": "subject-1",
            "FIELDLOOP_TRUST_CLOCK": "true",
            "FIELDLOOP_LOG_PATH": str(tmp_path / "ingestion.sqlite"),
            "FIELDLOOP_PROFILE": str(tmp_path / "profile.yaml"),
        },
        "-m", "fieldloop_ingestion", "run",
    )  # fmt: skip
    script = str(Path(__file__).with_name("results_device.py"))
    running.start(
        "results", edge_environ, script, str(tmp_path / "inference.sqlite"),
        str(mosquitto.port), str(ROWS),
    )  # fmt: skip
    assert running.processes["results"].wait(90) == 0, running.log("results")

    def books() -> dict[tuple[str, str], dict[str, object]]:
        told = subprocess.run(
            [sys.executable, "-m", "fieldloop_telemetry", "ledger", "--store", url, "--json"],
            env=cloud_environ, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return {(log["device"], log["service"]): log for log in json.loads(told.stdout)["logs"]}

    end_s = time.monotonic() + 90
    while True:
        found = books()
        own = found.get(("subject-1", "ingestion"))
        held = own["held"]["rows"].get("frames", 0) if own else 0  # type: ignore[index]
        if own and own["balanced"] and held == SAMPLES // 50 and own["reported"]["pending"] == 0:  # type: ignore[index]
            break
        assert time.monotonic() < end_s, (found, running.log("ingestion"), running.log("telemetry"))
        time.sleep(0.5)
    assert found["subject-1", "inference"]["held"]["rows"] == {"results": ROWS}  # type: ignore[index]


def test_it_is_really_the_code_of_that_release_that_runs(release: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import fieldloop_buffer as b; print(b.__file__)"],
        env=environ(release, 1), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.startswith(str(release))
