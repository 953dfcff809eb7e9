"""Run a function in a forked process that is killed at its n-th durable step.

Steps are the calls by which bytes, names and lengths reach a disk. Killing before each of them, one
after the other, walks through every state that a crash can leave behind.
"""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

STEPS = ("pwrite", "fsync", "fdatasync", "ftruncate", "rename", "replace", "mkdir", "unlink")


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Whether the process reached step number `step` (from 1), and so was killed there.

    Raises:
        AssertionError: it ended by an error of its own.
    """
    child = os.fork()
    if child == 0:
        left = [step]

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **named)

            return call

        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            for name in ("rename", "replace"):
                setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
            work()
        except BaseException:  # noqa: BLE001 - a forked test must not return into pytest
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"ended with {status}"
    return False
