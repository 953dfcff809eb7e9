"""The whole system in containers on one machine: `python -m fieldloop_demo.stack up`.

The cloud is `cloud/docker-compose.yml` as it stands; each device is a compose project of its own on
`docker-compose.yml`, the very file that balena builds, with `demo/compose.device.yml` over it. What
a person would do is done by command: a token for each device, recordings into its volume, labels
into the store; nothing reaches around the services. One thread; needs docker with compose 2.24.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import typer

from fieldloop_contract.errors import FieldloopError, FixConfiguration, RetryLater
from fieldloop_demo.recordings import CHANNELS, RATE_HZ, UNITS, Recording, load

FLEET, MODEL, STREAM, SLOT = "demo", "activity", "imu", "main"
CLOUD = "fieldloop-cloud"
TREE = Path(__file__).resolve().parents[3]
IMAGES = {
    "fieldloop-agent": "edge/agent/Dockerfile",
    "fieldloop-ingestion": "edge/ingestion/Dockerfile",
    "fieldloop-inference": "edge/inference/Dockerfile",
    "fieldloop-local-broker": "firmware-config/broker/Dockerfile",
    "fieldloop-identity": "cloud/identity/Dockerfile",
    "fieldloop-telemetry": "cloud/telemetry/Dockerfile",
    "fieldloop-training": "cloud/training/Dockerfile",
    "fieldloop-delivery": "cloud/delivery/Dockerfile",
    "fieldloop-machines": "cloud/machines/Dockerfile",
    "fieldloop-console": "cloud/console/Dockerfile",
    "fieldloop-broker": "cloud/broker/Dockerfile",
}
_COMMAND_S = 300.0
_BUILD_S = 3_600.0
_EVENTS = """
import json, os
from fieldloop_store.engine import Store
from fieldloop_store.queries import events_since
store, cursor = Store.open(os.environ["FIELDLOOP_STORE_URL"], create=False), None
while page := events_since(store, "FLEET", cursor, limit=500):
    for event in page:
        cursor = event.cursor
        print(json.dumps({"device": event.log.device, "type": event.type, "data": event.data}))
"""


@dataclass(slots=True)
class Stack:
    """The cloud and its devices, by docker.

    Attributes:
        folder: configuration of this run.
        speed: of the replay, in times of real time.
        settings: environment for the compose files, beside what docker needs.
    """

    folder: Path
    speed: float = 40.0
    settings: dict[str, str] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    dropped: dict[tuple[str, str], str] = field(default_factory=dict)

    def build(self) -> None:
        """Build all images; what did not change comes from docker's cache."""
        for tag, dockerfile in IMAGES.items():
            self.docker("build", "-q", "-f", dockerfile, "-t", tag, ".", timeout_s=_BUILD_S)

    def start_cloud(self) -> None:
        """Start the cloud and wait until devices can enrol."""
        profiles = self.folder / "config" / "profiles"
        profiles.mkdir(parents=True, exist_ok=True)
        (self.folder / "config" / "policy.yaml").write_text(json.dumps(_policy()), "utf-8")
        (profiles / "default.yaml").write_text(json.dumps(_profile(self.speed)), "utf-8")
        self.cloud("up", "-d", "--no-build", timeout_s=_COMMAND_S)
        wait("tokens", lambda: self.provision("probe"), 120)

    def start_device(self, device: str) -> None:
        """Give a device a token and start its containers."""
        token = self.provision(device)
        if device not in self.devices:
            self.devices.append(device)
        environ = {"ENROLMENT_URL": "https://identity:8443", "ENROLMENT_TOKEN": token}
        self.device(device, "up", "-d", "--no-build", environ=environ)

    def drop(self, device: str, recording: Recording, *, name: str = "") -> str:
        """Put a recording where the device's ingestion looks; returns the file's name."""
        name = name or f"{len(self.dropped):05d}-{recording.name}.csv"
        text = io.StringIO()
        text.write(",".join(CHANNELS) + "\n")
        for row in recording.samples.tolist():
            text.write(",".join(f"{value:.7g}" for value in row) + "\n")
        write = f"cat > /data/drop/.{name} && mv /data/drop/.{name} /data/drop/{name}"
        arguments = ("exec", "-T", "agent", "sh", "-c", write)
        self.device(device, *arguments, given=text.getvalue().encode())
        self.dropped[device, name] = recording.label
        return name

    def played(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Recordings that were replayed and stored: their span of time, by device and file."""
        return {
            (event["device"], event["data"]["file"]): event["data"]
            for event in self.events()
            if event["type"] == "replay.finished"
        }

    def events(self) -> list[dict[str, Any]]:
        """Every event that is stored: device, type and data, oldest first."""
        script = _EVENTS.replace("FLEET", FLEET)
        lines = self.cloud("exec", "-T", "telemetry", "python", "-c", script).splitlines()
        return [json.loads(line) for line in lines]

    def push_profile(self, speed: float) -> str:
        """Have delivery order a profile with another speed of replay; returns its digest."""
        text = json.dumps(_profile(speed))
        new = self.folder / "config" / "profiles" / ".default.yaml.new"
        new.write_text(text, "utf-8")
        new.replace(new.with_name("default.yaml"))
        return hashlib.sha256(text.encode()).hexdigest()

    def label(self, played: dict[tuple[str, str], dict[str, Any]]) -> int:
        """Import the truth of recordings as labels; returns how many."""
        rows = ["device,stream,t0_ns,t1_ns,label"]
        for (device, file), data in sorted(played.items()):
            if (device, file) in self.dropped:
                truth = self.dropped[device, file]
                rows.append(f"{device},{STREAM},{data['t0_ns']},{data['t1_ns']},{truth}")
        script = (
            "cat > /tmp/labels.csv && python -m fieldloop_telemetry labels import /tmp/labels.csv"
            f' --store "$FIELDLOOP_STORE_URL" --fleet {FLEET} --actor demo --annotator truth'
        )
        given = ("\n".join(rows) + "\n").encode()
        self.cloud("exec", "-T", "telemetry", "sh", "-c", script, given=given)
        return len(rows) - 1

    def training(self) -> dict[str, Any]:
        """Runs and models, as `fieldloop-training status` says."""
        command = ("python", "-m", "fieldloop_training", "status")
        return dict(json.loads(self.cloud("exec", "-T", "training", *command)))

    def books(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether all books balance, and each log's."""
        script = (
            'python -m fieldloop_telemetry ledger --store "$FIELDLOOP_STORE_URL"'
            f" --fleet {FLEET} --json || true"
        )
        document = json.loads(self.cloud("exec", "-T", "telemetry", "sh", "-c", script))
        return bool(document["balanced"]), list(document["logs"])

    def findings(self, device: str) -> list[dict[str, Any]]:
        """What the device's own doctor says."""
        script = "python -m fieldloop_agent doctor --json || true"
        return list(json.loads(self.device(device, "exec", "-T", "agent", "sh", "-c", script)))

    def unwell(self) -> dict[str, str]:
        """Containers that are not running and healthy, by name."""
        form = ("ps", "-a", "--format", "json")
        lines = self.cloud(*form).splitlines()
        for device in self.devices:
            lines += self.device(device, *form).splitlines()
        found = [json.loads(line) for line in lines]
        return {
            c["Name"]: f"{c['State']} {c['Health']}"
            for c in found
            if c["Service"] != "delivery-keys"
            and (c["State"], c["Health"]) != ("running", "healthy")
        }

    def kill(self, project: str, service: str) -> None:
        """SIGKILL a service's container and start it again, as a power cut would."""
        compose = self.cloud if project == CLOUD else lambda *a: self.device(project, *a)
        compose("kill", "-s", "KILL", service)
        compose("start", service)

    def limit(self, device: str, service: str, *, cpus: float, memory_mib: int) -> None:
        """Give a device's container a share of a core and so much memory, without swap."""
        found = self.device(device, "ps", "-q", service).split()
        memory = f"{memory_mib}m"
        limits = ("--cpus", f"{cpus:g}", "--memory", memory, "--memory-swap", memory)
        self.docker("update", *limits, *found)

    def stop(self) -> None:
        """Remove all containers, networks and volumes."""
        for device in self.devices:
            self.device(device, "down", "-v", "-t", "5")
        self.cloud("down", "-v", "-t", "5")

    def cloud(
        self, *arguments: str, given: bytes | None = None, timeout_s: float = _COMMAND_S
    ) -> str:
        """`docker compose` on the cloud's project."""
        files = ("-f", str(TREE / "cloud" / "docker-compose.yml"), "-p", CLOUD)
        return self.docker("compose", *files, *arguments, given=given, timeout_s=timeout_s)

    def device(
        self,
        device: str,
        *arguments: str,
        given: bytes | None = None,
        environ: dict[str, str] | None = None,
    ) -> str:
        """`docker compose` on a device's project."""
        base, over = TREE / "docker-compose.yml", TREE / "demo" / "compose.device.yml"
        files = ("-f", str(base), "-f", str(over), "-p", device)
        return self.docker("compose", *files, *arguments, given=given, environ=environ)

    def docker(
        self,
        *arguments: str,
        given: bytes | None = None,
        environ: dict[str, str] | None = None,
        timeout_s: float = _COMMAND_S,
    ) -> str:
        """One docker command; FieldloopError with what it said where it fails."""
        settings = {
            "FIELDLOOP_CONFIG_DIR": str((self.folder / "config").resolve()),
            "FIELDLOOP_FLEET": FLEET,
            "FIELDLOOP_PUBLIC_HOST": "broker",
            "FIELDLOOP_QUIET_S": "2",
            **self.settings,
            **(environ or {}),
        }
        try:
            done = subprocess.run(
                ["docker", *arguments],
                input=given,
                stdin=None if given is not None else subprocess.DEVNULL,
                capture_output=True,
                check=False,
                cwd=TREE,
                env={**os.environ, **settings},
                timeout=timeout_s,
            )
        except FileNotFoundError as error:
            raise FixConfiguration("docker is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise RetryLater(f"docker {arguments[0]} did not end in {timeout_s:.0f} s") from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode("utf-8", "replace")[-1500:]
            raise FieldloopError(f"docker {' '.join(arguments[:8])} failed: {said}")
        return done.stdout.decode("utf-8", "replace")

    def provision(self, device: str) -> str:
        """A one-time token for a device."""
        command = ("python", "-m", "fieldloop_identity", "provision", device)
        return self.cloud("exec", "-T", "identity", *command).strip()


def wait(what: str, ready: Callable[[], object], limit_s: float = 180.0) -> None:
    """Wait until `ready` returns something true; a command that fails is not ready yet.

    Raises:
        FieldloopError: after `limit_s`, with what the last command said.
    """
    deadline = time.monotonic() + limit_s
    said = ""
    while True:
        try:
            if ready():
                return
            said = ""
        except FieldloopError as error:
            said = f": {error}"
        if time.monotonic() > deadline:
            raise FieldloopError(f"{what}: no end after {limit_s:.0f} s{said}", code="demo.timeout")
        time.sleep(0.5)


def _policy() -> dict[str, Any]:
    gates = {"windows_min": 20, "quorum": 1.0, "wait_s_max": 600}
    slot = {"slot": SLOT, "model": MODEL, "streams": {STREAM: STREAM}, "devices": ["*"]}
    return {"slots": [{**slot, "waves": [{"count": 1}, {"percent": 100}], "gates": gates}]}


def _profile(speed: float) -> dict[str, Any]:
    channels = [{"name": n, "unit": u} for n, u in zip(CHANNELS, UNITS, strict=True)]
    source = {"id": "recordings", "kind": "replay", "stream": STREAM, "path": "/data/drop"}
    return {
        "streams": [{"id": STREAM, "rate_hz": RATE_HZ, "channels": channels}],
        "sources": [{**source, "watch": True, "speed": speed, "frame_samples": 50}],
    }


app = typer.Typer(add_completion=False, help=__doc__)
_FOLDER = Path(".demo") / "stack"


@app.command()
def up(devices: int = 2) -> None:
    """Build, start the cloud and its devices, play recordings, label them, see a model arrive."""
    say = sys.stdout.write
    stack = Stack(_FOLDER)
    say("building images (the first time: some minutes)\n")
    stack.build()
    say("starting the cloud\n")
    stack.start_cloud()
    names = [f"wearer-{n}" for n in range(1, devices + 1)]
    by_subject = recordings_of(range(1, devices + 1))
    for name in names:
        stack.start_device(name)
    wait_until_enrolled(stack, names)
    say(f"{devices} devices enrolled; playing recordings\n")
    for name, recordings in zip(names, by_subject, strict=True):
        for recording in recordings:
            stack.drop(name, recording)
    wait("recordings", lambda: len(stack.played()) >= len(stack.dropped), 600)
    say(f"{stack.label(stack.played())} labels given; training\n")
    wait("training", lambda: stack.training()["models"], 900)
    say("trained; delivering\n")
    keep_playing = traffic(stack, names, by_subject)
    wait("delivery", lambda: keep_playing() or all(runs_model(stack, n) for n in names), 600)
    balanced, logs = stack.books()
    say(f"every device runs the model; books of {len(logs)} logs balance: {balanced}\n")
    say("it stays up; `python -m fieldloop_demo.stack down` removes it\n")


@app.command()
def down(devices: int = 2) -> None:
    """Remove containers, networks and volumes."""
    names = [f"wearer-{n}" for n in range(1, devices + 1)]
    Stack(_FOLDER, devices=names).stop()


def recordings_of(subjects: Sequence[int]) -> list[list[Recording]]:
    """All recordings of each subject."""
    found = load()
    return [[r for r in found if r.subject == s] for s in subjects]


def wait_until_enrolled(stack: Stack, names: Sequence[str]) -> None:
    """Wait until each device has its identity."""
    for name in names:
        look = ("exec", "-T", "agent", "cat", "/data/identity/current/device")
        wait(f"enrolment of {name}", partial(stack.device, name, *look))


def traffic(
    stack: Stack, names: Sequence[str], recordings: Sequence[Sequence[Recording]]
) -> Callable[[], None]:
    """Live data while a model is on trial: a function that plays one more recording at times."""
    last = [0.0, 0.0]

    def keep_playing() -> None:
        if time.monotonic() - last[0] < 4.0:
            return
        last[0] = time.monotonic()
        for name, own in zip(names, recordings, strict=True):
            stack.drop(name, own[int(last[1]) % len(own)])
        last[1] += 1

    return keep_playing


def runs_model(stack: Stack, device: str) -> bool:
    """Whether the device's own doctor sees a model past its probation."""
    slots = [f for f in stack.findings(device) if f["what"] == f"slot {SLOT}"]
    return bool(slots) and slots[0]["fine"] and slots[0]["seen"].startswith("ACTIVE")


if __name__ == "__main__":
    app()
