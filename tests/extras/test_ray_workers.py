"""Many runs at once on a real local Ray cluster: the same pipeline, each run once."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
import ray

from fieldloop_runtime.journal import Journal
from fieldloop_store import registry, runqueue, runs
from fieldloop_training.service import make_carrier
from fieldloop_training.settings import TrainingSettings
from support.broker import free_port
from support.training import FLEET, Field

DEADLINE_S = 800.0
RECIPE = {"window_samples": 64, "hop_samples": 32, "epochs": 2, "filters": [8, 12]}


@pytest.fixture
def cluster() -> Iterator[str]:
    """Address of a cluster of the test's own.

    Its ports are given: a node that has to find its own dies where a busy machine needs more than
    15 s to start the agents that tell them.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets have short names
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--num-cpus", "2", "--port", str(port), "--temp-dir", folder]
    command += ["--include-dashboard", "false", "--disable-usage-stats"]
    for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port",
                 "metrics-export-port", "runtime-env-agent-port"):  # fmt: skip
        command += [f"--{name}", str(free_port())]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(900)
def test_runs_of_several_models_end_on_ray_each_once_and_a_bad_one_harms_no_other(
    tmp_path: Path, cluster: str
):
    field = Field.at(tmp_path)
    for number in range(2):
        field.subject(f"subject-{number}", seed=number)
    settings = TrainingSettings(
        fleet=FLEET, store_url=f"sqlite:///{tmp_path}/store.sqlite", workers="ray", workers_max=2,
        ray_address=cluster,
        datasets_dir=str(tmp_path / "datasets"), work_dir=str(tmp_path / "work"),
        recipe_settings=json.dumps(RECIPE),
    )  # fmt: skip
    for number in range(3):
        changes = {"filters": [2]} if number == 2 else {}
        runqueue.enqueue(
            field.store, fleet=FLEET, model=f"model-{number}", recipe="activity_cnn",
            settings=RECIPE | changes, trigger={"kind": "hand"}, now_ns=number + 1,
        )  # fmt: skip
    carrier = make_carrier(field.store, settings, Journal("test"))
    try:
        assert ray.is_initialized()
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            carrier.step(time.monotonic())
            rows = runs.list_runs(field.store, FLEET)
            if all(r.state in runs.ENDED_STATES for r in rows):
                break
            time.sleep(0.1)
    finally:
        carrier.close()
    states = {r.model: (r.state, r.attempt) for r in runs.list_runs(field.store, FLEET)}
    assert states["model-2"] == ("refused", 1)
    assert {states[f"model-{n}"] for n in range(2)} <= {("approved", 1), ("rejected", 1)}
    assert len(registry.list_models(field.store, FLEET)) == 2
    assert not ray.is_initialized()
    field.store.close()
