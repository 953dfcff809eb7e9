"""A look at the sealed set: how good is a version on recordings that nothing has ever looked at?

For the day on which somebody has to know, such as before a version goes to all sites. Each look is
counted, and who looked and why is written to the audit before the figure is told, since what was
looked at is a little less sealed: whoever chooses by it has learnt from it. A version is looked at
once, unless a person insists. One thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.manifest import MODEL_FILE, AlarmRule, Manifest
from fieldloop_store import frozensets, registry, runs
from fieldloop_store.engine import Store
from fieldloop_store.trail import note_within
from fieldloop_training import datasets
from fieldloop_training.edge import EdgeScores, score_on_edge
from fieldloop_training.evaluation import raised
from fieldloop_training.splits import Part
from fieldloop_training.statistics import Trials, paired

ACTION = "training.sealed"


@dataclass(frozen=True, slots=True)
class Look:
    """What a look has told.

    Attributes:
        figure: of the version on the sealed recordings, each counting once: `accuracy`, or share
            of healthy windows without an alarm.
        low, high: its 95 % interval, over recordings.
        look: number of this look at the model's sealed set, from 1.
    """

    model: str
    version: int
    dataset: str
    what: str
    figure: float
    low: float
    high: float
    recordings: int
    windows: int
    look: int

    @property
    def words(self) -> str:
        """In one sentence."""
        return (
            f"{self.model} version {self.version}: {self.what} {self.figure:.3f} "
            f"[{self.low:.3f}, {self.high:.3f}] on {self.recordings} sealed recordings "
            f"({self.windows} windows), look {self.look}"
        )

    def to_object(self) -> dict[str, Any]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def look(
    store: Store, fleet: str, model: str, version: int, *, by: str, reason: str, now_ns: int,
    insist: bool = False,
) -> Look:  # fmt: skip
    """Score a version on the sealed recordings of the model's newest dataset, once.

    Raises:
        RejectedInput: no such version, nobody or no reason is named, there is no sealed recording,
            this version was looked at before, or it takes other windows than the dataset has.
        Isolate: the file of the dataset is damaged or missing, or the runtime refuses the model.
        RetryLater: the store is away.
    """
    if not by.strip() or not reason.strip():
        raise RejectedInput("a look needs a name and a reason", code="sealed.reason")
    rows = registry.list_models(store, fleet, name=model)
    mine = next((row for row in rows if row.version == version), None)
    if mine is None:
        raise RejectedInput(f"no version {version} of {model}", code="registry.unknown")
    token = f"v{version}"
    looks = frozensets.sealed_looks(store, fleet, model)
    if token in looks and not insist:
        raise RejectedInput(
            f"{model} version {version} was looked at already", code="sealed.looked",
            hint="the audit has who and why; --again looks once more, and counts",
        )  # fmt: skip
    dataset, digest, keys = _sealed(store, fleet, model)
    manifest, files = registry.load_bundle(store, mine.digest)
    spec, given = dataset.spec, manifest.inputs[0]
    if (given.window_samples, len(given.channels)) != (spec.window_samples, len(spec.channels)):
        raise RejectedInput("the version takes other windows than the dataset has",
                            code="sealed.unlike")  # fmt: skip
    of = np.array([place.recording for place in dataset.places], np.int64)
    sealed = np.array([r.key in keys for r in dataset.recordings], np.bool_)[of]
    scored = score_on_edge(manifest, files[MODEL_FILE], dataset.samples[sealed])
    labels = [dataset.recordings[i].label for i in of[sealed]]
    what, right = _right(manifest, scored, of[sealed], labels)
    share = paired(Trials(of[sealed], {"it": right, "nothing": 0 * right}), "it", "nothing")
    told = Look(
        model, version, digest, what, share.difference, share.low, share.high, share.units,
        share.trials, len(looks) + 1,
    )  # fmt: skip
    once_more = f"{token} {os.urandom(4).hex()}" if token in looks else token
    with store.begin() as connection:
        frozensets.count_sealed_look(connection, fleet, model, once_more, now_ns)
        note_within(
            connection, at_ns=now_ns, actor=by, via="command", address="", fleet=fleet,
            action=ACTION, target=f"{model}/{version}",
            detail={"reason": reason, **told.to_object()},
        )  # fmt: skip
    return told


def _sealed(store: Store, fleet: str, model: str) -> tuple[datasets.Dataset, str, frozenset[str]]:
    """The newest dataset of the model that stands, and what of it is sealed still."""
    used = frozensets.current_set(store, fleet, model)
    opened = used.recordings if used else frozenset()
    for run in runs.list_runs(store, fleet, model=model):
        row = registry.find_dataset(store, run.dataset) if run.dataset else None
        if row is None or row.recalled_ns is not None:
            continue
        parts = row.summary.get("parts") or {}
        keys = frozenset(k for k, part in parts.items() if part == Part.SEALED and k not in opened)
        if keys:
            return datasets.read(Path(row.path)), row.digest, keys
        break
    raise RejectedInput(
        f"no recording of {model} is sealed", code="sealed.none",
        hint="recordings are sealed once some dozens are held out whole",
    )  # fmt: skip


def _right(
    manifest: Manifest, scored: EdgeScores, recordings: NDArray[np.int64], labels: list[str]
) -> tuple[str, NDArray[np.float64]]:
    """What the figure is, and float64[n]: 1 where a window was judged right."""
    output = manifest.outputs[0]
    if manifest.task != "anomaly":
        named = np.array(output.labels)[scored.outputs.argmax(axis=1)]
        return "accuracy", (named == np.array(labels)).astype(np.float64)
    assert output.threshold is not None
    alarms = raised(scored.scores, recordings, output.threshold, output.alarm or AlarmRule())
    return "healthy windows without an alarm", 1.0 - alarms
