"""The console's pure parts: throttling, spans, cursors, rendering, roles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_console.api.doors import pack_cursor, read_cursor
from fieldloop_console.doorway import inside
from fieldloop_console.identity import Actor, NotAllowed
from fieldloop_console.rendering import count, moment, render, size
from fieldloop_console.span import Span, read_span
from fieldloop_console.throttle import KEYS_MAX, Throttle

S = 10**9


def test_a_throttle_grants_a_burst_and_then_one_in_a_while():
    throttle = Throttle(burst=3, refill_s=10)
    for _ in range(3):
        assert throttle.wait_s("eve", 0) == 0
        throttle.spend("eve", 0)
    assert throttle.wait_s("eve", 0) == 10
    assert throttle.wait_s("ada", 0) == 0
    assert throttle.wait_s("eve", 9.9) == pytest.approx(0.1)
    assert throttle.wait_s("eve", 10) == 0
    throttle.forget("eve")
    assert throttle.wait_s("eve", 0) == 0


def test_a_throttle_remembers_a_bounded_number_of_keys():
    throttle = Throttle(burst=1, refill_s=1e9)
    for i in range(KEYS_MAX + 10):
        throttle.spend(str(i), 0)
    assert len(throttle._levels) == KEYS_MAX
    assert throttle.wait_s(str(KEYS_MAX + 9), 0) > 0


@given(st.integers(0, 2**62), st.integers(1, 10**15), st.text("inoutearlrw", max_size=8))
def test_a_span_stays_a_span_however_it_is_moved(start: int, length: int, how: str):
    span = Span(start, start + max(length, 1_000_000))
    for move in (how, "in", "out", "earlier", "later", "all", "newest"):
        span = span.moved(move, start, start + length)
        assert 0 <= span.t0_ns < span.t1_ns < 2**63


def test_zooming_in_and_out_comes_back_to_the_same_length():
    whole = Span(0, 100 * S)
    near = whole.moved("in", 0, 100 * S)
    assert near == Span(25 * S, 75 * S)
    assert near.moved("out", 0, 100 * S) == whole
    assert near.moved("later", 0, 100 * S) == Span(50 * S, 100 * S)
    assert near.part("1", "2") == Span(26 * S, 27 * S)
    assert near.part("1", "x") is None
    assert near.part("nan", "2") is None
    assert near.part("1e99", "2") is None


@pytest.mark.parametrize(("t0", "t1"), [("", ""), ("x", "5"), ("-1", "5"), ("9" * 30, "5")])
def test_an_address_without_a_span_shows_the_last_minute(t0: str, t1: str):
    assert read_span(t0, t1, 0, 100 * S) == Span(40 * S, 100 * S)


def test_a_cursor_comes_back_as_it_went():
    assert read_cursor(pack_cursor(5, "a", "é"), int, str, str) == (5, "a", "é")
    assert read_cursor(None, int) is None


@pytest.mark.parametrize(
    ("target", "lands"),
    [("/f/demo", "/f/demo"), ("https://a.test", "/"), ("//a.test", "/"), ("/\\a.test", "/"),
     ("f", "/"), ("", "/"), ("/f?x=https://b", "/f?x=https://b")],
)  # fmt: skip
def test_nobody_is_sent_to_another_site(target: str, lands: str):
    assert inside(target) == lands


def test_each_role_may_do_what_those_before_it_may():
    operator = Actor("ada", "operator", "token")
    operator.need("viewer")
    operator.need("operator")
    with pytest.raises(NotAllowed, match="takes admin"):
        operator.need("admin")


def test_what_is_shown_is_escaped_and_odd_values_do_not_break_a_page():
    html = render("message.html", title="<b>", words="<script>alert(1)</script>")
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    for odd in (None, "x", float("nan"), [], 2**80):
        assert isinstance(str(moment(odd)), str)  # type: ignore[arg-type]
    assert (count(None), count(1234), count(12_345_678), size(2048)) == (
        "–", "1,234", "12.3 million", "2.0 KiB",
    )  # fmt: skip
