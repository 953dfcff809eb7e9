"""The service is killed at every step of an install; twice in a row at the same one.

Each run is a fork that counts its points (every commit, before and after; every effect; every
result) and kills itself with SIGKILL at one of them. Then the device starts again: exactly one
valid model is active, and in the end each window was scored once by the model that was active.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fieldloop_buffer import Kind
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.serving import Serving
from fieldloop_inference.slots import Phase
from support.bundles import FolderSource, frames, make_bundle
from support.device import Bench, Drip, InstantTrial, every_window, stored

FRAMES = 50
RUN_STEPS_MAX = 400


class Points:
    """Counts points and dies at one."""

    def __init__(self, at: int, tell: int) -> None:
        self.at = at
        self.passed: list[str] = []
        self._tell = tell

    def here(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) == self.at:
            os.write(self._tell, f"died at {name}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            self.here(f"before {name}")
            result = act(*arguments, **named)
            self.here(f"after {name}")
            return result

        return guarded


def device(folder: Path) -> Bench:
    """The device as it stands on disk; its source is asked again for everything."""
    bench = Bench.__new__(Bench)
    bench.folder = folder
    bench.begin_trial = InstantTrial
    bench.reader_type = Drip
    bench.source = FolderSource(folder / "models")
    return bench


def install(folder: Path, second: ModelRef, at: int, tell: int) -> None:
    """Take up the device, order the second model, and run until it is active; or die on the way."""
    bench = device(folder)
    points = Points(at, tell)
    open_log = bench.open

    def watched() -> None:
        real_do, real_start = Serving._do, Serving.start

        def do(slot: Serving, effect: Any) -> Any:
            points.here(f"before {type(effect).__name__}")
            return real_do(slot, effect)

        def start(slot: Serving) -> None:
            log = slot._tools.log
            if not hasattr(log, "watched"):
                log.watched = True  # type: ignore[attr-defined]
                commit, append = log.commit, log.append
                log.commit = (  # type: ignore[method-assign]
                    lambda *a, force=False, **k: (
                        points.around("commit", commit)(*a, force=True, **k)
                        if force
                        else commit(*a, **k)
                    )
                )
                log.append = points.around("append", append)  # type: ignore[method-assign]
            real_start(slot)

        Serving._do = do  # type: ignore[method-assign]
        Serving.start = start  # type: ignore[method-assign]
        open_log()

    watched()
    bench.source.order(second)
    for _ in range(RUN_STEPS_MAX):
        bench.turn()
        if bench.slot.slot.phase is Phase.ACTIVE:
            break
    bench.log.commit(force=True)
    os.write(tell, "\n".join(points.passed).encode())


def run_in_fork(folder: Path, second: ModelRef, at: int) -> tuple[bool, str]:
    """Whether it was killed, and what it told."""
    out, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(out)
            install(folder, second, at, tell)
            code = 0
        finally:
            os._exit(code)
    os.close(tell)
    with os.fdopen(out) as pipe:
        told = pipe.read()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.WEXITSTATUS(status) == 0, f"the run failed by itself: {told}"
    return killed, told


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelRef, ModelRef]:
    """A device with version 1 active, version 2 on disk, and frames that wait."""
    folder = tmp_path_factory.mktemp("prepared")
    bench = Bench(folder, begin_trial=InstantTrial).open()
    items = frames(FRAMES)
    bench.put(items[:12])
    first = bench.source.add(*make_bundle())
    limits = {"probation_windows": 3}
    second = bench.source.add(*make_bundle("better", version=2, limits=limits))
    bench.source.order(first)
    bench.until(Phase.ACTIVE)
    bench.idle()
    bench.put(items[12:])
    bench.close()
    bench.input.close()
    return folder, first, second


def test_kill_at_every_step_of_an_install_leaves_one_valid_model_and_every_window_scored_once(
    prepared: tuple[Path, ModelRef, ModelRef], tmp_path: Path
) -> None:
    source, first, second = prepared
    names: list[str] = []
    at = 0
    while True:
        # At most points twice in a row; of the many results, at every third.
        at += 1
        folder = tmp_path / str(at)
        shutil.copytree(source, folder)
        killed, told = run_in_fork(folder, second, at)
        if not killed:
            assert at > 40, told
            break
        names.append(told)
        if "append" not in told or at % 3 == 0:
            run_in_fork(folder, second, at)
        bench = device(folder).open()
        slot = bench.slot.slot
        assert slot.active in (first, second), told
        assert bench.slot._engine.ref == slot.active, told
        bench.source.order(second)
        for _ in range(RUN_STEPS_MAX):
            scored = bench.turn()
            if not scored and bench.slot.slot.phase is Phase.ACTIVE:
                break
        bench.close()
        assert bench.slot.slot.active == second, told
        results = stored(folder / "inference.sqlite", Kind.RESULT)
        active = [r for r in results if r["role"] == "active"]
        starts = [round((r["t0_ns"] - 10**18) / 20_000_000) for r in active]
        assert starts == every_window(FRAMES), told
        versions = [r["model"]["version"] for r in active]
        assert versions == sorted(versions), told
        shutil.rmtree(folder)
    for what in ("Fetch", "Try", "Shadow", "Serve", "before commit", "after commit", "append"):
        assert any(what in name for name in names), f"no kill at {what}"
