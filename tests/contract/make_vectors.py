"""Writes golden vectors of the contract: bytes, and what a reader has to make of them.

Run `python tests/contract/make_vectors.py`. A vector that exists is never written again: devices in
the field speak it. New ones are added here.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2

from fieldloop_contract.batch import (
    SequencedFrame,
    SequencedRow,
    encode_frames,
    encode_rows,
)
from fieldloop_contract.calibration import Calibration
from fieldloop_contract.frames import Clock, Frame
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
)
from fieldloop_contract.messages import Ack, Annotation, Event, ModelRef, Result, Status

VECTORS = Path(__file__).parents[2] / "contract" / "vectors"
EPOCH, BOOT = "0123456789abcdef" * 2, "fedcba9876543210" * 2
T0 = 1_780_000_000_000_000_000


def frame(seq: int, *values: float, stream: str = "imu", channels: int = 2) -> SequencedFrame:
    samples = struct.pack(f"<{len(values)}f", *values)
    t0_ns = T0 + seq * 20_000_000
    item = Frame(stream, t0_ns, seq * 20_000_000, BOOT, Clock.HELD, 50.0, channels, samples)
    return SequencedFrame(seq, item)


def changed(payload: bytes, **fields: Any) -> bytes:
    return cbor2.dumps({**cbor2.loads(payload), **fields})


def manifest() -> Manifest:
    return Manifest(
        name="activity",
        version=2,
        task="classification",
        files={MODEL_FILE: FileRef.of(b"model" * 10_000), GOLDEN_FILE: FileRef.of(b"golden")},
        inputs=[
            Input(
                name="imu",
                channels=[Channel(name="ax", unit="g"), Channel(name="ay", unit="g")],
                rate_hz=50.0,
                window_samples=100,
                hop_samples=50,
                normalisation=Normalisation(centre=[0.0, 0.5], scale=[1.0, 2.0]),
            )
        ],
        outputs=[Output(name="activity", kind="probabilities", labels=["walk", "run"])],
        golden=Golden(count=8, tolerance=0.02),
    )


def of_two_streams() -> Manifest:
    """Channels of two streams in one input, and a second input of another rate."""
    motion = Input(
        name="motion",
        channels=[
            Channel(name="ax", unit="g"),
            Channel(name="load", unit="kW", stream="drive"),
        ],
        rate_hz=50.0,
        window_samples=100,
        hop_samples=50,
        resample="decimate",
        normalisation=Normalisation(centre=[0.0, 5.0], scale=[1.0, 2.0]),
    )
    heat = Input(
        name="heat",
        channels=[Channel(name="t", unit="Cel")],
        rate_hz=2.0,
        window_samples=8,
        hop_samples=2,
        resample="linear",
        normalisation=Normalisation(centre=[40.0], scale=[10.0]),
    )
    return manifest().model_copy(update={"inputs": [motion, heat]})


def calibration() -> Calibration:
    """The record that `calibration_vector.json` of the scoring tests makes."""
    path = Path(__file__).parents[1] / "unit" / "scoring" / "calibration_vector.json"
    return Calibration.model_validate(json.loads(path.read_text(encoding="utf-8"))["record"])


def vectors() -> dict[str, tuple[str, bytes, str | None]]:
    """Name to (decoder, bytes, code of the error or None)."""
    ref = ModelRef(name="activity", version=2, digest="ab" * 32)
    plain = encode_frames(EPOCH, [frame(1, 0.5, -0.25), frame(2, 1.0, 2.0)])
    smooth = [frame(i, *([i / 8] * 64), channels=1, stream="temperature") for i in range(1, 40)]
    later = frame(2, 1.0, 1.0)
    paused = SequencedFrame(2, replace(later.frame, planned_pause=True))
    nan = encode_frames(EPOCH, [frame(1, 0.5, 0.5), frame(2, float("nan"), 1.0), frame(3, 1, 1)])
    result = Result(
        stream="imu", slot="main", t0_ns=T0, t1_ns=T0 + 2_000_000_000, epoch=EPOCH, seq_first=1,
        seq_last=2, model=ref, task="classification", label="walk",
        probabilities={"walk": 0.75, "run": 0.25}, latency_us=80.5,
    )  # fmt: skip
    event = Event(
        id="e-1", source="acme/pump-7/inference", type="model.activated",
        time="2026-06-01T00:00:00Z", data={"slot": "main", "version": 2},
    )  # fmt: skip
    label = Annotation(device="pump-7", stream="imu", t0_ns=T0, t1_ns=T0 + 5, label="walk")
    rows = [SequencedRow(7, result.model_dump(mode="json", exclude_none=True))]
    encoded, record = manifest().encode(), calibration()
    return {
        "frames-raw.cbor": ("frames", plain, None),
        "frames-compressed.cbor": ("frames", encode_frames(EPOCH, smooth), None),
        "frames-historical.cbor": ("frames", encode_frames(EPOCH, smooth, historical=True), None),
        "frames-planned-pause.cbor": (
            "frames",
            encode_frames(EPOCH, [frame(1, 0.5, 0.5), paused]),
            None,
        ),
        "frames-unknown-field.cbor": ("frames", changed(plain, later="kept"), None),
        "frames-one-not-finite.cbor": ("frames", nan, None),
        "frames-truncated.cbor": ("frames", plain[:-3], "batch.cbor"),
        "frames-trailing.cbor": ("frames", plain + b"\x00", "batch.trailing"),
        "frames-other-version.cbor": ("frames", changed(plain, v=2), "batch.version"),
        "frames-bad-epoch.cbor": ("frames", changed(plain, epoch="../../x"), "batch.epoch"),
        "frames-not-a-map.cbor": ("frames", cbor2.dumps([1, 2]), "batch.shape"),
        "frames-nested.cbor": ("frames", b"\x81" * 5_000, "batch.cbor"),
        "results.json": ("rows", encode_rows(EPOCH, rows), None),
        "rows-not-json.json": ("rows", b'{"v":1,', "json.syntax"),
        "rows-nan.json": ("rows", b'{"v":1,"epoch":NaN,"rows":[]}', "json.syntax"),
        "rows-key-twice.json": ("rows", b'{"v":1,"v":1,"rows":[]}', "json.syntax"),
        "rows-nested.json": ("rows", b"[" * 40 + b"]" * 40, "json.depth"),
        "ack.json": ("Ack", Ack(epoch=EPOCH, ranges=[(1, 5), (7, 7)]).encode(), None),
        "ack-backwards.json": (
            "Ack",
            json.dumps({"v": 1, "epoch": EPOCH, "ranges": [[5, 1]]}).encode(),
            "message.invalid",
        ),
        "status.json": ("Status", Status(state="online", session="s-1").encode(), None),
        "event.json": ("Event", event.encode(), None),
        "annotation.json": ("Annotation", label.encode(), None),
        "annotation-empty-span.json": (
            "Annotation",
            b'{"device":"a","stream":"b","t0_ns":5,"t1_ns":5,"label":"x"}',
            "message.invalid",
        ),
        "manifest.json": ("Manifest", encoded, None),
        "manifest-two-streams.json": ("Manifest", of_two_streams().encode(), None),
        "manifest-unknown-resample.json": (
            "Manifest",
            of_two_streams().encode().replace(b'"decimate"', b'"guess"'),
            "message.invalid",
        ),
        "calibration.json": ("Calibration", record.encode(), None),
        "calibration-derived.json": (
            "Calibration",
            record.model_copy(update={"derived_from": "cd" * 32}).encode(),
            None,
        ),
        "calibration-no-threshold.json": (
            "Calibration",
            record.encode().replace(b'"threshold"', b'"level"'),
            "message.invalid",
        ),
        "manifest-no-golden.json": (
            "Manifest",
            encoded.replace(b'"golden.npz"', b'"gilded.npz"'),
            "message.invalid",
        ),
    }


def main() -> None:
    index_path = VECTORS / "index.json"
    index = json.loads(index_path.read_text(encoding="utf-8")) if index_path.exists() else {}
    for name, (decoder, payload, code) in vectors().items():
        if name not in index:
            (VECTORS / name).write_bytes(payload)
            index[name] = {"decoder": decoder, "error": code}
    index_path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
