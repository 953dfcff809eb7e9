"""Files about a run or a dataset: plots, reports, whatever a page or a person wants to see.

The recipes that training has stand here too (`recipes`).

The bytes are in `blobs`, once for equal content. Only the training service writes them. Keeps no
state; any thread may call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from fieldloop_contract.errors import LimitExceeded
from fieldloop_contract.manifest import sha256
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.schema import artefacts, blobs

ARTEFACT_BYTES_MAX = 8 << 20
ARTEFACTS_MAX = 64
"""For each subject."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file: the run or dataset that it is about, its name and its media type."""

    subject: str
    name: str
    media_type: str
    sha256: str
    length: int
    created_ns: int


def add_blobs(connection: Connection, contents: Mapping[str, bytes]) -> None:
    """Store contents by digest, those that are not there already, within a transaction."""
    known = set(
        connection.execute(select(blobs.c.sha256).where(blobs.c.sha256.in_(contents))).scalars()
    )
    missing = [{"sha256": k, "data": v} for k, v in contents.items() if k not in known]
    if missing:
        connection.execute(insert(blobs), missing)


def add_artefacts(
    connection: Connection, subject: str, files: Mapping[str, tuple[str, bytes]], now_ns: int
) -> None:
    """Add or replace files within the caller's transaction.

    Args:
        subject: id of a run, or digest of a dataset.
        files: media type and content by name.

    Raises:
        LimitExceeded: too many, or one too large.
    """
    if len(files) > ARTEFACTS_MAX:
        raise LimitExceeded(f"{len(files)} artefacts", hint=f"at most {ARTEFACTS_MAX}")
    for name, (_, data) in files.items():
        if len(data) > ARTEFACT_BYTES_MAX:
            raise LimitExceeded(
                f"artefact {name} has {len(data)} bytes", hint=f"at most {ARTEFACT_BYTES_MAX}"
            )
    if not files:
        return
    add_blobs(connection, {sha256(data): data for _, data in files.values()})
    rows = [
        {
            "subject": subject, "name": name, "media_type": media_type, "sha256": sha256(data),
            "length": len(data), "created_ns": now_ns,
        }
        for name, (media_type, data) in files.items()
    ]  # fmt: skip
    statement = insert_into(connection, artefacts)
    fresh = {n: statement.excluded[n] for n in ("media_type", "sha256", "length", "created_ns")}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["subject", "name"], set_=fresh), rows
    )


def list_artefacts(store: Store, subject: str) -> list[Artefact]:
    """The files about a run (its id) or a dataset (its digest), by name."""
    a = artefacts.c
    query = select(a.subject, a.name, a.media_type, a.sha256, a.length, a.created_ns)
    with store.read() as connection:
        rows = connection.execute(query.where(a.subject == subject).order_by(a.name)).all()
    return [Artefact(*row) for row in rows]


def load_artefact(store: Store, subject: str, name: str) -> tuple[str, bytes] | None:
    """Media type and content of one file, or None."""
    a = artefacts.c
    query = select(a.media_type, blobs.c.data).join_from(
        artefacts, blobs, a.sha256 == blobs.c.sha256
    )
    with store.read() as connection:
        found = connection.execute(query.where(a.subject == subject, a.name == name)).one_or_none()
    return None if found is None else (found.media_type, bytes(found.data))
