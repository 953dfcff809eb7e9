"""A pump's device without a broker: what it measures arrives, and its books balance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fieldloop_demo.pumps.device import FLEET, STREAM, PumpDevice
from fieldloop_demo.pumps.plant import EVERY_S, Measuring, plant
from fieldloop_demo.pumps.scenario import START_NS
from fieldloop_store.engine import Store
from fieldloop_store.ledger import books
from fieldloop_store.queries import frames_between


def test_what_a_pump_measures_is_stored_once_and_the_books_balance(tmp_path: Path) -> None:
    pump = plant(1)[0]
    sensor, every_ns = Measuring(pump), round(EVERY_S * 1e9)
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    device = PumpDevice(tmp_path / "pump", pump.device, START_NS)
    given = [sensor.window(i * EVERY_S / 86_400) for i in range(8)]
    for first, last in ((0, 5), (5, 8)):
        for i in range(first, last):
            device.measure(given[i], START_NS + i * every_ns)
        now_ns = START_NS + last * every_ns
        device.work(now_ns)
        device.ferry(store, now_ns)
        assert device.ferry(store, now_ns) == 0, "nothing goes twice"
    rows = list(frames_between(store, FLEET, device=pump.device, stream=STREAM))
    assert np.array_equal(np.stack([r.frame.array() for r in rows]), np.stack(given))
    assert all(r.frame.planned_pause for r in rows)
    assert [b.balanced for b in books(store, fleet=FLEET)] == [True, True]
    device.close()
    store.close()
