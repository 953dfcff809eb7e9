"""Commissionings, the records that came of them, and the evidence of an alarm."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field

from fieldloop_console.api.alarms import AlarmId
from fieldloop_console.api.doors import Fleet, Here, IdPath, Operator, Viewer, not_found
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.ids import Id
from fieldloop_store import commissionings
from fieldloop_store.commissionings import (
    BUDGET_PER_WEEK,
    BUDGET_PER_WEEK_MAX,
    RUNNING_HOURS,
    RUNNING_HOURS_MAX,
    CalibrationRow,
    CommissioningRow,
)
from fieldloop_store.evidence import gather_evidence

router = APIRouter(tags=["commissioning"])
CommissioningId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
MachineQuery = Annotated[str | None, Query(max_length=63)]


class Commission(BaseModel):
    """Whom to commission: one machine, or all of a cohort; and what is to be reached.

    `budget_per_week` is the number of false alarm events that are put up with in a week of running.
    """

    machine: Id | None = None
    cohort: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    slot: Id = "main"
    running_hours: Annotated[float, Field(gt=0, le=RUNNING_HOURS_MAX)] = RUNNING_HOURS
    budget_per_week: Annotated[float, Field(gt=0, le=BUDGET_PER_WEEK_MAX)] = BUDGET_PER_WEEK
    far_is_meant: bool = False


class Calibration(BaseModel):
    """A record that a person armed; `stale_because` is "" while it is in force."""

    digest: str
    machine: str
    device: str
    slot: str
    model: str
    version: int
    centre: float
    scale: float
    threshold: float
    windows: int
    excluded: list[tuple[int, int]]
    armed_by: str
    armed_ns: int
    stale_because: str


class Commissioning(BaseModel):
    """How one stands.

    `state` is waiting, refused, ready, armed or ended; `code` and `words` say why, and `share`
    (0 to 1) and `ready_in_s` how far it is from its running hours. `stretches` were left out as
    anomalous, each with `t0_ns`, `t1_ns`, `windows` and `level`. `record` is the digest of what
    would be armed, and `threshold` its threshold.
    """

    id: str
    machine: str
    device: str
    slot: str
    state: str
    code: str
    words: str
    share: float
    ready_in_s: float | None
    stretches: list[dict[str, Any]]
    expected_per_week: float | None
    threshold: float | None
    record: str | None
    plan: dict[str, Any]
    begun_ns: int
    updated_ns: int


class Decide(BaseModel):
    """`arm`: a person says that the machine is healthy. `end`: give it up."""

    kind: Literal["arm", "end"]


class Changed(BaseModel):
    """What happened to the machine: a repair, a moved sensor, another regime."""

    because: Annotated[str, Field(min_length=1, max_length=200)]


class Stale(BaseModel):
    """Digests of the records that are in force no more."""

    stale: list[str]


def _stand(row: CommissioningRow) -> Commissioning:
    found, record = row.assessment, row.record
    return Commissioning(
        id=row.id,
        machine=row.machine,
        device=row.device,
        slot=row.slot,
        state=row.state,
        code=str(found.get("code", "")),
        words=str(found.get("words", "")),
        share=float(found.get("share", 0.0)),
        ready_in_s=found.get("ready_in_s"),
        stretches=list(found.get("stretches", [])),
        expected_per_week=found.get("expected_per_week"),
        threshold=None if record is None else record.threshold,
        record=None if record is None else record.digest(),
        plan=row.plan,
        begun_ns=row.begun_ns,
        updated_ns=row.updated_ns,
    )


def _armed(row: CalibrationRow) -> Calibration:
    record = row.record
    return Calibration(
        digest=row.digest,
        machine=row.machine,
        device=row.device,
        slot=row.slot,
        model=record.model.name,
        version=record.model.version,
        centre=record.centre,
        scale=record.scale,
        threshold=record.threshold,
        windows=record.windows,
        excluded=list(record.excluded or []),
        armed_by=row.armed_by,
        armed_ns=row.armed_ns,
        stale_because=row.stale_because,
    )


@router.get("/fleets/{fleet}/commissionings")
def list_commissionings(
    _actor: Viewer, fleet: Fleet, here: Here, machine: MachineQuery = None, under_way: bool = False
) -> list[Commissioning]:
    """Commissionings, newest first."""
    rows = commissionings.list_commissionings(
        here.store, fleet, machine=machine, under_way=under_way
    )
    return [_stand(row) for row in rows]


@router.post("/fleets/{fleet}/commissionings", status_code=201)
def begin_commissioning(
    actor: Operator, fleet: Fleet, body: Commission, here: Here
) -> list[Commissioning]:
    """Begin to learn what is normal for a machine, or for each machine of a cohort."""
    if (body.machine is None) == (body.cohort is None):
        raise RejectedInput("name a machine or a cohort, one of them", code="commissioning.whom")
    rows = here.actions.commission(
        actor, fleet, machine=body.machine, cohort=body.cohort, slot=body.slot,
        running_hours=body.running_hours, budget_per_week=body.budget_per_week,
        far_is_meant=body.far_is_meant,
    )  # fmt: skip
    return [_stand(row) for row in rows]


@router.get("/fleets/{fleet}/commissionings/{commissioning}")
def show_commissioning(
    _actor: Viewer, fleet: Fleet, commissioning: CommissioningId, here: Here
) -> Commissioning:
    """How a commissioning stands; the machines service judges it again each minute."""
    row = commissionings.find_commissioning(here.store, fleet, commissioning)
    if row is None:
        raise not_found(f"commissioning {commissioning}")
    return _stand(row)


@router.post("/fleets/{fleet}/commissionings/{commissioning}")
def decide_commissioning(
    actor: Operator, fleet: Fleet, commissioning: CommissioningId, body: Decide, here: Here
) -> Commissioning:
    """Arm one that is ready, or give one up."""
    if body.kind == "arm":
        here.actions.arm_commissioning(actor, fleet, commissioning)
    else:
        here.actions.end_commissioning(actor, fleet, commissioning)
    row = commissionings.find_commissioning(here.store, fleet, commissioning)
    if row is None:
        raise not_found(f"commissioning {commissioning}")
    return _stand(row)


@router.get("/fleets/{fleet}/calibrations")
def list_calibrations(
    _actor: Viewer, fleet: Fleet, here: Here, machine: MachineQuery = None
) -> list[Calibration]:
    """The record that was armed last for each slot of each device, in force or stale."""
    rows = commissionings.latest_armed(here.store, fleet)
    return [_armed(row) for row in rows if machine is None or row.machine == machine]


@router.post("/fleets/{fleet}/machines/{machine}/changed")
def say_changed(actor: Operator, fleet: Fleet, machine: IdPath, body: Changed, here: Here) -> Stale:
    """The machine was repaired, its sensor moved: its calibration is stale."""
    return Stale(stale=here.actions.say_changed(actor, fleet, machine, body.because))


@router.get(
    "/fleets/{fleet}/alarms/{alarm}/evidence.zip",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}},
)
def download_evidence(_actor: Viewer, fleet: Fleet, alarm: AlarmId, here: Here) -> Response:
    """All that belongs to an alarm: signal, scores, model, calibration, approvals, plots."""
    found = gather_evidence(here.store, fleet, alarm, now_ns=here.now_ns())
    return Response(
        found.data,
        media_type="application/zip",
        headers={
            "Content-Disposition": f'attachment; filename="alarm-{alarm[:12]}.zip"',
            "X-Content-SHA256": found.sha256,
        },
    )
