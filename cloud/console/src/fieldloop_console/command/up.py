"""`fieldloop up`: the whole cloud side on one machine, with a default for everything.

A broker is started for it (mosquitto where it is installed, otherwise the embedded one), then
telemetry, training, delivery and the console, each a process of its own on one SQLite store; those
that are not installed are left out, and it says so. Everything is kept in one folder. A service
that ends is started again after a moment, up to `RESTARTS_MAX` times in a row. Nothing is left
behind, however this process ends.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from fieldloop_console.command.showing import say
from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_contract.ids import check_id
from fieldloop_runtime.hosting.broker import Broker
from fieldloop_runtime.hosting.processes import Child, Processes

RESTARTS_MAX = 5
_RESTART_S = 2.0
_STEADY_S = 60.0
_LOOK_S = 0.5
_LINK_WAIT_S = 60.0
_POLICY: dict[str, list[object]] = {"slots": []}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    folder: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(
        "fieldloop-data"
    ),
    fleet: Annotated[str, typer.Option(help="Id of the fleet.")] = "home",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the console.")] = 8080,
    host: Annotated[str, typer.Option(help="Address the console listens on.")] = "127.0.0.1",
    mqtt_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the broker.")] = 1883,
    broker: Annotated[str, typer.Option(help="auto, mosquitto or amqtt.")] = "auto",
) -> None:
    """Run broker, telemetry, training, delivery and console on this machine, until Ctrl-C."""
    check_id(fleet, "fleet")
    if broker not in ("auto", "mosquitto", "amqtt"):
        raise FixConfiguration(f"no broker {broker!r:.40}", hint="auto, mosquitto or amqtt")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    root = folder.resolve()
    root.mkdir(parents=True, exist_ok=True)
    cloud = Cloud(root, fleet, host, port)
    try:
        cloud.start(broker, mqtt_port)
        cloud.watch()
    except KeyboardInterrupt:
        say("stopping")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cloud.stop()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@dataclass(slots=True)
class _Kept:
    """A process that is kept running: how to start it, and how often that was needed lately."""

    start: Callable[[], Child]
    child: Child
    since_s: float
    restarts: int = 0


@dataclass(slots=True)
class Cloud:
    """The processes of one machine's cloud. Main thread only."""

    root: Path
    fleet: str
    host: str
    port: int
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _processes: Processes | None = None

    def start(self, broker: str, mqtt_port: int) -> None:
        """Start everything.

        Raises:
            FieldloopError: the broker cannot be started, or the keys not be made.
        """
        self._processes = Processes(self.root / "logs")
        running = Broker(broker, self.root, self._processes, port=mqtt_port, keep=True)
        running.start()
        say(f"broker {running.name} on 127.0.0.1:{running.port}")
        store = {"FIELDLOOP_STORE_URL": f"sqlite:///{self.root / 'store.sqlite'}"}
        mqtt = {"FIELDLOOP_MQTT_HOST": "127.0.0.1", "FIELDLOOP_MQTT_PORT": str(running.port)}
        one = {"FIELDLOOP_FLEET": self.fleet}
        self._run("telemetry", store | mqtt | {"FIELDLOOP_FLEETS": self.fleet})
        training = {"FIELDLOOP_DATASETS_DIR": str(self.root / "datasets")}
        self._run("training", store | one | training)
        if self._there("delivery"):
            self._run("delivery", store | mqtt | one | self._keys())
        self._console(store)

    def _there(self, service: str) -> bool:
        found = importlib.util.find_spec(f"fieldloop_{service}") is not None
        if not found:
            say(f"{service} is not installed here, and is left out")
        return found

    def _run(self, service: str, environ: dict[str, str]) -> None:
        if not self._there(service):
            return
        command = [sys.executable, "-m", f"fieldloop_{service}", "run"]

        def start() -> Child:
            if self._processes is None:
                raise FieldloopError("nothing was started")
            child = self._processes.start(service, command, environ)
            child.expected_to_run = False
            return child

        self._kept[service] = _Kept(start, start(), time.monotonic())
        say(f"{service} runs; its log is {self._kept[service].child.log_path}")

    def _keys(self) -> dict[str, str]:
        """Make the fleet's keys and an empty policy where there are none."""
        folder, policy = self.root / "delivery", self.root / "policy.json"
        if not policy.exists():
            policy.write_text(json.dumps(_POLICY, indent=2) + "\n", encoding="utf-8")
            say(f"{policy} says which model belongs in which slot; it is empty yet")
        if not (folder / "keys").exists():
            command = [sys.executable, "-m", "fieldloop_delivery", "keys", "init"]
            command += ["--fleet", self.fleet, "--dir", str(folder)]
            done = subprocess.run(command, capture_output=True, check=False, timeout=120)
            if done.returncode:
                raise FieldloopError(f"the keys were not made: {done.stderr.decode()[-500:]}")
            say(f"made the keys of {self.fleet} in {folder / 'keys'}: keep a copy, offline")
        return {"FIELDLOOP_DIR": str(folder), "FIELDLOOP_POLICY": str(policy)}

    def _console(self, store: dict[str, str]) -> None:
        link = self.root / "first-link"
        link.unlink(missing_ok=True)
        log = self.root / "logs" / "console.log"
        begin = log.stat().st_size if log.exists() else 0
        environ = {
            "FIELDLOOP_FLEETS": self.fleet, "FIELDLOOP_HOST": self.host,
            "FIELDLOOP_PORT": str(self.port), "FIELDLOOP_FIRST_LINK_FILE": str(link),
        }  # fmt: skip
        self._run("console", store | environ)
        deadline = time.monotonic() + _LINK_WAIT_S
        while time.monotonic() < deadline and self._kept["console"].child.running:
            with log.open("rb") as file:
                file.seek(begin)
                lines = file.read(1 << 16).decode("utf-8", "replace").splitlines()
            started = [line for line in lines if '"service.started"' in line]
            if started:
                url = json.loads(started[0])["url"]
                say(f"dashboard: {link.read_text().strip() if link.exists() else url}")
                return
            time.sleep(0.1)
        raise FieldloopError("the console did not start", hint=f"see {log}")

    def watch(self) -> None:
        """Keep everything running until interrupted.

        Raises:
            FieldloopError: a service ends again and again, or the broker has ended.
        """
        while True:
            time.sleep(_LOOK_S)
            if self._processes is not None:
                self._processes.check()
            now_s = time.monotonic()
            for name, kept in self._kept.items():
                self._keep(name, kept, now_s)

    def _keep(self, name: str, kept: _Kept, now_s: float) -> None:
        if kept.child.running:
            if now_s - kept.since_s > _STEADY_S:
                kept.restarts = 0
            return
        if now_s - kept.since_s < _RESTART_S:
            return
        if kept.restarts >= RESTARTS_MAX:
            raise FieldloopError(
                f"{name} ended {RESTARTS_MAX} times, last with status "
                f"{kept.child.process.returncode}",
                hint=f"its last words are in {kept.child.log_path}",
            )
        say(f"{name} ended with status {kept.child.process.returncode}; it is started again")
        kept.child, kept.since_s, kept.restarts = kept.start(), now_s, kept.restarts + 1

    def stop(self) -> None:
        """End everything, the broker last."""
        if self._processes is not None:
            self._processes.stop()
