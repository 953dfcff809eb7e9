"""From sources to the log: each frame checked, appended or dead-lettered; sources supervised.

A source that fails is closed, and made anew after a back-off with jitter, while the others go on.
Owner thread only.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from fieldloop_buffer import DeadLetter, Entry, Kind, Log, event_entry, pack_frame
from fieldloop_contract.errors import FixConfiguration, OutOfSpace, RejectedInput
from fieldloop_contract.frames import Frame
from fieldloop_contract.profile import SourceProfile, StreamProfile
from fieldloop_ingestion.capture import CaptureGate
from fieldloop_ingestion.gate import check_against
from fieldloop_ingestion.resample import Resamples, make_resampler
from fieldloop_ingestion.source import Context, Source, find_source
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.clock import Now
from fieldloop_runtime.journal import Journal

RESTART_BASE_S = 1.0
RESTART_CAP_S = 60.0
SPACE_PAUSE_S = 1.0
_STABLE_S = 60.0
_EXCERPT_BYTES = 128


class LogSink:
    """Puts what one source has into the log, as far as the stream's schedule wants it.

    Attributes:
        samples: samples put into the log since the owner last set it to 0.
    """

    def __init__(
        self,
        log: Log,
        source: str,
        origin: str,
        stream: StreamProfile,
        clock: Callable[[], Now],
        resampler: Resamples | None = None,
    ) -> None:
        self.samples = 0
        self._log = log
        self._source = source
        self._origin = origin
        self._stream = stream
        self._clock = clock
        self._resampler = resampler
        self._gate = CaptureGate(stream.capture)
        self._held: deque[Frame] = deque()

    @property
    def epoch(self) -> str:
        """The log's current epoch."""
        return self._log.epoch

    @property
    def passed_over(self) -> int:
        """Samples that the schedule did not want."""
        return self._gate.passed_over

    def frame(self, frame: Frame) -> int | None:
        """See `Sink`; None also where nothing of the frame is recorded, or not yet."""
        self._put_held()
        try:
            if self._resampler is not None:
                return self._put_resampled(self._resampler.push(frame))
            check_against(frame, self._stream)
        except RejectedInput as error:
            self.refuse(error.code, str(error), frame.samples[:_EXCERPT_BYTES])
            return None
        if self._stream.capture.mode == "continuous":
            return self._append(frame)
        gate = copy.deepcopy(self._gate)
        return self._put(self._gate.admit(frame), gate)

    def _put_resampled(self, made: list[Frame]) -> int | None:
        """Resampled frames: the source's frame is in the filter, so what finds no room waits."""
        for frame in made:
            check_against(frame, self._stream)
        self._held.extend(part for frame in made for part in self._gate.admit(frame))
        try:
            return self._put_held()
        except OutOfSpace:
            return None  # the next frame is refused until these are in the log

    def trigger(self, t_ns: int) -> None:
        """Record a stretch around `t_ns`, where the stream records when it is asked to.

        Raises:
            OutOfSpace: there is no room; nothing was changed.
        """
        self._put_held()
        gate = copy.deepcopy(self._gate)
        self._put(self._gate.trigger(t_ns), gate)

    def _put(self, parts: list[Frame], gate: CaptureGate) -> int | None:
        """Append parts; where not even the first finds room, the gate is as it was."""
        seq = None
        for index, part in enumerate(parts):
            try:
                seq = self._append(part)
            except OutOfSpace:
                if index == 0:
                    self._gate = gate
                    raise
                # The source must not come again with what is half taken: the rest waits here.
                self._held.extend(parts[index:])
                break
        return seq

    def _put_held(self) -> int | None:
        seq = None
        while self._held:
            seq = self._append(self._held[0])
            self._held.popleft()
        return seq

    def _append(self, frame: Frame) -> int:
        withheld = self._stream.uplink == "none"
        payload = pack_frame(frame)
        seq = self._log.append(Entry(Kind.FRAME, frame.stream, frame.t0_ns, payload, withheld))
        self.samples += frame.n
        return seq

    def event(self, type_: str, data: dict[str, Any], t_ns: int) -> int:
        """See `Sink`."""
        return self._log.append(event_entry(self._origin, type_, data, t_ns, self._stream.id))

    def refuse(self, code: str, reason: str, excerpt: bytes = b"") -> None:
        """See `Sink`."""
        now_ns = self._clock().utc_ns
        letter = DeadLetter(now_ns, self._source, self._stream.id, code, reason, excerpt)
        self._log.dead_letter(letter)

    def remember(self, name: str, value: str) -> None:
        """See `Sink`."""
        self._log.set_state(f"source.{self._source}.{name}", value)


class Supervised:
    """One source, kept alive."""

    def __init__(
        self,
        profile: SourceProfile,
        stream: StreamProfile,
        log: Log,
        origin: str,
        clock: Callable[[], Now],
        random: Random,
    ) -> None:
        self.id = profile.id
        self.restarts = 0
        self.fault: str | None = None
        self.next_s = 0.0
        resampler = None
        if profile.resample is not None:
            resampler = make_resampler(profile.resample, stream)
        self.sink = LogSink(log, profile.id, origin, stream, clock, resampler)
        self._profile = profile
        self._journal = Journal(f"ingestion.{profile.id}")
        self._context = Context(
            id=profile.id,
            stream=profile.given(stream),
            clock=clock,
            recall=lambda name: log.state(f"source.{profile.id}.{name}"),
            journal=self._journal,
        )
        self._random = random
        self._attempt = 0
        self._made_s = 0.0
        self._source: Source | None = None

    def poll(self, now_s: float) -> None:
        """Let the source put what is due into the log, if it is its turn."""
        if now_s < self.next_s:
            return
        try:
            if self._source is None:
                self._source = self._make(now_s)
            wait_s = self._source.poll(self.sink, now_s)
            self.next_s = now_s + wait_s
            if self.fault is not None or (self._attempt and now_s - self._made_s > _STABLE_S):
                self._journal.info("source.recovered")
                self.fault, self._attempt = None, 0
        except OutOfSpace as error:
            self.fault = str(error)
            self.next_s = now_s + SPACE_PAUSE_S
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; the others go on
            self._failed(error, now_s)

    def _make(self, now_s: float) -> Source:
        kind = find_source(self._profile.kind)
        self._made_s = now_s
        return kind(kind.Options.model_validate(self._profile.options), self._context)

    def _failed(self, error: Exception, now_s: float) -> None:
        self.close()
        if isinstance(error, FixConfiguration):
            raise error
        self.restarts += 1
        self.fault = f"{type(error).__name__}: {error!s:.200}"
        wait_s = full_jitter(self._attempt, RESTART_BASE_S, RESTART_CAP_S, self._random)
        self._attempt += 1
        self.next_s = now_s + wait_s
        self._journal.error("source.failed", trace=True, error=self.fault, retry_in_s=wait_s)

    def committed(self, epoch: str, seq: int) -> None:
        """Tell the source how far the log is on disk, where it wants to know."""
        told = getattr(self._source, "committed", None)
        if told is not None:
            try:
                told(epoch, seq)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(error, self.next_s)

    def report_fault(self) -> str | None:
        """What is wrong, for health; None when all is well."""
        own = getattr(self._source, "fault", None)
        return self.fault or (str(own) if own else None)

    def close(self) -> None:
        """Let go of the source."""
        source, self._source = self._source, None
        if source is not None:
            try:
                source.close()
            except Exception as error:  # noqa: BLE001 - as above
                self._journal.warning("source.close_failed", error=str(error))
