"""The registry: datasets, models and the files of their bundles. Runs: `runqueue`, `runs`.

Owns all reading and writing of the tables `datasets` and `models`; only the training service
writes them. Promises that a model is in the registry with all its files or not at
all, that a version once taken never changes its content, and that a bundle read back is the one
that was registered. Keeps no state; any thread may call it. Time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from fieldloop_contract.errors import Isolate, RejectedInput, RetryLater
from fieldloop_contract.manifest import Manifest, check_bundle, parse_manifest, sha256
from fieldloop_store.artefacts import add_artefacts, add_blobs
from fieldloop_store.engine import Store
from fieldloop_store.frozensets import count_look
from fieldloop_store.runqueue import end_run, hold
from fieldloop_store.schema import blobs, datasets, models

ModelState = Literal["approved", "rejected", "recalled"]
MODEL_STATES: tuple[ModelState, ...] = ("approved", "rejected", "recalled")
ROWS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One registered version, without its files."""

    fleet: str
    name: str
    version: int
    digest: str
    state: str
    run: str | None
    dataset: str | None
    metrics: dict[str, Any]
    created_ns: int


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One immutable dataset: what was asked for, what is in it, where its file is."""

    digest: str
    fleet: str
    query: dict[str, Any]
    summary: dict[str, Any]
    path: str
    created_ns: int
    recalled_ns: int | None = None
    recall_reason: str | None = None


_MODEL_COLUMNS = tuple(models.c[name] for name in ModelRow.__dataclass_fields__)
_DATASET_COLUMNS = tuple(datasets.c[name] for name in DatasetRow.__dataclass_fields__)


def next_version(store: Store, fleet: str, name: str) -> int:
    """The version after the highest ever registered under this name, whatever its state."""
    query = select(func.max(models.c.version)).where(models.c.fleet == fleet, models.c.name == name)
    with store.read() as connection:
        highest = connection.execute(query).scalar()
    return (highest or 0) + 1


@dataclass(frozen=True, slots=True)
class Result:
    """What a run ends with, when it made a model.

    Attributes:
        verdict: of the gates; `approved` or `rejected` is the state of run and model.
        artefacts: media type and content by name.
        frozen: number of the frozen set that was looked at, where one was.
        progress: the run's last.
    """

    run: str
    owner: str
    verdict: Mapping[str, Any]
    artefacts: Mapping[str, tuple[str, bytes]]
    frozen: int | None = None
    progress: Mapping[str, Any] | None = None


def register_model(
    store: Store,
    *,
    fleet: str,
    manifest: Manifest,
    files: Mapping[str, bytes],
    run: str | None,
    metrics: Mapping[str, Any],
    state: ModelState = "approved",
    now_ns: int,
) -> None:
    """Register one version with all its files, in one transaction.

    Registering the same manifest again changes nothing.

    Args:
        files: content by file name, exactly those that the manifest names.

    Raises:
        MalformedMessage: the files are not those of the manifest.
        RejectedInput: the version is taken by another manifest.
        RetryLater: the database is away, or another writer was faster.
    """
    check_bundle(manifest, files)
    try:
        with store.begin() as connection:
            _register(connection, fleet, manifest, files, run, metrics, state, now_ns)
    except IntegrityError as error:
        raise _race(manifest) from error


def publish(
    store: Store,
    result: Result,
    *,
    fleet: str,
    manifest: Manifest,
    files: Mapping[str, bytes],
    metrics: Mapping[str, Any],
    state: Literal["approved", "rejected"],
    now_ns: int,
) -> bool:
    """Register a version and end the run that made it, in one transaction: all of it or nothing.

    Returns:
        False, and nothing is written, where the run is not the caller's any more.

    Raises:
        As `register_model`.
    """
    check_bundle(manifest, files)
    try:
        with store.begin() as connection:
            if not hold(connection, result.run, result.owner):
                return False
            _register(connection, fleet, manifest, files, result.run, metrics, state, now_ns)
            add_artefacts(connection, result.run, result.artefacts, now_ns)
            if result.frozen is not None:
                count_look(connection, fleet, manifest.name, result.frozen, result.run, now_ns)
            end_run(connection, result.run, state, result.verdict, now_ns, result.progress)
    except IntegrityError as error:
        raise _race(manifest) from error
    return True


def _register(
    connection: Connection, fleet: str, manifest: Manifest, files: Mapping[str, bytes],
    run: str | None, metrics: Mapping[str, Any], state: ModelState, now_ns: int,
) -> None:  # fmt: skip
    digest = manifest.digest()
    mine = (models.c.fleet == fleet, models.c.name == manifest.name)
    taken = connection.execute(
        select(models.c.digest).where(*mine, models.c.version == manifest.version)
    ).scalar()
    if taken == digest:
        return
    if taken is not None:
        raise RejectedInput(
            f"{manifest.name} version {manifest.version} is taken by {taken[:12]}",
            code="registry.version-taken",
        )
    add_blobs(connection, {sha256(data): data for data in files.values()})
    connection.execute(
        insert(models).values(
            fleet=fleet,
            name=manifest.name,
            version=manifest.version,
            digest=digest,
            state=state,
            manifest=manifest.encode(),
            run=run,
            dataset=manifest.lineage.dataset,
            metrics=dict(metrics),
            created_ns=now_ns,
        )
    )


def _race(manifest: Manifest) -> RetryLater:
    return RetryLater(f"another writer registered {manifest.name} first", code="registry.race")


def set_model_state(store: Store, fleet: str, name: str, version: int, state: ModelState) -> bool:
    """Change the state of a version; False where there is no such version."""
    with store.begin() as connection:
        changed = connection.execute(
            update(models)
            .where(models.c.fleet == fleet, models.c.name == name, models.c.version == version)
            .values(state=state)
        )
    return changed.rowcount == 1


def list_models(
    store: Store,
    fleet: str,
    *,
    name: str | None = None,
    state: ModelState | None = None,
    dataset: str | None = None,
) -> list[ModelRow]:
    """Versions by name and version, ascending; the newest `ROWS_MAX` where there are more."""
    query = select(*_MODEL_COLUMNS).where(models.c.fleet == fleet)
    if name is not None:
        query = query.where(models.c.name == name)
    if state is not None:
        query = query.where(models.c.state == state)
    if dataset is not None:
        query = query.where(models.c.dataset == dataset)
    rows = _fetch(store, query.order_by(models.c.created_ns.desc()).limit(ROWS_MAX))
    found = [ModelRow(*tuple(row)) for row in rows]
    return sorted(found, key=lambda m: (m.name, m.version))


def approved_models(store: Store, fleet: str) -> list[ModelRow]:
    """Versions that delivery may roll out, by name and version, ascending."""
    return list_models(store, fleet, state="approved")


def find_model(store: Store, fleet: str, name: str, version: int) -> ModelRow | None:
    """One version, or None."""
    query = select(*_MODEL_COLUMNS).where(
        models.c.fleet == fleet, models.c.name == name, models.c.version == version
    )
    rows = _fetch(store, query)
    return ModelRow(*tuple(rows[0])) if rows else None


def find_manifest(store: Store, digest: str) -> Manifest | None:
    """The manifest with this digest, without its files, or None."""
    rows = _fetch(store, select(models.c.manifest).where(models.c.digest == digest))
    return parse_manifest(bytes(rows[0].manifest)) if rows else None


def load_bundle(store: Store, digest: str) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with this digest, and its files by name.

    Raises:
        RejectedInput: no such model.
        Isolate: what is stored is not what was registered.
    """
    with store.read() as connection:
        payload = connection.execute(
            select(models.c.manifest).where(models.c.digest == digest)
        ).scalar()
        if payload is None:
            raise RejectedInput(f"no model has digest {digest[:12]}", code="registry.unknown")
        manifest = parse_manifest(bytes(payload))
        names = {ref.sha256 for ref in manifest.files.values()}
        rows = connection.execute(
            select(blobs.c.sha256, blobs.c.data).where(blobs.c.sha256.in_(names))
        ).all()
    data = {row.sha256: bytes(row.data) for row in rows}
    try:
        files = {name: data[ref.sha256] for name, ref in manifest.files.items()}
        check_bundle(manifest, files)
    except (KeyError, RejectedInput) as error:
        raise Isolate(
            f"bundle {digest[:12]} is damaged: {error}", code="registry.bundle"
        ) from error
    if sha256(bytes(payload)) != digest:
        raise Isolate(f"manifest {digest[:12]} is damaged", code="registry.manifest")
    return manifest, files


def add_dataset(store: Store, row: DatasetRow) -> None:
    """Record a dataset; one that is known already stays as it is."""
    with store.begin() as connection:
        known = connection.execute(
            select(datasets.c.digest).where(datasets.c.digest == row.digest)
        ).scalar()
        if known is None:
            values = {c.name: getattr(row, c.name) for c in _DATASET_COLUMNS}
            connection.execute(insert(datasets).values(**values))


def find_dataset(store: Store, digest: str) -> DatasetRow | None:
    """One dataset, or None."""
    rows = _fetch(store, select(*_DATASET_COLUMNS).where(datasets.c.digest == digest))
    return DatasetRow(*tuple(rows[0])) if rows else None


def recall_dataset(
    store: Store, fleet: str, digest: str, *, reason: str, now_ns: int
) -> list[tuple[str, int]]:
    """Recall a dataset: every version that was trained on it may not run any more.

    Versions that began from the weights of one of them have learnt from it too, and go with it.
    The dataset trains nothing from now on.

    Returns:
        Name and version of what is recalled, that of an earlier recall included.

    Raises:
        RejectedInput: no such dataset in this fleet.
    """
    with store.begin() as connection:
        changed = connection.execute(
            update(datasets)
            .where(datasets.c.digest == digest, datasets.c.fleet == fleet)
            .values(
                recalled_ns=func.coalesce(datasets.c.recalled_ns, now_ns),
                recall_reason=func.coalesce(datasets.c.recall_reason, reason[:2_000]),
            )
        )
        if changed.rowcount != 1:
            raise RejectedInput(
                f"no dataset {digest:.12} in fleet {fleet}", code="registry.no-dataset"
            )
        query = select(models.c.name, models.c.version, models.c.digest, models.c.dataset,
                       models.c.metrics).where(models.c.fleet == fleet)  # fmt: skip
        rows = connection.execute(query.order_by(models.c.created_ns)).all()
        tainted: set[str] = set()
        gone: list[tuple[str, int]] = []
        for row in rows:
            if row.dataset == digest or row.metrics.get("warm_from") in tainted:
                tainted.add(row.digest)
                gone.append((row.name, row.version))
        if tainted:
            connection.execute(
                update(models)
                .where(models.c.fleet == fleet, models.c.digest.in_(tainted))
                .values(state="recalled")
            )
    return gone


def _fetch(store: Store, query: Select[Any]) -> Sequence[Row[Any]]:
    with store.read() as connection:
        return connection.execute(query).all()
