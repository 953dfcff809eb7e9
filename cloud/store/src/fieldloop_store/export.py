"""Everything as open files: Parquet, CSV, JSON, `.tflite`. Nobody is locked in.

`export_all` writes the whole store; `export_stream` one stream of one device, by time, as a table
of samples. Parquet needs the extra `export` (pyarrow), which is imported only here and only when
asked for. Reads in bounded pages, each its own short view; files appear when they are complete.
Read-only; any thread.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self

from sqlalchemy import JSON, Boolean, Float, Integer, LargeBinary, Table, select, tuple_

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import Frame, samples_array
from fieldloop_store.engine import Store
from fieldloop_store.queries import device_services, fleets, frames_between
from fieldloop_store.registry import list_models, load_bundle
from fieldloop_store.schema import blobs, metadata, models

PAGE_ROWS = 500
_LEFT_OUT = {blobs.name}  # written as the files of the models they belong to


class RowSink(Protocol):
    """Takes rows of one table and makes a file of them."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...


class CsvSink:
    """A CSV file with a header; complete when the block ends without an error."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path = path
        self._file = _part(path).open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, list(names))
        self._writer.writeheader()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows."""
        self._writer.writerows(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.close()
        _finish(self._path, kind is None)


class ParquetSink:
    """A Parquet file, a row group for each call of `write`.

    Args:
        types: pyarrow type name by column: int64, int32, float64, string, binary, bool,
            list_float (list<float32>).
    """

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        self._pa = pyarrow()
        pa = self._pa
        made = {"list_float": pa.list_(pa.float32()), "bool": pa.bool_()}
        self._schema = pa.schema(
            [(name, made[t] if t in made else getattr(pa, t)()) for name, t in types.items()]
        )
        from pyarrow import parquet  # noqa: PLC0415 - an extra

        self._path = path
        self._writer = parquet.ParquetWriter(_part(path), self._schema, compression="zstd")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows as one row group."""
        if rows:
            table = self._pa.Table.from_pylist(list(rows), schema=self._schema)
            self._writer.write_table(table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._writer.close()
        _finish(self._path, kind is None)


def pyarrow() -> ModuleType:
    """The pyarrow module. Raises FixConfiguration where it is not installed."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra

        return pa  # type: ignore[no-any-return]
    except ImportError as error:
        raise FixConfiguration(
            "Parquet needs pyarrow", hint="install fieldloop-store[export], or ask for CSV"
        ) from error


def export_all(store: Store, target: Path) -> dict[str, int]:
    """Write every table as Parquet, and every model as its files; returns rows by table.

    Models go to `models/{fleet}/{name}/{version}/`: `manifest.json` and the files it names.

    Raises:
        FixConfiguration: the folder exists and is not empty, or pyarrow is not installed.
        Isolate: a model's files are damaged.
        RetryLater: the database is away.
    """
    pyarrow()
    if target.exists() and any(target.iterdir()):
        raise FixConfiguration(f"{target} is not empty")
    target.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    for table in metadata.sorted_tables:
        if table.name not in _LEFT_OUT:
            counts[table.name] = _export_table(store, table, target / f"{table.name}.parquet")
    names = set(fleets(store)) | _model_fleets(store)
    for fleet in sorted(names):
        for row in list_models(store, fleet):
            folder = target / "models" / fleet / row.name / str(row.version)
            folder.mkdir(parents=True)
            _manifest, files = load_bundle(store, row.digest)
            with store.read() as connection:
                payload = connection.execute(
                    select(models.c.manifest).where(models.c.digest == row.digest)
                ).scalar_one()
            (folder / "manifest.json").write_bytes(bytes(payload))
            for name, data in files.items():
                (folder / name).write_bytes(data)
    (target / "export.json").write_text(
        json.dumps({"rows": counts}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    return counts


def _model_fleets(store: Store) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(select(models.c.fleet).distinct()).scalars())


def _export_table(store: Store, table: Table, path: Path) -> int:
    raw = table.name in ("frames", "samples")
    types: dict[str, str] = {}
    for column in table.columns:
        kind = column.type
        if isinstance(kind, Boolean):
            types[column.name] = "bool"
        elif isinstance(kind, Integer):
            types[column.name] = "int64"
        elif isinstance(kind, Float):
            types[column.name] = "float64"
        elif isinstance(kind, LargeBinary):
            types[column.name] = "list_float" if raw and column.name == "samples" else "binary"
        else:
            types[column.name] = "string"
    documents = [c.name for c in table.columns if isinstance(c.type, JSON)]
    count = 0
    with ParquetSink(path, types) as sink:
        for page in _pages(store, table):
            for row in page:
                for name in documents:
                    row[name] = None if row[name] is None else json.dumps(row[name])
                if raw:
                    row["samples"] = samples_array(bytes(row["samples"]))
            sink.write(page)
            count += len(page)
    return count


def _pages(store: Store, table: Table) -> Iterator[list[dict[str, Any]]]:
    key = list(table.primary_key.columns)
    after: tuple[Any, ...] | None = None
    while True:
        query = select(table).order_by(*key).limit(PAGE_ROWS)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after))
        with store.read() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        if rows:
            yield rows
            after = tuple(rows[-1][column.name] for column in key)
        if len(rows) < PAGE_ROWS:
            return


def export_stream(
    store: Store,
    fleet: str,
    device: str,
    stream: str,
    path: Path,
    *,
    t0_ns: int | None = None,
    t1_ns: int | None = None,
) -> int:
    """Write one stream as a table of samples: `t_ns`, `epoch`, `seq`, and a column a channel.

    Args:
        path: ends in `.parquet` or `.csv`.

    Returns:
        How many samples.

    Raises:
        FixConfiguration: another ending, nothing to write, or pyarrow is not installed.
    """
    found = frames_between(store, fleet, device=device, stream=stream, t0_ns=t0_ns, t1_ns=t1_ns)
    items = ((row.log.epoch, row.seq, row.frame) for row in found)
    count = write_samples(items, path, channel_names(store, fleet, device, stream), t0_ns, t1_ns)
    if count == 0:
        raise FixConfiguration(f"nothing of {device}/{stream} in this span")
    return count


def channel_names(store: Store, fleet: str, device: str, stream: str) -> list[str]:
    """Names of a stream's channels as its device last reported them; empty where it did not."""
    for service in device_services(store, fleet, device=device):
        for state in (service.reported or {}).get("streams", []):
            if state.get("stream") == stream:
                return [str(name) for name in state.get("channels", [])]
    return []


def write_samples(
    frames: Iterable[tuple[str, int, Frame]],
    path: Path,
    names: Sequence[str] = (),
    t0_ns: int | None = None,
    t1_ns: int | None = None,
) -> int:
    """Write frames (epoch, seq, frame) of one stream as a table of samples; returns how many.

    Where the names do not fit the number of channels they are `c0`, `c1`, ...; frames with another
    number of channels than the first are a fault of the stream and end the export.
    """
    count, sink, columns = 0, None, []
    try:
        for epoch, seq, frame in frames:
            if sink is None:
                fits = len(names) == frame.channels and len(set(names)) == len(names)
                columns = list(names) if fits else [f"c{n}" for n in range(frame.channels)]
                sink = open_sink(
                    path,
                    {"t_ns": "int64", "epoch": "string", "seq": "int64"}
                    | dict.fromkeys(columns, "float32"),
                )
            if frame.channels != len(columns):
                raise FixConfiguration(
                    f"{frame.stream} has {len(columns)} channels and at {frame.t0_ns} ns"
                    f" {frame.channels}",
                    hint="export the spans one by one",
                )
            rows = list(_sample_rows(epoch, seq, frame, columns, t0_ns, t1_ns))
            sink.write(rows)
            count += len(rows)
    except BaseException as error:
        if sink is not None:
            sink.__exit__(type(error), error, None)
        raise
    if sink is not None:
        sink.__exit__(None, None, None)
    return count


def open_sink(path: Path, types: Mapping[str, str]) -> RowSink:
    """A sink for a file that ends in `.parquet` or `.csv`. Raises FixConfiguration for others."""
    if path.suffix == ".parquet":
        return ParquetSink(path, types)
    if path.suffix == ".csv":
        return CsvSink(path, list(types))
    raise FixConfiguration(f"{path}: an export ends in .parquet or .csv")


def _sample_rows(
    epoch: str, seq: int, frame: Frame, columns: Sequence[str], t0_ns: int | None, t1_ns: int | None
) -> Iterator[dict[str, Any]]:
    values = samples_array(frame.samples)
    for n in range(frame.n):
        t_ns = frame.t0_ns + round(n * 1e9 / frame.rate_hz)
        if (t0_ns is None or t_ns >= t0_ns) and (t1_ns is None or t_ns < t1_ns):
            row = values[n * frame.channels : (n + 1) * frame.channels]
            yield {"t_ns": t_ns, "epoch": epoch, "seq": seq} | dict(zip(columns, row, strict=True))


def _part(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ".part")


def _finish(path: Path, complete: bool) -> None:
    if complete:
        _part(path).replace(path)
    else:
        _part(path).unlink(missing_ok=True)
