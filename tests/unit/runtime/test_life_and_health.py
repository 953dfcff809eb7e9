"""Process life, health, logs, back-off."""

from __future__ import annotations

import io
import json
import logging
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_runtime import life
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.clock import SystemClock, boot_id
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal, Throttle, configure
from fieldloop_runtime.life import ExitCode


@given(st.integers(0, 10_000), st.floats(0.01, 10), st.floats(10, 600), st.integers())
def test_a_delay_is_never_negative_nor_over_its_cap(attempt, base_s, cap_s, seed):
    assert 0 <= full_jitter(attempt, base_s, cap_s, Random(seed)) <= cap_s


def test_delays_are_spread_over_the_whole_span():
    delays = [full_jitter(10, 1, 60, Random(i)) for i in range(500)]
    assert min(delays) < 6
    assert max(delays) > 54


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FixConfiguration("x"), ExitCode.CONFIGURATION),
        (RetryLater("x"), ExitCode.TEMPORARY),
        (ZeroDivisionError("x"), ExitCode.INTERNAL),
        (None, ExitCode.OK),
    ],
)
def test_the_end_of_a_service_has_a_number(error, code):
    def body(_life: life.Life) -> None:
        if error is not None:
            raise error

    assert life.run("test", body) == code


def test_a_thread_that_dies_ends_the_process():
    def dies() -> None:
        raise ValueError("gone")

    def body(process: life.Life) -> None:
        process.spawn("worker", dies)
        assert process.stop.wait(5)

    assert life.run("test", body) == ExitCode.THREAD_DIED


def test_a_silent_loop_and_a_failed_condition_are_unhealthy():
    health = Health()
    health.tick("loop", limit_s=100)
    health.condition("disk", lambda: None)
    assert health.report() == (True, {"loop": "ok", "disk": "ok"})
    health.tick("loop", limit_s=-1)
    health.condition("disk", lambda: "4 KiB left")
    healthy, parts = health.report()
    assert not healthy
    assert parts["disk"] == "4 KiB left"
    assert "silent" in parts["loop"]


def test_an_event_is_one_line_of_json_with_its_fields():
    out = io.StringIO()
    configure("INFO", out)
    try:
        Journal("test").info("model.activated", version=2, event="clash", path=io)
        Journal("test").debug("hidden")
    finally:
        logging.getLogger("fieldloop").handlers.clear()
    line = json.loads(out.getvalue())
    assert line["event"] == "model.activated"
    assert (line["version"], line["event_"], line["level"]) == (2, "clash", "info")


def test_a_throttle_lets_one_through_and_counts_the_others():
    throttle = Throttle(10)
    assert [throttle.allow(t) for t in (0, 1, 9.9, 10, 11)] == [True, False, False, True, False]
    assert throttle.suppressed == 1


def test_a_clock_before_its_floor_is_not_believed():
    far = SystemClock(trusted=True, floor_ns=2**62)
    assert far.now().clock == "unknown"
    near = SystemClock(trusted=True).now()
    assert near.clock == "synchronised"
    assert near.boot == boot_id()
