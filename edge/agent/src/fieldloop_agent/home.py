"""The identity folder: what a device was given, whole or not there.

    DIR/current -> DIR/generation-N       changed by one rename
        fleet, device, broker-host, broker-port    one value each, for settings named NAME_FILE
        cert.pem, key.pem, trust.pem               for the broker and for renewals
        root.json                                  the fleet's TUF root, as given at enrolment
        profile.yaml                               where enrolment gave one
        grant.json                                 dates, and which token it was

A renewal keeps the root it has: a root is followed through its own chain and never handed out anew.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FixConfiguration, MalformedMessage
from fieldloop_contract.ids import check_id

_GENERATIONS_KEPT = 2


@dataclass(frozen=True, slots=True)
class Held:
    """The identity in force.

    Attributes:
        not_before_s, not_after_s: life of the certificate, seconds of UTC.
        token_sha256: of the token that it was enrolled by.
    """

    fleet: str
    device: str
    broker_host: str
    broker_port: int
    not_before_s: float
    not_after_s: float
    grace_days: float
    token_sha256: str

    @property
    def user(self) -> str:
        """The MQTT user name."""
        return f"{self.fleet}/{self.device}"


class Home:
    """The folder. One process writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FixConfiguration(f"{folder} cannot be made: {error}") from error

    @property
    def current(self) -> Path:
        """Where the files in force stand."""
        return self._folder / "current"

    def read(self) -> Held | None:
        """The identity in force; None where there is none, or where it is damaged."""
        try:
            document = json.loads((self.current / "grant.json").read_text(encoding="utf-8"))
            return Held(**document)
        except (OSError, ValueError, TypeError):
            return None

    def draft(self) -> Path:
        """An empty folder to prepare a new identity in; what was left there is removed."""
        path = self._folder / "draft"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o755)
        return path

    def adopt(
        self, draft: Path, grant: dict[str, Any], *, now_s: float, token_sha256: str, renewed: bool
    ) -> Held:
        """Complete a draft that holds `key.pem` with what was granted, and put it in force.

        Raises:
            MalformedMessage: the grant lacks something.
        """
        try:
            held = Held(
                fleet=check_id(grant["fleet"], "fleet"),
                device=check_id(grant["device"], "device"),
                broker_host=str(grant["broker_host"]),
                broker_port=int(grant["broker_port"]),
                not_before_s=now_s,
                not_after_s=datetime.fromisoformat(grant["not_after"]).timestamp(),
                grace_days=float(grant["grace_days"]),
                token_sha256=token_sha256,
            )
            files = {
                "fleet": held.fleet,
                "device": held.device,
                "broker-host": held.broker_host,
                "broker-port": str(held.broker_port),
                "cert.pem": str(grant["certificate"]),
                "trust.pem": str(grant["trust"]),
                "root.json": str(grant["root"]),
                "grant.json": json.dumps(asdict(held)),
            }
            if grant.get("profile"):
                files["profile.yaml"] = str(grant["profile"])
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedMessage(f"the grant is not complete: {error!r}") from error
        if renewed:
            for name in ("root.json", "profile.yaml"):
                if (self.current / name).is_file():
                    files[name] = (self.current / name).read_text(encoding="utf-8")
        for name, text in files.items():
            _write(draft / name, text)
        self._put_in_force(draft)
        return held

    def _put_in_force(self, draft: Path) -> None:
        before = sorted(self._generations())
        number = (before[-1] if before else 0) + 1
        _sync(draft)
        draft.rename(self._folder / f"generation-{number}")
        link = self._folder / "current.new"
        link.unlink(missing_ok=True)
        link.symlink_to(f"generation-{number}")
        link.replace(self.current)
        _sync(self._folder)
        for old in before[: 1 - _GENERATIONS_KEPT]:
            shutil.rmtree(self._folder / f"generation-{old}", ignore_errors=True)

    def _generations(self) -> list[int]:
        names = (p.name.removeprefix("generation-") for p in self._folder.glob("generation-*"))
        return [int(name) for name in names if name.isdigit()]


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
