"""Rollouts over a real broker to devices that really infer: good, broken, worse and slow versions,
and a cloud that is cut off in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_buffer import Kind
from fieldloop_store.rollouts import RolloutRow, list_rollout_devices
from fieldloop_store.steering import audit_trail
from support.delivering import wait_for
from support.device import stored
from support.real_fleet import RealFleet
from support.signed import FLEET

WAIT_S = 200.0
CRASHES_MAX = 6


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., RealFleet]]:
    made: list[RealFleet] = []

    def start(names: list[str], **slot: Any) -> RealFleet:
        made.append(RealFleet(tmp_path, names, slot))
        return made[-1].start()

    yield start
    for fleet in made:
        fleet.close()


def ended(fleet: RealFleet, version: int, state: str) -> RolloutRow:
    row = fleet.delivery.wait_rollout(version, state, WAIT_S)
    print(f"version {version}: {row.document['verdict']}")  # noqa: T201 - shown with -s
    return row


def back_after(fleet: RealFleet, row: RolloutRow) -> float:
    """Seconds from the failed gate to the last device back, by the audit trail."""

    def check() -> float | None:
        trail = {a.type: a for a in audit_trail(fleet.store, FLEET, rollout=row.id)}
        if "rollout.returned" not in trail:
            return None
        return (trail["rollout.returned"].at_ns - trail["rollout.halted"].at_ns) / 1e9

    took_s = float(wait_for(check, WAIT_S, "all back"))
    print(f"version {row.version}: last device back {took_s:.1f} s after the gate failed")  # noqa: T201
    return took_s


@pytest.mark.timeout(900)
def test_good_versions_arrive_and_broken_worse_and_slow_ones_come_back(make):
    fleet = make(
        ["pump-1", "pump-2", "pump-3"],
        waves=[{"count": 2}, {"all": True}],
        gates={
            "windows_min": 20, "quorum": 1.0, "labels_min": 30, "independent_share": 0.5,
            "accuracy_drop_max": 0.1, "latency_floor_us": 2_000, "wait_s_max": WAIT_S,
        },
    )  # fmt: skip
    fleet.release("good", 1)
    ended(fleet, 1, "completed")
    fleet.release("uint8", 2)
    good = ended(fleet, 2, "completed")
    assert good.document["figures"]["accuracy"] > 0.8
    fleet.all_on(2, WAIT_S)

    # Broken: its golden vectors are another model's. No device ever serves with it.
    fleet.release("good", 3, golden="better")
    row = ended(fleet, 3, "halted")
    assert row.document["verdict"].startswith("halted: installed: ")
    assert "golden" in row.document["verdict"]
    back_after(fleet, row)

    # Worse, and nothing that a device could know: only the labels tell.
    fleet.release("better", 4)
    row = ended(fleet, 4, "halted")
    assert row.document["verdict"].startswith("halted: accuracy: ")
    touched = {m.device for m in list_rollout_devices(fleet.store, FLEET, row.id, wave=0)}
    assert len(touched) <= 2
    worse_s = back_after(fleet, row)
    fleet.all_on(2, WAIT_S)

    # Slow: within the limits of its manifest, but not what the devices had before.
    fleet.release("sluggish", 5, golden="sluggish")
    row = ended(fleet, 5, "halted")
    assert row.document["verdict"].startswith("halted: latency: ")
    slow_s = back_after(fleet, row)
    fleet.all_on(2, WAIT_S)
    assert max(worse_s, slow_s) < WAIT_S
    for device in fleet.devices:
        assert {"ROLLED_BACK", "REJECTED"} & set(_states(fleet, device)) or device not in touched


def _states(fleet: RealFleet, device: str) -> list[str]:
    rows = stored(fleet.devices[device].folder / "inference.sqlite", Kind.EVENT)
    names = {"model.rejected": "REJECTED", "model.rolled-back": "ROLLED_BACK"}
    return [names.get(r["type"], r["type"]) for r in rows]


def _told(fleet: RealFleet, device: str, type_: str, version: int) -> bool:
    """Whether a device's own log has such an event about a version."""
    rows = stored(fleet.devices[device].folder / "inference.sqlite", Kind.EVENT)
    return any(
        r["type"] == type_ and r["data"].get("model", {}).get("version") == version for r in rows
    )


def _serves(fleet: RealFleet, device: str) -> int:
    """The version of a device's last result, from its own log."""
    rows = stored(fleet.devices[device].folder / "inference.sqlite", Kind.RESULT)
    return int([r for r in rows if r["role"] == "active"][-1]["model"]["version"])


@pytest.mark.timeout(900)
def test_with_the_cloud_cut_off_in_the_middle_devices_return_by_themselves(make):
    """The version passes its trial and then kills its service; nobody is there to take it back."""
    fleet = make(
        ["pump-1", "pump-2"],
        waves=[{"all": True}],
        gates={"windows_min": 10, "quorum": 1.0, "wait_s_max": WAIT_S},
    )
    fleet.release("good", 1)
    ended(fleet, 1, "completed")
    fleet.release("uint8", 2, limits={"probation_windows": 2_000})
    wait_for(
        lambda: all(_told(fleet, d, "model.probation", 2) for d in fleet.devices),
        WAIT_S,
        "both on probation",
    )
    fleet.delivery.kill()
    fleet.telemetry.kill()
    fleet.broker.kill()
    for name, device in fleet.devices.items():
        for _ in range(CRASHES_MAX):
            before = _results(fleet, name)
            device.crash()
            wait_for(lambda n=name, b=before: _results(fleet, n) > b, WAIT_S, "it scores again")
            if _told(fleet, name, "model.rolled-back", 2):
                break
        assert _serves(fleet, name) == 1, "back by itself"
    fleet.broker.start()
    fleet.telemetry.start()
    fleet.delivery.start()
    row = ended(fleet, 2, "halted")
    assert row.document["verdict"].startswith("halted: installed: ")
    back_after(fleet, row)
    assert [_serves(fleet, d) for d in fleet.devices] == [1, 1]


def _results(fleet: RealFleet, device: str) -> int:
    return len(stored(fleet.devices[device].folder / "inference.sqlite", Kind.RESULT))
