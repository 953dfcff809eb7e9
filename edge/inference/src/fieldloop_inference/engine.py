"""A loaded model in one slot: scores windows, measures itself, writes result rows.

The row's constant part is encoded once, since JSON and pydantic would otherwise cost more than a
small model; a test holds the rows equal to `fieldloop_contract.messages.Result`. Owner thread only.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np

from fieldloop_contract.errors import Isolate
from fieldloop_contract.manifest import MODEL_FILE, Manifest
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.monitor import Notes
from fieldloop_scoring.runners import Runner, open_runner
from fieldloop_scoring.scorer import Scored, Scorer
from fieldloop_scoring.windows import Window
from fieldloop_update import Bundle

LATENCIES_KEPT: Final = 512
NOTHING_NOTED: Final = Notes()
_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode


def load_runner(bundle: Bundle, *, threads: int, runtime: str, delegate: str) -> Runner:
    """The bundle's model in a TFLite runtime.

    Raises:
        Isolate: the bundle is damaged, or its model does not load.
    """
    return open_runner(bundle.read(MODEL_FILE), threads=threads, runtime=runtime, delegate=delegate)


class Engine:
    """One model, loaded.

    Args:
        load: makes the runner of a bundle; `load_runner` by default.

    Attributes:
        windows: windows scored.
        errors: windows on which the runtime failed or the output was not finite.
        xnnpack: whether XNNPACK took part of the graph, as the runtime itself says.

    Raises:
        Isolate: the bundle is damaged, or its model does not load.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        runtime: str,
        threads: int,
        delegate: str = "",
        load: Callable[..., Runner] | None = None,
    ) -> None:
        self.ref: ModelRef = bundle.ref
        self.manifest: Manifest = bundle.manifest
        self.runner: Runner = (load or load_runner)(
            bundle, threads=threads, runtime=runtime, delegate=delegate
        )
        self._scorer = Scorer(bundle.manifest, self.runner)
        self.windows = 0
        self.errors = 0
        self.last_error = ""
        self.xnnpack = "xnnpack" in self.runner.delegates
        self._latencies_us: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._words: dict[str, str] = {}
        self._model = _dumps(bundle.ref.model_dump(include={"name", "version", "digest"}))
        self._warm_up()

    def _warm_up(self) -> None:
        """The first run allocates; the first window shall not pay for it."""
        shapes = [(i.window_samples, len(i.channels)) for i in self.manifest.inputs]
        self._scorer.raw(*[np.zeros(shape, np.float32) for shape in shapes])
        self.runner.reset()

    def restart(self) -> None:
        """Forget what was scored: variables of a stateful model, and all counts."""
        self.runner.reset()
        self.windows = self.errors = 0
        self._latencies_us.clear()

    def score(self, window: Window) -> tuple[Scored, float]:
        """Score one window; a failing model gives an invalid result, never an exception.

        Returns:
            What it says, and the microseconds it took.
        """
        begun = time.perf_counter_ns()
        try:
            if window.begins:
                self.runner.reset()
            scored = self._scorer.score(*window.arrays)
        except Isolate as error:
            scored = Scored(self.manifest.task, valid=False)
            self.last_error = str(error)
        latency_us = (time.perf_counter_ns() - begun) / 1000
        self.windows += 1
        self.errors += not scored.valid
        self._latencies_us.append(latency_us)
        return scored, latency_us

    def latency_us(self) -> dict[str, float]:
        """p50 and p99 of the last windows, in microseconds."""
        if not self._latencies_us:
            return {}
        p50, p99 = np.percentile(list(self._latencies_us), [50, 99])
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}

    def row(
        self,
        window: Window,
        scored: Scored,
        latency_us: float,
        head: str,
        notes: Notes = NOTHING_NOTED,
    ) -> bytes:
        """A result row as compact JSON, without seq.

        Args:
            head: the row's beginning, of `row_head`.
            notes: what the slot adds; without an alarm of its own the row has the crossing.
        """
        parts = [
            head,
            f'"t0_ns":{window.t0_ns},"t1_ns":{window.t1_ns},"epoch":"{window.epoch}",'
            f'"seq_first":{window.seq_first},"seq_last":{window.seq_last},"model":',
            self._model,
            f',"task":"{scored.task}"',
        ]
        if scored.label is not None:
            parts.append(',"label":' + self._word(scored.label))
        if scored.probabilities is not None:
            parts.append(',"probabilities":' + self._numbers(scored.probabilities))
        if scored.score is not None:
            parts.append(f',"score":{scored.score!r}')
        alarm = scored.alarm if notes.alarm is None else notes.alarm
        if alarm is not None:
            parts.append(',"alarm":true' if alarm else ',"alarm":false')
        if scored.values is not None:
            parts.append(',"values":' + self._numbers(scored.values))
        if notes.running is not None:
            parts.append(',"running":true' if notes.running else ',"running":false')
        if notes.regime is not None:
            parts.append(',"regime":' + _dumps(notes.regime))
        if notes.calibration is not None:
            parts.append(f',"calibration":"{notes.calibration}"')
        valid = "true" if scored.valid else "false"
        parts.append(f',"latency_us":{latency_us:.1f},"valid":{valid}}}')
        return "".join(parts).encode()

    def _word(self, word: str) -> str:
        """A label or name as JSON; there are few, and each comes many times."""
        found = self._words.get(word)
        if found is None:
            found = self._words[word] = _dumps(word)
        return found

    def _numbers(self, numbers: dict[str, float]) -> str:
        """Finite numbers by name as JSON, as `json` writes them, at a third of its time."""
        return "{" + ",".join([f"{self._word(k)}:{v!r}" for k, v in numbers.items()]) + "}"


def row_head(stream: str, slot: str, role: str) -> str:
    """The beginning of a result row; ids need no escaping."""
    return f'{{"stream":"{stream}","slot":"{slot}","role":"{role}",'
