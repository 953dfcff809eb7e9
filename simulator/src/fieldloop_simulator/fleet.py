"""The parent of the simulator's processes: starts them, adds up their figures, ends them."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_simulator import worker
from fieldloop_simulator.audit import Audit, audit
from fieldloop_simulator.plan import device_plan, digest
from fieldloop_simulator.settings import SimulatorSettings
from fieldloop_simulator.signals import channels_of

_SUMS = ("on", "boots", "frames", "labels", "windows", "produced", "stored", "pending", "withheld",
         "connections", "turns", "cpu_s", "rss", "fds")  # fmt: skip
_START_S, _READY_S_MAX = 0.5, 1_800.0
_END_S = 30.0
_MEMORY = Path("/dev/shm")


def add_up(figures: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Figures of several processes as one. Pure."""
    listed = list(figures)
    total: dict[str, Any] = {name: sum(f.get(name, 0) for f in listed) for name in _SUMS}
    for name in ("dropped", "phases", "active"):
        counts: Counter[str] = Counter()
        for one in listed:
            counts.update(one.get(name, {}))
        total[name] = dict(sorted(counts.items()))
    total["latencies_s"] = sorted(x for f in listed for x in f.get("latencies_s", []))
    total["late_s"] = max((f.get("late_s", 0.0) for f in listed), default=0.0)
    total["unbalanced"] = [name for f in listed for name in f.get("unbalanced", [])]
    return total


def quantile(ordered: list[float], q: float) -> float:
    """A quantile of a sorted list; 0 of an empty one."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def _begin(pipes: list[Connection]) -> float:
    """Wait until every process has made its devices, then let all begin at one moment."""
    until_s = time.monotonic() + _READY_S_MAX
    for pipe in pipes:
        ready = False
        with suppress(EOFError, OSError):
            ready = pipe.poll(max(0.0, until_s - time.monotonic())) and pipe.recv()[0] == "ready"
        if not ready:
            raise RetryLater("a process of the simulator did not start", code="simulator.start")
    started_s = time.monotonic() + _START_S
    for pipe in pipes:
        pipe.send(started_s)
    return started_s


class Fleet:
    """One run.

    Args:
        show: is given the figures of the whole fleet about once a second.

    Raises:
        FixConfiguration: the trusted root cannot be read, or a channel has no unit.
    """

    def __init__(self, settings: SimulatorSettings, show: Callable[[dict[str, Any]], None]) -> None:
        self._settings = settings
        self._show = show
        try:
            channels_of(settings.signal)
        except ValueError as error:
            raise FixConfiguration(str(error), hint="FIELDLOOP_SIGNAL_CHANNELS") from error
        self._root: bytes | None = None
        if settings.root_file:
            try:
                self._root = Path(settings.root_file).read_bytes()
            except OSError as error:
                raise FixConfiguration(
                    f"the trusted root {settings.root_file} cannot be read: {error.strerror}",
                    code="root.absent",
                ) from error
        self.plan_digest = digest(device_plan(settings, i) for i in range(settings.devices))
        self.history: list[dict[str, Any]] = []

    def run(self) -> Audit:
        """Run to the end; returns the audited books."""
        if self._settings.folder:
            Path(self._settings.folder).mkdir(parents=True, exist_ok=True)
            return self._run(self._settings.folder)
        memory = str(_MEMORY) if _MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="fieldloop-fleet-", dir=memory) as folder:
            return self._run(folder)

    def _run(self, folder: str) -> Audit:
        settings = self._settings
        context = multiprocessing.get_context("spawn")
        document = settings.model_dump(mode="json")
        pipes: list[Connection] = []
        processes = []
        for index in range(settings.processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=worker.run,
                args=(document, index, folder, self._root, theirs),
                daemon=True,
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            books = self._listen(pipes, _begin(pipes))
        finally:
            for process in processes:
                process.join(_END_S)
                if process.is_alive():
                    process.kill()
        return audit(
            books,
            expected=settings.devices,
            store_url=settings.store_url,
            fleet=settings.fleet,
            died=sum(p.exitcode != 0 for p in processes),
        )

    def _listen(self, pipes: list[Connection], started_s: float) -> list[dict[str, Any]]:
        """Take what the processes say until each has given its books, or is gone."""
        latest: dict[int, dict[str, Any]] = {}
        books: list[dict[str, Any]] = []
        open_pipes = dict.fromkeys(pipes)
        shown_s = time.monotonic()
        try:
            while open_pipes:
                for pipe in wait(list(open_pipes), timeout=0.5):
                    assert isinstance(pipe, Connection)
                    try:
                        what, value = pipe.recv()
                    except (EOFError, OSError):
                        open_pipes.pop(pipe, None)
                        continue
                    if what == "figures":
                        latest[pipes.index(pipe)] = value
                    else:
                        books += value
                now_s = time.monotonic()
                if latest and now_s - shown_s >= 1.0:
                    shown_s = now_s
                    self._tell(latest, now_s - started_s)
        except KeyboardInterrupt:
            for pipe in open_pipes:
                with suppress(OSError):
                    pipe.send("drain")
            return books + self._listen(list(open_pipes), started_s)
        self._tell(latest, time.monotonic() - started_s)
        return books

    def _tell(self, latest: dict[int, dict[str, Any]], at_s: float) -> None:
        total = add_up(latest.values())
        ordered = total.pop("latencies_s")
        total["at_s"] = round(at_s, 1)
        total["ack_p50_s"], total["ack_p95_s"] = quantile(ordered, 0.5), quantile(ordered, 0.95)
        total["ack_max_s"] = ordered[-1] if ordered else 0.0
        last = self.history[-1] if self.history else {"at_s": 0.0, "cpu_s": 0.0, "stored": 0}
        span_s = max(0.1, total["at_s"] - last["at_s"])
        total["cores"] = round((total["cpu_s"] - last["cpu_s"]) / span_s, 3)
        total["stored_per_s"] = round((total["stored"] - last["stored"]) / span_s, 1)
        self.history.append(total)
        self._show(total)
