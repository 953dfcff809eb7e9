"""A model's whole way on a device: signed orders and chunks over MQTT, two installs, results."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fieldloop_buffer import Kind
from support.broker import Mosquitto
from support.bundles import frames, make_bundle
from support.device import Bench, InstantTrial, every_window, stored
from support.inference_process import Process
from support.signed_cloud import SignedCloud


def test_signed_models_are_installed_swapped_and_report_and_a_replayed_order_is_named(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    bench = Bench(tmp_path, begin_trial=InstantTrial)
    cloud = SignedCloud(tmp_path / "cloud", mosquitto.port)
    (tmp_path / "root.json").write_bytes(cloud.fleet.root)
    items, written = frames(2000), 0
    path = tmp_path / "inference.sqlite"

    def of_version(version: int) -> Callable[[dict[str, Any]], bool]:
        return lambda data: data["model"]["version"] == version

    def wait_for(event: str, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Write frames as a sensor does until the service tells of `event`."""
        nonlocal written
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s and written < len(items):
            bench.put(items[written : written + 4])
            written += 4
            told = [e for e in stored(path, Kind.EVENT) if e["type"] == event]
            if any(wanted(e["data"]) for e in told):
                return
            time.sleep(0.1)
        raise AssertionError([e["type"] for e in stored(path, Kind.EVENT)])

    service = Process(bench, mosquitto.port)
    try:
        first = cloud.offer(*make_bundle())
        cloud.order(1, first)
        wait_for("model.activated", of_version(1))
        cloud.order(2, cloud.offer(*make_bundle("better", version=2)))
        wait_for("model.activated", of_version(2))
        cloud.order(1, first)  # as an attacker would who kept it
        wait_for("update.refused", lambda data: data["code"].startswith("desired."))
        time.sleep(1)
        output = service.end()
    finally:
        service.process.kill()
        cloud.close()
    assert service.process.returncode == 0, output
    active = [r for r in stored(path, Kind.RESULT) if r["role"] == "active"]
    starts = [round((r["t0_ns"] - 10**18) / 20_000_000) for r in active]
    assert starts == every_window(written)
    assert [r["model"]["version"] for r in active] == sorted(r["model"]["version"] for r in active)
    assert active[-1]["model"]["version"] == 2
    bench.input.close()
