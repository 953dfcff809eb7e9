"""The golden vectors: frozen bytes that every release has to read the same way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fieldloop_contract import messages
from fieldloop_contract.asyncapi import document
from fieldloop_contract.batch import decode_frames, decode_rows, encode_frames
from fieldloop_contract.calibration import parse_calibration
from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.manifest import Manifest, parse_manifest

ROOT = Path(__file__).parents[2] / "contract"
INDEX: dict[str, dict[str, Any]] = json.loads((ROOT / "vectors/index.json").read_text("utf-8"))
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "frames": decode_frames,
    "rows": decode_rows,
    "Manifest": parse_manifest,
    "Calibration": parse_calibration,
    **{
        name: lambda payload, name=name: messages.decode(getattr(messages, name), payload)
        for name in ("Ack", "Status", "Event", "Annotation")
    },
}


def read(name: str) -> bytes:
    return (ROOT / "vectors" / name).read_bytes()


def test_every_file_of_the_folder_is_in_the_index():
    assert {p.name for p in (ROOT / "vectors").iterdir()} == {*INDEX, "index.json"}


@pytest.mark.parametrize("name", [n for n, v in INDEX.items() if v["error"] is None])
def test_valid_vector_is_read(name: str):
    assert DECODERS[INDEX[name]["decoder"]](read(name)) is not None


@pytest.mark.parametrize("name", [n for n, v in INDEX.items() if v["error"]])
def test_invalid_vector_is_refused_with_its_code(name: str):
    with pytest.raises(FieldloopError) as caught:
        DECODERS[INDEX[name]["decoder"]](read(name))
    assert caught.value.code == INDEX[name]["error"]


def test_values_of_a_frozen_batch_are_what_they_were():
    batch = decode_frames(read("frames-raw.cbor"))
    assert [r.seq for r in batch.rows] == [1, 2]
    assert batch.rows[0].frame.array().tolist() == [[0.5, -0.25]]
    assert batch.rows[1].frame.t0_ns == 1_780_000_000_040_000_000
    assert not batch.historical
    assert decode_frames(read("frames-historical.cbor")).historical


def test_a_planned_pause_is_told_where_there_was_one():
    batch = decode_frames(read("frames-planned-pause.cbor"))
    assert [r.frame.planned_pause for r in batch.rows] == [False, True]


def test_compressed_block_gives_the_samples_back_and_is_smaller():
    batch = decode_frames(read("frames-compressed.cbor"))
    assert [r.frame.array()[0, 0] for r in batch.rows] == [i / 8 for i in range(1, 40)]
    assert all(math.isfinite(v) for r in batch.rows for v in r.frame.array()[:, 0])
    assert len(read("frames-compressed.cbor")) < 39 * 64 * 4 / 4


def test_one_bad_frame_is_refused_and_its_neighbours_pass():
    batch = decode_frames(read("frames-one-not-finite.cbor"))
    assert [r.seq for r in batch.rows] == [1, 3]
    assert [(r.seq, r.code) for r in batch.refused] == [(2, "frame.not-finite")]


def test_a_writer_of_today_still_writes_what_a_reader_of_then_reads():
    rows = decode_frames(read("frames-raw.cbor")).rows
    assert decode_frames(encode_frames("0123456789abcdef" * 2, rows)).rows == rows


def test_an_unknown_field_of_a_newer_sender_is_kept():
    newer = {**json.loads(read("manifest.json")), "later": {"a": 1}}
    kept = json.loads(Manifest.model_validate(newer).encode())
    assert kept["later"] == {"a": 1}


def test_asyncapi_file_is_what_the_code_says():
    on_disk = json.loads((ROOT / "asyncapi.json").read_text("utf-8"))
    assert on_disk == json.loads(json.dumps(document())), "run `make docs`"


def test_asyncapi_names_every_channel_and_resolves_every_reference():
    described = document()
    text = json.dumps(described)

    def resolve(reference: str) -> Any:
        node: Any = described
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        return node

    references = {piece.split('"', 1)[0] for piece in text.split('"$ref": "')[1:]}
    assert len(references) > 20
    assert all(resolve(r) for r in references)


def test_json_vectors_validate_against_the_published_schemas():

    described = document()
    for name in ("ack.json", "status.json", "event.json", "annotation.json", "manifest.json"):
        schema = {
            "$ref": f"#/components/schemas/{INDEX[name]['decoder']}",
            "components": described["components"],
        }
        jsonschema.validate(json.loads(read(name)), schema)
    rows = {**described["components"]["messages"]["results"]["payload"]}
    rows["components"] = described["components"]
    jsonschema.validate(json.loads(read("results.json")), rows)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"v": 1, "epoch": "x", "rows": []}, rows)
