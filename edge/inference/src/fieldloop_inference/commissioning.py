"""An anomaly slot learns its machine: COMMISSIONING, CALIBRATED, STALE. Owner thread only.

While it commissions, the scores of running windows are gathered, and stored with each result, so
that a record is made of exactly the rows it names. A record belongs to a model's digest and a
stream: records of the last models are kept, so that a rollback restores model and record together.
A record never changes. It is STALE while drift is confirmed; it still judges. A stream that is
another one is another machine, and is commissioned.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
    """

    def __init__(self, identity: dict[str, str]) -> None:
        self.changed = False
        self.digest: str | None = None
        self._identity = identity
        self._records: list[Calibration] = []
        self._rule: CalibrationRule | None = None
        self._model: ModelRef | None = None
        self._stream = ""
        self._record: Calibration | None = None
        self._scores: list[float] = []
        self._begun: dict[str, Any] = {}
        self._of = ""

    @property
    def wanted(self) -> bool:
        """Whether the model that serves is calibrated at all."""
        return self._rule is not None

    @property
    def threshold(self) -> float | None:
        """Of the record; None while there is none."""
        return None if self._record is None else self._record.threshold

    def state(self, *, drifting: bool) -> str:
        """COMMISSIONING with its progress, CALIBRATED or STALE."""
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
        fitted = fit(self._scores, rule)
        record = Calibration(
            fleet=self._identity["fleet"],
            device=self._identity["device"],
            slot=self._identity["slot"],
            **self._begun,
            stream=self._stream,
            model=model,
            epoch_last=window.epoch,
            seq_last=window.seq_last,
            t1_ns=window.t1_ns,
            windows=len(self._scores),
            centre=fitted.centre,
            scale=fitted.scale,
            threshold=fitted.threshold,
            scores=fitted.scores,
        )
        self._record, self.digest = record, record.digest()
        self._records = [*self._records, record][-RECORDS_MAX:]
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
        except (ValueError, KeyError, TypeError, MalformedMessage) as error:
            refuse(str(error))
            return
        self._records, self._scores, self._of, self._begun = records, scores, of, begun


def _key(record: Calibration) -> str:
    return f"{record.model.digest}/{record.stream}"
