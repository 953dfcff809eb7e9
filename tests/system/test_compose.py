"""The whole system in containers, as it is shipped: a model trained, delivered and reporting, while
containers are killed at random; in the end the books balance, row by row. The second device has
what a Raspberry Pi Zero 2 W has to give: a slow core's share, and little memory.

Needs a docker engine with compose 2.24 (`docker info`); builds the images where they are not there.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fieldloop_demo.stack import (
    CLOUD,
    Stack,
    recordings_of,
    runs_model,
    traffic,
    wait,
    wait_until_enrolled,
)
from support.engine import NO_ENGINE, docker_answers, postgres_image

DEVICES = ("wearer-1", "wearer-2")
KILL_EVERY_S = 6.0
KILLS_MIN = 15
SEED = int(os.environ.get("FIELDLOOP_SEED", "0")) or random.randrange(1, 1 << 30)
CLOUD_SERVICES = ("broker", "console", "database", "delivery", "identity", "machines", "telemetry")
DEVICE_SERVICES = ("agent", "ingestion", "inference", "local-broker")

pytestmark = pytest.mark.timeout(3_000)


class Chaos:
    """Kills a container at random now and then, and starts it again."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._random = random.Random(SEED)
        self._next_s = time.monotonic() + KILL_EVERY_S
        self.killed: list[str] = []

    def __call__(self) -> None:
        if time.monotonic() < self._next_s:
            return
        choices = [(CLOUD, s) for s in CLOUD_SERVICES]
        choices += [(device, s) for device in DEVICES for s in DEVICE_SERVICES]
        project, service = self._random.choice(choices)
        self.killed.append(f"{project}/{service}")
        self._stack.kill(project, service)
        self._next_s = time.monotonic() + KILL_EVERY_S

    def during(self, ready: Callable[[], object]) -> Callable[[], object]:
        """`ready`, with chaos before each look."""

        def look() -> object:
            self()
            return ready()

        return look


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    if not docker_answers():
        pytest.skip(NO_ENGINE)
    made = Stack(tmp_path, devices=list(DEVICES))
    made.settings["FIELDLOOP_POSTGRES_IMAGE"] = postgres_image(made)
    made.stop()
    made.build()
    yield made
    made.stop()


def test_the_loop_closes_in_containers_that_are_killed_at_random(stack: Stack) -> None:
    sys.stdout.write(f"seed {SEED}\n")
    stack.start_cloud()
    for device in DEVICES:
        stack.start_device(device)
    wait_until_enrolled(stack, DEVICES)
    for service in ("ingestion", "inference"):
        stack.limit(DEVICES[1], service, cpus=0.4, memory_mib=160)
    chaos = Chaos(stack)
    own = recordings_of((1, 2))
    for device, recordings in zip(DEVICES, own, strict=True):
        for recording in recordings:
            wait("a drop", lambda d=device, r=recording: chaos() or stack.drop(d, r))
    first = set(stack.dropped)
    wait("recordings", chaos.during(lambda: first <= set(stack.played())), 600)
    played = stack.played()
    wait("labels", chaos.during(lambda: stack.label({k: played[k] for k in first})))
    wait("training", chaos.during(lambda: stack.training()["models"]), 900)
    keep_playing = traffic(stack, DEVICES, own)

    def delivered() -> bool:
        keep_playing()
        return all(runs_model(stack, device) for device in DEVICES)

    wait("delivery", chaos.during(delivered), 900)

    def tormented() -> bool:
        keep_playing()
        return len(chaos.killed) >= KILLS_MIN

    wait("more kills", chaos.during(tormented), 600)
    sys.stdout.write(f"{len(chaos.killed)} containers killed: {chaos.killed}\n")

    wait("books", lambda: settled(stack), 300)
    balanced, logs = stack.books()
    assert balanced
    assert {(log["device"], log["service"]) for log in logs} >= {
        (device, service) for device in DEVICES for service in ("ingestion", "inference")
    }
    digest = stack.push_profile(speed=50.0)
    wait("a profile over the air", lambda: profile_applied(stack, digest) == set(DEVICES), 300)
    keep_playing()
    wait("books after it", lambda: settled(stack), 300)
    for device in DEVICES:
        findings = {f["what"]: f for f in stack.findings(device)}
        for what in ("clock", "identity", "tls", "access", "signed metadata", "disk"):
            assert findings[what]["fine"], findings[what]
    wait("health", lambda: not stack.unwell(), 240)


def profile_applied(stack: Stack, digest: str) -> set[str]:
    """Devices that say that they run on a profile for good."""
    told = [e for e in stack.events() if e["type"] == "profile.applied"]
    return {e["device"] for e in told if e["data"]["digest"] == digest}


def settled(stack: Stack) -> bool:
    """Whether every log's rows are in the store, and nothing is on its way."""
    balanced, logs = stack.books()
    return balanced and all(
        log["reported"] is not None
        and log["reported"]["pending"] == 0
        and log["reported"]["stored"] == log["held"]["distinct"]
        for log in logs
    )
