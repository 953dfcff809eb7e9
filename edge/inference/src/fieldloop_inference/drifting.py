"""Drift of the model that serves: counts running windows, says what is due. Owner thread only.

The watch is `fieldloop_scoring.drift`, against the manifest's reference where that states a policy.
Its counts are stored every `STORE_EVERY` counted windows and at a clean stop: a kill forgets fewer
than that many, and reports say how many windows they hold. Another model begins anew. Channels of
further inputs are named `input.channel`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.manifest import Manifest
from fieldloop_scoring import drift
from fieldloop_scoring.drift import Judged, Watch
from fieldloop_scoring.normalisation import Affine
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.sketch import Reference
from fieldloop_scoring.windows import Window

STORE_EVERY: Final = 16
Said = tuple[str, dict[str, Any]]


class Drifting:
    """Counts for one model, over all its inputs, or the first where the reference has no others.

    Raises:
        MalformedMessage: its reference is damaged, or of other channels.
    """

    def __init__(self, manifest: Manifest, watch: Watch, reference: Reference) -> None:
        inputs = manifest.inputs if reference.further else manifest.inputs[:1]
        widths = [len(spec.channels) for spec in inputs]
        if widths[0] != reference.first or sum(widths) != len(reference.edges):
            raise MalformedMessage("a drift reference of other channels", code="sketch.reference")
        self._digest = manifest.digest()
        self._watch = watch
        self._names = [c.name for c in inputs[0].channels]
        self._names += [f"{spec.name}.{c.name}" for spec in inputs[1:] for c in spec.channels]
        self._affines = [Affine(spec.normalisation) for spec in inputs]
        self._stored = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Drifting | None:
        """Of a model; None where its manifest states no policy of drift."""
        parsed = drift.parse(manifest.drift_reference)
        if parsed is None:
            return None
        reference, policy = parsed
        return cls(manifest, Watch(reference, policy), reference)

    @property
    def drifting(self) -> bool:
        """Whether drift is confirmed."""
        return self._watch.drifting

    def push(self, window: Window, scored: Scored) -> list[Said]:
        """Take a running, valid window; events that are due."""
        if not self._watch.due():
            return []
        arrays = zip(self._affines, window.arrays, strict=False)
        first, *further = (affine(samples) for affine, samples in arrays)
        judged = self._watch.push(
            first,
            window.t0_ns,
            window.t1_ns,
            further=further,
            score=scored.score,
            label=scored.label,
        )
        return [] if judged is None else self._say(judged)

    def _say(self, judged: Judged) -> list[Said]:
        policy = self._watch.policy
        psi = {n: round(float(v), 4) for n, v in zip(self._names, judged.psi, strict=True)}
        figures: dict[str, Any] = {"psi": psi, "t_ns": judged.report.t1_ns}
        if policy.limit is not None:
            figures |= {"limit": policy.limit, "drifting": self._watch.drifting}
        said: list[Said] = [("drift.report", {**figures, **judged.report.to_object()})]
        if judged.changed is not None:
            confirmed = f"{policy.raise_count} of {policy.raise_of} reports"
            type_ = "drift.detected" if judged.changed else "drift.ended"
            said.append((type_, {**figures, "confirmed": confirmed}))
        return said

    def take_text(self, *, force: bool = False) -> str | None:
        """The counts as text where they are due to be stored."""
        counted = self._watch.counted
        if counted == self._stored or (not force and counted - self._stored < STORE_EVERY):
            return None
        self._stored = counted
        document = {"model": self._digest, "watch": self._watch.to_object()}
        return json.dumps(document, separators=(",", ":"))

    def resume(self, text: str) -> None:
        """Go on from `take_text`, where it is of this model; anything else is a new beginning."""
        try:
            document = json.loads(text)
            if document["model"] == self._digest:
                self._watch.resume(document["watch"])
        except (ValueError, KeyError, TypeError, MalformedMessage):
            return
