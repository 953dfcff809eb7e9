"""Readings out of JSON and SenML: what is taken, and what is set aside with its reason."""

from __future__ import annotations

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fieldloop_contract.frames import Clock, samples_array
from fieldloop_ingestion.sources.framing import (
    Instant,
    Refused,
    frames_of,
    samples_max,
)
from fieldloop_ingestion.sources.jsonfields import (
    JsonMapping,
    JsonReader,
    NotThere,
    Reading,
    parse_pointer,
    resolve,
    time_ns,
)
from fieldloop_ingestion.sources.senml import SenmlMapping, SenmlReader
from support.sources import BOOT, T0_NS, stream_of

BYTES_MAX = 64 * 1024
NOW_NS = T0_NS


# ---- JSON pointers: RFC 6901 --------------------------------------------------------------------

RFC_6901 = {
    "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6,
    " ": 7, "m~n": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC_6901), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1),
        ("/c%d", 2), ("/e^f", 3), ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8),
    ],
)  # fmt: skip
def test_pointers_lead_where_the_rfc_says(pointer: str, value: object):
    assert resolve(RFC_6901, parse_pointer(pointer)) == value


@pytest.mark.parametrize("pointer", ["foo", "/a~2", "/a~", "~1"])
def test_a_text_that_is_no_pointer_is_refused(pointer: str):
    with pytest.raises(ValueError, match=r"pointer|followed"):
        parse_pointer(pointer)
    with pytest.raises(ValidationError):
        JsonMapping(fields={"a": pointer})


@pytest.mark.parametrize("pointer", ["/foo/2", "/foo/00", "/foo/-", "/foo/-1", "/bar", "/foo/x"])
def test_a_pointer_to_nothing_is_told(pointer: str):
    with pytest.raises(NotThere):
        resolve(RFC_6901, parse_pointer(pointer))


def test_tilde_one_is_read_before_tilde_zero():
    assert parse_pointer("/~01") == ["~1"]


# ---- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "ns"),
    [
        (1_790_000_000, "s", 1_790_000_000_000_000_000),
        (1_790_000_000.25, "s", 1_790_000_000_250_000_000),
        (1_790_000_000_123, "ms", 1_790_000_000_123_000_000),
        (1_790_000_000_123_456, "us", 1_790_000_000_123_456_000),
        (1_790_000_000_123_456_789, "ns", 1_790_000_000_123_456_789),
        ("2026-09-21T14:13:20Z", "iso8601", 1_790_000_000_000_000_000),
        ("2026-09-21T16:13:20.000001+02:00", "iso8601", 1_790_000_000_000_001_000),
    ],
)
def test_times_are_read_exactly(value: object, unit: str, ns: int):
    assert time_ns(value, unit) == ns


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("2026-09-21T13:33:20", "iso8601"),
        ("yesterday", "iso8601"),
        (5, "iso8601"),
        ("5", "s"),
        (True, "s"),
        (-1, "s"),
        (10**30, "ns"),
        (1e300, "s"),
        (None, "ms"),
    ],
)
def test_a_time_that_is_none_is_refused(value: object, unit: str):
    with pytest.raises(NotThere):
        time_ns(value, unit)


# ---- JSON readings ------------------------------------------------------------------------------


def read_json(document: object, **mapping: object) -> list[Reading | Refused]:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    made = JsonMapping.model_validate({"fields": {"a": "/a", "b": "/b"}, **mapping})
    return list(JsonReader(made, ["a", "b"]).read(payload, BYTES_MAX))


def test_channels_of_one_message_make_one_row_in_the_order_of_the_stream():
    mapping = {"fields": {"b": "/y", "a": "/x"}}
    assert read_json({"y": 2, "x": 1}, **mapping) == [Reading([1.0, 2.0])]


def test_a_bare_number_is_found_by_the_empty_pointer():
    reader = JsonReader(JsonMapping(fields={"a": ""}), ["a"])
    assert list(reader.read(b" 21.5\n", BYTES_MAX)) == [Reading([21.5])]


def test_arrays_make_a_block():
    time = {"pointer": "/t", "unit": "ms", "of": "last"}
    [reading] = read_json({"a": [1, 2], "b": [3, 4], "t": 7}, time=time)
    assert reading == Reading([1.0, 3.0, 2.0, 4.0], 7_000_000, "last")


def test_a_bad_item_is_set_aside_and_its_neighbours_pass():
    items = [{"a": 1, "b": 1}, {"a": "x", "b": 2}, {"a": 3}, 4, {"a": 5, "b": 5}]
    first, text, absent, scalar, last = read_json({"all": items}, items="/all")
    assert (first, last) == (Reading([1.0, 1.0]), Reading([5.0, 5.0]))
    assert [r.code for r in (text, absent, scalar)] == ["reading.field"] * 3
    assert "a: 'x' is not a number" in text.reason
    assert "b: nothing at 'b'" in absent.reason


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "json.syntax"),
        (b"\xff\xfe", "json.syntax"),
        (b'{"a": 1, "a": 2, "b": 3}', "json.syntax"),
        (b'{"a": NaN, "b": 1}', "json.syntax"),
        (b'{"a": 1e999, "b": 1}', "json.syntax"),
        (b'{"a": ' + b"[" * 9_999, "json.syntax"),
        (b'{"a": ' + b"9" * 5_000 + b', "b": 1}', "json.syntax"),
        (b'{"a": ' + b"9" * 400 + b', "b": 1}', "reading.field"),
        (b'{"a": true, "b": 1}', "reading.field"),
        (b'{"a": [], "b": []}', "reading.field"),
        (b'{"a": [1], "b": [1, 2]}', "reading.field"),
        (b'{"a": [1, null], "b": [1, 2]}', "reading.field"),
        (b'{"a": "\\ud800", "b": 1}', "reading.field"),
        (b'"' + b"x" * BYTES_MAX + b'"', "json.bytes"),
    ],
)
def test_a_bad_message_is_refused_with_its_reason(payload: bytes, code: str):
    [refused] = read_json(payload)
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert refused.reason
    assert len(refused.excerpt) <= 128


def test_items_that_are_no_array_are_refused():
    assert read_json({"all": 5}, items="/all")[0].code == "reading.items"
    assert read_json({}, items="/all")[0].code == "reading.items"


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_make_the_readers_fail(payload: bytes):
    for item in read_json(payload):
        assert isinstance(item, Reading | Refused)
    for item in read_senml(payload):
        assert isinstance(item, Reading | Refused)


# ---- SenML: RFC 8428 ----------------------------------------------------------------------------


def read_senml(document: object, **changes: object) -> list[Reading | Refused]:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    mapping = {"names": {"t": "urn:dev:1:temp", "h": "urn:dev:1:hum"}, **changes}
    made = SenmlMapping.model_validate(mapping)
    return list(SenmlReader(made, [("t", "Cel"), ("h", "%RH")]).read(payload, BYTES_MAX, NOW_NS))


T = {"n": "temp", "u": "Cel", "v": 21.5}
H = {"n": "hum", "u": "%RH", "v": 40}
BASE = {"bn": "urn:dev:1:", "bt": 1_790_000_000}


def test_records_of_one_time_make_one_row():
    assert read_senml([BASE | T, H]) == [Reading([21.5, 40.0], 1_790_000_000 * 10**9)]


def test_base_values_hold_until_others_come():
    pack = [
        {**BASE, "bv": 20, "bu": "Cel", "n": "temp", "v": 1.5, "t": -1},
        {"n": "hum", "u": "%RH", "v": 0, "t": -1},
        {"n": "temp", "v": 2, "bt": 1_790_000_100},
        {"n": "hum", "u": "%RH", "v": 1, "bv": 0},
    ]
    assert read_senml(pack) == [
        Reading([21.5, 20.0], 1_789_999_999 * 10**9),
        Reading([22.0, 1.0], 1_790_000_100 * 10**9),
    ]


@pytest.mark.parametrize(("t", "s"), [(-5, -5), (0, 0), (2.5, 2.5), ((1 << 28) - 1, (1 << 28) - 1)])
def test_small_times_count_from_now(t: float, s: float):
    pack = [{"bn": "urn:dev:1:", **T, "t": t}, {**H, "t": t}]
    assert read_senml(pack)[0].t_ns == NOW_NS + round(s * 1e9)


def test_a_time_from_two_to_the_28_is_absolute():
    pack = [{"bn": "urn:dev:1:", "bt": 1 << 28, **T}, H]
    assert read_senml(pack)[0].t_ns == (1 << 28) * 10**9


def test_fractions_of_a_time_survive_a_large_base():
    pack = [{**BASE, **T, "t": 0.000001}, {**H, "t": 0.000001}]
    assert read_senml(pack)[0].t_ns == 1_790_000_000_000_001_000


def test_units_are_checked():
    wrong = read_senml([BASE | T | {"u": "K"}, H])
    assert "the unit 'K', t is in Cel" in wrong[0].reason
    assert wrong[1].code == "senml.incomplete"
    bare = {"n": "temp", "v": 21.5}
    assert "no unit" in read_senml([BASE | bare, H])[0].reason
    assert isinstance(read_senml([BASE | bare, H], units_optional=True)[0], Reading)
    assert isinstance(read_senml([BASE | T | {"u": "K"}, H], units={"t": "K"})[0], Reading)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (5, "not an object"),
        ({"n": "other", "u": "Cel", "v": 1}, "no channel"),
        ({**T, "n": "tem p"}, "not a name"),
        ({**T, "n": 5}, "n is 5"),
        ({"n": "temp", "u": "Cel", "vs": "warm"}, "no number"),
        ({"n": "temp", "u": "Cel", "s": 5}, "no number"),
        ({**T, "v": "21"}, "not a number"),
        ({**T, "v": True}, "not a number"),
        ({**T, "t": "now"}, "not a number"),
        ({**T, "t": 1e300}, "a time of"),
        ({**T, "new_": 1}, "understood"),
        (T, "twice"),
    ],
)
def test_a_bad_record_is_set_aside_and_its_neighbours_pass(record: object, reason: str):
    found = read_senml([BASE, T, record, H])
    assert isinstance(found[0], Refused)
    assert reason in found[0].reason
    assert found[-1] == Reading([21.5, 40.0], 1_790_000_000 * 10**9)


def test_bad_base_values_spoil_what_follows_but_not_what_came_before():
    found = read_senml([BASE | T, H, {"bt": "x"}, {**T, "t": 5}, {**H, "t": 5}])
    assert [type(item) for item in found] == [Refused, Reading]
    assert found[0].code == "senml.base"
    newer = read_senml([{"bver": 11, **BASE}, T, H])
    assert len(newer) == 1
    assert "version 11" in newer[0].reason


def test_other_names_can_be_ignored():
    pack = [BASE | T, H, {"n": "battery", "u": "V", "v": 3}]
    assert len(read_senml(pack, others="ignore")) == 1
    assert len(read_senml(pack)) == 2


def test_booleans_are_zero_and_one():
    mapping = SenmlMapping(names={"s": "switch"})
    pack = b'[{"n":"switch","vb":true,"t":1790000000}]'
    [reading] = SenmlReader(mapping, [("s", "1")]).read(pack, BYTES_MAX, NOW_NS)
    assert reading.values == [1.0]


def test_a_pack_is_an_array():
    assert read_senml({"n": "temp"})[0].code == "senml.pack"
    assert read_senml([]) == []


# ---- rows to frames -----------------------------------------------------------------------------

AT = Instant(T0_NS, 10**9, BOOT, Clock.HELD)


def test_a_bad_row_of_a_block_is_set_aside_and_time_goes_on_over_it():
    stream = stream_of("a", "b", rate_hz=10, min=-5.0, max=5.0)
    values = [1, 1, 2, 9, 3, 3, 4, float("inf"), 5, 5]
    pieces = list(frames_of(stream, values, AT))
    frames = [p for p in pieces if not isinstance(p, Refused)]
    refused = [p for p in pieces if isinstance(p, Refused)]
    assert [list(samples_array(f.samples)) for f in frames] == [[1, 1], [3, 3], [5, 5]]
    assert [f.t0_ns - T0_NS for f in frames] == [0, 200_000_000, 400_000_000]
    assert [f.mono_ns - 10**9 for f in frames] == [0, 200_000_000, 400_000_000]
    assert [r.code for r in refused] == ["reading.range", "reading.not-finite"]
    assert refused[0].reason == "b 9 is above 5"


def test_a_number_beyond_float32_is_not_taken():
    pieces = list(frames_of(stream_of("a"), [1e39, 1.0], AT))
    assert [type(p).__name__ for p in pieces] == ["Refused", "Frame"]


def test_a_time_beyond_int64_spoils_the_block_and_nothing_else():
    [refused] = frames_of(stream_of("a"), [1.0], Instant(1 << 63, 0, BOOT, Clock.HELD))
    assert refused.code == "frame.time"


def test_a_long_block_becomes_frames_within_the_bound():
    n = samples_max(3) + 10
    frames = list(frames_of(stream_of("a", "b", "c"), array("f", [0.5] * (3 * n)), AT))
    assert [f.n for f in frames] == [samples_max(3), 10]
    assert frames[1].t0_ns == frames[0].t1_ns


@given(
    st.lists(st.floats(width=32) | st.floats(), max_size=60).filter(lambda v: len(v) % 2 == 0),
)
def test_every_row_is_either_in_a_frame_or_refused(values: list[float]):
    stream = stream_of("a", "b", min=-1e6, max=1e6)
    pieces = list(frames_of(stream, values, AT))
    rows = sum(1 if isinstance(p, Refused) else p.n for p in pieces)
    assert rows == len(values) // 2
