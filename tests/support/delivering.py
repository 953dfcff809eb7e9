"""A delivery process on a real store and broker, and devices that only update."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import insert

from fieldloop_contract.messages import ModelRef, Reported, SlotState
from fieldloop_contract.topics import parse_blob
from fieldloop_delivery.__main__ import main
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.repository import Repository
from fieldloop_runtime.mqtt import Connected, Published, Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.registry import register_model, set_model_state
from fieldloop_store.rollouts import RolloutRow, list_documents, list_rollouts
from fieldloop_store.schema import events, results, services
from support.signed import FLEET, MODEL, bundle

EPOCH = "ab" * 16


def wait_for(check: Callable[[], Any], timeout_s: float = 30.0, what: str = "") -> Any:
    """The first true value of `check`, asked again and again."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        value = check()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not in {timeout_s} s: {what or check}")


class DeliveryProcess:
    """`fieldloop-delivery run` in a folder of its own, with the store beside it."""

    def __init__(self, folder: Path, port: int, *, slots: list[dict[str, Any]] | None = None):
        self.folder = folder
        self.port = port
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"sqlite:///{folder / 'store.sqlite'}"
        self.store = Store.open(self.url)
        self._log = folder / "delivery.log"
        policy = {"slots": slots or [{"model": MODEL, "streams": {"imu": "imu"}}]}
        (folder / "policy.yaml").write_text(yaml.safe_dump(policy), encoding="utf-8")
        keys = KeyRing(folder / "fleet" / "keys")
        Repository.create(folder / "fleet", keys, fleet=FLEET, now=datetime.now(UTC))
        self.root = folder / "root.json"
        self.root.write_bytes(Repository.root_of(folder / "fleet"))
        self._process: subprocess.Popen[bytes] | None = None
        self._seq = 0

    @property
    def environ(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
            "FIELDLOOP_FLEET": FLEET,
            "FIELDLOOP_DIR": str(self.folder / "fleet"),
            "FIELDLOOP_POLICY": str(self.folder / "policy.yaml"),
            "FIELDLOOP_STORE_URL": self.url,
            "FIELDLOOP_MQTT_HOST": "127.0.0.1",
            "FIELDLOOP_MQTT_PORT": str(self.port),
            "FIELDLOOP_MQTT_RECONNECT_BASE_S": "0.1",
            "FIELDLOOP_MQTT_RECONNECT_CAP_S": "0.5",
            "FIELDLOOP_LOOK_S": "0.2",
        }

    def command(self, *arguments: str) -> tuple[int, str]:
        """One command of a person: exit status, and what it said."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(arguments, self.environ)
        return code, out.getvalue()

    def start(self, **settings: str) -> DeliveryProcess:
        environment = {**self.environ, **settings}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fieldloop_delivery", "run"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(20)
        self._process = None
        return code

    def close(self) -> None:
        self.kill()
        self.store.close()

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def register(self, version: int, *, size: int = 100_000) -> ModelRef:
        manifest, files = bundle(version, size=size)
        register_model(
            self.store,
            fleet=FLEET,
            manifest=manifest,
            files=files,
            run=None,
            metrics={},
            state="approved",
            now_ns=time.time_ns(),
        )
        return manifest.ref()

    def recall(self, version: int) -> None:
        assert set_model_state(self.store, FLEET, MODEL, version, "recalled")

    def online(
        self,
        device: str,
        *,
        active: ModelRef | None = None,
        state: str = "EMPTY",
        online: bool = True,
    ) -> None:
        """What telemetry would store of a device's status and report."""
        slot = SlotState(slot="main", state=state, active=active)
        reported = Reported(session="s", slots=[slot]).model_dump(mode="json", exclude_none=True)
        now_ns = time.time_ns()
        values = {
            "state": "online" if online else "offline",
            "session": "s",
            "status": {},
            "status_ns": now_ns,
            "reported": reported,
            "reported_ns": now_ns,
        }
        with self.store.begin() as connection:
            statement = insert_into(connection, services).values(
                fleet=FLEET, device=device, service="inference", **values
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["fleet", "device", "service"], set_=values
                )
            )

    def windows(
        self,
        device: str,
        ref: ModelRef,
        count: int,
        *,
        valid: bool = True,
        running: bool | None = None,
    ) -> None:
        """What telemetry would store of results."""
        rows = []
        for _ in range(count):
            self._seq += 1
            rows.append(
                {
                    **self._row(device),
                    "stream": "imu",
                    "slot": "main",
                    "role": "active",
                    "t0_ns": self._seq,
                    "t1_ns": self._seq + 1,
                    "model": ref.name,
                    "version": ref.version,
                    "model_digest": ref.digest,
                    "label": "rest",
                    "score": None,
                    "latency_us": 100.0,
                    "valid": valid,
                    "document": {} if running is None else {"running": running},
                }
            )
        with self.store.begin() as connection:
            connection.execute(insert(results), rows)

    def event(self, device: str, kind: str, **data: Any) -> None:
        """What telemetry would store of an event."""
        self._seq += 1
        row = {**self._row(device), "type": kind, "time": "", "document": {"data": data}}
        with self.store.begin() as connection:
            connection.execute(insert(events), [row])

    def _row(self, device: str) -> dict[str, Any]:
        return {
            "fleet": FLEET,
            "device": device,
            "service": "inference",
            "epoch": EPOCH,
            "seq": self._seq,
            "digest": b"12345678",
            "received_ns": time.time_ns(),
        }

    def rollout(self, version: int) -> RolloutRow | None:
        rows = list_rollouts(self.store, FLEET)
        return next((r for r in rows if r.version == version), None)

    def wait_rollout(self, version: int, state: str, timeout_s: float = 30.0) -> RolloutRow:
        def check() -> RolloutRow | None:
            row = self.rollout(version)
            return row if row is not None and row.state == state else None

        try:
            return wait_for(check, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{self.rollout(version)}\n{self.log()}") from error

    def order_version(self, device: str) -> int:
        rows = list_documents(self.store, FLEET)
        return next((d.version for d in rows if d.device == device), 0)


class UpdateDevice:
    """A device process, and what it said."""

    def __init__(
        self,
        folder: Path,
        delivery: DeliveryProcess,
        name: str,
        *,
        chunk_delay_s: float = 0.0,
        **update: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        settings = {
            "fleet": FLEET,
            "device": name,
            "port": delivery.port,
            "root": str(delivery.root),
            "chunk_delay_s": chunk_delay_s,
            "update": {"dir": str(folder / "models"), "quiet_s": 0.2, **update},
        }
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        self._out = folder / "said.jsonl"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> UpdateDevice:
        script = Path(__file__).with_name("update_device.py")
        with self._out.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(self.folder / "settings.json")], stdout=out
            )
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def said(self, kind: str) -> list[dict[str, Any]]:
        if not self._out.exists():
            return []
        lines = self._out.read_text(encoding="utf-8").splitlines()
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if line["kind"] == kind]

    def ready(self, version: int, timeout_s: float = 30.0) -> dict[str, Any]:
        def check() -> dict[str, Any] | None:
            return next((r for r in self.said("ready") if r["version"] == version), None)

        try:
            return wait_for(check, timeout_s)
        except AssertionError as error:
            raise AssertionError(self._out.read_text(encoding="utf-8")) from error

    def chunks_on_disk(self) -> int:
        """Chunks of a download under way that are marked as there."""
        maps = (self.folder / "models" / "partial").glob("*/*.map")
        total = 0
        for path in maps:
            with contextlib.suppress(OSError):
                total += path.read_bytes().count(1)
        return total

    def file(self, ref: ModelRef, name: str) -> bytes:
        return (self.folder / "models" / "bundles" / ref.digest / name).read_bytes()


class Onlooker:
    """A client that may publish and read anything: the attacker, or an eye on the broker."""

    def __init__(self, port: int, *filters: str) -> None:
        settings = MqttSettings(host="127.0.0.1", port=port)
        self.session = Session(settings, uuid.uuid4().hex, subscriptions=filters, confirm=True)
        self.session.start()
        self.seen: dict[str, bytes] = {}
        wait_for(lambda: isinstance(self.session.poll(0.2), Connected), 15, "connection")

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish retained, and wait until the broker has it."""
        token = self.session.publish(topic, payload, retain=True)
        wait_for(lambda: self.session.poll(0.2) == Published(token), 10, "PUBACK")

    def look(self, quiet_s: float = 0.5) -> dict[str, bytes]:
        """Retained messages under the filters, until none came for a while."""
        while True:
            event = self.session.poll(quiet_s)
            if event is None:
                return dict(self.seen)
            if isinstance(event, Received):
                if event.payload:
                    self.seen[event.topic] = event.payload
                else:
                    self.seen.pop(event.topic, None)

    def close(self) -> None:
        self.session.stop()


def blobs(topics: dict[str, bytes]) -> set[str]:
    """Chunk digests among topics."""
    return {parse_blob(t) for t in topics if "/_blob/" in t}
