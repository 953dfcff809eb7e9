"""Downloads: a bounded window of chunk topics over all bundles on their way.

A bundle comes in two stages: the manifest, whose chunks the signed targets entry lists, then the
files, whose chunks the manifest lists. Each chunk is asked for by subscribing to its topic, checked
against its digest, written in place, and its topic left. What does not come is reported; what takes
too long is given up with a reason and tried again later, going on where it was.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fieldloop_contract.errors import FieldloopError, Isolate, OutOfSpace
from fieldloop_contract.manifest import (
    CHUNK_BYTES_MAX,
    FileRef,
    parse_manifest,
    sha256,
)
from fieldloop_contract.messages import ModelRef
from fieldloop_contract.topics import blob_topic
from fieldloop_runtime.backoff import full_jitter
from fieldloop_update.bundles import MANIFEST_FILE, Bundles
from fieldloop_update.outcomes import Missing, Outcome, Ready, Refused
from fieldloop_update.parts import Part
from fieldloop_update.settings import UpdateSettings

STEP_S_MAX = 10.0
"""A longer pause between two steps is a sleep of the machine, and no fault of a download's."""
_MISSING_DOUBLINGS_MAX = 6
_MISSING_CHUNKS_MAX = 64


@dataclass(slots=True)
class _Ask:
    """A chunk topic we are subscribed to."""

    since_s: float | None = None
    reports: int = 0
    damaged: bool = False


class Download:
    """One bundle on its way. Holds open files; `close` it."""

    def __init__(
        self, ref: ModelRef, manifest_file: FileRef, folder: Path, bundles: Bundles, bytes_max: int
    ) -> None:
        self.ref = ref
        self.spent_s = 0.0
        self.attempt = 0
        self.paused_until_s = 0.0
        self.complained = False
        self._folder = folder
        self._bundles = bundles
        self._bytes_max = bytes_max
        self._manifest = Part(folder / MANIFEST_FILE, manifest_file)
        self._files: list[Part] | None = None
        self._fill([self._manifest])

    @property
    def parts(self) -> list[Part]:
        """The files known so far."""
        return [self._manifest, *(self._files or [])]

    @property
    def progress(self) -> tuple[int, int]:
        """Chunks that are there, of the chunks known so far."""
        return sum(p.chunks_had for p in self.parts), sum(len(p.ref.chunks) for p in self.parts)

    def missing(self) -> Iterator[str]:
        """Digests of chunks to ask for, in order."""
        for part in self.parts:
            yield from part.missing()

    def wants(self, digest: str) -> bool:
        """Whether a chunk is still needed."""
        return any(part.wants(digest) for part in self.parts)

    def put(self, digest: str, payload: bytes) -> bool:
        """Take a checked chunk."""
        took = [part.put(digest, payload) for part in self.parts if part.wants(digest)]
        return any(took)

    def advance(self, disk_reserve_bytes: int) -> bool:
        """Go on to the files once the manifest is there; True when all is there and checked.

        Raises:
            Isolate: what was signed does not fit together; asking again will not help.
            OutOfSpace: the disk does not hold it.
        """
        if self._files is None and self._manifest.complete:
            self._open_files(disk_reserve_bytes)
        if self._files is None or not all(part.complete for part in self.parts):
            return False
        for part in self.parts:
            part.check()
        return True

    def _open_files(self, disk_reserve_bytes: int) -> None:
        self._manifest.check()
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
        size = sum(file.length for file in manifest.files.values())
        if size > self._bytes_max:
            raise Isolate(f"a bundle of {size} bytes, over {self._bytes_max}", code="bundle.bytes")
        free = shutil.disk_usage(self._folder).free
        if size + disk_reserve_bytes > free:
            raise OutOfSpace(f"{size} bytes wanted, {free} free, {disk_reserve_bytes} reserved")
        files = [Part(self._folder / name, file) for name, file in manifest.files.items()]
        self._fill(files)
        self._files = files

    def _fill(self, parts: list[Part]) -> None:
        """Take from bundles on disk what they share with this one."""
        near = self._bundles.chunks()
        for part in parts:
            for digest in [d for d in part.missing() if d in near]:
                path, offset, length = near[digest]
                with contextlib.suppress(OSError), path.open("rb") as file:
                    payload = os.pread(file.fileno(), length, offset)
                    if sha256(payload) == digest:
                        part.put(digest, payload)

    def close(self, *, finished: bool = False) -> None:
        """Close all files; `finished` removes their maps."""
        for part in self.parts:
            part.close(finished=finished)


class Fetcher:
    """All downloads of one service. Owner thread only."""

    def __init__(
        self,
        settings: UpdateSettings,
        fleet: str,
        bundles: Bundles,
        subscribe: Callable[..., None],
        unsubscribe: Callable[..., None],
        *,
        seed: int | None = None,
    ) -> None:
        self.chunks_taken = 0
        self.chunks_refused = 0
        self._settings = settings
        self._fleet = fleet
        self._bundles = bundles
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._random = Random(seed)
        self._downloads: dict[str, Download] = {}
        self._asked: dict[str, _Ask] = {}
        self._outcomes: list[Outcome] = []
        self._last_s: float | None = None

    @property
    def digests(self) -> list[str]:
        """Manifest digests of the downloads."""
        return list(self._downloads)

    def start(self, ref: ModelRef, manifest_file: FileRef) -> None:
        """Begin or go on; a download that runs is left alone."""
        if ref.digest in self._downloads:
            return
        if len(self._downloads) >= self._settings.downloads_max:
            text = f"{len(self._downloads)} downloads run already"
            self._outcomes.append(Refused("download.count", text, ref, final=True))
            return
        folder = self._bundles.partial(ref.digest)
        try:
            self._downloads[ref.digest] = Download(
                ref, manifest_file, folder, self._bundles, self._settings.bundle_bytes_max
            )
        except OSError as error:
            self._outcomes.append(Refused("bundle.storage", str(error), ref, final=True))

    def cancel(self, digest: str) -> None:
        """Stop a download and forget what came of it."""
        download = self._downloads.pop(digest, None)
        if download is not None:
            download.close()
            self._bundles.discard_partial(digest)
            self._leave_unwanted()

    def stop(self) -> None:
        """Close files; what came stays for the next start."""
        for download in self._downloads.values():
            download.close()
        self._downloads.clear()

    def reconnected(self) -> None:
        """Chunks asked for are waited for anew."""
        for ask in self._asked.values():
            ask.since_s = None

    def message(self, digest: str, payload: bytes) -> None:
        """Take a chunk from the wire. Anything but the chunk itself is counted and dropped."""
        ask = self._asked.get(digest)
        if ask is None or not payload:
            return
        if len(payload) > CHUNK_BYTES_MAX or sha256(payload) != digest:
            self.chunks_refused += 1
            self._complain(digest, ask, "the bytes under this digest are others")
            return
        for download in list(self._downloads.values()):
            if not download.wants(digest):
                continue
            try:
                if download.put(digest, payload):
                    self.chunks_taken += 1
                else:
                    self.chunks_refused += 1
                    self._complain(digest, ask, "the chunk has another length than its file says")
            except OSError as error:
                refused = Refused("space.exhausted", str(error), download.ref)
                self._pause(download, self._last_s or 0.0, refused)
        self._leave_unwanted()

    def step(self, now_s: float, *, online: bool) -> list[Outcome]:
        """Advance all downloads, fill the window, report what does not come."""
        elapsed_s = now_s - self._last_s if self._last_s is not None else 0.0
        elapsed_s = min(max(0.0, elapsed_s), STEP_S_MAX)
        self._last_s = now_s
        for download in list(self._downloads.values()):
            self._advance(download, now_s, elapsed_s if online else 0.0)
        self._fill_window(now_s)
        if online:
            self._report_missing(now_s)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _advance(self, download: Download, now_s: float, elapsed_s: float) -> None:
        if now_s < download.paused_until_s:
            return
        download.spent_s += elapsed_s
        try:
            if download.advance(self._settings.disk_reserve_bytes):
                self._finish(download)
            elif download.spent_s > self._settings.deadline_s:
                had, known = download.progress
                text = f"{had} of {known} chunks after {download.spent_s:.0f} s"
                self._pause(download, now_s, Refused("download.deadline", text, download.ref))
        except Isolate as error:
            self._give_up(download, Refused(error.code, str(error), download.ref, final=True))
        except (OutOfSpace, OSError) as error:
            refused = Refused("space.exhausted", str(error), download.ref)
            self._pause(download, now_s, refused)

    def _finish(self, download: Download) -> None:
        download.close(finished=True)
        del self._downloads[download.ref.digest]
        self._leave_unwanted()
        try:
            self._bundles.promote(download.ref.digest)
        except Isolate as error:
            self._outcomes.append(Refused(error.code, str(error), download.ref, final=True))
            return
        self._outcomes.append(Ready(download.ref))

    def _pause(self, download: Download, now_s: float, refused: Refused) -> None:
        """Give up for now; go on later where it was."""
        settings = self._settings
        base_s, cap_s = settings.retry_base_s, settings.retry_cap_s
        delay_s = base_s + full_jitter(download.attempt, base_s, cap_s - base_s, self._random)
        download.attempt += 1
        download.spent_s = 0.0
        download.paused_until_s = now_s + delay_s
        text = f"{refused.reason}; again in {delay_s:.0f} s"
        self._outcomes.append(Refused(refused.code, text, download.ref))
        self._leave_unwanted(now_s)

    def _give_up(self, download: Download, refused: Refused) -> None:
        self._outcomes.append(refused)
        self.cancel(download.ref.digest)

    def _complain(self, digest: str, ask: _Ask, what: str) -> None:
        """Once for each chunk: name it, and ask the cloud to publish it again."""
        if ask.damaged:
            return
        ask.damaged = True
        ref = next((d.ref for d in self._downloads.values() if d.wants(digest)), None)
        self._outcomes.append(Refused("chunk.damaged", f"chunk {digest}: {what}", ref))
        self._outcomes.append(Missing((digest,)))

    def _active(self, now_s: float) -> list[Download]:
        return [d for d in self._downloads.values() if now_s >= d.paused_until_s]

    def _fill_window(self, now_s: float) -> None:
        room = self._settings.window_chunks - len(self._asked)
        wanted: list[str] = []
        for download in self._active(now_s):
            for digest in download.missing():
                if len(wanted) >= room:
                    break
                if digest not in self._asked and digest not in wanted:
                    wanted.append(digest)
        if wanted:
            self._asked.update((digest, _Ask()) for digest in wanted)
            self._subscribe(*(blob_topic(self._fleet, d) for d in wanted))

    def _leave_unwanted(self, now_s: float | None = None) -> None:
        at_s = self._last_s if now_s is None else now_s
        active = self._active(at_s if at_s is not None else 0.0)
        left = [d for d in self._asked if not any(x.wants(d) for x in active)]
        for digest in left:
            del self._asked[digest]
        if left:
            self._unsubscribe(*(blob_topic(self._fleet, d) for d in left))

    def _report_missing(self, now_s: float) -> None:
        late: list[str] = []
        for digest, ask in self._asked.items():
            if ask.since_s is None:
                ask.since_s = now_s
            patience_s = self._settings.missing_after_s * 2 ** min(
                ask.reports, _MISSING_DOUBLINGS_MAX
            )
            if now_s - ask.since_s >= patience_s and len(late) < _MISSING_CHUNKS_MAX:
                ask.since_s, ask.damaged = now_s, False
                ask.reports += 1
                late.append(digest)
        if late:
            self._outcomes.append(Missing(tuple(late)))
