"""The uplink against a real broker and a cloud that acknowledges late, twice, or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils  # noqa: F401 - logs are then made in this process, which is quicker

from fieldloop_buffer import Entry, Kind, UplinkSettings
from fieldloop_contract.frames import Clock
from fieldloop_contract.messages import Ack, Want
from fieldloop_runtime.clock import Now
from fieldloop_runtime.link import LinkMeter, LinkSettings, Use
from support.broker import Mosquitto
from support.cloud import PretendCloud
from support.uplink_device import FAST, Device, check


@pytest.fixture
def cloud(mosquitto: Mosquitto) -> Iterator[PretendCloud]:
    found = PretendCloud(mosquitto.port).start()
    yield found
    found.stop()


@pytest.fixture
def device(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Device]:
    found = Device(tmp_path, mosquitto.port)
    yield found
    found.close()


def test_rows_of_every_kind_arrive_once_and_withheld_ones_never(
    device: Device, cloud: PretendCloud
) -> None:
    device.uplink.start()
    for _ in range(10):
        device.write(7)
        device.write(3, withheld=True)
        for kind in (Kind.RESULT, Kind.EVENT, Kind.ANNOTATION, Kind.SAMPLE):
            if kind is not Kind.SAMPLE:
                device.write(2, kind=kind)
        device.turn()
    device.log.commit(force=True)
    device.run_until(device.drained)
    check(device, cloud)
    assert device.log.ledgers()[0].withheld == 30
    assert max(cloud.copies.values()) == 1
    assert device.uplink.bytes_sent > 0
    assert device.uplink.bytes_received > 0


def test_a_row_leaves_the_books_by_the_clouds_word_and_not_by_the_brokers(
    device: Device, cloud: PretendCloud
) -> None:
    cloud.mute.set()
    device.uplink.start()
    device.write(20)
    device.run_until(lambda: len(cloud.rows) == 20)
    device.run_until(lambda: max(cloud.copies.values()) >= 3)  # sent again on silence
    assert device.log.ledgers()[0].stored == 0
    cloud.mute.clear()
    device.run_until(device.drained)
    check(device, cloud)


def test_answers_that_are_lost_repeated_out_of_order_or_foreign_do_no_harm(
    device: Device, cloud: PretendCloud
) -> None:
    rng = random.Random(3)
    held: list[Ack] = []

    def bend(acks: list[Ack]) -> list[Ack]:
        held.extend(acks)
        rng.shuffle(held)
        out = [held.pop() for _ in range(rng.randrange(0, len(held) + 1))]
        out += out[:1] * 2
        if rng.random() < 0.3:
            out = []  # lost
        out.append(Ack(epoch="0" * 32, ranges=[(1, 10_000)]))
        out.append(Ack(epoch=device.log.epoch, ranges=[(1_000_000, 2_000_000)]))
        return out

    cloud.bend = bend
    device.uplink.start()
    for _ in range(30):
        device.write(20)
        device.turn()
        time.sleep(0.01)
    device.log.commit(force=True)
    device.run_until(device.drained, 60)
    check(device, cloud)


def test_a_garbled_answer_is_counted_and_ignored(device: Device, cloud: PretendCloud) -> None:
    device.uplink.start()
    device.run_until(lambda: device.uplink.connected)
    for payload in (b"", b"{", b"[]", b'{"v":1,"epoch":"x","ranges":[]}', b"\xff" * 70_000):
        cloud._session.publish("fieldloop/v1/demo/pump-1/ingestion/ack", payload)
    device.run_until(lambda: device.uplink.figures.answers_refused == 5)
    device.write(5)
    device.run_until(lambda: device.drained() and len(cloud.rows) == 5)


def test_a_broker_that_is_killed_wiped_and_flaps_loses_nothing(
    device: Device, cloud: PretendCloud, mosquitto: Mosquitto
) -> None:
    device.uplink.start()
    for _ in range(4):
        device.write(60)
        deadline = time.monotonic() + 0.4
        while time.monotonic() < deadline:
            device.turn()
            time.sleep(0.02)
        mosquitto.kill()
        device.write(60)
        device.turn()
        time.sleep(0.1)
        mosquitto.start()
    device.log.commit(force=True)
    device.run_until(device.drained, 60)
    check(device, cloud)


def test_a_half_open_connection_is_noticed_and_what_was_sent_into_it_is_sent_again(
    device: Device, cloud: PretendCloud, mosquitto: Mosquitto
) -> None:
    device.uplink.start()
    device.write(10)
    device.run_until(lambda: len(cloud.rows) == 10)
    mosquitto.freeze()
    device.write(50)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        device.turn()
        time.sleep(0.02)
    mosquitto.thaw()
    device.run_until(device.drained, 60)
    check(device, cloud)


def test_what_was_written_in_weeks_offline_goes_up_marked_and_behind_live_data(
    tmp_path: Path, mosquitto: Mosquitto, cloud: PretendCloud
) -> None:
    slow = FAST.model_copy(update={"backlog_bytes_s": 60_000, "batch_rows": 20})
    device = Device(tmp_path, mosquitto.port, slow)
    try:
        device.write(1_000)
        device.log.commit(force=True)
        backlog = set(device.written)
        device.uplink.start()
        device.run_until(lambda: len(cloud.rows) > 0)
        device.write(10)
        live = device.written - backlog
        device.run_until(lambda: live <= cloud.keys("ingestion"), 5)
        assert not device.drained(), "live data waited for the backlog"
        device.run_until(device.drained, 60)
        check(device, cloud)
        for (_, _, epoch, seq), historical in cloud.historical.items():
            assert historical is ((epoch, seq) in backlog)
    finally:
        device.close()


def test_rows_that_the_cloud_wants_again_are_sent_again(
    device: Device, cloud: PretendCloud
) -> None:
    device.uplink.start()
    device.write(40)
    device.run_until(lambda: device.drained() and len(cloud.rows) == 40)
    epoch = device.log.epoch
    cloud.copies.clear()
    cloud.want("pump-1", "ingestion", Want(epoch=epoch, ranges=[(5, 9), (30, 2_000)]))
    device.run_until(lambda: len(cloud.copies) == 16)
    device.run_until(device.drained)
    assert {key[3] for key in cloud.copies} == {*range(5, 10), *range(30, 41)}
    check(device, cloud)


def test_an_uplink_that_starts_before_the_log_exists_waits_for_it(
    tmp_path: Path, mosquitto: Mosquitto, cloud: PretendCloud
) -> None:
    first = Device(tmp_path / "a", mosquitto.port)
    first.log.close()
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    first.uplink.start()
    time.sleep(0.5)
    assert first.uplink.alive
    second = Device(tmp_path / "a", mosquitto.port)
    first.log = second.log
    first.write(5)
    first.run_until(lambda: first.drained() and len(cloud.rows) == 5)
    first.close()


def test_a_log_that_is_replaced_under_the_uplink_is_followed(
    device: Device, cloud: PretendCloud
) -> None:
    device.uplink.start()
    device.write(30)
    device.run_until(lambda: device.drained() and len(cloud.rows) == 30)
    cloud.mute.set()
    device.write(30)
    device.log.commit(force=True)
    device.log._file._reattach("a test says so")
    device.write(30)
    cloud.mute.clear()
    device.run_until(device.drained, 60)
    assert {k for k in cloud.keys("ingestion") if k in device.written} == device.written
    assert cloud.clashes == []
    assert len(device.log.ledgers()) == 2
    assert all(ledger.balanced for ledger in device.log.ledgers())


def test_a_backlog_of_many_rows_costs_little_memory(
    tmp_path: Path, mosquitto: Mosquitto, cloud: PretendCloud
) -> None:
    device = Device(tmp_path, mosquitto.port, UplinkSettings(batch_age_s=0.05))
    try:
        device.write(20_000, kind=Kind.RESULT)
        device.log.commit(force=True)
        before = resident_mib()
        cloud.mute.set()
        device.uplink.start()
        device.run_until(lambda: device.uplink.figures.in_flight >= 6)
        held = device.uplink._window.flights
        assert sum(len(flight.seqs) for flight in held) <= 64
        assert resident_mib() - before < 20
    finally:
        device.close()


def resident_mib() -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def test_a_row_that_the_cloud_cannot_read_is_found_dropped_and_told_and_its_neighbours_pass(
    device: Device, cloud: PretendCloud
) -> None:
    device.write(30, kind=Kind.RESULT)
    nested = b'{"n":' + b"[" * 100 + b"]" * 100 + b"}"
    poison = device.log.append(Entry(Kind.RESULT, "imu", 5, nested))
    device.write(30, kind=Kind.RESULT)
    device.uplink.start()
    last_s = [0.0]

    def done() -> bool:
        if time.monotonic() - last_s[0] > 0.2:  # live rows go on, and are answered
            last_s[0] = time.monotonic()
            device.write(1, kind=Kind.RESULT)
        (ledger,) = device.log.ledgers()
        return bool(ledger.dropped)

    device.run_until(done, 90)
    device.run_until(device.drained)

    def told() -> list[Any]:
        rows = list(cloud.documents.values())
        return [row["data"] for row in rows if row.get("type") == "log.dropped"]

    device.run_until(lambda: bool(told()))
    (event,) = told()
    assert (event["cause"], event["rows"]) == ("unreadable", 1)
    assert event["ranges"] == [[device.log.epoch, poison, poison]]
    assert device.written <= cloud.keys("ingestion")
    assert (device.log.epoch, poison) not in cloud.keys("ingestion")
    assert device.log.rejects() == {"uplink.unreadable": 1}
    (ledger,) = device.log.ledgers()
    assert ledger.balanced
    assert ledger.dropped == {"unreadable": 1}
    assert cloud.unreadable < 40


def test_a_cloud_that_answers_nothing_makes_no_row_unreadable(
    device: Device, cloud: PretendCloud
) -> None:
    cloud.mute.set()
    device.write(5)
    device.uplink.start()
    device.run_until(lambda: device.uplink.figures.batches_resent >= 8, 60)
    assert not device.log.ledgers()[0].dropped
    cloud.mute.clear()
    device.run_until(device.drained)
    check(device, cloud)


def test_what_the_months_budget_does_not_allow_waits_and_goes_up_in_the_next_month(
    tmp_path: Path, mosquitto: Mosquitto, cloud: PretendCloud
) -> None:
    seconds = [1_940_000_000]

    def clock() -> Now:
        return Now(seconds[0] * 10**9, 0, "0" * 32, Clock.SYNCHRONISED)

    meter = LinkMeter(LinkSettings(bytes_per_month=200_000), str(tmp_path), "ingestion", clock)
    device = Device(tmp_path, mosquitto.port, meter=meter)
    try:
        device.uplink.start()
        meter.spend(175_000)
        for _ in range(400):  # 100 KB of frames, of which about 5 KB are left for raw data
            device.write(1)
            device.turn()
            time.sleep(0.002)
        device.run_until(lambda: meter.room(Use.RAW) == 0)
        device.write(20, kind=Kind.RESULT)
        device.run_until(lambda: len(cloud.documents) == 20)
        until_s = time.monotonic() + 1.5  # longer than a batch waits before it is sent again
        device.run_until(lambda: time.monotonic() > until_s)
        assert 0 < len(cloud.frames) < 400
        assert meter.spent < 200_000
        (ledger,) = device.log.ledgers()
        assert ledger.pending == 400 - len(cloud.frames) > 0
        assert not ledger.dropped
        seconds[0] += 31 * 86_400
        meter.spend(1)
        device.run_until(device.drained)
        check(device, cloud)
    finally:
        device.close()
