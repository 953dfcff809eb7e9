"""Keys: Ed25519 pairs as files, one name for each role, `root-1.pem` and `root-1.pub.json`.

A role may sign when its `.pem` is here. In production the `.pem` of root and targets live on
offline media and are brought here, or named by their folder, only to sign; the `.pub.json` stay.
Which keys count is decided by signed metadata, never by what lies in the folder. Keys that were
revoked go to `retired/`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import (  # type: ignore[attr-defined]
    CryptoSigner,
    Key,
    SSlibKey,
)

from fieldloop_contract.errors import FixConfiguration
from fieldloop_delivery.durable import write_file

RETIRED = "retired"
OFFLINE_ROLES = ("root", "targets")
_NAME = re.compile(r"([a-z0-9.-]+)-([0-9]{1,4})\.pub\.json\Z")


class KeyRing:
    """The keys of one fleet in a folder. One thread."""

    def __init__(self, folder: Path, offline: Path | None = None) -> None:
        self._folder = folder
        self._offline = offline

    def generate(self, role: str) -> Key:
        """Make one more pair for a role; the private part of an offline role goes offline."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        retired = [n for n, _ in self._files(role, self._folder / RETIRED)]
        number = 1 + max([n for n, _ in self._files(role)] + retired, default=0)
        signer = CryptoSigner.generate_ed25519()
        document = {"keyid": signer.public_key.keyid, **signer.public_key.to_dict()}
        away = self._offline if self._offline and role in OFFLINE_ROLES else self._folder
        away.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(away / f"{role}-{number}.pem", signer.private_bytes, mode=0o600)
        write_file(self._folder / f"{role}-{number}.pub.json", json.dumps(document).encode())
        return signer.public_key

    def public(self, role: str) -> list[Key]:
        """Public keys of a role."""
        return [self._public(path) for _, path in self._files(role)]

    def signers(
        self, role: str, *, needed: int = 1, among: Collection[str] | None = None
    ) -> list[CryptoSigner]:
        """Signers of a role whose private part is here.

        Args:
            among: key ids that count; None for all of the folder's.

        Raises:
            FixConfiguration: fewer than `needed`.
        """
        found: list[CryptoSigner] = []
        for number, path in self._files(role):
            public = self._public(path)
            private = self._private(role, number)
            if private is not None and (among is None or public.keyid in among):
                key = load_pem_private_key(private.read_bytes(), None)
                found.append(CryptoSigner(key, public))
        if len(found) < needed:
            raise FixConfiguration(
                f"{needed} private keys of {role} are needed, {len(found)} are here",
                code="keys.absent",
                hint=f"bring {role}-N.pem to {self._folder}, or name their folder with --offline",
            )
        return found

    def can_sign(self, role: str, needed: int = 1, among: Collection[str] | None = None) -> bool:
        """Whether enough private keys of the role are here."""
        here = [
            path
            for number, path in self._files(role)
            if self._private(role, number) is not None
            and (among is None or self._public(path).keyid in among)
        ]
        return len(here) >= needed

    def retire(self, role: str, among: Collection[str]) -> None:
        """Put the keys of a role that are not `among` the current ones out of the way."""
        retired = self._folder / RETIRED
        for number, path in self._files(role):
            if self._public(path).keyid in among:
                continue
            retired.mkdir(exist_ok=True, mode=0o700)
            private = self._folder / f"{role}-{number}.pem"
            if private.exists():
                private.replace(retired / private.name)
            path.replace(retired / path.name)

    def _private(self, role: str, number: int) -> Path | None:
        for folder in (self._folder, self._offline):
            if folder is not None and (folder / f"{role}-{number}.pem").exists():
                return folder / f"{role}-{number}.pem"
        return None

    def _files(self, role: str, folder: Path | None = None) -> list[tuple[int, Path]]:
        where = folder or self._folder
        found = []
        for name in os.listdir(where) if where.is_dir() else []:
            match = _NAME.match(name)
            if match and match[1] == role:
                found.append((int(match[2]), where / name))
        return sorted(found)

    def _public(self, path: Path) -> SSlibKey:
        try:
            document = json.loads(path.read_bytes())
            return SSlibKey.from_dict(document.pop("keyid"), document)
        except (ValueError, KeyError, TypeError) as error:
            raise FixConfiguration(f"{path} is no public key: {error}", code="keys.file") from error
