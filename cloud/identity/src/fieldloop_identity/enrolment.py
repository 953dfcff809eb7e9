"""Enrolment: a token becomes a certificate, a certificate becomes a newer one, or neither.

    provision(device)    -> a one-time token, for that device alone, for some hours
    enrol(token, csr)    -> the first who comes with the token gets the device's certificate
    renew(csr)           -> whoever holds the key of a certificate of ours gets a newer one
    revoke(device)       -> nothing it holds counts any more

A token names the authority (its sha256) beside the secret, so that a device that knows nothing yet
can tell the true server from another. Only the secret's sha256 is stored. A token that comes again
with the key it was used for is a lost answer, and gets a certificate again while it lasts; with
another key it is stolen or was: refused, written down as an incident, logged as an error.

A renewal needs no token: the request is signed by the device's own key, and so is worth nothing to
anybody else. It is granted until `grace` after the certificate has run out, so that a device which
was off for months comes back by itself; a revoked one never does.

Plain functions of a request and a clock: `server.py` and the console are two doors to one room.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field

from fieldloop_contract.errors import FixConfiguration, MalformedMessage, RetryLater, Untrusted
from fieldloop_identity.authority import (
    CSR_BYTES_MAX,
    Authority,
    Issued,
    PublicKey,
    Revoked,
    device_name,
    key_digest,
    read_request,
)
from fieldloop_runtime.journal import Journal
from fieldloop_store import identities
from fieldloop_store.engine import Store
from fieldloop_store.identities import CertificateRow, IncidentRow, TokenRow

TOKEN_PREFIX = "fl1"
TOKEN_HOURS_MAX = 24 * 30
_INCIDENT_EVERY_NS = 60 * 10**9
_PROFILE_BYTES_MAX = 262_144


class EnrolRequest(BaseModel):
    """What a device sends with its token."""

    model_config = ConfigDict(extra="ignore")
    token: str = Field(max_length=200)
    csr: str = Field(max_length=CSR_BYTES_MAX)


class RenewRequest(BaseModel):
    """What a device sends before, or within the grace after, the end of its certificate."""

    model_config = ConfigDict(extra="ignore")
    csr: str = Field(max_length=CSR_BYTES_MAX)


class Grant(BaseModel):
    """What a device gets: who it is, whom it trusts, and where to go.

    Attributes:
        trust: certificates of the authority (PEM), old and new ones.
        root: the fleet's TUF root metadata, from which models are verified.
        profile: device profile (YAML) to begin with; newer ones come in signed orders.
        not_after: when the certificate ends, RFC 3339.
        grace_days: how long after that a renewal is still granted.
    """

    fleet: str
    device: str
    certificate: str
    trust: str
    root: str
    broker_host: str
    broker_port: int
    profile: str | None = None
    not_after: str
    grace_days: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What is granted, and for how long.

    Attributes:
        root_file: the fleet's TUF root metadata.
        profiles_dir: `{device}.yaml`, else `default.yaml`; no folder: no profile is given.
    """

    broker_host: str
    broker_port: int
    root_file: Path
    profiles_dir: Path | None = None
    certificate_days: float = 90.0
    grace_days: float = 180.0


def utc_now() -> datetime:
    """The clock that services pass in."""
    return datetime.now(UTC)


def to_ns(moment: datetime) -> int:
    """int64 ns of UTC."""
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000


class Enrolment:
    """Provisions, enrols, renews and revokes. Any thread may call it."""

    def __init__(
        self,
        store: Store,
        authority: Callable[[], Authority],
        terms: Terms,
        journal: Journal,
    ) -> None:
        self._store = store
        self._authority = authority
        self._terms = terms
        self._journal = journal

    def provision(self, fleet: str, device: str, *, actor: str, hours: float, now: datetime) -> str:
        """A one-time token for a device; earlier unused ones of the same device stop working.

        Raises:
            RejectedInput: ids that are none, or too long for a certificate.
            FixConfiguration: a life that is not within bounds.
        """
        device_name(fleet, device)
        if not 0 < hours <= TOKEN_HOURS_MAX:
            raise FixConfiguration(f"a token lives up to {TOKEN_HOURS_MAX} hours, not {hours:g}")
        secret = secrets.token_urlsafe(32)
        with self._store.begin() as connection:
            identities.add_token(
                connection,
                digest=_digest(secret),
                fleet=fleet,
                device=device,
                actor=actor,
                created_ns=to_ns(now),
                expires_ns=to_ns(now + timedelta(hours=hours)),
            )
        self._journal.info("token.made", fleet=fleet, device=device, hours=hours, actor=actor)
        return f"{TOKEN_PREFIX}.{self._authority().fingerprint}.{secret}"

    def enrol(self, request: EnrolRequest, now: datetime) -> Grant:
        """Turn a token into a certificate.

        Raises:
            MalformedMessage: no token or no signing request.
            Untrusted: unknown, expired, or used for another key; `code` says which.
            RetryLater: the fleet's root is not there yet.
        """
        digest = _digest(_secret(request.token))
        csr = read_request(request.csr.encode())
        key = key_digest(_key(csr))
        root = self._root()
        with self._store.begin() as connection:
            token = identities.find_token(connection, digest)
            fault = _fault(token, key, to_ns(now))
            held = identities.list_certificates(connection, key_sha256=key)
            if fault is None and any(row.revoked_ns is not None for row in held):
                fault = Untrusted(
                    "this key was revoked", code="identity.revoked", hint="make a new key"
                )
            if token is not None and fault is None:
                issued = self._issue(token.fleet, token.device, _key(csr), now)
                identities.use_token(connection, digest, key, to_ns(now))
                identities.add_certificate(connection, _row(issued, token.fleet, token.device))
        if token is None or fault is not None:
            raise self._refuse(token, fault or Untrusted("no such token"), key, now)
        self._journal.info(
            "device.enrolled", fleet=token.fleet, device=token.device, serial=issued.serial
        )
        return self._grant(token.fleet, token.device, issued, root)

    def renew(self, request: RenewRequest, now: datetime) -> Grant:
        """A newer certificate for the key of an older one.

        Raises:
            MalformedMessage: no signing request.
            Untrusted: a key we gave no certificate for, revoked, or too long run out.
        """
        csr = read_request(request.csr.encode())
        key = key_digest(_key(csr))
        root = self._root()
        grace_ns = to_ns(now - timedelta(days=self._terms.grace_days))
        with self._store.begin() as connection:
            held = identities.list_certificates(connection, key_sha256=key)
            if not held:
                raise Untrusted(
                    "no certificate was ever given for this key",
                    code="identity.unknown-key",
                    hint="provision the device again",
                )
            newest = held[0]
            if any(row.revoked_ns is not None for row in held):
                raise Untrusted(
                    f"{newest.fleet}/{newest.device} was revoked",
                    code="identity.revoked",
                    hint="provision the device again if it is trusted again",
                )
            if newest.not_after_ns < grace_ns:
                raise Untrusted(
                    f"the certificate ran out more than {self._terms.grace_days:g} days ago",
                    code="identity.grace",
                    hint="provision the device again",
                )
            issued = self._issue(newest.fleet, newest.device, _key(csr), now)
            row = _row(issued, newest.fleet, newest.device)
            identities.add_certificate(connection, row)
        self._journal.info(
            "device.renewed", fleet=newest.fleet, device=newest.device, serial=issued.serial
        )
        return self._grant(newest.fleet, newest.device, issued, root)

    def revoke(self, fleet: str, device: str, now: datetime) -> int:
        """Revoke all certificates of a device and its unused tokens; returns how many it held."""
        with self._store.begin() as connection:
            count = identities.revoke_certificates(connection, fleet, device, to_ns(now))
            identities.expire_tokens(connection, fleet, device, to_ns(now))
        self._journal.warning("device.revoked", fleet=fleet, device=device, certificates=count)
        return count

    def revoked(self, now: datetime) -> tuple[list[Revoked], list[str]]:
        """What the broker has to refuse: certificates, and the devices that hold no other.

        A certificate that has run out is refused without being listed.
        """
        with self._store.read() as connection:
            rows = identities.list_certificates(
                connection, revoked_only=True, valid_after_ns=to_ns(now)
            )
            named = {(row.fleet, row.device) for row in rows}
            gone = [
                f"{fleet}/{device}"
                for fleet, device in sorted(named)
                if all(
                    row.revoked_ns is not None
                    for row in identities.list_certificates(
                        connection, fleet=fleet, device=device, valid_after_ns=to_ns(now)
                    )
                )
            ]
        listed = [
            Revoked(r.serial, r.issuer, datetime.fromtimestamp((r.revoked_ns or 0) / 1e9, UTC))
            for r in rows
        ]
        return listed, gone

    def _root(self) -> str:
        try:
            return self._terms.root_file.read_text(encoding="utf-8")
        except OSError as error:
            raise RetryLater(
                f"the fleet's root cannot be read: {error}",
                code="identity.root",
                hint="fieldloop-delivery keys init, then root --out FIELDLOOP_ROOT_FILE",
            ) from error

    def _issue(self, fleet: str, device: str, key: PublicKey, now: datetime) -> Issued:
        days = self._terms.certificate_days
        return self._authority().issue_device(fleet, device, key, now=now, days=days)

    def _grant(self, fleet: str, device: str, issued: Issued, root: str) -> Grant:
        return Grant(
            fleet=fleet,
            device=device,
            certificate=issued.pem.decode(),
            trust=self._authority().trust.decode(),
            root=root,
            broker_host=self._terms.broker_host,
            broker_port=self._terms.broker_port,
            profile=self._profile(device),
            not_after=issued.not_after.isoformat(),
            grace_days=self._terms.grace_days,
        )

    def _profile(self, device: str) -> str | None:
        folder = self._terms.profiles_dir
        if folder is None:
            return None
        for path in (folder / f"{device}.yaml", folder / "default.yaml"):
            if path.is_file() and path.stat().st_size <= _PROFILE_BYTES_MAX:
                return path.read_text(encoding="utf-8")
        return None

    def _refuse(
        self, token: TokenRow | None, fault: Untrusted, key: str, now: datetime
    ) -> Untrusted:
        """Write down what a person should know; returns the error to raise."""
        if token is None or fault.code != "token.used":
            self._journal.warning("enrolment.refused", code=fault.code)
            return fault
        self._journal.error("token.stolen", fleet=token.fleet, device=token.device, key=key)
        newest = identities.list_incidents(self._store, token.fleet)
        recent = any(
            row.device == token.device
            and row.code == fault.code
            and row.at_ns > to_ns(now) - _INCIDENT_EVERY_NS
            for row in newest[:100]
        )
        if not recent:
            detail = {"key_sha256": key, "used_ns": token.used_ns, "used_for": token.key_sha256}
            row = IncidentRow(token.fleet, token.device, fault.code, detail, to_ns(now))
            with self._store.begin() as connection:
                identities.add_incident(connection, row)
        return fault


def _fault(token: TokenRow | None, key: str, now_ns: int) -> Untrusted | None:
    """Why this token gives nothing to this key; None where it does."""
    if token is None:
        return Untrusted(
            "no such token", code="token.unknown", hint="provision the device; copy it whole"
        )
    if token.used_ns is not None and token.key_sha256 != key:
        return Untrusted(
            f"this token of {token.fleet}/{token.device} was used by another key",
            code="token.used",
            hint="if that was not this device, revoke it, and provision it again",
        )
    if token.expires_ns <= now_ns:
        return Untrusted("this token has run out", code="token.expired", hint="make a new one")
    return None


def _secret(token: str) -> str:
    parts = token.strip().split(".")
    if len(parts) != 3 or parts[0] != TOKEN_PREFIX or not parts[2]:
        raise MalformedMessage(
            "this is no enrolment token", code="token.malformed", hint="copy it whole: fl1.….…"
        )
    return parts[2]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(csr: x509.CertificateSigningRequest) -> PublicKey:
    key: PublicKey = csr.public_key()  # type: ignore[assignment]  # read_request let no other pass
    return key


def _row(issued: Issued, fleet: str, device: str) -> CertificateRow:
    return CertificateRow(
        serial=issued.serial,
        issuer=issued.issuer,
        fleet=fleet,
        device=device,
        key_sha256=issued.key_sha256,
        not_before_ns=to_ns(issued.not_before),
        not_after_ns=to_ns(issued.not_after),
    )
