"""What is stood in for: the model's arithmetic, its trial, and the process of a verification.

The stand-in reads how it shall behave from the model file itself, which travels, is signed, fetched
and checked like any other: `models.py` writes such files. Any other file behaves well.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import MODEL_FILE, Manifest
from fieldloop_inference.trial import Verdict
from fieldloop_scoring.runners import OpCount, TensorInfo
from fieldloop_simulator.signals import STEP
from fieldloop_update import Bundle
from fieldloop_update.mirror import Mirror
from fieldloop_update.verifier import Verdict as TrustVerdict
from fieldloop_update.verifier import Verifier
from fieldloop_update.verify import verify

MARK = b"fieldloop-simulated-model\n"
TRIAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a simulated model behaves.

    Attributes:
        accuracy: share of windows whose state it finds.
        fault: "" for none; `trial`: does not pass its trial; `nan`: its outputs are not finite.
        share: of the devices on which the fault shows.
        latency_ms: what a window takes.
    """

    accuracy: float = 0.95
    fault: str = ""
    share: float = 1.0
    latency_ms: float = 0.0


def behaviour_of(model: bytes) -> Behaviour:
    """What the file says; a file of another kind behaves well."""
    if not model.startswith(MARK):
        return Behaviour()
    line = model[len(MARK) :].split(b"\n", 1)[0]
    return Behaviour(**json.loads(line))


def _hits(device: str, version: int, share: float) -> bool:
    return zlib.crc32(f"{device}/{version}".encode()) / 2**32 < share


class StandInRunner:
    """A `fieldloop_scoring.runners.Runner` without a runtime.

    A classification answers the state whose level channel 0 shows, and is wrong in a share of
    windows; a score is the mean of absolute values; all else is zeros.
    """

    name, version = "simulated", "1"
    delegates: list[str] = []  # noqa: RUF012 - part of the protocol, never changed

    def __init__(self, manifest: Manifest, behaviour: Behaviour, device: str) -> None:
        self._behaviour = behaviour
        self._bad = behaviour.fault == "nan" and _hits(device, manifest.version, behaviour.share)
        self._kinds = [output.kind for output in manifest.outputs]
        self._normalisation = manifest.inputs[0].normalisation
        self.inputs = [
            TensorInfo(i.tensor or i.name, (1, i.window_samples, len(i.channels)), "float32")
            for i in manifest.inputs
        ]
        first = manifest.inputs[0]
        window = (1, first.window_samples, len(first.channels))
        self.outputs = [
            TensorInfo(
                o.tensor or o.name,
                window if o.kind == "reconstruction" else (1, max(1, len(o.labels))),
                "float32",
            )
            for o in manifest.outputs
        ]

    def ops(self) -> list[OpCount]:
        """None."""
        return []

    def reset(self) -> None:
        """It remembers nothing."""

    def run(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Outputs of the shapes that the manifest states."""
        if self._behaviour.latency_ms:
            time.sleep(self._behaviour.latency_ms / 1000)
        window = inputs[0].reshape(-1, self.inputs[0].shape[2])
        level = float(window[:, 0].mean()) * self._normalisation.scale[0]
        level += self._normalisation.centre[0]
        made = [self._output(k, window, level) for k in range(len(self.outputs))]
        return [np.full_like(o, math.nan) for o in made] if self._bad else made

    def _output(self, at: int, window: NDArray[np.float32], level: float) -> NDArray[np.float32]:
        shape = self.outputs[at].shape
        if self._kinds[at] == "reconstruction":
            return window[None]
        made = np.zeros(shape, np.float32)
        if self._kinds[at] == "probabilities":
            count = shape[-1]
            best = min(count - 1, max(0, round(level / STEP)))
            draw = zlib.crc32(window[:, 0].tobytes()) / 2**32
            if draw >= self._behaviour.accuracy:
                best = (best + 1) % count
            confidence = 0.6 + 0.39 * (1 - min(1.0, abs(level / STEP - best)))
            made += (1 - confidence) / max(1, count - 1)
            made[..., best] = confidence if count > 1 else 1.0
        elif self._kinds[at] == "score":
            made += float(np.abs(window).mean())
        return made


class StandInTrial:
    """A trial that takes half a second and no process."""

    def __init__(
        self, manifest: Manifest, folder: str, *, device: str, now_s: float, **_: Any
    ) -> None:
        behaviour = behaviour_of((Path(folder) / MODEL_FILE).read_bytes())
        self._at_s = now_s + TRIAL_S
        hit = behaviour.fault == "trial" and _hits(device, manifest.version, behaviour.share)
        self._verdict = Verdict(not hit, "a simulated fault" if hit else "")

    def poll(self, now_s: float) -> Verdict | None:
        """The verdict, or None while it lasts."""
        return self._verdict if now_s >= self._at_s else None

    def stop(self) -> None:
        """Nothing is left."""


def load_runner(bundle: Bundle, *, device: str, **_: Any) -> StandInRunner:
    """The stand-in for a bundle; its file is read and checked like any other."""
    return StandInRunner(bundle.manifest, behaviour_of(bundle.read(MODEL_FILE)), device)


class InlineVerifier(Verifier):
    """Verifies with the same code in this process: a child for each of a thousand is too much."""

    _answer: dict[str, Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer waits."""
        return self._answer is not None

    def start(self, mirror: Mirror, desired: bytes | None, now_s: float, timeout_s: float) -> None:  # noqa: ARG002
        """Verify what the mirror and `desired` hold now."""
        self._answer = verify(json.loads(self.prepare(mirror, desired).read_bytes()))

    def poll(self, now_s: float) -> TrustVerdict | None:  # noqa: ARG002
        """The verdict, once."""
        answer, self._answer = self._answer, None
        return None if answer is None else self.take_up(json.loads(json.dumps(answer)))
