"""balena's update lock, held while a model is being installed.

balena's supervisor stops no container of the release while a lock file exists, and balenaOS does
not reboot into another host system while somebody holds `flock` on it (the two mechanisms of
docs.balena.io, "Update locks"); so this holds both, on one file.

The file comes into being complete and at once: it is written, flocked and marked under another
name, and then linked, which fails where the name is taken, as `O_EXCL` does. Nobody sees a lock of
ours without its mark. After a kill the file stays but the kernel drops the flock: a marked file
that can be flocked is stale, and is taken over or removed. A file without our mark is somebody
else's (the supervisor's own, or a person's) and is never touched.

A courtesy, no condition: an installation survives a kill at any point. Where the lock is taken or
cannot be made, the installation goes on and it is said once. Owner thread only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fieldloop_runtime.journal import Journal, Throttle

FROM_SUPERVISOR: Final = "balena"
DEFAULT_PATH: Final = "/tmp/balena/updates.lock"
MARK: Final = b"fieldloop-inference\n"
HOLD_S_MAX: Final = 1_800.0
"""Longer no installation may keep releases away; a trial has a shorter limit of its own."""


def lock_path(setting: str, environ: Mapping[str, str]) -> Path | None:
    """Where the lock file is: a path as set, or where the supervisor says; None for no lock."""
    if setting == FROM_SUPERVISOR:
        return Path(environ.get("BALENA_APP_LOCK_PATH") or DEFAULT_PATH)
    return Path(setting) if setting else None


class UpdateLock:
    """The lock of this service's container.

    Args:
        path: the lock file; None switches everything off.
    """

    def __init__(self, path: Path | None, journal: Journal) -> None:
        self._path = path
        self._journal = journal
        self._noise = Throttle(3_600)
        self._file: int | None = None
        self._trials = 0
        self._since_s: float | None = None
        self.counters: dict[str, int] = {}
        if path is not None:
            self._clean(path)

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self._file is not None

    def around(self, begin_trial: Callable[..., Any]) -> Callable[..., Any]:
        """`begin_trial` with the lock taken before; `step` gives it back after the last trial."""

        def begin(*args: Any, **kwargs: Any) -> Any:
            if self._path is None:
                return begin_trial(*args, **kwargs)
            self._take(self._path)
            trial = _Trial(begin_trial(*args, **kwargs), self)
            self._trials += 1
            return trial

        return begin

    def step(self, now_s: float) -> None:
        """Once in a turn of the loop, after the slots: give the lock back when nobody needs it."""
        if self._file is None:
            self._since_s = None
            return
        self._since_s = now_s if self._since_s is None else self._since_s
        too_long = now_s - self._since_s > HOLD_S_MAX
        if too_long:
            self._say("update_lock.held_too_long", f"given back after {HOLD_S_MAX:.0f} s")
        if too_long or self._trials == 0:
            self.close()

    def ended(self) -> None:
        """A trial that was begun is over."""
        self._trials -= 1

    def close(self) -> None:
        """Give the lock back, whoever needs it."""
        if self._file is None or self._path is None:
            return
        if _same(self._file, self._path):  # else a person or the supervisor overrode it
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        os.close(self._file)
        self._file = None

    # The file.

    def _take(self, path: Path) -> None:
        if self._file is not None and _same(self._file, path):
            return
        if self._file is not None:
            os.close(self._file)
            self._file = None
        try:
            self._file = _create(path)
            if self._file is None:
                self._file = _take_over(path)
            if self._file is None:
                self._say("update_lock.taken", "somebody else holds it")
        except OSError as error:
            hint = "is the service run by balena, and may it write there?"
            self._say("update_lock.unavailable", f"{path}: {error.strerror}; {hint}")

    def _clean(self, path: Path) -> None:
        """Remove what an earlier life of ours left behind."""
        try:
            stale = _take_over(path)
            if stale is not None:
                self._file = stale
                self.close()
                self._journal.info("update_lock.stale_removed", path=str(path))
            for left in path.parent.glob(f".{path.name}.*"):
                abandoned = _take_over(left, half_made=True)
                if abandoned is not None:
                    left.unlink(missing_ok=True)
                    os.close(abandoned)
        except OSError as error:
            self._say("update_lock.unavailable", f"{path}: {error.strerror}")

    def _say(self, event: str, reason: str) -> None:
        name = event.removeprefix("update_lock.")
        self.counters[name] = self.counters.get(name, 0) + 1
        if self._noise.allow():
            self._journal.warning(event, reason=reason)


class _Trial:
    """A trial that says when it is over."""

    def __init__(self, trial: Any, lock: UpdateLock) -> None:
        self._trial = trial
        self._lock: UpdateLock | None = lock

    def poll(self, now_s: float) -> Any:
        verdict = self._trial.poll(now_s)
        if verdict is not None:
            self._end()
        return verdict

    def stop(self) -> None:
        self._trial.stop()
        self._end()

    def _end(self) -> None:
        if self._lock is not None:
            self._lock.ended()
            self._lock = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def _create(path: Path) -> int | None:
    """The lock, flocked and marked; None where the name is taken."""
    under = path.parent / f".{path.name}.{os.getpid()}"
    under.unlink(missing_ok=True)
    file = os.open(under, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(file, MARK)
        os.link(under, path)
    except FileExistsError:
        os.close(file)
        return None
    except OSError:
        os.close(file)
        raise
    finally:
        under.unlink(missing_ok=True)
    return file


def _take_over(path: Path, *, half_made: bool = False) -> int | None:
    """A file of ours whose holder is dead, flocked; None where there is none.

    Args:
        half_made: it lies under the name that only we make, so that it needs no mark yet.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR):
            return None
        raise
    try:
        if half_made or os.read(file, len(MARK) + 1) == MARK:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(file, path):
                return file
    except BlockingIOError:
        pass
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _same(file: int, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False
