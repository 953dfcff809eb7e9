"""Selected samples go below telemetry: on a slow link nothing waits for more than one batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlite_utils  # noqa: F401 - logs are then made in this process, which is quicker

from fieldloop_buffer import Kind, UplinkSettings
from fieldloop_contract.messages import Want
from support.broker import Mosquitto
from support.cloud import PretendCloud
from support.slow_link import SlowLink
from support.uplink_device import Device, check

SETTINGS = UplinkSettings(batch_age_s=0.05, batch_bytes=16 * 1024)
BATCH_ROWS = SETTINGS.batch_bytes // 4 // 240 + 1
"""Most samples of a batch: each has 240 bytes and its header."""


@pytest.fixture
def cloud(mosquitto: Mosquitto) -> Iterator[PretendCloud]:
    found = PretendCloud(mosquitto.port).start()
    yield found
    found.stop()


@pytest.fixture
def link(mosquitto: Mosquitto) -> Iterator[SlowLink]:
    found = SlowLink(mosquitto.port, 1e9)
    yield found
    found.close()


@pytest.fixture
def device(tmp_path: Path, link: SlowLink) -> Iterator[Device]:
    found = Device(tmp_path, link.port, SETTINGS)
    yield found
    found.close()


def samples(cloud: PretendCloud) -> int:
    return len(cloud.frames)


def test_live_rows_pass_samples_that_wait_for_a_slow_link(
    device: Device, cloud: PretendCloud, link: SlowLink
) -> None:
    device.write(2_000, kind=Kind.SAMPLE)
    device.log.commit(force=True)
    device.uplink.start()
    device.run_until(lambda: samples(cloud) > 0)
    link.bytes_s = 40_000
    for _ in range(3):
        # Two more batches may be on their way: the one in flight, and one begun meanwhile.
        device.write(5, kind=Kind.RESULT)
        device.write(5, kind=Kind.EVENT)
        device.turn()
        device.log.commit(force=True)
        before = samples(cloud)
        wanted = len(cloud.documents) + 10
        device.run_until(lambda n=wanted: len(cloud.documents) >= n)  # type: ignore[misc]
        assert samples(cloud) - before <= 3 * BATCH_ROWS
        passed = samples(cloud)
        device.run_until(lambda n=passed: samples(cloud) > n)  # type: ignore[misc]
        assert samples(cloud) < 2_000
    link.bytes_s = 1e9
    device.run_until(device.drained, 60)
    check(device, cloud)


def test_all_backlog_goes_up_before_the_first_sample(device: Device, cloud: PretendCloud) -> None:
    for _ in range(20):
        device.write(10, kind=Kind.SAMPLE)
        device.write(10, kind=Kind.RESULT)
        device.write(10)
    device.log.commit(force=True)
    device.uplink.start()
    device.run_until(device.drained, 60)
    check(device, cloud)
    seqs = [seq for *_, seq in cloud.order]
    is_sample = [(seq - 1) % 30 < 10 for seq in seqs]
    assert is_sample == sorted(is_sample), "a sample went up before telemetry"
    assert all(cloud.historical.values())
    device.write(5, kind=Kind.SAMPLE)
    device.run_until(lambda: device.drained() and len(cloud.rows) == 605)
    assert sum(not historical for historical in cloud.historical.values()) == 5


def test_samples_that_are_wanted_again_are_sent_again(device: Device, cloud: PretendCloud) -> None:
    device.write(30, kind=Kind.SAMPLE)
    device.uplink.start()
    device.run_until(lambda: device.drained() and len(cloud.rows) == 30)
    cloud.copies.clear()
    cloud.want("pump-1", "ingestion", Want(epoch=device.log.epoch, ranges=[(3, 9)]))
    device.run_until(lambda: len(cloud.copies) == 7)
    device.run_until(device.drained)
    check(device, cloud)


def test_a_cloud_that_is_silent_about_samples_still_gets_telemetry(
    device: Device, cloud: PretendCloud
) -> None:
    cloud.bend = lambda acks: [] if len(cloud.documents) == 0 else acks
    device.write(500, kind=Kind.SAMPLE)
    device.uplink.start()
    device.run_until(lambda: samples(cloud) > 0)
    for _ in range(5):
        device.turn()
    assert device.uplink.figures.in_flight == 1, "more samples than one batch are in flight"
    device.write(3, kind=Kind.RESULT)
    device.run_until(lambda: len(cloud.documents) == 3)
    device.run_until(device.drained, 60)
    check(device, cloud)
