"""One process of the simulator: its share of the devices on one thread, figures once a second."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import psutil

from fieldloop_buffer import UplinkSettings
from fieldloop_runtime import journal
from fieldloop_runtime.switchboard import Switchboard
from fieldloop_simulator.device import VirtualDevice
from fieldloop_simulator.plan import Span, device_plan
from fieldloop_simulator.settings import SimulatorSettings

_TURN_S_MAX = 0.05
_FIGURES_S = 1.0
_BATCH_GRACE_S = 0.02
_DEVICE_TURN_S_MIN = 0.02
"""A device that is woken again and again has a turn this often at most."""


class Worker:
    """Runs devices `index`, `index + processes`, and so on; the plan begins at `begin`."""

    def __init__(
        self, settings: SimulatorSettings, index: int, folder: str, root: bytes | None
    ) -> None:
        self._settings = settings
        self._started_s = float("inf")
        self._board = Switchboard()
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._woken: dict[VirtualDevice, None] = {}
        self._turned_s: dict[VirtualDevice, float] = {}
        self._process = psutil.Process()
        self._late_s = 0.0
        self.turns = 0
        self.draining = False
        self.devices: list[VirtualDevice] = []
        for number in range(index, settings.devices, settings.processes):
            self._add(number, Path(folder), root)

    def _add(self, number: int, folder: Path, root: bytes | None) -> None:
        settings, plan = self._settings, device_plan(self._settings, number)
        device = VirtualDevice(
            settings,
            plan,
            folder / plan.device,
            self._board,
            root=root,
            elapsed_s=self.elapsed_s,
            wake=lambda: self._woken.setdefault(device),
        )
        self.devices.append(device)
        random = Random(plan.seed + 4)
        self._at(plan.join_s, lambda _: device.power_on())
        first_s = plan.join_s if settings.signal.arrival == "together" else (
            plan.join_s + plan.phase * settings.signal.frame_s
        )  # fmt: skip
        if settings.signal.arrival == "together":
            first_s = settings.join_s
        self._at(first_s, partial(self._sample, device, random))
        self._at(plan.join_s + plan.phase * settings.turn_s, partial(self._turn, device))
        for span in plan.power:
            if span.begin_s > plan.join_s:
                self._at(span.begin_s, partial(self._cut, device, span))

    def begin(self, started_s: float) -> None:
        """Begin the plan at this moment of the monotonic clock."""
        self._started_s = started_s

    def elapsed_s(self, now_s: float) -> float:
        """Seconds since the plan began."""
        return now_s - self._started_s

    def _at(self, at_s: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), action))

    def _sample(self, device: VirtualDevice, random: Random, due_s: float) -> None:
        signal = self._settings.signal
        if self.draining:
            return
        device.sample(time.monotonic())
        soon_s = UplinkSettings().batch_age_s + _BATCH_GRACE_S
        self._at(due_s, partial(self._look, device))  # begins to wait for its batch to fill
        self._at(due_s + soon_s, partial(self._look, device))
        poisson = signal.arrival == "poisson"
        wait_s = random.expovariate(1 / signal.frame_s) if poisson else signal.frame_s
        self._at(due_s + wait_s, partial(self._sample, device, random))

    def _turn(self, device: VirtualDevice, due_s: float) -> None:
        now_s = time.monotonic()
        self._late_s = max(self._late_s, self.elapsed_s(now_s) - due_s)
        self._give_turn(device, now_s)
        # From now, not from when it was due: a process that is late shall not run after itself.
        self._at(self.elapsed_s(now_s) + self._settings.turn_s, partial(self._turn, device))

    def _look(self, device: VirtualDevice, _due_s: float) -> None:
        self._give_turn(device, time.monotonic())

    def _give_turn(self, device: VirtualDevice, now_s: float) -> None:
        self._woken.pop(device, None)
        self._turned_s[device] = now_s
        self.turns += 1
        device.turn(now_s)

    def _cut(self, device: VirtualDevice, span: Span, _due_s: float) -> None:
        if not self.draining:
            device.power_cut()
            self._at(span.end_s, lambda _: None if device.on else device.power_on())

    def step(self) -> None:
        """One round: what is due, what has come."""
        at_s = self.elapsed_s(time.monotonic())
        while self._due and self._due[0][0] <= at_s:
            due_s, _, action = heapq.heappop(self._due)
            action(due_s)
        at_s = self.elapsed_s(time.monotonic())
        wait_s = self._due[0][0] - at_s if self._due else _TURN_S_MAX
        self._board.turn(max(0.0, min(wait_s, _TURN_S_MAX)))
        now_s = time.monotonic()
        for device in list(self._woken):
            if now_s - self._turned_s.get(device, 0.0) >= _DEVICE_TURN_S_MIN:
                self._give_turn(device, now_s)

    def drain(self) -> None:
        """No more samples, no more faults; whoever is off comes back."""
        self.draining = True
        for device in self.devices:
            device.calm()
            if not device.on:
                device.power_on()

    @property
    def drained(self) -> bool:
        """Whether nothing waits for the cloud."""
        return all(device.pending == 0 for device in self.devices)

    def figures(self) -> dict[str, Any]:
        """What to show of this process, as plain values."""
        totals: Counter[str] = Counter()
        phases: Counter[str] = Counter()
        active: Counter[int] = Counter()
        dropped: Counter[str] = Counter()
        latencies: list[float] = []
        unbalanced: list[str] = []
        for device in self.devices:
            totals["on"] += device.on
            totals["boots"] += device.boots
            totals["frames"] += device.frames
            totals["labels"] += device.labels
            totals["windows"] += device.windows
            for service, books in device.ledgers().items():
                for one in books:
                    totals.update(
                        produced=one.produced, stored=one.stored, pending=one.pending,
                        withheld=one.withheld,
                    )  # fmt: skip
                    dropped.update(one.dropped)
                    if not one.balanced:
                        unbalanced.append(f"{device.plan.device}/{service}")
            for phase, version in device.slots:
                phases[phase] += 1
                active[version] += 1
            latencies.extend(device.latencies_s)
            device.latencies_s.clear()
        late_s, self._late_s = self._late_s, 0.0
        times = self._process.cpu_times()
        return {
            **totals,
            "connections": self._board.connected,
            "dropped": dict(dropped),
            "phases": dict(phases),
            "active": {str(k): n for k, n in active.items()},
            "latencies_s": [round(x, 4) for x in latencies[:: 1 + len(latencies) // 500]],
            "late_s": round(late_s, 3),
            "turns": self.turns,
            "cpu_s": round(times.user + times.system, 2),
            "rss": self._process.memory_info().rss,
            "fds": self._process.num_fds(),
            "unbalanced": unbalanced[:20],
        }

    def books(self) -> list[dict[str, Any]]:
        """The books of every log, at the end."""
        return [
            {"device": device.plan.device, "service": service, **one.model_dump(mode="json")}
            for device in self.devices
            for service, ledgers in device.ledgers().items()
            for one in ledgers
        ]

    def close(self) -> None:
        """End every device as services end."""
        for device in self.devices:
            device.close()
        for _ in range(5):
            self._board.turn(0.01)
        self._board.close()


def run(
    document: dict[str, Any], index: int, folder: str, root: bytes | None, pipe: Connection
) -> None:
    """A process's whole life.

    Sends ("ready", None), is sent when the plan begins, sends ("figures", ...) again and again and
    at the end ("books", ...).
    """
    journal.configure("ERROR")
    settings = SimulatorSettings.model_validate(document)
    worker = Worker(settings, index, folder, root)
    try:
        pipe.send(("ready", None))
        started_s = float(pipe.recv())
        worker.begin(started_s)
        _live(worker, settings, started_s, pipe)
        pipe.send(("figures", worker.figures()))
        pipe.send(("books", worker.books()))
    except (BrokenPipeError, EOFError, KeyboardInterrupt):
        pass  # the parent is gone, or is being stopped: nobody is left to tell
    finally:
        with contextlib.suppress(Exception):
            worker.close()
        pipe.close()


def _live(worker: Worker, settings: SimulatorSettings, started_s: float, pipe: Connection) -> None:
    told_s = 0.0
    end_s = started_s + settings.seconds
    while True:
        worker.step()
        now_s = time.monotonic()
        stopped = pipe.poll() and pipe.recv() == "drain"
        if not worker.draining and (now_s >= end_s or stopped):
            worker.drain()
            end_s = now_s
        if now_s - told_s >= _FIGURES_S:
            told_s = now_s
            pipe.send(("figures", worker.figures()))
            if worker.draining and (worker.drained or now_s - end_s >= settings.drain_s):
                return
