"""Files made of what was fetched for them: Zstandard frames, alone or XORed with an older file.

Reads and writes in blocks, and stops at the declared length to the byte, however much a frame would
give. The caller checks the result's digest; nothing here is believed. No state, any thread.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

import zstandard

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.manifest import Packed

ENCODINGS = ("plain", "zstd")
WINDOW_BYTES_MAX = 8 << 20
"""Memory that a frame may ask for."""
_BLOCK = 256 * 1024


def unpack(packed: Packed, blob: Path, source: Path | None, target: Path, length: int) -> None:
    """Make `target`, durably and as a whole, of a fetched blob.

    Args:
        source: the older file, where `packed` names one; of the same length.
        length: of the file as it was signed.

    Raises:
        MalformedMessage: the blob or the source is not what it was said to be.
        OSError: the disk failed or is full.
    """
    temporary = target.with_name(target.name + ".new")
    with contextlib.ExitStack() as stack:
        reader = _open(packed, stack.enter_context(blob.open("rb")))
        older = stack.enter_context(source.open("rb")) if source is not None else None
        out = stack.enter_context(temporary.open("wb"))
        written = 0
        while block := _read(reader, min(_BLOCK, length + 1 - written)):
            written += len(block)
            if written > length:
                raise MalformedMessage(f"it unpacks to more than {length} bytes", code="packed")
            out.write(block if older is None else _xor(block, older.read(len(block))))
        if written != length:
            raise MalformedMessage(f"it unpacks to {written} of {length} bytes", code="packed")
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(target)


def _open(packed: Packed, blob: BinaryIO) -> BinaryIO:
    if packed.encoding == "plain":
        return blob
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
    return decompressor.stream_reader(blob)


def _read(reader: BinaryIO, size: int) -> bytes:
    try:
        return reader.read(size)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"no Zstandard frame: {error}", code="packed") from error


def _xor(block: bytes, older: bytes) -> bytes:
    if len(older) != len(block):
        raise MalformedMessage("the older file is shorter", code="packed")
    mixed = int.from_bytes(block, "little") ^ int.from_bytes(older, "little")
    return mixed.to_bytes(len(block), "little")
