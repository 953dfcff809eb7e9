"""Deltas and compressed forms of the files of a bundle, made once and kept on disk.

XOR with an older file of equal length, then Zstandard: it beat the old file as a dictionary
wherever lengths were equal, which int8 retrains of one recipe always were. A form is kept only if
it pays. What is made is named by its own digest; the signed entry of the manifest lists it.
One thread.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import zstandard

from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.manifest import FileRef, Manifest, Packed, sha256
from fieldloop_contract.messages import from_object
from fieldloop_delivery.durable import write_file

DELTA_SHARE_MAX = 0.6
ZSTD_SHARE_MAX = 0.85
SOURCES_MAX = 3
FILE_BYTES_MAX = 8 << 20
"""Larger files come whole: their chunk lists would fill the signed metadata."""
_FILE_BYTES_MIN = 1024
_LEVEL = 19
_WINDOW_LOG = 23
"""8 MiB: what a device allows a frame to ask for."""


def compress(data: bytes) -> bytes:
    """One Zstandard frame."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=min(_WINDOW_LOG, max(10, len(data).bit_length()))
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def xor(one: bytes, other: bytes) -> bytes:
    """Bytes of equal length, one by one."""
    mixed = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return mixed.to_bytes(len(one), "little")


class Packings:
    """Forms of files, in a folder: `<sha256>` for each blob, and one index for each question.

    Args:
        chunk_bytes: what the broker allows; a file cut larger is listed in smaller chunks too.
        compressed: whether deltas and compressed forms are made at all.
    """

    def __init__(self, folder: Path, chunk_bytes: int, *, compressed: bool = True) -> None:
        self._folder = folder
        self._chunk_bytes = chunk_bytes
        self._compressed = compressed
        folder.mkdir(parents=True, exist_ok=True)

    def of(
        self,
        manifest: Manifest,
        files: Mapping[str, bytes],
        sources: Sequence[tuple[Manifest, Mapping[str, bytes]]],
    ) -> dict[str, list[Packed]]:
        """Forms of each file of a bundle that pay.

        Args:
            sources: earlier versions in the field, newest first.
        """
        found: dict[str, list[Packed]] = {}
        for name, ref in manifest.files.items():
            older = [f[name] for _, f in sources[:SOURCES_MAX] if name in f]
            forms = self._forms(ref, files[name], older)
            if forms:
                found[name] = forms
        return found

    def read(self, digest: str) -> bytes | None:
        """A blob; None where it is not here."""
        with contextlib.suppress(OSError):
            return (self._folder / digest).read_bytes()
        return None

    def keep(self, digests: set[str]) -> None:
        """Delete blobs that no live version lists, and the indexes that name them."""
        for path in self._folder.iterdir():
            if path.suffix == ".json":
                known = self._index(path)
                if known is not None and not {p.blob.sha256 for p in known} <= digests:
                    path.unlink(missing_ok=True)
            elif path.name not in digests:
                path.unlink(missing_ok=True)

    def _forms(self, ref: FileRef, data: bytes, older: Sequence[bytes]) -> list[Packed]:
        forms: list[Packed] = []
        if self._compressed and _FILE_BYTES_MIN <= len(data) <= FILE_BYTES_MAX:
            forms += self._remembered(ref, None, data, ZSTD_SHARE_MAX)
            for old in older:
                if len(old) == len(data) and old != data:
                    forms += self._remembered(ref, sha256(old), xor(data, old), DELTA_SHARE_MAX)
        if ref.chunk_bytes > self._chunk_bytes and ref.length > self._chunk_bytes:
            blob = FileRef.of(data, self._chunk_bytes)
            forms.append(Packed(encoding="plain", blob=blob))
        return forms

    def _remembered(
        self, ref: FileRef, source: str | None, data: bytes, share_max: float
    ) -> list[Packed]:
        """A form, made once; an empty list where it does not pay, which is remembered too."""
        key = sha256(f"{ref.sha256}/{source}/{self._chunk_bytes}".encode())
        index = self._folder / f"{key}.json"
        known = self._index(index)
        if known is not None and all((self._folder / p.blob.sha256).exists() for p in known):
            return known
        blob = compress(data)
        made: list[Packed] = []
        if len(blob) <= share_max * ref.length:
            packed = FileRef.of(blob, self._chunk_bytes)
            made.append(Packed(encoding="zstd", source=source, blob=packed))
            write_file(self._folder / packed.sha256, blob)
        document = [p.model_dump(mode="json", exclude_none=True) for p in made]
        write_file(index, json.dumps(document).encode())
        return made

    @staticmethod
    def _index(path: Path) -> list[Packed] | None:
        try:
            return [from_object(Packed, p) for p in json.loads(path.read_bytes())]
        except (OSError, ValueError, TypeError, FieldloopError):
            return None
