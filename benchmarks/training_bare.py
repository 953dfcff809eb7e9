"""The yardstick of `benchmarks/training.py`: fit and convert, and nothing around it."""

from __future__ import annotations

import json
import sys

import numpy as np

from fieldloop_contract.manifest import Channel
from fieldloop_models.conversion import convert, representative_windows
from fieldloop_models.recipe import Examples, load_recipe
from fieldloop_scoring.normalisation import normalise


def main() -> None:
    path, settings = sys.argv[1:3]
    recipe = load_recipe("activity_cnn", json.loads(settings))
    with np.load(path, allow_pickle=False) as file:
        samples, names = file["samples"], file["labels"]
        rate_hz, recordings = float(file["rate_hz"]), file["recordings"]
    labels = sorted(set(names.tolist()))
    held = np.isin(recordings, [r for r in set(recordings.tolist()) if r.endswith("-0")])
    examples = Examples(
        samples=samples[~held],
        labels=np.array([labels.index(n) for n in names[~held]], np.int64),
        recordings=np.unique(recordings[~held], return_inverse=True)[1].astype(np.int64),
        validation=np.zeros(int((~held).sum()), np.bool_),
    )
    channels = [Channel(name=n, unit="g") for n in ("ax", "ay", "az")]
    trained = recipe.train(
        examples, channels=channels, labels=labels, rate_hz=rate_hz, normalise=normalise, seed=0,
        report=lambda _: None,
    )  # fmt: skip
    normalised = normalise(examples.samples, trained.normalisation)
    model = convert(trained, representative_windows(normalised, 0), [c.name for c in channels])
    print(len(model))


if __name__ == "__main__":
    main()
