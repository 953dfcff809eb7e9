"""What identity keeps in order while it runs: certificates of services, the broker's files.

Looks again and again; whatever it finds old, revoked or of an earlier authority it makes anew, and
writes nothing where nothing has to change. One thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fieldloop_contract.topics import Role
from fieldloop_identity.authority import Authority, new_key, write_file
from fieldloop_identity.broker import configuration, write_access
from fieldloop_identity.enrolment import Enrolment
from fieldloop_runtime.journal import Journal

SERVICES = tuple(role.value for role in Role if role is not Role.DEVICE)
_CRL_EVERY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where files go, and what they say.

    Attributes:
        broker: folder that mosquitto reads.
        seen_as: the same folder as mosquitto sees it, within its container.
        clients: a folder for each of the cloud's services: cert.pem, key.pem, trust.pem.
    """

    authority: Path
    broker: Path
    seen_as: str
    clients: Path
    hosts: tuple[str, ...]
    fleet: str
    service_days: float


class Keeper:
    """Keeps certificates of services and the broker's files current."""

    def __init__(self, places: Places, enrolment: Enrolment, journal: Journal) -> None:
        self._places = places
        self._enrolment = enrolment
        self._journal = journal
        self._written_s = float("-inf")
        self._state: tuple[str, tuple[str, ...]] | None = None

    def look(self, now: datetime, now_s: float) -> bool:
        """Look once; whether the server's own certificate is new.

        Args:
            now_s: monotonic seconds; revocation lists are dated anew each hour.
        """
        places = self._places
        authority = Authority.open(places.authority)
        server = (places.broker / "server.pem", places.broker / "server-key.pem")
        renewed = self._keep(authority, *server, "broker", places.hosts, now)
        for name in SERVICES:
            folder = places.clients / name
            self._keep(authority, folder / "cert.pem", folder / "key.pem", name, (), now)
            if not _same(folder / "trust.pem", authority.trust):
                write_file(folder / "trust.pem", authority.trust)
        text = configuration(places.seen_as).encode()
        if not _same(places.broker / "mosquitto.conf", text):
            write_file(places.broker / "mosquitto.conf", text)
        changed = self._changed(authority, now)
        if changed or now_s - self._written_s > _CRL_EVERY_S:
            write_access(places.broker, places.fleet, authority, self._enrolment, now)
            self._written_s = now_s
        return renewed

    def _changed(self, authority: Authority, now: datetime) -> bool:
        listed, _ = self._enrolment.revoked(now)
        state = (authority.fingerprint, tuple(sorted(r.serial for r in listed)))
        changed = state != self._state
        self._state = state
        return changed

    def _keep(
        self,
        authority: Authority,
        path: Path,
        key_path: Path,
        name: str,
        hosts: tuple[str, ...],
        now: datetime,
    ) -> bool:
        if path.is_file() and key_path.is_file():
            held = x509.load_pem_x509_certificate(path.read_bytes())
            begin, end = held.not_valid_before_utc, held.not_valid_after_utc
            if now < begin + (end - begin) / 2 and _issued_by(held, authority):
                return False
        key, pem = new_key()
        days = self._places.service_days
        issued = authority.issue_service(name, key.public_key(), hosts=hosts, now=now, days=days)
        write_file(key_path, pem, 0o600)
        write_file(path, issued.pem)
        self._journal.info("certificate.made", name=name, not_after=issued.not_after.isoformat())
        return True


def _issued_by(certificate: x509.Certificate, authority: Authority) -> bool:
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _same(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
