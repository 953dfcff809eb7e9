"""The demo as a user runs it: the loop closes, whatever breaks, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.broker import find_mosquitto


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
    environ["COLUMNS"] = "300"
    with (folder / "demo.out").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "fieldloop_demo", "--folder", str(folder / "run"), *arguments],
            cwd=folder,
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def left_behind(folder: Path) -> list[str]:
    """Command lines of processes that work in `folder` or were started for it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environ or str(folder) in command:
            found.append(command)
    return found


def wait_until_gone(folder: Path, timeout_s: float = 15) -> list[str]:
    deadline = time.monotonic() + timeout_s
    while (left := left_behind(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


@pytest.mark.timeout(420)
def test_the_loop_closes_though_the_broker_is_killed_and_wiped_twice(tmp_path: Path):
    find_mosquitto()
    summary_path = tmp_path / "demo.json"
    demo = start(tmp_path, "--once", "--fault", "broker", "--summary", str(summary_path))
    try:
        status = demo.wait(400)
    finally:
        demo.kill()
    output = (tmp_path / "demo.out").read_text("utf-8")
    assert status == 0, output
    assert wait_until_gone(tmp_path) == []
    summary = json.loads(summary_path.read_text("utf-8"))
    assert summary["broker"] == "mosquitto"
    assert summary["broker_kills"] == 2
    assert [m["version"] for m in summary["models"]] == [1, 2]
    assert all(m["bytes"] > 1000 and m["int8_accuracy"] > 0.5 for m in summary["models"])
    assert summary["accuracy"]["after"] > summary["accuracy"]["before"]
    assert summary["accuracy"]["n"] >= 20
    assert summary["rollout"]["state"] == "completed"
    assert {d["model_version"] for d in summary["devices"]} == {2}
    assert len(summary["devices"]) >= 6
    assert summary["ledger"]["balanced"]
    logs = summary["ledger"]["logs"]
    assert len(logs) >= 2 * len(summary["devices"]) + 1
    for log in logs:
        accounted = log["stored"] + log["pending"] + log["withheld"] + sum(log["dropped"].values())
        assert log["produced"] == accounted
        assert log["in_store"] == log["stored"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_demo_ends_no_process_stays_behind(tmp_path: Path, number: signal.Signals):
    find_mosquitto()
    demo = start(tmp_path, "--once")
    deadline = time.monotonic() + 60
    while len(left_behind(tmp_path)) < 8 and time.monotonic() < deadline:
        assert demo.poll() is None, (tmp_path / "demo.out").read_text("utf-8")
        time.sleep(0.1)
    demo.send_signal(number)
    demo.wait(60)
    assert wait_until_gone(tmp_path) == []


def test_a_folder_that_is_not_the_demos_is_not_emptied(tmp_path: Path):
    (tmp_path / "run").mkdir()
    precious = tmp_path / "run" / "precious.txt"
    precious.write_text("kept")
    demo = start(tmp_path, "--once")
    assert demo.wait(60) == 2
    assert precious.read_text() == "kept"
    assert "not empty" in (tmp_path / "demo.out").read_text("utf-8")
