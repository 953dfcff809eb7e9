"""The service as a process: starts with the model it had, reports over MQTT, ends cleanly."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fieldloop_buffer import Kind
from fieldloop_contract.messages import Backlog, Reported, Status, decode
from fieldloop_contract.topics import Topic
from fieldloop_inference.slots import Phase
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from support.broker import Mosquitto, free_port
from support.bundles import frames, make_bundle
from support.cloud import PretendCloud
from support.device import DEVICE, FLEET, Bench, InstantTrial, every_window, stored
from support.inference_process import Process

RESIDENT_BYTES_MAX = 75 << 20


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A device that was given a model and switched off."""
    device = Bench(tmp_path, begin_trial=InstantTrial).open()
    device.put(frames(30))
    device.source.order(device.source.add(*make_bundle()))
    device.until(Phase.ACTIVE)
    device.idle()
    device.close()
    yield device
    device.input.close()


def results(bench: Bench) -> list[dict[str, Any]]:
    return stored(bench.folder / "inference.sqlite", Kind.RESULT)


def wait_for(bench: Bench, count: int) -> None:
    end_s = time.monotonic() + 60
    while len(results(bench)) < count:
        assert time.monotonic() < end_s, f"{len(results(bench))} of {count} results"
        time.sleep(0.1)


def test_process_scores_reports_and_stays_small(bench: Bench, mosquitto: Mosquitto) -> None:
    topics = {
        c: str(Topic(FLEET, DEVICE, "inference", c)) for c in ("status", "reported", "results")
    }
    cloud = Session(MqttSettings(port=mosquitto.port), "cloud", subscriptions=topics.values())
    cloud.start()
    service = Process(bench, mosquitto.port)
    seen: dict[str, list[bytes]] = {topic: [] for topic in topics.values()}
    try:
        bench.put(frames(2000)[30:])
        wait_for(bench, 1999)
        resident = psutil.Process(service.process.pid).memory_info().rss
        end_s = time.monotonic() + 30
        while not all(seen.values()) and time.monotonic() < end_s:
            event = cloud.poll(0.5)
            if isinstance(event, Received):
                seen[event.topic].append(event.payload)
        output = service.end()
    finally:
        service.process.kill()
    while (event := cloud.poll(1.0)) is not None:
        if isinstance(event, Received):
            seen[event.topic].append(event.payload)
    cloud.stop()
    assert service.process.returncode == 0, output
    assert resident < RESIDENT_BYTES_MAX, f"{resident / (1 << 20):.1f} MiB resident"
    status = [decode(Status, p) for p in seen[topics["status"]]]
    assert [s.state for s in status] == ["online", "offline"]
    assert status[0].capability is not None
    assert status[0].capability.runtime in ("litert", "tflite")
    assert status[0].capability.memory_bytes > 1 << 20
    assert status[0].capability.ops["CONV_2D"] >= 7
    reported = decode(Reported, seen[topics["reported"]][-1])
    assert reported.slots[0].state == "ACTIVE"
    batch = json.loads(seen[topics["results"]][0])
    assert batch["rows"][0]["model"]["name"] == "activity"
    starts = [round((r["t0_ns"] - 10**18) / 20_000_000) for r in results(bench)]
    assert starts == every_window(2000)


def test_process_says_its_backlog_its_log_and_its_wear(bench: Bench, mosquitto: Mosquitto) -> None:
    topic = str(Topic(FLEET, DEVICE, "inference", "reported"))
    listener = Session(MqttSettings(port=mosquitto.port), "listener", subscriptions=[topic])
    listener.start()
    cloud = PretendCloud(mosquitto.port, FLEET).start()
    cloud.mute.set()
    health_port = free_port()
    service = Process(bench, mosquitto.port, FIELDLOOP_HEALTH_PORT=str(health_port))

    def told(wanted: Callable[[Backlog], bool]) -> Reported:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            event = listener.poll(0.2)
            if isinstance(event, Received):
                reported = decode(Reported, event.payload)
                if reported.backlog is not None and wanted(reported.backlog):
                    return reported
        pytest.fail("the backlog is not told")

    try:
        waiting = told(lambda backlog: backlog.rows >= 29)
        assert waiting.backlog is not None
        assert waiting.backlog.bytes > 29 * 100
        assert waiting.counters["log_bytes"] > 0
        cloud.mute.clear()
        told(lambda backlog: backlog.rows == 0)
        with urllib.request.urlopen(f"http://127.0.0.1:{health_port}/metrics", timeout=10) as got:
            metrics = got.read().decode()
    finally:
        service.end()
        service.process.kill()
        listener.stop()
        cloud.stop()
    assert 'fieldloop_backlog{what="rows"} 0.0' in metrics
    for name in ("disk_written_bytes", "disk_written_bytes_per_day", "log_bytes"):
        assert f"\nfieldloop_{name} " in metrics


def test_process_killed_at_random_scores_every_window_once(
    bench: Bench, mosquitto: Mosquitto
) -> None:
    items = frames(6000)
    bench.put(items[30:3000])
    for part, wanted in ((1, 200), (2, 1500), (3, 3500)):
        service = Process(bench, mosquitto.port)
        try:
            wait_for(bench, wanted)
        finally:
            service.end(signal.SIGKILL)
        if part == 2:
            bench.put(items[3000:])
    service = Process(bench, mosquitto.port)
    try:
        wait_for(bench, 5999)
    finally:
        service.end()
    starts = [round((r["t0_ns"] - 10**18) / 20_000_000) for r in results(bench)]
    assert starts == every_window(6000)


def test_process_says_what_is_wrong_with_its_settings(bench: Bench) -> None:
    service = Process(bench, 1, FIELDLOOP_RUNTIM="litert", FIELDLOOP_THREADS="0")
    output, _ = service.process.communicate(timeout=30)
    assert service.process.returncode == 78
    assert "did you mean FIELDLOOP_RUNTIME" in output
    assert "FIELDLOOP_THREADS" in output
    os.remove(bench.folder / "ingestion.sqlite")
    service = Process(bench, 1, FIELDLOOP_ROOT_FILE=str(bench.folder / "absent.json"))
    output, _ = service.process.communicate(timeout=30)
    assert service.process.returncode == 78
    assert "trusted root" in output
