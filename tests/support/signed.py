"""A fleet's signed repository, bundles of any bytes, and a device's view of them."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path

from fieldloop_contract.desired import Desired, SlotOrder
from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Channel,
    FileRef,
    Golden,
    Input,
    Manifest,
    Normalisation,
    Output,
    split,
)
from fieldloop_contract.messages import ModelRef
from fieldloop_delivery.ceremonies import Ceremony
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.repository import Lifetimes, Repository
from fieldloop_update.mirror import Mirror
from fieldloop_update.state import TrustState
from fieldloop_update.verifier import Verdict, Verifier
from fieldloop_update.verify import verify

FLEET, DEVICE, MODEL = "acme", "pump-7", "activity"


def bundle(
    version: int = 1, *, name: str = MODEL, size: int = 100_000, seed: int | None = None
) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest and files of random bytes; updating runs no model."""
    rng = random.Random(version if seed is None else seed)
    files = {MODEL_FILE: rng.randbytes(size), GOLDEN_FILE: rng.randbytes(500)}
    manifest = Manifest(
        name=name,
        version=version,
        task="classification",
        files={n: FileRef.of(data) for n, data in files.items()},
        inputs=[
            Input(
                name="imu",
                channels=[Channel(name="ax", unit="g")],
                rate_hz=50.0,
                window_samples=32,
                hop_samples=16,
                normalisation=Normalisation(centre=[0.0], scale=[1.0]),
            )
        ],
        outputs=[Output(name="activity", kind="probabilities", labels=["rest", "walk"])],
        golden=Golden(count=1, tolerance=0.1),
    )
    return manifest, files


def chunks(manifest: Manifest, files: dict[str, bytes]) -> dict[str, bytes]:
    """All chunks of a bundle, the manifest's own included, by digest."""
    found: dict[str, bytes] = {}
    for data in [manifest.encode(), *files.values()]:
        pieces = split(data)
        found.update(zip(FileRef.of(data).chunks, pieces, strict=True))
    return found


class SignedFleet:
    """Delivery's half: a real repository in a folder, publishing into a dictionary."""

    def __init__(
        self, folder: Path, *, fleet: str = FLEET, lifetimes: Lifetimes | None = None
    ) -> None:
        self.folder = folder
        self.fleet = fleet
        self.lifetimes = lifetimes
        self.keys = KeyRing(folder / "keys")
        self.now = datetime.now(UTC)
        self.repository = Repository.create(
            folder, self.keys, fleet=fleet, now=self.now, lifetimes=lifetimes
        )
        self.models: dict[str, dict[int, bytes]] = {}
        self.files: dict[str, bytes] = {}
        self.publish()

    @property
    def root(self) -> bytes:
        return (self.folder / "metadata" / "1.root.json").read_bytes()

    def add(self, manifest: Manifest) -> ModelRef:
        self.models.setdefault(manifest.name, {})[manifest.version] = manifest.encode()
        self.repository.set_models(self.models, self.now)
        self.publish()
        return manifest.ref()

    def ceremony(self) -> Ceremony:
        """What a person at the keyboard does, in another process than the service's."""
        return Ceremony(self.folder, fleet=self.fleet, life=self.lifetimes)

    def publish(self) -> dict[str, bytes]:
        with self.repository.changing():
            pass  # reads again what a ceremony has changed
        self.files = self.repository.files()
        return dict(self.files)

    def order(
        self,
        version: int,
        ref: ModelRef | None,
        *,
        device: str = DEVICE,
        fleet: str | None = None,
        recalled: tuple[str, ...] = (),
        manifests: dict[str, bytes] | None = None,
        now: datetime | None = None,
    ) -> bytes:
        slots = {"main": SlotOrder(model=ref, streams={"imu": "imu"})}
        desired = Desired(
            fleet=fleet or self.fleet, device=device, slots=slots, recalled=list(recalled)
        )
        if manifests is None:
            named = (m for versions in self.models.values() for m in versions.values())
            manifests = {FileRef.of(m).sha256: m for m in named}
        return self.repository.sign_order(desired, version, manifests, now or self.now)


class TrustingDevice:
    """A device's half: the parent's code, with the child's function called in this process."""

    def __init__(self, folder: Path, root: bytes, *, device: str = DEVICE, fleet: str = FLEET):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.state = TrustState(folder / "trust.sqlite")
        self.verifier = Verifier(
            folder / "trust", self.state, fleet=fleet, device=device, root=root
        )

    def see(self, files: dict[str, bytes], order: bytes | None) -> Verdict:
        mirror = Mirror(4 << 20, 96)
        for name, payload in files.items():
            mirror.put(name, payload)
        request = json.loads(self.verifier.prepare(mirror, order).read_bytes())
        return self.verifier.take_up(verify(request))

    def refusal(self, files: dict[str, bytes], order: bytes | None) -> str:
        """The code under which this is refused; "" where it is accepted."""
        verdict = self.see(files, order)
        assert verdict.order is None or verdict.refused is None
        return verdict.refused.code if verdict.refused else ""
