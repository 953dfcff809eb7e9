"""Fifty rounds of learning from what the store holds, with a restart between each two."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.messages import Event, from_object
from fieldloop_models.hotelling import Hotelling
from fieldloop_models.recipe import Scores, WindowPlan
from fieldloop_models.thresholds import decide
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.rows import LogKey, event_row
from fieldloop_training import healthy
from fieldloop_training.options import RunOptions
from support.training import FLEET, RATE_HZ, STREAM, Field

ROUNDS, WINDOW, BUDGET = 50, 32, 0.02
DAY_NS, HELD_BACK_S = 86_400 * 10**9, 1.5 * 86_400
PLAN = WindowPlan(WINDOW, WINDOW)


def running(windows: int, rng: np.random.Generator, fault: float = 0.0) -> NDArray[np.float32]:
    """float32[windows * 32, 3]: a load that changes from window to window, and what follows it."""
    load = np.repeat(rng.normal(1.0, 0.2, windows), WINDOW)
    columns = [load, 0.8 * load + fault, -0.5 * load]
    clean = np.stack(columns, axis=1)
    return (clean + 0.1 * rng.normal(size=clean.shape)).astype(np.float32)


def cut(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    return signal.reshape(-1, WINDOW, 3)


class Machine:
    """One pump: what it records, what its model says of it, and the person who looks at alarms."""

    def __init__(self, field: Field) -> None:
        self.field, self.seq, self.epoch = field, 0, uuid.uuid4().hex

    def say(self, kind: str, t_ns: int) -> None:
        self.seq += 1
        data = {"stream": STREAM, "slot": "main", "t_ns": t_ns}
        document = {
            "specversion": "1.0", "id": str(self.seq), "source": "fieldloop/pump-0",
            "type": kind, "time": "2026-01-01T00:00:00Z", "data": data,
        }  # fmt: skip
        log = LogKey(FLEET, "pump-0", "inference", self.epoch)
        row = event_row(log, self.seq, from_object(Event, document), document, self.seq)
        store_intake(self.field.store, Intake(rows={"events": [row]}, received_ns=self.seq))

    def day(
        self, model: tuple[Hotelling, float] | None, rng: np.random.Generator, bad: bool
    ) -> int:
        """A day's record, its alarm if the model raises one, and what a person said; its end."""
        signal = running(24, rng, 2.0 if bad else 0.0)
        span = self.field.record("pump-0", signal, pause_s=86_400 - len(signal) / RATE_HZ)
        if model is not None:
            plain, threshold = model
            above = plain.statistics(cut(signal))[:, 0] > threshold
            if above.any():
                self.say("alarm.raised", span[0])
                self.say("alarm.cleared", span[1])
                self.field.annotate("pump-0", span, "blocked" if bad else "healthy")
        elif bad:
            self.field.annotate("pump-0", span, "blocked")
        return span[1]


def learn(store: Store, now_ns: int) -> tuple[Hotelling, float] | None:
    """As a run does: what may be learnt, fitted, and the threshold from windows held apart."""
    options = RunOptions(stream=STREAM, hold_back_s=HELD_BACK_S)
    dataset = healthy.take(store, fleet=FLEET, options=options, plan=PLAN, now_ns=now_ns).dataset
    good = np.array([dataset.recordings[p.recording].label == "healthy" for p in dataset.places])
    of = np.array([p.recording for p in dataset.places])[good]
    samples = dataset.samples[good]
    apart = np.arange(len(samples)) % 3 == 0
    if apart.sum() < 32:
        return None
    plain = Hotelling.fit(samples[~apart])
    scores = Scores(plain.statistics(samples[apart])[:, 0], of[apart], WINDOW, WINDOW)
    return plain, decide(scores, budget=BUDGET, alarm=None, commission=False).threshold


def test_fifty_rounds_with_restarts_do_not_creep_and_still_find_the_fault(tmp_path: Path):
    rng = np.random.default_rng(8)
    Field.at(tmp_path).store.close()
    url = f"sqlite:///{tmp_path}/store.sqlite"
    field = Field(Store.open(url))
    machine, model, false, found = Machine(field), None, [], []
    field.announce("pump-0")
    for round_ in range(ROUNDS):
        end_ns = machine.day(model, rng, bad=round_ % 10 == 9)
        if round_ < 5:
            continue
        # The service starts anew and knows nothing but the store.
        field.store.close()
        field.store = Store.open(url)
        model = learn(field.store, end_ns)
        assert model is not None
        plain, threshold = model
        fresh = np.random.default_rng(99)
        for rates, fault in ((false, 0.0), (found, 2.0)):
            seen = plain.statistics(cut(running(1_000, fresh, fault)))[:, 0] > threshold
            rates.append(float(seen.mean()))
    field.store.close()
    assert max(false[-10:]) < 1.5 * BUDGET
    assert np.mean(false[-10:]) < np.mean(false[:10]) + 0.005
    assert min(found) > 0.9
