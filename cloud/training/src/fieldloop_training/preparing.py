"""The dataset stage of a run: snapshot, checks, split, file, report.

Promises that a dataset which can teach nothing is refused in words before anything is trained, that
a run which goes on after a kill goes on with the dataset that it had, and that a recalled dataset
trains nothing. One thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.errors import RejectedInput
from fieldloop_models.recipe import Recipe
from fieldloop_store import artefacts, frozensets, registry, runqueue, runs
from fieldloop_store.frozensets import FrozenSet
from fieldloop_training import datasets, healthy, pictures, snapshot
from fieldloop_training.context import Context
from fieldloop_training.gates import LOOKS_MAX
from fieldloop_training.healthy import HEALTHY
from fieldloop_training.progress import Stopped
from fieldloop_training.quality import label_report
from fieldloop_training.slices import slice_names
from fieldloop_training.splits import Labelled, Part, Span, Use, assign, use_of

ANOMALY = "anomaly"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset that was written down and split.

    Attributes:
        digest: of the dataset.
        task: of the recipe.
        uses: what each window is used for.
        recordings: int64[n], recording of each window.
        targets: int64[n], index of each window's label; of an anomaly recipe -1 throughout.
        summary: as stored with the dataset.
        frozen: the frozen set in use, where there is a champion to compare with.
    """

    dataset: datasets.Dataset
    digest: str
    task: str
    uses: list[Use]
    recordings: NDArray[np.int64]
    targets: NDArray[np.int64]
    summary: dict[str, Any]
    frozen: FrozenSet | None

    @property
    def labels(self) -> list[str]:
        """What the model names; an anomaly model names nothing."""
        return [] if self.task == ANOMALY else self.dataset.labels

    def where(self, *uses: Use) -> NDArray[np.bool_]:
        """bool[n]: the windows of these uses."""
        return np.array([u in uses for u in self.uses], np.bool_)

    def is_healthy(self) -> NDArray[np.bool_]:
        """bool[n]: windows of recordings that are no fault."""
        good = np.array([r.label == HEALTHY for r in self.dataset.recordings], np.bool_)
        return good[self.recordings]

    def is_frozen(self) -> NDArray[np.bool_]:
        """bool[n]: windows of recordings in the frozen set."""
        keys = self.frozen.recordings if self.frozen else frozenset()
        held = np.array([r.key in keys for r in self.dataset.recordings], np.bool_)
        return held[self.recordings]

    def device_numbers(self) -> NDArray[np.int64]:
        """int64[n], device of each window."""
        return self._numbers([r.device for r in self.dataset.recordings])

    def machine_numbers(self) -> NDArray[np.int64]:
        """int64[n], machine of each window."""
        return self._numbers([self.machine(r.device) for r in self.dataset.recordings])

    def is_unseen(self) -> NDArray[np.bool_]:
        """bool[n]: windows of devices of which nothing is used for training."""
        devices = self.device_numbers()
        taught = self.where(Use.FIT, Use.VALIDATION, Use.CALIBRATION)
        return ~np.isin(devices, np.unique(devices[taught]))

    def machine(self, device: str) -> str:
        """The machine that a device measures."""
        return str(self.summary.get("machines", {}).get(device, device))

    def slices(self) -> list[list[str]]:
        """Names of the slices that each window belongs to."""
        sites = self.summary.get("sites", {})
        found = []
        for place in self.dataset.places:
            device = self.dataset.recordings[place.recording].device
            machine = self.machine(device)
            found.append(slice_names(device, place.t0_ns, machine, sites.get(machine, "")))
        return found

    def _numbers(self, names: list[str]) -> NDArray[np.int64]:
        index = {name: k for k, name in enumerate(sorted(set(names)))}
        return np.array([index[name] for name in names], np.int64)[self.recordings]


def prepare(context: Context, recipe: Recipe) -> Prepared:
    """Take the snapshot or read the one that is asked for, check it, split it, write it down.

    Raises:
        RejectedInput: it cannot teach anything, or was recalled.
        Isolate: the file of a dataset is damaged or missing.
        FixConfiguration, LimitExceeded, RetryLater, Stopped.
    """
    context.progress.report({"stage": "dataset"})
    wanted = context.run.dataset or context.options.dataset
    if wanted is None:
        snap = _snapshot(context, recipe)
        dataset, parts_known = snap.dataset, _known_parts(context)
        extra: dict[str, Any] = {
            "left_out": snap.left_out,
            "machines": snap.machines,
            "sites": snap.sites,
        }
        query = snap.query
    else:
        dataset, row = _stored(context, wanted)
        extra = {k: row.summary.get(k, {}) for k in ("left_out", "machines", "sites")}
        stated = row.summary.get("parts") or {}
        parts_known = _known_parts(context) | {k: Part(v) for k, v in stated.items()}
        query = row.query
    datasets.check(dataset, recipe.task)
    parts = _parts(dataset, recipe.task, parts_known)
    frozen = _frozen(context, parts)
    uses = _uses(dataset, parts, recipe)
    counts = {use.value: sum(u is use for u in uses) for use in Use}
    stored_parts = {key: part.value for key, part in sorted(parts.items())}
    summary = {**dataset.summary(), "windows_by_use": counts, "parts": stored_parts, **extra}
    digest = wanted or _write(context, dataset, query, summary)
    if not runqueue.update_run(
        context.store, context.run.id, context.owner, now_ns=context.now_ns(), dataset=digest
    ):
        raise Stopped("lost")
    if not counts[Use.HELD.value] or not counts[Use.FIT.value]:
        raise RejectedInput(
            "no window can be held out" if counts[Use.FIT.value] else "no window can be fitted",
            code="dataset.too-few",
            hint="label more recordings, or longer ones",
        )
    index = {label: k for k, label in enumerate(dataset.labels)}
    of = [p.recording for p in dataset.places]
    targets = [-1 if recipe.task == ANOMALY else index[dataset.recordings[i].label] for i in of]
    return Prepared(
        dataset, digest, recipe.task, uses, np.array(of, np.int64), np.array(targets, np.int64),
        summary, frozen,
    )  # fmt: skip


def _snapshot(context: Context, recipe: Recipe) -> snapshot.Snapshot:
    plan = recipe.window_plan()
    if recipe.task == ANOMALY:
        return healthy.take(
            context.store, fleet=context.fleet, options=context.options, plan=plan,
            now_ns=context.now_ns(),
        )  # fmt: skip
    return snapshot.take(
        context.store, fleet=context.fleet, stream=context.options.stream, plan=plan,
        fallback=list(context.options.channels),
    )  # fmt: skip


def _stored(context: Context, digest: str) -> tuple[datasets.Dataset, registry.DatasetRow]:
    """A dataset that is there already."""
    row = registry.find_dataset(context.store, digest)
    if row is None or row.fleet != context.fleet:
        raise RejectedInput(f"no dataset {digest:.12}", code="dataset.unknown")
    if row.recalled_ns is not None:
        raise RejectedInput(
            f"dataset {digest:.12} was recalled: {row.recall_reason}", code="dataset.recalled"
        )
    return datasets.read(Path(row.path)), row


def _write(
    context: Context, dataset: datasets.Dataset, query: dict[str, Any], summary: dict[str, Any]
) -> str:
    """The file, then the row that names it, with report and plots in the same transaction."""
    digest, path = datasets.write(dataset, context.datasets_dir, query)
    known = registry.find_dataset(context.store, digest)
    if known is not None:
        if known.recalled_ns is not None:
            raise RejectedInput(
                f"the same windows were recalled as dataset {digest:.12}: {known.recall_reason}",
                code="dataset.recalled",
            )
        return digest
    quality = label_report(dataset, summary["left_out"], context.options.seed)
    row = registry.DatasetRow(
        digest, context.fleet, query, {**summary, "quality": quality}, str(path.resolve()),
        context.now_ns(),
    )  # fmt: skip
    registry.add_dataset(context.store, row)
    plots = pictures.of_dataset(dataset)
    with context.store.begin() as connection:
        artefacts.add_artefacts(connection, digest, plots, context.now_ns())
    return digest


def _known_parts(context: Context) -> dict[str, Part]:
    """Parts that recordings were given in the newest dataset of this model that still stands."""
    for row in runs.list_runs(context.store, context.fleet, model=context.model):
        found = registry.find_dataset(context.store, row.dataset) if row.dataset else None
        if found is not None and found.summary.get("parts"):
            return {k: Part(v) for k, v in found.summary["parts"].items()}
    return {}


def _parts(dataset: datasets.Dataset, task: str, known: dict[str, Part]) -> dict[str, Part]:
    """The part of each recording; faults measure and never train.

    A machine's threshold is its own, so for an anomaly model no device is held out whole.
    """
    learnt = [r for r in dataset.recordings if task != ANOMALY or r.label == HEALTHY]
    items = [Labelled(r.key, r.device, r.label) for r in learnt]
    parts = assign(items, known, whole_devices=task != ANOMALY)
    faults = {r.key for r in dataset.recordings} - {r.key for r in learnt}
    return parts | dict.fromkeys(faults, Part.HELD)


def _frozen(context: Context, parts: dict[str, Part]) -> FrozenSet | None:
    """The frozen set in use; the first is made of what the first champion's dataset held out.

    A set that is used up gives way to what was sealed, which changes `parts`.
    """
    store, fleet, model = context.store, context.fleet, context.model
    current = frozensets.current_set(store, fleet, model)
    if current is None:
        champions = registry.list_models(store, fleet, name=model, state="approved")
        found = [registry.find_dataset(store, m.dataset) for m in champions if m.dataset]
        if not found or found[-1] is None:
            return None
        stated = found[-1].summary.get("parts") or {}
        keys = [
            key for key, part in stated.items()
            if part in (Part.HELD, Part.TAIL) and parts.get(key) in (Part.HELD, Part.TAIL)
        ]  # fmt: skip
        if not keys:
            return None
        frozensets.add_set(store, fleet, model, 1, keys, context.now_ns())
        return frozensets.current_set(store, fleet, model)
    sealed = [key for key, part in parts.items() if part is Part.SEALED]
    if current.looks >= LOOKS_MAX and sealed:
        frozensets.add_set(store, fleet, model, current.number + 1, sealed, context.now_ns())
        current = frozensets.current_set(store, fleet, model)
    opened = current.recordings if current else frozenset()
    parts.update((key, Part.HELD) for key in sealed if key in opened)
    return current


def _uses(dataset: datasets.Dataset, parts: dict[str, Part], recipe: Recipe) -> list[Use]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for p in dataset.places:
        first[p.recording] = min(first.get(p.recording, p.t0_ns), p.t0_ns)
        last[p.recording] = max(last.get(p.recording, p.t1_ns), p.t1_ns)
    return [
        use_of(
            parts[dataset.recordings[p.recording].key],
            Span(p.t0_ns, p.t1_ns, first[p.recording], last[p.recording]),
            recipe.validation_share,
            recipe.calibration_share,
        )
        for p in dataset.places
    ]
