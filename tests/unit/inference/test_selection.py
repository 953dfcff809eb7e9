"""Which windows are samples: by chance, the same one after a kill, within a daily budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fieldloop_inference.monitor import Notes
from fieldloop_inference.selection import DAY_NS, SampleSettings, Spent, choose, draw, unsure
from fieldloop_scoring.scorer import Scored
from fieldloop_scoring.windows import Window


def window(seq: int) -> Window:
    return Window("e" * 32, seq, seq + 1, 0, 1, np.zeros((2, 1), np.float32))


def settings(**changes: Any) -> SampleSettings:
    return SampleSettings(**{"bytes_per_day": 10_000, **changes})


def classified(best: float) -> Scored:
    return Scored("classification", label="a", probabilities={"b": 1 - best, "a": best}, score=best)


def test_the_draw_is_uniform_and_the_windows_own() -> None:
    drawn = np.array([draw(window(seq)) for seq in range(1, 20_001)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01
    assert np.histogram(drawn, 10, (0, 1))[0].min() > 1_800
    assert draw(window(7)) == draw(window(7))


@pytest.mark.parametrize("chance", [0.05, 0.5, 1.0])
def test_each_window_is_chosen_with_the_probability_it_carries(chance: float) -> None:
    rule = settings(chance=chance, control=0.02)
    for scored, reasons, probability in (
        (classified(0.51), ("unsure",), chance),
        (classified(0.99), ("control",), 0.02),
    ):
        chosen = [
            choose(window(n), scored, Notes(), rule, drifting=False) for n in range(1, 10_001)
        ]
        taken = [c for c in chosen if c is not None]
        assert {(c.reasons, c.probability) for c in taken} == {(reasons, probability)}
        assert len(taken) / 10_000 == pytest.approx(probability, abs=0.02)


def test_all_reasons_are_named() -> None:
    choice = choose(
        window(1), classified(0.5), Notes(alarm=True), settings(chance=1.0), drifting=True
    )
    assert choice is not None
    assert choice.reasons == ("alarmed", "unsure", "drifting")


def test_idle_windows_and_a_budget_of_nothing_choose_nothing() -> None:
    rule = settings(chance=1.0, control=1.0)
    idle = Notes(running=False)
    assert choose(window(1), classified(0.5), idle, rule, drifting=True) is None
    off = settings(bytes_per_day=0, chance=1.0)
    assert choose(window(1), classified(0.5), Notes(), off, drifting=True) is None


def test_output_that_is_not_valid_is_unsure_and_a_score_alone_is_not() -> None:
    assert unsure(Scored("anomaly", valid=False), 0.2)
    assert not unsure(Scored("anomaly", score=3.0), 0.2)


def test_control_samples_keep_a_share_of_the_budget() -> None:
    rule = settings(bytes_per_day=1_000, control_share=0.3)
    spent = Spent(day=3, spent=650, special=650)
    assert not spent.fits(100, rule, control=False)
    assert spent.fits(100, rule, control=True)
    assert not spent.fits(400, rule, control=True)


def test_a_new_day_begins_with_nothing_spent_and_the_text_comes_back() -> None:
    spent = Spent(day=3, spent=650, special=600, refused=2)
    assert Spent.load(spent.dump()) == spent
    assert spent.on(3 * DAY_NS + 5) is spent
    assert spent.on(4 * DAY_NS) == Spent(day=4)
    for text in (None, "", "[]", "{", '{"spent":"x"}', '{"spent":null}'):
        assert Spent.load(text) == Spent()
