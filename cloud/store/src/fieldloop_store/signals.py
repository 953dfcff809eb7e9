"""Signals for drawing: which streams a device has, and their frames by time, in bounded pieces.

Every query is answered from the index of frames by time, and none reads more than it is told to.
Times are the device's own: frames from before it knew the time lie where it believed to be.
Read-only; any thread. All raise RetryLater where the database is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, select

from fieldloop_store.engine import Store
from fieldloop_store.schema import frames, samples, services

STREAMS_MAX = 256


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream of a device of which frames are there, with its first and last time."""

    device: str
    stream: str
    channels: int
    rate_hz: float
    t0_ns: int
    t1_ns: int
    names: tuple[str, ...]
    units: tuple[str, ...]


def streams_of(store: Store, fleet: str, device: str, *, chosen: bool = False) -> list[StreamView]:
    """The streams of which a device has frames, found by skipping through the index.

    Args:
        chosen: of `samples` instead of `frames`.
    """
    table = samples if chosen else frames
    c = table.c
    own = (c.fleet == fleet, c.device == device)
    found: list[StreamView] = []
    after = ""
    with store.read() as connection:
        declared = _declared(connection, fleet, device)
        while len(found) < STREAMS_MAX:
            skip = select(c.stream).where(*own, c.stream > after).order_by(c.stream).limit(1)
            stream = connection.execute(skip).scalar()
            if stream is None:
                break
            after = str(stream)
            found.append(_stream(connection, table, fleet, device, after, declared))
    return found


def _stream(
    connection: Connection,
    table: Table,
    fleet: str,
    device: str,
    stream: str,
    declared: dict[str, dict[str, Any]],
) -> StreamView:
    c = table.c
    own = (c.fleet == fleet, c.device == device, c.stream == stream)
    first = select(c.t0_ns).where(*own).order_by(c.t0_ns).limit(1)
    newest = select(c.channels, c.rate_hz, c.t1_ns).where(*own).order_by(c.t0_ns.desc()).limit(1)
    channels, rate_hz, t1_ns = connection.execute(newest).one()
    said = declared.get(stream, {})
    names = tuple(said.get("channels", ()))
    if len(names) != channels:
        names = tuple(f"channel {i + 1}" for i in range(channels))
    units = tuple(said.get("units", ()))
    return StreamView(
        device,
        stream,
        channels,
        rate_hz,
        int(connection.execute(first).scalar_one()),
        t1_ns,
        names,
        units if len(units) == channels else ("",) * channels,
    )


def _declared(connection: Connection, fleet: str, device: str) -> dict[str, dict[str, Any]]:
    """What a device says of its streams, by their ids."""
    s = services.c
    query = select(s.status, s.reported).where(s.fleet == fleet, s.device == device)
    said: dict[str, dict[str, Any]] = {}
    for status, reported in connection.execute(query):
        capability = (status or {}).get("capability") or {}
        for stream in (*capability.get("input_streams", ()), *(reported or {}).get("streams", ())):
            said[stream["stream"]] = stream
    return said


def raw_frames(
    store: Store,
    fleet: str,
    device: str,
    stream: str,
    t0_ns: int,
    t1_ns: int,
    *,
    limit: int,
    chosen: bool = False,
) -> list[tuple[int, float, int, bytes]]:
    """Frames that begin in the span, by time: start, rate in Hz, channels, float32 samples.

    For drawing: the time is the device's own, and a frame that began before the span is not here.
    """
    c = (samples if chosen else frames).c
    query = (
        select(c.t0_ns, c.rate_hz, c.channels, c.samples)
        .where(c.fleet == fleet, c.device == device, c.stream == stream)
        .where(c.t0_ns >= t0_ns, c.t0_ns < t1_ns)
        .order_by(c.t0_ns)
        .limit(limit)
    )
    with store.read() as connection:
        return [(r[0], r[1], r[2], bytes(r[3])) for r in connection.execute(query)]


def frame_start_before(
    store: Store, fleet: str, device: str, stream: str, t_ns: int, *, chosen: bool = False
) -> int | None:
    """When the last frame began that began at or before `t_ns`; None for none."""
    c = (samples if chosen else frames).c
    query = (
        select(c.t0_ns)
        .where(c.fleet == fleet, c.device == device, c.stream == stream, c.t0_ns <= t_ns)
        .order_by(c.t0_ns.desc())
        .limit(1)
    )
    with store.read() as connection:
        return connection.execute(query).scalar()


def count_frames(
    store: Store,
    fleet: str,
    device: str,
    stream: str,
    t0_ns: int,
    t1_ns: int,
    *,
    most: int,
    chosen: bool = False,
) -> int:
    """How many frames begin in the span, counting no further than `most`."""
    c = (samples if chosen else frames).c
    inside = (
        select(c.t0_ns)
        .where(c.fleet == fleet, c.device == device, c.stream == stream)
        .where(c.t0_ns >= t0_ns, c.t0_ns < t1_ns)
        .limit(most)
        .subquery()
    )
    with store.read() as connection:
        query = select(func.count()).select_from(inside)
        return int(connection.execute(query).scalar_one())


def probe_frames(
    store: Store,
    fleet: str,
    device: str,
    stream: str,
    spans: Sequence[tuple[int, int]],
    *,
    chosen: bool = False,
) -> list[tuple[int, float, int, bytes]]:
    """The first frame that begins in each span, where there is one: a sketch of a long signal."""
    c = (samples if chosen else frames).c
    own = (c.fleet == fleet, c.device == device, c.stream == stream)
    found = []
    with store.read() as connection:
        for t0_ns, t1_ns in spans:
            query = (
                select(c.t0_ns, c.rate_hz, c.channels, c.samples)
                .where(*own, c.t0_ns >= t0_ns, c.t0_ns < t1_ns)
                .order_by(c.t0_ns)
                .limit(1)
            )
            row = connection.execute(query).one_or_none()
            if row is not None:
                found.append((row[0], row[1], row[2], bytes(row[3])))
    return found
