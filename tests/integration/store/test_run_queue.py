"""The queue of training runs on both back ends: one owner at a time, nobody's work lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fieldloop_contract.errors import LimitExceeded, RejectedInput
from fieldloop_store import artefacts, frozensets, questions, runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_store.runs import Epoch

LEASE = 10


def enqueue(store: Store, now_ns: int = 1, **changes: Any) -> str:
    values: dict[str, Any] = {
        "fleet": "demo", "model": "activity", "recipe": "activity_cnn",
        "settings": {"epochs": 3}, "trigger": {"kind": "hand", "by": "ada"}, "now_ns": now_ns,
    }  # fmt: skip
    return runqueue.enqueue(store, **(values | changes))


def claim(store: Store, owner: str, now_ns: int, **changes: Any) -> runs.RunRow | None:
    return runqueue.claim(store, owner, fleet="demo", lease_ns=LEASE, now_ns=now_ns, **changes)


def test_runs_are_claimed_by_priority_and_then_by_age(store: Store):
    old, new = enqueue(store, 1), enqueue(store, 2)
    urgent, never = enqueue(store, 3, priority=5), enqueue(store, 1, priority=-5)
    taken = [claim(store, "w", 10) for _ in range(5)]
    assert [row and row.id for row in taken] == [urgent, old, new, never, None]


def test_a_lease_that_ran_out_gives_the_run_to_another_and_refuses_the_first(store: Store):
    run = enqueue(store)
    first = claim(store, "one", 10)
    assert first is not None
    assert (first.state, first.attempt, first.lease_ns) == ("running", 1, 20)
    assert runqueue.heartbeat(store, run, "one", lease_ns=LEASE, now_ns=15) == "mine"
    assert claim(store, "two", 24) is None
    second = claim(store, "two", 26)
    assert second is not None
    assert (second.owner, second.attempt) == ("two", 2)
    assert runqueue.heartbeat(store, run, "one", lease_ns=LEASE, now_ns=27) == "lost"
    assert not runqueue.update_run(store, run, "one", now_ns=27, progress={"stage": "late"})
    assert not runqueue.finish(store, run, "one", "approved", {"words": "late"}, now_ns=27)
    assert runqueue.finish(store, run, "two", "refused", {"words": "no labels"}, now_ns=28)
    ended = runs.find_run(store, run)
    assert ended is not None
    assert (ended.state, ended.ended_ns, ended.owner) == ("refused", 28, None)
    assert not runqueue.finish(store, run, "two", "approved", {}, now_ns=29)


def test_a_run_that_kills_its_workers_is_given_up_after_three_attempts(store: Store):
    run = enqueue(store)
    for attempt in range(runqueue.ATTEMPTS_MAX):
        assert claim(store, f"w{attempt}", 100 * (attempt + 1)) is not None
    assert claim(store, "w", 1_000) is None
    row = runs.find_run(store, run)
    assert row is not None
    assert row.state == "failed"


def test_a_release_in_order_counts_no_attempt(store: Store):
    run = enqueue(store)
    for _ in range(5):
        assert claim(store, "w", 10) is not None
        assert runqueue.release(store, run, "w", words="stopped", counts=False, now_ns=11)
    row = runs.find_run(store, run)
    assert row is not None
    assert (row.state, row.attempt) == ("queued", 0)


def test_many_workers_never_claim_the_same_run(store: Store):
    wanted = {enqueue(store, n) for n in range(12)}
    taken: list[str] = []

    def work(owner: str) -> None:
        while (row := claim(store, owner, 50)) is not None:
            taken.append(row.id)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(wanted)


def test_cancelling_ends_what_waits_and_asks_what_runs(store: Store):
    waiting, running = enqueue(store, 2), enqueue(store, 1)
    assert claim(store, "w", 10, run=running) is not None
    assert runqueue.cancel(store, waiting, by="ada", now_ns=11) == "cancelled"
    assert runqueue.cancel(store, waiting, by="ada", now_ns=11) == "no"
    assert runqueue.cancel(store, running, by="ada", now_ns=11) == "asked"
    assert runqueue.heartbeat(store, running, "w", lease_ns=LEASE, now_ns=12) == "cancel"
    # its worker dies before it obeys: whoever claims next ends it
    assert claim(store, "two", 500) is None
    states = {r.id: r.state for r in runs.list_runs(store, "demo")}
    assert states == {waiting: "cancelled", running: "cancelled"}


def test_curves_come_by_epoch_and_a_second_attempt_replaces_them(store: Store):
    run = enqueue(store)
    assert claim(store, "w", 10) is not None
    first = [Epoch(n, {"loss": float(9 - n)}, 10) for n in range(1, 4)]
    assert runqueue.update_run(store, run, "w", now_ns=11, epochs=first)
    assert runqueue.update_run(store, run, "w", now_ns=12, epochs=[Epoch(3, {"loss": 0.5}, 12)])
    assert [e.figures["loss"] for e in runs.epochs_of(store, run)] == [8.0, 7.0, 0.5]
    assert [e.epoch for e in runs.epochs_of(store, run, after=2)] == [3]


def test_comparing_shows_what_was_set_differently_and_what_came_of_it(store: Store):
    one = enqueue(store, 1)
    two = enqueue(store, 2, settings={"epochs": 9, "batch": 16}, options={"seed": 4})
    for run, accuracy in ((one, 0.8), (two, 0.9)):
        assert claim(store, "w", 10, run=run) is not None
        verdict = {"words": "x", "metrics": {"int8": {"accuracy": accuracy}}}
        assert runqueue.finish(store, run, "w", "rejected", verdict, now_ns=11)
    seen = runs.compare(store, [one, two])
    assert seen.differing == {"batch": [None, 16], "epochs": [3, 9], "seed": [None, 4]}
    assert seen.metrics == {"int8.accuracy": [0.8, 0.9]}
    with pytest.raises(RejectedInput, match="no run"):
        runs.compare(store, [one, "f" * 32])


def test_what_cannot_be_enqueued_is_said_in_words(store: Store, monkeypatch: pytest.MonkeyPatch):
    for changes in ({"fleet": "NO"}, {"trigger": {"kind": "magic"}}, {"priority": 101}):
        with pytest.raises(RejectedInput):
            enqueue(store, **changes)
    monkeypatch.setattr(runqueue, "QUEUED_MAX", 1)
    enqueue(store)
    with pytest.raises(LimitExceeded, match="wait already"):
        enqueue(store)


def test_a_question_is_open_once_and_its_acceptance_makes_one_run(store: Store):
    given: dict[str, Any] = {
        "fleet": "demo", "model": "activity", "kind": "drift", "subject": "subject-1/ax",
        "proposal": {"recipe": "activity_cnn", "settings": {"epochs": 2}},
    }  # fmt: skip
    asked, fresh = questions.ask(store, **given, evidence={"words": "ax moved"}, now_ns=1)
    again, still = questions.ask(store, **given, evidence={"words": "ax moved on"}, now_ns=2)
    assert (asked, fresh, still) == (again, True, False)
    run = questions.answer(store, asked, accept=True, by="ada", what="wear", now_ns=3)
    assert run is not None
    row = runs.find_run(store, run)
    assert row is not None
    assert row.trigger["reason"] == "ax moved on"
    with pytest.raises(RejectedInput, match="not open"):
        questions.answer(store, asked, accept=True, by="ada", now_ns=4)
    other, _ = questions.ask(store, **given, evidence={"words": "again"}, now_ns=5)
    assert questions.answer(store, other, accept=False, by="ada", now_ns=6) is None
    assert [q.state for q in questions.list_questions(store, "demo")] == ["dismissed", "accepted"]
    assert len(runs.list_runs(store, "demo")) == 1


def test_artefacts_read_back_and_equal_content_is_stored_once(store: Store):
    plot = ("image/png", b"png")
    with store.begin() as connection:
        artefacts.add_artefacts(connection, "r" * 32, {"a.png": plot, "b.png": plot}, 1)
    with store.begin() as connection:
        artefacts.add_artefacts(connection, "r" * 32, {"b.png": ("image/png", b"new")}, 2)
    names = [a.name for a in artefacts.list_artefacts(store, "r" * 32)]
    assert names == ["a.png", "b.png"]
    assert artefacts.load_artefact(store, "r" * 32, "a.png") == plot
    assert artefacts.load_artefact(store, "r" * 32, "b.png") == ("image/png", b"new")
    assert artefacts.load_artefact(store, "r" * 32, "c.png") is None


def test_looks_at_a_frozen_set_are_counted_by_run(store: Store):
    assert frozensets.current_set(store, "demo", "activity") is None
    frozensets.add_set(store, "demo", "activity", 1, ["b", "a"], 1)
    frozensets.add_set(store, "demo", "activity", 1, ["c"], 2)
    for run in ("1" * 32, "2" * 32, "2" * 32):
        with store.begin() as connection:
            frozensets.count_look(connection, "demo", "activity", 1, run, 3)
    seen = frozensets.current_set(store, "demo", "activity")
    assert seen is not None
    assert (seen.number, sorted(seen.recordings), seen.looks) == (1, ["a", "b"], 2)
