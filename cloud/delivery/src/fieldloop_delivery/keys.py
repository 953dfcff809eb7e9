"""Keys: Ed25519 pairs as files, one name for each role, `root-1.pem` and `root-1.pub.json`.

A role may sign when its `.pem` is here. In production the `.pem` of root and targets live on
offline media and are brought here only to sign; the `.pub.json` stay.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import (  # type: ignore[attr-defined]
    CryptoSigner,
    Key,
    SSlibKey,
)

from fieldloop_contract.errors import FixConfiguration
from fieldloop_delivery.durable import write_file

OFFLINE_ROLES = ("root", "targets")
_NAME = re.compile(r"([a-z0-9.-]+)-([0-9]{1,4})\.pub\.json\Z")


class KeyRing:
    """The keys of one fleet in a folder. One thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def generate(self, role: str) -> Key:
        """Make one more pair for a role."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = 1 + max((n for n, _ in self._files(role)), default=0)
        signer = CryptoSigner.generate_ed25519()
        document = {"keyid": signer.public_key.keyid, **signer.public_key.to_dict()}
        private = self._folder / f"{role}-{number}.pem"
        write_file(private, signer.private_bytes, mode=0o600)
        write_file(self._folder / f"{role}-{number}.pub.json", json.dumps(document).encode())
        return signer.public_key

    def public(self, role: str) -> list[Key]:
        """Public keys of a role."""
        return [self._public(path) for _, path in self._files(role)]

    def signers(self, role: str, *, needed: int = 1) -> list[CryptoSigner]:
        """Signers of a role whose private part is here.

        Raises:
            FixConfiguration: fewer than `needed`.
        """
        found: list[CryptoSigner] = []
        for number, path in self._files(role):
            private = self._folder / f"{role}-{number}.pem"
            if private.exists():
                key = load_pem_private_key(private.read_bytes(), None)
                found.append(CryptoSigner(key, self._public(path)))
        if len(found) < needed:
            raise FixConfiguration(
                f"{needed} private keys of {role} are needed, {len(found)} are here",
                code="keys.absent",
                hint=f"bring {role}-N.pem to {self._folder}",
            )
        return found

    def can_sign(self, role: str) -> bool:
        """Whether any private key of the role is here."""
        return any((self._folder / f"{role}-{n}.pem").exists() for n, _ in self._files(role))

    def _files(self, role: str) -> list[tuple[int, Path]]:
        found = []
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        for name in names:
            match = _NAME.match(name)
            if match and match[1] == role:
                found.append((int(match[2]), self._folder / name))
        return sorted(found)

    def _public(self, path: Path) -> SSlibKey:
        try:
            document = json.loads(path.read_bytes())
            return SSlibKey.from_dict(document.pop("keyid"), document)
        except (ValueError, KeyError, TypeError) as error:
            raise FixConfiguration(f"{path} is no public key: {error}", code="keys.file") from error
