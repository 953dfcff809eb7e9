"""The service as its devices see it: over a real broker, into a real database."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from fieldloop_contract.messages import LedgerTotals, Reported, Status
from fieldloop_store.engine import Store
from fieldloop_store.queries import annotations, device_services, frames_between
from support.broker import Mosquitto, free_port
from support.postgres import Postgres, shared_postgres
from support.telemetry import (
    EPOCH,
    Device,
    TelemetryProcess,
    annotation,
    count,
    event,
    frames,
    result,
    rows,
    wait_until,
)


def seqs(store: Store) -> list[int]:
    return [row.seq for row in frames_between(store, "demo", device="subject-1", stream="imu")]


def test_what_is_acknowledged_is_in_the_store(
    telemetry: TelemetryProcess, device: Device, store: Store
) -> None:
    device.send("ingestion", "frames", frames([*range(1, 11), 20]))
    device.send("inference", "results", rows([(1, result(1))]))
    device.send("inference", "events", rows([(2, event(2))]))
    device.await_ack((1, 10), (20, 20))
    device.await_ack((1, 2), service="inference")
    assert seqs(store) == [*range(1, 11), 20]
    assert (count(store, "results"), count(store, "events")) == (1, 1)
    assert telemetry.stop() == 0


def test_repeated_and_reordered_batches_change_nothing_and_are_acknowledged_again(
    telemetry: TelemetryProcess, device: Device, store: Store
) -> None:
    chooser = random.Random(3)
    batches = [frames(range(at, at + 5)) for at in range(1, 101, 5)] * 3
    chooser.shuffle(batches)
    for batch in batches:
        device.send("ingestion", "frames", batch)
    device.await_ack((1, 100))
    assert seqs(store) == list(range(1, 101))
    before = device.ack_messages
    device.send("ingestion", "frames", batches[0])
    wait_until(lambda: bool(device.collect()) or device.ack_messages > before)
    assert seqs(store) == list(range(1, 101))


def test_wrong_payloads_are_refused_and_good_ones_between_them_are_kept(
    telemetry: TelemetryProcess, device: Device, store: Store
) -> None:
    hostile = [
        b"",
        b"rubbish",
        b"\x81" * 100_000,
        b"[" * 100_000,
        b"x" * 300_000,
        frames(range(1, 4))[:-7],
        frames([90], value=float("nan")),
        rows([(91, {"label": 1})]),
    ]
    for at, payload in enumerate(hostile):
        for channel in ("frames", "results", "events", "annotations", "status", "reported"):
            device.send("ingestion", channel, payload)
        device.send("ingestion", "frames", frames([at + 1]))
        time.sleep(0.02)
    # Two rows of what was refused had a seq to acknowledge: they will never be right.
    device.await_ack((1, len(hostile)), (90, 91))
    assert seqs(store) == list(range(1, len(hostile) + 1))
    assert count(store, "dead_letters") > 20
    assert telemetry.process is not None
    assert telemetry.process.poll() is None
    assert '"door.unexpected"' not in telemetry.log()


def test_the_same_key_with_other_content_raises_an_alarm(
    telemetry: TelemetryProcess, device: Device, store: Store
) -> None:
    device.send("ingestion", "frames", frames([1, 2]))
    device.await_ack((1, 2))
    device.send("ingestion", "frames", frames([2, 3], value=0.5))
    device.await_ack((1, 3))
    assert '"event": "row.conflict"' in telemetry.log()
    assert (count(store, "frames"), count(store, "dead_letters")) == (3, 1)


def test_a_desk_labels_devices_and_a_device_only_itself(
    telemetry: TelemetryProcess, device: Device, store: Store, mosquitto: Mosquitto
) -> None:
    desk = Device(mosquitto.port, "desk")
    desk.send("labels", "annotations", rows([(1, annotation(1)), (2, annotation(2))]))
    device.send("ingestion", "annotations", rows([(1, annotation(1, device="subject-9"))]))
    desk.await_ack((1, 2), service="labels")
    device.await_ack((1, 1))
    assert [a.device for a in annotations(store, "demo")] == ["subject-1", "subject-1"]
    desk.stop()


def test_presence_follows_the_session_that_speaks(
    telemetry: TelemetryProcess, device: Device, store: Store
) -> None:
    def say(state: str, session: str) -> None:
        device.send(
            "ingestion", "status", Status(state=state, session=session).encode(), retain=True
        )

    def standing() -> tuple[str, str] | None:
        found = [(row.state, row.session) for row in device_services(store, "demo")]
        return found[0] if found else None

    say("online", "s1")
    say("online", "s2")
    say("offline", "s1")
    totals = LedgerTotals(epoch=EPOCH, produced=1, stored=0, pending=1, withheld=0)
    device.send("ingestion", "reported", Reported(session="s2", ledgers=[totals]).encode())
    wait_until(lambda: count(store, "ledgers") == 1)
    assert standing() == ("online", "s2")
    say("offline", "s2")
    wait_until(lambda: standing() == ("offline", "s2"))


def test_a_service_that_starts_late_learns_who_is_there(
    tmp_path: Path, mosquitto: Mosquitto, url: str, device: Device
) -> None:
    device.send("ingestion", "status", Status(state="online", session="s").encode(), retain=True)
    late = TelemetryProcess(tmp_path, mosquitto.port, url).start()
    store = Store.open(url)
    wait_until(lambda: [r.state for r in device_services(store, "demo")] == ["online"])
    store.close()
    assert late.stop() == 0


def test_nothing_is_acknowledged_while_the_database_is_locked(
    telemetry: TelemetryProcess, device: Device, store: Store
) -> None:
    device.send("ingestion", "frames", frames([1]))
    device.await_ack((1, 1))
    with store.begin():
        device.send("ingestion", "frames", frames([2, 3]))
        wait_until(lambda: '"event": "store.away"' in telemetry.log())
        assert device.ranges() == [(1, 1)]
    device.await_ack((1, 3))
    assert '"event": "store.back"' in telemetry.log()
    assert seqs(store) == [1, 2, 3]


def test_rows_sent_while_the_database_was_away_are_stored_when_it_is_back(
    tmp_path: Path, mosquitto: Mosquitto, device: Device
) -> None:
    cluster = Postgres().start()
    settings = {"FIELDLOOP_COMMIT_ROWS_MAX": "500", "FIELDLOOP_MQTT_QUEUE_MAX": "10"}
    url = cluster.new_database()
    service = TelemetryProcess(tmp_path, mosquitto.port, url, **settings)
    try:
        service.start()
        device.send("ingestion", "frames", frames([1]))
        device.await_ack((1, 1))
        cluster.kill()
        batches = {at: frames(range(at, at + 100)) for at in range(2, 3002, 100)}
        for batch in batches.values():
            device.send("ingestion", "frames", batch)
        wait_until(lambda: '"event": "store.away"' in service.log())
        time.sleep(1)
        assert device.ranges() == [(1, 1)]
        assert service.process is not None
        assert service.process.poll() is None
        cluster.start()

        def send_again_until_all_is_acknowledged() -> bool:
            known = device.ranges()
            for at, batch in batches.items():
                if not any(first <= at <= last for first, last in known):
                    device.send("ingestion", "frames", batch)
            time.sleep(1)
            return device.ranges() == [(1, 3001)]

        wait_until(send_again_until_all_is_acknowledged, 60)
        store = Store.open(url)
        assert seqs(store) == list(range(1, 3002))
        store.close()
    finally:
        service.kill()
        cluster.remove()


def test_memory_stays_bounded_while_the_database_is_locked(
    tmp_path: Path, mosquitto: Mosquitto, device: Device, url: str
) -> None:
    bounds = {"FIELDLOOP_COMMIT_BYTES_MAX": str(2 << 20), "FIELDLOOP_MQTT_QUEUE_MAX": "10"}
    service = TelemetryProcess(tmp_path, mosquitto.port, url, **bounds).start()
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    store = Store.open(url)
    large = random.Random(1).randbytes(200_000)
    with store.begin():
        before = process.memory_info().rss
        for _ in range(300):
            device.send("ingestion", "frames", large)
            time.sleep(0.005)
        wait_until(lambda: '"event": "store.away"' in service.log())
        time.sleep(1)
        grown = process.memory_info().rss - before
    store.close()
    service.kill()
    # 60 MB were sent. 2 MiB may wait for the commit, 2 MB in the queue, and the rest is slack.
    assert grown < 20 << 20, grown


def test_broker_that_comes_back_empty_is_subscribed_again(
    telemetry: TelemetryProcess, device: Device, store: Store, mosquitto: Mosquitto
) -> None:
    mosquitto.kill()
    mosquitto.start()
    wait_until(lambda: telemetry.log().count('"event": "broker.connected"') == 2)
    wait_until(lambda: device.session.connected and device.session.connections == 2)
    device.send("ingestion", "frames", frames([1]))
    device.await_ack((1, 1))


def test_replicas_of_a_shared_group_add_up(
    tmp_path: Path, mosquitto: Mosquitto, device: Device
) -> None:
    url = shared_postgres().new_database()
    share = {"FIELDLOOP_SHARE": "telemetry", "FIELDLOOP_MQTT_PROTOCOL": "5"}
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    replicas = [TelemetryProcess(f, mosquitto.port, url, **share).start() for f in folders]
    for at in range(1, 401, 10):
        device.send("ingestion", "frames", frames(range(at, at + 10)))
    device.await_ack((1, 400))
    store = Store.open(url)
    assert seqs(store) == list(range(1, 401))
    store.close()
    for replica in replicas:
        assert replica.stop() == 0


def test_health_and_metrics_tell_of_the_work(
    tmp_path: Path, mosquitto: Mosquitto, device: Device, url: str
) -> None:
    port = free_port()
    service = TelemetryProcess(
        tmp_path, mosquitto.port, url, FIELDLOOP_HEALTH_PORT=str(port)
    ).start()
    device.send("ingestion", "frames", frames([1, 2]))
    device.send("ingestion", "frames", b"rubbish")
    device.await_ack((1, 2))

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    wait_until(lambda: 'refused_total{code="batch.cbor"} 1.0' in get("/metrics"))
    assert 'fieldloop_telemetry_rows_stored_total{table="frames"} 2.0' in get("/metrics")
    assert json.loads(get("/healthz"))["healthy"] is True
    assert service.stop() == 0


def ledger(url: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fieldloop_telemetry", "ledger", "--store", url, *more],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_ledger_command_says_whether_the_books_balance(
    telemetry: TelemetryProcess, device: Device, store: Store, url: str
) -> None:
    device.send("ingestion", "frames", frames(range(1, 11)))
    device.await_ack((1, 10))
    unreported = ledger(url)
    assert unreported.returncode == 1
    assert "the device has not reported this log" in unreported.stdout
    totals = LedgerTotals(epoch=EPOCH, produced=10, stored=10, pending=0, withheld=0)
    device.send("ingestion", "reported", Reported(session="s", ledgers=[totals]).encode())
    wait_until(lambda: count(store, "ledgers") == 1)
    told = ledger(url, "--json")
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["balanced"] is True
    assert document["logs"][0]["held"]["rows"] == {"frames": 10}
    assert ledger(url, "--device", "subject-1").stdout.endswith("1 logs: the books balance\n")


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.sqlite", "mysql://x/y"])
def test_a_ledger_of_no_store_is_a_configuration_error(url: str) -> None:
    told = ledger(url)
    assert told.returncode == 78
    assert "Traceback" not in told.stderr
