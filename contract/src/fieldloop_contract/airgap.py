"""One file that carries a signed model to a site without any network.

A zip archive without compression: `about.json`, the fleet's metadata `meta/<file>`, signed orders
`desired/<device>.json`, and the manifest and files of the bundle as `files/<sha256>`. Reading
checks names, sizes and counts before a byte is taken, and each file against its digest; nothing is
unpacked by the archive's own paths. What is signed is believed by its signatures alone.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

from fieldloop_contract import CONTRACT_VERSION
from fieldloop_contract.errors import FixConfiguration, LimitExceeded, MalformedMessage
from fieldloop_contract.ids import Id
from fieldloop_contract.manifest import MODEL_BYTES_MAX, sha256
from fieldloop_contract.messages import Message, ModelRef, decode
from fieldloop_contract.topics import check_meta_file

ENTRIES_MAX = 20_000
TOTAL_BYTES_MAX = 2 * MODEL_BYTES_MAX
DOCUMENT_BYTES_MAX = 512 * 1024
_ABOUT = "about.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(
    r"(?:about\.json|meta/[a-z0-9][a-z0-9.-]{0,79}|desired/[a-z0-9][a-z0-9-]{0,62}\.json"
    r"|files/[0-9a-f]{64})\Z"
)


class About(Message):
    """What an archive carries."""

    v: Literal[1] = CONTRACT_VERSION
    fleet: Id
    model: ModelRef


def write_archive(
    path: Path,
    about: About,
    *,
    metadata: Mapping[str, bytes],
    desired: Mapping[str, bytes],
    files: Mapping[str, bytes],
) -> None:
    """Write an archive. Equal content gives equal bytes.

    Args:
        metadata: by file name.
        desired: signed orders by device.
        files: manifest and files, by digest.
    """
    entries = {_ABOUT: about.encode()}
    entries |= {f"meta/{check_meta_file(n)}": data for n, data in sorted(metadata.items())}
    entries |= {f"desired/{d}.json": data for d, data in sorted(desired.items())}
    entries |= {f"files/{digest}": data for digest, data in sorted(files.items())}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)


class Archive:
    """An archive that was opened and whose table of contents was checked.

    Raises:
        FixConfiguration: it cannot be read.
        MalformedMessage, LimitExceeded: it is no such archive.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise FixConfiguration(f"{path} is no archive: {error}", code="airgap.file") from error
        try:
            self._sizes = _contents(self._zip)
            self.about = decode(About, self._read(_ABOUT, DOCUMENT_BYTES_MAX), DOCUMENT_BYTES_MAX)
        except BaseException:
            self._zip.close()
            raise

    def metadata(self) -> dict[str, bytes]:
        """All metadata files by name."""
        names = [n.removeprefix("meta/") for n in self._sizes if n.startswith("meta/")]
        return {check_meta_file(n): self._read(f"meta/{n}", DOCUMENT_BYTES_MAX) for n in names}

    def desired(self, device: str) -> bytes | None:
        """The signed order of a device, or None."""
        name = f"desired/{device}.json"
        return self._read(name, DOCUMENT_BYTES_MAX) if name in self._sizes else None

    def file(self, digest: str, bytes_max: int = MODEL_BYTES_MAX) -> bytes | None:
        """A file by its digest, checked; None where it is not in the archive."""
        name = f"files/{digest}"
        if name not in self._sizes:
            return None
        data = self._read(name, bytes_max)
        if sha256(data) != digest:
            raise MalformedMessage(f"{name:.80} is another file", code="airgap.digest")
        return data

    def _read(self, name: str, bytes_max: int) -> bytes:
        size = self._sizes.get(name)
        if size is None:
            raise MalformedMessage(f"the archive has no {name:.80}", code="airgap.file")
        if size > bytes_max:
            raise LimitExceeded(f"{name:.80} has {size} bytes", code="airgap.bytes")
        try:
            return self._zip.read(name)
        except (OSError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise MalformedMessage(f"{name:.80}: {error!s:.120}", code="airgap.file") from error

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _contents(archive: zipfile.ZipFile) -> dict[str, int]:
    entries = archive.infolist()
    if len(entries) > ENTRIES_MAX or sum(e.file_size for e in entries) > TOTAL_BYTES_MAX:
        raise LimitExceeded(f"an archive of {len(entries)} entries", code="airgap.bytes")
    sizes: dict[str, int] = {}
    for entry in entries:
        stored = (
            entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        )
        if not _NAME.match(entry.filename) or entry.filename in sizes or not stored:
            raise MalformedMessage(f"an entry {entry.filename!r:.80}", code="airgap.entry")
        sizes[entry.filename] = entry.file_size
    return sizes
