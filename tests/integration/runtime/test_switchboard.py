"""Many sessions on one thread, over a real broker and bad lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_contract.errors import RetryLater
from fieldloop_runtime.mqtt import Connected, Disconnected, Received, Will
from fieldloop_runtime.settings import MqttSettings
from fieldloop_runtime.switchboard import Switchboard, SwitchedSession
from support.broker import Mosquitto


class Wire:
    """A line that a test cuts and mends."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.whole = True
        self.wait_s = delay_s

    def up(self, now_s: float) -> bool:
        return self.whole

    def delay_s(self, size: int, now_s: float) -> float:
        return self.wait_s

    def delay_back_s(self, now_s: float) -> float:
        return self.wait_s


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path / "broker").start()
    yield made
    made.kill()


@pytest.fixture
def board() -> Iterator[Switchboard]:
    made = Switchboard()
    yield made
    made.close()


def settings(broker: Mosquitto, **changes: Any) -> MqttSettings:
    return MqttSettings(
        host="127.0.0.1", port=broker.port, reconnect_base_s=0.05, reconnect_cap_s=0.2, **changes
    )


def turn_until(board: Switchboard, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "it did not come to pass"
        board.turn(0.02)


def events(session: SwitchedSession, kind: type[Any]) -> list[Any]:
    """The waiting events of one kind; others are dropped."""
    found = []
    while (event := session.poll()) is not None:
        if isinstance(event, kind):
            found.append(event)
    return found


def test_hundreds_of_sessions_on_one_thread_speak_and_listen(broker: Mosquitto, board: Switchboard):
    woken: set[int] = set()
    sessions = [
        board.session(
            settings(broker), f"c-{n}", subscriptions=(f"to/{n}",), wake=lambda n=n: woken.add(n)
        )
        for n in range(200)
    ]
    for session in sessions:
        session.start()
    turn_until(board, lambda: board.connected == 200)
    woken.clear()
    for n, session in enumerate(sessions):
        assert events(session, Connected) == [Connected()]
        session.publish(f"to/{(n + 1) % 200}", str(n).encode())
    turn_until(board, lambda: len(woken) == 200)
    for n, session in enumerate(sessions):
        (received,) = events(session, Received)
        assert received.payload == str((n - 1) % 200).encode()


def test_a_broker_that_comes_back_is_found_again_with_all_subscriptions(
    broker: Mosquitto, board: Switchboard
):
    session = board.session(settings(broker), "c", subscriptions=("a",))
    session.start()
    turn_until(board, lambda: session.connected)
    session.subscribe("b")
    broker.kill()
    turn_until(board, lambda: not session.connected)
    with pytest.raises(RetryLater):
        session.publish("a", b"1")
    broker.start()
    turn_until(board, lambda: session.connected)
    session.publish("b", b"2")
    seen: list[Received] = []
    turn_until(board, lambda: bool(seen.extend(events(session, Received)) or seen))
    assert seen[-1].payload == b"2"


def test_nothing_passes_a_cut_and_what_waited_passes_after_it(
    broker: Mosquitto, board: Switchboard
):
    wire = Wire()
    far = board.session(settings(broker), "far", subscriptions=("up", "down"), line=wire)
    near = board.session(settings(broker), "near", subscriptions=("up",))
    for session in (far, near):
        session.start()
    turn_until(board, lambda: board.connected == 2)
    events(far, Connected), events(near, Connected)
    wire.whole = False
    far.publish("up", b"1")
    near.publish("down", b"2")
    until_s = time.monotonic() + 0.6
    turn_until(board, lambda: time.monotonic() > until_s)
    assert not events(near, Received)
    assert not events(far, Received)
    wire.whole = True
    seen: list[bytes] = []
    turn_until(
        board,
        lambda: (
            bool(seen.extend(e.payload for s in (far, near) for e in events(s, Received)))
            or sorted(seen) == [b"1", b"1", b"2"]
        ),
    )


def test_a_long_cut_ends_the_connection_and_what_was_on_its_way_is_lost(
    broker: Mosquitto, board: Switchboard
):
    wire = Wire()
    impatient = settings(broker).model_copy(update={"keepalive_s": 1})
    far = board.session(impatient, "far", line=wire)
    near = board.session(settings(broker), "near", subscriptions=("up",))
    for session in (far, near):
        session.start()
    turn_until(board, lambda: board.connected == 2)
    wire.whole = False
    far.publish("up", b"lost")
    turn_until(board, lambda: not far.connected)
    assert [e.reason for e in events(far, Disconnected)] == ["no answer to a ping"]
    wire.whole = True
    turn_until(board, lambda: far.connected)
    far.publish("up", b"kept")
    seen: list[bytes] = []
    turn_until(board, lambda: bool(seen.extend(e.payload for e in events(near, Received)) or seen))
    assert seen == [b"kept"]


def test_what_is_delayed_arrives_late_and_in_order(broker: Mosquitto, board: Switchboard):
    far = board.session(settings(broker), "far", subscriptions=("up",), line=Wire(0.15))
    far.start()
    turn_until(board, lambda: far.connected)
    begun_s = time.monotonic()
    for n in range(20):
        far.publish("up", bytes([n]))
    seen: list[bytes] = []
    turn_until(
        board,
        lambda: bool(seen.extend(e.payload for e in events(far, Received))) or len(seen) == 20,
    )
    assert seen == [bytes([n]) for n in range(20)]
    assert time.monotonic() - begun_s > 0.3


def test_too_much_on_its_way_is_refused(broker: Mosquitto, board: Switchboard):
    wire = Wire()
    far = board.session(settings(broker, inflight_max=2), "far", line=wire)
    far.start()
    turn_until(board, lambda: far.connected)
    wire.wait_s = 60.0
    for _ in range(8):
        far.publish("up", b"x")
    with pytest.raises(RetryLater, match="in flight"):
        far.publish("up", b"x")


def test_a_power_cut_brings_the_will_and_a_stop_the_goodbye(broker: Mosquitto, board: Switchboard):
    near = board.session(settings(broker), "near", subscriptions=("status/+",))
    near.start()
    wills = {name: Will(f"status/{name}", name.encode()) for name in ("cut", "stopped")}
    ends = {name: board.session(settings(broker), name, will=wills[name]) for name in wills}
    for session in ends.values():
        session.start()
    turn_until(board, lambda: board.connected == 3)
    ends["cut"].sever()
    ends["stopped"].stop(Will("status/stopped", b"goodbye"))
    seen: dict[str, bytes] = {}
    turn_until(
        board,
        lambda: (
            bool(seen.update({e.topic: e.payload for e in events(near, Received)}))
            or len(seen) == 2
        ),
    )
    assert seen == {"status/cut": b"cut", "status/stopped": b"goodbye"}
    assert not ends["cut"].alive
