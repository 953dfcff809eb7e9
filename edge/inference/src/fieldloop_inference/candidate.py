"""The model that may come next: its trial, its shadow run, what both found. Owner thread only.

Whether it may is decided in `slots.step`; `serving.Serving` carries that out, and asks here for
what a candidate needs before it serves. Nothing here touches the model that is active.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.messages import ModelRef
from fieldloop_inference import slots
from fieldloop_inference.budget import CpuBudget
from fieldloop_inference.deriving import Deriving
from fieldloop_inference.engine import Engine
from fieldloop_inference.feed import windowing
from fieldloop_inference.shadowing import Shadowing
from fieldloop_inference.tools import Tools
from fieldloop_inference.trials import Trial
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Window

GONE = "its files are gone"


class Candidate:
    """What one slot's candidate goes through; one at a time.

    Attributes:
        shadow: its shadow run, or None outside of one.
        trial: its trial, or None outside of one.
        figures: what its trial measured.
        beside: how it compared with the active model in the shadow.
    """

    def __init__(self, tools: Tools) -> None:
        self.shadow: Shadowing | None = None
        self.trial: Trial | None = None
        self.figures: dict[str, float] = {}
        self.beside: dict[str, int] = {}
        self._tools = tools

    def stop(self) -> None:
        """End its trial, if it is in one."""
        if self.trial is not None:
            self.trial.stop()
            self.trial = None

    def cancel(self) -> None:
        """End whatever it is in."""
        self.shadow = None
        self.stop()

    def begin_trial(self, ref: ModelRef | None) -> slots.Event | None:
        """Start its trial; what went wrong, where that is known at once."""
        tools = self._tools
        bundle = tools.source.bundle(ref) if ref is not None else None
        if bundle is None:
            return slots.Unfit(GONE)
        self.beside = {}
        try:
            self.trial = tools.begin_trial(
                bundle.manifest,
                str(bundle.dir),
                runtime=tools.runtime,
                threads=tools.threads,
                delegate=tools.delegate,
                now_s=time.monotonic(),
            )
        except OSError as error:
            return slots.Unfit(f"the trial cannot be started: {error}")
        return None

    def poll(self, now_s: float, ref: ModelRef | None, active: Engine | None) -> slots.Event | None:
        """What its trial found, once it has ended.

        Args:
            active: the model that serves now; a candidate with other windows has nothing to be
                compared on, and goes on without a shadow run.
        """
        verdict = self.trial.poll(now_s) if self.trial is not None else None
        if verdict is None:
            return None
        self.trial = None
        self.figures = verdict.figures
        if not verdict.passed:
            return (slots.Fault if verdict.fault else slots.Unfit)(verdict.reason)
        bundle = self._tools.source.bundle(ref) if ref is not None else None
        if bundle is None:
            return slots.Unfit(GONE)
        comparable = active is not None and (
            windowing(active.manifest.inputs) == windowing(bundle.manifest.inputs)
        )
        shadow_windows = self._tools.shadow_windows if comparable else 0
        return slots.TrialPassed(shadow_windows, bundle.manifest.limits.probation_windows)

    def begin_shadow(
        self, engine: Engine, streams: Mapping[str, str], base: Calibration | None, known: bool
    ) -> None:
        """Begin its shadow run; first it derives its calibration, where it has to.

        Args:
            base: the active model's calibration record, from whose rows its own is derived.
            known: whether its own is there already.
        """
        tools, rule, deriving = self._tools, engine.manifest.calibration, None
        if rule is not None and base is not None and not known:
            deriving = Deriving(tools.reader, engine, rule, streams, base)
        budget = CpuBudget(tools.shadow_cpu_percent / 100, time.monotonic())
        self.shadow = Shadowing(engine, budget, tools.threads, deriving)

    def score(self, window: Window) -> tuple[Scored, float] | None:
        """What it says of a window and the microseconds it took; None where it is not asked."""
        return self.shadow.score(window) if self.shadow is not None else None

    def compare(self, active: Scored, own: Scored) -> slots.Event:
        """Hold what it said of a window against what the active model said."""
        shadow = self.shadow
        assert shadow is not None
        if not own.valid:
            return slots.Fault(shadow.engine.last_error or "output that is not finite")
        same = shadow.compare(active, own)
        self.beside = {"scored": shadow.scored, "agreed": shadow.agreed, **shadow.figures()}
        return slots.ShadowScored(same)

    def told(self, type_: str) -> dict[str, Any]:
        """What an event of this type says of it beside its name."""
        data: dict[str, Any] = {}
        if type_ in ("model.probation", "model.rejected", "model.shadow") and self.figures:
            data["figures"] = self.figures
        if type_ in ("model.probation", "model.rejected") and self.beside:
            data["shadow"] = self.beside
        return data
