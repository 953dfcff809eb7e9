"""A slot as the cloud sees it, put together from its parts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from fieldloop_contract.messages import SlotState
from fieldloop_inference.monitor import Monitor
from fieldloop_inference.slots import Phase, Slot


def slot_state(
    name: str,
    slot: Slot,
    monitor: Monitor,
    counts: Mapping[str, int],
    latency_us: dict[str, float],
    *,
    unfit: str,
    document_version: int,
) -> SlotState:
    """The slot's part of the retained report.

    Args:
        counts: of the service; those of the state machine and the monitor are added.
        unfit: why the stream cannot feed the model, or "".
    """
    told = {**counts, "needed": slot.needed, "drifting": int(monitor.drifting)}
    if slot.phase is Phase.SHADOW or slot.agreed:
        told.update(shadow=slot.scored, agreed=slot.agreed)
    if slot.phase is Phase.PROBATION:
        told.update(probation=slot.scored)
    reason = slot.reason
    if monitor.tells:
        told.update(running=monitor.running, idle=monitor.idle)
        if slot.phase in (Phase.SHADOW, Phase.PROBATION):
            reason = f"waiting: {slot.scored} of {slot.needed} running windows"
    if "deriving" in told:
        learnt = f"deriving its calibration: {told['deriving']} of {told['deriving_of']} windows"
        reason = f"{reason}; {learnt}" if reason else learnt
    if monitor.commissioning.wanted and slot.phase is not Phase.REJECTED:
        state = monitor.commissioning.state(drifting=monitor.drifting)
        reason = f"{reason}; {state}" if reason else state
    if monitor.alarms:
        told["alarm"] = int(monitor.alarm)
    return SlotState(
        slot=name,
        state=slot.phase.value,
        active=slot.active,
        candidate=slot.candidate,
        previous=slot.previous,
        reason=unfit or reason,
        counts=told,
        latency_us=latency_us,
        document_version=document_version,
    )
