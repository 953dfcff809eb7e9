"""The fleet's TUF repository: what is signed, and its versions, on disk.

Consistent snapshots: files with a version in their name are written first, `timestamp.json`, which
names them all, last and at once; so that a crash leaves the repository as it was before or after.
Versions only grow. Time comes in as an argument. One thread.

Roles: root (offline, threshold), targets (offline once the models are delegated), snapshot,
timestamp and director (online), and one role for each model name. Which keys count for a role is
what root and targets say; `ceremonies` changes that. Another process may change the folder in
between: a lock is held while anything is signed, and what changed is read again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from fieldloop_contract.desired import DIRECTOR_ROLE, FIELD, Desired
from fieldloop_contract.errors import FixConfiguration, Isolate
from fieldloop_contract.ids import check_id
from fieldloop_contract.manifest import Carriage, FileRef, sha256, target_path
from fieldloop_delivery.durable import stamp, write_file
from fieldloop_delivery.keys import KeyRing

TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
RESERVED = (*TOP_ROLES, DIRECTOR_ROLE)
RENEW_AT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long each role's signature holds; renewed at half of it."""

    root: timedelta = timedelta(days=365)
    targets: timedelta = timedelta(days=90)
    snapshot: timedelta = timedelta(days=30)
    timestamp: timedelta = timedelta(days=1)
    director: timedelta = timedelta(days=30)


def key_name(role: str) -> str:
    """Name of the key files of a role."""
    return role if role in RESERVED else model_key(role)


def model_key(name: str) -> str:
    """Name of a model role's key."""
    return f"model.{name}"


def target_file(path: str, manifest: bytes, carriage: Carriage | None = None) -> TargetFile:
    """A manifest as a target: its digest, its length, and in `custom` how the bundle is fetched.

    Chunks of the manifest, deltas and compressed forms stand here and not in the manifest, since
    they change with what is in the field while the version stays the same.
    """
    known = carriage or Carriage(manifest=FileRef.of(manifest))
    file = known.manifest
    custom: dict[str, Any] = {"chunk_bytes": file.chunk_bytes, "chunks": file.chunks}
    if known.packed:
        dumped = known.model_dump(mode="json", exclude_none=True)
        custom["packed"] = dumped["packed"]
    if not known.retained:
        custom["retained"] = False
    return TargetFile(file.length, {"sha256": file.sha256}, path, {"custom": custom})


class Repository:
    """The repository in a folder: `metadata/` and `repository.json`."""

    def __init__(
        self, folder: Path, keys: KeyRing, *, fleet: str, lifetimes: Lifetimes | None = None
    ) -> None:
        self._folder = folder
        self._metadata = folder / "metadata"
        self.keys = keys
        self.fleet = fleet
        self._life = lifetimes or Lifetimes()
        self._seen: tuple[int, ...] = ()
        self._refresh()

    def _refresh(self) -> None:
        """Read what is on disk, if it is another state than the one that was read last."""
        state = (self.root_version, *stamp(self._metadata / "timestamp.json"))
        if state == self._seen:
            return
        self._root: Metadata[Root] = self._read(f"{self.root_version}.root.json")
        self._timestamp: Metadata[Timestamp] = self._read("timestamp.json")
        version = self._timestamp.signed.snapshot_meta.version
        self._snapshot: Metadata[Snapshot] = self._read(f"{version}.snapshot.json")
        self._roles: dict[str, Metadata[Targets]] = {}
        for file, meta in self._snapshot.signed.meta.items():
            self._roles[file.removesuffix(".json")] = self._read(f"{meta.version}.{file}")
        self._seen = state

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the folder's lock, on its newest state; on a fault it is read anew next time."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._refresh()
            yield
            self._seen = (self.root_version, *stamp(self._metadata / "timestamp.json"))
        except BaseException:
            self._seen = ()
            raise
        finally:
            os.close(descriptor)

    @classmethod
    def create(
        cls,
        folder: Path,
        keys: KeyRing,
        *,
        fleet: str,
        now: datetime,
        root_keys: int = 3,
        root_threshold: int = 2,
        lifetimes: Lifetimes | None = None,
    ) -> Repository:
        """Make keys and the first version of every role.

        Raises:
            FixConfiguration: there is a repository already, or the threshold cannot be met.
        """
        check_id(fleet, "fleet")
        metadata = folder / "metadata"
        if (metadata / "timestamp.json").exists():
            raise FixConfiguration(f"{folder} holds a repository already", code="keys.exist")
        if not 1 <= root_threshold <= root_keys:
            raise FixConfiguration("the threshold of root is 1 to its number of keys")
        life = lifetimes or Lifetimes()
        metadata.mkdir(parents=True, exist_ok=True)
        for role in ("root",) * root_keys + ("targets", "snapshot", "timestamp", DIRECTOR_ROLE):
            keys.generate(role)
        root = Root(version=1, expires=_whole(now + life.root), consistent_snapshot=True)
        for role in TOP_ROLES:
            for key in keys.public(role):
                root.add_key(key, role)
        root.roles["root"].threshold = root_threshold
        targets = Targets(version=1, expires=_whole(now + life.targets))
        targets.delegations = Delegations({}, {})
        _delegate(targets, DIRECTOR_ROLE, ["director/*"], keys, DIRECTOR_ROLE)
        snapshot = Snapshot(version=1, expires=_whole(now + life.snapshot))
        timestamp = Timestamp(version=1, expires=_whole(now + life.timestamp))
        needed = {"root": root_threshold}
        for role, signed in (("root", root), ("targets", targets), ("snapshot", snapshot)):
            payload = sign(signed, keys, role, needed.get(role, 1)).to_bytes()
            write_file(metadata / f"1.{role}.json", payload)
        payload = sign(timestamp, keys, "timestamp").to_bytes()
        about = json.dumps({"fleet": fleet}).encode()
        write_file(folder / "repository.json", about)
        write_file(metadata / "timestamp.json", payload)
        return cls(folder, keys, fleet=fleet, lifetimes=life)

    @classmethod
    def open(
        cls, folder: Path, keys: KeyRing, *, fleet: str, lifetimes: Lifetimes | None = None
    ) -> Repository:
        """Open a repository.

        Raises:
            FixConfiguration: there is none, or it is another fleet's.
        """
        found = Repository.fleet_of(folder)
        if found != fleet:
            raise FixConfiguration(f"{folder} is the repository of fleet {found}")
        return cls(folder, keys, fleet=fleet, lifetimes=lifetimes)

    @classmethod
    def root_of(cls, folder: Path, *, fleet: str | None = None) -> bytes:
        """The newest root of a repository; FixConfiguration where `fleet` is another's."""
        found = Repository.fleet_of(folder)
        return cls.open(folder, KeyRing(folder / "keys"), fleet=fleet or found).root_bytes()

    @staticmethod
    def fleet_of(folder: Path) -> str:
        """Whose repository a folder holds; FixConfiguration where it holds none."""
        try:
            return str(json.loads((folder / "repository.json").read_bytes())["fleet"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FixConfiguration(
                f"{folder} holds no repository",
                code="keys.absent",
                hint="fieldloop-delivery keys init",
            ) from error

    @property
    def root_version(self) -> int:
        """Version of the newest root."""
        version = 1
        while (self._metadata / f"{version + 1}.root.json").exists():
            version += 1
        return version

    def root_bytes(self) -> bytes:
        """The newest root, as devices embed it."""
        return (self._metadata / f"{self.root_version}.root.json").read_bytes()

    def versions(self) -> dict[str, int]:
        """Current version of each role."""
        found = {role: item.signed.version for role, item in self._roles.items()}
        found["root"] = self.root_version
        found["snapshot"] = self._snapshot.signed.version
        found["timestamp"] = self._timestamp.signed.version
        return found

    @property
    def state(self) -> tuple[int, ...]:
        """Differs whenever the files do."""
        return self._seen

    def files(self) -> dict[str, bytes]:
        """All files that devices need, timestamp last."""
        names = [f"{v}.root.json" for v in range(1, self.root_version + 1)]
        names += [f"{item.signed.version}.{role}.json" for role, item in self._roles.items()]
        names += [f"{self._snapshot.signed.version}.snapshot.json", "timestamp.json"]
        return {name: (self._metadata / name).read_bytes() for name in names}

    def set_models(
        self,
        models: Mapping[str, Mapping[int, bytes]],
        now: datetime,
        carriages: Mapping[str, Carriage] | None = None,
    ) -> bool:
        """Make these versions, and no others, the targets of each model's role.

        Args:
            models: model name to version to encoded manifest. A name not given loses its targets.
            carriages: by manifest digest, how bundles are fetched; by default as they are.

        Returns:
            Whether anything had to be signed.

        Raises:
            FixConfiguration: a new model name, and the targets key is not here to delegate to it.
        """
        with self.changing():
            return self._set_models(models, now, carriages or {})

    def add_models(self, models: Mapping[str, Mapping[int, bytes]], now: datetime) -> None:
        """Make these versions the targets of their roles, and leave all other roles alone."""
        with self.changing():
            self._set_models(models, now, {}, names=set(models))

    def listed(self, name: str) -> dict[int, str]:
        """Versions of a model that are signed now, with the digests of their manifests."""
        if name not in self._roles:
            return {}
        targets = self._roles[name].signed.targets
        return {int(path.split("/")[1]): t.hashes["sha256"] for path, t in targets.items()}

    def _set_models(
        self,
        models: Mapping[str, Mapping[int, bytes]],
        now: datetime,
        carriages: Mapping[str, Carriage],
        names: Collection[str] | None = None,
    ) -> bool:
        changed: list[str] = []
        for name in sorted(names or {*models, *self._model_roles()}):
            wanted = {}
            for version, manifest in models.get(name, {}).items():
                path = target_path(name, version)
                wanted[path] = target_file(path, manifest, carriages.get(sha256(manifest)))
            if name not in self._roles:
                self._add_role(name, now)
                changed += ["targets", name]
            elif self._roles[name].signed.targets == wanted:
                continue
            else:
                changed.append(name)
            self._roles[name].signed.targets = wanted
        if changed:
            self.publish(set(changed), now)
        return bool(changed)

    def renew(self, now: datetime) -> bool:
        """Sign again what has passed half of its life, or whose key is another, and can be."""
        with self.changing():
            return self._renew(now)

    def _renew(self, now: datetime) -> bool:
        due = {
            role
            for role, item in self._roles.items()
            if (self._is_due(item.signed, self._life.targets, now) or not self._holds(role, item))
            and self._can_sign(role)
        }
        snapshot, timestamp = self._snapshot, self._timestamp
        stale = self._is_due(snapshot.signed, self._life.snapshot, now)
        if due or stale or not self._holds("snapshot", snapshot):
            self.publish(due, now)
            return True
        stale = self._is_due(timestamp.signed, self._life.timestamp, now)
        if stale or not self._holds("timestamp", timestamp):
            self._sign_timestamp(now)
            return True
        return False

    def key_ids(self, role: str) -> list[str]:
        """Key ids that count for a role, as root and targets say."""
        signed: Root | Targets = self._root.signed
        if role not in TOP_ROLES:
            signed = self._roles["targets"].signed
        return list(signed.get_delegated_role(role).keyids)

    def _holds(self, role: str, item: Metadata[Any]) -> bool:
        """Whether a key that counts has signed it."""
        return bool(set(self.key_ids(role)) & set(item.signatures))

    def _can_sign(self, role: str) -> bool:
        return self.keys.can_sign(key_name(role), among=self.key_ids(role))

    def sign_order(
        self, desired: Desired, version: int, manifests: Mapping[str, bytes], now: datetime
    ) -> bytes:
        """A signed order for one device.

        Args:
            manifests: encoded manifests by digest, of every model that the order names.

        Raises:
            Isolate: a manifest is not the one named.
        """
        targets: dict[str, TargetFile] = {}
        for order in desired.slots.values():
            if order.model is None:
                continue
            manifest = manifests[order.model.digest]
            if sha256(manifest) != order.model.digest:
                raise Isolate("an order names another manifest", code="delivery.manifest")
            path = target_path(order.model.name, order.model.version)
            targets[path] = TargetFile(len(manifest), {"sha256": order.model.digest}, path)
        signed = Targets(
            version=version,
            expires=_whole(now + self._life.director),
            targets=targets,
            unrecognized_fields={FIELD: desired.model_dump(mode="json", exclude_none=True)},
        )
        among = self.key_ids(DIRECTOR_ROLE)
        return sign(signed, self.keys, DIRECTOR_ROLE, among=among).to_bytes()

    def renew_order_at(self, payload: bytes) -> datetime:
        """When a signed order has passed half of its life; at once where it holds no more."""
        at_once = datetime.min.replace(tzinfo=UTC)
        try:
            document = Metadata[Targets].from_bytes(payload)
        except RepositoryError:
            return at_once
        if not set(self.key_ids(DIRECTOR_ROLE)) & set(document.signatures):
            return at_once
        return document.signed.expires - self._life.director * RENEW_AT_SHARE

    def _model_roles(self) -> list[str]:
        return [role for role in self._roles if role != "targets"]

    def _add_role(self, name: str, now: datetime) -> None:
        check_id(name, "model")
        if name in RESERVED:
            raise FixConfiguration(f"no model can be called {name!r}", code="delivery.model-name")
        self.keys.signers("targets", among=self.key_ids("targets"))
        if not self.keys.public(model_key(name)):
            self.keys.generate(model_key(name))
        top = self._roles["targets"].signed
        _delegate(top, name, [f"{name}/*/manifest.json"], self.keys, model_key(name))
        signed = Targets(version=1, expires=_whole(now + self._life.targets))
        signed.version = 0  # signing raises it, and there the first version is 1
        self._roles[name] = Metadata(signed)

    def document(self, role: str) -> Metadata[Any]:
        """The current signed document of a role."""
        top: dict[str, Metadata[Any]] = {
            "root": self._root,
            "snapshot": self._snapshot,
            "timestamp": self._timestamp,
        }
        return top[role] if role in top else self._roles[role]

    def roles(self) -> list[str]:
        """All roles that have a document."""
        return [*TOP_ROLES, *self._model_roles()]

    def add_root(self, document: Metadata[Root]) -> None:
        """Take a new root, checked by the caller, into force. Only within `changing`."""
        self._write(f"{document.signed.version}.root.json", document)
        self._root = document

    def threshold(self, role: str) -> int:
        """Signatures that a role needs."""
        signed: Root | Targets = self._root.signed
        if role not in TOP_ROLES:
            signed = self._roles["targets"].signed
        return int(signed.get_delegated_role(role).threshold)

    def publish(self, roles: set[str], now: datetime) -> None:
        """Sign `roles` with their next versions, then snapshot and timestamp over them."""
        for role in sorted(roles):
            signed = self._roles[role].signed
            signed.version += 1
            signed.expires = _whole(now + self._life.targets)
            self._roles[role] = self._sign(role, signed)
            self._write(f"{signed.version}.{role}.json", self._roles[role])
        snapshot = self._snapshot.signed
        snapshot.version += 1
        snapshot.expires = _whole(now + self._life.snapshot)
        for role, item in self._roles.items():
            payload = (self._metadata / f"{item.signed.version}.{role}.json").read_bytes()
            snapshot.meta[f"{role}.json"] = _meta_file(item.signed.version, payload)
        self._snapshot = self._sign("snapshot", snapshot)
        self._write(f"{snapshot.version}.snapshot.json", self._snapshot)
        self._sign_timestamp(now)

    def _sign_timestamp(self, now: datetime) -> None:
        signed = self._timestamp.signed
        version = self._snapshot.signed.version
        payload = (self._metadata / f"{version}.snapshot.json").read_bytes()
        signed.version += 1
        signed.expires = _whole(now + self._life.timestamp)
        signed.snapshot_meta = _meta_file(version, payload)
        self._timestamp = self._sign("timestamp", signed)
        self._write("timestamp.json", self._timestamp)

    def _sign(self, role: str, signed: Any) -> Metadata[Any]:
        return sign(signed, self.keys, key_name(role), among=self.key_ids(role))

    def _is_due(self, signed: Signed, life: timedelta, now: datetime) -> bool:
        return bool(now >= signed.expires - life * RENEW_AT_SHARE)

    def _read(self, name: str) -> Metadata[Any]:
        try:
            return Metadata.from_file(str(self._metadata / name))
        except (RepositoryError, OSError) as error:
            raise Isolate(
                f"{self._metadata / name} cannot be read: {error}",
                code="delivery.repository",
                hint="restore the repository folder from a backup",
            ) from error

    def _write(self, name: str, metadata: Metadata[Any]) -> None:
        write_file(self._metadata / name, metadata.to_bytes())


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _meta_file(version: int, payload: bytes) -> MetaFile:
    return MetaFile(version, len(payload), {"sha256": sha256(payload)})


def _delegate(targets: Targets, role: str, paths: list[str], keys: KeyRing, key_name: str) -> None:
    delegations = targets.delegations
    assert delegations is not None  # made in `create`
    assert delegations.roles is not None
    delegations.roles[role] = DelegatedRole(role, [], 1, True, paths)
    for key in keys.public(key_name):
        targets.add_key(key, role)


def sign(
    signed: Any,
    keys: KeyRing,
    name: str,
    needed: int = 1,
    *,
    among: Collection[str] | None = None,
) -> Metadata[Any]:
    """Sign with every key of that name that is here and counts."""
    metadata = Metadata(signed)
    for signer in keys.signers(name, needed=needed, among=among):
        metadata.sign(signer, append=True)
    return metadata
