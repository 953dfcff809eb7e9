"""What follows from a slot's windows: running or idle, alarm, drift. Owner thread only.

Owns the state that outlives a window. It is stored as text beside the window's result, in the same
transaction; events that are due are part of it until they are in the log, so that a kill loses
none. A model that takes over finds the alarm as it stands: its own good windows clear it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from fieldloop_contract.calibration import parse_calibration
from fieldloop_contract.errors import MalformedMessage, RejectedInput
from fieldloop_contract.manifest import AlarmRule, Manifest
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.commissioning import Commissioning
from fieldloop_inference.drifting import Drifting
from fieldloop_scoring import alarms
from fieldloop_scoring.alarms import Alarm
from fieldloop_scoring.regimes import Regimes
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Window

UNSAID_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Notes:
    """What a result row says beside the model's own words.

    Attributes:
        alarm: the slot's alarm after the window; None where there is none to have.
        running: None where the model does not tell running from idle.
        regime: of a running window.
        calibration: digest of the record that was in force.
    """

    alarm: bool | None = None
    running: bool | None = None
    regime: str | None = None
    calibration: str | None = None

    @property
    def counts(self) -> bool:
        """Whether the window is evidence for anything."""
        return self.running is not False


class Monitor:
    """The monitor of one slot.

    Attributes:
        running: windows of running machines that the present model has seen.
        idle: windows of idle ones.
        commissioning: what the slot learns of its machine.
    """

    def __init__(self, slot: str, *, fleet: str, device: str) -> None:
        self.commissioning = Commissioning({"fleet": fleet, "device": device, "slot": slot})
        self.running = 0
        self.idle = 0
        self._slot = slot
        self._alarm = Alarm()
        self._since_ns = 0
        self._runs = False
        self._regimes: Regimes | None = None
        self._threshold: float | None = None
        self._rule = AlarmRule()
        self._model: ModelRef | None = None
        self._stream = ""
        self._drift: Drifting | None = None
        self._drift_text = ""
        self._unsaid: list[tuple[str, dict[str, Any]]] = []
        self.changed = False

    @property
    def alarm(self) -> bool:
        """Whether the slot's alarm stands."""
        return self._alarm.raised

    @property
    def since_ns(self) -> int:
        """Time of the window that raised or cleared the alarm; 0 where none did."""
        return self._since_ns

    @property
    def alarms(self) -> bool:
        """Whether the model that serves can raise an alarm."""
        return self._threshold is not None

    @property
    def stream(self) -> str:
        """The stream that is watched."""
        return self._stream

    @property
    def tells(self) -> bool:
        """Whether the model tells running from idle."""
        return self._regimes is not None

    @property
    def drifting(self) -> bool:
        """Whether drift is confirmed for the model that serves."""
        return self._drift is not None and self._drift.drifting

    def serve(self, manifest: Manifest | None, ref: ModelRef | None, stream: str) -> None:
        """Another model serves from the next window on; None: no model."""
        self._regimes = Regimes.of(manifest) if manifest is not None else None
        self._threshold, self._rule = None, AlarmRule()
        self._model, self._stream = ref, stream or self._stream
        self.running = self.idle = 0
        self._watch_drift(manifest)
        if manifest is not None and manifest.task == "anomaly":
            output = manifest.outputs[0]
            self._threshold = output.threshold
            self._rule = output.alarm or self._rule
        rule = manifest.calibration if manifest is not None else None
        self.commissioning.serve(rule, ref, self._stream)
        if rule is not None:
            self._threshold = self.commissioning.threshold
        if self._threshold is None and self._alarm.raised and rule is None:
            reason = "no model serves" if ref is None else "the model that serves has no alarm"
            self._alarm = Alarm()
            self._say("alarm.cleared", {"reason": reason})

    def _watch_drift(self, manifest: Manifest | None) -> None:
        self._drift_text = self.take_drift(force=True) or self._drift_text
        self._drift = None
        if manifest is None:
            return
        try:
            self._drift = Drifting.of(manifest)
        except MalformedMessage as error:
            self._say("drift.unfit", {"reason": str(error)})
        if self._drift is not None:
            self._drift.resume(self._drift_text)

    def take_record(self, text: str | None, stale: str) -> None:
        """What an order says of the calibration; it judges from the next window on."""
        if text is None:
            return
        before = self.commissioning.digest
        try:
            record = parse_calibration(text.encode())
            fault, digest = self.commissioning.ordered(record, stale), record.digest()
        except RejectedInput as error:
            fault, digest = str(error), ""
        if fault:
            self._say("calibration.refused", {"digest": digest, "reason": fault})
        if self.commissioning.wanted:
            self._threshold = self.commissioning.threshold
        if self.commissioning.digest != before:
            self._say("calibration.armed", {"digest": digest})

    def look(self, window: Window) -> Notes:
        """Whether a window is running, before it is scored."""
        if self._regimes is None:
            return Notes()
        level = self._regimes.level(window.arrays[self._regimes.input])
        runs = self._regimes.running(level, was_running=self._runs)
        if runs != self._runs:
            self._runs, self.changed = runs, True
        return Notes(running=runs, regime=self._regimes.regime(level) if runs else None)

    def skips(self, notes: Notes) -> bool:
        """Whether the model is spared this window."""
        return (
            notes.running is False
            and self._regimes is not None
            and self._regimes.rule.idle == "skip"
        )

    def count(self, notes: Notes) -> None:
        """A window is done with."""
        self.running += notes.counts
        self.idle += not notes.counts

    def judge(self, window: Window, scored: Scored, notes: Notes) -> Notes:
        """What a scored window does to drift and to the alarm."""
        if self._drift is not None and notes.counts and scored.valid:
            for type_, data in self._drift.push(window, scored):
                self._say(type_, data)
        if self._threshold is None:
            self._commission(window, scored, notes)
            # A slot that commissions raises no alarm, and leaves one that stands.
            return replace(notes, alarm=self.alarm) if self.commissioning.wanted else notes
        if notes.counts and scored.valid and scored.score is not None:
            before = self._alarm
            self._alarm = alarms.step(before, scored.score, self._threshold, self._rule)
            self.changed = self.changed or self._alarm != before
            if self._alarm.raised != before.raised:
                self._since_ns = window.t0_ns
                figures = {
                    "t_ns": window.t0_ns,
                    "score": scored.score,
                    "threshold": self._threshold,
                }
                self._say("alarm.raised" if self._alarm.raised else "alarm.cleared", figures)
        digest = self.commissioning.digest
        return Notes(self._alarm.raised, notes.running, notes.regime, digest)

    def _commission(self, window: Window, scored: Scored, notes: Notes) -> None:
        if not notes.counts or not scored.valid or scored.score is None:
            return
        record = self.commissioning.push(window, scored.score)
        if record is not None:
            self._threshold = self.commissioning.threshold
            document = {"t_ns": window.t0_ns, "digest": record.digest()}
            self._say("calibration.made", {**document, "record": json.loads(record.encode())})

    def _say(self, type_: str, data: dict[str, Any]) -> None:
        document: dict[str, Any] = {"stream": self._stream, "slot": self._slot, **data}
        if self._model is not None:
            document["model"] = self._model.model_dump(include={"name", "version", "digest"})
        self._unsaid = [*self._unsaid, (type_, document)][-UNSAID_MAX:]
        self.changed = True

    @property
    def waits(self) -> bool:
        """Whether events are due."""
        return bool(self._unsaid)

    def tell(self, emit: Callable[[str, str, dict[str, Any]], None]) -> list[str]:
        """Write the events that are due; their types."""
        due, self._unsaid = self._unsaid, []
        for type_, data in due:
            emit(type_, data["stream"], data)
        self.changed = self.changed or bool(due)
        return [type_ for type_, _ in due]

    # As text.

    def take_drift(self, *, force: bool = False) -> str | None:
        """The counts of drift as text, where they are due to be stored."""
        return None if self._drift is None else self._drift.take_text(force=force)

    def load_drift(self, text: str) -> None:
        """Counts of an earlier life; the model that serves takes them up if they are its own."""
        self._drift_text = text

    def dump(self) -> str:
        """The state as compact JSON."""
        self.changed = False
        document = {
            "alarm": asdict(self._alarm),
            "since_ns": self._since_ns,
            "runs": self._runs,
            "stream": self._stream,
            "unsaid": self._unsaid,
        }
        return json.dumps(document, separators=(",", ":"))

    def load(self, text: str) -> None:
        """Undo `dump`.

        Raises:
            ValueError: not such a text.
        """
        try:
            document = json.loads(text)
            held = document["alarm"]
            self._alarm = Alarm(bool(held["raised"]), str(held["recent"]), int(held["good"]))
            self._since_ns = int(document["since_ns"])
            self._runs = document["runs"] is True
            self._stream = str(document["stream"])
            self._unsaid = [(str(type_), dict(data)) for type_, data in document["unsaid"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a monitor's state: {error!s:.120}") from error
