"""`run --local DATASET`: pipeline and gates on one machine, with no server and no fleet.

DATASET is a snapshot (`.parquet`), or an `.npz` with `samples`, float32[n, window_samples,
channels], `labels` (n texts), and, where there are any, `recordings` (n numbers or texts: what is
independent), `devices` (n texts), `channels` (`name:unit` texts) and `rate_hz`. The result is a
folder with the bundle, the model card, the plots and the verdict, and a store that later runs
compare with: the model approved before in the same folder is the champion of the next.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fieldloop_contract.errors import FixConfiguration, Isolate, MalformedMessage, RejectedInput
from fieldloop_contract.manifest import Channel
from fieldloop_models.recipe import WindowPlan, load_recipe
from fieldloop_runtime.journal import Journal
from fieldloop_store import artefacts, registry, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_training import datasets
from fieldloop_training.datasets import Dataset, Place, plain_input
from fieldloop_training.labels import Recording
from fieldloop_training.quality import label_report
from fieldloop_training.settings import TrainingSettings

FLEET = "local"
NPZ_BYTES_MAX = 2 << 30


def read_dataset(path: Path, plan: WindowPlan) -> Dataset:
    """A dataset from a file.

    Raises:
        FixConfiguration: no such file, or of another kind.
        RejectedInput, Isolate: it is damaged, or its arrays do not fit together.
    """
    if not path.is_file():
        raise FixConfiguration(f"no file {path}", hint="give a .parquet snapshot or an .npz file")
    if path.suffix == ".parquet":
        return datasets.read(path)
    if path.suffix == ".npz":
        return _read_npz(path, plan)
    raise FixConfiguration(f"{path.name} is of no known kind", hint="a .parquet or .npz file")


def _read_npz(path: Path, plan: WindowPlan) -> Dataset:
    if path.stat().st_size > NPZ_BYTES_MAX:
        raise RejectedInput(f"{path.name} is over {NPZ_BYTES_MAX} bytes", code="dataset.limit")
    try:
        with np.load(path, allow_pickle=False) as file:
            given = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Isolate(f"dataset {path.name}: {error!s:.200}", code="dataset.damaged") from error
    samples, labels = given.get("samples"), given.get("labels")
    if samples is None or labels is None or samples.ndim != 3 or len(samples) != len(labels):
        raise RejectedInput(
            f"{path.name} has no samples[n, window_samples, channels] with n labels",
            code="dataset.arrays", hint=f"it has {', '.join(sorted(given)) or 'nothing'}",
        )  # fmt: skip
    n, length, width = samples.shape
    names = [str(x) for x in given.get("channels", [f"c{i}:1" for i in range(width)])]
    pairs = [name.split(":") if ":" in name else [name, "1"] for name in names]
    if len(pairs) != width or any(len(p) != 2 for p in pairs):
        raise RejectedInput(f"{path.name} names {len(pairs)} of {width} channels as name:unit",
                            code="dataset.arrays")  # fmt: skip
    devices = [str(x) for x in given.get("devices", ["device"] * n)]
    groups = [str(x) for x in given.get("recordings", range(n))]
    if len(devices) != n or len(groups) != n:
        raise RejectedInput(f"{path.name} has not {n} devices and recordings",
                            code="dataset.arrays")  # fmt: skip
    rate_hz = float(given.get("rate_hz", 1.0))
    mine = WindowPlan(length, min(plan.hop_samples, length), plan.gap_tolerance_periods, plan.fill)
    spec = plain_input("signal", [Channel(name=a, unit=b) for a, b in pairs], rate_hz, mine)
    return _placed(spec, samples.astype(np.float32), [str(x) for x in labels], devices, groups)


def _placed(
    spec: Any, samples: Any, labels: list[str], devices: list[str], groups: list[str]
) -> Dataset:
    """Windows in recordings, with times made up: an hour between two recordings."""
    keys = sorted({(d, g, lab) for d, g, lab in zip(devices, groups, labels, strict=True)})
    number = {key: k for k, key in enumerate(keys)}
    counts = dict.fromkeys(keys, 0)
    of = [number[key] for key in zip(devices, groups, labels, strict=True)]
    order = sorted(range(len(of)), key=lambda i: (of[i], i))
    hop_ns = round(spec.hop_samples / spec.rate_hz * 1e9)
    window_ns = round(spec.window_samples / spec.rate_hz * 1e9)
    gap_ns = 3_600 * 10**9 + max(of.count(k) for k in set(of)) * hop_ns + window_ns
    places = []
    for i in order:
        key = keys[of[i]]
        t0_ns = of[i] * gap_ns + counts[key] * hop_ns
        counts[key] += 1
        places.append(Place(of[i], "0" * 32, i, i, t0_ns, t0_ns + window_ns))
    recordings = [
        Recording(device, spec.name, k * gap_ns, (k + 1) * gap_ns, label)
        for k, (device, _, label) in enumerate(keys)
    ]
    return Dataset(spec, recordings, places, samples[order])


def run_local(
    path: Path,
    out: Path,
    *,
    recipe: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    model: str = "model",
    watch: Callable[[Store, str], None] | None = None,
) -> runs.RunRow:
    """Train on a file and judge; everything goes into the folder `out`.

    Args:
        watch: called in another thread's place once the run is enqueued, with store and run.

    Returns:
        The run as it ended.

    Raises:
        FixConfiguration, RejectedInput, Isolate: the file, the recipe or its settings are wrong.
    """
    plan = load_recipe(recipe, settings).window_plan()
    dataset = read_dataset(path, plan)
    out.mkdir(parents=True, exist_ok=True)
    given = TrainingSettings(
        fleet=FLEET, model=model, recipe=recipe, stream=dataset.spec.name,
        store_url=f"sqlite:///{out.resolve()}/store.sqlite",
        datasets_dir=str(out / "datasets"), work_dir=str(out / "work"), log_level="WARNING",
    )  # fmt: skip
    query = {"file": path.name}
    digest, file = datasets.write(dataset, out / "datasets", query)
    store = Store.open(given.store_url, checkpoints=True)
    try:
        summary = {**dataset.summary(), "quality": label_report(dataset, {})}
        now_ns = time.time_ns()
        row = registry.DatasetRow(digest, FLEET, query, summary, str(file.resolve()), now_ns)
        registry.add_dataset(store, row)
        run = runqueue.enqueue(
            store, fleet=FLEET, model=model, recipe=recipe, settings=settings,
            options={**options, "dataset": digest}, trigger={"kind": "hand", "by": "local"},
            now_ns=now_ns,
        )  # fmt: skip
        if watch is not None:
            watch(store, run)
        return _see_through(store, given, run, out)
    finally:
        store.close()


def _see_through(store: Store, settings: TrainingSettings, run: str, out: Path) -> runs.RunRow:
    # Imported here: it loads what only a process that trains needs.
    from fieldloop_training import carrying  # noqa: PLC0415

    while True:
        owner = carrying.owner_name()
        row = carrying.claim(store, settings, owner, run)
        if row is None:
            break
        carrying.carry_out(store, settings, row, owner, Journal("training.run"))
    ended = runs.find_run(store, run)
    assert ended is not None
    _write_result(store, ended, out)
    return ended


def _write_result(store: Store, row: runs.RunRow, out: Path) -> None:
    """Verdict, plots and card, and the bundle where there is one."""
    verdict = json.dumps(row.verdict, indent=2, sort_keys=True)
    (out / "verdict.json").write_text(verdict + "\n", encoding="utf-8")
    for item in artefacts.list_artefacts(store, row.id):
        loaded = artefacts.load_artefact(store, row.id, item.name)
        if loaded is not None and item.media_type in ("image/png", "text/markdown"):
            (out / item.name).write_bytes(loaded[1])
    version = (row.verdict or {}).get("version")
    if version is None:
        return
    try:
        manifest, files = registry.load_bundle(store, (row.verdict or {})["digest"])
    except MalformedMessage as error:
        raise Isolate(f"the bundle cannot be read back: {error}") from error
    bundle = out / f"{row.model}-{version}"
    bundle.mkdir(exist_ok=True)
    for name, data in {**files, "manifest.json": manifest.encode()}.items():
        (bundle / name).write_bytes(data)
