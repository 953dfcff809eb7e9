"""Labels that do not come over MQTT: from a CSV file, or from a person at a console.

They become rows of a log like any other, so that dataset lineage can name them: device and service
say where they came from, `epoch` follows from the file or the request, `seq` is their place in it,
and the log's books are written with them. The same file again changes nothing. The checks are
those of the wire: `Annotation`.

Telemetry's `labels` command and the console call this. Any thread.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from fieldloop_contract.errors import FixConfiguration, MalformedMessage, RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_contract.messages import Annotation, LedgerTotals, Reported, from_object
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.presence import Presence
from fieldloop_store.rows import LogKey, Row, annotation_row
from fieldloop_store.schema import annotations as annotations_table

LABELS_SERVICE = "labels"
"""A service of this name is an annotator's desk: it may label any device of its fleet."""
LABELS_MAX = 1_000_000
FILE_BYTES_MAX = 256 << 20
_COMMIT_ROWS = 5_000
_COLUMNS = {"device", "stream", "t0_ns", "t1_ns", "label"}
_OPTIONAL = {"annotator", "confidence"}


@dataclass(slots=True)
class Imported:
    """What became of labels: stored, there already, and refused with place and reason."""

    stored: int = 0
    again: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


def import_csv(
    store: Store, fleet: str, path: Path, *, source: str, annotator: str = "", now_ns: int
) -> Imported:
    """Store the labels of a CSV file with a header: device, stream, t0_ns, t1_ns, label.

    `annotator` and `confidence` may be there too. A line that is wrong is refused, with its number,
    and its neighbours are stored.

    Args:
        source: the id under which the file's log stands, as a device of the fleet.
        annotator: for lines that name none.

    Raises:
        FixConfiguration: the file cannot be read, or its header is another.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise FixConfiguration(f"{path} is over {FILE_BYTES_MAX} bytes", hint="split it")
        data = path.read_bytes()
        lines = csv.DictReader(data.decode("utf-8-sig").splitlines())
        names = set(lines.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FixConfiguration(f"{path}: {error}") from error
    if not names >= _COLUMNS or names - _COLUMNS - _OPTIONAL:
        raise FixConfiguration(
            f"{path}: the header is {', '.join(sorted(names)) or 'missing'}",
            hint=f"needed: {', '.join(sorted(_COLUMNS))}; allowed: {', '.join(sorted(_OPTIONAL))}",
        )
    epoch = hashlib.sha256(data).hexdigest()[:32]
    items = (_document(line, annotator) for line in lines)
    return add_labels(store, fleet, items, source=source, epoch=epoch, now_ns=now_ns)


def add_labels(
    store: Store,
    fleet: str,
    labels: Iterable[Mapping[str, Any]],
    *,
    source: str,
    epoch: str,
    now_ns: int,
) -> Imported:
    """Store labels, each an object as `Annotation`, as the log `source/labels/epoch`.

    Args:
        epoch: 32 hex digits; the same again names the same log, whose rows are stored once.

    Raises:
        RejectedInput: the source is no id, or there are too many.
        RetryLater: the database is away; what is stored is stored, and doing it again completes it.
    """
    log = LogKey(check_id(fleet, "fleet"), check_id(source, "source"), LABELS_SERVICE, epoch)
    done, rows, total = Imported(), [], 0
    for total, document in enumerate(labels, 1):
        if total > LABELS_MAX:
            raise RejectedInput(f"more than {LABELS_MAX} labels at once", code="labels.count")
        row = _row(log, total, document, total, now_ns, done)
        rows += [] if row is None else [row]
        if len(rows) >= _COMMIT_ROWS:
            _store(store, rows, now_ns, done)
            rows = []
    _store(store, rows, now_ns, done)
    _report(store, log, total, len(done.refused), now_ns)
    return done


def append_labels(
    store: Store,
    fleet: str,
    labels: Sequence[Mapping[str, Any]],
    *,
    source: str,
    epoch: str,
    now_ns: int,
) -> Imported:
    """Store labels after those that the log `source/labels/epoch` holds: a person labelling.

    One caller at a time for a log. What is refused takes no seq, so that the log has no holes.

    Raises:
        As `add_labels`.
    """
    log = LogKey(check_id(fleet, "fleet"), check_id(source, "source"), LABELS_SERVICE, epoch)
    c = annotations_table.c
    own = (c.fleet == fleet, c.device == source, c.service == LABELS_SERVICE, c.epoch == epoch)
    with store.read() as connection:
        last = int(connection.execute(select(func.max(c.seq)).where(*own)).scalar() or 0)
    done = Imported()
    rows: list[Row] = []
    for at, document in enumerate(labels, 1):
        row = _row(log, last + len(rows) + 1, document, at, now_ns, done)
        rows += [] if row is None else [row]
    _store(store, rows, now_ns, done)
    _report(store, log, last + len(rows), 0, now_ns)
    return done


def _row(
    log: LogKey, seq: int, document: Mapping[str, Any], at: int, now_ns: int, done: Imported
) -> Row | None:
    """A label as a row; None where it is refused, which `done` then says of its place `at`."""
    try:
        note = from_object(Annotation, dict(document))
        return annotation_row(log, seq, note, dict(document), now_ns)
    except MalformedMessage as error:
        done.refused.append((at, str(error)))
        return None


def _report(store: Store, log: LogKey, produced: int, refused: int, now_ns: int) -> None:
    """Write the books of a log of labels."""
    totals = LedgerTotals(
        epoch=log.epoch,
        produced=produced,
        stored=produced - refused,
        pending=0,
        withheld=0,
        dropped={"refused": refused} if refused else {},
    )
    message = Reported(session="import", ledgers=[totals])
    presence = Presence(log.fleet, log.device, log.service, message, now_ns)
    store_intake(store, Intake(presence=[presence], received_ns=now_ns))


def _store(store: Store, rows: Sequence[Row], now_ns: int, done: Imported) -> None:
    if rows:
        outcome = store_intake(store, Intake(rows={"annotations": list(rows)}, received_ns=now_ns))
        done.stored += outcome.new.get("annotations", 0)
        done.again += outcome.again
        done.refused += [(c.seq, "stored before with other content") for c in outcome.conflicts]


def _document(line: Mapping[str, Any], annotator: str) -> dict[str, Any]:
    """A line of CSV as an annotation; what is no number stays text, for the check to refuse."""
    document = {k: v for k, v in line.items() if k is not None and v not in (None, "")}
    for name, kind in (("t0_ns", int), ("t1_ns", int), ("confidence", float)):
        if name in document:
            try:
                document[name] = kind(document[name])
            except ValueError:
                continue
    if annotator:
        document.setdefault("annotator", annotator)
    return document
