"""Batches: rows of a log on their way up, in CBOR (`frames`, `samples`) or JSON (all others).

A CBOR batch (RFC 8949) is the map

    v: 1, epoch: hex, historical: bool, boots: [hex, ...],
    streams: [[id, channels, rate_hz, codec, block], ...],
    rows: [[seq, stream index, t0_ns, mono_ns, boot index, clock code, n, flags?], ...]

where a stream's `block` holds the samples of its rows one after the other: as a float32
little-endian typed array (tag 85 of RFC 8746) with codec 0, or, where it pays, as the byte-shuffled
samples compressed with Zstandard with codec 1. Byte shuffling (all first bytes, then all second
bytes, ...) is the filter of HDF5 and Blosc: exponents of neighbouring samples are alike. Samples of
many small frames share one block, so that a 1 Hz sensor does not pay a header for each value.

A JSON batch is `{"v": 1, "epoch": hex, "historical": bool, "rows": [{"seq": 1, ...}, ...]}`.

Both decoders give back the rows that are right and, one by one, the reasons for those that are not.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import cbor2
import zstandard

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.errors import FieldloopError, LimitExceeded, MalformedMessage, WrongStream
from fieldloop_contract.frames import (
    CHANNELS_MAX,
    FLOAT_BYTES,
    FRAME_SAMPLES_MAX,
    RATE_HZ_MAX,
    T_NS_MAX,
    Clock,
    Frame,
    check_frame,
)
from fieldloop_contract.ids import EPOCH_PATTERN, check_id

BATCH_BYTES_MAX = 256 * 1024
BATCH_BLOCK_BYTES_MAX = 4 << 20
BATCH_ROWS_MAX = 10_000
BATCH_STREAMS_MAX = 64
SEQ_MAX = (1 << 63) - 1
JSON_DEPTH_MAX = 32
_FLOAT32_LE = 85
_CODEC_RAW, _CODEC_SHUFFLE_ZSTD = 0, 1
_PLANNED_PAUSE = 1
_COMPRESS_PAYS_BELOW = 0.95
_CLOCKS = (Clock.UNKNOWN, Clock.SYNCHRONISED, Clock.HELD)
_EPOCH = re.compile(EPOCH_PATTERN.removesuffix("$") + r"\Z")  # `$` would let a newline pass
RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class SequencedFrame:
    """A frame with its place in a log."""

    seq: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class SequencedRow:
    """A JSON row with its place in a log; `row` is without `seq`."""

    seq: int
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that is not right. `seq` is None where not even that could be read."""

    seq: int | None
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch(Generic[RowT]):
    """A decoded batch: what is right, and what was refused, in the order of the wire."""

    epoch: str
    historical: bool
    rows: list[RowT]
    refused: list[Refused] = field(default_factory=list)


def shuffle(data: bytes) -> bytes:
    """Group the bytes of float32 values by significance."""
    return b"".join(data[i::FLOAT_BYTES] for i in range(FLOAT_BYTES))


def unshuffle(data: bytes) -> bytes:
    """Undo `shuffle`. The length must be a multiple of 4."""
    n = len(data) // FLOAT_BYTES
    out = bytearray(len(data))
    for i in range(FLOAT_BYTES):
        out[i::FLOAT_BYTES] = data[i * n : (i + 1) * n]
    return bytes(out)


def encode_frames(
    epoch: str, rows: Sequence[SequencedFrame], *, historical: bool = False, level: int = 3
) -> bytes:
    """Encode frames of one epoch. Frames are taken as checked.

    Args:
        level: Zstandard level; 3 is its default.

    Raises:
        LimitExceeded: more rows or streams than a batch may hold.
    """
    if not 0 < len(rows) <= BATCH_ROWS_MAX:
        raise LimitExceeded(f"{len(rows)} rows in a batch", hint=f"1 to {BATCH_ROWS_MAX}")
    boots: dict[str, int] = {}
    streams: dict[tuple[str, int, float], int] = {}
    blocks: list[list[bytes]] = []
    encoded: list[list[int]] = []
    for item in rows:
        f = item.frame
        key = (f.stream, f.channels, f.rate_hz)
        index = streams.setdefault(key, len(streams))
        if index == len(blocks):
            blocks.append([])
        blocks[index].append(f.samples)
        boot = boots.setdefault(f.boot, len(boots))
        clock = _CLOCKS.index(f.clock)
        row = [item.seq, index, f.t0_ns, f.mono_ns, boot, clock, f.n]
        encoded.append([*row, _PLANNED_PAUSE] if f.planned_pause else row)
    if len(streams) > BATCH_STREAMS_MAX:
        raise LimitExceeded(
            f"{len(streams)} streams in a batch", hint=f"at most {BATCH_STREAMS_MAX}"
        )
    table: list[list[Any]] = []
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=False)
    for (stream, channels, rate_hz), parts in zip(streams, blocks, strict=True):
        raw = b"".join(parts)
        packed = compressor.compress(shuffle(raw))
        if len(packed) < _COMPRESS_PAYS_BELOW * len(raw):
            table.append([stream, channels, rate_hz, _CODEC_SHUFFLE_ZSTD, packed])
        else:
            table.append([stream, channels, rate_hz, _CODEC_RAW, cbor2.CBORTag(_FLOAT32_LE, raw)])
    return cbor2.dumps(
        {
            "v": CONTRACT_VERSION,
            "epoch": epoch,
            "historical": historical,
            "boots": list(boots),
            "streams": table,
            "rows": encoded,
        }
    )


def _header(document: Any) -> tuple[str, bool, list[Any]]:
    if not isinstance(document, dict):
        raise MalformedMessage("a batch is a map", code="batch.shape")
    version, epoch, rows = document.get("v"), document.get("epoch"), document.get("rows")
    if version != CONTRACT_VERSION:
        raise MalformedMessage(f"batch version {version!r:.20}", code="batch.version")
    if not isinstance(epoch, str) or not _EPOCH.match(epoch):
        raise MalformedMessage(f"epoch {epoch!r:.60}", code="batch.epoch")
    if not isinstance(rows, list):
        raise MalformedMessage("a batch has a list of rows", code="batch.shape")
    if len(rows) > BATCH_ROWS_MAX:
        raise LimitExceeded(f"{len(rows)} rows in a batch", code="batch.rows")
    return epoch, document.get("historical") is True, rows


def _seq(value: Any) -> int | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= SEQ_MAX
    return value if ok else None


def decode_frames(payload: bytes) -> Batch[SequencedFrame]:
    """Decode a CBOR batch in bounded memory.

    Returns:
        The frames that are right, each checked by `check_frame`, and the refused rows.

    Raises:
        LimitExceeded: the batch is over a bound as a whole.
        MalformedMessage: it is not a batch at all.
    """
    if len(payload) > BATCH_BYTES_MAX:
        raise LimitExceeded(f"a batch of {len(payload)} bytes", code="batch.bytes")
    stream_in = io.BytesIO(payload)
    try:
        document = cbor2.load(stream_in)
    except (cbor2.CBORDecodeError, ValueError, RecursionError, OverflowError, TypeError) as error:
        raise MalformedMessage(f"not CBOR: {error!s:.120}", code="batch.cbor") from error
    if stream_in.read(1):
        raise MalformedMessage("bytes after the end of the batch", code="batch.trailing")
    epoch, historical, rows = _header(document)
    boots = document.get("boots")
    if not isinstance(boots, list) or not all(
        isinstance(b, str) and _EPOCH.match(b) for b in boots
    ):
        raise MalformedMessage("boots is a list of boot ids", code="batch.boots")
    table = document.get("streams")
    if not isinstance(table, list) or len(table) > BATCH_STREAMS_MAX:
        raise MalformedMessage("streams is a short list", code="batch.streams")
    budget = BATCH_BLOCK_BYTES_MAX
    streams: list[_Stream | FieldloopError] = []
    for entry in table:
        try:
            stream = _decode_stream(entry, budget)
            budget -= len(stream.block)
            streams.append(stream)
        except FieldloopError as error:
            streams.append(error)
    _check_lengths(rows, streams)
    good: list[SequencedFrame] = []
    refused: list[Refused] = []
    for row in rows:
        seq = _seq(row[0]) if isinstance(row, list) and row else None
        try:
            good.append(_decode_row(row, streams, boots))
        except FieldloopError as error:
            refused.append(Refused(seq, error.code, str(error)))
    return Batch(epoch, historical, good, refused)


@dataclass(slots=True)
class _Stream:
    stream: str
    channels: int
    rate_hz: float
    block: bytes
    at: int = 0


def _decode_stream(entry: Any, budget: int) -> _Stream:
    if not isinstance(entry, list) or len(entry) < 5:
        raise MalformedMessage(
            "a stream is [id, channels, rate, codec, block]", code="batch.stream"
        )
    stream, channels, rate_hz, codec, block = entry[:5]
    check_id(stream, "stream")
    if not isinstance(channels, int) or not 1 <= channels <= CHANNELS_MAX:
        raise LimitExceeded(f"{channels!r:.20} channels", code="frame.channels")
    if not isinstance(rate_hz, int | float) or not 0 < rate_hz <= RATE_HZ_MAX:
        raise WrongStream(f"a sample rate of {rate_hz!r:.20}", code="frame.rate")
    if codec == _CODEC_RAW and isinstance(block, cbor2.CBORTag):
        if block.tag != _FLOAT32_LE or not isinstance(block.value, bytes):
            raise MalformedMessage("samples are a float32 typed array", code="batch.block")
        raw = block.value
    elif codec == _CODEC_SHUFFLE_ZSTD and isinstance(block, bytes):
        raw = _decompress(block, budget)
    else:
        raise MalformedMessage(f"codec {codec!r:.20} is not known", code="batch.codec")
    if len(raw) > budget:
        raise LimitExceeded("more samples than a batch may hold", code="batch.block-bytes")
    if len(raw) % FLOAT_BYTES:
        raise MalformedMessage("a block that is not whole float32", code="batch.block")
    return _Stream(stream, channels, float(rate_hz), raw)


def _decompress(block: bytes, bytes_max: int) -> bytes:
    """Decompress a shuffled block; refuses by the declared size, before a byte is unpacked."""
    try:
        declared = zstandard.frame_content_size(block)
        if not 0 <= declared <= bytes_max:
            raise LimitExceeded(
                f"a block that unpacks to {declared} bytes", code="batch.block-bytes"
            )
        data = zstandard.ZstdDecompressor().decompress(block, max_output_size=bytes_max)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"not Zstandard: {error!s:.80}", code="batch.block") from error
    if len(data) % FLOAT_BYTES:
        raise MalformedMessage("a block that is not whole float32", code="batch.block")
    return unshuffle(data)


def _check_lengths(rows: list[Any], streams: list[_Stream | FieldloopError]) -> None:
    """Where the rows of a stream do not add up to its block, none of them can be placed."""
    wanted = [0] * len(streams)
    spoilt = [False] * len(streams)
    for row in rows:
        if not isinstance(row, list) or len(row) < 7 or not isinstance(row[1], int):
            continue
        index, n = row[1], row[6]
        if 0 <= index < len(streams):
            if isinstance(n, int) and not isinstance(n, bool) and 0 < n <= FRAME_SAMPLES_MAX:
                wanted[index] += n
            else:
                spoilt[index] = True
    for index, stream in enumerate(streams):
        if isinstance(stream, _Stream) and (
            spoilt[index] or wanted[index] * stream.channels * FLOAT_BYTES != len(stream.block)
        ):
            streams[index] = MalformedMessage(
                f"the rows of stream {stream.stream} do not add up to its block",
                code="batch.lengths",
            )


def _decode_row(
    row: Any, streams: list[_Stream | FieldloopError], boots: list[str]
) -> SequencedFrame:
    if not isinstance(row, list) or len(row) < 7 or not all(isinstance(x, int) for x in row[:7]):
        raise MalformedMessage("a row is seven integers", code="batch.row")
    seq, index, t0_ns, mono_ns, boot, clock, n = row[:7]
    flags = row[7] if len(row) > 7 and isinstance(row[7], int) else 0
    if not 0 <= index < len(streams):
        raise MalformedMessage(f"no stream {index} in this batch", code="batch.row")
    stream = streams[index]
    if not isinstance(stream, _Stream):
        raise stream
    end = stream.at + n * stream.channels * FLOAT_BYTES
    samples, stream.at = stream.block[stream.at : end], end
    if _seq(seq) is None:
        raise MalformedMessage(f"seq {seq!r:.30}", code="batch.seq")
    if not 0 <= boot < len(boots) or not 0 <= clock < len(_CLOCKS):
        raise MalformedMessage("a boot or clock that is not known", code="batch.row")
    if not (0 <= t0_ns <= T_NS_MAX and 0 <= mono_ns <= T_NS_MAX):
        raise WrongStream(f"a time of {t0_ns} ns", code="frame.time")
    frame = Frame(
        stream=stream.stream,
        t0_ns=t0_ns,
        mono_ns=mono_ns,
        boot=boots[boot],
        clock=_CLOCKS[clock],
        rate_hz=stream.rate_hz,
        channels=stream.channels,
        samples=samples,
        planned_pause=bool(flags & _PLANNED_PAUSE),
    )
    return SequencedFrame(seq, check_frame(frame))


def encode_rows(epoch: str, rows: Sequence[SequencedRow], *, historical: bool = False) -> bytes:
    """Encode JSON rows of one epoch."""
    if not 0 < len(rows) <= BATCH_ROWS_MAX:
        raise LimitExceeded(f"{len(rows)} rows in a batch", hint=f"1 to {BATCH_ROWS_MAX}")
    document = {
        "v": CONTRACT_VERSION,
        "epoch": epoch,
        "historical": historical,
        "rows": [{"seq": r.seq, **r.row} for r in rows],
    }
    return dump_json(document)


def dump_json(document: Any) -> bytes:
    """Compact UTF-8 JSON; refuses NaN and infinity, which JSON does not have."""
    try:
        text = json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        return text.encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise MalformedMessage(
            f"cannot be written as JSON: {error!s:.80}", code="json.value"
        ) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is not a finite number")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _depth(value: Any, limit: int) -> bool:
    if limit < 0:
        return False
    if isinstance(value, dict):
        return all(_depth(v, limit - 1) for v in value.values())
    return not isinstance(value, list) or all(_depth(v, limit - 1) for v in value)


def load_json(payload: bytes, bytes_max: int = BATCH_BYTES_MAX) -> Any:
    """Parse JSON from a stranger: bounded in size and depth, no NaN, no key twice, UTF-8.

    Raises:
        LimitExceeded: more than `bytes_max` bytes or `JSON_DEPTH_MAX` levels.
        MalformedMessage: not JSON.
    """
    if len(payload) > bytes_max:
        raise LimitExceeded(f"a message of {len(payload)} bytes", code="json.bytes")
    try:
        document = json.loads(
            payload.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite_float,
            object_pairs_hook=_no_duplicates,
        )
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"not JSON: {error!s:.120}", code="json.syntax") from error
    if not _depth(document, JSON_DEPTH_MAX):
        raise LimitExceeded("JSON nested too deeply", code="json.depth")
    return document


def decode_rows(payload: bytes) -> Batch[SequencedRow]:
    """Decode a JSON batch. Rows are objects; what they mean is checked by `messages`.

    Raises:
        LimitExceeded: the batch is over a bound as a whole.
        MalformedMessage: it is not a batch at all.
    """
    document = load_json(payload)
    epoch, historical, rows = _header(document)
    good: list[SequencedRow] = []
    refused: list[Refused] = []
    for row in rows:
        seq = _seq(row.get("seq")) if isinstance(row, dict) else None
        if seq is None:
            refused.append(Refused(None, "batch.row", "a row is an object with a seq"))
            continue
        rest = {key: value for key, value in row.items() if key != "seq"}
        good.append(SequencedRow(seq, rest))
    return Batch(epoch, historical, good, refused)
