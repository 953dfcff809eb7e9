"""Killed before every durable step of a download and of taking up a verification."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fieldloop_contract.manifest import MODEL_FILE, Carriage, FileRef
from fieldloop_contract.topics import parse_blob
from fieldloop_update.bundles import Bundles
from fieldloop_update.fetch import Fetcher
from fieldloop_update.outcomes import Ready
from fieldloop_update.settings import UpdateSettings
from support.kills import killed_at
from support.signed import FLEET, SignedFleet, TrustingDevice, bundle, chunks

MANIFEST, FILES = bundle(size=3 * 32 * 1024 + 100)
HELD = chunks(MANIFEST, FILES)
STEPS_MAX = 400


def download(folder: Path, taken: int) -> int:
    """Fetch the bundle; each chunk taken is a byte on the descriptor `taken`. Returns how many."""
    asked: set[str] = set()
    settings = UpdateSettings(dir=str(folder), disk_reserve_bytes=0)
    bundles = Bundles(folder, 8)
    fetcher = Fetcher(
        settings,
        FLEET,
        bundles,
        lambda *f: asked.update(parse_blob(x) for x in f),
        lambda *f: asked.difference_update(parse_blob(x) for x in f),
    )
    if bundles.open(MANIFEST.ref()) is not None:
        return 0
    fetcher.start(MANIFEST.ref(), Carriage(manifest=FileRef.of(MANIFEST.encode())))
    now_s = 0.0
    while True:
        now_s += 0.1
        if any(isinstance(o, Ready) for o in fetcher.step(now_s, online=True)):
            return fetcher.chunks_taken
        for digest in sorted(asked):
            before = fetcher.chunks_taken
            fetcher.message(digest, HELD[digest])
            os.write(taken, b"." * (fetcher.chunks_taken - before))


def test_download_killed_at_every_step_resumes_and_wastes_at_most_one_chunk(tmp_path):
    for step in range(1, STEPS_MAX):
        folder = tmp_path / "device"
        shutil.rmtree(folder, ignore_errors=True)
        reader, writer = os.pipe()
        killed = killed_at(step, lambda f=folder, w=writer: download(f, w) and None)
        os.close(writer)
        before = len(os.read(reader, 1000))
        os.close(reader)
        null = os.open(os.devnull, os.O_WRONLY)
        after = download(folder, null)
        os.close(null)
        got = Bundles(folder, 8).open(MANIFEST.ref())
        assert got is not None, step
        assert got.read(MODEL_FILE) == FILES[MODEL_FILE], step
        # The chunk in hand when it was killed is not counted before, and comes again after.
        assert before + after <= len(HELD), (step, before, after)
        if not killed:
            assert step > 30
            return
    pytest.fail("more steps than expected")


def test_verification_killed_at_every_step_leaves_the_old_order_or_the_new(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet")
    one = fleet.add(bundle(1)[0])
    old_files, old_order = fleet.publish(), fleet.order(1, one)
    two = fleet.add(bundle(2)[0])
    files, order = fleet.publish(), fleet.order(2, two)
    seed = tmp_path / "seed"
    first = TrustingDevice(seed, fleet.root)
    assert first.refusal(old_files, old_order) == ""
    first.state.close()
    for step in range(1, STEPS_MAX):
        folder = tmp_path / "device"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(seed, folder, symlinks=True)

        def work(folder: Path = folder) -> None:
            device = TrustingDevice(folder, fleet.root)
            assert device.refusal(files, order) == ""

        killed = killed_at(step, work)
        device = TrustingDevice(folder, fleet.root)
        held = device.verifier.order()
        assert held is not None, step
        assert held.version in (1, 2), step
        if held.version == 2:
            assert device.refusal(old_files, old_order) in ("trust.rollback", "desired.rollback")
        assert device.refusal(files, order) == "", step
        assert device.refusal(old_files, old_order) in ("trust.rollback", "desired.rollback")
        device.state.close()
        if not killed:
            assert step > 10
            return
    pytest.fail("more steps than expected")
