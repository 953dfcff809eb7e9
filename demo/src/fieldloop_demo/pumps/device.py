"""A device of the scenario: its two logs and its inference service, in this process.

`ferry` is the way to the cloud without a broker: the uplink's own batches, telemetry's own door,
and an acknowledgement for what the store has committed. One thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop_buffer import Entry, Kind, Log, LogSettings, Reader, pack_frame
from fieldloop_buffer.batching import encode
from fieldloop_buffer.outbox import Outbox
from fieldloop_contract.desired import Desired, SlotOrder
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.manifest import Manifest
from fieldloop_contract.messages import Ack, ModelRef, Reported, Status, StreamState
from fieldloop_contract.topics import Topic
from fieldloop_demo.pumps.plant import CHANNELS, RATE_HZ
from fieldloop_inference.service import Inference
from fieldloop_inference.settings import InferenceSettings
from fieldloop_inference.trial import Verdict, try_model
from fieldloop_runtime.clock import Now, SystemClock
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_telemetry.acks import ranges_of
from fieldloop_telemetry.door import admit
from fieldloop_update import Bundle, Ordered, Ready
from fieldloop_update.bundles import Bundles

FLEET, STREAM, SLOT = "pumps", "vibration", "main"
UNIT = "g"
BOOT = "5" * 32
_ROWS, _BYTES = 500, 160 * 1024
_TURNS_MAX = 2_000


class VirtualClock(SystemClock):
    """A clock that stands where the scenario puts it."""

    def __init__(self, utc_ns: int) -> None:
        super().__init__(trusted=True)
        self.utc_ns = utc_ns

    def now(self) -> Now:
        """Where it stands; both clocks alike."""
        return Now(self.utc_ns, self.utc_ns, BOOT, Clock.SYNCHRONISED)


class Shelf:
    """A source of models whose bundles are put on it by hand."""

    def __init__(self, folder: Path) -> None:
        self._bundles = Bundles(folder, 16)
        self._folder = folder / "bundles"
        self._outcomes: list[Ordered | Ready] = []
        self._version = 0
        self._ordered: Desired | None = None

    def put(self, manifest: Manifest, files: dict[str, bytes]) -> None:
        """Have a bundle here, complete."""
        folder = self._folder / manifest.ref().digest
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        (folder / "manifest.json").write_bytes(manifest.encode())

    def order(self, desired: Desired) -> None:
        """What the device shall run; the same again changes nothing."""
        if desired != self._ordered:
            self._ordered = desired
            self._version += 1
            self._outcomes.append(Ordered(desired, self._version))

    def message(self, topic: str, payload: bytes) -> bool:
        """Nothing comes over the wire."""
        del topic, payload
        return False

    def connected(self) -> None:
        """There is no connection."""

    def disconnected(self) -> None:
        """There is none."""

    def fetch(self, ref: ModelRef) -> None:
        """It is here already."""
        self._outcomes.append(Ready(ref))

    def cancel(self, ref: ModelRef) -> None:
        """Nothing is on its way."""

    def bundle(self, ref: ModelRef) -> Bundle | None:
        """The bundle."""
        return self._bundles.open(ref)

    def keep(self, digests: Collection[str]) -> None:
        """All are kept."""

    def step(self, now_s: float) -> list[Ordered | Ready]:
        """What is new."""
        del now_s
        outcomes, self._outcomes = self._outcomes, []
        return outcomes


class TrialHere:
    """The trial's checks, in this process instead of a child's."""

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
        del now_s
        files = {name: (Path(folder) / name).read_bytes() for name in manifest.files}
        self._verdict = try_model(manifest, files, runtime, threads, delegate)

    def poll(self, now_s: float) -> Verdict:
        """It has ended."""
        del now_s
        return self._verdict

    def stop(self) -> None:
        """There is nothing to stop."""


class PumpDevice:
    """One device."""

    def __init__(self, folder: Path, device: str, now_ns: int) -> None:
        folder.mkdir(parents=True)
        self.device = device
        self.clock = VirtualClock(now_ns)
        self.shelf = Shelf(folder / "models")
        paths = {s: str(folder / f"{s}.sqlite") for s in ("ingestion", "inference")}
        self._logs = {
            s: Log.open(LogSettings(path=p), fleet=FLEET, device=device, service=s)
            for s, p in paths.items()
        }
        self._outboxes = {s: Outbox(p) for s, p in paths.items()}
        settings = InferenceSettings.model_validate({
            "fleet": FLEET, "device": device, "log": {"path": paths["inference"]},
            "input_path": paths["ingestion"], "root_file": "-", "shadow_cpu_percent": 100.0,
            "update": {"dir": str(folder / "models")},
        })  # fmt: skip
        self._reader = Reader(paths["ingestion"])
        self.service = Inference(
            settings, source=self.shelf, log=self._logs["inference"], reader=self._reader,
            clock=self.clock, journal=Journal("inference"), begin_trial=TrialHere,
        )  # fmt: skip
        self.service.start()

    def order(self, model: ModelRef | None, record: str | None, stale: str | None) -> None:
        """Order a model, with the record that a person armed."""
        slot = SlotOrder(
            model=model, streams={STREAM: STREAM}, calibration=record, calibration_stale=stale
        )
        self.shelf.order(Desired(fleet=FLEET, device=self.device, slots={SLOT: slot}))

    def measure(self, samples: NDArray[np.float32], t0_ns: int) -> None:
        """Log a stretch of signal; what lay before it was a pause by plan."""
        frame = Frame(
            STREAM, t0_ns, t0_ns, BOOT, Clock.SYNCHRONISED, RATE_HZ, samples.shape[1],
            np.ascontiguousarray(samples, "<f4").tobytes(), planned_pause=True,
        )  # fmt: skip
        self._logs["ingestion"].append(Entry(Kind.FRAME, STREAM, t0_ns, pack_frame(frame)))

    def work(self, now_ns: int) -> None:
        """Let the service do what there is to do by now."""
        self.clock.utc_ns = now_ns
        log = self._logs["ingestion"]
        log.commit(force=True)
        log.maintain(now_ns)
        idle = 0
        for _ in range(_TURNS_MAX):
            # A candidate derives its calibration a window a turn, while nothing is scored.
            idle = 0 if self.service.turn(time.monotonic()) else idle + 1
            if idle > 1 and not self._deriving():
                return

    def _deriving(self) -> bool:
        slot = self.service.slots.get(SLOT)
        return slot is not None and slot.deriving

    def ferry(self, store: Store, now_ns: int) -> int:
        """Send what waits, and the reports; how many rows."""
        count = 0
        for service, log in self._logs.items():
            count += ferry_log(store, log, self._outboxes[service], self.device, service, now_ns)
        for service, message in self._presence():
            topic = str(Topic(FLEET, self.device, service, message[0]))
            parcel = admit(topic, message[1], now_ns)
            assert parcel.presence is not None
            store_intake(store, Intake(presence=[parcel.presence], received_ns=now_ns))
        return count

    def _presence(self) -> list[tuple[str, tuple[str, bytes]]]:
        stream = StreamState(
            stream=STREAM, channels=list(CHANNELS), units=[UNIT] * len(CHANNELS), rate_hz=RATE_HZ
        )
        ingestion = Reported(
            session="s", streams=[stream], ledgers=self._logs["ingestion"].ledgers()
        )
        inference = self.service.reported().model_copy(update={"session": "s"})
        online = json.dumps(Status(state="online", session="s").model_dump(mode="json")).encode()
        found = []
        for service, reported in (("ingestion", ingestion), ("inference", inference)):
            found += [(service, ("status", online)), (service, ("reported", reported.encode()))]
        return found

    def close(self) -> None:
        """End it."""
        self.service.stop()
        self._reader.close()
        for outbox in self._outboxes.values():
            outbox.file.close()
        for log in self._logs.values():
            log.close()


def ferry_log(
    store: Store, log: Log, outbox: Outbox, device: str, service: str, now_ns: int
) -> int:
    """Send what waits in one log, and take the acknowledgements; how many rows."""
    log.commit(force=True)
    count = 0
    while (view := outbox.view()) is not None:
        waiting = outbox.waiting(0, view.durable, _ROWS, _BYTES)
        if not waiting:
            break
        letters = outbox.fetch([(w.key, w.key) for w in waiting])
        for batch in encode(letters, view.epochs, historical=False).batches:
            topic = str(Topic(FLEET, device, service, batch.channel))
            parcel = admit(topic, batch.payload, now_ns)
            assert parcel.log is not None
            intake = Intake(letters=parcel.letters, received_ns=now_ns)
            intake.rows[parcel.table] = parcel.rows
            store_intake(store, intake)
            log.apply([Ack(epoch=parcel.log.epoch, ranges=ranges_of(parcel.seqs))])
            count += len(parcel.seqs)
    return count
