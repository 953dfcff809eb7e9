"""Models for sites without a network, and from them: archives written and taken.

An archive carries the signed metadata, an order for each device named, and the files. Taking one at
another site verifies it against the sender's root, from the root chain to the files' digests, and
registers the version in this site's own store, where the ordinary rollout takes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import Updater, UpdaterConfig  # type: ignore[attr-defined]
from tuf.ngclient.fetcher import FetcherInterface

from fieldloop_contract.airgap import About, Archive, write_archive
from fieldloop_contract.desired import Desired, SlotOrder
from fieldloop_contract.errors import FixConfiguration, Untrusted
from fieldloop_contract.manifest import (
    MANIFEST_BYTES_MAX,
    Manifest,
    check_bundle,
    parse_manifest,
    sha256,
    target_path,
)
from fieldloop_delivery.fleet import content_of
from fieldloop_delivery.policy import Policy
from fieldloop_delivery.repository import Repository
from fieldloop_store.engine import Store
from fieldloop_store.registry import find_model, load_bundle, register_model
from fieldloop_store.rollouts import AssignmentRow, DocumentRow, find_document, save_look

_BASE = "archive://meta/"


def export(
    store: Store,
    repository: Repository,
    policy: Policy,
    *,
    name: str,
    version: int,
    devices: Sequence[str],
    out: Path,
    now: datetime,
) -> int:
    """Write an archive of one approved version; returns how many orders were signed for it.

    A device whose last order names the version keeps that order; others get the next one.

    Raises:
        FixConfiguration: no such version, or no slot of the policy is for it.
    """
    row = find_model(store, repository.fleet, name, version)
    if row is None or row.state != "approved":
        raise FixConfiguration(f"{name} {version} is not an approved version", code="export.model")
    manifest, files = load_bundle(store, row.digest)
    if version not in repository.listed(name):
        listed = {v: load_bundle(store, d)[0].encode() for v, d in repository.listed(name).items()}
        repository.add_models({name: {**listed, version: manifest.encode()}}, now)
    orders: dict[str, bytes] = {}
    signed: list[DocumentRow] = []
    assigned: list[AssignmentRow] = []
    for device in devices:
        before = find_document(store, repository.fleet, device)
        slots = {
            s.slot: SlotOrder(model=manifest.ref(), streams=s.streams)
            for s in policy.slots
            if s.model == name and s.matches(device)
        }
        if not slots:
            raise FixConfiguration(f"no slot of the policy gives {device} a {name}")
        known = content_of(before.payload) if before is not None else None
        if before is not None and known is not None and known.slots.items() >= slots.items():
            orders[device] = before.payload
            continue
        recalled = known.recalled if known is not None else []
        desired = Desired(
            fleet=repository.fleet,
            device=device,
            slots={**(known.slots if known is not None else {}), **slots},
            recalled=recalled,
        )
        number = before.version + 1 if before is not None else 1
        named = {o.model.digest for o in desired.slots.values() if o.model is not None}
        manifests = {d: load_bundle(store, d)[0].encode() for d in named}
        payload = repository.sign_order(desired, number, manifests, now)
        orders[device] = payload
        signed.append(DocumentRow(device, number, payload))
        assigned += [AssignmentRow(device, slot, name, version, None) for slot in slots]
    if signed:
        now_ns = int(now.timestamp() * 1e9)
        save_look(
            store, repository.fleet, changed=[], assigned=assigned, signed=signed, now_ns=now_ns
        )
    by_digest = {sha256(data): data for data in [manifest.encode(), *files.values()]}
    about = About(fleet=repository.fleet, model=manifest.ref())
    write_archive(out, about, metadata=repository.files(), desired=orders, files=by_digest)
    return len(signed)


class _ArchiveFetcher(FetcherInterface):
    """Metadata from an archive; what is not there is a 404."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._files.get(url.removeprefix(_BASE))
        if data is None:
            raise DownloadHTTPError(f"{url} is not in the archive", 404)
        return iter([data])


def take(store: Store, archive: Archive, *, fleet: str, root: bytes, now: datetime) -> Manifest:
    """Verify an archive and register its version as approved in this site's store.

    Args:
        fleet: of this site; the archive's own may be another.
        root: of the sender, by which everything in the archive is judged.

    Raises:
        Untrusted: it is not signed by that root, or has expired.
        MalformedMessage, RejectedInput: its files are others, or the version is taken.
    """
    ref = archive.about.model
    with tempfile.TemporaryDirectory() as folder:
        try:
            updater = Updater(
                metadata_dir=folder,
                metadata_base_url=_BASE,
                fetcher=_ArchiveFetcher(archive.metadata()),
                config=UpdaterConfig(prefix_targets_with_hash=False),
                bootstrap=root,
            )
            info = updater.get_targetinfo(target_path(ref.name, ref.version))
        except (RepositoryError, DownloadError) as error:
            raise Untrusted(f"{error!s:.300}", code="import.untrusted") from error
    if info is None or info.hashes.get("sha256") != ref.digest:
        raise Untrusted(f"{ref.name} {ref.version} is not signed", code="import.untrusted")
    payload = archive.file(ref.digest, MANIFEST_BYTES_MAX)
    manifest = parse_manifest(payload or b"")
    files = {name: archive.file(file.sha256) or b"" for name, file in manifest.files.items()}
    check_bundle(manifest, files)
    register_model(
        store,
        fleet=fleet,
        manifest=manifest,
        files=files,
        run=None,
        metrics={"imported": {"fleet": archive.about.fleet}},
        state="approved",
        now_ns=int(now.astimezone(UTC).timestamp() * 1e9),
    )
    return manifest
