"""One bundle on its way, and the files it is made of. Holds open files; no network, no clock.

A bundle comes in two stages: the manifest, whose chunks the signed targets entry lists, then the
files, whose chunks the manifest lists. Each file comes the cheapest way: taken from bundles on disk
where chunks are shared, unpacked from a delta or a compressed form where the signed entry lists
one, or chunk by chunk. The file's own digest decides; a form that fails gives way to the next, the
last being the file itself. Owner thread only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fieldloop_contract.capability import unfit
from fieldloop_contract.errors import FieldloopError, Isolate, MalformedMessage, OutOfSpace
from fieldloop_contract.manifest import Carriage, FileRef, Manifest, Packed, parse_manifest, sha256
from fieldloop_contract.messages import Capability, ModelRef
from fieldloop_update.bundles import MANIFEST_FILE, Bundles
from fieldloop_update.packing import ENCODINGS, unpack
from fieldloop_update.parts import Part, remove_part

_PACKED = ".packed-"


class FileDownload:
    """One file of a bundle: the file itself, and what it may be unpacked from."""

    def __init__(
        self, folder: Path, name: str, ref: FileRef, forms: list[Packed], bundles: Bundles
    ) -> None:
        self.failed: list[str] = []
        self._folder = folder
        self._name = name
        self._bundles = bundles
        self._whole = Part(folder / name, ref)
        _fill(self._whole, bundles)
        self._forms = sorted(
            (f for f in forms if f.encoding in ENCODINGS), key=lambda f: f.blob.length
        )
        self._packed: Part | None = None
        self._choose()

    def _choose(self) -> None:
        """The cheapest form that can be used; without one, the file itself.

        Another chunking of the file (`plain`) is no saving but the only way, where it is listed.
        """
        self._packed = None
        while self._forms and not self._whole.complete:
            form = self._forms[0]
            dearer = form.encoding != "plain" and form.blob.length >= self._whole.bytes_missing
            if not dearer and (form.source is None or self._source(form)):
                self._packed = Part(self._folder / f"{_PACKED}{form.blob.sha256[:32]}", form.blob)
                return
            self._forms.pop(0)

    def _source(self, form: Packed) -> Path | None:
        if form.source is None:
            return None
        return self._bundles.find(form.source, self._whole.ref.length)

    @property
    def part(self) -> Part:
        """What is fetched."""
        return self._packed or self._whole

    @property
    def complete(self) -> bool:
        """Whether the file itself is there."""
        return self._packed is None and self._whole.complete

    def settle(self) -> None:
        """Unpack what has come; a form that does not give the file is dropped.

        Raises:
            OSError: the disk failed or is full.
        """
        packed = self._packed
        if packed is None or not packed.complete:
            return
        form = self._forms.pop(0)
        try:
            packed.check()
            source = self._source(form)
            if form.source is not None and source is None:
                raise MalformedMessage("the older file is not there any more", code="packed")
            self._whole.close(finished=True)
            try:
                unpack(form, packed.path, source, self._whole.path, self._whole.ref.length)
            finally:
                self._whole = Part(self._whole.path, self._whole.ref)
            if not self._whole.complete:
                raise MalformedMessage("the result is another file", code="packed")
        except (MalformedMessage, Isolate) as error:
            self.failed.append(f"{self._name}: {error}")
        packed.close()
        remove_part(packed.path)
        self._choose()

    def check(self) -> None:
        """Check the whole file against its digest; Isolate where it is another."""
        self._whole.check()

    def close(self, *, finished: bool = False) -> None:
        """Close all files."""
        self._whole.close(finished=finished)
        if self._packed is not None:
            self._packed.close()


class Download:
    """One bundle on its way. Holds open files; `close` it.

    Args:
        capability: what the device can run, asked before any file is fetched; None for no gate.
    """

    def __init__(
        self,
        ref: ModelRef,
        carriage: Carriage,
        folder: Path,
        bundles: Bundles,
        *,
        bytes_max: int,
        capability: Callable[[], Capability] | None = None,
    ) -> None:
        self.ref = ref
        self.retained = carriage.retained
        self.https_failures = 0
        self.spent_s = 0.0
        self.rate_since_s = 0.0
        self.rate_bytes = 0
        self.attempt = 0
        self.paused_until_s = 0.0
        self.paused_for = ""
        self.bytes_taken = 0
        self._carriage = carriage
        self._folder = folder
        self._bundles = bundles
        self._bytes_max = bytes_max
        self._capability = capability
        self._manifest = Part(folder / MANIFEST_FILE, carriage.manifest)
        self._files: list[FileDownload] | None = None
        _fill(self._manifest, bundles)

    @property
    def parts(self) -> list[Part]:
        """What is fetched, as far as it is known."""
        return [self._manifest, *(f.part for f in self._files or [])]

    @property
    def progress(self) -> tuple[int, int]:
        """Chunks that are there, of the chunks known so far."""
        return sum(p.chunks_had for p in self.parts), sum(len(p.ref.chunks) for p in self.parts)

    @property
    def bytes_missing(self) -> int:
        """Bytes still to come, as far as is known."""
        return sum(p.bytes_missing for p in self.parts)

    @property
    def packings_failed(self) -> list[str]:
        """Deltas and compressed forms that did not give the file, in words; told once."""
        told = [text for file in self._files or [] for text in file.failed]
        for file in self._files or []:
            file.failed.clear()
        return told

    def missing(self, by_https: Callable[[Download, Part], bool]) -> Iterator[str]:
        """Digests of chunks to ask the broker for, in order."""
        for part in self.parts:
            if not by_https(self, part):
                yield from part.missing()

    def wants(self, digest: str) -> bool:
        """Whether a chunk is still needed."""
        return any(part.wants(digest) for part in self.parts)

    def length_of(self, digest: str) -> int:
        """Bytes of a chunk that is needed."""
        return max((p.length_of_digest(digest) for p in self.parts if p.wants(digest)), default=0)

    def put(self, digest: str, payload: bytes) -> bool:
        """Take a checked chunk."""
        took = [part.put(digest, payload) for part in self.parts if part.wants(digest)]
        if any(took):
            self.bytes_taken += len(payload)
            self.rate_bytes += len(payload)
        return any(took)

    def advance(self, disk_reserve_bytes: int) -> bool:
        """Go on to the files once the manifest is there; True when all is there and checked.

        Raises:
            Isolate: what was signed does not fit together or does not fit this device; asking
                again will not help.
            OutOfSpace: the disk does not hold it.
        """
        if self._files is None and self._manifest.complete:
            self._open_files(disk_reserve_bytes)
        for file in self._files or []:
            file.settle()
        if self._files is None or not all(file.complete for file in self._files):
            return False
        self._manifest.check()
        for file in self._files:
            file.check()
        return True

    def _open_files(self, disk_reserve_bytes: int) -> None:
        self._manifest.check()
        manifest = self._read_manifest()
        size = sum(file.length for file in manifest.files.values())
        if size > self._bytes_max:
            raise Isolate(f"a bundle of {size} bytes, over {self._bytes_max}", code="bundle.bytes")
        fault = unfit(manifest, self._capability()) if self._capability is not None else None
        if fault is not None and fault[0] != "capability.disk":
            raise Isolate(fault[1], code=fault[0])
        free = shutil.disk_usage(self._folder).free
        if size + disk_reserve_bytes > free:
            raise OutOfSpace(f"{size} bytes wanted, {free} free, {disk_reserve_bytes} reserved")
        self._files = [
            FileDownload(
                self._folder, name, file, self._carriage.packed.get(name, []), self._bundles
            )
            for name, file in manifest.files.items()
        ]

    def _read_manifest(self) -> Manifest:
        try:
            manifest = parse_manifest(self._manifest.path.read_bytes())
        except FieldloopError as error:
            raise Isolate(
                f"the manifest cannot be read: {error}", code="bundle.manifest"
            ) from error
        if (manifest.name, manifest.version) != (self.ref.name, self.ref.version):
            raise Isolate(
                f"the manifest is of {manifest.name} {manifest.version}", code="bundle.manifest"
            )
        for name in manifest.files:
            if "/" in name or name.startswith(".") or name == MANIFEST_FILE:
                raise Isolate(f"{name!r:.80} is no file name", code="bundle.manifest")
        return manifest

    def close(self, *, finished: bool = False) -> None:
        """Close all files; `finished` removes their maps and what files were unpacked from."""
        self._manifest.close(finished=finished)
        for file in self._files or []:
            file.close(finished=finished)
        if finished:
            for path in self._folder.glob(f"{_PACKED}*"):
                path.unlink(missing_ok=True)


def _fill(part: Part, bundles: Bundles) -> None:
    """Take from bundles on disk what they share with this file."""
    near = bundles.chunks()
    for digest in [d for d in part.missing() if d in near]:
        path, offset, length = near[digest]
        with contextlib.suppress(OSError), path.open("rb") as file:
            payload = os.pread(file.fileno(), length, offset)
            if sha256(payload) == digest:
                part.put(digest, payload)
