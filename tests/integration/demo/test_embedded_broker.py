"""Smoke test on the embedded broker: a recording reaches the store and is acknowledged."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from fieldloop_demo.fleet import FLEET, Device, Services
from fieldloop_demo.recordings import Recording
from fieldloop_demo.story import settled
from fieldloop_runtime.hosting.broker import Broker
from fieldloop_runtime.hosting.processes import Processes
from fieldloop_store.engine import Store
from fieldloop_store.ledger import books
from fieldloop_store.queries import streams


def test_a_recording_is_stored_and_acknowledged_over_the_embedded_broker(tmp_path: Path):
    processes = Processes(tmp_path / "logs")
    samples = np.random.default_rng(1).normal(size=(500, 6)).astype(np.float32)
    device = Device("subject-1", tmp_path / "subject-1", [], [])
    try:
        broker = Broker("amqtt", tmp_path, processes)
        broker.start()
        assert broker.name == "amqtt"
        services = Services(tmp_path, broker.port, 100.0, processes)
        store = Store.open(services.store_url)
        services.telemetry()
        device.drop("train", Recording(1, "left", "PEN", samples))
        services.ingestion(device)
        deadline = time.monotonic() + 40
        latest = []
        while time.monotonic() < deadline:
            processes.check()
            latest = list(books(store, fleet=FLEET, service="ingestion"))
            stored = [s for s in streams(store, FLEET) if s.frames == 10]
            if stored and latest and all(settled(b) for b in latest):
                break
            time.sleep(0.25)
        else:
            raise AssertionError(f"not settled: {latest}")
    finally:
        processes.stop()
