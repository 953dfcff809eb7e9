"""Bytes written to storage, by the kernel's own count."""

from __future__ import annotations

import os
from pathlib import Path

from fieldloop_runtime.wear import Wear, written_bytes


def test_what_this_process_writes_is_counted(tmp_path: Path) -> None:
    before = written_bytes()
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
    on_tmpfs = written_bytes() == before and os.path.ismount("/dev/shm") and before == 0
    assert on_tmpfs or written_bytes() - before >= 1 << 20


def test_without_the_kernels_count_it_is_0(tmp_path: Path) -> None:
    assert written_bytes(str(tmp_path / "nothing")) == 0
    (tmp_path / "other").write_text("rubbish\n")
    assert written_bytes(str(tmp_path / "other")) == 0


def test_a_day_is_scaled_from_less_and_slides_over_more() -> None:
    wear = Wear()
    assert wear.per_day(0.0, 1_000) == 0.0
    assert wear.per_day(30.0, 2_000) == 0.0, "the first minute says nothing"
    assert wear.per_day(3_600.0, 1_000 + 3_600) == 86_400
    for hour in range(2, 48):
        wear.per_day(hour * 3_600.0, 1_000 + hour * 3_600)
        wear.per_day(hour * 3_600.0 + 600, 1_000 + hour * 3_600 + 600)
    busy = wear.per_day(48 * 3_600.0, 1_000 + 48 * 3_600)
    assert round(busy) == 86_400
    for step in range(1, 200):
        idle = wear.per_day(48 * 3_600.0 + step * 600, 1_000 + 48 * 3_600)
    assert idle == 0.0
