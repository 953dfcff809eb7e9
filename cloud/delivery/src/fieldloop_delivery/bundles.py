"""Chunks of the versions in use, read from the registry when they are to be published.

Keeps manifests of all versions in use, and the files of the one bundle read last. One thread.
"""

from __future__ import annotations

from collections.abc import Iterable

from fieldloop_contract.errors import Isolate
from fieldloop_contract.manifest import CHUNK_BYTES_MAX, FileRef, Manifest, sha256
from fieldloop_store.engine import Store
from fieldloop_store.registry import load_bundle

MANIFEST_FILE = "manifest.json"


class ChunkSource:
    """Where each chunk is: bundle, file, offset, length."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._manifests: dict[str, bytes] = {}
        self._where: dict[str, tuple[str, str, int, int]] = {}
        self._loaded: tuple[str, dict[str, bytes]] | None = None

    def use(self, digests: Iterable[str]) -> None:
        """State which bundles are in use.

        Raises:
            Isolate, RejectedInput, RetryLater: a bundle cannot be read.
        """
        wanted = set(digests)
        for digest in [d for d in self._manifests if d not in wanted]:
            del self._manifests[digest]
        for digest in wanted - set(self._manifests):
            manifest, _ = self._load(digest)
            self._manifests[digest] = manifest.encode()
        self._where = {}
        for digest, payload in self._manifests.items():
            for name, file in self._files(payload).items():
                for index, chunk in enumerate(file.chunks):
                    offset = index * file.chunk_bytes
                    length = min(file.chunk_bytes, file.length - offset)
                    self._where[chunk] = (digest, name, offset, length)

    def manifest(self, digest: str) -> bytes:
        """An encoded manifest of a bundle in use."""
        return self._manifests[digest]

    def chunks(self) -> list[str]:
        """Digests of all chunks in use."""
        return list(self._where)

    def read(self, chunk: str) -> bytes | None:
        """The bytes of a chunk in use, checked; None where it is in use no more."""
        place = self._where.get(chunk)
        if place is None:
            return None
        digest, name, offset, length = place
        data = self._bundle(digest)[name][offset : offset + length]
        if sha256(data) != chunk:
            raise Isolate(f"chunk {chunk[:12]} of {name} is damaged", code="delivery.chunk")
        return data

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

    @staticmethod
    def _files(payload: bytes) -> dict[str, FileRef]:
        manifest = Manifest.model_validate_json(payload)
        return {**manifest.files, MANIFEST_FILE: FileRef.of(payload, CHUNK_BYTES_MAX)}
