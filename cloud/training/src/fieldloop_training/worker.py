"""The watcher's side of a run: starts the child, gives it its order, sees to its end.

Owns one child process at most. Promises that no child outlives the watcher, that a run has a time
limit, and that what is kept of the child's stderr is bounded. The owner loop calls it; a thread of
its own reads stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

from fieldloop_runtime.journal import Journal

TAIL_LINES = 40
LINE_CHARS_MAX = 500
STOP_TIMEOUT_S = 3.0
IDLE_S_MAX = 300.0
"""A warm child without an order is ended after this long."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: run id (None where it had no order), exit status, last words."""

    run: str | None
    status: int
    words: str


class Worker:
    """At most one child process. Owner thread only."""

    def __init__(self, journal: Journal, *, run_seconds_max: float) -> None:
        self._journal = journal
        self._run_seconds_max = run_seconds_max
        self._child: subprocess.Popen[bytes] | None = None
        self._run: str | None = None
        self._since_s = 0.0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._reader: threading.Thread | None = None
        self._reason = ""

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._run is not None

    def warm(self, now_s: float) -> None:
        """Have a child ready; does nothing where there is one."""
        if self._child is not None:
            return
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("FIELDLOOP_")
        }
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        environment.setdefault("PYTHONUNBUFFERED", "1")
        self._tail = deque(maxlen=TAIL_LINES)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "fieldloop_training.child"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self._since_s, self._reason = now_s, ""
        self._reader = threading.Thread(
            target=_drain, args=(self._child, self._tail), name="stderr", daemon=True
        )
        self._reader.start()

    def order(self, run: str, owner: str, settings: dict[str, Any], now_s: float) -> None:
        """Give the child its run, which was claimed as `owner`."""
        self.warm(now_s)
        assert self._child is not None
        assert self._child.stdin is not None
        self._run, self._since_s = run, now_s
        line = json.dumps({"run": run, "owner": owner, "settings": settings}).encode() + b"\n"
        # A child that died while idle shows in `poll`.
        with contextlib.suppress(OSError):
            self._child.stdin.write(line)
            self._child.stdin.flush()

    @property
    def run(self) -> str | None:
        """The run that is under way."""
        return self._run

    def end(self, reason: str) -> None:
        """Kill the child; `poll` tells of it."""
        if self._child is not None:
            self._reason = reason
            self._kill()

    def poll(self, now_s: float) -> Ended | None:
        """Look after the child; what there is to say when it has ended."""
        if self._child is None:
            return None
        age_s = now_s - self._since_s
        if self._child.poll() is None:
            if self._run is not None and age_s > self._run_seconds_max:
                self._reason = f"took longer than {self._run_seconds_max:g} s"
                self._kill()
            elif self._run is None and age_s > IDLE_S_MAX:
                self._kill()
            else:
                return None
        return self._collect()

    def stop(self) -> Ended | None:
        """End the child, if there is one."""
        if self._child is None:
            return None
        self._reason = self._reason or "the service was stopped"
        self._kill()
        return self._collect()

    def _kill(self) -> None:
        assert self._child is not None
        self._child.terminate()
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _collect(self) -> Ended:
        child, run = self._child, self._run
        assert child is not None
        status = child.wait()
        if self._reader is not None:
            self._reader.join(STOP_TIMEOUT_S)
        for pipe in (child.stdin, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._child, self._run, self._reader = None, None, None
        words = self._reason or (self._tail[-1] if self._tail else f"exit status {status}")
        if status and self._tail:
            self._journal.warning("child.stderr", run=run, tail=list(self._tail)[-10:])
        return Ended(run, status, words)


def _drain(child: subprocess.Popen[bytes], tail: deque[str]) -> None:
    """Keep the last lines of stderr; a line without end is cut."""
    assert child.stderr is not None
    with contextlib.suppress(ValueError, OSError):
        while line := child.stderr.readline(LINE_CHARS_MAX):
            text = line.decode(errors="replace").strip()
            if text:
                tail.append(text)
