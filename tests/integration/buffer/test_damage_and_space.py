"""Logs that are damaged, copied, or out of room: set aside, salvaged, told; nothing half taken."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import sqlite_utils  # noqa: F401 - logs are then made in this process, which is quicker

from fieldloop_buffer import Cursor, DeadLetter, Entry, Kind, Log, LogSettings, Reader
from fieldloop_buffer.connection import open_reader
from fieldloop_buffer.logfile import LogFile
from fieldloop_buffer.looking import describe
from fieldloop_buffer.orders import Damaged
from fieldloop_buffer.outbox import Outbox
from fieldloop_contract.errors import FixConfiguration, LimitExceeded, OutOfSpace
from fieldloop_contract.messages import LedgerTotals

MIB = 1 << 20


def open_log(path: Path, **changes: object) -> Log:
    settings = LogSettings.model_validate({"path": str(path), "mode": "durable", **changes})
    return Log.open(settings, fleet="demo", device="pump-1", service="ingestion")


def entry(n: int, size: int = 100, stream: str = "imu", kind: Kind = Kind.RESULT) -> Entry:
    return Entry(kind, stream, n, json.dumps({"n": n, "x": "y" * size}).encode())


def fill(log: Log, n: int, size: int = 100) -> None:
    for i in range(n):
        log.append(entry(i, size))
    log.commit(force=True)


def total(ledgers: list[LedgerTotals], name: str) -> int:
    return sum(getattr(ledger, name) for ledger in ledgers)


def pending_keys(path: Path) -> set[tuple[str, int]]:
    outbox = Outbox(str(path))
    view = outbox.view()
    assert view is not None
    letters = outbox.fetch([(1, view.durable)]) if view.durable < 1 << 20 else []
    waiting = outbox.waiting(0, view.durable, 1_000_000, 1 << 40)
    outbox.file.close()
    assert len(letters) in (0, len(waiting))
    return {(view.epochs[row.key >> 44], row.key & (1 << 44) - 1) for row in waiting}


def events(path: Path, type_: str) -> list[dict[str, object]]:
    reader, cursor, found = Reader(str(path)), None, []
    while True:
        chunk = reader.read(cursor, kinds=[Kind.EVENT])
        found += [json.loads(row.payload) for row in chunk.rows]
        if chunk.cursor == cursor:
            reader.close()
            return [event["data"] for event in found if event["type"] == type_]
        cursor = chunk.cursor


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path / "a.db")
    with pytest.raises(FixConfiguration, match="another process"):
        open_log(tmp_path / "a.db")
    log.close()
    open_log(tmp_path / "a.db").close()


def test_the_schema_is_made_by_a_child_that_leaves_no_library_behind(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fieldloop_buffer import Log, LogSettings\n"
        f"log = Log.open(LogSettings(path={str(tmp_path / 'a.db')!r}),"
        " fleet='f', device='d', service='s')\n"
        "print(log.epoch, 'sqlite_utils' in sys.modules, 'numpy' in sys.modules)\nlog.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["False", "False"]


def test_nothing_is_written_when_idle(tmp_path: Path) -> None:
    log = open_log(tmp_path / "a.db", mode="balanced", commit_interval_ms=10)
    log.append(entry(1))
    for n in range(5):
        log.commit(n * 1.0)
    names = ("a.db", "a.db-wal")
    before = [((tmp_path / f).stat().st_mtime_ns, (tmp_path / f).stat().st_size) for f in names]
    for n in range(5, 200):
        log.commit(n * 1.0)
        log.maintain(n * 10**9)
        log.acknowledge(log.epoch, [])
    after = [((tmp_path / f).stat().st_mtime_ns, (tmp_path / f).stat().st_size) for f in names]
    assert before == after
    log.close()


def test_readers_do_not_see_what_a_power_cut_could_take(tmp_path: Path) -> None:
    log = open_log(tmp_path / "a.db", mode="balanced", commit_interval_ms=1000)
    reader = Reader(str(tmp_path / "a.db"))
    log.append(entry(1))
    assert log.commit(100.0) == 1  # the first commit is due at once
    log.append(entry(2))
    assert log.commit(100.3) == 1  # written, not synced
    chunk = reader.read(None, kinds=[Kind.RESULT])
    assert [row.seq for row in chunk.rows] == [1]
    assert pending_keys(tmp_path / "a.db") == {(log.epoch, 1)}
    assert log.commit(101.1) == 2
    assert [row.seq for row in reader.read(chunk.cursor, kinds=[Kind.RESULT]).rows] == [2]
    log.close()


def test_a_copied_file_begins_a_new_epoch_and_still_delivers_the_old_one(tmp_path: Path) -> None:
    log = open_log(tmp_path / "a.db")
    fill(log, 20)
    epoch = log.epoch
    log.close()
    shutil.copy(tmp_path / "a.db", tmp_path / "b.db")
    copy = open_log(tmp_path / "b.db")
    assert copy.epoch != epoch
    fill(copy, 3)
    keys = pending_keys(tmp_path / "b.db")
    assert {seq for e, seq in keys if e == epoch} == set(range(1, 21))
    assert {seq for e, seq in keys if e == copy.epoch} == {1, 2, 3}
    assert copy.acknowledge(epoch, [(1, 20)]) == 20
    copy.close()
    original = open_log(tmp_path / "a.db")
    assert original.epoch == epoch
    original.close()


def test_another_machine_begins_a_new_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(tmp_path / "a.db")
    epoch = log.epoch
    log.close()
    monkeypatch.setattr("fieldloop_buffer.logfile.machine_fingerprint", lambda: "f" * 32)
    log = open_log(tmp_path / "a.db")
    assert log.epoch != epoch
    log.close()


def test_an_unclean_stop_of_the_machine_in_balanced_mode_begins_a_new_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = {}
    for mode in ("balanced", "durable"):
        path = tmp_path / f"{mode}.db"
        log = open_log(path, mode=mode)
        fill(log, 5)
        epochs[mode] = log.epoch
        log._file.release()
    monkeypatch.setattr("fieldloop_buffer.logfile.boot_id", lambda: "b" * 32)
    for mode, same in (("balanced", False), ("durable", True)):
        log = open_log(tmp_path / f"{mode}.db", mode=mode)
        assert (log.epoch == epochs[mode]) is same
        log.close()


def drop_unsound_rows(log: Log, path: Path) -> None:
    """What the uplink does with rows whose checksum is wrong."""
    outbox = Outbox(str(path))
    view = outbox.view()
    assert view is not None
    waiting = outbox.waiting(0, view.durable, 100_000, 1 << 40)
    for letter in outbox.fetch([(row.key, row.key) for row in waiting]):
        if not letter.sound:
            log.apply([Damaged(view.epochs[letter.epoch_no], (letter.seq,))])
    outbox.file.close()


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_are_detected_set_aside_salvaged_and_told(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.db"
    log = open_log(path)
    fill(log, 3_000)
    log.acknowledge(log.epoch, [(1, 1_000)])
    epoch = log.epoch
    log.close()
    rng = random.Random(seed)
    raw = bytearray(path.read_bytes())
    places = [rng.randrange(100, len(raw)) for _ in range(12)]
    places += [rng.randrange(100, 4096) for _ in range(4 * (seed % 2))]  # the schema's own page
    for place in places:
        raw[place] ^= rng.randrange(1, 256)
    with path.open("r+b") as file:
        file.write(raw)

    log = open_log(path)
    fill(log, 10)
    drop_unsound_rows(log, path)
    log.commit(force=True)
    ledgers = {ledger.epoch: ledger for ledger in log.ledgers()}
    assert all(ledger.balanced for ledger in ledgers.values()), ledgers
    old = ledgers[epoch]
    assert old.produced >= 3_000 or log.quarantined
    assert old.pending + old.stored > 2_000
    if log.quarantined:
        assert log.epoch != epoch
        assert list(tmp_path.glob("a.db.corrupt-*"))
        (told,) = events(path, "log.quarantined")
        assert int(str(told["salvaged"])) >= old.pending
        assert int(str(told["lost"])) <= old.dropped.get("corrupt", 0)
    keys = pending_keys(path)
    assert len(keys) == sum(ledger.pending for ledger in ledgers.values())
    log.close()


def test_a_file_that_is_no_database_any_more_is_replaced_and_ingestion_goes_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    log = open_log(path)
    fill(log, 50)
    log.close()
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    log = open_log(path)
    assert log.quarantined == 1
    fill(log, 5)
    (told,) = events(path, "log.quarantined")
    assert told["salvaged"] == 0
    assert told["state_lost"] is True
    assert all(ledger.balanced for ledger in log.ledgers())
    log.close()


def test_damage_in_operation_keeps_what_waits_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_log(path)
    fill(log, 2_000)
    epoch = log.epoch
    log._file.room.checkpoint(truncate=True)
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(os.urandom(64))
    log._file.db.execute("PRAGMA shrink_memory")
    for n in range(3):
        log.append(entry(10_000 + n))
    log.commit(force=True)
    assert log.quarantined == 1
    assert log.epoch != epoch
    keys = pending_keys(path)
    assert {(epoch, seq) for seq in (2001, 2002, 2003)} <= keys
    assert all(ledger.balanced for ledger in log.ledgers())
    seq = log.append(entry(1))
    log.commit(force=True)
    assert (log.epoch, seq) in pending_keys(path)
    log.close()


@pytest.mark.parametrize("step", ["wal", "file", "ready"])
def test_a_replacement_that_is_cut_off_is_finished_at_the_next_start(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    log = open_log(path)
    fill(log, 300)
    epoch = log.epoch
    log._file.release()
    raw = bytearray(path.read_bytes())
    raw[5 * 4096 : 5 * 4096 + 50] = os.urandom(50)
    done: list[str] = []
    rename = os.rename

    def cut(old: str, new: str) -> None:
        if (step == "ready") or (step == "file" and len(done) == 1) or len(done) == 2:
            raise KeyboardInterrupt
        done.append(old)
        rename(old, new)

    with path.open("r+b") as file:
        file.write(os.urandom(4096))
    monkeypatch.setattr(os, "rename", cut)
    with pytest.raises(KeyboardInterrupt):
        open_log(path)
    monkeypatch.undo()
    log = open_log(path)
    assert all(ledger.balanced for ledger in log.ledgers())
    assert epoch in {ledger.epoch for ledger in log.ledgers()}
    fill(log, 5)
    log.close()


def test_the_bound_holds_and_acknowledged_rows_go_first(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_log(path, bytes_max=4 * MIB)
    fill(log, 100, 10_000)
    log.acknowledge(log.epoch, [(51, 100)])
    fill(log, 120, 10_000)
    assert log.bytes_on_disk() <= 4 * MIB
    (ledger,) = log.ledgers()
    assert ledger.dropped == {}
    keys = pending_keys(path)
    assert {(log.epoch, seq) for seq in range(1, 51)} <= keys
    fill(log, 300, 10_000)
    (ledger,) = log.ledgers()
    assert ledger.balanced
    assert ledger.dropped["size"] > 0
    told = events(path, "log.dropped")
    assert sum(int(str(event["rows"])) for event in told) == ledger.dropped["size"]
    log.close()


def test_a_decimate_stream_keeps_all_of_its_span_at_a_coarser_step(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    settings = LogSettings.model_validate({"path": str(path), "bytes_max": 4 * MIB})
    log = Log.open(
        settings,
        fleet="demo",
        device="pump-1",
        service="ingestion",
        policies={"thin": "decimate"},
    )
    rows = 4_000
    for n in range(rows):
        log.append(entry(n, 2_000, "thin", Kind.FRAME))
        log.append(entry(n, 200, "imu", Kind.FRAME))
        if n % 20 == 0:
            log.commit(force=True)
    log.commit(force=True)
    db = open_reader(str(path))
    sql = (
        "SELECT t_ns FROM rows JOIN streams s ON s.no = rows.stream WHERE s.stream = ? ORDER BY id"
    )
    thin = [row[0] for row in db.execute(sql, ("thin",))]
    oldest = [row[0] for row in db.execute(sql, ("imu",))]
    db.close()
    assert thin[0] == 0
    assert thin[-1] >= rows - 2
    steps = [b - a for a, b in pairwise(thin)]
    assert max(steps) <= rows // 20, "no hole anywhere in the span"
    assert set(steps) > {1, 2, 4}, "what is older is coarser"
    assert oldest == list(range(oldest[0], rows)), "the other stream lost its oldest"
    (ledger,) = log.ledgers()
    assert ledger.balanced
    assert ledger.dropped["decimated"] >= rows // 2
    assert ledger.dropped["size"] >= oldest[0]
    log.close()
    assert {"decimated", "size"} <= {str(e["cause"]) for e in events(path, "log.dropped")}


def test_a_drop_newest_stream_refuses_at_the_bound_and_takes_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    log = open_log(path, bytes_max=4 * MIB, policy="drop_newest")
    for _ in range(40):
        fill(log, 10, 10_000)
    (ledger,) = log.ledgers()
    assert ledger.balanced
    assert set(ledger.dropped) == {"newest"}
    assert (log.epoch, 1) in pending_keys(path)
    log.acknowledge(log.epoch, [(1, ledger.produced)])
    dropped = ledger.dropped["newest"]
    fill(log, 1, 10)
    fill(log, 10, 10_000)
    assert log.ledgers()[0].dropped["newest"] <= dropped + 1
    log.close()


def test_old_rows_go_by_hours_in_use_and_pending_ones_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_log(path, age_max_s=60)
    fill(log, 10)
    log.acknowledge(log.epoch, [(1, 4)])
    for second in range(50):
        log.maintain(second * 10**9)
    fill(log, 5)
    log.maintain(10 * 366 * 86_400 * 10**9)  # a jump of ten years counts as a minute
    log.commit(force=True)
    (ledger,) = log.ledgers()
    assert ledger.dropped == {"age": 6}
    assert ledger.balanced
    assert [event["rows"] for event in events(path, "log.dropped")] == [6]
    assert (log.epoch, 11) in pending_keys(path)
    log.close()


def test_a_reader_that_pins_the_log_is_bounded_and_input_is_refused_not_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.db"
    log = open_log(path, bytes_max=4 * MIB)
    fill(log, 10)
    pin = open_reader(str(path))
    pin.execute("BEGIN")
    pin.execute("SELECT count(*) FROM rows").fetchone()
    taken = 10
    refusal = ""
    for n in range(10_000):
        try:
            log.append(entry(n, 5_000))
            taken += 1
            if n % 20 == 0:
                log.commit(force=True)
        except OutOfSpace as error:
            refusal = str(error)
            break
    assert "pins" in refusal
    assert log.bytes_on_disk() <= 4 * MIB
    assert all(ledger.dropped == {} for ledger in log.ledgers())
    pin.execute("COMMIT")
    pin.close()
    log.commit(force=True)
    (ledger,) = log.ledgers()
    assert ledger.produced == taken + len(ledger.dropped and events(path, "log.dropped"))
    assert ledger.balanced
    log.close()


def test_a_cursor_behind_the_tail_gets_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_log(path, bytes_max=4 * MIB)
    fill(log, 10, 10_000)
    reader = Reader(str(path))
    cursor = reader.read(None, kinds=[Kind.RESULT], limit=4).cursor
    assert cursor == Cursor(log.epoch, 4)
    log.acknowledge(log.epoch, [(1, 10)])
    fill(log, 400, 10_000)
    chunk = reader.read(cursor, kinds=[Kind.RESULT])
    first = chunk.rows[0].seq
    assert first > 11
    assert chunk.gaps[0][0] == 5
    assert chunk.gaps[-1][1] == first - 1
    strange = reader.read(Cursor("0" * 32, 7), kinds=[Kind.RESULT])
    assert strange.gaps[0][0] == 8
    assert strange.rows
    log.close()


def test_a_damaged_row_is_a_gap_for_readers_and_a_counted_drop(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_log(path)
    fill(log, 5)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE rows SET payload = x'00' WHERE id & 0xFFF = 3")
    raw.close()
    chunk = Reader(str(path)).read(None, kinds=[Kind.RESULT])
    assert [row.seq for row in chunk.rows] == [1, 2, 4, 5]
    assert chunk.gaps == [(3, 3)]
    log.apply([Damaged(log.epoch, (3,))])
    log.commit(force=True)
    assert log.ledgers()[0].dropped == {"corrupt": 1}
    assert log.ledgers()[0].balanced
    log.close()


def test_state_is_committed_with_the_rows_around_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_log(path)
    log.append(entry(1))
    log.set_state("place", "1")
    log.commit(force=True)
    log.append(entry(2))
    log.set_state("place", "2")
    assert log.state("place") == "2"
    log._file.release()
    log = open_log(path)
    assert log.state("place") == "1"
    assert log.ledgers()[0].produced == 1
    with pytest.raises(LimitExceeded):
        log.set_state("big", "x" * 70_000)
    log.close()


def test_dead_letters_are_bounded_counted_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_log(path)
    for _ in range(12):
        for n in range(150):
            log.dead_letter(DeadLetter(n, "s", "imu", "frame.range", "too high", b"\1\2"))
        log.commit(force=True)
    assert log.rejects() == {"frame.range": 1800}
    with open_reader(str(path)) as db:
        assert db.execute("SELECT count(*) FROM dead_letters").fetchone()[0] <= 1000
    text = "\n".join(describe(str(path)))
    assert "refused 1800 x frame.range" in text
    assert "(balanced)" in text
    log.close()


def fill_disk(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096) == 4096:
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail("a small tmpfs cannot be mounted (needs CAP_SYS_ADMIN)")
        pytest.skip("machine: a small tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_input_and_recovers_without_a_restart(small_disk: Path) -> None:
    path = small_disk / "a.db"
    log = open_log(path, bytes_max=64 * MIB, reserve_bytes=MIB, policy="drop_newest")
    fill(log, 20, 5_000)
    ballast = small_disk / "ballast"
    fill_disk(ballast)
    taken = 20
    refused = 0
    for n in range(3_000):
        try:
            log.append(entry(n, 5_000))
            taken += 1
            log.commit(force=True)
        except OutOfSpace:
            refused += 1
            if refused > 50:
                break
    assert refused
    assert log.out_of_space
    assert all(ledger.balanced for ledger in log.ledgers())
    ballast.unlink()
    log.append(entry(1, 5_000))
    log.commit(force=True)
    log.maintain(10**9)
    (ledger,) = log.ledgers()
    assert ledger.balanced
    assert ledger.produced == taken + 1 + len(events(path, "log.dropped"))
    assert len(pending_keys(path)) == ledger.pending
    log.close()


def test_on_a_full_disk_acknowledged_rows_make_room_for_new_ones(small_disk: Path) -> None:
    path = small_disk / "a.db"
    log = open_log(path, bytes_max=64 * MIB, reserve_bytes=MIB)
    fill(log, 200, 5_000)
    log.acknowledge(log.epoch, [(1, 200)])
    log.maintain(10**9)
    ballast = small_disk / "ballast"
    fill_disk(ballast)
    for n in range(100):
        log.append(entry(n, 5_000))
        log.commit(force=True)
    (ledger,) = log.ledgers()
    assert ledger.balanced
    assert ledger.dropped == {}
    assert ledger.produced == 300
    log.close()


def test_a_log_file_releases_its_lock_when_it_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.mkdir()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, the lock has to go
        open_log(path)
    path.rmdir()
    open_log(path).close()
    assert LogFile is not None
