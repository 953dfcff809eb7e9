"""Loading a model from a file, without any network: `python -m fieldloop_update load FILE`.

Feeds a `ModelSource` with what the file carries, as if a broker had sent it: the same signatures,
floors and checks decide. When it ends well the order is in force and the bundle on disk; the
service finds both when it starts. The service must not run meanwhile: one process at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fieldloop_contract.airgap import Archive
from fieldloop_contract.errors import MalformedMessage, RetryLater, Untrusted
from fieldloop_contract.manifest import FileRef, parse_manifest, split
from fieldloop_contract.messages import ModelRef
from fieldloop_contract.topics import Topic, blob_topic, meta_topic, parse_blob
from fieldloop_runtime.clock import SystemClock
from fieldloop_update.outcomes import Ordered, Ready, Refused
from fieldloop_update.settings import UpdateSettings
from fieldloop_update.source import ModelSource

_TIMEOUT_S = 120.0
_PAUSE_S = 0.02


class _Chunks:
    """Chunks of the archive's files, cut when they are asked for."""

    def __init__(self, archive: Archive, manifest: bytes) -> None:
        self._archive = archive
        self._manifest = manifest
        self._where: dict[str, tuple[FileRef, int]] = {}
        self._last: tuple[str, bytes] = ("", b"")
        for file in [FileRef.of(manifest), *parse_manifest(manifest).files.values()]:
            for index, chunk in enumerate(file.chunks):
                self._where[chunk] = (file, index)

    def read(self, chunk: str) -> bytes | None:
        place = self._where.get(chunk)
        if place is None:
            return None
        file, index = place
        if self._last[0] != file.sha256:
            data = self._archive.file(file.sha256)
            if data is None:
                return None
            self._last = (file.sha256, data)
        at = index * file.chunk_bytes
        return split(self._last[1][at : at + file.chunk_bytes], file.chunk_bytes)[0]


def load_archive(
    archive: Archive,
    settings: UpdateSettings,
    *,
    fleet: str,
    device: str,
    service: str,
    root: bytes,
    clock: SystemClock,
    say: Callable[[str], None],
) -> ModelRef:
    """Take the order and the bundle of an archive; returns which model is there now.

    Raises:
        Untrusted: what it carries is refused, by name.
        MalformedMessage: it carries nothing for this device.
        RetryLater: it did not end in time.
        FixConfiguration: the service runs.
    """
    desired = archive.desired(device)
    ref = archive.about.model
    manifest = archive.file(ref.digest)
    if desired is None or manifest is None:
        raise MalformedMessage(f"no order for {device} in this file", code="airgap.device")
    chunks = _Chunks(archive, manifest)
    asked: list[str] = []
    # One file for all: no network is used, whatever the settings say, and nothing is paid for.
    offline = settings.model_copy(
        update={"https_url": "", "metered": False, "budget_bytes_per_day": 0, "patience_s": 2.0}
    )
    source = ModelSource(
        offline,
        fleet=fleet,
        device=device,
        service=service,
        root=root,
        subscribe=lambda *filters: asked.extend(filters),
        unsubscribe=lambda *_filters: None,
        clock=clock,
    )
    try:
        for name, payload in archive.metadata().items():
            source.message(meta_topic(fleet, name), payload)
        source.message(str(Topic(fleet, device, service, "desired")), desired)
        source.connected()
        until_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < until_s:
            for outcome in source.step(time.monotonic()):
                if isinstance(outcome, Ordered):
                    say(f"order {outcome.version} is in force")
                    if any(o.model == ref for o in outcome.desired.slots.values()):
                        source.fetch(ref)
                elif isinstance(outcome, Ready):
                    return outcome.ref
                elif isinstance(outcome, Refused):
                    raise Untrusted(outcome.reason, code=outcome.code)
            for digest in [parse_blob(topic) for topic in asked]:
                payload_of = chunks.read(digest)
                if payload_of is not None:
                    source.message(blob_topic(fleet, digest), payload_of)
            asked.clear()
            time.sleep(_PAUSE_S)
        raise RetryLater("the file was not taken in time", code="airgap.timeout")
    finally:
        source.close()
