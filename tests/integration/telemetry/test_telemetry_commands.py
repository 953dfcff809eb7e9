"""The commands as a user types them: labels, devices, machines, retention, exports, access."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from fieldloop_buffer import Entry, Kind, Log, LogSettings, pack_frame
from fieldloop_contract.manifest import (
    Channel,
    FileRef,
    Golden,
    Input,
    Lineage,
    Manifest,
    Normalisation,
    Output,
)
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.ledger import books
from fieldloop_store.queries import annotations
from fieldloop_store.registry import register_model
from fieldloop_telemetry.door import admit
from support.broker import Mosquitto
from support.postgres import shared_postgres
from support.telemetry import (
    Device,
    TelemetryProcess,
    count,
    event,
    frame,
    frames,
    rows,
    wait_until,
)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(module: str, *arguments: str) -> Done:
    """A command in this process: the same `main` that `python -m` calls."""
    out, error = io.StringIO(), io.StringIO()
    main = importlib.import_module(f"{module}.__main__").main
    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        status = main()
    return Done(status, out.getvalue(), error.getvalue())


def told(module: str, *arguments: str) -> dict[str, Any]:
    done = run(module, *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def filled(url: str) -> str:
    """URL of a store with 100 frames and two events of subject-1."""
    store = Store.open(url)
    for channel, payload in (
        ("frames", frames(range(1, 101))),
        ("events", rows([(101, event(101)), (102, event(102))])),
    ):
        parcel = admit(f"fieldloop/v1/demo/subject-1/ingestion/{channel}", payload, 5)
        store_intake(store, Intake(rows={parcel.table: parcel.rows}, received_ns=5))
    store.close()
    return url


def test_labels_come_from_a_file_once_and_wrong_lines_are_named(url: str, tmp_path: Path) -> None:
    Store.open(url).close()
    path = tmp_path / "labels.csv"
    path.write_text(
        "device,stream,t0_ns,t1_ns,label,confidence\n"
        "subject-1,imu,10,20,PEN,0.5\n"
        "subject-1,imu,20,10,PEN,\n"
        "Not An Id,imu,20,30,PEN,\n"
        "subject-2,imu,30,40,ROW,\n",
        encoding="utf-8",
    )
    command = ("labels", "--store", url, "--fleet", "demo", "import", str(path))
    first = told("fieldloop_telemetry", *command, "--annotator", "anna")
    assert (first["stored"], first["again"], first["refused"]) == (2, 0, 2)
    assert [fault["label"] for fault in first["first_refused"]] == [2, 3]
    assert told("fieldloop_telemetry", *command, "--annotator", "anna")["again"] == 2
    store = Store.open(url)
    found = [(a.device, a.label, a.annotator, a.confidence) for a in annotations(store, "demo")]
    assert sorted(found) == [
        ("subject-1", "PEN", "anna", 0.5), ("subject-2", "ROW", "anna", 1.0),
    ]  # fmt: skip
    assert all(entry.balanced for entry in books(store))
    store.close()
    path.write_text("device,when\n", encoding="utf-8")
    wrong = run("fieldloop_telemetry", *command)
    assert wrong.returncode == 78
    assert "the header is" in wrong.stderr


def test_devices_and_machines_are_administrated_by_command(filled: str) -> None:
    own = ("--store", filled, "--fleet", "demo", "--actor", "anna")
    told("fieldloop_telemetry", "machines", *own, "put", "press-1", "--site", "hall 3")
    told(
        "fieldloop_telemetry", "machines", *own, "assign", "press-1", "--device", "subject-1",
        "--stream", "imu", "--from-ns", "5",
    )  # fmt: skip
    told("fieldloop_telemetry", "devices", *own, "rename", "subject-1", "Left wrist")
    told("fieldloop_telemetry", "devices", *own, "replace", "subject-1", "subject-2")
    listed = told("fieldloop_telemetry", "devices", *own, "list")["devices"]
    assert [(d["device"], d["name"], d["state"]) for d in listed] == [
        ("subject-1", "Left wrist", "replaced"), ("subject-2", "Left wrist", "active"),
    ]  # fmt: skip
    spans = told("fieldloop_telemetry", "machines", *own, "assignments")["assignments"]
    assert [(s["device"], s["machine"]) for s in spans] == [
        ("subject-1", "press-1"), ("subject-2", "press-1"),
    ]  # fmt: skip
    erased = told("fieldloop_telemetry", "devices", *own, "erase", "subject-1")
    assert erased["rows"]["frames"] == 100
    trail = told("fieldloop_telemetry", "devices", *own, "audit", "subject-1")["changes"]
    assert [c["action"] for c in trail][:2] == ["erased", "erasure begun"]
    unknown = run("fieldloop_telemetry", "devices", *own, "retire", "nobody")
    assert unknown.returncode == 1
    assert "no device" in unknown.stderr


def test_a_policy_is_applied_by_command(filled: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"rules": [{"table": "frames", "older_than_days": 1}]}', encoding="utf-8")
    answer = told("fieldloop_telemetry", "retain", "--store", filled, "--policy", str(policy))
    assert answer == {"removed": {"frames": 100}}


def test_a_running_service_applies_its_policy(
    filled: str, tmp_path: Path, mosquitto: Mosquitto
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"rules": [{"table": "frames", "older_than_days": 1}]}', encoding="utf-8")
    service = TelemetryProcess(
        tmp_path, mosquitto.port, filled, FIELDLOOP_CARE_RETENTION_FILE=str(policy)
    ).start()
    store = Store.open(filled)
    wait_until(lambda: count(store, "frames") == 0)
    assert count(store, "events") == 2
    store.close()
    assert service.stop() == 0


def test_everything_is_exported_as_open_files(filled: str, tmp_path: Path) -> None:
    told("fieldloop_store", "export", "--store", filled, "--all", str(tmp_path / "all"))
    table = pq.read_table(tmp_path / "all" / "frames.parquet").to_pylist()
    assert [row["seq"] for row in table] == list(range(1, 101))
    assert table[6]["samples"] == [7.0] * 4
    happened = pq.read_table(tmp_path / "all" / "events.parquet").to_pylist()
    assert json.loads(happened[0]["document"])["type"] == "model.activated"
    again = run("fieldloop_store", "export", "--store", filled, "--all", str(tmp_path / "all"))
    assert again.returncode == 78


def test_models_are_exported_as_their_files(url: str, tmp_path: Path) -> None:
    files = {"model.tflite": b"a model", "golden.npz": b"golden"}
    window = Input(
        name="imu", channels=[Channel(name="ax", unit="g")], rate_hz=50, window_samples=8,
        hop_samples=4, normalisation=Normalisation(centre=[0.0], scale=[1.0]),
    )  # fmt: skip
    manifest = Manifest(
        name="activity",
        version=1,
        task="classification",
        files={name: FileRef.of(data) for name, data in files.items()},
        inputs=[window],
        outputs=[Output(name="activity", kind="probabilities", labels=["a", "b"])],
        golden=Golden(count=1, tolerance=0.1),
        lineage=Lineage(dataset="ab" * 32),
    )
    store = Store.open(url)
    register_model(
        store, fleet="demo", manifest=manifest, files=files, run=None, metrics={}, now_ns=1
    )
    store.close()
    told("fieldloop_store", "export", "--store", url, "--all", str(tmp_path / "all"))
    folder = tmp_path / "all" / "models" / "demo" / "activity" / "1"
    assert {p.name for p in folder.iterdir()} == {"manifest.json", *files}
    assert (folder / "model.tflite").read_bytes() == b"a model"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_stream_is_exported_by_time(filled: str, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"imu.{ending}"
    item = frame(11)
    answer = told(
        "fieldloop_store", "export", "--store", filled, "--fleet", "demo", "--device", "subject-1",
        "--stream", "imu", "--from", str(frame(10).t0_ns), "--to", str(item.t0_ns), str(path),
    )  # fmt: skip
    assert answer == {"samples": 2}
    if ending == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            found = [(int(r["t_ns"]), float(r["c0"])) for r in csv.DictReader(file)]
    else:
        found = [(r["t_ns"], r["c0"]) for r in pq.read_table(path).to_pylist()]
    assert found == [(frame(10).t0_ns, 10.0), (frame(10).t0_ns + 20_000_000, 10.0)]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_bare_log_is_exported_without_any_cloud(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "log.sqlite"
    log = Log.open(LogSettings(path=str(path)), fleet="demo", device="d", service="ingestion")
    for n in range(1, 1201):
        log.append(Entry(Kind.FRAME, "imu", frame(n).t0_ns, pack_frame(frame(n))))
    log.append(Entry(Kind.EVENT, "ingestion", 5, json.dumps(event(1)).encode()))
    log.close()
    out = tmp_path / "out"
    answer = told("fieldloop_telemetry", "export-log", str(path), str(out), "--format", ending)
    assert answer["rows"] == {"frames-imu": 2400, "results": 0, "events": 1, "annotations": 0}
    if ending == "parquet":
        assert pq.read_table(out / "frames-imu.parquet").num_rows == 2400
    else:
        with (out / "frames-imu.csv").open(encoding="utf-8", newline="") as file:
            assert [float(r["c1"]) for r in csv.DictReader(file)][-1] == 1200.0


def test_a_database_that_refuses_the_user_ends_the_service_at_once() -> None:
    url = shared_postgres().new_database().replace("fieldloop@", "nobody@")
    done = subprocess.run(
        [sys.executable, "-m", "fieldloop_telemetry", "run"],
        capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"FIELDLOOP_STORE_URL": url},
    )  # fmt: skip
    assert done.returncode == 78
    assert "check user, password" in done.stderr


def test_a_batch_that_cannot_be_read_and_comes_again_raises_one_alarm(
    telemetry: TelemetryProcess, device: Device, store: Store
) -> None:
    for _ in range(6):
        device.send("ingestion", "frames", b"of a later release")
    device.send("ingestion", "frames", frames([1]))
    device.await_ack((1, 1))
    assert telemetry.log().count('"event": "batch.unreadable"') == 1
    with store.read() as connection:
        query = "SELECT times, seq FROM dead_letters"
        assert tuple(connection.exec_driver_sql(query).one()) == (6, 0)
