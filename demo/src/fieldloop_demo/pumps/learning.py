"""Training in virtual time: the pipeline in a process of its own, which is told what time it is.

TensorFlow stays out of the scenario's process. One run after the other; the scenario waits.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.manifest import RunningWhen
from fieldloop_demo.pumps.device import FLEET, STREAM
from fieldloop_demo.pumps.plant import DAY_S, EVERY_S, RUNNING_ABOVE, WINDOW
from fieldloop_store import runqueue
from fieldloop_store.engine import Store
from fieldloop_training import marks, triggers

MODEL, RECIPE = "pump-sound", "spectral_autoencoder"
RETRAIN_DAYS = 14.0
HOLD_BACK_DAYS = 14.0
SETTINGS = {
    "window_samples": WINDOW, "hop_samples": WINDOW, "bands": 24, "hidden": 48, "latent": 6,
    "epochs": 60, "raise_count": 3, "raise_of": 5, "clear_count": 6,
    "commission_windows": 300, "arm": "person",
}  # fmt: skip
OPTIONS = {
    "stream": STREAM, "hold_back_s": HOLD_BACK_DAYS * DAY_S, "machine_windows_max": 500,
    "false_alarms_max": 0.05, "simulated_faults": ["noise", "impacts", "stuck"],
    "running_when": {"above": RUNNING_ABOVE, "idle_below": 0.9 * RUNNING_ABOVE},
}  # fmt: skip
RULE = triggers.Rule(min_new=10**9, quiet_s=0.0, what="frames", every_s=RETRAIN_DAYS * DAY_S)
"""Retraining by schedule, where there is anything new."""
_LEASE_NS = 10**15
_TIMEOUT_S = 600.0
RunningWhen.model_validate(OPTIONS["running_when"])
assert EVERY_S < DAY_S


class Learning:
    """The queue's other end."""

    def __init__(self, store: Store, folder: Path, seed: int) -> None:
        self._store = store
        self._seed = seed
        context = multiprocessing.get_context("spawn")
        self._mine, theirs = context.Pipe()
        url = store.engine.url.render_as_string(hide_password=False)
        self._process = context.Process(target=_serve, args=(theirs, url, folder), daemon=True)
        self._process.start()
        theirs.close()
        self._watch = triggers.Watch()

    def due(self, now_ns: int) -> str:
        """Why a training is due now, by the rule of the training service; "" where none is."""
        found = marks.frame_marks(self._store, FLEET, STREAM)
        history = marks.history(self._store, FLEET, MODEL, now_ns)
        self._watch, decision = triggers.decide(RULE, self._watch, found, history, now_ns / 1e9)
        return decision.reason if decision.action == "start" else ""

    def train(self, reason: str, now_ns: int) -> str:
        """Train now; how it ended.

        Raises:
            FieldloopError: the process failed.
        """
        seen = triggers.marks_to_object(marks.frame_marks(self._store, FLEET, STREAM))
        run = runqueue.enqueue(
            self._store, fleet=FLEET, model=MODEL, recipe=RECIPE, settings=SETTINGS,
            options={**OPTIONS, "seed": self._seed},
            trigger={"kind": "schedule", "reason": reason, "marks": seen},
            now_ns=now_ns,
        )  # fmt: skip
        self._mine.send((run, now_ns))
        if not self._mine.poll(_TIMEOUT_S):
            raise FieldloopError("the training does not end", code="demo.timeout")
        state, words = self._mine.recv()
        if state == "failed":
            raise FieldloopError(f"the training failed: {words}", code="demo.training")
        return str(state)

    def close(self) -> None:
        """End the process."""
        self._mine.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()


def _serve(orders: Connection, url: str, folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    import tensorflow as tf  # noqa: PLC0415 - in this process only

    tf.get_logger().setLevel("ERROR")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    store = Store.open(url)
    while True:
        try:
            run, now_ns = orders.recv()
        except EOFError:
            return
        try:
            orders.send((_carry(store, folder, run, now_ns), ""))
        except Exception:  # noqa: BLE001 - told to whoever waits
            orders.send(("failed", traceback.format_exc(limit=8)))


def _carry(store: Store, folder: Path, run: str, now_ns: int) -> str:
    from fieldloop_training import pipeline  # noqa: PLC0415 - after TensorFlow
    from fieldloop_training.context import Context  # noqa: PLC0415
    from fieldloop_training.options import RunOptions, parse_options  # noqa: PLC0415
    from fieldloop_training.progress import Heart, Progress  # noqa: PLC0415
    from fieldloop_training.workplace import Workplace  # noqa: PLC0415

    row = runqueue.claim(store, "pumps", fleet=FLEET, lease_ns=_LEASE_NS, now_ns=now_ns, run=run)
    assert row is not None

    def clock() -> int:
        return now_ns

    heart = Heart(store, row.id, "pumps", clock)  # virtual time stands: it need not beat
    context = Context(
        store, row, "pumps", parse_options(row.options or {}, RunOptions(stream=STREAM)),
        Progress(store, row.id, "pumps", heart, clock), Workplace(folder / "work", row.id),
        folder / "datasets", clock,
    )  # fmt: skip
    return pipeline.run(context)
