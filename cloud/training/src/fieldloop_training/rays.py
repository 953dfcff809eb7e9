"""Carrying out runs on a Ray cluster (extra `ray`): many at once, on any machine of it.

The queue stays in the store: a worker of Ray claims a run under its lease as the local child does,
so a node that dies costs a lease and not a run, and two clusters on one queue do not collide. Each
run gets a process of its own that ends with it. The workers need the store's URL (PostgreSQL, past
one machine) and the folders of datasets and work at the same path. Owner thread of the watcher.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray

from fieldloop_contract.errors import RetryLater
from fieldloop_runtime.journal import Journal
from fieldloop_store import runqueue, runs
from fieldloop_store.engine import Store
from fieldloop_training.carrying import owner_name
from fieldloop_training.progress import LEASE_S
from fieldloop_training.settings import TrainingSettings

JOIN_ATTEMPTS = 3
"""A busy machine may take longer to start a node than the 30 s that Ray waits."""


def _carry_out(settings: dict[str, Any], run: str, owner: str) -> str:
    """In a process of Ray's: see one run through."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from fieldloop_training.carrying import carry_out  # noqa: PLC0415 - in that process only

    parsed = TrainingSettings.model_validate(settings)
    store = Store.open(parsed.store_url, create=False)
    try:
        row = runs.find_run(store, run)
        if row is None or row.owner != owner:
            return "lost"
        return carry_out(store, parsed, row, owner, Journal("training.run"))
    finally:
        store.close()


def _join(address: str) -> None:
    """Join the cluster, or start one on this machine; a process is in one cluster.

    Raises:
        RetryLater: it could not be joined or started.
    """
    for attempt in range(1, JOIN_ATTEMPTS + 1):
        if ray.is_initialized():
            return
        try:
            ray.init(
                address=address or None, log_to_driver=False, include_dashboard=False,
                configure_logging=False,
            )  # fmt: skip
        except Exception as error:  # Ray has no type for it
            ray.shutdown()
            if attempt == JOIN_ATTEMPTS:
                raise RetryLater(f"no Ray cluster: {error!s:.200}", code="ray.away") from error


class RayCarrier:
    """As many runs as `workers_max` on one cluster.

    Raises:
        RetryLater: there is no cluster.
    """

    def __init__(self, store: Store, settings: TrainingSettings, journal: Journal) -> None:
        self._store, self._settings, self._journal = store, settings, journal
        self._under_way: dict[Any, tuple[str, str]] = {}
        _join(settings.ray_address)
        # A process ends with its run, so that TensorFlow's memory is given back.
        self._remote = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(_carry_out)

    @property
    def busy(self) -> bool:
        """Whether it has all that it can do."""
        return len(self._under_way) >= self._settings.workers_max

    def prepare(self, now_s: float) -> None:
        """Nothing: Ray keeps processes of its own."""

    def step(self, now_s: float) -> None:  # noqa: ARG002 - of the interface
        """Collect what has ended, and claim what there is room for."""
        if self._under_way:
            ended, _ = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
            for reference in ended:
                self._collect(reference)
        while not self.busy:
            owner = owner_name()
            row = runqueue.claim(
                self._store, owner, fleet=self._settings.fleet, lease_ns=round(LEASE_S * 1e9),
                now_ns=time.time_ns(),
            )  # fmt: skip
            if row is None:
                return
            given = self._settings.model_dump(mode="json")
            self._under_way[self._remote.remote(given, row.id, owner)] = (row.id, owner)

    def _collect(self, reference: Any) -> None:
        run, owner = self._under_way.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayError as error:
            words = f"{type(error).__name__}: {error!s:.300}"
            back = runqueue.release(
                self._store, run, owner, words=words, counts=True, now_ns=time.time_ns()
            )
            if back:
                self._journal.error("run.released", run=run, reason=words)

    def close(self) -> None:
        """End what is under way; it waits in the queue, and goes on at the next start."""
        for reference, (run, owner) in self._under_way.items():
            ray.cancel(reference, force=True)
            runqueue.release(
                self._store, run, owner, words="the service was stopped", counts=False,
                now_ns=time.time_ns(),
            )  # fmt: skip
        self._under_way.clear()
        ray.shutdown()
