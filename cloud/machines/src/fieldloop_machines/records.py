"""From the rows in the store to a commissioning's block, and from its judgement to a record.

Reads results, writes nothing. Any thread. Raises RetryLater where the store is away.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.manifest import AlarmRule, Manifest
from fieldloop_contract.messages import ModelRef
from fieldloop_machines.commissioning import Assessment, Block, Fitted, Peer, Plan
from fieldloop_machines.tail import Peaks
from fieldloop_scoring.drift import score_bin
from fieldloop_store.commissionings import CalibrationRow
from fieldloop_store.engine import Store
from fieldloop_store.queries import ResultRow, results_between

METHOD = "return-level-1"
"""Named in each record: `commissioning.assess` as it stands. Another way of fitting has another
name, so that an old record is computed again by the way it was made."""
WINDOWS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Rows:
    """A block with what a record has to name.

    Attributes:
        first, last: the results of its first and last window.
        too_many: whether older windows were left out at the bound.
    """

    block: Block
    first: ResultRow | None
    last: ResultRow | None
    too_many: bool


def gather(
    store: Store, fleet: str, device: str, slot: str, ref: ModelRef, *, t0_ns: int,
    t1_ns: int | None = None,
) -> Rows:  # fmt: skip
    """The valid results of running windows that one model gave in a slot, oldest first."""
    rows = [
        row
        for row in results_between(
            store, fleet, device=device, slot=slot, role="active", t0_ns=t0_ns, t1_ns=t1_ns
        )
        if row.model_digest == ref.digest
        and row.valid
        and row.score is not None
        and row.document.get("running") is not False
    ]
    rows.sort(key=lambda row: row.t0_ns)
    too_many = len(rows) > WINDOWS_MAX
    rows = rows[-WINDOWS_MAX:]
    block = Block(
        np.array([row.t0_ns for row in rows], np.int64),
        np.array([row.score for row in rows], np.float64),
    )
    return Rows(block, rows[0] if rows else None, rows[-1] if rows else None, too_many)


def plan_of(manifest: Manifest, wanted: dict[str, Any]) -> Plan | None:
    """The plan of a commissioning under a model; None where the model is not calibrated.

    Args:
        wanted: `running_hours`, `budget_per_week` and `far_is_meant`, as a person asked.
    """
    rule = manifest.calibration
    if rule is None:
        return None
    spec = manifest.inputs[0]
    return Plan(
        running_hours=float(wanted["running_hours"]),
        budget_per_week=float(wanted["budget_per_week"]),
        rule=manifest.outputs[0].alarm or AlarmRule(),
        hop_s=spec.hop_samples / spec.rate_hz,
        threshold_min=rule.threshold_min,
        threshold_max=rule.threshold_max,
        far_is_meant=bool(wanted.get("far_is_meant", False)),
    )


def record_of(
    rows: Rows, fitted: Fitted, plan: Plan, machine: str, peers: list[Peer]
) -> Calibration:
    """The record of a block that is ready: immutable, and a function of the rows it names."""
    first, last = rows.first, rows.last
    if first is None or last is None:
        raise ValueError("a fitted block has windows")
    document = last.document
    figures = {
        "running_hours": plan.running_hours,
        "budget_per_week": plan.budget_per_week,
        "expected_per_week": round(fitted.expected_per_week, 9),
        "independent": round(fitted.independent, 3),
        "peers": float(len(peers)),
        "peer_peaks": float(sum(p.peaks.count for p in peers)),
        **{f"peaks_{name}": round(value, 9) for name, value in asdict(fitted.peaks).items()},
    }
    bins = Counter(score_bin(score) for score in rows.block.scores.tolist())
    return Calibration(
        fleet=first.log.fleet,
        device=first.log.device,
        slot=first.slot,
        stream=first.stream,
        machine=machine,
        model=ModelRef(name=last.model, version=last.version, digest=last.model_digest),
        epoch=first.document["epoch"],
        seq_first=first.document["seq_first"],
        epoch_last=document["epoch"],
        seq_last=document["seq_last"],
        t0_ns=first.t0_ns,
        t1_ns=last.t1_ns,
        windows=fitted.windows,
        centre=fitted.centre,
        scale=fitted.scale,
        threshold=round(fitted.threshold, 12),
        scores=dict(sorted(bins.items())),
        method=METHOD,
        excluded=[(s.t0_ns, s.t1_ns) for s in fitted.excluded],
        figures=figures,
    )


def peers_of(rows: list[CalibrationRow], machine: str, cohort: set[str]) -> list[Peer]:
    """Machines of a cohort whose record is in force, without the machine itself."""
    return [
        Peer(row.machine, row.record.centre, row.record.scale, Peaks(**row.peaks))
        for row in rows
        if row.machine != machine and row.machine in cohort and row.peaks
    ]


def to_json(found: Assessment) -> dict[str, Any]:
    """An assessment as JSON, for the store and for people."""
    document = asdict(replace(found, fitted=None))
    document.pop("fitted")
    if found.fitted is not None:
        document["peaks"] = asdict(found.fitted.peaks)
        document["threshold"] = found.fitted.threshold
        document["expected_per_week"] = found.fitted.expected_per_week
    return document
