"""One suite on every `FleetBackend`: balena's SDK on the local API, and MQTT on the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from fieldloop_contract.errors import FieldloopError, RejectedInput
from fieldloop_delivery.fleets.backend import FleetBackend, Scope, Unmanaged
from fieldloop_delivery.fleets.balena import BalenaFleet
from fieldloop_delivery.fleets.mqtt import MqttFleet
from fieldloop_delivery.fleets.pine import Exchange
from fieldloop_store.engine import Store
from fieldloop_store.schema import devices, services
from support.balenacloud.fleet import Supervisor, add_device, make_fleet
from support.balenacloud.server import BalenaCloud


class BalenaWorld:
    """A fleet on the local API server."""

    managed = True

    def __init__(self, folder: Path) -> None:
        self.cloud = BalenaCloud().start()
        self.fleet = make_fleet(self.cloud, devices=3)
        self._supervisor = Supervisor(self.cloud, self.fleet)
        self.backend: FleetBackend = BalenaFleet(
            self.cloud.url, self.fleet.slug, Exchange(self.fleet.token)
        )
        self.commit = self.fleet.commits[1]

    def online(self, device: str, online: bool) -> None:
        self._supervisor.online(device, online)

    def add(self, device: str) -> None:
        add_device(self.cloud, self.fleet, device)

    def state(self) -> str:
        with self.cloud.state.lock:
            return repr(self.cloud.state.rows)

    def close(self) -> None:
        self.backend.close()
        self.cloud.stop()


class MqttWorld:
    """Devices that telemetry has heard."""

    managed = False
    commit = "a" * 32

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
        for number in (1, 2, 3):
            self.add(f"pump-{number}")
        self.backend: FleetBackend = MqttFleet(self.store, "demo")

    def online(self, device: str, online: bool) -> None:
        with self.store.begin() as connection:
            connection.execute(
                update(services)
                .where(services.c.device == device)
                .values(state="online" if online else "offline")
            )

    def add(self, device: str) -> None:
        with self.store.begin() as connection:
            row = {"fleet": "demo", "device": device}
            connection.execute(insert(devices), {**row, "first_seen_ns": 1})
            status = {"capability": {"machine": "aarch64"}}
            more = {"service": "inference", "state": "online", "session": "s", "status": status}
            connection.execute(insert(services), {**row, **more, "status_ns": 1})

    def state(self) -> str:
        with self.store.read() as connection:
            return repr([connection.execute(t.select()).all() for t in (devices, services)])

    def close(self) -> None:
        self.backend.close()
        self.store.close()


@pytest.fixture(params=[BalenaWorld, MqttWorld])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = request.param(tmp_path)
    yield made
    made.close()


def test_the_inventory_names_every_device_by_its_fieldloop_id_and_says_when_it_was_read(
    world: Any,
) -> None:
    inventory = world.backend.inventory(7)
    assert list(inventory.devices) == ["pump-1", "pump-2", "pump-3"]
    assert inventory.taken_ns == 7
    assert not inventory.stale
    assert all(d.device == name and d.type for name, d in inventory.devices.items())


def test_a_device_that_goes_away_or_appears_is_seen_at_the_next_reading(world: Any) -> None:
    assert world.backend.inventory(1).devices["pump-2"].online
    world.online("pump-2", False)
    world.add("pump-4")
    inventory = world.backend.inventory(2)
    assert [d.device for d in inventory.devices.values() if d.online] == [
        "pump-1",
        "pump-3",
        "pump-4",
    ]


def test_a_managed_fleet_does_as_it_is_told_and_an_unmanaged_one_says_that_it_cannot(
    world: Any,
) -> None:
    backend: FleetBackend = world.backend
    calls = [
        lambda: backend.pin(["pump-1"], world.commit),
        lambda: backend.pin(["pump-1"], ""),
        lambda: backend.pin_fleet(world.commit),
        lambda: backend.tag("pump-1", {"fieldloop.rollout": "completed"}),
        lambda: backend.set_variable(Scope(), "FIELDLOOP_X", "1"),
        lambda: backend.set_variable(Scope("pump-1"), "FIELDLOOP_X", "2"),
        lambda: backend.variables(Scope("pump-1")),
        lambda: backend.remove_variable(Scope("pump-1"), "FIELDLOOP_X"),
    ]
    for call in calls:
        before = world.state()
        if world.managed:
            call()
            call()  # each may be repeated
        else:
            with pytest.raises(Unmanaged, match="known by MQTT only"):
                call()
            assert world.state() == before


@pytest.mark.parametrize(
    "name",
    ["1X", "A-B", "", "BALENA_HOST_CONFIG_gpu_mem", "RESIN_X", "USER", "A B", "A\n", "Ä"],
)
def test_a_variable_that_no_service_could_have_is_refused_before_anything_is_sent(
    world: Any, name: str
) -> None:
    before = world.state()
    with pytest.raises(RejectedInput):
        world.backend.set_variable(Scope(), name, "x")
    assert world.state() == before


@pytest.mark.parametrize(
    "wrong",
    [
        lambda b: b.set_variable(Scope(), "FIELDLOOP_X", "two\nlines"),
        lambda b: b.set_variable(Scope(), "FIELDLOOP_X", "x" * 70_000),
        lambda b: b.tag("pump-1", {"": "x"}),
        lambda b: b.tag("pump-1", {"two words": "x"}),
        lambda b: b.tag("pump-1", {"k" * 101: "x"}),
        lambda b: b.pin(["pump-1"], "latest"),
        lambda b: b.pin(["pump-1"], "../v7/device"),
        lambda b: b.pin_fleet(""),
        lambda b: b.pin(["pump-99"], "ab" * 16),
        lambda b: b.tag("pump-99", {"k": "v"}),
        lambda b: b.set_variable(Scope("pump-99"), "FIELDLOOP_X", "1"),
        lambda b: b.set_variable(Scope("pump-1", "no-such-service"), "FIELDLOOP_X", "1"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_changes_nothing(world: Any, wrong: Any) -> None:
    before = world.state()
    with pytest.raises(FieldloopError) as refused:
        wrong(world.backend)
    assert isinstance(refused.value, RejectedInput | Unmanaged)
    assert world.state() == before


def test_releases_are_newest_first_where_somebody_knows_them(world: Any) -> None:
    found = world.backend.releases()
    assert [r.version for r in found] == (["1.1.0", "1.0.0"] if world.managed else [])
