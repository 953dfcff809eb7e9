"""Key ceremonies: rotating and revoking keys, renewing root, and telling what is about to expire.

A change of keys is one new file: root names the keys of the four top roles, targets those of the
director and of each model. What the old keys had signed is signed again right after; a crash in
between is healed by the next `Repository.renew`. A new root is signed by the threshold of the old
one and of the new one, so that devices follow it (TUF 5.3). One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import (  # type: ignore[attr-defined]
    Key,
    Metadata,
    Root,
)

from fieldloop_contract.desired import DIRECTOR_ROLE
from fieldloop_contract.errors import FixConfiguration
from fieldloop_delivery.keys import OFFLINE_ROLES, KeyRing
from fieldloop_delivery.repository import TOP_ROLES, Lifetimes, Repository, key_name, sign

WARN_DAYS = {"root": 60.0, "targets": 30.0}
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role: its version, when it expires, which keys count and which of them can sign here."""

    role: str
    version: int
    expires: datetime
    threshold: int
    keys: tuple[str, ...]
    here: int

    def warning(self, now: datetime) -> str:
        """What a person has to do about it; "" for nothing."""
        left = (self.expires - now) / timedelta(days=1)
        if left < 0:
            return f"{self.role} expired {-left:.0f} days ago: devices install nothing new"
        alone = self.here >= self.threshold and self.role not in OFFLINE_ROLES
        if not alone and left < WARN_DAYS.get(self.role, 30.0):
            return (
                f"{self.role} expires in {left:.0f} days: bring its keys and run"
                " `fieldloop-delivery keys renew`"
            )
        return ""


class Ceremony:
    """Changes of keys in one repository, under its lock."""

    def __init__(
        self,
        folder: Path,
        *,
        fleet: str,
        offline: Path | None = None,
        life: Lifetimes | None = None,
    ) -> None:
        self._keys = KeyRing(folder / "keys", offline)
        self._life = life or Lifetimes()
        self.repository = Repository.open(folder, self._keys, fleet=fleet, lifetimes=life)

    def status(self) -> list[RoleStatus]:
        """Every role."""
        return role_status(self.repository)

    def rotate(
        self, role: str, now: datetime, *, count: int | None = None, threshold: int | None = None
    ) -> None:
        """Give a role new keys; none of its old ones counts any more.

        Args:
            count, threshold: of root; by default as they are.

        Raises:
            FixConfiguration: the keys that must sign this are not here, or no such role.
        """
        with self.repository.changing():
            old = self._key_ids(role)
            made = count or (len(old) if role == "root" else 1)
            self._need_signers(role)
            keys = [self._keys.generate(key_name(role)) for _ in range(made)]
            self._change(role, remove=old, add=keys, threshold=threshold, now=now)

    def revoke(self, role: str, key_id: str, now: datetime) -> None:
        """Take one key from a role, by the first characters of its id.

        Raises:
            FixConfiguration: no such key, or too few would be left.
        """
        with self.repository.changing():
            ids = self._key_ids(role)
            found = [k for k in ids if k.startswith(key_id)]
            if len(found) != 1 or not key_id:
                raise FixConfiguration(
                    f"{len(found)} keys of {role} begin with {key_id!r:.40}", code="keys.unknown"
                )
            needed = self._threshold(role)
            if len(ids) - 1 < needed:
                raise FixConfiguration(
                    f"{role} needs {needed} keys and has {len(ids)}",
                    code="keys.threshold",
                    hint=f"fieldloop-delivery keys rotate {role}",
                )
            self._need_signers(role)
            self._change(role, remove=found, add=[], threshold=None, now=now)

    def renew(self, now: datetime) -> list[str]:
        """Sign root and targets again, with a full life; returns what was signed."""
        signed: list[str] = []
        with self.repository.changing():
            root = self._new_root(now)
            self._write_root(root, self._root().signed)
            signed.append("root")
            if self._can_sign("targets"):
                self.repository.publish({"targets"}, now)
                signed.append("targets")
        return signed

    # What a change consists of.

    def _change(
        self,
        role: str,
        *,
        remove: Sequence[str],
        add: Sequence[Key],
        threshold: int | None,
        now: datetime,
    ) -> None:
        if role in TOP_ROLES:
            root = self._new_root(now)
            old = self._root().signed
            for key_id in remove:
                root.revoke_key(key_id, role)
            for key in add:
                root.add_key(key, role)
            root.roles[role].threshold = threshold or root.roles[role].threshold
            if not 1 <= root.roles[role].threshold <= len(root.roles[role].keyids):
                raise FixConfiguration(f"the threshold of {role} is 1 to its number of keys")
            self._write_root(root, old)
            again = {"targets"} if role == "targets" else set()
        else:
            targets = self.repository.document("targets").signed
            for key_id in remove:
                targets.revoke_key(key_id, role)
            for key in add:
                targets.add_key(key, role)
            again = {"targets", role} - {DIRECTOR_ROLE}
        # Snapshot and timestamp are signed again with it, whichever role it was.
        self.repository.publish(again, now)
        self._keys.retire(key_name(role), self._key_ids(role))

    def _new_root(self, now: datetime) -> Root:
        root: Root = Metadata[Root].from_bytes(self.repository.root_bytes()).signed
        root.version += 1
        root.expires = (now + self._life.root).replace(microsecond=0)
        return root

    def _write_root(self, root: Root, old: Root) -> None:
        """Sign with the old threshold and the new one, check both, and write."""
        ids = {*old.roles["root"].keyids, *root.roles["root"].keyids}
        document = sign(root, self._keys, "root", among=ids)
        for judge, what in ((old, "the root in force"), (root, "the new root")):
            result = judge.get_verification_result(
                "root", document.signed_bytes, document.signatures
            )
            if not result.verified:
                raise FixConfiguration(
                    f"{result.threshold} keys of {what} must sign, {len(result.signed)} are here",
                    code="keys.absent",
                    hint="bring root-N.pem, or name their folder with --offline",
                )
        self.repository.add_root(document)

    def _need_signers(self, role: str) -> None:
        """Before any key is made: whether the keys that must sign the change are here."""
        signer = "root" if role in TOP_ROLES else "targets"
        self._keys.signers(signer, needed=self._threshold(signer), among=self._key_ids(signer))

    def _root(self) -> Metadata[Any]:
        return self.repository.document("root")

    def _can_sign(self, role: str) -> bool:
        ids = self._key_ids(role)
        return self._keys.can_sign(key_name(role), self._threshold(role), ids)

    def _key_ids(self, role: str) -> list[str]:
        try:
            return self.repository.key_ids(role)
        except ValueError as error:
            raise FixConfiguration(f"there is no role {role!r:.80}", code="keys.role") from error

    def _threshold(self, role: str) -> int:
        return self.repository.threshold(role)


def role_status(repository: Repository) -> list[RoleStatus]:
    """Every role of a repository, root first; the director has keys and no document."""
    found = []
    for role in [*repository.roles(), DIRECTOR_ROLE]:
        signed = repository.document("targets" if role == DIRECTOR_ROLE else role).signed
        ids = repository.key_ids(role)
        here = sum(repository.keys.can_sign(key_name(role), 1, [key]) for key in ids)
        found.append(
            RoleStatus(
                role,
                0 if role == DIRECTOR_ROLE else signed.version,
                signed.expires,
                repository.threshold(role),
                tuple(key[:_SHOWN] for key in ids),
                here,
            )
        )
    return found


def warnings(repository: Repository, now: datetime) -> list[str]:
    """What expires before long and cannot be renewed here by itself."""
    return [text for status in role_status(repository) if (text := status.warning(now))]
