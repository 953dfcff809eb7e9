"""balena's update lock: exclusive as the supervisor expects, and never left behind by a kill."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fieldloop_buffer import Kind
from fieldloop_inference.updatelock import HOLD_S_MAX, MARK, UpdateLock, lock_path
from fieldloop_runtime.journal import Journal
from support.broker import Mosquitto
from support.bundles import frames, make_bundle
from support.device import Bench, InstantTrial, stored
from support.inference_process import Process
from support.signed_cloud import SignedCloud

HOLDER = """
import os, sys, time
from pathlib import Path
from fieldloop_inference.updatelock import UpdateLock
from fieldloop_runtime.journal import Journal
lock = UpdateLock(Path(sys.argv[1]), Journal("test"))
lock.around(lambda: object())()
print("held" if lock.held else "not held", flush=True)
time.sleep(600)
"""


class OneTrial:
    """A trial that is over when it is told so."""

    def __init__(self) -> None:
        self.verdict: object | None = None

    def poll(self, now_s: float) -> object | None:
        return self.verdict

    def stop(self) -> None:
        pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "updates.lock"


def lock_at(path: Path | None) -> UpdateLock:
    return UpdateLock(path, Journal("test"))


def supervisor_locks(path: Path) -> bool:
    """What `lockfile -r 0` of the supervisor comes to: a link, which fails on a taken name."""
    own = path.parent / "of-the-supervisor"
    own.write_bytes(b"0")
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        own.unlink()
    return True


def host_may_reboot(path: Path) -> bool:
    """What balenaOS asks before a host update reboots: whether the file can be flocked."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_it_is_held_from_the_start_of_a_trial_until_the_turn_after_its_verdict(path: Path) -> None:
    lock = lock_at(path)
    trial = lock.around(OneTrial)()
    lock.step(0)
    assert not supervisor_locks(path)
    assert not host_may_reboot(path)
    with pytest.raises(FileExistsError):
        os.open(path, os.O_CREAT | os.O_EXCL)
    trial._trial.verdict = "passed"
    assert trial.poll(1) == "passed"
    assert path.exists()  # the swap happens in this very turn
    lock.step(1)
    assert not path.exists()
    assert supervisor_locks(path)


def test_two_trials_share_it_and_the_last_one_gives_it_back(path: Path) -> None:
    lock = lock_at(path)
    begin = lock.around(OneTrial)
    one, two = begin(), begin()
    one.stop()
    one.stop()  # twice is once
    lock.step(0)
    assert lock.held
    two.stop()
    lock.step(1)
    assert not path.exists()


def test_a_lock_of_the_supervisor_or_of_a_person_is_never_touched(path: Path) -> None:
    for content in (b"", b"0", b"fieldloop-inference", MARK + b"x"):
        path.write_bytes(content)
        lock = lock_at(path)
        trial = lock.around(OneTrial)()
        assert not lock.held
        assert lock.counters == {"taken": 1}
        trial.stop()
        lock.step(0)
        lock.close()
        assert path.read_bytes() == content


def test_a_lock_that_was_overridden_is_not_removed_from_its_new_owner(path: Path) -> None:
    lock = lock_at(path)
    trial = lock.around(OneTrial)()
    path.unlink()  # `force` of the supervisor
    assert supervisor_locks(path)
    trial.stop()
    lock.step(0)
    assert path.read_bytes() == b"0"


def test_a_holder_that_is_killed_leaves_a_stale_lock_which_the_next_start_removes(
    path: Path,
) -> None:
    child = hold(path)
    assert lock_at(path).held is False
    assert path.exists()  # its holder lives: not ours to remove
    child.kill()
    child.wait()
    assert not supervisor_locks(path)  # it would keep all releases away until the next reboot
    lock_at(path)
    assert supervisor_locks(path)


def test_killed_at_any_moment_it_is_always_either_gone_or_removed_by_the_next_start(
    path: Path,
) -> None:
    script = HOLDER.replace("time.sleep(600)", "").replace(
        'print("held" if lock.held else "not held", flush=True)',
        "while True: lock.around(lambda: object())(); lock.close()",
    )
    for number in range(12):
        child = subprocess.Popen([sys.executable, "-c", script, str(path)])
        deadline = time.monotonic() + 30
        while not any(path.parent.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.003 * number)
        child.kill()
        child.wait()
        lock_at(path)
        assert list(path.parent.iterdir()) == []


def test_a_folder_that_is_missing_or_closed_hinders_no_trial(tmp_path: Path) -> None:
    lock = lock_at(tmp_path / "no-such-folder" / "updates.lock")
    assert isinstance(lock.around(OneTrial)()._trial, OneTrial)
    assert lock.counters == {"unavailable": 1}
    link = tmp_path / "link.lock"
    link.symlink_to(tmp_path / "elsewhere")
    lock = lock_at(link)
    lock.around(OneTrial)()
    assert not (tmp_path / "elsewhere").exists()
    folder = tmp_path / "folder.lock"
    folder.mkdir()
    lock_at(folder).around(OneTrial)()


def test_it_is_given_back_after_its_bound_and_where_the_trial_cannot_start(path: Path) -> None:
    lock = lock_at(path)
    lock.around(OneTrial)()
    lock.step(0)
    lock.step(HOLD_S_MAX + 1)
    assert not path.exists()

    def fails() -> None:
        raise OSError("no memory")

    lock = lock_at(path)
    with contextlib.suppress(OSError):
        lock.around(fails)()
    lock.step(0)
    assert not path.exists()


def test_where_it_lies(path: Path) -> None:
    assert lock_path("", {"BALENA_APP_LOCK_PATH": "/x"}) is None
    assert lock_path("balena", {"BALENA_APP_LOCK_PATH": "/x"}) == Path("/x")
    assert lock_path("balena", {}) == Path("/tmp/balena/updates.lock")
    assert lock_path(str(path), {}) == path
    assert isinstance(lock_at(None).around(OneTrial)(), OneTrial)


def test_the_service_holds_it_while_a_model_is_installed_also_over_a_kill(
    tmp_path: Path, mosquitto: Mosquitto, path: Path
) -> None:
    bench = Bench(tmp_path, begin_trial=InstantTrial)
    cloud = SignedCloud(tmp_path / "cloud", mosquitto.port)
    (tmp_path / "root.json").write_bytes(cloud.fleet.root)
    bench.put(frames(200))
    setting = {"FIELDLOOP_UPDATE_LOCK": "balena", "BALENA_APP_LOCK_PATH": str(path)}

    def wait(check: Callable[[], Any], what: str) -> None:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            if check():
                return
            time.sleep(0.002)
        raise AssertionError(what)

    def activated() -> bool:
        events = stored(tmp_path / "inference.sqlite", Kind.EVENT)
        return any(e["type"] == "model.activated" for e in events)

    service = Process(bench, mosquitto.port, **setting)
    try:
        cloud.order(1, cloud.offer(*make_bundle()))
        wait(path.exists, "the lock is taken for the trial")
        assert not supervisor_locks(path)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        assert not supervisor_locks(path)  # stale, and in the way
        service = Process(bench, mosquitto.port, **setting)
        wait(activated, "the model is active after all")
        wait(lambda: not path.exists(), "the lock is given back")
        assert supervisor_locks(path)
    finally:
        service.end()
        cloud.close()
