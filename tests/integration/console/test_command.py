"""The `fieldloop` command as it is run, against a console as it is run; and `fieldloop up`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_console import passwords
from fieldloop_machines.attendant import Attendant
from fieldloop_runtime.hosting.broker import free_port
from fieldloop_runtime.journal import Journal
from fieldloop_store import access
from fieldloop_store.engine import Store
from fieldloop_store.queries import annotations
from support.browser import PASSWORD, ConsoleProcess
from support.console import FLEET, RUN, XSS, small_fleet
from support.floor import FLEET as ACME
from support.floor import Floor, healthy


class Person:
    """Somebody at a terminal, with a home of their own."""

    store: Store

    def __init__(self, home: Path, url: str) -> None:
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
            "XDG_CONFIG_HOME": str(home), "FIELDLOOP_URL": url, "NO_COLOR": "1",
            "FIELDLOOP_FLEET": FLEET,
        }  # fmt: skip
        self.folder = home

    def run(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fieldloop_console.command.main", *arguments],
            env=self.environ, cwd=self.folder, input=typed, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("command")
    url, fleet = small_fleet(folder)
    hashed = passwords.hash_password(PASSWORD)
    access.add_user(fleet.store, "admin", "admin", password=hashed, now_ns=1)
    console = ConsoleProcess(url, folder)
    made = Person(folder, console.url)
    made.store = fleet.store
    done = made.run("login", "--name", "admin", typed=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr
    yield made
    console.stop()


def test_a_token_is_kept_for_its_owners_eyes_only(person: Person):
    path = person.folder / "fieldloop" / "account.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in path.read_text("utf-8")
    assert person.json("config")["user"] == "admin"


def test_status_devices_models_and_trainings_are_told_to_people_and_to_programs(person: Person):
    assert person.json("status")["online"] == 2
    assert "2 of 3" in person.run("status").stdout
    assert [d["device"] for d in person.json("devices", "list", "--online")] == [
        "pump-1", "pump-2",
    ]  # fmt: skip
    assert person.json("models", "list")[0]["name"] == "activity"
    shown = person.run("train", "list").stdout
    assert XSS.split()[0] in shown
    assert person.run("train", "wait", RUN).returncode == 0
    assert person.json("events", "--type", "alarm.*")[0]["type"] == "alarm.raised"


def test_what_is_changed_by_the_command_is_changed_in_the_store(person: Person):
    assert person.run("devices", "rename", "pump-1", "north").returncode == 0
    assert person.json("devices", "show", "pump-1")["device"]["name"] == "north"
    assert person.run("machines", "add", "mill").returncode == 0
    assert person.run("machines", "assign", "mill", "pump-2", "imu").returncode == 0
    streams = person.json("data", "streams", "pump-2")
    t0_ns = str(streams[0]["t0_ns"])
    t1_ns = str(streams[0]["t0_ns"] + 10**9)
    labelled = person.run("data", "label", "pump-2", "imu", t0_ns, t1_ns, "humming")
    assert labelled.returncode == 0, labelled.stderr
    exported = person.run("data", "export", "pump-2", "imu", t0_ns, t1_ns, "--out", "out.csv")
    assert exported.returncode == 0, exported.stderr
    assert len((person.folder / "out.csv").read_text("utf-8").splitlines()) == 51
    assert person.run("models", "download", "activity", "1").returncode == 0
    assert (person.folder / "activity-1.tflite").stat().st_size > 500
    assert "device-rename" in person.run("users", "audit").stdout


def test_a_cohort_is_commissioned_armed_and_its_alarm_judged_with_evidence(person: Person):
    floor = Floor(person.store)
    ref = floor.model().ref()
    for name in ("north-1", "north-2"):
        floor.serves(floor.machine(name), ref)
    at = ["--fleet", ACME]
    begun = person.json("commission", "pumps", "--hours", "4", *at)
    assert [row["machine"] for row in begun] == ["north-1", "north-2"]
    attendant = Attendant(person.store, ACME, channels=(), broker="b", journal=Journal("machines"))
    first = begun[0]
    attendant.assess(time.time_ns())
    waits = person.run("commissionings", "arm", first["id"], *at)
    assert (waits.returncode, "0.0 of 4.0 running hours" in waits.stderr) == (1, True)
    end_ns = floor.scores(first["device"], ref, healthy(1_500, 1), t0_ns=first["begun_ns"])
    attendant.assess(end_ns)
    (stands, other) = sorted(
        person.json("commissionings", "list", *at), key=lambda row: str(row["machine"])
    )
    assert (stands["state"], other["state"]) == ("ready", "waiting"), stands["words"]
    assert person.run("commissionings", "show", stands["id"], *at).returncode == 0
    assert person.run("commissionings", "arm", stands["id"], *at).returncode == 0
    assert person.json("commissionings", "show", stands["id"], *at)["state"] == "armed"
    assert person.run("commissionings", "end", other["id"], *at).returncode == 0
    floor.alarm(first["device"], ref, t_ns=end_ns)
    attendant.look(time.time_ns())
    (alarm,) = person.json("alarms", *at)
    assert "north-1" in person.run("alarms", *at).stdout
    assert person.run("alarms", "judge", alarm["id"], "fault", *at).returncode == 0
    assert [a.label for a in annotations(person.store, ACME, device=first["device"])] == ["fault"]
    done = person.run("evidence", alarm["id"], "--out", "evidence.zip", *at)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(person.folder / "evidence.zip") as archive:
        assert {"alarm.json", "scores.csv", "model.json", "plots/score.png"} <= set(
            archive.namelist()
        )


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["devices", "show", "nobody"], 1, "there is no device nobody"),
        (["devices", "rename", "nobody", "x"], 1, "no device"),
        (["data", "label", "pump-1", "imu", "5", "4", "x"], 1, "ends after it begins"),
        (["users", "role", "admin", "viewer"], 1, "administrator"),
        (["devices", "show", "UPPER"], 1, "string_pattern|pattern"),
        (["commission", "nobody"], 1, "no stream measures nobody"),
        (["commission", "nobody", "--cohort"], 1, "no machine is of cohort"),
        (["commission", "press", "--hours", "-1"], 1, "running_hours"),
        (["commissionings", "arm", "a" * 32], 1, "no commissioning"),
        (["evidence", "a" * 32], 1, "no alarm"),
        (["alarms", "judge", "a" * 32, "nonsense"], 1, "verdict"),
        (["no-such-command"], 2, "No such command"),
        (["status", "--fleet"], 2, "requires an argument"),
    ],
)
def test_a_mistake_is_told_with_its_reason_and_status(
    person: Person, arguments: list[str], status: int, says: str
):
    done = person.run(*arguments)
    assert done.returncode == status, done.stderr
    assert any(part in done.stderr for part in says.split("|")), done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_there_and_nobody_known_have_statuses_of_their_own(person: Person, tmp_path: Path):
    away = Person(tmp_path, f"http://127.0.0.1:{free_port()}").run("status")
    assert (away.returncode, "does not answer" in away.stderr) == (75, True)
    unknown = Person(tmp_path, person.environ["FIELDLOOP_URL"]).run("status")
    assert (unknown.returncode, "fieldloop login" in unknown.stderr) == (78, True)


def test_up_runs_the_cloud_side_and_leaves_nothing_behind(tmp_path: Path):
    port, mqtt = free_port(), free_port()
    command = [sys.executable, "-m", "fieldloop_console.command.main", "up", "--folder",
               str(tmp_path / "data"), "--port", str(port), "--mqtt-port", str(mqtt)]  # fmt: skip
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
    out = tmp_path / "out"
    with out.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, env=environ)
    try:
        deadline = time.monotonic() + 150
        while "dashboard:" not in out.read_text("utf-8"):
            assert running.poll() is None, out.read_text("utf-8")
            assert time.monotonic() < deadline, out.read_text("utf-8")
            time.sleep(0.3)
        link = out.read_text("utf-8").split("dashboard:")[1].split()[0]
        assert urllib.request.urlopen(link, timeout=30).status == 200
        for name in ("telemetry", "training", "delivery", "console", "broker"):
            assert (tmp_path / "data" / "logs" / f"{name}.log").exists(), name
        assert (tmp_path / "data" / "delivery" / "keys").is_dir()
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0, out.read_text("utf-8")
    left = [
        p for p in Path("/proc").glob("[0-9]*/cmdline")
        if str(tmp_path / "data").encode() in _read(p.with_name("environ"))
    ]  # fmt: skip
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_the_whole_family_is_there(person: Person):
    text = person.run("--help").stdout
    for name in (
        "up", "demo", "status", "devices", "models", "train", "rollout", "data", "config", "fleet",
        "machines", "alarms", "doctor", "users", "login",
    ):  # fmt: skip
        assert f" {name} " in text, name
    assert FLEET == "demo"
