"""The suite that every source passes, on worlds without sockets; see support/sources.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.sources import SUITE, World, check_kills_neither_lose_nor_double
from support.worlds import IioBufferWorld, MachineWorld, MqttWorld, ReplayWorld


@pytest.fixture(params=["replay", "machine", "mqtt", "iio"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "iio":
        made = IioBufferWorld(tmp_path)
        yield made
        made.end()
    elif request.param == "replay":
        yield ReplayWorld(tmp_path)
    else:
        yield {"machine": MachineWorld, "mqtt": MqttWorld}[request.param]()


@pytest.mark.parametrize("check", SUITE, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_source(world: World, check: Callable[[World], None]):
    check(world)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["replay", "machine", "mqtt"])
def test_a_replayable_source_survives_kills_with_each_row_once(
    kind: str, seed: int, tmp_path: Path
):
    worlds = {
        "replay": lambda: ReplayWorld(tmp_path),
        "machine": MachineWorld,
        "mqtt": lambda: MqttWorld(seed),
    }
    check_kills_neither_lose_nor_double(worlds[kind](), seed)
