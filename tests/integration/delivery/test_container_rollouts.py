"""Container releases wave by wave: the production engine and balena's SDK on the local API server.

Time is virtual; the store, HTTP and the SDK are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_delivery import records
from fieldloop_delivery.fleets.balena import BalenaFleet
from fieldloop_delivery.fleets.containers import TAG, ContainerRollouts
from fieldloop_delivery.fleets.inventory import NS, CachedInventory
from fieldloop_delivery.fleets.pine import Exchange
from fieldloop_delivery.fleets.pinning import LANE
from fieldloop_delivery.fleets.results import ModelTags
from fieldloop_delivery.policy import ContainerPlan
from fieldloop_delivery.rollout import Phase, Rollout
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.rollouts import list_rollouts
from fieldloop_store.schema import services
from fieldloop_store.steering import ask, audit_trail, find_request
from support.balenacloud.fleet import Supervisor, add_device, add_release, make_fleet
from support.balenacloud.server import BalenaCloud, Seen

FLEET = "demo"
PLAN = {
    "waves": [{"count": 1}, {"percent": 50}, {"all": True}],
    "gates": {"soak_s": 60, "wait_s_max": 3_600},
}


class World:
    """A fleet of ten, its controller, and the hands of an operator."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.cloud = BalenaCloud().start()
        self.fleet = make_fleet(self.cloud, devices=10)
        self.old, self.new = self.fleet.commits
        self.supervisor = Supervisor(self.cloud, self.fleet)
        self.store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
        self.plan = ContainerPlan.model_validate(plan)
        self.now_ns = 1_800_000_000 * NS
        self.quiet: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """A controller as after a kill: it knows what the store and balena know."""
        self.backend = BalenaFleet(
            self.cloud.url, self.fleet.slug, Exchange(self.fleet.token, per_minute=10_000)
        )
        self.controller = ContainerRollouts(
            self.store,
            FLEET,
            self.fleet.slug,
            self.backend,
            CachedInventory(self.backend, fresh_s=5),
            self.plan,
            journal=Journal("test"),
        )

    def ask(self, kind: str, **what: Any) -> str:
        if kind == "start":
            what = {"lane": LANE, **what}
        request = ask(self.store, FLEET, kind, by="anna", now_ns=self.now_ns, **what)
        self.look()
        found = find_request(self.store, request)
        assert found is not None
        return f"{found.state}: {found.answer}"

    def hear(self) -> None:
        """What telemetry stores while devices are there."""
        with self.store.begin() as connection:
            for name, row in self.fleet.devices.items():
                there = self.cloud.state.rows["device"].get(row, {}).get("is_online")
                if not there or name in self.quiet:
                    continue
                values = {
                    "state": "online",
                    "session": "s",
                    "status": {},
                    "status_ns": self.now_ns,
                    "reported": {},
                    "reported_ns": self.now_ns,
                }
                statement = insert_into(connection, services).values(
                    fleet=FLEET, device=name, service="inference", **values
                )
                connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=["fleet", "device", "service"], set_=values
                    )
                )

    def look(self) -> list[Rollout]:
        self.now_ns += 10 * NS
        self.hear()
        return self.controller.look(self.now_ns)

    def turn(self) -> list[Rollout]:
        self.supervisor.step()
        return self.look()

    def rollout(self) -> Rollout:
        row = list_rollouts(self.store, FLEET, slot=LANE)[0]
        return records.from_json(row.document["rollout"])

    def until(self, phase: Phase, turns: int = 200) -> Rollout:
        for _ in range(turns):
            self.turn()
            if self.rollout().phase is phase:
                return self.rollout()
        raise AssertionError(self.rollout())

    def settle(self, turns: int = 60) -> None:
        for _ in range(turns):
            if not self.turn():
                return
        raise AssertionError(list_rollouts(self.store, FLEET, slot=LANE)[0].document)

    def pins(self) -> list[Seen]:
        return [c for c in self.cloud.changes() if "tag" not in c.path]

    def tags(self) -> dict[str, str]:
        devices = self.backend.inventory(1).devices.values()
        return {d.device: d.tags.get(TAG, "") for d in devices}

    def close(self) -> None:
        self.store.close()
        self.cloud.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, PLAN)
    yield made
    made.close()


def test_a_good_release_goes_wave_by_wave_then_to_the_fleet_and_leaves_no_pin(
    world: World,
) -> None:
    assert world.ask("start", version="1.1.0").startswith("done: rollout")
    reached = []
    for _ in range(200):
        world.turn()
        runs = sum(commit == world.new for commit in world.supervisor.running().values())
        if not reached or reached[-1] != runs:
            reached.append(runs)
        if world.rollout().phase is Phase.COMPLETED:
            break
    assert reached == [1, 5, 10]
    world.settle()
    inventory = world.backend.inventory(1)
    assert inventory.release == world.new
    assert not inventory.tracking
    assert {(d.running, d.pinned) for d in inventory.devices.values()} == {(world.new, "")}
    assert set(world.tags().values()) == {"1.1.0 completed"}
    asked = len(world.cloud.seen)
    for _ in range(3):
        world.turn()
    assert all(s.method == "GET" for s in world.cloud.seen[asked:])  # and nothing ever again
    told = [row.type for row in audit_trail(world.store, FLEET)]
    assert told[0] == "rollout.queued"
    assert told.count("rollout.wave-passed") == 2
    assert told[-1] == "rollout.completed"


def test_a_release_that_breaks_devices_never_passes_the_first_wave_and_goes_back(
    world: World,
) -> None:
    world.supervisor.bad = {world.new}
    world.ask("start", version="1.1.0")
    state = world.until(Phase.HALTED)
    assert "do not all run" in state.verdict
    assert state.wave == 0
    world.settle()
    inventory = world.backend.inventory(1)
    assert inventory.release == world.old
    assert {(d.running, d.pinned) for d in inventory.devices.values()} == {(world.old, "")}
    row = list_rollouts(world.store, FLEET, slot=LANE)[0]
    assert row.document["figures"]["touched"] == 1
    assert sorted(world.tags().values()) == [*[""] * 9, "1.1.0 halted"]
    assert len(world.pins()) == 2  # one pin, and its removal


def test_services_that_stay_away_after_the_update_halt_it(world: World) -> None:
    world.look()
    world.ask("start", version="1.1.0")
    (touched,) = [d for d, r in _targets(world).items() if r == world.new]
    world.supervisor.step()
    world.quiet = {touched}
    with world.store.begin() as connection:  # its last will
        connection.execute(
            services.update()
            .where(services.c.device == touched)
            .values(state="offline", status_ns=world.now_ns + NS)
        )
    state = world.until(Phase.HALTED)
    assert "inference did not come back" in state.verdict
    assert touched in state.verdict


def _targets(world: World) -> dict[str, str]:
    return {d.device: d.target for d in world.backend.inventory(1).devices.values()}


def test_silence_never_passes(world: World) -> None:
    world.look()
    world.quiet = set(world.fleet.devices)  # nothing is heard of anybody any more
    world.ask("start", version="1.1.0")
    for _ in range(20):
        world.turn()
    assert world.rollout().wave == 0
    world.now_ns += 3_500 * NS
    state = world.until(Phase.HALTED)
    assert "insufficient evidence" in state.verdict
    assert len(world.supervisor.running()) == 10
    world.quiet = set()
    world.settle()
    assert set(_targets(world).values()) == {world.old}


def test_balena_out_of_reach_in_the_middle_loses_nothing_and_passes_nothing(world: World) -> None:
    world.ask("start", version="1.1.0")
    world.turn()
    world.cloud.stop()
    before = world.rollout()
    world.now_ns += 120 * NS
    for _ in range(30):
        with pytest.raises(RetryLater):
            world.turn()
    assert world.rollout() == before
    world.cloud.start()
    world.until(Phase.COMPLETED)


def test_a_revoked_token_stops_it_with_the_remedy_and_it_goes_on_with_a_new_one(
    world: World,
) -> None:
    world.ask("start", version="1.1.0")
    access = world.cloud.tokens.pop(world.fleet.token)
    world.now_ns += 60 * NS
    with pytest.raises(FixConfiguration, match="make an API key"):
        world.turn()
    world.cloud.tokens[world.fleet.token] = access
    world.until(Phase.COMPLETED)


def test_devices_that_are_away_or_new_follow_the_fleet_in_the_end(world: World) -> None:
    world.supervisor.online("pump-3", False)
    world.ask("start", version="1.1.0")
    world.until(Phase.COMPLETED)
    add_device(world.cloud, world.fleet, "pump-11")
    world.settle()
    world.supervisor.online("pump-3", True)
    world.supervisor.step()
    assert set(world.supervisor.running().values()) == {world.new}
    assert all(not d.pinned for d in world.backend.inventory(1).devices.values())


def test_a_device_that_somebody_pinned_is_passed_over_and_keeps_its_pin(world: World) -> None:
    other = add_release(world.cloud, world.fleet, "1.0.9")
    world.backend.pin(["pump-4"], other)
    world.ask("start", version="1.1.0")
    world.until(Phase.COMPLETED)
    world.settle()
    four = world.backend.inventory(1).devices["pump-4"]
    assert (four.running, four.pinned) == (other, other)
    row = list_rollouts(world.store, FLEET, slot=LANE)[0]
    assert "somebody" in row.document["skipped"]["pump-4"]


def test_a_device_that_somebody_moves_in_the_middle_stays_where_he_put_it(world: World) -> None:
    other = add_release(world.cloud, world.fleet, "1.0.9")
    world.ask("start", version="1.1.0")
    (touched,) = [d for d, r in _targets(world).items() if r == world.new]
    world.turn()
    world.backend.pin([touched], other)
    assert world.ask("abort", rollout=world.rollout().id).startswith("done")
    world.turn()
    assert world.backend.inventory(1).devices[touched].pinned == other


def test_a_fleet_that_was_moved_meanwhile_does_not_take_a_withdrawn_device_along(
    world: World,
) -> None:
    world.ask("start", version="1.1.0")
    (touched,) = [d for d, r in _targets(world).items() if r == world.new]
    world.backend.pin_fleet(world.new)  # a person, by hand, of all releases that one
    assert world.ask("abort", rollout=world.rollout().id).startswith("done")
    world.settle()
    device = world.backend.inventory(1).devices[touched]
    assert (device.running, device.pinned) == (world.old, world.old)


def test_an_invalidated_release_is_taken_back(world: World) -> None:
    world.ask("start", version="1.1.0")
    world.turn()
    with world.cloud.state.lock:
        row = world.fleet.releases[world.new]
        world.cloud.state.change("release", [row], {"is_invalidated": True})
    state = world.until(Phase.HALTED)
    assert "invalidated" in state.verdict
    world.settle()
    assert set(_targets(world).values()) == {world.old}


def test_what_each_device_runs_is_written_back_as_tags_once(world: World) -> None:
    slot = {"slot": "main", "state": "ACTIVE", "active": {"name": "activity", "version": 3}}
    world.hear()
    with world.store.begin() as connection:
        connection.execute(services.update().values(reported={"slots": [slot]}))
    tags = ModelTags(world.store, FLEET, world.backend, CachedInventory(world.backend, fresh_s=5))
    tags.look(world.now_ns)
    found = world.backend.inventory(1).devices.values()
    assert {d.tags.get("fieldloop.model.main") for d in found} == {"activity 3 ACTIVE"}
    written = len(world.cloud.changes())
    assert written == 10
    tags.look(world.now_ns + 60 * NS)
    assert len(world.cloud.changes()) == written


# Mistakes of operators.


def test_mistakes_are_answered_in_words_and_change_nothing(world: World) -> None:
    failed = add_release(world.cloud, world.fleet, "1.2.0", status="failed")
    for version, why in [
        ("9.9.9", "no release is called '9.9.9'; there are: 1.1.0, 1.0.0"),
        ("", "no release is called"),
        (failed, "not built to the end"),
        ("1.2.0", "not built to the end"),
        ("1.0.0", "is what acme/pumps runs already"),
    ]:
        answer = world.ask("start", version=version)
        assert answer.startswith("refused")
        assert why in answer
    assert not world.cloud.changes()
    assert world.ask("start", version="1.1.0").startswith("done")
    assert "on its way already" in world.ask("start", version=world.new[:9])
    rollout = world.rollout().id
    assert "only a paused rollout" in world.ask("resume", rollout=rollout)
    assert world.ask("pause", rollout=rollout).startswith("done")
    assert "touches nobody until resumed" in world.ask("pause", rollout=rollout)
    world.turn()
    assert sum(r == world.new for r in _targets(world).values()) == 1
    assert world.ask("abort", rollout=rollout).startswith("done")
    assert "nothing to abort" in world.ask("abort", rollout=rollout)
    world.settle()
    assert set(_targets(world).values()) == {world.old}
    assert world.ask("retry", rollout=rollout).startswith("done")
    world.until(Phase.COMPLETED)


def test_a_second_release_waits_for_the_first_and_requests_of_one_moment_keep_their_order(
    world: World,
) -> None:
    add_release(world.cloud, world.fleet, "1.2.0")
    for version in ("1.1.0", "1.2.0"):
        ask(world.store, FLEET, "start", lane=LANE, version=version, by="anna",
            now_ns=world.now_ns)  # fmt: skip
        world.now_ns += 1
    for _ in range(200):
        world.turn()
        rows = list_rollouts(world.store, FLEET, slot=LANE)
        if all(row.state == "completed" for row in rows):
            break
    newest, oldest = rows
    assert oldest.document["rollout"]["target"]["version"] == "1.1.0"
    assert newest.document["rollout"]["begun_s"] >= oldest.document["rollout"]["ended_s"]
    world.settle()
    assert world.backend.inventory(1).release == world.fleet.commits[2]


def test_a_fleet_that_takes_each_release_by_itself_is_not_rolled_out_to(world: World) -> None:
    with world.cloud.state.lock:
        world.cloud.state.change(
            "application", [world.fleet.application], {"should_track_latest_release": True}
        )
    add_release(world.cloud, world.fleet, "1.2.0")
    assert "fleet pin --all" in world.ask("start", version="1.1.0")
    assert not world.cloud.changes()


def test_waves_by_tag_and_approval_and_cohorts_hold_for_containers_too(tmp_path: Path) -> None:
    plan = {
        **PLAN,
        "waves": [{"count": 2, "tags": {"ring": "canary"}}, {"all": True, "approval": True}],
        "cohorts": ["site"],
    }
    world = World(tmp_path, plan)
    try:
        for number in (1, 2, 3, 4):
            ring = {"ring": "canary", "site": "north" if number < 3 else "south"}
            world.backend.tag(f"pump-{number}", ring)
        world.ask("start", version="1.1.0")
        state = world.until(Phase.AWAITING)
        touched = {d for d, r in _targets(world).items() if r == world.new}
        assert len(touched & {"pump-1", "pump-2"}) == 1
        assert len(touched & {"pump-3", "pump-4"}) == 1
        for _ in range(5):
            world.turn()
        assert sum(r == world.new for r in _targets(world).values()) == 2
        assert world.ask("approve", rollout=state.id).startswith("done")
        world.until(Phase.COMPLETED)
    finally:
        world.close()
