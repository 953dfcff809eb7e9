"""Recordings on disk, read in bounded blocks: CSV with a header, and NPZ.

NPZ is read without numpy (which costs 20 MiB resident): a zip of `.npy` members, whose format is
NEP 1, https://numpy.org/neps/nep-0001-npy-format.html. Wanted are `samples`, float32 or float64
[n, channels] in C order, and optionally `t0_ns`, an integer.
"""

from __future__ import annotations

import ast
import csv
import struct
import sys
import zipfile
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.frames import T_NS_MAX

SUFFIXES = (".csv", ".npz")
_MAGIC = b"\x93NUMPY"
_HEADER_BYTES_MAX = 10_000
_LINE_CHARS_MAX = 64 * 1024
_FLOATS = {"<f4": 4, "<f8": 8}
_INTEGERS = {"<i8": "<q", "<u8": "<Q", "<i4": "<i", "<u4": "<I"}


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that follow each other: float32[n, channels], little-endian."""

    samples: bytes
    n: int


@dataclass(frozen=True, slots=True)
class Bad:
    """One sample that cannot be read; time goes on over it."""

    reason: str
    excerpt: bytes


class Recording(Protocol):
    """An open recording. Its position counts samples, bad ones included."""

    t0_ns: int | None

    def read(self, n: int) -> Block | Bad | None:
        """At most `n` samples, one bad one, or None at the end."""
        ...

    def skip(self, n: int) -> None:
        """Go over `n` samples."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_recording(path: Path, columns: Sequence[str]) -> Recording:
    """Open a recording.

    Args:
        columns: names of the channels, in the order of the stream; a CSV is read by them, an NPZ
            has to have as many.

    Raises:
        MalformedMessage: it is no such file, or half of one.
        OSError: it cannot be read.
    """
    if path.suffix == ".csv":
        return CsvRecording(path, columns)
    return NpzRecording(path, len(columns))


class CsvRecording:
    """A CSV with a header; further columns are ignored."""

    t0_ns: int | None = None

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open(encoding="utf-8", errors="replace", newline="")
        self._rows = csv.reader(self._bounded_lines())
        header = [name.strip() for name in next(self._rows, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            self._file.close()
            raise MalformedMessage(
                f"{path.name} has no column {', '.join(missing)[:200]}", code="recording.columns"
            )
        self._indices = [header.index(name) for name in columns]
        self._bad: Bad | None = None

    def _bounded_lines(self) -> Sequence[str]:
        return iter(lambda: self._file.readline(_LINE_CHARS_MAX), "")  # type: ignore[return-value]

    def _next(self) -> list[float] | Bad | None:
        try:
            row = next(self._rows, None)
        except csv.Error as error:
            return Bad(f"not CSV: {error}", b"")
        if row is None:
            return None
        try:
            return [float(row[index]) for index in self._indices]
        except (ValueError, IndexError) as error:
            return Bad(f"{error!s:.120}", ",".join(row).encode()[:200])

    def read(self, n: int) -> Block | Bad | None:
        """See `Recording`."""
        if self._bad is not None:
            bad, self._bad = self._bad, None
            return bad
        values = array("f")
        count = 0
        while count < n:
            row = self._next()
            if isinstance(row, Bad):
                if not count:
                    return row
                self._bad = row
                break
            if row is None:
                break
            try:
                values.extend(row)
            except OverflowError:
                values.extend(float("inf") for _ in row)
            count += 1
        return Block(_little_endian(values), count) if count else None

    def skip(self, n: int) -> None:
        """See `Recording`."""
        for _ in range(n):
            next(self._rows, None)

    def close(self) -> None:
        """See `Recording`."""
        self._file.close()


class NpzRecording:
    """An NPZ, streamed: only one block is in memory."""

    def __init__(self, path: Path, channels: int) -> None:
        self._channels = channels
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise MalformedMessage(f"{path.name}: {error}", code="recording.npz") from error
        try:
            self.t0_ns = self._read_t0()
            self._member = self._zip.open("samples.npy")
            kind, shape = _read_header(self._member)
            if kind not in _FLOATS or len(shape) != 2 or shape[1] != channels:
                raise MalformedMessage(
                    f"{path.name}: samples are {kind}{list(shape)}, not float32[n, {channels}]",
                    code="recording.shape",
                )
        except KeyError as error:
            self._zip.close()
            raise MalformedMessage(
                f"{path.name} has no array samples", code="recording.npz"
            ) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
            self._zip.close()
            raise MalformedMessage(f"{path.name}: {error}", code="recording.npz") from error
        except MalformedMessage:
            self._zip.close()
            raise
        self._kind = kind
        self._left = shape[0]

    def _read_t0(self) -> int | None:
        if "t0_ns.npy" not in self._zip.namelist():
            return None
        with self._zip.open("t0_ns.npy") as member:
            kind, shape = _read_header(member)
            if kind not in _INTEGERS or shape not in ((), (1,)):
                raise MalformedMessage("t0_ns is one integer", code="recording.t0")
            (value,) = struct.unpack(_INTEGERS[kind], member.read(struct.calcsize(_INTEGERS[kind])))
        if not 0 <= value <= T_NS_MAX // 2:
            raise MalformedMessage(f"t0_ns {value}", code="recording.t0")
        return int(value)

    def read(self, n: int) -> Block | Bad | None:
        """See `Recording`."""
        count = min(n, self._left)
        if not count:
            return None
        width = _FLOATS[self._kind] * self._channels
        try:
            raw = self._member.read(count * width)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise MalformedMessage(f"damaged recording: {error}", code="recording.npz") from error
        if len(raw) != count * width:
            raise MalformedMessage("a recording that ends early", code="recording.npz")
        self._left -= count
        if self._kind == "<f8":
            values = array("d")
            values.frombytes(raw)
            if sys.byteorder == "big":
                values.byteswap()
            raw = _little_endian(array("f", values))
        return Block(raw, count)

    def skip(self, n: int) -> None:
        """See `Recording`."""
        left = min(n, self._left)
        self._left -= left
        bytes_left = left * _FLOATS[self._kind] * self._channels
        while bytes_left:
            got = len(self._member.read(min(bytes_left, 1 << 16)))
            if not got:
                raise MalformedMessage("a recording that ends early", code="recording.npz")
            bytes_left -= got

    def close(self) -> None:
        """See `Recording`."""
        self._member.close()
        self._zip.close()


def _read_header(member: IO[bytes]) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape of a `.npy`, C order only."""
    start = member.read(8)
    if start[:6] != _MAGIC or len(start) < 8:
        raise MalformedMessage("not a .npy array", code="recording.npz")
    wide = start[6] >= 2
    size_bytes = member.read(4 if wide else 2)
    (size,) = struct.unpack("<I" if wide else "<H", size_bytes)
    if size > _HEADER_BYTES_MAX:
        raise MalformedMessage("a .npy header that is too long", code="recording.npz")
    try:
        header = ast.literal_eval(member.read(size).decode("latin-1"))
        kind, order, shape = header["descr"], header["fortran_order"], header["shape"]
        shape = tuple(int(n) for n in shape)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise MalformedMessage(f"a .npy header: {error!s:.80}", code="recording.npz") from error
    if order is not False or not isinstance(kind, str) or any(n < 0 for n in shape):
        raise MalformedMessage("an array that is not in C order", code="recording.npz")
    return kind, shape


def _little_endian(values: array[float]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
