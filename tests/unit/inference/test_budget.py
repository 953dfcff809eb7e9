"""The CPU budget of a shadow run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_inference.budget import BURST_S, CpuBudget


def test_a_budget_is_full_at_first_and_fills_again_with_time() -> None:
    budget = CpuBudget(0.25, now_s=100.0)
    assert budget.allows(100.0)
    budget.spend(BURST_S + 0.25)
    assert not budget.allows(100.5)
    assert budget.refused == 1
    assert budget.allows(101.1)


@given(
    share=st.floats(0.01, 1.0),
    costs=st.lists(st.floats(1e-5, 0.4), min_size=1, max_size=200),
    steps=st.lists(st.floats(0, 0.5), min_size=200, max_size=200),
)
def test_no_more_is_spent_than_the_share_the_burst_and_one_window(
    share: float, costs: list[float], steps: list[float]
) -> None:
    budget, now_s = CpuBudget(share, 0.0), 0.0
    for cost, step in zip(costs, steps, strict=False):
        now_s += step
        if budget.allows(now_s):
            budget.spend(cost)
        assert budget.spent_s <= share * now_s + BURST_S + max(costs) + 1e-9


def test_a_clock_that_steps_back_gives_nothing() -> None:
    budget = CpuBudget(1.0, 100.0)
    budget.spend(BURST_S + 1)
    assert not budget.allows(50.0)
    assert not budget.allows(100.5)
