"""What anomaly recipes may learn from, and that fifty rounds of it do not creep."""

from __future__ import annotations

import numpy as np

from fieldloop_training.learnable import HOUR_NS, Candidate, HoldBack, Span, select

DAY_NS = 24 * HOUR_NS
RULE = HoldBack(period_ns=14 * DAY_NS, machine_max=100)
NOW_NS = 1_000 * DAY_NS


def window(day: float, machine: str = "pump") -> Candidate:
    t0_ns = round(day * DAY_NS)
    return Candidate(machine, t0_ns, t0_ns + HOUR_NS)


def span(first: float, last: float, sign: str, machine: str = "pump") -> Span:
    return Span(machine, round(first * DAY_NS), round(last * DAY_NS), sign)  # type: ignore[arg-type]


def chosen(day: float, *spans: Span) -> tuple[bool, dict[str, int]]:
    seen = select([window(day)], list(spans), RULE, NOW_NS)
    return bool(seen.chosen), seen.left_out


def test_old_windows_without_a_verdict_are_learnt_and_young_ones_are_held_back():
    assert chosen(980)[0]
    assert chosen(990) == (False, {"held back": 1})


def test_a_confirmed_window_is_learnt_at_once_if_all_of_it_is_confirmed():
    assert chosen(999, span(998, 1000, "healthy"))[0]
    assert chosen(999, span(999.02, 1000, "healthy")) == (False, {"held back": 1})


def test_nothing_is_learnt_near_an_alarm_or_drift_before_or_after():
    for sign in ("alarm", "drift"):
        for day in (499.2, 500.1, 501.9):
            assert chosen(day, span(500, 501, sign)) == (False, {"suspect": 1}), (sign, day)
        assert chosen(498, span(500, 501, sign))[0]
        assert chosen(500.1, span(500, 501, sign, machine="other"))[0]


def test_a_fault_outweighs_a_confirmation_and_a_confirmation_an_alarm():
    assert chosen(500.1, span(499, 502, "healthy"), span(500, 501, "fault"))[1] == {"fault": 1}
    assert chosen(500.1, span(499, 502, "healthy"), span(500, 501, "alarm"))[0]


def test_nothing_is_learnt_from_the_weeks_in_which_a_confirmed_fault_grew():
    for day in (487, 499.9):
        assert chosen(day, span(500, 501, "fault")) == (False, {"suspect": 1}), day
    assert chosen(485, span(500, 501, "fault"))[0]
    assert chosen(487, span(486, 488, "healthy"), span(500, 501, "fault"))[0], "somebody was there"


def test_unknown_is_not_normal_and_idle_teaches_nothing():
    assert chosen(500.1, span(500, 501, "unknown")) == (False, {"unknown": 1})
    assert chosen(500.1, span(500, 501, "idle")) == (False, {"idle": 1})


def test_a_machine_is_capped_and_confirmed_windows_stay_first():
    windows = [window(day) for day in np.linspace(100, 900, 300)]
    seen = select(windows, [span(800, 900, "healthy")], RULE, NOW_NS)
    assert len(seen.chosen) == RULE.machine_max
    assert seen.left_out == {"cap": 200}
    confirmed = {i for i, w in enumerate(windows) if 800 * DAY_NS <= w.t0_ns < 899.9 * DAY_NS}
    assert confirmed <= set(seen.chosen)


def rounds(count: int, *, by_rule: bool) -> list[float]:
    """False alarms on fresh healthy windows, when a threshold is fitted anew in each round.

    A machine's scores are lognormal. In each round a day of scores comes in; the threshold is the
    0.99 quantile of what was let through. By the rule: what is old and without alarm, where a
    person has looked at every alarm and confirmed the window healthy. Else: all that the model in
    force did not alarm on.
    """
    rng = np.random.default_rng(3)
    threshold = float(np.quantile(rng.lognormal(size=2_000), 0.99))
    kept_scores: list[np.ndarray] = []
    windows: list[Candidate] = []
    spans: list[Span] = []
    rates = []
    for day in range(count):
        scores = rng.lognormal(size=400)
        if by_rule:
            begins = [day + k / 400 for k in range(400)]
            windows += [Candidate("pump", round(b * DAY_NS), round(b * DAY_NS) + 1) for b in begins]
            kept_scores.append(scores)
            # An alarm on a healthy machine is looked at, and the day confirmed.
            if (scores > threshold).any():
                spans.append(span(day, day + 1, "alarm"))
                spans.append(span(day, day + 1, "healthy"))
            rule = HoldBack(2 * DAY_NS, before_ns=0, after_ns=0, machine_max=2_000)
            picked = select(windows, spans, rule, (day + 1) * DAY_NS).chosen
            learnt = np.concatenate(kept_scores)[picked]
        else:
            learnt = scores[scores <= threshold]
        if len(learnt) > 100:
            threshold = float(np.quantile(learnt, 0.99))
        rates.append(float((rng.lognormal(size=4_000) > threshold).mean()))
    return rates


def test_fifty_rounds_by_the_rule_do_not_creep_and_learning_what_was_called_normal_does():
    by_rule = rounds(50, by_rule=True)
    assert max(by_rule) < 0.03
    assert abs(np.mean(by_rule[-10:]) - np.mean(by_rule[:10])) < 0.01
    naive = rounds(50, by_rule=False)
    assert naive[-1] > 0.2
