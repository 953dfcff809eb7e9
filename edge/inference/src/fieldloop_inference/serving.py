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
from typing import Any, Final

from fieldloop_buffer import Entry, Kind
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
from fieldloop_inference.candidate import GONE, Candidate
from fieldloop_inference.engine import Engine, row_head
from fieldloop_inference.feed import Feed, streams_of
from fieldloop_inference.fitness import unfit
from fieldloop_inference.monitor import Monitor, Notes
from fieldloop_inference.persist import dump_position, dump_slot, load_position, load_slot
from fieldloop_inference.reporting import slot_state
from fieldloop_inference.sampling import Sampling
from fieldloop_inference.slots import Phase, Slot
from fieldloop_inference.tools import Tools
from fieldloop_inference.watch import Watch
from fieldloop_runtime.journal import Throttle
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Position, Window

REFETCH_S: Final = 60.0
EVENTS_PER_STEP_MAX: Final = 20


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
        self._spare: Engine | None = None
        self._candidate = Candidate(tools)
        self._keys: dict[str, str] = {}
        self._feed: Feed | None = None
        self._waiting: deque[Window] = deque()
        self._heads = ("", "")
        self._watch = Watch(1.0)
        self._last_window: Window | None = None
        self._position: Position | None = None
        self._dirty = False
        self._refetch_s = 0.0
        self._noise = Throttle(60)
        self._monitor = Monitor(name, fleet=tools.fleet, device=tools.device)
        self._sampling = Sampling(name, tools, tools.samples)
        self._totals = {"windows": 0, "errors": 0, "samples": 0}

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
            monitor = log.state(self._key("monitor"))
            if monitor:
                self._monitor.load(monitor)
            self._monitor.commissioning.load(
                log.state(self._key("calibration")) or "",
                lambda why: self._tools.journal.error(
                    "calibration.lost", slot=self.name, error=why
                ),
            )
            self._monitor.load_drift(log.state(self._key("drift")) or "")
        except (MalformedMessage, ValueError) as error:
            self._tools.journal.error("slot.state_lost", slot=self.name, error=str(error))
            self.slot = Slot()
        self._apply(slots.Restarted(rebooted=self._rebooted()))
        self._show_alarm(self._tools.log.durable_seq)

    def _rebooted(self) -> bool:
        """Whether the machine has begun anew since this slot was last taken up."""
        log = self._tools.log
        before, now = log.state(self._key("boot")), log.boot
        if before != now:
            log.set_state(self._key("boot"), now)
        return before is not None and before != now

    def stop(self) -> None:
        """End cleanly: the candidate is not to blame for this end of the process."""
        self._candidate.stop()
        self._apply(slots.Stopped())
        self.stage(force=True)

    def _key(self, what: str) -> str:
        return self._keys.get(what) or self._keys.setdefault(what, f"{what}:{self.name}")

    # From outside.

    def order(self, order: SlotOrder, recalled: list[str], version: int) -> None:
        """A signed order for this slot."""
        self.document_version = version
        if order.streams != self._streams:
            self._streams = dict(order.streams)
            self._tools.log.set_state(self._key("streams"), json.dumps(self._streams))
            if self._engine is not None and self._engine.ref == order.model:
                self._set_feed(self._engine.manifest)
                self._monitor.serve(self._engine.manifest, order.model, self._stream())
        self._monitor.take_record(order.calibration, order.calibration_stale or "")
        self._apply(slots.Order(order.model, tuple(order.lift), tuple(recalled)))

    def fetched(self, ref: ModelRef) -> None:
        """A bundle is complete on disk."""
        if self.slot.phase is Phase.FETCHING:
            self._apply(slots.Fetched(ref))

    def refused(self, ref: ModelRef, reason: str) -> None:
        """A bundle cannot be had as it was ordered; one that is only delayed is not refused."""
        self._apply(slots.FetchRefused(ref, reason))

    def poll(self, now_s: float) -> None:
        """Look after the trial and the download."""
        if self._candidate.trial is not None:
            ended = self._candidate.poll(now_s, self.slot.candidate, self._engine)
            if ended is not None:
                self._apply(ended)
        elif self.slot.phase is Phase.FETCHING and now_s >= self._refetch_s:
            if self._refetch_s and self.slot.candidate is not None:
                self._tools.source.fetch(self.slot.candidate)
            self._refetch_s = now_s + REFETCH_S

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
            begun = (self.slot.starts, self.slot.reboots) != (before.starts, before.reboots)
            if self.slot.phase is not before.phase or begun:
                self._refetch_s = 0.0
                self._commit()
            for effect in effects:
                followed = self._do(effect)
                if followed is not None:
                    queue.append(followed)
            if self.slot.phase is Phase.TRIAL and self._candidate.trial is None:
                followed = self._candidate.begin_trial(self.slot.candidate)
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
            self._candidate.cancel()
        elif isinstance(effect, slots.Try):
            reason = self._unfit(effect.ref)
            return slots.Unfit(reason) if reason else slots.TrialBegun()
        elif isinstance(effect, slots.Shadow):
            try:
                self._begin_shadow(self._load(effect.ref))
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
            raise Isolate(GONE, code="bundle.absent")
        tools = self._tools
        return Engine(
            bundle,
            runtime=tools.runtime,
            threads=tools.threads,
            delegate=tools.delegate,
            load=tools.load,
        )

    def _serve(self, ref: ModelRef | None) -> slots.Event | None:
        """Make `ref` the model of the next window. What was loaded already is not loaded again."""
        shadow = self._candidate.shadow
        beside = shadow.engine if shadow is not None else None
        loaded = [self._engine, beside, self._spare]
        left = self._engine
        self._monitor.commissioning.kept = self.slot.digests()
        if ref is None:
            self._engine = self._candidate.shadow = None
            self._monitor.serve(None, None, self._stream())
            return None
        engine = next((e for e in loaded if e is not None and e.ref == ref), None)
        if engine is None:
            try:
                engine = self._load(ref)
            except Isolate as error:
                self._engine = None
                return slots.Unloadable(str(error))
        if engine is beside:
            self._candidate.shadow = None
        elif engine is self._spare:
            engine.runner.reset()  # what it remembers is from before the last swap
        self._engine = engine
        self._spare = left if self.slot.phase is Phase.PROBATION else None
        self._watch = Watch(engine.manifest.limits.latency_ms_max)
        self._last_window = None
        self._set_feed(engine.manifest)
        self._monitor.serve(engine.manifest, ref, self._stream())
        return None

    def _begin_shadow(self, engine: Engine) -> None:
        known = self._monitor.commissioning
        base = known.record
        own = base is not None and known.known(engine.ref, base.stream)
        self._candidate.begin_shadow(engine, self._streams, base, own)

    def _derive(self) -> None:
        """Go on with the candidate's calibration; its record is stored before it may serve."""
        shadow = self._candidate.shadow
        done = shadow.derive() if shadow is not None else None
        if done is None:
            return
        ref = self.slot.candidate
        data: dict[str, Any] = {"stream": self._stream(), "slot": self.name}
        if ref is not None:
            data["model"] = ref.model_dump(include={"name", "version", "digest"})
        if done.record is None:
            data["reason"] = done.reason
            self._tools.emit("calibration.not-derived", self._stream(), data)
            self._tools.journal.info("calibration.not-derived", slot=self.name, reason=done.reason)
            return
        self._monitor.commissioning.kept = self.slot.digests()
        self._monitor.commissioning.adopt(done.record)
        self.stage()
        data |= {"t_ns": done.record.t1_ns, "digest": done.record.digest()}
        data["record"] = json.loads(done.record.encode())
        self._tools.emit("calibration.made", self._stream(), data)
        self._tools.journal.info("calibration.made", slot=self.name)

    def _set_feed(self, manifest: Manifest) -> None:
        """Windows for this model, going on where the next window begins."""
        inputs, feed, tools = manifest.inputs, self._feed, self._tools
        if feed is not None and feed.serves(inputs, self._streams):
            return
        if feed is not None and feed.streams == streams_of(inputs, self._streams):
            self._feed = feed.refit(inputs, self._streams, self.position())
        else:
            self._feed = Feed(
                tools.reader,
                inputs,
                self._streams,
                policy=tools.backlog,
                skip_rows_max=tools.skip_rows_max,
                position=self.position() if feed is None else None,
            )
        self._waiting.clear()
        stream = self._feed.stream
        self._heads = (
            row_head(stream, self.name, "active"),
            row_head(stream, self.name, "shadow"),
        )

    def _unfit(self, ref: ModelRef) -> str:
        """Why this candidate cannot run on this device's streams, or ""."""
        bundle = self._tools.source.bundle(ref)
        if bundle is None:
            return GONE
        return unfit(bundle.manifest, self._tools.reader, self._streams)

    def _report_event(self, report: slots.Report) -> None:
        data: dict[str, Any] = {"slot": self.name, "phase": self.slot.phase.value}
        if report.ref is not None:
            data["model"] = report.ref.model_dump(include={"name", "version", "digest"})
        if report.reason:
            data["reason"] = report.reason
        data |= self._candidate.told(report.type)
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

    def stage(self, *, force: bool = False) -> None:
        """Put position and state beside the results that the next commit stores."""
        log = self._tools.log
        position = self.position()
        if position is not None and position != self._position:
            self._position = position
            log.set_state(self._key("position"), dump_position(position))
        if self._dirty:
            self._dirty = False
            log.set_state(self._key("slot"), dump_slot(self.slot))
        if self._monitor.changed:
            log.set_state(self._key("monitor"), self._monitor.dump())
        if self._monitor.commissioning.changed:
            log.set_state(self._key("calibration"), self._monitor.commissioning.dump())
        counts = self._monitor.take_drift(force=force)
        if counts is not None:
            log.set_state(self._key("drift"), counts)

    def score(self, until_s: float) -> int:
        """Score what waits, until a moment of the monotonic clock. Returns the windows scored."""
        done = 0
        try:
            self._derive()
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
        self._tell(
            self._tools.log.durable_seq
        )  # what a change of model brought, or an earlier life
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
        window, engine, monitor = self._waiting[0], self._engine, self._monitor
        assert engine is not None
        notes = monitor.look(window)
        if monitor.skips(notes):
            self._waiting.popleft()
            monitor.count(notes)
            self.stage()
            return 1
        scored, latency_us = engine.score(window)
        if self.slot.phase is Phase.PROBATION:
            fault = self._fault(engine, window, scored, latency_us, notes)
            if fault:
                # The window stays in the queue: the previous model scores it, in the next turn.
                self._totals["errors"] += 1
                self._apply(slots.Fault(fault))
                return 0
        notes = monitor.judge(window, scored, notes)
        payload = engine.row(window, scored, latency_us, self._heads[0], notes)
        seq = self._tools.log.append(Entry(Kind.RESULT, self._stream(), window.t0_ns, payload))
        self._waiting.popleft()
        monitor.count(notes)
        self._totals["windows"] += 1
        self._totals["errors"] += not scored.valid
        self.stage()  # before the next append, which may have to commit
        if self._tools.outlet is not None:
            self._tools.outlet.result(self.name, seq, payload)
        self._tell(seq)
        self._totals["samples"] += self._sampling.offer(
            window,
            scored,
            notes,
            drifting=monitor.drifting,
            raised=monitor.alarm and monitor.since_ns == window.t0_ns,
            ref=engine.ref,
            streams=self._feed.streams if self._feed is not None else (),
        )
        self._gather_evidence(window, scored, notes)
        return 1

    def _fault(
        self, engine: Engine, window: Window, scored: Scored, latency_us: float, notes: Notes
    ) -> str:
        """What is wrong with a model on probation after this window, or ""."""
        last, self._last_window = self._last_window, window
        # An idle machine gives the same window and the same output for hours.
        changed = notes.counts and (last is None or not last.same_samples(window))
        fault = engine.last_error if not scored.valid else ""
        return fault or self._watch.judge(scored, latency_us, changed=changed)

    def _gather_evidence(self, window: Window, scored: Scored, notes: Notes) -> None:
        """Count a window for the model on probation or in the shadow; idle ones count for none."""
        if not notes.counts:
            return
        if self.slot.phase is Phase.PROBATION:
            self._apply(slots.ServedWell())
        elif self.slot.phase is Phase.SHADOW:
            self._score_beside(window, scored, notes)

    def _score_beside(self, window: Window, scored: Scored, notes: Notes) -> None:
        said, shadow = self._candidate.score(window), self._candidate.shadow
        if said is None or shadow is None:
            return
        beside, beside_us = said
        own = Notes(running=notes.running, regime=notes.regime)
        row = shadow.engine.row(window, beside, beside_us, self._heads[1], own)
        self._tools.log.append(Entry(Kind.RESULT, self._stream(), window.t0_ns, row))
        self._apply(self._candidate.compare(scored, beside))

    def _tell(self, seq: int) -> None:
        """Write the monitor's events, which are due after row `seq`."""
        if not self._monitor.waits:
            return
        for type_ in self._monitor.tell(self._tools.emit):
            self._tools.journal.info(type_, slot=self.name, stream=self._stream())
        self.stage()
        self._show_alarm(seq)

    def _show_alarm(self, seq: int) -> None:
        monitor = self._monitor
        if self._tools.outlet is not None and (monitor.alarms or monitor.since_ns):
            self._tools.outlet.alarm(
                self.name, seq, alarm=monitor.alarm, stream=monitor.stream, t_ns=monitor.since_ns
            )

    # Report.

    @property
    def deriving(self) -> bool:
        """Whether a candidate is at work on its calibration, for which no new window is needed."""
        shadow = self._candidate.shadow
        return shadow is not None and shadow.deriving is not None

    def report(self) -> SlotState:
        """The slot as the cloud sees it."""
        engine, feed = self._engine, self._feed
        counts, latency_us = dict(self._totals), {}
        if engine is not None:
            counts["xnnpack"] = int(engine.xnnpack)
            latency_us = engine.latency_us()
        if feed is not None:
            counts.update(breaks=feed.breaks, rows=feed.rows_read)
        if self._candidate.shadow is not None:
            counts.update(self._candidate.shadow.figures())
        return slot_state(
            self.name,
            self.slot,
            self._monitor,
            counts,
            latency_us,
            unfit=feed.unfit if feed is not None else "",
            document_version=self.document_version,
        )
