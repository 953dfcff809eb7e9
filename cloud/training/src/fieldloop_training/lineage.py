"""Lineage both ways: what made a model, and which devices run anything trained on its data.

Reads the store only.
"""

from __future__ import annotations

from typing import Any

from fieldloop_contract.errors import RejectedInput
from fieldloop_store import queries, questions, registry, runs
from fieldloop_store.engine import Store


def lineage(store: Store, fleet: str, name: str, version: int) -> dict[str, Any]:
    """What made this version, and where it and its siblings of the same dataset run.

    Raises:
        RejectedInput: no such version.
    """
    model = registry.find_model(store, fleet, name, version)
    if model is None:
        raise RejectedInput(f"no {name} version {version} in fleet {fleet}", code="lineage.unknown")
    manifest, _ = registry.load_bundle(store, model.digest)
    dataset = registry.find_dataset(store, model.dataset) if model.dataset else None
    run = runs.find_run(store, model.run) if model.run else None
    siblings = (
        registry.list_models(store, fleet, dataset=model.dataset) if model.dataset else [model]
    )
    return {
        "model": {
            "name": name, "version": version, "digest": model.digest, "state": model.state,
        },
        "made_by": manifest.lineage.model_dump(mode="json", exclude={"model_card"}),
        "run": None if run is None else {
            "id": run.id, "state": run.state, "trigger": run.trigger, "verdict": run.verdict,
            "progress": run.progress,
        },
        "dataset": None if dataset is None else {
            "digest": dataset.digest, "path": dataset.path, "query": dataset.query,
            "recalled": dataset.recall_reason if dataset.recalled_ns else None,
            "summary": {k: v for k, v in dataset.summary.items() if k != "parts"},
        },
        "same_dataset": [f"{m.name} {m.version}" for m in siblings],
        "running_on": running_on(store, fleet, {m.digest for m in siblings}),
        "model_card": manifest.lineage.model_card,
    }  # fmt: skip


def running_on(store: Store, fleet: str, digests: set[str]) -> list[str]:
    """Devices that report one of these models as active, as `device/slot`."""
    found = []
    for service in queries.device_services(store, fleet):
        for slot in (service.reported or {}).get("slots") or []:
            active = slot.get("active") if isinstance(slot, dict) else None
            if isinstance(active, dict) and active.get("digest") in digests:
                found.append(f"{service.device}/{slot.get('slot')}")
    return sorted(found)


def overview(store: Store, fleet: str, runs_max: int = 10) -> dict[str, Any]:
    """The newest runs, all versions and the open questions of a fleet."""
    return {
        "runs": [
            {
                "id": r.id, "model": r.model, "state": r.state, "progress": r.progress,
                "words": (r.verdict or {}).get("words"), "dataset": r.dataset,
                "trigger": {k: v for k, v in r.trigger.items() if k != "marks"},
            }
            for r in runs.list_runs(store, fleet, limit=runs_max)
        ],
        "models": [
            {
                "name": m.name, "version": m.version, "state": m.state, "digest": m.digest,
                "int8": m.metrics.get("int8"), "float": m.metrics.get("float"),
                "bytes": m.metrics.get("bytes"), "dataset": m.dataset,
            }
            for m in registry.list_models(store, fleet)
        ],
        "questions": [
            {"id": q.id, "model": q.model, "words": q.evidence.get("words")}
            for q in questions.list_questions(store, fleet, states=["open"])
        ],
    }  # fmt: skip
