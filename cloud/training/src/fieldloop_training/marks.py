"""What is usable in the store now, as marks for `triggers`. Reads only."""

from __future__ import annotations

from sqlalchemy import func, select

from fieldloop_store import queries, runs, schema
from fieldloop_store.engine import Store
from fieldloop_training.labels import CONFIDENCE_MIN, UNKNOWN
from fieldloop_training.triggers import History, LogMark, marks_from_object

SLACK_NS = 250_000_000
"""How far before the end of a label the signal may end and still be taken as complete."""
FRAME_NS_MAX = 600 * 10**9
"""A label whose last frame began longer than this before the label is not seen as complete."""
DAY_S = 86_400.0
BY_ITSELF = ("labels", "data", "schedule")


def usable_marks(store: Store, fleet: str, stream: str) -> dict[str, LogMark]:
    """Marks of the annotations whose signal has arrived up to their end.

    Raises:
        RetryLater: the store is away.
    """
    a, f = schema.annotations.c, schema.frames.c
    arrived = (
        select(f.seq)
        .where(
            f.fleet == a.fleet,
            f.device == a.about_device,
            f.stream == a.stream,
            f.t0_ns < a.t1_ns,
            f.t0_ns >= a.t0_ns - FRAME_NS_MAX,
            f.t1_ns >= a.t1_ns - SLACK_NS,
        )
        .exists()
    )
    query = (
        select(a.device, a.service, a.epoch, func.count(), func.max(a.seq))
        .where(
            a.fleet == fleet,
            a.stream == stream,
            a.label != UNKNOWN,
            a.confidence >= CONFIDENCE_MIN,
            arrived,
        )
        .group_by(a.device, a.service, a.epoch)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return {"/".join(row[:3]): LogMark(int(row[3]), int(row[4])) for row in rows}


def frame_marks(store: Store, fleet: str, stream: str) -> dict[str, LogMark]:
    """Marks of the stored frames of a stream.

    Raises:
        RetryLater: the store is away.
    """
    found: dict[str, LogMark] = {}
    for row in queries.streams(store, fleet):
        if row.stream == stream:
            log = f"{row.log.device}/{row.log.service}/{row.log.epoch}"
            before = found.get(log, LogMark(0, 0))
            found[log] = LogMark(before.count + row.frames, max(before.seq_last, row.seq_last))
    return found


def history(store: Store, fleet: str, model: str, now_ns: int) -> History:
    """The runs of a model, as the rule wants them.

    Raises:
        RetryLater: the store is away.
    """
    rows = runs.list_runs(store, fleet, model=model, limit=runs.ROWS_MAX)
    with_marks = next((r for r in rows if r.trigger.get("marks")), None)
    ended = [r.ended_ns or r.updated_ns for r in rows if r.state in runs.ENDED_STATES]
    by_itself = [r for r in rows if r.trigger.get("kind") in BY_ITSELF]
    since_ns = now_ns - round(DAY_S * 1e9)
    return History(
        open=any(r.state in runs.OPEN_STATES for r in rows),
        marks=None if with_marks is None else marks_from_object(with_marks.trigger["marks"]),
        age_s=None if not rows else (now_ns - rows[0].created_ns) / 1e9,
        ended_s=None if not ended else (now_ns - max(ended)) / 1e9,
        today=sum(r.created_ns > since_ns for r in by_itself),
    )
