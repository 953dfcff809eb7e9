"""An anomaly slot learns its machine: COMMISSIONING, CALIBRATED, STALE. Owner thread only.

While it commissions, the scores of running windows are gathered, and stored with each result, so
that a record is made of exactly the rows it names. A record belongs to a model's digest and a
stream: records of the last models are kept, so that a rollback restores model and record together.
A record never changes. It is STALE while drift is confirmed; it still judges. A stream that is
another one is another machine, and is commissioned. A candidate's record may come from the rows of
the active model's one (`deriving`). Of the records kept, those of models that the slot still has
are never dropped for newer ones.

A record that a person armed comes with a signed order and takes the place of the device's own.
Where the manifest leaves arming to a person, no other record has a threshold, but those that were
derived from an ordered one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.manifest import CalibrationRule
from fieldloop_contract.messages import ModelRef, from_object
from fieldloop_scoring.calibrating import fit
from fieldloop_scoring.windows import Window

RECORDS_MAX: Final = 4


class Commissioning:
    """The records of one slot, and the scores on the way to the next.

    Args:
        identity: fleet, device and slot.

    Attributes:
        digest: of the record in force, or None.
        kept: digests of the models that the slot has.
    """

    def __init__(self, identity: dict[str, str]) -> None:
        self.changed = False
        self.digest: str | None = None
        self.kept: set[str] = set()
        self._identity = identity
        self._records: list[Calibration] = []
        self._rule: CalibrationRule | None = None
        self._model: ModelRef | None = None
        self._stream = ""
        self._record: Calibration | None = None
        self._scores: list[float] = []
        self._begun: dict[str, Any] = {}
        self._of = ""
        self._trusted: list[str] = []
        self._stale = ""

    @property
    def wanted(self) -> bool:
        """Whether the model that serves is calibrated at all."""
        return self._rule is not None

    @property
    def record(self) -> Calibration | None:
        """The record in force."""
        return self._record

    def known(self, ref: ModelRef, stream: str) -> bool:
        """Whether there is a record for a model."""
        return any(_key(r) == f"{ref.digest}/{stream}" for r in self._records)

    def _trust(self, record: Calibration) -> None:
        digest = record.digest()
        self._trusted = [*[d for d in self._trusted if d != digest], digest][-2 * RECORDS_MAX :]

    def adopt(self, record: Calibration) -> None:
        """Take a record that was made for a model which may serve later."""
        if record.derived_from in self._trusted:
            self._trust(record)
        records = [*self._records, record]
        while len(records) > RECORDS_MAX:
            spare = next((r for r in records[:-1] if r.model.digest not in self.kept), records[0])
            records.remove(spare)
        self._records = records
        self.changed = True

    @property
    def threshold(self) -> float | None:
        """Of the record; None while there is none, or while nobody armed it."""
        return None if self._record is None or not self.armed else self._record.threshold

    @property
    def armed(self) -> bool:
        """Whether the record in force may raise alarms."""
        record, rule = self._record, self._rule
        if record is None or rule is None:
            return False
        return rule.arm == "device" or record.digest() in self._trusted

    def ordered(self, record: Calibration, stale: str) -> str:
        """Take what an order says of this machine's calibration; the fault in it, or "".

        A fault leaves everything as it was: the record is of another machine, or beyond the bounds
        of the model that serves.
        """
        own = {name: getattr(record, name) for name in self._identity}
        if own != self._identity:
            return f"the record is of {own['fleet']}/{own['device']}, slot {own['slot']}"
        rule, key = self._rule, _key(record)
        if (
            rule is not None
            and record.model == self._model
            and not rule.threshold_min <= record.threshold <= rule.threshold_max
        ):
            return (
                f"its threshold {record.threshold:g} is outside the model's bounds "
                f"{rule.threshold_min:g} to {rule.threshold_max:g}"
            )
        if record.digest() in self._trusted and stale == self._stale:
            return ""
        self._records = [r for r in self._records if _key(r) != key]
        self._trust(record)
        self._stale = stale
        self.adopt(record)
        self.serve(rule, self._model, self._stream)
        return ""

    def state(self, *, drifting: bool) -> str:
        """COMMISSIONING with its progress, CALIBRATED or STALE."""
        if self._record is not None and not self.armed:
            return "COMMISSIONING: a record is made, and waits for a person to arm one"
        if self._record is not None and self._stale and self._record.digest() in self._trusted:
            return f"STALE: {self._stale}"
        if self._record is not None:
            return "STALE" if drifting else "CALIBRATED"
        needed = self._rule.windows if self._rule is not None else 0
        return f"COMMISSIONING: {len(self._scores)} of {needed} running windows"

    def serve(self, rule: CalibrationRule | None, ref: ModelRef | None, stream: str) -> None:
        """Another model or stream from the next window on."""
        self._rule, self._model, self._stream = rule, ref, stream
        wanted = "" if rule is None or ref is None else f"{ref.digest}/{stream}"
        self._record = next((r for r in self._records if _key(r) == wanted), None)
        self.digest = None if self._record is None else self._record.digest()
        if wanted != self._of:
            self._of, self._scores, self._begun = wanted, [], {}
            self.changed = True

    def push(self, window: Window, score: float) -> Calibration | None:
        """Take the score of a running, valid window; the record that it completes.

        The record judges from the next window on.
        """
        rule, model = self._rule, self._model
        if rule is None or model is None or self._record is not None:
            return None
        if not self._begun:
            self._begun = {
                "epoch": window.epoch,
                "seq_first": window.seq_first,
                "t0_ns": window.t0_ns,
            }
        self._scores.append(score)
        self.changed = True
        if len(self._scores) < rule.windows:
            return None
        identity = {**self._identity, **self._begun, "stream": self._stream}
        record = _record(identity, model, window, self._scores, rule)
        self._record, self.digest = record, record.digest()
        self.adopt(record)
        self._scores, self._begun = [], {}
        return record

    def dump(self) -> str:
        """As text."""
        self.changed = False
        document = {
            "records": [json.loads(r.encode()) for r in self._records],
            "of": self._of,
            "scores": self._scores,
            "begun": self._begun,
            "trusted": self._trusted,
            "stale": self._stale,
        }
        return json.dumps(document, separators=(",", ":"))

    def load(self, text: str, refuse: Callable[[str], None]) -> None:
        """Undo `dump`, before a model serves; what is damaged is commissioned again.

        Args:
            refuse: is told why.
        """
        if not text:
            return
        try:
            document = json.loads(text)
            records = [from_object(Calibration, r) for r in document["records"]]
            scores = [float(s) for s in document["scores"]]
            of, begun = str(document["of"]), dict(document["begun"])
            trusted = [str(digest) for digest in document.get("trusted", [])]
            stale = str(document.get("stale", ""))
        except (ValueError, KeyError, TypeError, MalformedMessage) as error:
            refuse(str(error))
            return
        self._records, self._scores, self._of, self._begun = records, scores, of, begun
        self._trusted, self._stale = trusted, stale


def make_record(
    like: Calibration,
    model: ModelRef,
    first: Window,
    last: Window,
    scores: Sequence[float],
    rule: CalibrationRule,
    *,
    derived_from: str,
) -> Calibration:
    """A record of another model for the machine that a record is of."""
    identity = {name: getattr(like, name) for name in ("fleet", "device", "slot", "stream")}
    begun = {"epoch": first.epoch, "seq_first": first.seq_first, "t0_ns": first.t0_ns}
    more = {"machine": like.machine, "derived_from": derived_from}
    return _record({**identity, **begun, **more}, model, last, scores, rule)


def _record(
    identity: dict[str, Any],
    model: ModelRef,
    last: Window,
    scores: Sequence[float],
    rule: CalibrationRule,
) -> Calibration:
    fitted = fit(scores, rule)
    return Calibration(
        **identity,
        model=model,
        epoch_last=last.epoch,
        seq_last=last.seq_last,
        t1_ns=last.t1_ns,
        windows=len(scores),
        centre=fitted.centre,
        scale=fitted.scale,
        threshold=fitted.threshold,
        scores=fitted.scores,
    )


def _key(record: Calibration) -> str:
    return f"{record.model.digest}/{record.stream}"
