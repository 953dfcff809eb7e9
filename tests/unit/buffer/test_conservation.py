"""The conservation law, against a real log: whatever is done to it, the books balance.

A machine appends, commits, acknowledges, asks again, kills, cuts the power, and fills the log over
its bound; a model cloud takes what a sender may see. In the end every durable row is in the cloud,
or withheld, or named by an event that tells of its drop; no key ever had two contents.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import sqlite_utils  # noqa: F401 - so that logs are made in this process, which is quicker
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fieldloop_buffer.connection import open_reader
from fieldloop_buffer.entry import Entry, Kind, split_id
from fieldloop_buffer.log import Log
from fieldloop_buffer.outbox import Outbox
from fieldloop_buffer.settings import LogSettings
from fieldloop_contract.messages import LedgerTotals

Key = tuple[str, int]
STREAMS = ("small", "large", "kept", "thin")


class LogMachine(RuleBasedStateMachine):
    @initialize(mode=st.sampled_from(["durable", "balanced"]))
    def start(self, mode: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="log-"))
        self.settings = LogSettings(
            path=str(self.folder / "log.db"), mode=mode, bytes_max=4 << 20, reserve_bytes=65_536
        )
        self.cloud: dict[Key, bytes] = {}
        self.acknowledged: set[Key] = set()
        self.promised: dict[Key, bytes] = {}
        self.waiting: dict[Key, bytes] = {}
        self.withheld: set[Key] = set()
        self.number = 0
        self.now_ns = 0
        self.open()

    def open(self) -> None:
        self.log = Log.open(
            self.settings,
            fleet="demo",
            device="pump-1",
            service="ingestion",
            policies={"small": "drop_newest", "thin": "decimate"},
        )
        self.cut_at = self.photograph()

    def photograph(self) -> dict[str, bytes]:
        """What a power cut would leave: everything as it was at the last sync."""
        files = (self.folder / f"log.db{end}" for end in ("", "-wal"))
        return {file.name: file.read_bytes() for file in files if file.exists()}

    def settle(self) -> None:
        """Note what the log now promises to keep."""
        for key in [k for k in self.waiting if k[1] <= self.durable_of(k[0])]:
            self.promised[key] = self.waiting.pop(key)

    def durable_of(self, epoch: str) -> int:
        account = self.log._file.store.books.by_epoch(epoch)
        return account.durable_seq if account else 0

    # ---- what producers do ---------------------------------------------------------------------

    @rule(
        stream=st.sampled_from(STREAMS),
        n=st.integers(1, 30),
        kind=st.sampled_from([Kind.FRAME, Kind.RESULT]),
    )
    def append(self, stream: str, n: int, kind: Kind) -> None:
        size = 50_000 if stream in ("large", "thin") else 300
        for _ in range(n):
            self.number += 1
            body: dict[str, object] = {"n": self.number, "x": "y" * size}
            payload = json.dumps(body).encode()
            entry = Entry(kind, stream, self.number, payload, withheld=stream == "kept")
            durable = self.log.durable_seq
            seq = self.log.append(entry)
            key = (self.log.epoch, seq)
            assert key not in self.waiting
            self.waiting[key] = payload
            if entry.withheld:
                self.withheld.add(key)
            if self.log.durable_seq != durable:
                self.cut_at = self.photograph()
        self.settle()

    @rule(force=st.booleans())
    def commit(self, force: bool) -> None:
        before = self.log.durable_seq
        after = self.log.commit(force=force)
        assert after >= before
        if force or after != before:
            self.cut_at = self.photograph()
        self.settle()

    # ---- what the cloud does ---------------------------------------------------------------------

    @rule(most=st.integers(1, 40), acknowledge=st.booleans(), twice=st.booleans())
    def deliver(self, most: int, acknowledge: bool, twice: bool) -> None:
        outbox = Outbox(self.settings.path)
        view = outbox.view()
        assert view is not None
        waiting = outbox.waiting(0, view.durable, most, 1 << 30)
        letters = outbox.fetch([(row.key, row.key) for row in waiting])
        outbox.file.close()
        assert len(letters) == len(waiting)
        for letter in letters:
            key = (view.epochs[letter.epoch_no], letter.seq)
            assert letter.sound
            assert key not in self.withheld
            assert self.cloud.setdefault(key, letter.payload) == letter.payload
            assert self.promised.get(key, letter.payload) == letter.payload
            if acknowledge:
                self.acknowledged.add(key)
                n = self.log.acknowledge(key[0], [(key[1], key[1])])
                assert n == 1
                if twice:
                    assert self.log.acknowledge(key[0], [(key[1], key[1])]) == 0

    @rule(first=st.integers(1, 500), length=st.integers(0, 500))
    def acknowledge_again(self, first: int, length: int) -> None:
        """Ranges of rows that the cloud has, in any order, over and over, and of no epoch."""
        seqs = [seq for epoch, seq in self.cloud if epoch == self.log.epoch]
        inside = [(s, s) for s in seqs if first <= s <= first + length]
        self.log.acknowledge(self.log.epoch, [*inside, *inside[::-1]])
        assert self.log.acknowledge("0" * 32, [(first, first + length)]) == 0
        never = self.log.ledgers()[-1].produced + 10_000
        assert self.log.acknowledge(self.log.epoch, [(never, never + 5)]) == 0

    @rule(first=st.integers(1, 500), length=st.integers(0, 500))
    def want(self, first: int, length: int) -> None:
        for ledger in self.log.ledgers():
            n = self.log.want(ledger.epoch, [(first, first + length)])
            assert n <= ledger.stored

    # ---- what happens ----------------------------------------------------------------------------

    @rule(years=st.sampled_from([-10, 0, 0, 0, 10]))
    def maintain(self, years: int) -> None:
        self.now_ns += years * 366 * 86_400 * 10**9 + 10**9
        self.log.maintain(self.now_ns)

    @rule()
    def stop_and_start(self) -> None:
        self.log.close()
        self.log = None  # type: ignore[assignment]
        self.open()
        self.promised |= self.waiting
        self.waiting = {}

    @rule()
    def kill(self) -> None:
        """The process is gone; what the kernel has is there."""
        epoch = self.log.epoch
        other = open_reader(self.settings.path)  # without it, closing would be a checkpoint
        other.execute("SELECT 1 FROM rows LIMIT 1").fetchone()
        self.log._file.release()
        self.open()
        other.close()
        assert self.log.epoch == epoch
        self.lose_what_waited()

    @precondition(lambda self: self.cut_at is not None)
    @rule()
    def cut_power(self) -> None:
        epoch = self.log.epoch
        self.log._file.release()
        for file in self.folder.glob("log.db*"):
            if not file.name.endswith((".lock", ".epochs", ".reserve")):
                file.unlink()
        for name, content in self.cut_at.items():
            (self.folder / name).write_bytes(content)
        self.open()
        assert self.log.epoch != epoch
        self.lose_what_waited()

    def lose_what_waited(self) -> None:
        """Rows that were never promised may be there or not; their seq may come again."""
        kept = {}
        for ledger in self.log.ledgers():
            for key in self.waiting:
                if key[0] == ledger.epoch and key[1] <= ledger.produced:
                    kept[key] = self.waiting[key]
        for key in set(self.waiting) - set(kept):
            self.withheld.discard(key)
        self.waiting = kept
        self.settle()

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "log"):
            return
        for ledger in self.log.ledgers():
            assert ledger.balanced, ledger
        for no, account in self.log._file.store.books.accounts.items():
            low, high = no << 44, (no + 1) << 44
            held = self.log._file.store.pending.within(low, high, 100_000)
            assert sum(b - a + 1 for a, b in held) == account.pending

    @invariant()
    def stays_within_its_bound(self) -> None:
        if hasattr(self, "log"):
            assert self.log.bytes_on_disk() <= self.settings.bytes_max

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        self.log.commit(force=True)
        self.settle()
        for _ in range(10_000):
            before = len(self.acknowledged)
            self.deliver(most=200, acknowledge=True, twice=False)
            self.log.commit(force=True)
            if len(self.acknowledged) == before:
                break
        ledgers: list[LedgerTotals] = self.log.ledgers()
        assert sum(ledger.pending for ledger in ledgers) == 0
        self.account_for_everything()
        self.log.close()
        shutil.rmtree(self.folder)

    def account_for_everything(self) -> None:
        told: dict[str, list[tuple[int, int]]] = {}
        complete = True
        for payload in self.cloud.values():
            document = json.loads(payload)
            if document.get("type") == "log.dropped":
                complete = complete and document["data"]["complete"]
                for epoch, first, last in document["data"]["ranges"]:
                    told.setdefault(epoch, []).append((first, last))
        for key, payload in self.promised.items():
            epoch, seq = key
            if self.cloud.get(key) == payload or key in self.withheld:
                continue
            dropped = any(first <= seq <= last for first, last in told.get(epoch, []))
            assert dropped or not complete, f"{key} is unaccounted for"
        assert split_id(1 << 44 | 5) == (1, 5)


LogMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("CONSERVATION_EXAMPLES", "12")),
    stateful_step_count=int(os.environ.get("CONSERVATION_STEPS", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestConservation = LogMachine.TestCase
