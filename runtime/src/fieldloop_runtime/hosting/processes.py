"""Child processes: each in a session of its own, its output in a file, none left behind.

A child gets SIGKILL from the kernel when its parent dies (`leash`), and its whole session is
ended when the parent stops, so that neither Ctrl-C nor `kill -9` of it leaves a process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fieldloop_contract.errors import FieldloopError

_LEASH = str(Path(__file__).with_name("leash.py"))
_LOG_TAIL_LINES = 12
BROKER = "broker"


@dataclass(slots=True)
class Child:
    """One process: a name for people, the file its output goes to."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    expected_to_run: bool = True

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None


class Processes:
    """Starts, watches and ends child processes. Main thread only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: list[str], environ: Mapping[str, str]) -> Child:
        """Start `command` with this process's environment and `environ`."""
        log_path = self._folder / f"{name}.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, _LEASH, str(os.getpid()), *command],
                env={**inherited, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child = Child(name, process, log_path)
        self._children.append(child)
        return child

    def kill(self, child: Child) -> None:
        """SIGKILL one process, on purpose."""
        child.expected_to_run = False
        _signal_session(child, signal.SIGKILL)
        child.process.wait()
        self._children.remove(child)

    def check(self) -> None:
        """Raise FieldloopError, with the end of its log, if a process ended that should run."""
        for child in self._children:
            if child.expected_to_run and not child.running:
                lines = child.log_path.read_text("utf-8", "replace").splitlines()
                tail = "\n  ".join(lines[-_LOG_TAIL_LINES:])
                raise FieldloopError(
                    f"{child.name} ended with status {child.process.returncode}; its last words:\n"
                    f"  {tail}",
                    code="hosting.process",
                    hint=f"all of it is in {child.log_path}",
                )

    def terminate(self) -> None:
        """Ask all but the broker to end, newest first; returns at once."""
        for child in reversed(self._children):
            child.expected_to_run = False
            if child.running and child.name != BROKER:
                child.process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 8.0) -> None:
        """End all: SIGTERM, then SIGKILL to whatever is left, the broker last."""
        self.terminate()
        deadline = time.monotonic() + timeout_s
        for child in self._children:
            if child.name != BROKER:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.1, deadline - time.monotonic()))
        for child in self._children:
            _signal_session(child, signal.SIGKILL)
            child.process.wait()
        self._children.clear()


def _signal_session(child: Child, number: signal.Signals) -> None:
    """Signal a child and all that it started (its session's process group)."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)
