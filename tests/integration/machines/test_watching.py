"""Machines watched between alarms, and alarms that say what they look like, on a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.messages import ModelRef
from fieldloop_machines.attendant import Attendant
from fieldloop_machines.watching import Changed, watch
from fieldloop_runtime.journal import Journal
from fieldloop_store import alarms, commissionings
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.rows import LogKey, frame_row
from support.floor import FLEET, HOP_S, SLOT, START_NS, STREAM, Floor, healthy

RATE_HZ, SAMPLES, FRAME_NS = 1.6, 128, 600 * 10**9
DAY_NS = 86_400 * 10**9
ALARM_AFTER_S = 3_060
"""Within the last frame of an hour."""


class Hall(Floor):
    """A floor with raw signal."""

    at = 0

    def signal(self, device: str, t0_ns: int, hours: float, *, load: float = 1.0,
               dead: bool = False) -> int:  # fmt: skip
        """Frames each ten minutes; returns the time after the last."""
        rng = np.random.default_rng(self.at)
        rows = []
        count = round(hours * 6)
        for i in range(count):
            self.at += 1
            t = np.arange(SAMPLES) / RATE_HZ + rng.uniform(0, 1e3)
            tone = load * rng.uniform(0.9, 1.1) * np.sin(2 * np.pi * 0.04 * t)
            x = tone[:, None] + rng.normal(0, 0.3, (SAMPLES, 3))
            x = np.full_like(x, 2.0) if dead else x
            at_ns = t0_ns + i * FRAME_NS
            frame = Frame(STREAM, at_ns, at_ns, "b" * 32, Clock.SYNCHRONISED, RATE_HZ, 3,
                          x.astype("<f4").tobytes())  # fmt: skip
            log = LogKey(FLEET, device, "ingestion", "c" * 32)
            rows.append(frame_row(log, SequencedFrame(self.at, frame), at_ns))
        store_intake(self.store, Intake(rows={"frames": rows}, received_ns=t0_ns))
        return t0_ns + count * FRAME_NS

    def armed(self, name: str) -> tuple[str, ModelRef, int]:
        """A machine in service: its device and model, and the end of its commissioning."""
        ref = self.model().ref()
        device = self.machine(name)
        self.serves(device, ref)
        plan = commissionings.checked_plan(12.0, 0.5, False)
        row = commissionings.begin(
            self.store, FLEET, machine=name, device=device, slot=SLOT, plan=plan, actor="ann",
            now_ns=START_NS,
        )  # fmt: skip
        count = round(13 * 3_600 / HOP_S)
        end_ns = self.scores(device, ref, healthy(count, 1), t0_ns=START_NS)
        self.signal(device, START_NS, 13)
        look(self, end_ns)
        commissionings.arm(self.store, FLEET, row.id, actor="ann", now_ns=end_ns)
        return device, ref, end_ns


def look(hall: Hall, now_ns: int) -> None:
    one = Attendant(hall.store, FLEET, channels=(), broker="b", journal=Journal("t"))
    one.look(now_ns)
    one.assess(now_ns)


def see(hall: Hall, now_ns: int) -> list[Changed]:
    return watch(hall.store, FLEET, Journal("t"), now_ns=now_ns, span_ns=DAY_NS)


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    yield Hall(store)
    store.close()


def test_another_load_makes_the_record_stale_after_the_second_look(hall: Hall) -> None:
    device, _, at_ns = hall.armed("pump-1")
    for _ in range(3):
        at_ns = hall.signal(device, at_ns, 24)
        assert see(hall, at_ns) == [], "it is as it was"
    at_ns = hall.signal(device, at_ns, 24, load=2.5)
    assert see(hall, at_ns) == [], "once is not enough"
    assert see(hall, at_ns + 1) == [], "and a look at the same day does not count again"
    assert len(commissionings.in_force(hall.store, FLEET)) == 1
    at_ns = hall.signal(device, at_ns, 24, load=2.5)
    (changed,) = see(hall, at_ns)
    assert (changed.machine, changed.named.kind) == ("pump-1", "load")
    assert commissionings.in_force(hall.store, FLEET) == []
    (row,) = commissionings.latest_armed(hall.store, FLEET)
    assert "load, speed or alignment changed" in row.stale_because
    assert see(hall, hall.signal(device, at_ns, 24, load=2.5)) == [], "it was said"


def test_a_sensor_that_stands_still_makes_the_record_stale(hall: Hall) -> None:
    device, _, at_ns = hall.armed("pump-1")
    kinds = []
    for _ in range(2):
        at_ns = hall.signal(device, at_ns, 24, dead=True)
        kinds += [c.named.kind for c in see(hall, at_ns)]
    assert kinds == ["sensor"]


def test_a_machine_of_which_nothing_is_heard_is_not_judged(hall: Hall) -> None:
    _, _, at_ns = hall.armed("pump-1")
    for day in range(3):
        assert see(hall, at_ns + day * DAY_NS) == []
    assert len(commissionings.in_force(hall.store, FLEET)) == 1


@pytest.mark.parametrize(("dead", "kind"), [(True, "sensor"), (False, "unknown")])
def test_an_alarm_says_what_it_looks_like(hall: Hall, dead: bool, kind: str) -> None:
    device, ref, at_ns = hall.armed("pump-1")
    t_ns = at_ns + ALARM_AFTER_S * 10**9
    hall.signal(device, at_ns, 1, dead=dead)
    hall.scores(device, ref, np.full(round(ALARM_AFTER_S / HOP_S), 9.0), t0_ns=at_ns)
    hall.alarm(device, ref, t_ns=t_ns - round(HOP_S * 1e9), threshold=2.0)
    look(hall, t_ns)
    (row,) = alarms.list_alarms(hall.store, FLEET)
    assert row.document["looks"]["kind"] == kind


def test_an_alarm_of_a_machine_without_a_record_has_no_looks(hall: Hall) -> None:
    ref = hall.model().ref()
    device = hall.machine("pump-1")
    hall.alarm(device, ref)
    look(hall, START_NS + 10**9)
    (row,) = alarms.list_alarms(hall.store, FLEET)
    assert "looks" not in row.document
