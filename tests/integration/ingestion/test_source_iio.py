"""Industrial I/O polled from a made tree of sysfs, by a thread and in real time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fieldloop_ingestion.source import Source
from fieldloop_ingestion.sources.iio import IioSource
from support.sources import SUITE, Store, context_of, poll, real_now, run_until, stream_of
from support.worlds import iio_options, make_sensor

ROW = ((100 + 4) * 0.5, -50 * 0.5 * 2)


class PolledWorld:
    endless = True

    def __init__(self, root: Path) -> None:
        self.stream = stream_of("x", "y", rate_hz=100)
        self.root = root
        self.folder = make_sensor(root / "sys")

    def open(self, store: Store) -> Source:
        return IioSource(iio_options(self.root), context_of(self.stream, real_now, store.recall))

    def step(self) -> float:
        time.sleep(0.005)
        return time.monotonic()

    def rows(self) -> None:
        return None

    def killed(self) -> None:
        pass


@pytest.mark.parametrize("check", SUITE, ids=lambda check: check.__name__.removeprefix("check_"))
def test_iio_polled(tmp_path: Path, check: Callable[[PolledWorld], None]):
    check(PolledWorld(tmp_path))


def test_a_sensor_that_was_lost_comes_back(tmp_path: Path):
    world = PolledWorld(tmp_path)
    store = Store(world.stream)
    source = world.open(store)
    run_until(world, source, store, 5)
    assert set(store.rows()) == {ROW}
    (world.folder / "in_accel_x_raw").rename(world.folder / "away")
    deadline_s = time.monotonic() + 10
    while source.fault is None and time.monotonic() < deadline_s:
        poll(source, store, world.step())
    assert "in_accel_x_raw" in (source.fault or "")
    (world.folder / "away").rename(world.folder / "in_accel_x_raw")
    run_until(world, source, store, len(store.rows()) + 5)
    assert source.fault is None
    source.close()


def test_readings_keep_the_period_of_the_stream(tmp_path: Path):
    world = PolledWorld(tmp_path)
    store = Store(world.stream)
    source = world.open(store)
    run_until(world, source, store, 50)
    source.close()
    spent_s = (store.frames[-1].t0_ns - store.frames[0].t0_ns) / 1e9
    late = sum(1 for code, _ in store.letters if code == "source.late")
    assert spent_s >= 0.48, "never faster than the stream"
    assert spent_s < 1.0 or late, "slower only where it says so"
