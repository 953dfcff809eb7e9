"""A store as a small fleet leaves it, written by the same code that the services run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.calibration import Calibration
from fieldloop_contract.frames import Frame
from fieldloop_contract.messages import (
    Capability,
    Event,
    LedgerTotals,
    ModelRef,
    Reported,
    Result,
    SlotState,
    Status,
    StreamState,
)
from fieldloop_models.recipe import recipe_names, recipe_task, settings_schema
from fieldloop_store import access, commissionings, questions
from fieldloop_store.access import TokenRow
from fieldloop_store.alarms import Said, take
from fieldloop_store.artefacts import add_artefacts
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.labels import add_labels
from fieldloop_store.machines import assign_stream, put_machine
from fieldloop_store.presence import Presence
from fieldloop_store.recipes import RecipeRow, publish_recipes
from fieldloop_store.registry import register_model
from fieldloop_store.rollouts import AssignmentRow, RolloutRow, save_look
from fieldloop_store.rows import LogKey, event_row, frame_row, result_row
from fieldloop_store.runs import Epoch, RunRow, record_run
from fieldloop_store.schema import run_epochs
from support.bundles import frame, make_bundle

FLEET = "demo"
XSS = '<img src=x onerror="window.stolen=1">\'"{{7*7}}'
UNITS = ["g", "g", "g"]
NAMES = ["ax", "ay", "az"]
RUN = "c" * 32
OTHER_RUN = "d" * 32
ROLLOUT = "e" * 32
SPAN_S = 60
RATE_HZ = 50.0
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63680000"
    "0082008177cd72b60000000049454e44ae426082"
)
"""One grey pixel."""
DAY_NS = 86_400 * 10**9
HISTORY_DAYS, RESULTS_A_DAY = 42, 24
WEAR = "wear"
"""Slot of pump-1 whose model scores the machine `press`: calibrated, and worse than last month."""
FRAME_SAMPLES = 50


class SmallFleet:
    """Two devices with signals, results, events, labels, a model, two runs and a rollout.

    Attributes:
        t0_ns: when the signals begin; they last `SPAN_S`.

    Args:
        words: what devices and people wrote wherever they may write.
    """

    def __init__(self, store: Store, words: str) -> None:
        self.store = store
        self._words = words
        self.t0_ns = time.time_ns() - SPAN_S * 10**9
        self.model = self._register()
        for number, device in enumerate(("pump-1", "pump-2"), 1):
            self._device(device, seed=number)
        self._learning()
        put_machine(
            store,
            FLEET,
            "press",
            site=self._words,
            nameplate={"kind": self._words},
            now_ns=self.t0_ns,
        )
        assign_stream(
            store, FLEET, "pump-1", "imu", "press", from_ns=self.t0_ns - HISTORY_DAYS * DAY_NS,
            actor="test", now_ns=self.t0_ns,
        )  # fmt: skip
        self._floor()
        own = [RecipeRow(n, recipe_task(n), settings_schema(n)) for n in recipe_names()]
        publish_recipes(store, own, now_ns=self.t0_ns)
        self.question = self._question()
        label = {
            "device": "pump-1", "stream": "imu", "t0_ns": self.t0_ns + 10**9,
            "t1_ns": self.t0_ns + 5 * 10**9, "label": self._words, "annotator": self._words,
        }  # fmt: skip
        add_labels(store, FLEET, [label], source="desk", epoch="f" * 32, now_ns=self.t0_ns)

    def _register(self) -> ModelRef:
        manifest, files = make_bundle("good")
        figures = {"accuracy": 0.9, "windows": 100.0}
        register_model(
            self.store, fleet=FLEET, manifest=manifest, files=files, run=RUN, now_ns=self.t0_ns,
            metrics={
                "int8": figures, "float": figures, "bytes": 1234,
                "gates": [{"name": "size", "outcome": "passed", "words": "small enough"}],
                "confusion": {"labels": ["a", "b"], "rows": [[9, 1], [2, 8]]},
                "history": [{"loss": 1.0, "accuracy": 0.5}, {"loss": 0.5, "accuracy": 0.9}],
            },
        )  # fmt: skip
        return manifest.ref()

    def _device(self, device: str, seed: int) -> None:
        raw = LogKey(FLEET, device, "ingestion", f"{seed}" * 32)
        told = LogKey(FLEET, device, "inference", f"{seed + 4}" * 32)
        now_ns = time.time_ns()
        rows: dict[str, list[Any]] = {
            "frames": [
                frame_row(raw, SequencedFrame(i + 1, f), now_ns)
                for i, f in enumerate(signal(self.t0_ns, seed))
            ],
            "results": [self._result(told, i, now_ns) for i in range(20)],
            "events": [
                self._event(told, 21, "alarm.raised", {"slot": "main", "note": self._words})
            ],
        }
        produced = len(rows["frames"])
        presence = [
            *self._presence(raw, produced, now_ns, streams=True),
            *self._presence(told, 21, now_ns, streams=False),
        ]
        store_intake(self.store, Intake(rows=rows, presence=presence, received_ns=now_ns))

    def _presence(
        self, log: LogKey, produced: int, now_ns: int, *, streams: bool
    ) -> list[Presence]:
        stream = StreamState(stream="imu", channels=NAMES, units=UNITS, rate_hz=RATE_HZ)
        slot = SlotState(slot="main", state="ACTIVE", active=self.model, counts={"windows": 20})
        status = Status(
            state="online", session="s", versions={f"fieldloop-{log.service}": "0.1.0"},
            capability=Capability(machine="aarch64", runtime="litert"),
        )  # fmt: skip
        ledger = LedgerTotals(
            epoch=log.epoch, produced=produced, stored=produced, pending=0, withheld=0
        )
        slots = [slot]
        if log.device == "pump-1":
            slots.append(SlotState(slot=WEAR, state="ACTIVE", active=self.model, counts={}))
        reported = Reported(
            session="s", ledgers=[ledger], streams=[stream] if streams else [],
            slots=[] if streams else slots,
        )  # fmt: skip
        return [
            Presence(log.fleet, log.device, log.service, message, now_ns)
            for message in (status, reported)
        ]

    def _result(self, log: LogKey, number: int, now_ns: int) -> Any:
        t0_ns = self.t0_ns + number * 2 * 10**9
        result = Result(
            stream="imu", slot="main", t0_ns=t0_ns, t1_ns=t0_ns + 2 * 10**9, epoch="1" * 32,
            seq_first=1, seq_last=2, model=self.model, task="classification", label=self._words,
            score=0.5, latency_us=100.0,
        )  # fmt: skip
        return result_row(log, number + 1, result, result.model_dump(exclude_none=True), now_ns)

    def _floor(self) -> None:
        """Six weeks of scores that rise in the end, a calibration, an alarm, a commissioning."""
        log = LogKey(FLEET, "pump-1", "inference", "7" * 32)
        rng = np.random.default_rng(0)
        begun_ns = self.t0_ns - HISTORY_DAYS * DAY_NS
        rows = []
        for number in range(HISTORY_DAYS * RESULTS_A_DAY):
            day = number / RESULTS_A_DAY
            level = 1.0 + max(0.0, day - 25) * 0.06 + rng.normal(0, 0.08)
            t0_ns = begun_ns + round(day * DAY_NS)
            result = Result(
                stream="imu", slot=WEAR, t0_ns=t0_ns, t1_ns=t0_ns + 10**9, epoch="1" * 32,
                seq_first=number + 1, seq_last=number + 1, model=self.model, task="anomaly",
                score=round(level, 4), latency_us=90.0, running=True,
            )  # fmt: skip
            document = result.model_dump(exclude_none=True)
            rows.append(result_row(log, number + 1, result, document, t0_ns))
        store_intake(self.store, Intake(rows={"results": rows}, received_ns=self.t0_ns))
        for state in ("armed", "ready"):
            self._commission(begun_ns, arm=state == "armed")
        told = {"model": self.model.model_dump(mode="json"), "score": 2.1, "threshold": 1.9}
        said = Said("pump-1", WEAR, "imu", True, self.t0_ns - DAY_NS, told)
        take(self.store, FLEET, [said], now_ns=self.t0_ns - DAY_NS)

    def _question(self) -> str:
        """Drift that was seen, and the run that is proposed."""
        evidence = {
            "words": f"pump-1 has drifted {self._words}", "nature": "sensor", "tests": 6,
            "false_share": 0.05, "model": self.model.model_dump(mode="json"),
            "findings": [{"device": "pump-1", "channel": "ax", "psi": 0.4, "p": 1e-6}],
        }  # fmt: skip
        proposal = {"recipe": "activity_cnn", "settings": {"epochs": 3}}
        asked, _ = questions.ask(
            self.store, fleet=FLEET, model="activity", kind="drift", subject="v1/pump-1/ax",
            evidence=evidence, proposal=proposal, now_ns=self.t0_ns,
        )  # fmt: skip
        return asked

    def _commission(self, begun_ns: int, *, arm: bool) -> None:
        plan = commissionings.checked_plan(24.0, 0.25, False)
        at_ns = begun_ns + 4 * DAY_NS if arm else self.t0_ns
        row = commissionings.begin(
            self.store, FLEET, machine="press", device="pump-1", slot=WEAR, plan=plan,
            actor="ada", now_ns=at_ns,
        )  # fmt: skip
        record = Calibration(
            fleet=FLEET, device="pump-1", slot=WEAR, stream="imu", machine="press",
            model=self.model, epoch="1" * 32, seq_first=1 if arm else 2, epoch_last="1" * 32,
            seq_last=96, t0_ns=begun_ns, t1_ns=at_ns, windows=96, centre=1.0, scale=0.08,
            threshold=1.9, scores={}, method="return-level-1", excluded=[], figures={},
        )  # fmt: skip
        assessment = {
            "words": f"ready: threshold 1.9 {self._words}", "share": 1.0, "ready_in_s": None,
            "stretches": [], "threshold": 1.9, "expected_per_week": 0.2, "peaks": {},
        }  # fmt: skip
        commissionings.judged(
            self.store, row.id, state="ready", assessment=assessment, record=record, now_ns=at_ns
        )
        if arm:
            commissionings.arm(self.store, FLEET, row.id, actor="ada", now_ns=at_ns)

    def _event(self, log: LogKey, seq: int, kind: str, data: dict[str, Any]) -> Any:
        event = Event(
            id=f"{log.device}-{seq}", source=f"{FLEET}/{log.device}/{log.service}", type=kind,
            time="2026-01-01T00:00:00Z", data=data,
        )  # fmt: skip
        return event_row(log, seq, event, event.model_dump(), time.time_ns())

    def event(self, device: str, kind: str, data: dict[str, Any]) -> None:
        """Let a device tell something now."""
        self._told += 1
        log = LogKey(FLEET, device, "inference", "9" * 32)
        row = self._event(log, self._told, kind, data)
        store_intake(self.store, Intake(rows={"events": [row]}, received_ns=time.time_ns()))

    def alarm(self, device: str) -> str:
        """Let a device raise an alarm now; returns its id."""
        now_ns = time.time_ns()
        told = {"model": self.model.model_dump(mode="json"), "score": 2.0, "threshold": 1.0}
        found = take(
            self.store, FLEET, [Said(device, "main", "imu", True, now_ns, told)], now_ns=now_ns
        )
        return found[0].row.id

    def token(self, user: str) -> None:
        """Let a program of a user's have a token."""
        row = TokenRow("0" * 32, user, "elsewhere", "viewer", time.time_ns(), None, None)
        access.add_token(self.store, row, "0" * 64)

    _told = 0

    def _learning(self) -> None:
        verdict = {
            "words": f"approved {self._words}", "version": 1, "approved": True,
            "metrics": {"int8": {"accuracy": 0.9}},
            "gates": [{"name": "size", "outcome": "passed", "words": self._words}],
        }  # fmt: skip
        for run, state in ((RUN, "approved"), (OTHER_RUN, "rejected")):
            progress = {"stage": "done", "curve": [[1.0, 0.5], [0.4, 0.9]], "epoch": 2, "epochs": 2}
            record_run(
                self.store,
                RunRow(
                    id=run, fleet=FLEET, recipe="activity_cnn", model="activity", state=state,
                    trigger={"reason": self._words}, settings={"epochs": 2}, dataset=None,
                    progress=progress, verdict=verdict, created_ns=self.t0_ns,
                    updated_ns=self.t0_ns,
                ),
            )  # fmt: skip
            epochs = [Epoch(i, {"loss": 1.0 / i, "accuracy": 0.4 * i}, self.t0_ns) for i in (1, 2)]
            with self.store.begin() as connection:
                connection.execute(
                    insert(run_epochs),
                    [{"run": run, "epoch": e.epoch, "figures": e.figures, "at_ns": e.at_ns}
                     for e in epochs],
                )  # fmt: skip
        with self.store.begin() as connection:
            files = {"roc.png": ("image/png", PNG), "card.md": ("text/markdown", b"# Card")}
            add_artefacts(connection, RUN, files, self.t0_ns)
        wave = {"size": 1, "devices": ["pump-1"], "installed": 1, "windows": 20, "passed": True}
        document = {
            "verdict": f"completed {self._words}", "waves": [wave], "skipped": {},
            "figures": {"touched": 1, "installed": 1, "failed": {}, "windows": 20, "invalid": 0},
            "gates": {"windows_min": 20, "quorum": 1.0},
        }  # fmt: skip
        row = RolloutRow(
            ROLLOUT, FLEET, "main", "activity", 1, "completed", document, self.t0_ns, self.t0_ns
        )
        save_look(
            self.store, FLEET, changed=[row],
            assigned=[AssignmentRow("pump-1", "main", "activity", 1, ROLLOUT)], signed=[],
            now_ns=self.t0_ns,
        )  # fmt: skip


def signal(t0_ns: int, seed: int, frames: int = SPAN_S) -> list[Frame]:
    """A second of three channels in each frame."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames * FRAME_SAMPLES)[:, None] / RATE_HZ
    values = np.sin(2 * np.pi * np.array([[0.2, 0.5, 0.9]]) * t) + rng.normal(0, 0.1, (len(t), 3))
    samples = values.astype("<f4")
    return [
        frame(
            samples[i * FRAME_SAMPLES : (i + 1) * FRAME_SAMPLES], t0_ns, i * FRAME_SAMPLES,
            rate_hz=RATE_HZ,
        )
        for i in range(frames)
    ]  # fmt: skip


def small_fleet(folder: Path, words: str = XSS) -> tuple[str, SmallFleet]:
    """A store in a folder, and what is in it."""
    url = f"sqlite:///{folder / 'store.sqlite'}"
    store = Store.open(url, checkpoints=True)
    return url, SmallFleet(store, words)
