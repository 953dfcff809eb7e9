"""Killed before every durable step of a look: nothing is ordered twice, nothing is half there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from fieldloop_contract.topics import Topic
from fieldloop_delivery.fleet import Fleet
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.policy import Policy
from fieldloop_delivery.repository import Repository
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import list_assignments, list_documents, list_rollouts
from fieldloop_store.steering import ask, audit_trail, list_requests
from support.delivering import DeliveryProcess
from support.kills import killed_at
from support.signed import FLEET

STEPS_MAX = 200
POLICY = Policy.model_validate({"slots": [{"model": "activity", "waves": [{"percent": 100}]}]})
DEVICES = ("pump-1", "pump-2")


def look(folder: Path) -> dict[str, bytes | None]:
    store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
    repository = Repository.open(folder / "fleet", KeyRing(folder / "fleet" / "keys"), fleet=FLEET)
    fleet = Fleet(store, repository, POLICY, service="inference", journal=Journal("test"))
    items = fleet.look(time.time_ns()) or {}
    assert fleet.look(time.time_ns()) is None
    payloads = {t: item.payload or fleet.read(item.digest) for t, item in items.items()}
    store.close()
    return payloads


def test_look_killed_at_every_step_is_made_whole_by_the_next(tmp_path):
    seed = DeliveryProcess(tmp_path / "seed", 1)
    seed.register(1, size=40_000)
    for device in DEVICES:
        seed.online(device)
    seed.close()
    for step in range(1, STEPS_MAX):
        folder = tmp_path / "cloud"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(seed.folder, folder)
        killed = killed_at(step, lambda f=folder: look(f) and None)
        first, second = look(folder), look(folder)
        assert first == second, step
        for device in DEVICES:
            payload = first[str(Topic(FLEET, device, "inference", "desired"))]
            assert payload is not None
            assert b'"version":1}' in payload, step
        store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
        assert len(list_rollouts(store, FLEET)) == 1, step
        assert len(list_assignments(store, FLEET)) == 2, step
        store.close()
        if not killed:
            assert step > 5
            return
    pytest.fail("more steps than expected")


def test_look_that_halts_killed_at_every_step_returns_each_device_once(tmp_path):
    """A failed gate, a request answered, the trail: all of it or none, and never twice."""
    seed = DeliveryProcess(tmp_path / "seed", 1)
    one = seed.register(1, size=40_000)
    for device in DEVICES:
        seed.online(device, active=one, state="ACTIVE")
    look(seed.folder)
    for device in DEVICES:
        seed.windows(device, one, 30)
    look(seed.folder)
    assert seed.rollout(1).state == "completed"
    two = seed.register(2, size=40_000)
    look(seed.folder)
    assert [seed.order_version(d) for d in DEVICES] == [2, 2]
    seed.event("pump-1", "model.rejected", model=two.model_dump(), reason="golden")
    ask(seed.store, FLEET, "pause", by="anna", now_ns=time.time_ns(), rollout=seed.rollout(2).id)
    seed.close()
    for step in range(1, STEPS_MAX):
        folder = tmp_path / "cloud"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(seed.folder, folder)
        killed = killed_at(step, lambda f=folder: look(f) and None)
        assert look(folder) == look(folder), step
        store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
        halted = list_rollouts(store, FLEET)[0]
        assert (halted.version, halted.state) == (2, "halted"), step
        assert "pump-1: model.rejected: golden" in halted.document["verdict"]
        assert [d.version for d in list_documents(store, FLEET)] == [3, 3], step
        types = [a.type for a in audit_trail(store, FLEET, rollout=halted.id)]
        assert types.count("rollout.halted") == types.count("rollout.paused") == 1, step
        assert {r.state for r in list_requests(store, FLEET)} == {"done"}, step
        store.close()
        if not killed:
            assert step > 5
            return
    pytest.fail("more steps than expected")
