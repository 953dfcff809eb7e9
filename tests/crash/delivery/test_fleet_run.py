"""`fleet run` is killed at every request that changes something; nothing is sent twice.

The local API server kills it with SIGKILL when the request has arrived: before it is carried out,
or after, when the answer is still owed. Then it is started again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fieldloop_delivery.fleets.balena  # noqa: F401 - the slow import, before the forks
from fieldloop_delivery.__main__ import main
from fieldloop_delivery.fleets.pinning import LANE
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import RolloutRow, list_rollouts
from fieldloop_store.steering import ask
from support.balenacloud.fleet import Supervisor, make_fleet
from support.balenacloud.server import Answer, BalenaCloud
from support.fleet_process import FleetProcess


class ForkedProcess(FleetProcess):
    """The same, forked from the test: imports are there already, so that dying is cheap."""

    pid = 0

    def start(self) -> ForkedProcess:
        self.pid = os.fork()
        if self.pid == 0:
            log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                os._exit(main(["fleet", "run"], self.environment))
            finally:
                os._exit(1)
        return self

    def kill(self) -> None:
        """From the server's thread too: only the signal; `died` collects it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def died(self) -> bool:
        if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            return False
        self.pid = 0
        return True


PLAN = {"waves": [{"count": 1}, {"all": True}], "gates": {"soak_s": 0.2}}


class Deadly(BalenaCloud):
    """An API at which every change, once, is the client's death: carried out or not."""

    def __init__(self, *, carried_out: bool) -> None:
        super().__init__()
        self.carried_out = carried_out
        self.died_of: set[str] = set()
        self.kill: Callable[[], None] = lambda: None

    def answer(self, method: str, url: str, token: str, body: Any) -> Answer:
        change = f"{method} {url} {body}"
        if method == "GET" or change in self.died_of:
            return super().answer(method, url, token, body)
        self.died_of.add(change)
        answer = Answer(503)
        if self.carried_out:
            answer = super().answer(method, url, token, body)
        self.kill()
        return answer


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("carried_out", [True, False])
def test_killed_at_each_change_it_goes_on_and_sends_nothing_twice(
    tmp_path: Path, good: bool, carried_out: bool
) -> None:
    cloud = Deadly(carried_out=carried_out)
    cloud.start()
    fleet = make_fleet(cloud, devices=3)
    old, new = fleet.commits
    supervisor = Supervisor(cloud, fleet)
    supervisor.bad = set() if good else {new}
    process = ForkedProcess(tmp_path, cloud, fleet, **PLAN)
    store = Store.open(process.url)
    ask(store, "demo", "start", lane=LANE, version="1.1.0", by="anna", now_ns=time.time_ns())
    deaths = 0
    rows: list[RolloutRow] = []
    cloud.kill = process.kill
    process.start()
    end_s = time.monotonic() + 120
    try:
        while not (rows and rows[0].document["settled"]):
            assert time.monotonic() < end_s, f"{rows}\n{process.log()}"
            supervisor.step()
            if process.died():
                deaths += 1
                process.start()
            rows = list_rollouts(store, "demo", slot=LANE)
            time.sleep(0.02)
    finally:
        process.kill()
        os.waitpid(process.pid, 0)
        store.close()
        cloud.stop()
    # A wave of one and one of two, the fleet, following again, three tags; or one there and back.
    assert deaths == (7 if good else 3), process.log()
    changes = [(c.method, c.path, str(c.body)) for c in cloud.changes()]
    assert len(changes) == len(set(changes)) == deaths
    state = cloud.state.rows
    wanted = fleet.releases[new if good else old]
    assert {d["is_running__release"] for d in state["device"].values()} == {wanted}
    assert {d.get("is_pinned_on__release") for d in state["device"].values()} == {None}
    assert state["application"][fleet.application]["should_be_running__release"] == wanted
