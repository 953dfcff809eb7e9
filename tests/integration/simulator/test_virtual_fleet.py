"""A virtual fleet over a real broker, telemetry, delivery and store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_simulator.__main__ import main
from fieldloop_store.queries import device_services
from support.broker import Mosquitto
from support.delivering import DeliveryProcess
from support.signed import FLEET
from support.telemetry import TelemetryProcess, count


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[tuple[Mosquitto, DeliveryProcess]]:
    broker = Mosquitto(tmp_path / "broker").start()
    slots = [
        {
            "model": "activity",
            "streams": {"imu": "imu"},
            "waves": [{"percent": 100}],
            "gates": {"windows_min": 5},
        }
    ]
    delivery = DeliveryProcess(tmp_path / "delivery", broker.port, slots=slots)
    telemetry = TelemetryProcess(
        tmp_path, broker.port, delivery.url, FIELDLOOP_FLEETS=FLEET
    ).start()
    yield broker, delivery
    delivery.close()
    telemetry.kill()
    broker.kill()


def simulate(
    broker: Mosquitto, delivery: DeliveryProcess, report: Path, *more: str, **environ: str
) -> tuple[int, dict[str, Any]]:
    arguments = ["run", "--fleet", FLEET, "--port", str(broker.port), "--store", delivery.url]
    code = main(
        [*arguments, "--report", str(report), *more],
        {
            "FIELDLOOP_JOIN_S": "1",
            "FIELDLOOP_TURN_S": "0.5",
            "FIELDLOOP_SIGNAL_FRAME_S": "1",
            "FIELDLOOP_MQTT_RECONNECT_BASE_S": "0.1",
            "FIELDLOOP_MQTT_RECONNECT_CAP_S": "0.5",
            **environ,
        },
    )
    return code, json.loads((report / "report.json").read_text("utf-8"))


def test_a_fleet_with_every_fault_ends_with_all_books_balanced_and_the_store_agreeing(
    cloud: tuple[Mosquitto, DeliveryProcess], tmp_path: Path
):
    broker, delivery = cloud
    bundle = ["model", "--store", delivery.url, "--fleet", FLEET, "--version", "1"]
    assert main([*bundle, "--size", "60000"], {}) == 0
    delivery.start()
    code, report = simulate(
        broker, delivery, tmp_path / "report",
        "--devices", "10", "--seconds", "8", "--processes", "1", "--root", str(delivery.root),
        FIELDLOOP_NETWORK_CUTS_PER_HOUR="300", FIELDLOOP_NETWORK_CUT_S="2",
        FIELDLOOP_NETWORK_RTT_MS="40", FIELDLOOP_NETWORK_LOSS="0.02",
        FIELDLOOP_FAULTS_POWER_CUTS_PER_HOUR="300", FIELDLOOP_FAULTS_OFF_S="1",
        FIELDLOOP_FAULTS_CLOCK_SHARE="0.3", FIELDLOOP_LABELS_SHARE="0.3",
        FIELDLOOP_LABELS_DELAY_S="1",
    )  # fmt: skip
    audit, summary = report["audit"], report["summary"]
    assert audit["faults"] == []
    assert code == 0
    assert audit["totals"]["pending"] == 0
    assert audit["compared"] == audit["logs"] >= 20
    assert audit["totals"]["stored"] == audit["totals"]["produced"] > 50
    assert summary["boots"] > 10
    assert count(delivery.store, "frames") > 30
    assert count(delivery.store, "annotations") > 3
    names = {row.device for row in device_services(delivery.store, FLEET)}
    assert len(names) == 10
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")


def test_rows_that_the_store_has_lost_are_found_and_fail_the_run(
    cloud: tuple[Mosquitto, DeliveryProcess], tmp_path: Path
):
    broker, delivery = cloud
    with delivery.store.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER eat AFTER INSERT ON frames WHEN new.seq % 2 = 0"
            " BEGIN DELETE FROM frames WHERE rowid = new.rowid; END"
        )
    code, report = simulate(
        broker,
        delivery,
        tmp_path / "report",
        "--devices",
        "2",
        "--seconds",
        "3",
        "--processes",
        "1",
    )
    assert code == 1
    assert report["audit"]["lost"] > 0
    assert "acknowledged rows are not in the store" in report["audit"]["faults"][0]
