"""What tests of sources share: a sink with a commit, and one suite for all of them.

A `World` is what a source reads. It survives the source, so that a source can be killed and made
again on it. `Store` is the log as a source sees it: what was put and not committed is lost in a
crash, state and rows together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from fieldloop_contract.errors import OutOfSpace, RejectedInput
from fieldloop_contract.frames import Clock, Frame, samples_array
from fieldloop_contract.profile import ChannelProfile, StreamProfile
from fieldloop_ingestion.gate import check_against
from fieldloop_ingestion.source import Context, Source
from fieldloop_runtime.clock import Now
from fieldloop_runtime.journal import Journal

BOOT = "0" * 32
T0_NS = 1_790_000_000 * 10**9
POLL_S_MAX = 0.5
"""Far above what any poll takes, far below any time-out that a source could be waiting for."""
SLOW_POLLS_MAX = 3
"""One or two are a machine that was busy; a source that blocks does so each time."""


def stream_of(*channels: str, rate_hz: float = 100.0, **ranges: float) -> StreamProfile:
    """A stream of channels in g; `ranges` gives all of them a min and a max."""
    made = [ChannelProfile(name=name, unit="g", **ranges) for name in channels]
    return StreamProfile(id="s1", rate_hz=rate_hz, channels=made)


@dataclass
class FakeClock:
    """A clock that goes on only when told."""

    s: float = 1_000.0

    def now(self) -> Now:
        return Now(T0_NS + round(self.s * 1e9), round(self.s * 1e9), BOOT, Clock.SYNCHRONISED)


def real_now() -> Now:
    return Now(time.time_ns(), time.monotonic_ns(), BOOT, Clock.SYNCHRONISED)


@dataclass
class Store:
    """A sink with a commit: rows and state on disk, and those that a crash would take.

    Attributes:
        refuse_every: of so many frames one finds no space; 0 for none.
    """

    stream: StreamProfile
    refuse_every: int = 0
    epoch: str = "e1"
    seq: int = 0
    frames: list[Frame] = field(default_factory=list)
    letters: list[tuple[str, str]] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    refusals: int = 0
    slow: int = 0
    _tries: int = 0
    _durable: tuple[int, int, int, dict[str, str]] = (0, 0, 0, field(default_factory=dict))

    def __post_init__(self) -> None:
        self._durable = (0, 0, 0, {})

    def frame(self, frame: Frame) -> int | None:
        try:
            check_against(frame, self.stream)
        except RejectedInput as error:
            self.refuse(error.code, str(error))
            return None
        self._tries += 1
        if self.refuse_every and self._tries % self.refuse_every == 0:
            self.refusals += 1
            raise OutOfSpace("full")
        self.frames.append(frame)
        self.seq += 1
        return self.seq

    def event(self, type_: str, data: dict[str, Any], t_ns: int) -> int:
        self.events.append((type_, data))
        self.seq += 1
        return self.seq

    def refuse(self, code: str, reason: str, excerpt: bytes = b"") -> None:
        self.letters.append((code, reason))

    def remember(self, name: str, value: str) -> None:
        self.state[name] = value

    def recall(self, name: str) -> str | None:
        return self.state.get(name)

    def commit(self) -> int:
        self._durable = (len(self.frames), len(self.letters), self.seq, dict(self.state))
        return self.seq

    def crash(self) -> None:
        frames, letters, self.seq, state = self._durable
        del self.frames[frames:], self.letters[letters:]
        self.state = dict(state)

    def rows(self) -> list[tuple[float, ...]]:
        width = len(self.stream.channels)
        found = []
        for frame in self.frames:
            values = samples_array(frame.samples)
            found += [tuple(values[i : i + width]) for i in range(0, len(values), width)]
        return found


def context_of(
    stream: StreamProfile, clock: Callable[[], Now], recall: Callable[[str], str | None]
) -> Context:
    return Context("src", stream, clock, recall, Journal("test"))


class World(Protocol):
    """What a source reads.

    Attributes:
        stream: what the source fills.
        endless: `rows` are more than a test will take.
    """

    stream: StreamProfile
    endless: bool

    def open(self, store: Store) -> Source: ...

    def step(self) -> float:
        """Let time go on and the world give more; the time in s to poll with."""
        ...

    def rows(self) -> list[tuple[float, ...]] | None:
        """Every row that was given so far, in order; None where only the device knows."""
        ...

    def killed(self) -> None:
        """The process that read it is gone."""
        ...


def poll(source: Source, store: Store, now_s: float) -> None:
    """Poll as the loop does, and commit; fails where the source blocked or asked nonsense."""
    begun_s = time.monotonic()
    try:
        wait_s = source.poll(store, now_s)
        assert 0 <= wait_s <= 60
    except OutOfSpace:
        pass
    store.slow += time.monotonic() - begun_s >= POLL_S_MAX
    assert store.slow < SLOW_POLLS_MAX, "polls block"


def commit(source: Source, store: Store) -> None:
    seq = store.commit()
    told = getattr(source, "committed", None)
    if told is not None:
        told(store.epoch, seq)


def run_until(world: World, source: Source, store: Store, rows: int, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while len(store.rows()) < rows:
        assert time.monotonic() < deadline_s, f"{len(store.rows())} of {rows} rows came"
        poll(source, store, world.step())
        commit(source, store)


# ---- the suite: what every source has to pass ---------------------------------------------------


def check_frames_fit_their_stream(world: World) -> None:
    store = Store(world.stream)
    source = world.open(store)
    try:
        run_until(world, source, store, 10)
    finally:
        source.close()
    # A busy machine may miss a period, and then the source says so.
    assert {code for code, _ in store.letters} <= {"source.late"}
    for frame in store.frames:
        check_against(frame, world.stream)
        assert frame.boot == BOOT
        assert frame.t0_ns > T0_NS or frame.t0_ns > 1_700_000_000 * 10**9
    _same_as_the_world(world, store)


def check_an_idle_poll_asks_to_wait(world: World) -> None:
    """A source that has nothing must not keep the loop spinning."""
    store = Store(world.stream)
    source = world.open(store)
    try:
        run_until(world, source, store, 1)
        now_s = world.step()
        waits = [source.poll(store, now_s) for _ in range(200)]
        assert max(waits) > 0
    finally:
        source.close()


def check_no_space_loses_nothing(world: World) -> None:
    store = Store(world.stream, refuse_every=2)
    source = world.open(store)
    try:
        run_until(world, source, store, 120)
    finally:
        source.close()
    assert store.refusals > 0
    _same_as_the_world(world, store)


def check_close_is_idempotent(world: World) -> None:
    store = Store(world.stream)
    source = world.open(store)
    source.poll(store, world.step())
    begun_s = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - begun_s < 5
    before = len(store.frames)
    source.poll(store, world.step())
    assert len(store.frames) == before, "a closed source gives nothing"
    untouched = world.open(Store(world.stream))
    untouched.close()


def check_kills_neither_lose_nor_double(world: World, seed: int, rounds: int = 60) -> None:
    """Killed at any time, before or after a commit: at the end each row is there once."""
    random = Random(seed)
    store = Store(world.stream, refuse_every=random.choice([0, 3, 5]))
    source = world.open(store)
    for _ in range(rounds):
        poll(source, store, world.step())
        chance = random.random()
        if chance < 0.5:
            commit(source, store)
        elif chance < 0.6:
            store.commit()  # on disk, and killed before the sender heard of it
            store.crash()
            world.killed()
            source = world.open(store)
        elif chance < 0.75:
            store.crash()
            world.killed()
            source = world.open(store)
    wanted = world.rows()
    if wanted is not None:
        more = len(store.rows()) + 50
        run_until(world, source, store, more if world.endless else len(wanted))
    source.close()
    assert store.rows()
    _same_as_the_world(world, store)


def _same_as_the_world(world: World, store: Store) -> None:
    wanted = world.rows()
    if wanted is not None:
        got = store.rows()
        assert got == wanted[: len(got)]


SUITE: list[Callable[[World], None]] = [
    check_frames_fit_their_stream,
    check_an_idle_poll_asks_to_wait,
    check_no_space_loses_nothing,
    check_close_is_idempotent,
]
