"""A candidate's own calibration, from the rows on which the active model was calibrated.

Reads the retained frames of the active model's record again, cuts and scores them with the
candidate, and makes a record of its scores; so that it knows its machine before it may alarm. Rows
that are gone make it commission live, as a first model does. It is as sensitive as the record that
it follows, where that one was armed. The machine counts as idle before the
first window. Owner thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from fieldloop_buffer import Reader
from fieldloop_contract.calibration import Calibration
from fieldloop_contract.manifest import CalibrationRule
from fieldloop_inference.commissioning import make_record
from fieldloop_inference.engine import Engine
from fieldloop_inference.feed import Feed
from fieldloop_scoring.regimes import Regimes
from fieldloop_scoring.windows import Position, Window

ROWS_PER_STEP: Final = 50


class Deriving:
    """One candidate at the rows of one record.

    Args:
        base: the active model's record.

    Attributes:
        record: what came of it; None while it works, or where nothing came of it.
        ended: whether it is done.
        reason: why nothing came of it.
        windows: running windows scored so far.
    """

    def __init__(
        self,
        reader: Reader,
        engine: Engine,
        rule: CalibrationRule,
        streams: Mapping[str, str],
        base: Calibration,
    ) -> None:
        self.record: Calibration | None = None
        self.ended = False
        self.reason = ""
        self.windows = 0
        self.wanted = rule.windows
        self._engine = engine
        self._rule = rule
        self._base = base
        self._regimes = Regimes.of(engine.manifest)
        self._runs = False
        start = Position(base.epoch, base.seq_first, 0)
        self._feed = Feed(reader, engine.manifest.inputs, streams, position=start)
        self._waiting: deque[Window] = deque()
        self._used: list[Window] = []
        self._scores: list[float] = []

    def step(self) -> None:
        """Score one window, after reading some rows at most; may end it."""
        for _ in range(ROWS_PER_STEP):
            if self._waiting:
                break
            windows = self._feed.next()
            if windows is None:
                return self._give_up()
            self._waiting.extend(windows)
        if self._waiting:
            self._take(self._waiting.popleft())
        return None

    def _take(self, window: Window) -> None:
        if self._is_beyond(window):
            self._give_up()
            return
        if not self._running(window):
            return
        scored, _ = self._engine.score(window)
        if not scored.valid or scored.score is None:
            return
        self._scores.append(scored.score)
        self._used = [*self._used[:1], window]
        self.windows += 1
        if self.windows >= self.wanted:
            self._end()

    def _running(self, window: Window) -> bool:
        rules = self._regimes
        if rules is None:
            return True
        level = rules.level(window.arrays[rules.input])
        self._runs = rules.running(level, was_running=self._runs)
        return self._runs

    def _is_beyond(self, window: Window) -> bool:
        base = self._base
        if window.epoch == base.epoch_last:
            return window.seq_last > base.seq_last
        return window.epoch != base.epoch and base.epoch == base.epoch_last

    def _give_up(self) -> None:
        self.reason = (
            f"{self.windows} of {self.wanted} running windows are left of the rows on which "
            f"version {self._base.model.version} was calibrated"
        )
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._waiting.clear()
        if self.windows >= self.wanted:
            rule = as_sensitive(self._base, self._rule)
            self.record = make_record(
                self._base,
                self._engine.ref,
                self._used[0],
                self._used[-1],
                self._scores,
                rule,
                derived_from=self._base.digest(),
            )


def as_sensitive(base: Calibration, rule: CalibrationRule) -> CalibrationRule:
    """The rule by which a record is derived from another one.

    Where a person's word is behind the base, the new threshold lies as many of the machine's own
    deviations above its centre as the base's does: the fleet's factor knows neither the machine nor
    the budget of false alarms that was asked for, and with it a new model would be deafer, or
    louder. The model's bounds hold all the same.
    """
    if (base.method is None and base.derived_from is None) or base.scale <= 0:
        return rule
    factor = (base.threshold - base.centre) / base.scale
    return rule.model_copy(update={"factor": factor}) if factor > 0 else rule
