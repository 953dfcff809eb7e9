"""The life of a process: signals, supervised threads, exit codes.

Owns the stop event and the reason for ending. A thread that dies ends the process, so that a
supervisor (balena, compose, systemd) starts a whole one again instead of half a service living on.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from types import FrameType

from fieldloop_contract.errors import FieldloopError, FixConfiguration, RetryLater
from fieldloop_runtime.journal import Journal


class ExitCode(IntEnum):
    """Exit status of every service, after BSD's sysexits where one fits."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INTERNAL = 70
    THREAD_DIED = 71
    TEMPORARY = 75
    CONFIGURATION = 78


class Life:
    """Stop event, supervised threads and the exit code of one process. Any thread may call it."""

    def __init__(self, journal: Journal) -> None:
        self.stop = threading.Event()
        self.exit_code = ExitCode.OK
        self._journal = journal
        self._threads: list[threading.Thread] = []

    def handle_signals(self) -> None:
        """Turn SIGTERM and SIGINT into a stop. Main thread only; a second signal kills."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_DFL)
            self.stop.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def spawn(self, name: str, target: Callable[[], None]) -> threading.Thread:
        """Run `target` in a thread whose death by an exception ends the process."""

        def run() -> None:
            try:
                target()
            except BaseException as error:  # noqa: BLE001 - the last line of defence of a thread
                self._journal.error("thread.died", trace=True, thread=name, error=str(error))
                self.fail(ExitCode.THREAD_DIED)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def fail(self, code: ExitCode) -> None:
        """End the process with `code`; the first reason wins."""
        if self.exit_code is ExitCode.OK:
            self.exit_code = code
        self.stop.set()

    def join(self, timeout_s: float = 5.0) -> None:
        """Wait for the supervised threads, `timeout_s` each."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)


def run(service: str, body: Callable[[Life], None]) -> int:
    """Run a service's body and turn its end into an exit status.

    Errors that say what to do are printed for a person; others come with their traceback.
    """
    journal = Journal(service)
    life = Life(journal)
    life.handle_signals()
    try:
        body(life)
    except FixConfiguration as error:
        sys.stderr.write(f"{service}: {error}\n")
        return ExitCode.CONFIGURATION
    except RetryLater as error:
        journal.error("service.ended", code=error.code, error=str(error))
        return ExitCode.TEMPORARY
    except FieldloopError as error:
        journal.error("service.failed", code=error.code, error=str(error))
        return ExitCode.FAILED
    except Exception as error:  # noqa: BLE001 - the last line of defence of a process
        journal.error("service.crashed", trace=True, error=str(error))
        return ExitCode.INTERNAL
    finally:
        life.stop.set()
        life.join()
    return life.exit_code
