"""Replay: recordings on a real disk into a real log."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import pytest
import sqlite_utils  # noqa: F401 - logs are then made in this process, which is quicker
from pydantic import BaseModel

from fieldloop_buffer import Kind, Log, LogSettings, Reader, unpack_frame
from fieldloop_contract.errors import MalformedMessage, OutOfSpace
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.profile import ChannelProfile, SourceProfile, StreamProfile
from fieldloop_ingestion.intake import Supervised
from fieldloop_ingestion.source import Context, Sink
from fieldloop_ingestion.sources.recordings import Bad, Block, open_recording
from fieldloop_runtime.clock import Now

STREAM = StreamProfile(
    id="imu",
    rate_hz=50,
    channels=[ChannelProfile(name="a"), ChannelProfile(name="b", max=1_000)],
)
START_NS = 1_790_000_000 * 10**9


class World:
    """A log, a clock that is moved by hand, and one supervised source."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.path = folder / "log.db"
        self.options = {"path": str(folder / "in"), "frame_samples": 10, "speed": 0, **options}
        (folder / "in").mkdir(exist_ok=True)
        self.now_s = 0.0
        self.open()

    def open(self) -> None:
        self.log = Log.open(
            LogSettings(path=str(self.path), mode="durable"),
            fleet="demo",
            device="pump-1",
            service="ingestion",
        )
        profile = SourceProfile.model_validate(
            {"id": "rec", "kind": "replay", "stream": "imu", **self.options}
        )
        self.source = Supervised(
            profile, STREAM, self.log, "demo/pump-1/ingestion", self.clock, Random(1)
        )

    def clock(self) -> Now:
        ns = round(self.now_s * 1e9)
        return Now(START_NS + ns, ns, "a" * 32, Clock.SYNCHRONISED)

    def run(self, seconds: float = 30.0, step: float = 0.1) -> None:
        end = self.now_s + seconds
        while self.now_s < end:
            self.source.poll(self.now_s)
            self.log.commit(force=True)
            self.now_s += step

    def frames(self) -> list[Frame]:
        rows = self._rows(Kind.FRAME)
        return [unpack_frame(payload) for payload in rows]

    def finished(self) -> list[dict[str, Any]]:
        rows = [json.loads(payload) for payload in self._rows(Kind.EVENT)]
        return [row["data"] for row in rows if row["type"] == "replay.finished"]

    def _rows(self, kind: Kind) -> list[bytes]:
        reader, cursor, found = Reader(str(self.path)), None, []
        while True:
            chunk = reader.read(cursor, kinds=[kind])
            found += [row.payload for row in chunk.rows]
            if chunk.cursor == cursor:
                reader.close()
                return found
            cursor = chunk.cursor

    def values(self) -> list[float]:
        return [float(v) for f in self.frames() for v in f.array()[:, 0]]

    def kill(self) -> None:
        self.source.close()
        self.log._file.release()
        self.open()


def write_npz(path: Path, n: int, first: int = 0, **more: Any) -> None:
    column = np.arange(first, first + n, dtype=np.float32)
    samples = np.stack([column, np.zeros_like(column)], axis=1)
    np.savez(path, samples=samples, **more)


def test_an_npz_becomes_frames_and_an_event_that_says_where_they_are(tmp_path: Path) -> None:
    world = World(tmp_path)
    write_npz(tmp_path / "in" / "a.npz", 95)
    world.run(1)
    frames = world.frames()
    assert [f.n for f in frames] == [10] * 9 + [5]
    assert world.values() == list(range(95))
    assert all(a.t1_ns == b.t0_ns for a, b in pairwise(frames))
    (event,) = world.finished()
    assert event["file"] == "a.npz"
    assert event["samples"] == 95
    assert (event["t0_ns"], event["t1_ns"]) == (frames[0].t0_ns, frames[-1].t1_ns)
    assert (event["seq_first"], event["seq_last"]) == (1, 10)
    assert event["epoch"] == world.log.epoch


def test_recordings_are_played_by_name_once_each_and_new_ones_as_they_appear(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, watch=True)
    write_npz(tmp_path / "in" / "b.npz", 20, 100)
    write_npz(tmp_path / "in" / "a.npz", 20, 0)
    world.run(2)
    write_npz(tmp_path / "in" / "0.npz", 20, 200)
    world.run(2)
    assert world.values() == [*range(20), *range(100, 120), *range(200, 220)]
    world.kill()
    world.run(2)
    assert len(world.values()) == 60
    assert [event["file"] for event in world.finished()] == ["a.npz", "b.npz", "0.npz"]


def test_no_window_can_reach_across_two_recordings(tmp_path: Path) -> None:
    world = World(tmp_path, pause_s=2.0)
    write_npz(tmp_path / "in" / "a.npz", 500)
    write_npz(tmp_path / "in" / "b.npz", 500)
    world.run(2)
    first, second = world.finished()
    assert second["t0_ns"] == first["t1_ns"] + 2 * 10**9
    assert first["t0_ns"] >= START_NS


def test_a_recording_may_bring_its_own_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    write_npz(tmp_path / "in" / "a.npz", 10, t0_ns=np.int64(123_456_789))
    world.run(1)
    assert world.frames()[0].t0_ns == 123_456_789


def test_real_time_is_kept_at_the_speed_that_was_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, speed=2.0)
    write_npz(tmp_path / "in" / "a.npz", 1_000)
    world.run(3.05, step=0.01)
    assert 280 <= len(world.values()) <= 300  # 100 samples a second
    world.run(8, step=0.05)
    assert len(world.values()) == 1_000


def test_a_kill_between_any_two_frames_neither_loses_nor_repeats_a_sample(tmp_path: Path) -> None:
    world = World(tmp_path, speed=1.0)
    write_npz(tmp_path / "in" / "a.npz", 300)
    write_npz(tmp_path / "in" / "b.npz", 300, 300)
    for _ in range(20):
        world.run(0.7, step=0.05)
        world.source.poll(world.now_s)  # taken, and never committed
        world.kill()
    world.run(20, step=0.1)
    assert world.values() == list(range(600))
    times = [f.t0_ns for f in world.frames()]
    assert times == sorted(set(times))


def test_a_csv_is_read_by_column_names_and_a_bad_row_is_refused_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows = [f"{i},{i * 2},x" for i in range(25)]
    rows[12] = "12,broken,x"
    rows[18] = "18"
    text = "b,a,c\n" + "\n".join(rows) + "\n"
    (tmp_path / "in" / "a.csv").write_text(text, encoding="utf-8")
    world.run(2)
    assert world.values() == [2.0 * i for i in range(25) if i not in (12, 18)]
    assert world.log.rejects() == {"recording.row": 2}
    starts = {f.t0_ns - world.frames()[0].t0_ns for f in world.frames()}
    assert 13 * 20_000_000 in starts  # time goes on over what was refused


def test_frames_that_do_not_fit_are_dead_lettered_and_their_neighbours_pass(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    samples = np.zeros((60, 2), dtype=np.float32)
    samples[:, 0] = np.arange(60)
    samples[15, 1] = np.nan
    samples[35, 1] = 2_000
    np.savez(tmp_path / "in" / "a.npz", samples=samples)
    world.run(1)
    assert world.values() == [*range(10), *range(20, 30), *range(40, 60)]
    assert world.log.rejects() == {"frame.not-finite": 1, "frame.range": 1}
    assert world.finished()[0]["samples"] == 60


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"not a zip"),
        lambda path: np.savez(path, other=np.zeros(3)),
        lambda path: np.savez(path, samples=np.zeros((5, 3), dtype=np.float32)),
        lambda path: np.savez(path, samples=np.zeros((5, 2), dtype=np.int16)),
        lambda path: np.savez(path, samples=np.asfortranarray(np.zeros((5, 2), dtype="f4"))),
        lambda path: np.savez(path, samples=np.zeros((5, 2), dtype="f4"), t0_ns=np.int64(-5)),
        lambda path: np.savez(path, samples=np.array([["a", "b"]])),
    ],
)
def test_a_recording_that_cannot_be_read_is_refused_and_the_next_one_is_played(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    world = World(tmp_path, watch=True)
    make(tmp_path / "in" / "a.npz")
    write_npz(tmp_path / "in" / "b.npz", 20)
    world.run(8)
    assert world.log.rejects() == {"recording.unreadable": 1}
    assert world.values() == list(range(20))
    world.run(3)
    assert world.log.rejects() == {"recording.unreadable": 1}


def test_a_recording_cut_short_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    write_npz(tmp_path / "in" / "a.npz", 2_000)
    raw = bytearray((tmp_path / "in" / "a.npz").read_bytes())
    raw[len(raw) // 2] ^= 0xFF  # the zip's checksum will not agree at the end
    (tmp_path / "in" / "a.npz").write_bytes(raw)
    write_npz(tmp_path / "in" / "b.npz", 20, 5_000)
    world.run(3)
    assert world.log.rejects() == {"recording.npz": 1}
    assert world.values()[-20:] == list(range(5_000, 5_020))


def test_double_precision_and_compressed_recordings_are_read_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    samples = np.random.default_rng(1).normal(size=(1_000, 2))
    np.savez_compressed(path, samples=samples)
    recording = open_recording(path, ["a", "b"])
    recording.skip(400)
    block = recording.read(10_000)
    assert isinstance(block, Block)
    found = np.frombuffer(block.samples, dtype="<f4").reshape(-1, 2)
    np.testing.assert_array_equal(found, samples[400:].astype(np.float32))
    assert recording.read(1) is None
    recording.close()


def test_a_csv_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n", encoding="utf-8")
    with pytest.raises(MalformedMessage, match="no column a, b"):
        open_recording(path, ["a", "b"])


def test_a_number_too_large_for_float32_is_infinite_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n1e300,3\n", encoding="utf-8")
    recording = open_recording(path, ["a", "b"])
    block = recording.read(10)
    assert isinstance(block, Block | Bad)
    assert isinstance(block, Block)
    assert array("f", block.samples)[2] == float("inf")


def test_a_loop_begins_again_in_time_that_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path, loop=True, speed=10.0)
    write_npz(tmp_path / "in" / "a.npz", 50, t0_ns=np.int64(START_NS))
    world.run(3, step=0.02)
    times = [f.t0_ns for f in world.frames()]
    assert len(times) > 15
    assert times == sorted(set(times))


class NoOptions(BaseModel):
    """None but those that every source has."""

    path: str
    frame_samples: int
    speed: float


class Moody:
    """A source that fails, and then does not."""

    Options: ClassVar[type[BaseModel]] = NoOptions
    polls = 0

    def __init__(self, options: Any, context: Context) -> None:
        self._context = context

    def poll(self, sink: Sink, now_s: float) -> float:
        Moody.polls += 1
        if Moody.polls < 4:
            raise RuntimeError("the sensor is gone")
        return 0.5

    def close(self) -> None:
        raise OSError("already closed")


def test_a_source_that_fails_is_made_anew_after_a_back_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fieldloop_ingestion.intake.find_source", lambda kind: Moody)
    world = World(tmp_path)
    for _ in range(1_000):
        world.source.poll(world.now_s)
        world.now_s += 0.05
    assert world.source.restarts == 3
    assert world.source.fault is None


def test_where_the_log_takes_no_more_the_source_waits_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    write_npz(tmp_path / "in" / "a.npz", 500)
    append = Log.append
    count = 0

    def sometimes(self: Log, entry: Any) -> int:
        nonlocal count
        count += 1
        if count % 7 == 0:
            raise OutOfSpace("a test says so")
        return append(self, entry)

    monkeypatch.setattr(Log, "append", sometimes)
    world.run(60)
    assert world.values() == list(range(500))
    assert len(world.finished()) == 1
