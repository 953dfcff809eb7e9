"""Replay: recordings played into a stream, at real time, faster, or as fast as they are taken.

`path` is a recording, or a folder whose recordings are played in the order of their names, each
once; with `watch` also those that appear later (move them in by a rename). The position goes into
the log's state together with each frame, so that a process that was killed goes on where the log
stands: nothing twice, nothing left out. After each recording an event `replay.finished` says which
span of time and of seq it became.

Time goes on at the sample rate. A recording without `t0_ns` begins now, or `pause_s` after the end
of the one before, whichever is later, so that no window reaches across two recordings.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from fieldloop_contract.errors import FixConfiguration, MalformedMessage
from fieldloop_contract.frames import CHANNELS_MAX, FRAME_BYTES_MAX, FRAME_SAMPLES_MAX, Frame
from fieldloop_ingestion.source import Context, Sink
from fieldloop_ingestion.sources.recordings import SUFFIXES, Bad, Recording, open_recording

FRAMES_PER_POLL = 64
RECORDINGS_MAX = 2_000
_SCAN_S = 0.5
_OPEN_TRIES = 5
_OPEN_RETRY_S = 1.0
_IDLE_S = 60.0


class ReplayOptions(BaseModel):
    """Options of a replay."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(min_length=1)
    watch: bool = False
    speed: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Times real time; 0 is as fast as the log takes it."""
    frame_samples: Annotated[int, Field(ge=1, le=FRAME_SAMPLES_MAX)] = 50
    pause_s: Annotated[float, Field(ge=0, le=86_400)] = 2.0
    loop: bool = False
    columns: list[str] | None = Field(default=None, max_length=CHANNELS_MAX)
    """Columns of a CSV, in the order of the stream's channels; by default their names."""


class Position(BaseModel):
    """Where a replay stands; `sample` counts bad ones too."""

    file: str = ""
    sample: int = 0
    t0_ns: int = 0
    end_ns: int = 0
    epoch: str = ""
    seq_first: int = 0
    seq_last: int = 0
    round: int = 0


class ReplaySource:
    """See the module."""

    Options: ClassVar[type[BaseModel]] = ReplayOptions

    def __init__(self, options: ReplayOptions, context: Context) -> None:
        self._options = options
        self._context = context
        stream = context.stream
        if options.frame_samples * len(stream.channels) * 4 > FRAME_BYTES_MAX:
            raise FixConfiguration(f"{context.id}: frame_samples makes frames that are too large")
        names = [channel.name for channel in stream.channels]
        self._columns = options.columns or names
        if len(self._columns) != len(names):
            raise FixConfiguration(f"{context.id}: as many columns as channels are needed")
        text = context.recall("position")
        self._at = Position.model_validate_json(text) if text else Position()
        self._done: list[str] = (context.recall("done") or "").split()
        self._recording: Recording | None = None
        self._began_s = 0.0
        self._began_sample = 0
        self._tries: dict[str, int] = {}

    def close(self) -> None:
        """Close the recording."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def poll(self, sink: Sink, now_s: float) -> float:
        """Play what is due, at most `FRAMES_PER_POLL` frames."""
        if self._recording is None:
            wait_s = self._open_next(sink, now_s)
            if wait_s is not None:
                return wait_s
        for _ in range(FRAMES_PER_POLL):
            wait_s = self._due_in(now_s)
            if wait_s > 0:
                return wait_s
            if not self._play_one(sink):
                return 0.0
        return 0.0

    # ---- which recording -------------------------------------------------------------------------

    def _candidates(self) -> list[Path]:
        path = Path(self._options.path)
        if path.is_dir():
            found = (p for p in path.iterdir() if p.suffix in SUFFIXES and p.name[0] != ".")
            return sorted(found)[:RECORDINGS_MAX]
        return [path] if path.exists() else []

    def _open_next(self, sink: Sink, now_s: float) -> float | None:
        """Open what is to be played; None when it is open, else seconds to wait."""
        candidates = self._candidates()
        unplayed = [p for p in candidates if _mark(p.name) not in self._done]
        if self._at.file:
            current = [p for p in candidates if p.name == self._at.file]
            if not current:
                sink.refuse("recording.gone", f"{self._at.file} vanished while it was played")
                self._leave(sink, self._at.file)
                return 0.0
            unplayed = current
        if not unplayed:
            if self._options.loop and candidates:
                self._at = self._at.model_copy(update={"round": self._at.round + 1})
                self._done = []
                return 0.0
            return _SCAN_S if self._options.watch or not candidates else _IDLE_S
        return self._open(unplayed[0], sink, now_s)

    def _open(self, path: Path, sink: Sink, now_s: float) -> float | None:
        try:
            recording = open_recording(path, self._columns)
            if self._at.file:
                recording.skip(self._at.sample)
        except (MalformedMessage, OSError) as error:
            tries = self._tries.get(path.name, 0) + 1
            self._tries[path.name] = tries
            if tries < _OPEN_TRIES:
                return _OPEN_RETRY_S  # perhaps it is still being written
            sink.refuse("recording.unreadable", f"{path.name}: {error}")
            self._leave(sink, path.name)
            return 0.0
        self._tries.pop(path.name, None)
        self._recording = recording
        if not self._at.file:
            now = self._context.clock()
            pause_ns = round(self._options.pause_s * 1e9)
            after_last_ns = self._at.end_ns + pause_ns if self._at.end_ns else 0
            t0_ns = recording.t0_ns
            if t0_ns is None or self._at.round:
                t0_ns = max(now.utc_ns, after_last_ns)
            self._at = self._at.model_copy(
                update={"file": path.name, "sample": 0, "t0_ns": t0_ns, "seq_first": 0}
            )
        self._began_s, self._began_sample = now_s, self._at.sample
        self._context.journal.info("replay.started", file=path.name, sample=self._at.sample)
        return None

    # ---- playing ---------------------------------------------------------------------------------

    def _due_in(self, now_s: float) -> float:
        """Seconds until the next frame is whole; 0 where it is."""
        if self._options.speed == 0:
            return 0.0
        samples = self._at.sample - self._began_sample + self._options.frame_samples
        due_s = self._began_s + samples / (self._context.stream.rate_hz * self._options.speed)
        return max(due_s - now_s, 0.0)

    def _time_of(self, sample: int) -> int:
        return self._at.t0_ns + round(sample * 1e9 / self._context.stream.rate_hz)

    def _play_one(self, sink: Sink) -> bool:
        """Put one frame into the log; False at the end of the recording."""
        assert self._recording is not None
        try:
            block = self._recording.read(self._options.frame_samples)
        except MalformedMessage as error:
            sink.refuse(error.code, f"{self._at.file}: {error}")
            block = None
        if block is None:
            self._finish(sink)
            return False
        if isinstance(block, Bad):
            sink.refuse("recording.row", f"{self._at.file}: {block.reason}", block.excerpt)
            self._advance(sink, 1, None)
            return True
        stream = self._context.stream
        now = self._context.clock()
        t0_ns = self._time_of(self._at.sample)
        frame = Frame(
            stream=stream.id,
            t0_ns=t0_ns,
            mono_ns=max(now.mono_ns + t0_ns - now.utc_ns, 0),
            boot=now.boot,
            clock=now.clock,
            rate_hz=stream.rate_hz,
            channels=len(stream.channels),
            samples=block.samples,
        )
        try:
            seq = sink.frame(frame)
        except BaseException:
            self.close()  # what was read and not taken is read again from the position
            raise
        self._advance(sink, block.n, seq)
        return True

    def _advance(self, sink: Sink, samples: int, seq: int | None) -> None:
        update: dict[str, Any] = {"sample": self._at.sample + samples}
        update["end_ns"] = self._time_of(self._at.sample + samples)
        if seq is not None:
            if not self._at.seq_first or self._at.epoch != sink.epoch:
                update |= {"epoch": sink.epoch, "seq_first": seq}
            update["seq_last"] = seq
        self._at = self._at.model_copy(update=update)
        self._remember(sink)

    def _finish(self, sink: Sink) -> None:
        at = self._at
        if at.seq_first:
            data = {
                "file": at.file,
                "stream": self._context.stream.id,
                "t0_ns": at.t0_ns,
                "t1_ns": at.end_ns,
                "samples": at.sample,
                "epoch": at.epoch,
                "seq_first": at.seq_first,
                "seq_last": at.seq_last,
            }
            try:
                sink.event("replay.finished", data, self._context.clock().utc_ns)
            except BaseException:
                self.close()
                raise
            self._context.journal.info("replay.finished", **data)
        self._leave(sink, at.file)

    def _leave(self, sink: Sink, name: str) -> None:
        """Mark a recording as done and forget the place in it."""
        self.close()
        present = {_mark(path.name) for path in self._candidates()}
        done = [mark for mark in self._done if mark in present]
        if _mark(name) not in done:
            done.append(_mark(name))
        self._done = done[-RECORDINGS_MAX:]
        self._at = self._at.model_copy(update={"file": "", "sample": 0, "seq_first": 0})
        self._remember(sink)
        sink.remember("done", " ".join(self._done))

    def _remember(self, sink: Sink) -> None:
        sink.remember("position", self._at.model_dump_json())


def _mark(name: str) -> str:
    """A short name for a name: the list of what was played has to stay small."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
