"""The attacks of TUF and Uptane over a real mosquitto whose every message the attacker controls.

All cases run at once, each in a fleet of its own on one broker, so that the suite takes as long as
its slowest case. Each device has first installed version 1 honestly; then the attack comes. It must
be refused under its own name, the order in force must stay, and version 1 must still be there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from fieldloop_contract.desired import DIRECTOR_ROLE
from fieldloop_contract.manifest import MODEL_FILE
from fieldloop_contract.messages import ModelRef
from fieldloop_contract.topics import Topic, blob_topic, meta_topic
from fieldloop_runtime.clock import Now, SystemClock
from fieldloop_runtime.mqtt import Connected, Published, Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_update import ModelSource, Ordered, Outcome, Ready, Refused, UpdateSettings
from support.broker import Mosquitto
from support.signed import DEVICE, MODEL, SignedFleet, bundle, chunks

PATIENCE_S = 0.3
LIMIT_S = 240.0
SIZE = 40_000
Files = dict[str, bytes]


class Clock(SystemClock):
    """The device's clock, which a case may put ahead."""

    ahead_s = 0

    def now(self) -> Now:
        found = super().now()
        return replace(found, utc_ns=found.utc_ns + self.ahead_s * 10**9)


class Scene:
    """One fleet, its device on the broker, and what the attacker may do."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.name = name
        self.folder = folder
        self.fleet = SignedFleet(folder / "fleet", fleet=name)
        self.outcomes: list[Outcome] = []
        self.old: Files = {}
        self.honest = 0
        self.clock = Clock(trusted=True)
        self.source = ModelSource(
            UpdateSettings(
                dir=str(folder / "device"),
                trust_clock=True,
                quiet_s=0.3,
                patience_s=PATIENCE_S,
                rate_min_bytes_s=10_000,
                rate_window_s=2,
                missing_after_s=30,
            ),
            fleet=name,
            device=DEVICE,
            service="inference",
            root=self.fleet.root,
            subscribe=self.subscribe,
            unsubscribe=self.unsubscribe,
            clock=self.clock,
        )
        mqtt = MqttSettings(host="127.0.0.1", port=port)
        self.session = Session(mqtt, f"{name}/dev", subscriptions=self.source.filters())
        self.writer = Session(mqtt, f"{name}/evil", confirm=True)

    def subscribe(self, *filters: str) -> None:
        self.session.subscribe(*filters)

    def unsubscribe(self, *filters: str) -> None:
        self.session.unsubscribe(*filters)

    def offer(self, version: int) -> None:
        """What delivery does: chunks, metadata, order."""
        ref = self.hold(version)
        self.show(self.fleet.publish(), self.fleet.order(version, ref))

    def put(self, topic: str, payload: bytes) -> None:
        """Retain a message; paho resends it until the broker has it."""
        self.writer.publish(topic, payload, retain=True)

    def show(self, files: Files, order: bytes | None = None) -> None:
        for name, payload in files.items():
            self.put(meta_topic(self.name, name), payload)
        if order is not None:
            self.put(str(Topic(self.name, DEVICE, "inference", "desired")), order)

    def hold(self, version: int, digests: int | None = None) -> ModelRef:
        """Put a version's chunks on the broker, and sign it into the fleet's targets."""
        manifest, files = bundle(version, size=SIZE)
        for digest, data in list(chunks(manifest, files).items())[:digests]:
            self.put(blob_topic(self.name, digest), data)
        return self.fleet.add(manifest)

    def turn(self) -> None:
        while (event := self.session.poll()) is not None:
            if isinstance(event, Connected):
                self.source.connected()
            elif isinstance(event, Received):
                self.source.message(event.topic, event.payload)
        while isinstance(self.writer.poll(), Connected | Published):
            pass
        for outcome in self.source.step(time.monotonic()):
            self.outcomes.append(outcome)
            if isinstance(outcome, Ordered):
                for order in outcome.desired.slots.values():
                    if order.model is not None:
                        self.source.fetch(order.model)

    def said(self, kind: type) -> list[Any]:
        return [o for o in self.outcomes if isinstance(o, kind)]

    def close(self) -> None:
        self.source.close()
        self.session.stop()
        self.writer.stop()


@dataclass(frozen=True)
class Case:
    """An attack on a scene where version 1 runs; the code under which it is refused."""

    code: str
    attack: Callable[[Scene], None]
    recover: Callable[[Scene], None] | None = None
    prepare: Callable[[Scene], None] | None = None
    ends_with: int = 2


def thief(scene: Scene) -> SignedFleet:
    return SignedFleet(scene.folder / "thief", fleet=scene.name)


def arbitrary_model(scene: Scene) -> None:
    other = thief(scene)
    ref = other.add(bundle(2, size=SIZE)[0])
    scene.show(other.files, other.order(2, ref))


def foreign_order(scene: Scene) -> None:
    ref = scene.hold(2)
    other = thief(scene)
    other.add(bundle(2, size=SIZE)[0])
    scene.show(scene.fleet.files, other.order(2, ref))


def second(scene: Scene) -> None:
    scene.old = dict(scene.fleet.files)
    scene.offer(2)


def second_in_force(scene: Scene) -> bool:
    return any(o.version == 2 for o in scene.said(Ordered))


def rollback(scene: Scene) -> None:
    scene.show({"timestamp.json": scene.old["timestamp.json"]})


def replay(scene: Scene) -> None:
    scene.show({}, scene.fleet.order(1, bundle(1, size=SIZE)[0].ref()))


def freeze(scene: Scene) -> None:
    """Nothing new is let through for two days: the timestamp that the device has runs out."""
    scene.clock.ahead_s = 2 * 86_400


def frozen_recovery(scene: Scene) -> None:
    scene.clock.ahead_s = 0
    scene.offer(2)


def mix_and_match(scene: Scene) -> None:
    old = dict(scene.fleet.files)
    ref = scene.hold(2)
    mixed = dict(scene.fleet.files)
    newest = next(n for n in mixed if n.endswith(".snapshot.json"))
    mixed[newest] = next(p for n, p in old.items() if n.endswith(".snapshot.json"))
    scene.show(mixed, scene.fleet.order(2, ref))


def endless(scene: Scene) -> None:
    ref = scene.hold(2)
    name = next(n for n in scene.fleet.files if n.endswith(".snapshot.json"))
    files = {**scene.fleet.files, name: scene.fleet.files[name] + b" " * 200_000}
    scene.show(files, scene.fleet.order(2, ref))


def slow(scene: Scene) -> None:
    """The order is good, the chunks do not come: one of four is there."""
    ref = scene.hold(2, digests=1)
    scene.show(scene.fleet.files, scene.fleet.order(2, ref))


def swift_again(scene: Scene) -> None:
    scene.hold(2)


def wrong_fleet(scene: Scene) -> None:
    ref = scene.hold(2)
    scene.show(scene.fleet.files, scene.fleet.order(2, ref, fleet="other"))


def wrong_device(scene: Scene) -> None:
    ref = scene.hold(2)
    scene.show(scene.fleet.files, scene.fleet.order(2, ref, device="pump-8"))


def root_with(scene: Scene, change: Callable[[Any], None], keys: int = 3) -> Files:
    root: Metadata[Any] = Metadata.from_bytes(scene.fleet.root)
    root.signed.version = 2
    change(root.signed)
    root.signatures.clear()
    for signer in scene.fleet.keys.signers("root")[:keys]:
        root.sign(signer, append=True)
    return {"2.root.json": root.to_bytes()}


def threshold(scene: Scene) -> None:
    scene.show(root_with(scene, lambda _: None, keys=1))


def duplicate_signature(scene: Scene) -> None:
    name, payload = next(iter(root_with(scene, lambda _: None, keys=1).items()))
    document = json.loads(payload)
    document["signatures"] *= 3
    scene.show({name: json.dumps(document).encode()})


def duplicate_key(scene: Scene) -> None:
    """One key listed under its id twice: it counts once, and the file is refused as a whole."""
    name, payload = next(iter(root_with(scene, lambda _: None).items()))
    document = json.loads(payload)
    ids = document["signed"]["roles"]["root"]["keyids"]
    document["signed"]["roles"]["root"]["keyids"] = [ids[0], ids[0], ids[1]]
    scene.show({name: json.dumps(document).encode()})


def unknown_key(scene: Scene) -> None:
    """A timestamp signed by a key that root does not name."""
    document: Metadata[Any] = Metadata.from_bytes(scene.fleet.files["timestamp.json"])
    document.signed.version += 1
    document.signatures.clear()
    for signer in thief(scene).keys.signers("timestamp"):
        document.sign(signer, append=True)
    scene.show({"timestamp.json": document.to_bytes()})


def missing_key(scene: Scene) -> None:
    """A director's order where the director's key is not listed any more."""
    ref = scene.hold(2)
    order = scene.fleet.order(2, ref)
    scene.fleet.ceremony().rotate(DIRECTOR_ROLE, scene.fleet.now)
    scene.show(scene.fleet.publish(), order)


def revoked_key(scene: Scene) -> None:
    """The stolen timestamp key goes on signing after root has revoked it."""
    stolen = scene.fleet.keys.signers("timestamp")
    scene.fleet.ceremony().rotate("timestamp", scene.fleet.now)
    document: Metadata[Any] = Metadata.from_bytes(scene.fleet.publish()["timestamp.json"])
    document.signed.version += 1
    document.signatures.clear()
    for signer in stolen:
        document.sign(signer, append=True)
    scene.show({**scene.fleet.files, "timestamp.json": document.to_bytes()})


def rotated(scene: Scene) -> None:
    for role in ("root", "timestamp", DIRECTOR_ROLE):
        scene.fleet.ceremony().rotate(role, scene.fleet.now)
    scene.offer(2)


def run_up(scene: Scene) -> None:
    """A thief with the timestamp's key runs its version up."""
    repository = scene.fleet.repository
    scene.honest = repository.document("timestamp").signed.version
    repository.document("timestamp").signed.version = (1 << 63) - 3
    repository._sign_timestamp(scene.fleet.now)
    ref = scene.hold(2)  # and signs, so that the device takes the version up
    scene.show(scene.fleet.files, scene.fleet.order(2, ref))


def fast_forward(scene: Scene) -> None:
    """The honest timestamp is a rollback then."""
    repository = scene.fleet.repository
    repository.document("timestamp").signed.version = scene.honest
    repository._sign_timestamp(scene.fleet.now)
    scene.show(scene.fleet.publish())


def fast_forward_recovery(scene: Scene) -> None:
    scene.fleet.ceremony().rotate("timestamp", scene.fleet.now)
    scene.show(scene.fleet.publish(), scene.fleet.order(3, scene.hold(3)))
    scene.show(scene.fleet.publish())


def huge_order(scene: Scene) -> None:
    """An order of version 2**63, signed: over what a floor can hold, so no version at all."""
    ref = scene.hold(2)
    scene.show(scene.fleet.files, scene.fleet.order(1 << 63, ref))


def huge_timestamp(scene: Scene) -> None:
    """The thief signs a timestamp after which none could come: it is not taken up at all."""
    repository = scene.fleet.repository
    scene.honest = repository.document("timestamp").signed.version
    repository.document("timestamp").signed.version = (1 << 63) + 5
    repository._sign_timestamp(scene.fleet.now)
    scene.show(scene.fleet.publish())


def huge_timestamp_recovery(scene: Scene) -> None:
    scene.fleet.repository.document("timestamp").signed.version = scene.honest
    scene.offer(2)


def missing_file(scene: Scene) -> None:
    ref = scene.hold(2)
    files = {n: p for n, p in scene.fleet.files.items() if not n.endswith(f".{MODEL}.json")}
    scene.show(files, scene.fleet.order(2, ref))


def garbage(scene: Scene) -> None:
    scene.show({"timestamp.json": b"\x00\xff{"})


def honest(scene: Scene) -> None:
    scene.offer(2)


CASES = {
    "arbitrary-model": Case("trust.signature", arbitrary_model, honest),
    "foreign-order": Case("desired.signature", foreign_order, honest),
    "rollback": Case("trust.rollback", rollback, prepare=second),
    "replayed-order": Case("desired.rollback", replay, prepare=second),
    "freeze": Case("trust.expired", freeze, frozen_recovery),
    "mix-and-match": Case("trust.mix-and-match", mix_and_match, honest),
    "endless-data": Case("trust.endless-data", endless, honest),
    "slow-data": Case("download.slow", slow, swift_again),
    "wrong-fleet": Case("desired.fleet", wrong_fleet, honest),
    "wrong-device": Case("desired.device", wrong_device, honest),
    "threshold": Case("trust.signature", threshold),
    "duplicate-signature": Case("trust.malformed", duplicate_signature),
    "duplicate-key": Case("trust.malformed", duplicate_key),
    "unknown-key": Case("trust.signature", unknown_key, honest),
    "missing-key": Case("desired.signature", missing_key),
    "revoked-key": Case("trust.signature", revoked_key),
    "fast-forward": Case(
        "trust.rollback", fast_forward, fast_forward_recovery, prepare=run_up, ends_with=3
    ),
    "version-2-63": Case("desired.version", huge_order, honest),
    "timestamp-2-63": Case("trust.version", huge_timestamp, huge_timestamp_recovery),
    "missing-file": Case("trust.missing", missing_file, honest),
    "garbage": Case("trust.malformed", garbage, honest),
    "key-rotation": Case("", rotated),
}


@dataclass
class Progress:
    """How far a scene is."""

    stage: str = "install"
    seen: int = 0
    refused: list[str] = field(default_factory=list)
    kept: bool = False
    order: int = 0
    fault: str = ""


def advance(scene: Scene, case: Case, at: Progress) -> None:
    scene.turn()
    ready = [o.ref.version for o in scene.said(Ready)]
    if at.stage == "install" and 1 in ready:
        at.stage = "prepare"
        if case.prepare is not None:
            case.prepare(scene)
    elif at.stage == "prepare" and (case.prepare is None or second_in_force(scene)):
        at.stage, at.seen = "attack" if case.code else "recover", len(scene.outcomes)
        case.attack(scene)
    elif at.stage == "attack":
        at.refused = [o.code for o in scene.outcomes[at.seen :] if isinstance(o, Refused)]
        if case.code in at.refused:
            kept = scene.source.bundle(bundle(1, size=SIZE)[0].ref())
            at.kept = (
                kept is not None and kept.read(MODEL_FILE) == bundle(1, size=SIZE)[1][MODEL_FILE]
            )
            at.order = max(o.version for o in scene.said(Ordered))
            at.stage = "recover" if case.recover else "done"
            if case.recover:
                case.recover(scene)
    elif at.stage == "recover" and case.ends_with in ready:
        at.kept = at.kept or not case.code
        at.stage = "done"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Progress]]:
    folder = tmp_path_factory.mktemp("attacks")
    broker = Mosquitto(folder / "broker").start()
    scenes: dict[str, Scene] = {}
    progress = {name: Progress() for name in CASES}
    try:
        for name in CASES:
            scenes[name] = Scene(folder / name, name, broker.port)
            scenes[name].session.start()
            scenes[name].writer.start()
        until_s = time.monotonic() + LIMIT_S
        waiting = dict(scenes)
        while waiting and time.monotonic() < until_s:
            for name, scene in list(waiting.items()):
                if not scene.writer.connected:
                    continue
                if progress[name].stage == "install" and not scene.fleet.models:
                    scene.offer(1)
                advance(scene, CASES[name], progress[name])
                if progress[name].stage == "done":
                    progress[name].refused = progress[name].refused or []
                    del waiting[name]
            time.sleep(0.01)
        for name, scene in scenes.items():
            progress[name].fault = f"{scene.outcomes}"
        yield progress
    finally:
        for scene in scenes.values():
            scene.close()
        broker.kill()


@pytest.mark.parametrize("name", list(CASES))
def test_attack_is_refused_by_name_and_the_old_model_stays(results, name):
    case, got = CASES[name], results[name]
    assert got.stage == "done", (got.stage, got.fault)
    assert got.kept, got.fault
    if case.code:
        assert case.code in got.refused, got.fault
        assert got.order in (1, 2)
    else:
        assert not got.refused, got.fault
