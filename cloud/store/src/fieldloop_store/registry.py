"""The registry: datasets, training runs, models and the files of their bundles.

Owns all reading and writing of the tables `datasets`, `runs`, `models` and `blobs`; only the
training service writes them. Promises that a model is in the registry with all its files or not at
all, that a version once taken never changes its content, and that a bundle read back is the one
that was registered. Keeps no state; any thread may call it. Time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from fieldloop_contract.errors import Isolate, LimitExceeded, RejectedInput, RetryLater
from fieldloop_contract.manifest import Manifest, check_bundle, parse_manifest, sha256
from fieldloop_store.engine import Store
from fieldloop_store.schema import blobs, datasets, models, runs

ModelState = Literal["approved", "rejected", "recalled"]
MODEL_STATES: tuple[ModelState, ...] = ("approved", "rejected", "recalled")
RunState = Literal["running", "approved", "rejected", "refused", "skipped", "failed"]
"""`running`, or how it ended: `approved` and `rejected` made a model; `refused` found its data or
settings wrong, `skipped` found its dataset trained on already, `failed` was killed or crashed."""
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
class RunRow:
    """One training run: why it started, how far it is, how it ended."""

    id: str
    fleet: str
    recipe: str
    model: str
    state: str
    trigger: dict[str, Any]
    settings: dict[str, Any]
    dataset: str | None
    progress: dict[str, Any]
    verdict: dict[str, Any] | None
    created_ns: int
    updated_ns: int


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One immutable dataset: what was asked for, what is in it, where its file is."""

    digest: str
    fleet: str
    query: dict[str, Any]
    summary: dict[str, Any]
    path: str
    created_ns: int


_MODEL_COLUMNS = tuple(models.c[name] for name in ModelRow.__dataclass_fields__)
_RUN_COLUMNS = tuple(runs.c[name] for name in RunRow.__dataclass_fields__)
_DATASET_COLUMNS = tuple(datasets.c[name] for name in DatasetRow.__dataclass_fields__)


def next_version(store: Store, fleet: str, name: str) -> int:
    """The version after the highest ever registered under this name, whatever its state."""
    query = select(func.max(models.c.version)).where(models.c.fleet == fleet, models.c.name == name)
    with store.read() as connection:
        highest = connection.execute(query).scalar()
    return (highest or 0) + 1


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
    payload, digest = manifest.encode(), manifest.digest()
    mine = (models.c.fleet == fleet, models.c.name == manifest.name)
    try:
        with store.begin() as connection:
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
            by_digest = {sha256(data): data for data in files.values()}
            known = set(
                connection.execute(
                    select(blobs.c.sha256).where(blobs.c.sha256.in_(by_digest))
                ).scalars()
            )
            missing = [{"sha256": k, "data": v} for k, v in by_digest.items() if k not in known]
            if missing:
                connection.execute(insert(blobs), missing)
            connection.execute(
                insert(models).values(
                    fleet=fleet,
                    name=manifest.name,
                    version=manifest.version,
                    digest=digest,
                    state=state,
                    manifest=payload,
                    run=run,
                    dataset=manifest.lineage.dataset,
                    metrics=dict(metrics),
                    created_ns=now_ns,
                )
            )
    except IntegrityError as error:
        raise RetryLater(
            f"another writer registered {manifest.name} first", code="registry.race"
        ) from error


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


def create_run(store: Store, row: RunRow) -> None:
    """Record a new run."""
    with store.begin() as connection:
        values = {c.name: getattr(row, c.name) for c in _RUN_COLUMNS}
        connection.execute(insert(runs).values(**values))


def update_run(
    store: Store,
    run: str,
    *,
    now_ns: int,
    state: RunState | None = None,
    dataset: str | None = None,
    progress: Mapping[str, Any] | None = None,
    verdict: Mapping[str, Any] | None = None,
) -> bool:
    """Change what is given of a run that is still running; False where it has ended.

    A run ends once: what a late writer says of it afterwards is ignored.
    """
    values: dict[str, Any] = {"updated_ns": now_ns}
    if state is not None:
        values["state"] = state
    if dataset is not None:
        values["dataset"] = dataset
    if progress is not None:
        values["progress"] = dict(progress)
    if verdict is not None:
        values["verdict"] = dict(verdict)
    with store.begin() as connection:
        changed = connection.execute(
            update(runs).where(runs.c.id == run, runs.c.state == "running").values(**values)
        )
    return changed.rowcount == 1


def find_run(store: Store, run: str) -> RunRow | None:
    """One run, or None."""
    rows = _fetch(store, select(*_RUN_COLUMNS).where(runs.c.id == run))
    return RunRow(*tuple(rows[0])) if rows else None


def list_runs(
    store: Store,
    fleet: str,
    *,
    model: str | None = None,
    states: Sequence[RunState] | None = None,
    dataset: str | None = None,
    limit: int = 50,
) -> list[RunRow]:
    """Runs, the newest first.

    Raises:
        LimitExceeded: more than `ROWS_MAX` are asked for.
    """
    if limit > ROWS_MAX:
        raise LimitExceeded(f"{limit} runs asked for", hint=f"at most {ROWS_MAX}")
    query = select(*_RUN_COLUMNS).where(runs.c.fleet == fleet)
    if model is not None:
        query = query.where(runs.c.model == model)
    if states is not None:
        query = query.where(runs.c.state.in_(states))
    if dataset is not None:
        query = query.where(runs.c.dataset == dataset)
    newest = query.order_by(runs.c.created_ns.desc(), runs.c.id).limit(limit)
    return [RunRow(*tuple(row)) for row in _fetch(store, newest)]


def _fetch(store: Store, query: Select[Any]) -> Sequence[Row[Any]]:
    with store.read() as connection:
        return connection.execute(query).all()
