"""The monitor of a slot: its state is text, and no event is lost between two lives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fieldloop_contract.manifest import Manifest
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.monitor import UNSAID_MAX, Monitor
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Window
from support.bundles import make_manifest

REF = ModelRef(name="pump", version=3, digest="a" * 64)


def anomaly(**changes: Any) -> Manifest:
    output = {"name": "r", "kind": "reconstruction", "threshold": 1.0, **changes.pop("output", {})}
    return make_manifest(b"x", b"y", task="anomaly", outputs=[output], **changes)


def window(level: float = 1.0, t0_ns: int = 5) -> Window:
    return Window("e" * 32, 1, 2, t0_ns, t0_ns + 1, np.full((32, 3), level, np.float32))


def push(monitor: Monitor, score: float, *, level: float = 1.0, valid: bool = True) -> Any:
    w = window(level)
    notes = monitor.look(w)
    scored = Scored("anomaly", score=score, alarm=score > 1, valid=valid)
    return monitor.judge(w, scored, notes)


def told(monitor: Monitor) -> list[tuple[str, dict[str, Any]]]:
    out: list[tuple[str, dict[str, Any]]] = []
    monitor.tell(lambda type_, stream, data: out.append((type_, data)))
    return out


def test_an_alarm_is_told_once_with_what_a_capture_needs() -> None:
    monitor = Monitor("main", fleet="demo", device="pump-1")
    monitor.serve(anomaly(), REF, "imu")
    assert [push(monitor, s).alarm for s in (0.5, 2.0, 3.0)] == [False, True, True]
    ((type_, data),) = told(monitor)
    assert type_ == "alarm.raised"
    assert data == {
        "stream": "imu",
        "slot": "main",
        "t_ns": 5,
        "score": 2.0,
        "threshold": 1.0,
        "model": {"name": "pump", "version": 3, "digest": "a" * 64},
    }
    push(monitor, 0.1)
    assert [type_ for type_, _ in told(monitor)] == ["alarm.cleared"]


def test_the_state_comes_back_with_the_events_that_were_due() -> None:
    rule = {"alarm": {"raise_count": 2, "raise_of": 3}}
    monitor = Monitor("main", fleet="demo", device="pump-1")
    monitor.serve(anomaly(output=rule), REF, "imu")
    push(monitor, 2.0)
    again = Monitor("main", fleet="demo", device="pump-1")
    again.load(monitor.dump())
    again.serve(anomaly(output=rule), REF, "imu")
    assert push(again, 2.0).alarm
    third = Monitor("main", fleet="demo", device="pump-1")
    third.load(again.dump())
    assert third.alarm
    assert [type_ for type_, _ in told(third)] == ["alarm.raised"]
    fourth = Monitor("main", fleet="demo", device="pump-1")
    fourth.load(third.dump())
    assert told(fourth) == []


def test_an_idle_window_neither_raises_nor_clears() -> None:
    monitor = Monitor("main", fleet="demo", device="pump-1")
    monitor.serve(anomaly(running_when={"above": 0.5}), REF, "imu")
    notes = push(monitor, 9.0, level=0.1)
    assert (notes.alarm, notes.running, notes.counts) == (False, False, False)
    assert push(monitor, 9.0).alarm
    assert push(monitor, 0.0, level=0.1).alarm, "a stopped machine does not say that it is well"
    assert not push(monitor, 0.0).alarm


def test_a_window_that_is_not_valid_says_nothing() -> None:
    monitor = Monitor("main", fleet="demo", device="pump-1")
    monitor.serve(anomaly(), REF, "imu")
    push(monitor, 9.0)
    assert push(monitor, 0.0, valid=False).alarm


def test_a_model_that_takes_over_finds_the_alarm_and_one_without_alarms_ends_it() -> None:
    monitor = Monitor("main", fleet="demo", device="pump-1")
    monitor.serve(anomaly(), REF, "imu")
    push(monitor, 9.0)
    monitor.serve(anomaly(version=2), REF, "imu")
    assert monitor.alarm
    told(monitor)
    monitor.serve(make_manifest(b"x", b"y"), REF, "imu")
    ((type_, data),) = told(monitor)
    assert (type_, data["reason"]) == ("alarm.cleared", "the model that serves has no alarm")


def test_events_that_nobody_takes_are_bounded_and_damage_is_said() -> None:
    monitor = Monitor("main", fleet="demo", device="pump-1")
    monitor.serve(anomaly(), REF, "imu")
    for _ in range(UNSAID_MAX):
        push(monitor, 9.0)
        push(monitor, 0.0)
    assert len(told(monitor)) == UNSAID_MAX
    for text in ("", "[]", "{}", '{"alarm":3}'):
        with pytest.raises(ValueError, match=r".+"):
            Monitor("main", fleet="demo", device="pump-1").load(text)
