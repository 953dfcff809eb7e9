"""Frames and manifests: what is refused, and with which code."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from fieldloop_contract.errors import FieldloopError, FixConfiguration, MalformedMessage
from fieldloop_contract.feeding import check_stream
from fieldloop_contract.frames import FRAME_BYTES_MAX, Clock, Frame, check_frame
from fieldloop_contract.manifest import (
    CHUNK_BYTES_MAX,
    FileRef,
    Input,
    Manifest,
    check_bundle,
    parse_manifest,
    sha256,
    split,
)
from fieldloop_contract.messages import LedgerTotals, Result, from_object

GOOD = Frame("imu", 10, 10, "0" * 32, Clock.HELD, 50.0, 2, struct.pack("<4f", 1, 2, 3, 4))


def test_a_good_frame_passes_and_knows_its_span():
    assert check_frame(GOOD) is GOOD
    assert GOOD.n == 2
    assert GOOD.t1_ns == 10 + 40_000_000


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"samples": b""}, "frame.ragged"),
        ({"samples": b"\x00" * 12}, "frame.ragged"),
        ({"samples": struct.pack("<2f", 1, float("inf"))}, "frame.not-finite"),
        ({"samples": struct.pack("<4f", 1, float("inf"), float("-inf"), 1)}, "frame.not-finite"),
        ({"samples": struct.pack("<2f", 1, float("nan"))}, "frame.not-finite"),
        ({"samples": b"\x00" * (FRAME_BYTES_MAX + 8)}, "input.limit"),
        ({"rate_hz": 0.0}, "frame.rate"),
        ({"rate_hz": float("nan")}, "frame.rate"),
        ({"t0_ns": -1}, "frame.time"),
        ({"t0_ns": 2**63}, "frame.time"),
        ({"channels": 0}, "input.limit"),
        ({"channels": 65}, "input.limit"),
    ],
)
def test_a_bad_frame_is_refused_with_its_code(change, code):
    with pytest.raises(FieldloopError) as caught:
        check_frame(replace(GOOD, **change))
    assert caught.value.code == code


def test_the_largest_float_is_finite_however_often_it_stands_there():
    biggest = struct.pack("<f", 3.4028234663852886e38) * (FRAME_BYTES_MAX // 4)
    assert check_frame(replace(GOOD, samples=biggest))


def test_chunks_cover_a_file_exactly():
    data = bytes(range(256)) * 300
    ref = FileRef.of(data)
    assert b"".join(split(data)) == data
    assert [sha256(c) for c in split(data)] == ref.chunks
    assert ref.length == len(data) > CHUNK_BYTES_MAX
    with pytest.raises(ValueError, match="cover"):
        FileRef(sha256=ref.sha256, length=len(data) * 2, chunks=ref.chunks)


INPUT = {
    "name": "imu",
    "channels": [{"name": "ax", "unit": "g"}],
    "rate_hz": 50,
    "window_samples": 10,
    "hop_samples": 5,
    "normalisation": {"centre": [0], "scale": [1]},
}


def document(**changes):
    model, golden = b"m" * 40_000, b"g"
    base = {
        "name": "activity",
        "version": 1,
        "task": "classification",
        "files": {
            "model.tflite": FileRef.of(model).model_dump(),
            "golden.npz": FileRef.of(golden).model_dump(),
        },
        "inputs": [INPUT],
        "outputs": [{"name": "y", "kind": "probabilities", "labels": ["a", "b"]}],
        "golden": {"count": 1, "tolerance": 0.1},
    }
    return base | changes, {"model.tflite": model, "golden.npz": golden}


def test_a_bundle_is_exactly_the_files_of_its_manifest():
    described, files = document()
    manifest = Manifest.model_validate(described)
    check_bundle(manifest, files)
    for bad in (
        {**files, "model.tflite": b"m" * 39_999 + b"x"},
        {**files, "extra": b""},
        {"model.tflite": files["model.tflite"]},
    ):
        with pytest.raises(MalformedMessage):
            check_bundle(manifest, bad)


def test_the_digest_of_a_manifest_is_that_of_its_bytes():
    manifest = Manifest.model_validate(document()[0])
    assert parse_manifest(manifest.encode()).digest() == manifest.digest()
    assert manifest.ref().digest == sha256(manifest.encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"version": 2**63},
        {"name": "../x"},
        {"inputs": []},
        {"inputs": [INPUT | {"hop_samples": 11}]},
        {"inputs": [INPUT | {"normalisation": {"centre": [0, 0], "scale": [1, 1]}}]},
        {"inputs": [INPUT | {"normalisation": {"centre": [0], "scale": [0]}}]},
        {"inputs": [INPUT | {"rate_hz": float("inf")}]},
        {"outputs": [{"name": "y", "kind": "probabilities"}]},
        {"task": "divination"},
        {"golden": {"count": 1, "tolerance": 0}},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(changes):
    with pytest.raises(MalformedMessage):
        from_object(Manifest, document(**changes)[0])


def test_a_stream_has_to_fit_its_input():
    spec = Input.model_validate(INPUT)
    check_stream(spec, ["ax"], ["g"], 50.0)
    for channels, units, rate_hz in (
        (["ay"], ["g"], 50.0),
        (["ax"], ["m/s2"], 50.0),
        (["ax"], ["g"], 100.0),
        (["ax", "ay"], ["g", "g"], 50.0),
    ):
        with pytest.raises(FixConfiguration):
            check_stream(spec, channels, units, rate_hz)


def test_books_balance_or_do_not():
    totals = {"epoch": "a" * 32, "produced": 10, "stored": 6, "pending": 2, "withheld": 1}
    assert LedgerTotals.model_validate(totals | {"dropped": {"full": 1}}).balanced
    assert not LedgerTotals.model_validate(totals).balanced


def test_a_result_with_an_infinite_score_is_refused():
    ref = {"name": "m", "version": 1, "digest": "a" * 64}
    row = {
        "stream": "a", "slot": "b", "t0_ns": 1, "t1_ns": 2, "epoch": "a" * 32, "seq_first": 1,
        "seq_last": 1, "model": ref, "task": "anomaly", "latency_us": 1.0,
    }  # fmt: skip
    assert from_object(Result, row | {"score": 1.0}).score == 1.0
    with pytest.raises(MalformedMessage, match="score"):
        from_object(Result, row | {"score": float("inf")})
