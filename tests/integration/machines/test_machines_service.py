"""The machines service on a real store, as a real process, with real ways out."""

from __future__ import annotations

import email
import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiosmtpd.controller import Controller

from fieldloop_contract.topics import notice_filter
from fieldloop_machines.__main__ import main
from fieldloop_machines.attendant import Attendant
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.mqtt import Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_runtime.webhook import verify
from fieldloop_store import commissionings
from fieldloop_store.alarms import find_alarm, list_alarms
from fieldloop_store.engine import Store
from fieldloop_store.evidence import write_evidence
from fieldloop_store.queries import annotations
from support.broker import Mosquitto, free_port
from support.floor import FLEET, HOP_S, SLOT, START_NS, Floor, healthy
from support.postgres import shared_postgres
from support.telemetry import wait_until

SECRET = "a-secret-of-the-webhook-for-tests"
DAY = int(24 * 3600 / HOP_S) + 1


@pytest.fixture(params=["sqlite", "postgresql"])
def floor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Floor]:
    url = (
        f"sqlite:///{tmp_path / 'store.sqlite'}"
        if request.param == "sqlite"
        else shared_postgres().new_database()
    )
    store = Store.open(url)
    yield Floor(store)
    store.close()


def attendant(floor: Floor, channels: tuple[str, ...] = ()) -> Attendant:
    return Attendant(
        floor.store, FLEET, channels=channels, broker="b1", journal=Journal("machines")
    )


def sent(floor: Floor) -> list[dict[str, Any]]:
    with floor.store.read() as connection:
        rows = connection.exec_driver_sql("SELECT document FROM notices ORDER BY id").scalars()
        return [json.loads(r) if isinstance(r, str) else r for r in rows]


def test_alarms_follow_what_devices_say_each_event_once(floor: Floor) -> None:
    ref = floor.model().ref()
    device = floor.machine("pump-1")
    floor.serves(device, ref)
    one = attendant(floor)
    floor.alarm(device, ref, t_ns=START_NS)
    floor.alarm(device, ref, raised=False, t_ns=START_NS + 60 * 10**9)
    floor.alarm(device, ref, t_ns=START_NS + 90 * 10**9)
    assert one.look(START_NS + 10**9) == 3
    assert attendant(floor).look(START_NS + 2 * 10**9) == 0  # another process, the same cursor
    (row,) = list_alarms(floor.store, FLEET)
    assert (row.machine, row.site, row.life.raises, row.life.standing) == (
        "pump-1",
        "north",
        2,
        True,
    )


def test_an_event_that_cannot_be_read_takes_no_other_with_it(floor: Floor) -> None:
    ref = floor.model().ref()
    device = floor.machine("pump-1")
    floor.alarm(device, ref, t_ns=-5)
    floor.alarm(device, ref, slot=None, t_ns="soon")
    floor.alarm(device, ref, stream="x" * 500)
    floor.alarm(device, ref)
    assert attendant(floor).look(START_NS + 10**9) == 4
    assert len(list_alarms(floor.store, FLEET)) == 1


def test_a_bad_model_on_forty_machines_is_at_most_three_notices_that_name_it(floor: Floor) -> None:
    good, bad = floor.model(1).ref(), floor.model(2).ref()
    devices = [floor.machine(f"pump-{i}", site=f"site-{i % 4}") for i in range(60)]
    for i, device in enumerate(devices):
        floor.serves(device, bad if i < 40 else good)
    now_ns = START_NS + 3600 * 10**9
    rng = np.random.default_rng(1)
    due = sorted(zip(rng.uniform(0, 240, 40).tolist(), devices[:40], strict=True))
    for second in range(0, 900, 15):
        while due and due[0][0] <= second:
            floor.alarm(due.pop(0)[1], bad)
        attendant(floor).look(now_ns + second * 10**9)
    documents = [d for d in sent(floor) if d["at_ns"] <= now_ns + 600 * 10**9]
    assert 1 <= len(documents) <= 3
    flood = next(d for d in documents if d["flood"])
    assert flood["common"][0]["trait"] == "model"
    assert flood["common"][0]["value"] == "activity 2"
    assert sorted(a["alarm"] for d in sent(floor) for a in d["alarms"]) == sorted(
        row.id for row in list_alarms(floor.store, FLEET)
    )


def test_a_commissioning_goes_from_waiting_to_armed_by_a_person(floor: Floor) -> None:
    ref = floor.model().ref()
    device = floor.machine("pump-1")
    floor.serves(device, ref)
    url = floor.store.engine.url.render_as_string(hide_password=False)
    base = ["--store", url, "--fleet", FLEET, "--actor", "ann"]
    assert main([*base, "commission", "pump-1"], {}) == 0
    (row,) = commissionings.list_commissionings(floor.store, FLEET)
    begun_ns = row.begun_ns
    one = attendant(floor)
    end_ns = floor.scores(device, ref, healthy(DAY // 2, 1), t0_ns=begun_ns)
    one.assess(end_ns)
    (row,) = commissionings.list_commissionings(floor.store, FLEET)
    assert (row.state, row.assessment["words"]) == ("waiting", "12.0 of 24.0 running hours")
    assert row.assessment["ready_in_s"] == pytest.approx(12 * 3600, rel=0.01)
    # It stands still for a while; then it runs on.
    end_ns = floor.scores(device, ref, np.full(500, 50.0), t0_ns=end_ns, running=False)
    floor.scores(device, ref, healthy(DAY // 2 + 2, 2), t0_ns=end_ns)
    one.assess(end_ns)
    (row,) = commissionings.list_commissionings(floor.store, FLEET)
    assert row.state == "ready", row.assessment
    assert row.record is not None
    assert row.record.threshold < 50.0
    assert main([*base, "arm", row.id], {}) == 0
    (armed,) = commissionings.in_force(floor.store, FLEET)
    assert (armed.armed_by, armed.machine, armed.record) == ("ann", "pump-1", row.record)
    one.assess(end_ns)  # judged again, the same rows are the same record
    assert commissionings.in_force(floor.store, FLEET) == [armed]
    assert main([*base, "repaired", "pump-1", "--because", "new bearing"], {}) == 0
    assert commissionings.in_force(floor.store, FLEET) == []


def test_a_commissioning_says_what_it_lacks(
    floor: Floor, capsys: pytest.CaptureFixture[str]
) -> None:
    url = floor.store.engine.url.render_as_string(hide_password=False)
    base = ["--store", url, "--fleet", FLEET]
    assert main([*base, "commission", "pump-9"], {}) == 78
    assert "no stream measures pump-9" in capsys.readouterr().err
    floor.machine("pump-1")
    assert main([*base, "commission", "pump-1"], {}) == 0
    attendant(floor).assess(START_NS)
    (row,) = commissionings.list_commissionings(floor.store, FLEET)
    assert row.state == "waiting"
    assert "no model is active in slot main" in row.assessment["words"]
    assert main([*base, "arm", row.id], {}) == 78
    assert "only one that is ready can be armed" in capsys.readouterr().err


def test_evidence_is_one_zip_with_all_that_belongs_to_an_alarm(
    floor: Floor, tmp_path: Path
) -> None:
    manifest = floor.model()
    ref = manifest.ref()
    device = floor.machine("pump-1")
    floor.serves(device, ref)
    end_ns = floor.scores(device, ref, healthy(300, 1))
    floor.alarm(device, ref, t_ns=end_ns)
    attendant(floor).look(START_NS + 10**9)
    (row,) = list_alarms(floor.store, FLEET)
    paths = [str(tmp_path / name) for name in ("a.zip", "b.zip")]
    answers = [write_evidence(floor.store, FLEET, row.id, p, now_ns=end_ns) for p in paths]
    assert answers[0]["sha256"] == answers[1]["sha256"]  # equal evidence is an equal file
    with zipfile.ZipFile(paths[0]) as archive:
        names = set(archive.namelist())
        assert {"alarm.json", "scores.csv", "model.json", "plots/score.png", "SHA256SUMS"} <= names
        assert archive.read("model.json") == manifest.encode()
        assert archive.read("plots/score.png").startswith(b"\x89PNG")
        assert len(archive.read("scores.csv").splitlines()) == 301
        assert json.loads(archive.read("alarm.json"))["history"][0]["event"] == "raised"


class Hook(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, dict[str, Any]]]
    fails: int

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = type(self)
        kind.fails -= 1
        if kind.fails >= 0:
            self.send_error(503)
            return
        headers = {k.lower(): v for k, v in self.headers.items()}
        name = verify(SECRET, headers, body, int(time.time()))
        kind.seen.append((name, json.loads(body)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Inbox:
    def __init__(self) -> None:
        self.mail: list[EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mail.append(email.message_from_bytes(envelope.content))  # type: ignore[arg-type]
        return "250 OK"


def service(environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "fieldloop_machines", "run"],
            stdout=out, stderr=out,
            env={k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")} | environ,
        )  # fmt: skip


def test_notices_reach_people_by_mail_webhook_and_mqtt_through_kills(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = Store.open(f"sqlite:///{path}")
    floor = Floor(store)
    ref = floor.model().ref()
    device = floor.machine("pump-1", site="north")
    floor.serves(device, ref)
    hook = type("OneHook", (Hook,), {"seen": [], "fails": 1})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    inbox = Inbox()
    smtp = Controller(inbox, hostname="127.0.0.1", port=free_port())
    smtp.start()
    broker = Mosquitto(tmp_path / "broker").start()
    heard: list[dict[str, Any]] = []
    listener = Session(
        MqttSettings(host="127.0.0.1", port=broker.port), "listener",
        subscriptions=[notice_filter(FLEET)],
    )  # fmt: skip
    listener.start()
    wait_until(lambda: (listener.poll(0.1), listener.connected)[1])
    environ = {
        "FIELDLOOP_FLEET": FLEET,
        "FIELDLOOP_STORE_URL": f"sqlite:///{path}",
        "FIELDLOOP_LOOK_S": "0.2",
        "FIELDLOOP_MQTT_HOST": "127.0.0.1",
        "FIELDLOOP_MQTT_PORT": str(broker.port),
        "FIELDLOOP_WEBHOOK_URL": f"http://127.0.0.1:{server.server_address[1]}/hook",
        "FIELDLOOP_WEBHOOK_SECRET": SECRET,
        "FIELDLOOP_MAIL_HOST": "127.0.0.1",
        "FIELDLOOP_MAIL_PORT": str(smtp.port),
        "FIELDLOOP_MAIL_TLS": "false",
        "FIELDLOOP_MAIL_SENDER": "fieldloop@example.org",
        "FIELDLOOP_MAIL_TO": "ann@example.org, south=bo@example.org",
    }
    log = tmp_path / "machines.log"
    process = service(environ, log)
    try:
        floor.alarm(device, ref)
        wait_until(lambda: bool(list_alarms(store, FLEET)), 30)
        process.send_signal(signal.SIGKILL)  # while the alarm waits for others of its site
        process.wait()
        process = service(environ, log)

        def told() -> bool:
            event = listener.poll(0.05)
            if isinstance(event, Received):
                heard.append(json.loads(event.payload))
            return bool(heard and inbox.mail and hook.seen)

        wait_until(told, 60)
    finally:
        process.terminate()
        status = process.wait(20)
        listener.stop()
        smtp.stop()
        server.shutdown()
        broker.kill()
    assert status == 0, log.read_text()
    (row,) = list_alarms(store, FLEET)
    subject = "alarm raised on pump-1 at north"
    assert [h["data"]["subject"] for h in heard] == [subject]
    assert [m["Subject"] for m in inbox.mail] == [f"[fieldloop] {subject}"]
    assert inbox.mail[0]["To"] == "ann@example.org"
    assert [d["data"]["alarms"][0]["alarm"] for _, d in hook.seen] == [row.id]
    with sqlite3.connect(path) as connection:
        ((told_all, done),) = connection.execute("SELECT told, sent FROM notices").fetchall()
    assert told_all
    assert set(json.loads(done)) == {"mail", "mqtt", "webhook"}
    store.close()


def test_a_person_judges_and_shelves_by_the_command(floor: Floor) -> None:
    ref = floor.model().ref()
    device = floor.machine("pump-1")
    floor.alarm(device, ref)
    attendant(floor).look(START_NS + 10**9)
    (row,) = list_alarms(floor.store, FLEET)
    url = floor.store.engine.url.render_as_string(hide_password=False)
    base = ["--store", url, "--fleet", FLEET, "--actor", "ann"]
    assert main([*base, "acknowledge", row.id], {}) == 0
    assert main([*base, "judge", row.id, "fault"], {}) == 0
    assert main([*base, "shelve", row.id, "--hours", "2", "--reason", "part is ordered"], {}) == 0
    assert main([*base, "shelve", row.id, "--hours", "-2", "--reason", "x"], {}) == 78
    assert main([*base, "show", row.id], {}) == 0
    after = find_alarm(floor.store, FLEET, row.id)
    assert after is not None
    assert (after.life.phase.value, after.life.verdict) == ("shelved", "fault")
    assert [x.label for x in annotations(floor.store, FLEET, device=device)] == ["fault"]
    assert after.slot == SLOT
