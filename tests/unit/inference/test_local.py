"""What is shown on the device's own broker, and when."""

from __future__ import annotations

from fieldloop_contract.errors import RetryLater
from fieldloop_inference.local import Outlet


class Broker:
    """Keeps what is retained; can be away."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.away = False

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        if self.away:
            raise RetryLater("away")
        assert retain
        self.retained[topic] = payload
        return 1


RESULT = "local/pump-1/inference/main/result"
ALARM = "local/pump-1/inference/main/alarm"


def test_nothing_is_shown_before_it_is_durable() -> None:
    broker = Broker()
    outlet = Outlet("pump-1", "inference", broker)
    outlet.result("main", 5, b"five")
    outlet.step(4)
    assert broker.retained == {}
    outlet.step(5)
    assert broker.retained == {RESULT: b"five"}


def test_a_row_becomes_visible_however_fast_others_follow() -> None:
    broker = Broker()
    outlet = Outlet("pump-1", "inference", broker)
    shown = []
    for seq in range(1, 101):
        outlet.result("main", seq, str(seq).encode())
        outlet.step(durable_seq=seq // 10 * 10)
        shown.append(broker.retained.get(RESULT))
    assert shown[-1] is not None
    assert 80 <= int(shown[-1]) <= 100
    assert outlet.published >= 9


def test_a_broker_that_was_away_or_forgot_is_told_again() -> None:
    broker = Broker()
    outlet = Outlet("pump-1", "inference", broker)
    broker.away = True
    outlet.result("main", 1, b"one")
    outlet.alarm("main", 1, alarm=True, stream="imu", t_ns=7)
    outlet.step(1)
    broker.away = False
    outlet.step(1)
    assert broker.retained[RESULT] == b"one"
    assert broker.retained[ALARM] == b'{"slot":"main","alarm":true,"stream":"imu","t_ns":7}'
    broker.retained.clear()
    outlet.step(1)
    assert broker.retained == {}, "what is retained is not sent again and again"
    outlet.connected()
    outlet.step(1)
    assert set(broker.retained) == {RESULT, ALARM}


def test_a_log_with_a_new_epoch_does_not_silence_it() -> None:
    broker = Broker()
    outlet = Outlet("pump-1", "inference", broker)
    outlet.result("main", 1_000_000, b"old epoch, never durable")
    outlet.result("main", 1, b"new epoch")
    outlet.step(1)
    assert broker.retained == {RESULT: b"new epoch"}
