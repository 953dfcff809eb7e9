"""A store with devices that recorded something, and labels for it.

The signals are physical: a limb that swings with a period of its own for each activity, under
gravity, so that a class is a frequency and a posture and not a number in a table.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.messages import Annotation, LedgerTotals, Reported, Status, StreamState
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.presence import Presence
from fieldloop_store.rows import LogKey, annotation_row, frame_row

FLEET, STREAM, RATE_HZ = "demo", "imu", 50.0
CHANNELS, UNITS = ["ax", "ay", "az"], ["g", "g", "g"]
START_NS = 1_790_000_000 * 10**9
SWINGS_HZ = {"rest": 0.0, "walk": 1.0, "run": 2.8}


def swing(label: str, seconds: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """float32[n, 3] in g: a pendulum of the activity's frequency, gravity, sensor noise."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    frequency = SWINGS_HZ[label] * rng.uniform(0.9, 1.1)
    phase = 2 * np.pi * frequency * t + rng.uniform(0, 2 * np.pi)
    angle = (0.0 if label == "rest" else 0.6) * np.sin(phase)
    forward = np.sin(angle) + 0.02 * frequency**2 * np.sin(phase)
    signal = np.stack([forward, 0.3 * np.sin(phase + 1.0) * (frequency > 0), np.cos(angle)], axis=1)
    return (signal + rng.normal(0, 0.03, signal.shape)).astype(np.float32)


class Field:
    """Writes what telemetry would have written."""

    def __init__(self, store: Store, channels: list[str] = CHANNELS, units: list[str] = UNITS):
        self.store = store
        self.channels, self.units = channels, units
        self._epochs: dict[tuple[str, str], str] = {}
        self._seq: dict[tuple[str, str], int] = {}
        self._now_ns: dict[str, int] = {}
        self._arrivals = 0

    @classmethod
    def at(cls, folder: Path) -> Field:
        return cls(Store.open(f"sqlite:///{folder}/store.sqlite"))

    def _place(self, device: str, service: str) -> tuple[LogKey, int]:
        who = (device, service)
        epoch = self._epochs.setdefault(who, uuid.uuid4().hex)
        self._seq[who] = self._seq.get(who, 0) + 1
        return LogKey(FLEET, device, service, epoch), self._seq[who]

    def _received(self) -> int:
        self._arrivals += 1
        return START_NS + self._arrivals

    def announce(self, device: str) -> None:
        """The device comes online and declares its stream."""
        state = StreamState(
            stream=STREAM, channels=self.channels, units=self.units, rate_hz=RATE_HZ
        )
        ledger = LedgerTotals(epoch=uuid.uuid4().hex, produced=0, stored=0, pending=0, withheld=0)
        intake = Intake(received_ns=self._received())
        for message in (
            Status(state="online", session="s"),
            Reported(session="s", streams=[state], ledgers=[ledger]),
        ):
            intake.presence.append(
                Presence(FLEET, device, "ingestion", message, intake.received_ns)
            )
        store_intake(self.store, intake)

    def record(
        self, device: str, signal: NDArray[np.float32], pause_s: float = 10.0
    ) -> tuple[int, int]:
        """Store a signal as frames of a second; returns its span. A pause comes before it."""
        intake = Intake(received_ns=self._received())
        t0_ns = self._now_ns.get(device, START_NS) + round(pause_s * 1e9)
        step = round(RATE_HZ)
        for at in range(0, len(signal), step):
            block = signal[at : at + step]
            begins_ns = t0_ns + round(at * 1e9 / RATE_HZ)
            frame = Frame(
                STREAM, begins_ns, begins_ns, "ab" * 16, Clock.SYNCHRONISED, RATE_HZ,
                signal.shape[1], np.ascontiguousarray(block, "<f4").tobytes(),
            )  # fmt: skip
            log, seq = self._place(device, "ingestion")
            row = frame_row(log, SequencedFrame(seq, frame), intake.received_ns)
            intake.rows["frames"].append(row)
        store_intake(self.store, intake)
        t1_ns = t0_ns + round(len(signal) * 1e9 / RATE_HZ)
        self._now_ns[device] = t1_ns
        return t0_ns, t1_ns

    def annotate(
        self, device: str, span: tuple[int, int], label: str, confidence: float = 1.0
    ) -> None:
        """The desk labels a span."""
        note = Annotation(
            device=device, stream=STREAM, t0_ns=span[0], t1_ns=span[1], label=label,
            confidence=confidence,
        )  # fmt: skip
        log, seq = self._place("desk", "labels")
        intake = Intake(received_ns=self._received())
        document = note.model_dump(mode="json")
        intake.rows["annotations"].append(
            annotation_row(log, seq, note, document, intake.received_ns)
        )
        store_intake(self.store, intake)

    def subject(self, device: str, seed: int, seconds: float = 12.0) -> None:
        """A device that recorded each activity once, all labelled."""
        rng = np.random.default_rng(seed)
        self.announce(device)
        for label in SWINGS_HZ:
            self.annotate(device, self.record(device, swing(label, seconds, rng)), label)
