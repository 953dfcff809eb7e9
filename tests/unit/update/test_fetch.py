"""Downloads: the window, resuming, wrong chunks, deadlines. Files are real, the wire is a set."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldloop_contract.errors import Isolate
from fieldloop_contract.manifest import GOLDEN_FILE, MODEL_FILE, Carriage, FileRef, Manifest
from fieldloop_contract.topics import parse_blob
from fieldloop_update.bundles import Bundles
from fieldloop_update.fetch import LEAVE_CHUNKS, Fetcher
from fieldloop_update.outcomes import Missing, Outcome, Ready, Refused
from fieldloop_update.settings import UpdateSettings
from support.signed import FLEET, bundle, chunks


class Wire:
    """The broker's side of the chunk topics."""

    def __init__(self, folder: Path, **given: Any) -> None:
        self.folder = folder
        self.asked: set[str] = set()
        self.most_asked = 0
        self.settings = UpdateSettings(dir=str(folder), disk_reserve_bytes=0, **given)
        self.bundles = Bundles(folder, self.settings.bundles_max)
        self.fetcher = self.reopen()
        self.now_s = 0.0

    def reopen(self) -> Fetcher:
        self.asked.clear()
        self.fetcher = Fetcher(
            self.settings, FLEET, self.bundles, self._subscribe, self._unsubscribe, seed=1
        )
        return self.fetcher

    def _subscribe(self, *filters: str) -> None:
        self.asked |= {parse_blob(f) for f in filters}
        self.most_asked = max(self.most_asked, len(self.asked))

    def _unsubscribe(self, *filters: str) -> None:
        self.asked -= {parse_blob(f) for f in filters}

    def start(self, manifest: Manifest, carriage: Carriage | None = None) -> None:
        self.fetcher.start(
            manifest.ref(), carriage or Carriage(manifest=FileRef.of(manifest.encode()))
        )

    def step(self, seconds: float = 0.1, *, online: bool = True) -> list[Outcome]:
        self.now_s += seconds
        return self.fetcher.step(self.now_s, online=online)

    def serve(self, held: dict[str, bytes], rounds: int = 500) -> list[Outcome]:
        """Deliver what is asked for until the download ends."""
        found: list[Outcome] = []
        for _ in range(rounds):
            found += self.step()
            if any(isinstance(o, Ready) for o in found):
                break
            for digest in sorted(self.asked):
                if digest in held:
                    self.fetcher.message(digest, held[digest])
        return found


def ready(outcomes: list[Outcome]) -> bool:
    return any(isinstance(o, Ready) for o in outcomes)


def codes(outcomes: list[Outcome]) -> list[str]:
    return [o.code for o in outcomes if isinstance(o, Refused)]


def test_bundle_arrives_whole_within_the_window(tmp_path):
    wire = Wire(tmp_path)
    manifest, files = bundle(size=700_000)
    wire.start(manifest)
    assert ready(wire.serve(chunks(manifest, files)))
    got = wire.bundles.open(manifest.ref())
    assert got is not None
    assert {name: got.read(name) for name in files} == files
    assert wire.most_asked <= 6 + LEAVE_CHUNKS
    assert wire.asked == set()
    assert not list(tmp_path.glob("partial/*"))
    assert {p.name for p in got.dir.iterdir()} == {"manifest.json", MODEL_FILE, GOLDEN_FILE}


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_the_wire_does_the_result_is_exact_or_absent(tmp_path, data):
    """Chunks lost, repeated, reordered, flipped, truncated, of another place; restarts between."""
    shutil.rmtree(tmp_path)
    wire = Wire(tmp_path)
    manifest, files = bundle(size=data.draw(st.integers(1, 150_000)))
    held = chunks(manifest, files)
    wire.start(manifest)
    for _ in range(data.draw(st.integers(0, 30))):
        wire.step()
        digest = data.draw(st.sampled_from(sorted(held)))
        payload = held[digest]
        kind = data.draw(st.sampled_from(["right", "flip", "cut", "other", "long", "restart", ""]))
        if kind == "flip":
            payload = bytes([payload[0] ^ 1]) + payload[1:]
        elif kind == "cut":
            payload = payload[:-1]
        elif kind == "other":
            payload = held[data.draw(st.sampled_from(sorted(held)))]
        elif kind == "long":
            payload += b"\x00" * 40_000
        elif kind == "restart":
            wire.fetcher.stop()
            wire.reopen()
            wire.start(manifest)
        wire.fetcher.message(digest, payload)
    got = wire.bundles.open(manifest.ref())
    assert got is None or {n: got.read(n) for n in files} == files
    if got is None:
        assert ready(wire.serve(held))
        got = wire.bundles.open(manifest.ref())
        assert got is not None
    assert {n: got.read(n) for n in files} == files


def test_restart_keeps_every_chunk_that_was_written(tmp_path):
    wire = Wire(tmp_path)
    manifest, files = bundle(size=700_000)
    held = chunks(manifest, files)
    wire.start(manifest)
    wire.serve(held, rounds=3)
    had = wire.fetcher.chunks_taken
    assert 0 < had < len(held)
    wire.fetcher.stop()
    wire.reopen()
    wire.start(manifest)
    assert ready(wire.serve(held))
    assert wire.fetcher.chunks_taken == len(held) - had


def test_map_that_promises_more_than_the_file_holds_is_not_believed(tmp_path):
    wire = Wire(tmp_path)
    manifest, files = bundle(size=300_000)
    held = chunks(manifest, files)
    wire.start(manifest)
    wire.serve(held, rounds=3)
    wire.fetcher.stop()
    partial = tmp_path / "partial" / manifest.digest()
    file = partial / MODEL_FILE
    file.write_bytes(b"\x00" * 300_000)
    (partial / f"{MODEL_FILE}.map").write_bytes(b"\x01" * 10)
    wire.reopen()
    wire.start(manifest)
    assert ready(wire.serve(held))
    got = wire.bundles.open(manifest.ref())
    assert got is not None
    assert got.read(MODEL_FILE) == files[MODEL_FILE]


def test_second_version_takes_what_it_shares_from_the_first(tmp_path):
    wire = Wire(tmp_path)
    one, files = bundle(1, size=300_000)
    wire.start(one)
    wire.serve(chunks(one, files))
    changed = files[MODEL_FILE][:200_000] + b"\x01" * 100_000
    later = {**files, MODEL_FILE: changed}
    two = one.model_copy(
        update={"version": 2, "files": {n: FileRef.of(d) for n, d in later.items()}}
    )
    before = wire.fetcher.chunks_taken
    wire.start(two)
    assert ready(wire.serve(chunks(two, later)))
    assert wire.fetcher.chunks_taken - before <= 5


def test_damaged_chunk_is_named_once_and_asked_for_again(tmp_path):
    wire = Wire(tmp_path)
    manifest, _files = bundle()
    wire.start(manifest)
    wire.step()
    digest = next(iter(wire.asked))
    for _ in range(5):
        wire.fetcher.message(digest, b"evil")
    outcomes = wire.step()
    assert codes(outcomes) == ["chunk.damaged"]
    assert Missing((digest,)) in outcomes
    assert digest in wire.asked
    assert wire.fetcher.chunks_refused == 5


def test_chunk_that_does_not_come_is_reported_less_and_less_often(tmp_path):
    wire = Wire(tmp_path, missing_after_s=10)
    manifest, _files = bundle()
    wire.start(manifest)
    reported = []
    for _ in range(200):
        if any(isinstance(o, Missing) for o in wire.step(1.0)):
            reported.append(wire.now_s)
    gaps = [b - a for a, b in itertools.pairwise(reported)]
    assert reported[0] == pytest.approx(11, abs=1.5)
    assert gaps == sorted(gaps)
    assert len(reported) == 4


def test_nothing_is_missing_while_there_is_no_connection(tmp_path):
    wire = Wire(tmp_path, missing_after_s=10, deadline_s=20)
    wire.start(bundle()[0])
    assert [o for _ in range(100) for o in wire.step(1.0, online=False)] == []


def test_deadline_gives_up_in_words_and_goes_on_later(tmp_path):
    wire = Wire(tmp_path, deadline_s=60, retry_base_s=30, missing_after_s=1000)
    manifest, files = bundle()
    held = chunks(manifest, files)
    wire.start(manifest)
    outcomes = [o for _ in range(62) for o in wire.step(1.0)]
    assert codes(outcomes) == ["download.deadline"]
    assert "again in" in next(o.reason for o in outcomes if isinstance(o, Refused))
    assert wire.asked == set()
    wire.now_s += 3600
    assert ready(wire.serve(held))


def test_cancelled_download_leaves_nothing(tmp_path):
    wire = Wire(tmp_path)
    manifest, files = bundle(size=300_000)
    wire.start(manifest)
    wire.serve(chunks(manifest, files), rounds=3)
    wire.fetcher.cancel(manifest.digest())
    assert wire.asked == set()
    assert not list(tmp_path.glob("partial/*"))
    assert wire.step() == []


def test_two_downloads_share_the_window_and_do_not_mix(tmp_path):
    wire = Wire(tmp_path)
    one, files_one = bundle(1, size=300_000)
    two, files_two = bundle(2, size=300_000)
    wire.start(one)
    wire.start(two)
    held = chunks(one, files_one) | chunks(two, files_two)
    outcomes = wire.serve(held) + wire.serve(held)
    assert {o.ref.version for o in outcomes if isinstance(o, Ready)} == {1, 2}
    assert wire.most_asked <= 6 + LEAVE_CHUNKS
    for manifest, files in ((one, files_one), (two, files_two)):
        got = wire.bundles.open(manifest.ref())
        assert got is not None
        assert got.read(MODEL_FILE) == files[MODEL_FILE]


def test_bundle_over_the_bound_is_refused_before_its_files(tmp_path):
    wire = Wire(tmp_path, bundle_bytes_max=50_000)
    manifest, files = bundle(size=100_000)
    wire.start(manifest)
    outcomes = wire.serve(chunks(manifest, files), rounds=5)
    assert codes(outcomes) == ["bundle.bytes"]
    assert wire.asked == set()


def test_full_disk_waits_and_says_so(tmp_path):
    wire = Wire(tmp_path)
    wire.settings = wire.settings.model_copy(update={"disk_reserve_bytes": 1 << 60})
    wire.reopen()
    manifest, files = bundle()
    wire.start(manifest)
    outcomes = wire.serve(chunks(manifest, files), rounds=5)
    assert codes(outcomes) == ["space.exhausted"]


def test_signed_list_whose_whole_is_another_file_installs_nothing(tmp_path):
    wire = Wire(tmp_path)
    manifest, files = bundle()
    held = chunks(manifest, files)
    lie = manifest.files[MODEL_FILE].model_copy(update={"sha256": "0" * 64})
    broken = manifest.model_copy(update={"files": {**manifest.files, MODEL_FILE: lie}})
    held |= chunks(broken, {})
    wire.start(broken)
    outcomes = wire.serve(held, rounds=20)
    assert codes(outcomes) == ["bundle.digest"]
    assert wire.bundles.open(broken.ref()) is None


@pytest.mark.parametrize("name", ["../model.tflite", ".hidden", "manifest.json"])
def test_file_name_that_leads_elsewhere_is_refused(tmp_path, name):
    wire = Wire(tmp_path)
    manifest, files = bundle()
    evil = manifest.model_copy(update={"files": {**manifest.files, name: FileRef.of(b"x")}})
    wire.start(evil)
    outcomes = wire.serve(chunks(evil, {**files, name: b"x"}), rounds=20)
    assert codes(outcomes) == ["bundle.manifest"]


def test_bundle_damaged_on_disk_is_set_aside_and_can_be_fetched_again(tmp_path):
    wire = Wire(tmp_path)
    manifest, files = bundle()
    held = chunks(manifest, files)
    wire.start(manifest)
    wire.serve(held)
    got = wire.bundles.open(manifest.ref())
    assert got is not None
    path = got.dir / MODEL_FILE
    path.write_bytes(b"\x00" + path.read_bytes()[1:])
    with pytest.raises(Isolate, match="damaged on disk"):
        got.read(MODEL_FILE)
    assert wire.bundles.open(manifest.ref()) is None
    wire.start(manifest)
    assert ready(wire.serve(held))


def test_bundles_are_bounded_and_let_go(tmp_path):
    wire = Wire(tmp_path, bundles_max=2)
    made = [bundle(v, size=1000) for v in (1, 2, 3)]
    for manifest, files in made[:2]:
        wire.start(manifest)
        assert ready(wire.serve(chunks(manifest, files)))
    wire.start(made[2][0])
    assert "bundle.count" in codes(wire.serve(chunks(*made[2]), rounds=10))
    wire.bundles.keep({made[1][0].digest()}, wire.fetcher.digests)
    assert wire.bundles.complete() == [made[1][0].digest()]
    wire.start(made[2][0])
    assert ready(wire.serve(chunks(*made[2])))
