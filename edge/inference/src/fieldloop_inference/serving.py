"""One slot at work: carries out what `slots.step` decides, and scores windows. Owner thread only.

Promises. Each window is scored once by the model that is active at that moment: its result, the
position of the next window and the slot's state are staged together, and committed together. A
model on probation that fails on a window never has its result kept; the previous model scores that
window. A change of phase is committed before anything is done about it, so that a kill at any
moment finds the one model that is active in the log.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from fieldloop_buffer import Entry, Kind, Log, Reader, unpack_frame
from fieldloop_contract.desired import SlotOrder
from fieldloop_contract.errors import (
    FieldloopError,
    Isolate,
    MalformedMessage,
    OutOfSpace,
    RetryLater,
)
from fieldloop_contract.manifest import Manifest
from fieldloop_contract.messages import ModelRef, SlotState
from fieldloop_inference import slots
from fieldloop_inference.engine import Engine, row_head, same_windows
from fieldloop_inference.feed import Feed, Policy
from fieldloop_inference.persist import dump_position, dump_slot, load_position, load_slot
from fieldloop_inference.slots import Phase, Slot
from fieldloop_inference.trials import Trial
from fieldloop_inference.watch import Watch, agree
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_scoring.windows import Position, Window
from fieldloop_update import Bundle

REFETCH_S: Final = 60.0
EVENTS_PER_STEP_MAX: Final = 20
STILL_COMING: Final = ("download.deadline", "chunk.damaged", "space.exhausted")
"""Refusals after which the download goes on by itself."""


class Source(Protocol):
    """What a slot asks of `fieldloop_update.ModelSource`."""

    def fetch(self, ref: ModelRef) -> None:
        """Begin a download."""

    def cancel(self, ref: ModelRef) -> None:
        """Stop a download."""

    def bundle(self, ref: ModelRef) -> Bundle | None:
        """The bundle if it is complete on disk."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What all slots of the service share.

    Attributes:
        emit: writes an event: type, stream, data.
        now_ns: UTC in ns as the device believes.
        begin_trial: starts a trial; what it returns has `poll` and `stop`.
    """

    source: Source
    log: Log
    reader: Reader
    emit: Callable[[str, str, dict[str, Any]], None]
    now_ns: Callable[[], int]
    journal: Journal
    runtime: str
    threads: int
    backlog: Policy
    skip_rows_max: int
    shadow_windows: int
    begin_trial: Callable[..., Any] = Trial


class Serving:
    """One slot: its state, its models in memory, its feed.

    Args:
        name: id of the slot.
    """

    def __init__(self, name: str, tools: Tools) -> None:
        self.name = name
        self.slot = Slot()
        self.document_version = 0
        self._tools = tools
        self._streams: dict[str, str] = {}
        self._engine: Engine | None = None
        self._shadow: Engine | None = None
        self._spare: Engine | None = None
        self._trial: Trial | None = None
        self._figures: dict[str, float] = {}
        self._feed: Feed | None = None
        self._waiting: deque[Window] = deque()
        self._heads = ("", "")
        self._watch = Watch(1.0)
        self._last_window: Window | None = None
        self._position: Position | None = None
        self._dirty = False
        self._refetch_s = 0.0
        self._noise = Throttle(60)
        self._totals = {"windows": 0, "errors": 0}

    # Life.

    def start(self) -> None:
        """Take up what the log knows of this slot."""
        log = self._tools.log
        try:
            state = log.state(self._key("slot"))
            self.slot = load_slot(state) if state else Slot()
            position = log.state(self._key("position"))
            self._position = load_position(position) if position else None
            self._streams = dict(json.loads(log.state(self._key("streams")) or "{}"))
        except (MalformedMessage, ValueError) as error:
            self._tools.journal.error("slot.state_lost", slot=self.name, error=str(error))
            self.slot = Slot()
        self._apply(slots.Restarted())

    def stop(self) -> None:
        """End cleanly: the candidate is not to blame for this end of the process."""
        if self._trial is not None:
            self._trial.stop()
            self._trial = None
        self._apply(slots.Stopped())
        self.stage()

    def _key(self, what: str) -> str:
        return f"{what}:{self.name}"

    # From outside.

    def order(self, order: SlotOrder, recalled: list[str], version: int) -> None:
        """A signed order for this slot."""
        self.document_version = version
        if order.streams != self._streams:
            self._streams = dict(order.streams)
            self._tools.log.set_state(self._key("streams"), json.dumps(self._streams))
            if self._engine is not None and self._engine.ref == order.model:
                self._set_feed(self._engine.manifest)
        self._apply(slots.Order(order.model, tuple(order.lift), tuple(recalled)))

    def fetched(self, ref: ModelRef) -> None:
        """A bundle is complete on disk."""
        if self.slot.phase is Phase.FETCHING:
            self._apply(slots.Fetched(ref))

    def refused(self, ref: ModelRef, code: str, reason: str) -> None:
        """A bundle cannot be had, for now or at all."""
        if code not in STILL_COMING:
            self._apply(slots.FetchRefused(ref, reason))

    def poll(self, now_s: float) -> None:
        """Look after the trial and the download."""
        if self._trial is not None:
            verdict = self._trial.poll(now_s)
            if verdict is not None:
                self._trial = None
                self._figures = verdict.figures
                if verdict.passed:
                    self._apply(self._passed())
                elif verdict.fault:
                    self._apply(slots.Fault(verdict.reason))
                else:
                    self._apply(slots.Unfit(verdict.reason))
        elif self.slot.phase is Phase.FETCHING and now_s >= self._refetch_s:
            if self._refetch_s and self.slot.candidate is not None:
                self._tools.source.fetch(self.slot.candidate)
            self._refetch_s = now_s + REFETCH_S

    def _passed(self) -> slots.Event:
        ref = self.slot.candidate
        bundle = self._tools.source.bundle(ref) if ref is not None else None
        if bundle is None:
            return slots.Unfit("its files are gone")
        active = self._engine
        comparable = active is not None and same_windows(active.manifest, bundle.manifest)
        shadow_windows = self._tools.shadow_windows if comparable else 0
        return slots.TrialPassed(shadow_windows, bundle.manifest.limits.probation_windows)

    # Deciding and doing.

    def _apply(self, event: slots.Event) -> None:
        """Step, commit a change of phase, carry out; what carrying out brings is stepped too."""
        queue: deque[slots.Event] = deque([event])
        for _ in range(EVENTS_PER_STEP_MAX):
            if not queue:
                return
            before = self.slot
            self.slot, effects = slots.step(before, queue.popleft(), self._tools.now_ns())
            if self.slot != before:
                self._dirty = True
            if self.slot.phase is not before.phase or self.slot.starts != before.starts:
                self._refetch_s = 0.0
                self._commit()
            for effect in effects:
                followed = self._do(effect)
                if followed is not None:
                    queue.append(followed)
            if self.slot.phase is Phase.TRIAL and self._trial is None:
                followed = self._begin_trial()
                if followed is not None:
                    queue.append(followed)
            if self.slot.phase in slots.RESTING:
                self._spare = None
        raise FieldloopError(f"slot {self.name} does not come to rest", code="slot.unsettled")

    def _commit(self) -> None:
        self.stage()
        try:
            self._tools.log.commit(force=True)
        except OutOfSpace as error:
            # It waits in memory. A kill now finds the state before, which is as good.
            self._tools.journal.warning("slot.not_stored", slot=self.name, error=str(error))

    def _do(self, effect: slots.Effect) -> slots.Event | None:
        if isinstance(effect, slots.Fetch):
            self._tools.source.fetch(effect.ref)
        elif isinstance(effect, slots.Cancel):
            self._tools.source.cancel(effect.ref)
            self._shadow = None
            if self._trial is not None:
                self._trial.stop()
                self._trial = None
        elif isinstance(effect, slots.Try):
            reason = self._unfit(effect.ref)
            return slots.Unfit(reason) if reason else slots.TrialBegun()
        elif isinstance(effect, slots.Shadow):
            try:
                self._shadow = self._load(effect.ref)
            except Isolate as error:
                return slots.Fault(str(error))
        elif isinstance(effect, slots.Serve):
            return self._serve(effect.ref)
        else:
            self._report_event(effect)
        return None

    def _load(self, ref: ModelRef) -> Engine:
        bundle = self._tools.source.bundle(ref)
        if bundle is None:
            raise Isolate("its files are gone", code="bundle.absent")
        return Engine(bundle, runtime=self._tools.runtime, threads=self._tools.threads)

    def _serve(self, ref: ModelRef | None) -> slots.Event | None:
        """Make `ref` the model of the next window. What was loaded already is not loaded again."""
        loaded = [self._engine, self._shadow, self._spare]
        left = self._engine
        if ref is None:
            self._engine = self._shadow = None
            return None
        engine = next((e for e in loaded if e is not None and e.ref == ref), None)
        if engine is None:
            try:
                engine = self._load(ref)
            except Isolate as error:
                self._engine = None
                return slots.Unloadable(str(error))
        if engine is self._shadow:
            self._shadow = None
        self._engine = engine
        self._spare = left if self.slot.phase is Phase.PROBATION else None
        self._watch = Watch(engine.manifest.limits.latency_ms_max)
        self._last_window = None
        self._set_feed(engine.manifest)
        return None

    def _set_feed(self, manifest: Manifest) -> None:
        """Windows for this model, going on where the next window begins."""
        spec = manifest.inputs[0]
        stream = self._streams.get(spec.name, spec.name)
        position = self.position()
        if self._feed is None or self._feed.stream != stream:
            if self._feed is not None:
                position = None
            tools = self._tools
            self._feed = Feed(
                tools.reader,
                stream,
                spec,
                policy=tools.backlog,
                skip_rows_max=tools.skip_rows_max,
                position=position,
            )
        elif self._feed.spec.model_dump(exclude={"normalisation"}) != spec.model_dump(
            exclude={"normalisation"}
        ):
            self._feed = self._feed.refit(spec, position)
        else:
            return
        self._waiting.clear()
        self._heads = (
            row_head(stream, self.name, "active"),
            row_head(stream, self.name, "shadow"),
        )

    def _unfit(self, ref: ModelRef) -> str:
        """Why this candidate cannot run on this device's streams, or ""."""
        bundle = self._tools.source.bundle(ref)
        if bundle is None:
            return "its files are gone"
        inputs = bundle.manifest.inputs
        if len(inputs) != 1:
            return f"the model takes {len(inputs)} streams, a slot feeds one"
        spec = inputs[0]
        stream = self._streams.get(spec.name, spec.name)
        chunk = self._tools.reader.read(None, kinds=(Kind.FRAME,), streams=(stream,), limit=1)
        if not chunk.rows:
            return ""  # not known yet; the feed says so when frames come
        frame = unpack_frame(chunk.rows[-1].payload)
        if frame.channels != len(spec.channels):
            return (
                f"the model takes {len(spec.channels)} channels, stream {stream} gives "
                f"{frame.channels}"
            )
        if not np.isclose(frame.rate_hz, spec.rate_hz, rtol=1e-6):
            return (
                f"the model takes {spec.rate_hz:g} Hz, stream {stream} gives {frame.rate_hz:g} Hz"
            )
        return ""

    def _begin_trial(self) -> slots.Event | None:
        ref = self.slot.candidate
        bundle = self._tools.source.bundle(ref) if ref is not None else None
        if bundle is None:
            return slots.Unfit("its files are gone")
        try:
            self._trial = self._tools.begin_trial(
                bundle.manifest,
                str(bundle.dir),
                runtime=self._tools.runtime,
                threads=self._tools.threads,
                now_s=time.monotonic(),
            )
        except OSError as error:
            return slots.Unfit(f"the trial cannot be started: {error}")
        return None

    def _report_event(self, report: slots.Report) -> None:
        data: dict[str, Any] = {"slot": self.name, "phase": self.slot.phase.value}
        if report.ref is not None:
            data["model"] = report.ref.model_dump(include={"name", "version", "digest"})
        if report.reason:
            data["reason"] = report.reason
        if report.type in ("model.probation", "model.rejected", "model.shadow") and self._figures:
            data["figures"] = self._figures
        self._tools.emit(report.type, self._stream(), data)
        self._tools.journal.info(report.type, **data)

    def _stream(self) -> str:
        return self._feed.stream if self._feed is not None else "inference"

    # Scoring.

    def position(self) -> Position | None:
        """Where the next window that nobody scored begins."""
        if self._waiting:
            return self._waiting[0].position()
        at = self._feed.position() if self._feed is not None else None
        return at if at is not None else self._position

    def stage(self) -> None:
        """Put position and state beside the results that the next commit stores."""
        log = self._tools.log
        position = self.position()
        if position is not None and position != self._position:
            self._position = position
            log.set_state(self._key("position"), dump_position(position))
        if self._dirty:
            self._dirty = False
            log.set_state(self._key("slot"), dump_slot(self.slot))

    def score(self, until_s: float) -> int:
        """Score what waits, until a moment of the monotonic clock. Returns the windows scored."""
        done = 0
        try:
            while self._engine is not None and self._feed is not None:
                if not self._waiting:
                    windows = self._feed.next()
                    if windows is None:
                        break
                    self._waiting.extend(windows)
                while self._waiting and self._engine is not None:
                    done += self._score_next()
                    if time.monotonic() >= until_s:
                        break
                if time.monotonic() >= until_s:
                    break
        except OutOfSpace as error:
            self._say("results.no_room", error)
        except (Isolate, RetryLater) as error:
            self._say("input.unreadable", error)
        for gap in self._feed.take_gaps() if self._feed is not None else ():
            self._tools.emit(gap.type, self._stream(), {"slot": self.name, "reason": gap.reason})
            self._tools.journal.warning(gap.type, slot=self.name, reason=gap.reason)
        self.stage()
        return done

    def _say(self, event: str, error: FieldloopError) -> None:
        """A trouble that may last; said once a minute."""
        if self._noise.allow():
            self._tools.journal.warning(
                event, slot=self.name, error=str(error), suppressed=self._noise.suppressed
            )

    def _score_next(self) -> int:
        """Score the window that waits longest; it leaves the queue when its result is taken."""
        window, engine = self._waiting[0], self._engine
        assert engine is not None
        scored, latency_us = engine.score(window)
        if self.slot.phase is Phase.PROBATION:
            last, self._last_window = self._last_window, window
            changed = last is None or not np.array_equal(last.samples, window.samples)
            fault = engine.last_error if not scored.valid else ""
            fault = fault or self._watch.judge(scored, latency_us, changed=changed)
            if fault:
                # The window stays in the queue: the previous model scores it, in the next turn.
                self._totals["errors"] += 1
                self._apply(slots.Fault(fault))
                return 0
        payload = engine.row(window, scored, latency_us, self._heads[0])
        stream = self._stream()
        self._tools.log.append(Entry(Kind.RESULT, stream, window.t0_ns, payload))
        self._waiting.popleft()
        self.stage()  # before the next append, which may have to commit
        self._totals["windows"] += 1
        self._totals["errors"] += not scored.valid
        if self.slot.phase is Phase.PROBATION:
            self._apply(slots.ServedWell())
        elif self.slot.phase is Phase.SHADOW and self._shadow is not None:
            beside, beside_us = self._shadow.score(window)
            row = self._shadow.row(window, beside, beside_us, self._heads[1])
            self._tools.log.append(Entry(Kind.RESULT, stream, window.t0_ns, row))
            if beside.valid:
                self._apply(slots.ShadowScored(agree(scored, beside)))
            else:
                self._apply(slots.Fault(self._shadow.last_error or "output that is not finite"))
        return 1

    # Report.

    def report(self) -> SlotState:
        """The slot as the cloud sees it."""
        slot = self.slot
        counts = dict(self._totals)
        if slot.phase is Phase.SHADOW or slot.agreed:
            counts.update(shadow=slot.scored, agreed=slot.agreed)
        if slot.phase is Phase.PROBATION:
            counts.update(probation=slot.scored)
        counts["needed"] = slot.needed
        if self._engine is not None:
            counts["xnnpack"] = int(self._engine.xnnpack)
        if self._feed is not None:
            counts.update(breaks=self._feed.breaks, rows=self._feed.rows_read)
        reason = slot.reason
        if self._feed is not None and self._feed.unfit:
            reason = self._feed.unfit
        return SlotState(
            slot=self.name,
            state=slot.phase.value,
            active=slot.active,
            candidate=slot.candidate,
            previous=slot.previous,
            reason=reason,
            counts=counts,
            latency_us=self._engine.latency_us() if self._engine is not None else {},
            document_version=self.document_version,
        )
