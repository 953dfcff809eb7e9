"""Enrolment tokens, issued certificates and incidents: the tables of `identity`.

A token is known by its sha256 only. It is claimed in one transaction with the certificate that it
gives, so that of two that come with one token at the same instant one is the first. Times are
int64 ns of UTC, given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from fieldloop_store.engine import Store
from fieldloop_store.schema import certificates, enrolment_tokens, incidents

ROWS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token: for whom, until when, and the key that it was used for, if it was."""

    digest: str
    fleet: str
    device: str
    expires_ns: int
    used_ns: int | None
    key_sha256: str | None


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """One issued certificate. `issuer` is the sha256 of the authority's own certificate."""

    serial: str
    issuer: str
    fleet: str
    device: str
    key_sha256: str
    not_before_ns: int
    not_after_ns: int
    revoked_ns: int | None = None


@dataclass(frozen=True, slots=True)
class IncidentRow:
    """Something at the door that a person should look at."""

    fleet: str
    device: str
    code: str
    detail: dict[str, Any]
    at_ns: int


def add_token(
    connection: Connection,
    *,
    digest: str,
    fleet: str,
    device: str,
    actor: str,
    created_ns: int,
    expires_ns: int,
) -> None:
    """Remember a new token; earlier ones of the same device expire at once."""
    expire_tokens(connection, fleet, device, created_ns)
    connection.execute(
        insert(enrolment_tokens).values(
            digest=digest,
            fleet=fleet,
            device=device,
            actor=actor,
            created_ns=created_ns,
            expires_ns=expires_ns,
        )
    )


def expire_tokens(connection: Connection, fleet: str, device: str, now_ns: int) -> None:
    """End the life of a device's tokens, used or not."""
    t = enrolment_tokens.c
    connection.execute(
        update(enrolment_tokens)
        .where(t.fleet == fleet, t.device == device, t.expires_ns > now_ns)
        .values(expires_ns=now_ns)
    )


def find_token(connection: Connection, digest: str) -> TokenRow | None:
    """The token of that digest; its row stays locked until the transaction ends."""
    t = enrolment_tokens.c
    query = select(t.digest, t.fleet, t.device, t.expires_ns, t.used_ns, t.key_sha256)
    row = connection.execute(query.where(t.digest == digest).with_for_update()).first()
    return TokenRow(*row) if row else None


def open_tokens(store: Store, fleet: str, now_ns: int) -> list[TokenRow]:
    """Tokens of a fleet that could still be used."""
    t = enrolment_tokens.c
    query = select(t.digest, t.fleet, t.device, t.expires_ns, t.used_ns, t.key_sha256).where(
        t.fleet == fleet, t.used_ns.is_(None), t.expires_ns > now_ns
    )
    with store.read() as connection:
        rows = connection.execute(query.order_by(t.device).limit(ROWS_MAX)).all()
    return [TokenRow(*row) for row in rows]


def use_token(connection: Connection, digest: str, key_sha256: str, now_ns: int) -> None:
    """Mark a token as used for a key."""
    connection.execute(
        update(enrolment_tokens)
        .where(enrolment_tokens.c.digest == digest)
        .values(used_ns=now_ns, key_sha256=key_sha256)
    )


def add_certificate(connection: Connection, row: CertificateRow) -> None:
    """Remember an issued certificate."""
    connection.execute(
        insert(certificates).values(
            serial=row.serial,
            issuer=row.issuer,
            fleet=row.fleet,
            device=row.device,
            key_sha256=row.key_sha256,
            not_before_ns=row.not_before_ns,
            not_after_ns=row.not_after_ns,
        )
    )


def list_certificates(
    connection: Connection,
    *,
    fleet: str | None = None,
    device: str | None = None,
    key_sha256: str | None = None,
    revoked_only: bool = False,
    valid_after_ns: int = 0,
) -> list[CertificateRow]:
    """Certificates, the longest valid first, at most `ROWS_MAX`."""
    c = certificates.c
    query = select(
        c.serial, c.issuer, c.fleet, c.device, c.key_sha256,
        c.not_before_ns, c.not_after_ns, c.revoked_ns,
    ).where(c.not_after_ns >= valid_after_ns)  # fmt: skip
    if fleet is not None:
        query = query.where(c.fleet == fleet)
    if device is not None:
        query = query.where(c.device == device)
    if key_sha256 is not None:
        query = query.where(c.key_sha256 == key_sha256)
    if revoked_only:
        query = query.where(c.revoked_ns.is_not(None))
    rows = connection.execute(query.order_by(c.not_after_ns.desc(), c.serial).limit(ROWS_MAX)).all()
    return [CertificateRow(*row) for row in rows]


def revoke_certificates(connection: Connection, fleet: str, device: str, now_ns: int) -> int:
    """Revoke all that a device holds; returns how many."""
    c = certificates.c
    done = connection.execute(
        update(certificates)
        .where(c.fleet == fleet, c.device == device, c.revoked_ns.is_(None))
        .values(revoked_ns=now_ns)
    )
    return int(done.rowcount)


def add_incident(connection: Connection, row: IncidentRow) -> None:
    """Write down what a person should look at."""
    connection.execute(
        insert(incidents).values(
            fleet=row.fleet, device=row.device, code=row.code, detail=row.detail, at_ns=row.at_ns
        )
    )


def list_incidents(store: Store, fleet: str) -> list[IncidentRow]:
    """Incidents of a fleet, newest first, at most `ROWS_MAX`."""
    i = incidents.c
    query = select(i.fleet, i.device, i.code, i.detail, i.at_ns).where(i.fleet == fleet)
    with store.read() as connection:
        rows = connection.execute(query.order_by(i.id.desc()).limit(ROWS_MAX)).all()
    return [IncidentRow(*row) for row in rows]
