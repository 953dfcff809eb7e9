"""Times derived for frames that were taken before their device knew the time. Read-only.

A device without a battery clock boots in 1970. Its frames say so (`clock` is `unknown`) and carry
the monotonic time of the boot. As soon as one frame of the same boot has a clock that was set, the
difference between UTC and monotonic time is known for the whole boot, and the earlier frames can be
placed. Rows are never rewritten: the correction is made on every reading.

    t0 = mono + (t0' - mono')    with the first frame of the boot (') whose clock was synchronised,
                                 or else held
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy import case, select

from fieldloop_contract.frames import T_NS_MAX, Clock, Frame
from fieldloop_store.engine import Store
from fieldloop_store.queries import PAGE_ROWS, FrameRow, frames_between, pages
from fieldloop_store.rows import FRAME_COLUMNS, LogKey, frame_of
from fieldloop_store.schema import frames

BOOTS_MAX = 1_000


def clock_offsets(store: Store, fleet: str, device: str) -> dict[str, int]:
    """UTC minus monotonic time, in ns, of the boots that began without a clock and got one later.

    Raises:
        RetryLater: the database is away.
    """
    c = frames.c
    own = (c.fleet == fleet, c.device == device)
    lost = select(c.boot).where(*own, c.clock == Clock.UNKNOWN.value).distinct().limit(BOOTS_MAX)
    worse = case((c.clock == Clock.SYNCHRONISED.value, 0), else_=1)
    offsets: dict[str, int] = {}
    with store.read() as connection:
        for boot in connection.execute(lost).scalars().all():
            known = (
                select(c.t0_ns - c.mono_ns)
                .where(*own, c.boot == boot, c.clock != Clock.UNKNOWN.value)
                .order_by(worse, c.mono_ns)
                .limit(1)
            )
            offset = connection.execute(known).scalar()
            if offset is not None:
                offsets[boot] = int(offset)
    return offsets


def placed(frame: Frame, offsets: dict[str, int]) -> Frame:
    """The frame at its derived time; unchanged where its own clock was set, or nothing is known."""
    offset = offsets.get(frame.boot)
    if frame.clock is not Clock.UNKNOWN or offset is None:
        return frame
    return replace(frame, t0_ns=min(max(frame.mono_ns + offset, 0), T_NS_MAX))


def placed_frames_between(
    store: Store,
    fleet: str,
    *,
    device: str,
    stream: str,
    t0_ns: int,
    t1_ns: int,
    offsets: dict[str, int] | None = None,
) -> Iterator[FrameRow]:
    """Frames of one stream whose derived time touches the span, in the order of `frames_between`.

    Args:
        t0_ns, t1_ns: UTC, inclusive and exclusive, as a person who labels would say it.
        offsets: what `clock_offsets` gave for the device, to ask once for many spans.

    Raises:
        RetryLater: the database is away.
    """
    if offsets is None:
        offsets = clock_offsets(store, fleet, device)
    own = frames_between(store, fleet, device=device, stream=stream, t0_ns=t0_ns, t1_ns=t1_ns)
    if not offsets:
        yield from own
        return
    kept = (
        row for row in own if row.frame.clock is not Clock.UNKNOWN or row.frame.boot not in offsets
    )
    moved = (
        _moved(store, fleet, device, stream, boot, offset, t0_ns, t1_ns)
        for boot, offset in sorted(offsets.items())
    )
    yield from heapq.merge(kept, *moved, key=_place)


def _place(row: FrameRow) -> tuple[str, str, int]:
    return row.log.service, row.log.epoch, row.seq


def _moved(
    store: Store,
    fleet: str,
    device: str,
    stream: str,
    boot: str,
    offset_ns: int,
    t0_ns: int,
    t1_ns: int,
) -> Iterator[FrameRow]:
    """Frames of one boot without a clock that the offset brings into the span."""
    c = frames.c
    key = (c.service, c.epoch, c.seq)
    length_ns = c.t1_ns - c.t0_ns
    query = (
        select(
            c.fleet, c.device, *key, *(c[name] for name in FRAME_COLUMNS), c.received_ns,
        )
        .where(
            c.fleet == fleet, c.device == device, c.stream == stream, c.boot == boot,
            c.clock == Clock.UNKNOWN.value,
            c.mono_ns + length_ns > t0_ns - offset_ns, c.mono_ns < t1_ns - offset_ns,
        )
    )  # fmt: skip
    for row in pages(store, query, key, slice(2, 5), PAGE_ROWS):
        frame = placed(frame_of(row[5:-1]), {boot: offset_ns})
        yield FrameRow(LogKey(*row[:4]), row[4], frame, row[-1])
