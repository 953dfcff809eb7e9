"""Bundles on disk: `bundles/<manifest digest>/` complete, `partial/<manifest digest>/` on the way.

A folder appears under `bundles` by one rename, after all in it was synced. A damaged bundle is set
aside by renaming and fetched anew.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from fieldloop_contract.errors import FieldloopError, Isolate
from fieldloop_contract.manifest import Manifest, parse_manifest, sha256
from fieldloop_contract.messages import ModelRef
from fieldloop_update.durable import make_folder, sync_folder, sync_tree

MANIFEST_FILE = "manifest.json"
_DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A complete bundle: its manifest, checked, and its files, checked on each reading."""

    ref: ModelRef
    manifest: Manifest
    dir: Path

    def read(self, name: str) -> bytes:
        """A file of the bundle, checked against its digest.

        Raises:
            Isolate: it is not what was signed; the bundle has been set aside.
        """
        file = self.manifest.files.get(name)
        if file is None:
            raise Isolate(f"the bundle has no {name}", code="bundle.files")
        data = b""
        with contextlib.suppress(OSError):
            data = (self.dir / name).read_bytes()
        if len(data) != file.length or sha256(data) != file.sha256:
            set_aside(self.dir)
            raise Isolate(
                f"{name} of {self.ref.name} {self.ref.version} was damaged on disk",
                code="bundle.damaged",
                hint="it has been set aside and is fetched again",
            )
        return data


def set_aside(folder: Path) -> None:
    """Rename a damaged bundle out of the way, replacing an earlier one of its name."""
    aside = folder.with_name(folder.name + _DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rename(aside)
        sync_folder(folder.parent)


class Bundles:
    """The bundles of one service. One thread."""

    def __init__(self, folder: Path, bundles_max: int) -> None:
        self._complete = folder / "bundles"
        self._partial = folder / "partial"
        self._bundles_max = bundles_max
        make_folder(self._complete)
        make_folder(self._partial)

    def open(self, ref: ModelRef) -> Bundle | None:
        """The bundle if it is complete, and its manifest is the one that `ref` names."""
        folder = self._complete / ref.digest
        try:
            payload = (folder / MANIFEST_FILE).read_bytes()
        except OSError:
            return None
        try:
            manifest = parse_manifest(payload)
            lengths = all(
                (folder / name).stat().st_size == file.length
                for name, file in manifest.files.items()
            )
        except (FieldloopError, OSError):
            lengths = False
        if sha256(payload) != ref.digest or not lengths:
            set_aside(folder)
            return None
        if (manifest.name, manifest.version) != (ref.name, ref.version):
            return None
        return Bundle(ref, manifest, folder)

    def partial(self, digest: str) -> Path:
        """The folder of a download, made if it is not there."""
        folder = self._partial / digest
        make_folder(folder)
        return folder

    def promote(self, digest: str) -> None:
        """Make a finished download a bundle, durably and at once.

        Raises:
            Isolate: there are as many bundles as there may be, all of them kept.
        """
        if len(set(self.complete()) - {digest}) >= self._bundles_max:
            raise Isolate(
                f"{self._bundles_max} bundles are kept already",
                code="bundle.count",
                hint="raise bundles_max, or let old ones go",
            )
        source, target = self._partial / digest, self._complete / digest
        sync_tree(source)
        if target.exists():
            set_aside(target)
        source.rename(target)
        sync_folder(self._complete)
        sync_folder(self._partial)

    def complete(self) -> list[str]:
        """Digests of the complete bundles."""
        return sorted(p.name for p in self._complete.iterdir() if not p.name.endswith(_DAMAGED))

    def discard_partial(self, digest: str) -> None:
        """Forget a download."""
        shutil.rmtree(self._partial / digest, ignore_errors=True)

    def keep(self, digests: Collection[str], downloading: Collection[str]) -> None:
        """Delete bundles not in `digests`, and what is left of downloads not in `downloading`."""
        for folder in [*self._complete.iterdir()]:
            if folder.name not in digests:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in [*self._partial.iterdir()]:
            if folder.name not in downloading:
                shutil.rmtree(folder, ignore_errors=True)

    def find(self, digest: str, length: int) -> Path | None:
        """A file of a complete bundle with this digest, by what its manifest says of it."""
        for folder, manifest in self._manifests():
            for name, file in manifest.files.items():
                if file.sha256 == digest and file.length == length:
                    return folder / name
        return None

    def chunks(self) -> dict[str, tuple[Path, int, int]]:
        """Chunks of complete bundles: digest to (file, offset, length); versions share many."""
        found: dict[str, tuple[Path, int, int]] = {}
        for path, chunk_bytes, index, digest, length in self._walk():
            offset = index * chunk_bytes
            found[digest] = (path, offset, min(chunk_bytes, length - offset))
        return found

    def _manifests(self) -> Iterator[tuple[Path, Manifest]]:
        for digest in self.complete():
            folder = self._complete / digest
            with contextlib.suppress(FieldloopError, OSError):
                yield folder, parse_manifest((folder / MANIFEST_FILE).read_bytes())

    def _walk(self) -> Iterator[tuple[Path, int, int, str, int]]:
        for folder, manifest in self._manifests():
            for name, file in manifest.files.items():
                for index, chunk in enumerate(file.chunks):
                    yield folder / name, file.chunk_bytes, index, chunk, file.length
