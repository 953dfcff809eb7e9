"""A factory floor in the store: machines with devices, and what those would have sent."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_contract.manifest import AlarmRule, Manifest
from fieldloop_contract.messages import (
    Event,
    LedgerTotals,
    ModelRef,
    Reported,
    Result,
    SlotState,
    Status,
)
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.machines import assign_stream, put_machine
from fieldloop_store.presence import Presence
from fieldloop_store.registry import register_model
from fieldloop_store.rows import LogKey, event_row, result_row
from support.bundles import make_bundle, make_input

FLEET, STREAM, SLOT = "acme", "vibration", "main"
START_NS = 1_790_000_000 * 10**9
HOP_S = 10.0
RULE = AlarmRule(raise_count=3, raise_of=5, clear_count=5)


class Floor:
    """Writes what people declared and what telemetry would have written."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._epochs: dict[str, str] = {}
        self._seq: dict[str, int] = {}
        self._arrived_ns = START_NS

    def model(self, version: int = 1, **changes: Any) -> Manifest:
        """Register an anomaly model that is calibrated by machine: a window each `HOP_S`."""
        output = {"name": "residual", "kind": "reconstruction", "alarm": RULE.model_dump()}
        manifest, files = make_bundle(
            "autoencoder",
            version=version,
            task="anomaly",
            inputs=[make_input(rate_hz=1.6, name=STREAM)],
            outputs=[output],
            calibration={"threshold_min": 0.0, "threshold_max": 1e6},
            **changes,
        )
        register_model(
            self.store, fleet=FLEET, manifest=manifest, files=files, run=None, metrics={},
            state="approved", now_ns=START_NS,
        )  # fmt: skip
        return manifest

    def machine(self, name: str, site: str = "north", cohort: str = "pumps") -> str:
        """A machine, and the device whose stream measures it; returns the device."""
        device = f"dev-{name}"
        put_machine(
            self.store, FLEET, name, site=site, nameplate={"cohort": cohort}, now_ns=START_NS
        )
        assign_stream(
            self.store, FLEET, device, STREAM, name, from_ns=0, actor="ann", now_ns=START_NS
        )
        return device

    def _log(self, device: str) -> LogKey:
        epoch = self._epochs.setdefault(device, uuid.uuid4().hex)
        return LogKey(FLEET, device, "inference", epoch)

    def _next(self, device: str) -> int:
        self._seq[device] = self._seq.get(device, 0) + 1
        return self._seq[device]

    def serves(self, device: str, ref: ModelRef, release: str = "1.4.0") -> None:
        """The device is online and reports its active model."""
        self._arrived_ns += 1
        ledger = LedgerTotals(
            epoch=self._log(device).epoch, produced=0, stored=0, pending=0, withheld=0
        )
        slot = SlotState(slot=SLOT, state="ACTIVE", active=ref)
        status = Status(state="online", session="s", versions={"release": release})
        intake = Intake(received_ns=self._arrived_ns)
        for message in (status, Reported(session="s", slots=[slot], ledgers=[ledger])):
            intake.presence.append(Presence(FLEET, device, "inference", message, self._arrived_ns))
        store_intake(self.store, intake)

    def alarm(
        self, device: str, ref: ModelRef, *, raised: bool = True, t_ns: int = START_NS,
        **data: Any,
    ) -> None:  # fmt: skip
        """The device says that its alarm was raised, or cleared."""
        self._arrived_ns += 1
        seq = self._next(device)
        said = {
            "stream": STREAM, "slot": SLOT, "t_ns": t_ns, "score": 3.2, "threshold": 2.0,
            "model": ref.model_dump(), **data,
        }  # fmt: skip
        event = Event(
            id=f"{device}-{seq}",
            source=f"{FLEET}/{device}/inference",
            type="alarm.raised" if raised else "alarm.cleared",
            time="2026-01-01T00:00:00Z",
            data=said,
        )
        document = event.model_dump(mode="json")
        intake = Intake(received_ns=self._arrived_ns)
        row = event_row(self._log(device), seq, event, document, self._arrived_ns)
        intake.rows["events"].append(row)
        store_intake(self.store, intake)

    def scores(
        self, device: str, ref: ModelRef, scores: NDArray[np.float64], *, t0_ns: int = START_NS,
        running: bool = True,
    ) -> int:  # fmt: skip
        """Results of consecutive windows; returns the time after the last."""
        self._arrived_ns += 1
        log = self._log(device)
        hop_ns = int(HOP_S * 1e9)
        rows = []
        for i, score in enumerate(scores.tolist()):
            seq = self._next(device)
            result = Result(
                stream=STREAM, slot=SLOT, t0_ns=t0_ns + i * hop_ns, t1_ns=t0_ns + (i + 1) * hop_ns,
                epoch=log.epoch, seq_first=seq, seq_last=seq, model=ref, task="anomaly",
                score=score, latency_us=50.0, running=running,
            )  # fmt: skip
            document = result.model_dump(mode="json", exclude_none=True)
            rows.append(result_row(log, seq, result, document, self._arrived_ns))
        store_intake(self.store, Intake(rows={"results": rows}, received_ns=self._arrived_ns))
        return t0_ns + len(scores) * hop_ns


def healthy(n: int, seed: int, level: float = 1.0) -> NDArray[np.float64]:
    """Scores of a healthy machine: mean squares of correlated residuals."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 6))
    noise = rng.normal(size=(n, 6)) * 0.8
    x[0] = rng.normal(size=6)
    for i in range(1, n):
        x[i] = 0.6 * x[i - 1] + noise[i]
    return level * np.square(x).mean(axis=1)
