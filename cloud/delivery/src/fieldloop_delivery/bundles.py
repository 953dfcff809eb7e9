"""Chunks of the versions in use, read from the registry when they are to be published.

Keeps of each version in use its manifest and how it is carried (`Carriage`), and the files of the
one bundle read last. Chunks are known by where they are; their bytes are not held. Bundles too
large for retained messages are carried over HTTPS: their files are put into a folder that any HTTPS
server may serve. One thread.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fieldloop_contract.errors import Isolate
from fieldloop_contract.manifest import CHUNK_BYTES_MAX, Carriage, FileRef, Manifest, sha256
from fieldloop_delivery.durable import write_file
from fieldloop_delivery.packing import Packings
from fieldloop_store.engine import Store
from fieldloop_store.registry import load_bundle

MANIFEST_FILE = "manifest.json"
RETAINED_BYTES_MAX = 16 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Live:
    """One version in use."""

    manifest: Manifest
    payload: bytes
    carriage: Carriage


class ChunkSource:
    """Where each chunk is: bundle, file, offset, length.

    Args:
        packings: makes deltas and compressed forms; None for none.
        chunk_bytes: the largest message the broker takes.
        retained_bytes_max: files of a bundle above this are not put on the broker, where there is a
            folder for them.
        public: folder of an HTTPS server's `sha256/`; None for none.
    """

    def __init__(
        self,
        store: Store,
        *,
        packings: Packings | None = None,
        chunk_bytes: int = CHUNK_BYTES_MAX,
        retained_bytes_max: int = RETAINED_BYTES_MAX,
        public: Path | None = None,
    ) -> None:
        self._store = store
        self._packings = packings
        self._chunk_bytes = chunk_bytes
        self._retained_bytes_max = retained_bytes_max
        self._public = public
        self._live: dict[str, Live] = {}
        self._where: dict[str, tuple[str, str, int, int]] = {}
        self._loaded: tuple[str, dict[str, bytes]] | None = None

    def use(self, digests: Iterable[str]) -> bool:
        """State which bundles are in use; whether that is another set than before.

        Raises:
            Isolate, RejectedInput, RetryLater: a bundle cannot be read.
        """
        wanted = set(digests)
        if wanted == set(self._live):
            return False
        manifests = {d: v.manifest for d, v in self._live.items() if d in wanted}
        for digest in wanted - set(manifests):
            manifests[digest] = self._load(digest)[0]
        live = {digest: self._carried(digest, manifests) for digest in sorted(wanted)}
        self._live = live
        self._where = {}
        for digest, version in live.items():
            self._locate(digest, version)
        if self._packings is not None:
            self._packings.keep({d for _, d, _, _ in self._where.values()})
        self._put_out()
        return True

    def manifest(self, digest: str) -> bytes:
        """An encoded manifest of a bundle in use."""
        return self._live[digest].payload

    def parsed(self, digest: str) -> Manifest | None:
        """The manifest of a bundle in use."""
        live = self._live.get(digest)
        return live.manifest if live is not None else None

    def carriage(self, digest: str) -> Carriage:
        """How a bundle in use is fetched."""
        return self._live[digest].carriage

    def chunks(self) -> list[str]:
        """Digests of all chunks that the broker shall hold."""
        return list(self._where)

    def read(self, chunk: str) -> bytes | None:
        """The bytes of a chunk in use, checked; None where it is in use no more."""
        place = self._where.get(chunk)
        if place is None:
            return None
        digest, name, offset, length = place
        data = self._file(digest, name)[offset : offset + length]
        if sha256(data) != chunk:
            raise Isolate(f"chunk {chunk[:12]} of {name} is damaged", code="delivery.chunk")
        return data

    def _file(self, digest: str, name: str) -> bytes:
        if _DIGEST.match(name):
            packed = self._packings.read(name) if self._packings is not None else None
            if packed is None:
                raise Isolate(f"the packed form {name[:12]} is lost", code="delivery.chunk")
            return packed
        return self._bundle(digest)[name]

    def _carried(self, digest: str, manifests: dict[str, Manifest]) -> Live:
        known = self._live.get(digest)
        manifest = manifests[digest]
        payload = manifest.encode()
        size = sum(file.length for file in manifest.files.values())
        retained = self._public is None or size <= self._retained_bytes_max
        packed = {}
        sources = sorted(
            (m for d, m in manifests.items() if d != digest and m.name == manifest.name),
            key=lambda m: -m.version,
        )
        older = [m for m in sources if m.version < manifest.version]
        if self._packings is not None and retained:
            files = self._load(digest)[1]
            packed = self._packings.of(
                manifest, files, [(m, self._load(m.digest())[1]) for m in older]
            )
        ref = FileRef.of(payload, self._chunk_bytes)
        carriage = Carriage(manifest=ref, packed=packed, retained=retained)
        if known is not None and known.carriage == carriage:
            return known
        return Live(manifest, payload, carriage)

    def _locate(self, digest: str, version: Live) -> None:
        if not version.carriage.retained:
            return
        self._add(digest, MANIFEST_FILE, version.carriage.manifest)
        for name, file in version.manifest.files.items():
            forms = version.carriage.packed.get(name, [])
            for form in forms:
                self._add(digest, name if form.encoding == "plain" else form.blob.sha256, form.blob)
            if min(file.chunk_bytes, file.length) <= self._chunk_bytes:
                self._add(digest, name, file)

    def _add(self, digest: str, name: str, file: FileRef) -> None:
        for index, chunk in enumerate(file.chunks):
            offset = index * file.chunk_bytes
            length = min(file.chunk_bytes, file.length - offset)
            self._where[chunk] = (digest, name, offset, length)

    def _put_out(self) -> None:
        """Files of all live versions for the HTTPS server; those of no version are removed."""
        if self._public is None:
            return
        folder = self._public / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        wanted: set[str] = set()
        for digest, version in self._live.items():
            wanted |= {digest, *(file.sha256 for file in version.manifest.files.values())}
            for name, data in self._bundle(digest).items():
                named = digest if name == MANIFEST_FILE else version.manifest.files[name].sha256
                if not (folder / named).exists():
                    write_file(folder / named, data)
            for form in (f for forms in version.carriage.packed.values() for f in forms):
                packed = self._packings.read(form.blob.sha256) if self._packings else None
                if packed is not None:
                    wanted.add(form.blob.sha256)
                    write_file(folder / form.blob.sha256, packed)
        for path in folder.iterdir():
            if _DIGEST.match(path.name) and path.name not in wanted:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _bundle(self, digest: str) -> dict[str, bytes]:
        if self._loaded is None or self._loaded[0] != digest:
            self._load(digest)
        assert self._loaded is not None  # _load sets it or raises
        return self._loaded[1]

    def _load(self, digest: str) -> tuple[Manifest, dict[str, bytes]]:
        manifest, files = load_bundle(self._store, digest)
        payload = manifest.encode()
        if sha256(payload) != digest:
            raise Isolate(
                f"manifest {digest[:12]} does not encode to itself", code="delivery.manifest"
            )
        self._loaded = (digest, {**files, MANIFEST_FILE: payload})
        return manifest, files
