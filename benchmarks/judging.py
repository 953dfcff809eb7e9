"""The device's scorer of a file that has no bundle yet."""

from __future__ import annotations

from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    FileRef,
    Golden,
    Input,
    Manifest,
)
from fieldloop_models.recipe import Trained
from fieldloop_scoring.runners import open_runner
from fieldloop_scoring.scorer import Scorer


def scorer(spec: Input, trained: Trained, model: bytes) -> Scorer:
    """A scorer of an anomaly model.

    Args:
        spec: the windows it takes; the normalisation is that of the training.
    """
    manifest = Manifest(
        name="benchmark", version=1, task="anomaly",
        files={MODEL_FILE: FileRef.of(model), GOLDEN_FILE: FileRef.of(b"-")},
        inputs=[spec.model_copy(update={"normalisation": trained.normalisation})],
        outputs=list(trained.outputs), golden=Golden(count=1, tolerance=1.0),
    )  # fmt: skip
    return Scorer(manifest, open_runner(model))
