"""The console's pure parts: throttling, spans, cursors, rendering, roles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_console.api.doors import pack_cursor, read_cursor
from fieldloop_console.conditions import DAY_NS, by_day, compare
from fieldloop_console.doorway import inside
from fieldloop_console.forms import fields_of, read_form
from fieldloop_console.identity import Actor, NotAllowed
from fieldloop_console.pages.plots import signal_options
from fieldloop_console.rendering import count, moment, render, size, span
from fieldloop_console.span import Span, read_span
from fieldloop_console.throttle import KEYS_MAX, Throttle
from fieldloop_console.waveform import Picture
from fieldloop_contract.errors import RejectedInput
from fieldloop_models.recipe import load_recipe, recipe_names, settings_schema
from fieldloop_store.conditions import ScoreRow

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


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipes_settings_have_a_field_each_with_title_and_help(recipe: str):
    schema = settings_schema(recipe)
    fields = fields_of(schema)
    assert [f.name for f in fields] == list(schema["properties"])
    assert all(f.title and f.help and f.kind != "json" for f in fields)
    untouched = {f.name: f.default for f in fields}
    assert read_form(schema, untouched) == {}, "what is left at its default is not said"
    load_recipe(recipe, read_form(schema, {**untouched, "epochs": "7"}))


def test_a_form_is_read_in_the_types_of_its_schema():
    schema = settings_schema("activity_cnn")
    typed = {"epochs": "12", "dropout": "0.5", "filters": "8, 16", "normalisation": "robust"}
    assert read_form(schema, typed) == {
        "epochs": 12, "dropout": 0.5, "filters": [8, 16], "normalisation": "robust",
    }  # fmt: skip
    found = {f.name: f for f in fields_of(schema)}
    assert (found["epochs"].low, found["epochs"].high) == (1, 500)
    assert found["filters"].bounds == "each from 4 to 128; 1 to 6 of them"
    assert found["learning_rate"].bounds == "above 0 to 0.1"
    assert found["normalisation"].choices == ("standard", "robust")


@pytest.mark.parametrize(
    ("typed", "said"),
    [({"epochs": "many"}, "Epochs: 'many' is no whole number"),
     ({"epochs": "1.5"}, "no whole number"),
     ({"epochs": "501"}, r"Epochs \(epochs\): 501 is greater than the maximum of 500"),
     ({"dropout": "nan"}, "no number"),
     ({"filters": "8, x"}, r"Filters \(filters.1\): 'x' is not of type 'integer'"),
     ({"filters": "1,1,1,1,1,1,1"}, "Filters"),
     ({"normalisation": "none"}, "'none' is not one of"),
     ({"epochs": "0", "batch": "1"}, "Batch .*; Epochs")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_title_of_its_field(typed: dict[str, str], said: str):
    with pytest.raises(RejectedInput, match=said):
        read_form(settings_schema("activity_cnn"), typed)


def test_a_schema_with_references_booleans_and_objects_makes_a_form():
    schema = {
        "properties": {
            "on": {"type": "boolean", "default": True},
            "deep": {"type": "object", "default": {"a": 1}},
            "step": {"$ref": "#/$defs/Step", "default": 2},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        },
        "$defs": {"Step": {"type": "integer", "minimum": 1, "title": "Step"}},
    }
    found = {f.name: f for f in fields_of(schema)}
    assert [found[n].kind for n in ("on", "deep", "step", "maybe")] == [
        "boolean", "json", "integer", "json",
    ]  # fmt: skip
    typed = {"on": "no", "deep": '{"a": 2}', "step": "3", "maybe": "4", "other": "x"}
    assert read_form(schema, typed) == {"on": False, "deep": {"a": 2}, "step": 3, "maybe": 4}
    with pytest.raises(RejectedInput, match="no JSON"):
        read_form(schema, {"deep": "{"})


def test_a_machine_is_worse_when_this_week_lies_above_last_month():
    then = [1.0 + 0.01 * i for i in range(20)]
    assert compare([1.3] * 10, then) == "worse"
    assert compare([1.1] * 10, then) == "as before"
    assert compare([0.9] * 10, then) == "better"
    assert compare([9.0] * 7, then) == "", "seven windows tell nothing"
    assert compare([], []) == ""


def test_scores_are_put_together_by_day():
    rows = [ScoreRow(3 * DAY_NS + i, float(i)) for i in range(11)] + [ScoreRow(5 * DAY_NS, 7.0)]
    days = by_day(rows)
    assert [(d.t0_ns // DAY_NS, d.windows) for d in days] == [(3, 11), (5, 1)]
    assert (days[0].low, days[0].median, days[0].high) == (1.0, 5.0, 9.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "less than a minute"), (60, "1 minute"), (7_200, "2 hours"), (3 * 86_400, "3 days")],
)
def test_how_long_something_takes_is_said_in_words(seconds: float, words: str):
    assert span(seconds) == words


def test_frames_of_more_channels_than_the_device_now_names_are_drawn_all_the_same():
    levels = np.ones((2, 3), np.float32)
    picture = Picture(0, 2 * S, np.array([0, S]), levels, levels, 2, exact=True, coming=False)
    series = signal_options(picture, ("x",), ("g",), [])["series"]
    assert [s["name"] for s in series] == ["x (g)", "channel 2", "channel 3"]
