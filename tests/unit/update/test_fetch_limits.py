"""Deltas, budgets, metered connections, rates, the capability gate. Files are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zstandard

from fieldloop_contract.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Carriage,
    FileRef,
    Limits,
    Manifest,
    Packed,
    Requires,
    sha256,
)
from fieldloop_contract.messages import Capability
from fieldloop_contract.topics import parse_blob
from fieldloop_delivery.packing import Packings, compress, xor
from fieldloop_update.budget import STEP_BYTES, Budget
from fieldloop_update.bundles import Bundles
from fieldloop_update.fetch import Fetcher
from fieldloop_update.outcomes import Outcome, Ready, Refused
from fieldloop_update.packing import unpack
from fieldloop_update.settings import UpdateSettings
from fieldloop_update.state import TrustState
from support.signed import FLEET, bundle, chunks

DAY_NS = 86_400 * 10**9


class Line:
    """A device's end of the wire, and a broker's end that serves what it holds."""

    def __init__(self, folder: Path, *, capability: Capability | None = None, **given: Any) -> None:
        self.asked: set[str] = set()
        self.held: dict[str, bytes] = {}
        self.now_s = 0.0
        self.utc_ns = 20_000 * DAY_NS
        self.settings = UpdateSettings(dir=str(folder), disk_reserve_bytes=0, **given)
        self.bundles = Bundles(folder, 8)
        self.state = TrustState(folder / "trust.sqlite")
        budget = Budget(self.state, self.settings.budget_bytes_per_day, lambda: self.utc_ns)
        self.fetcher = Fetcher(
            self.settings,
            FLEET,
            self.bundles,
            lambda *f: self.asked.update(parse_blob(x) for x in f),
            lambda *f: self.asked.difference_update(parse_blob(x) for x in f),
            budget=budget,
            capability=(lambda: capability) if capability is not None else None,
            seed=1,
        )

    def start(self, manifest: Manifest, **packed: list[Packed]) -> None:
        named = {name.replace("_", "."): forms for name, forms in packed.items()}
        carriage = Carriage(manifest=FileRef.of(manifest.encode()), packed=named)
        self.fetcher.start(manifest.ref(), carriage)

    def step(self, seconds: float = 0.1, *, serve: bool = True) -> list[Outcome]:
        self.now_s += seconds
        found = self.fetcher.step(self.now_s, online=True)
        for digest in sorted(self.asked) if serve else ():
            if digest in self.held:
                self.fetcher.message(digest, self.held[digest])
        return found

    def run(self, steps: int = 60, seconds: float = 0.1) -> list[Outcome]:
        return [o for _ in range(steps) for o in self.step(seconds)]

    def model(self, manifest: Manifest) -> bytes:
        got = self.bundles.open(manifest.ref())
        assert got is not None
        return got.read(MODEL_FILE)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def codes(outcomes: list[Outcome]) -> list[str]:
    return [o.code for o in outcomes if isinstance(o, Refused)]


def blob_chunks(data: bytes) -> dict[str, bytes]:
    file = FileRef.of(data)
    return {d: data[i * 32768 : (i + 1) * 32768] for i, d in enumerate(file.chunks)}


def retrained(line: Line, size: int = 200_000) -> tuple[Manifest, dict[str, bytes], Packed, bytes]:
    """Version 1 on disk; version 2, which differs in its last tenth, and the delta to it."""
    one, files = bundle(1, size=size)
    line.held |= chunks(one, files)
    line.start(one)
    assert any(isinstance(o, Ready) for o in line.run())
    old = files[MODEL_FILE]
    new = old[: size * 9 // 10] + bytes((b + 1) % 256 for b in old[size * 9 // 10 :])
    new = bytes(b ^ (i % 977 == 0) for i, b in enumerate(new))  # so that no chunk is shared
    files = {**files, MODEL_FILE: new}
    refs = {n: FileRef.of(d) for n, d in files.items()}
    two = one.model_copy(update={"version": 2, "files": refs})
    blob = compress(xor(new, old))
    return two, files, Packed(source=sha256(old), blob=FileRef.of(blob)), blob


def test_delta_gives_the_file_for_a_tenth_of_its_bytes(line):
    two, files, packed, blob = retrained(line)
    line.held = {**blob_chunks(two.encode()), **blob_chunks(blob)}
    before = line.fetcher.bytes_received
    line.start(two, model_tflite=[packed])
    assert any(isinstance(o, Ready) for o in line.run())
    assert line.model(two) == files[MODEL_FILE]
    assert line.fetcher.bytes_received - before < 0.3 * len(files[MODEL_FILE])
    got = line.bundles.open(two.ref())
    assert {p.name for p in got.dir.iterdir()} == {"manifest.json", MODEL_FILE, GOLDEN_FILE}


@pytest.mark.parametrize("fault", ["other file", "short", "bomb", "garbage", "source damaged"])
def test_failed_delta_falls_back_to_the_full_file(line, fault):
    two, files, packed, blob = retrained(line)
    size = len(files[MODEL_FILE])
    if fault == "other file":
        blob = compress(bytes(size))
    elif fault == "short":
        blob = compress(bytes(size - 1))
    elif fault == "bomb":
        blob = compress(bytes(300 << 20))
    elif fault == "garbage":
        blob = b"\x00" * 5000
    else:
        one = line.bundles.complete()[0]
        path = line.settings.dir + f"/bundles/{one}/{MODEL_FILE}"
        damaged = bytearray(Path(path).read_bytes())
        damaged[5] ^= 1
        Path(path).write_bytes(bytes(damaged))
    packed = packed.model_copy(update={"blob": FileRef.of(blob)})
    line.held = {**chunks(two, files), **blob_chunks(blob)}
    line.start(two, model_tflite=[packed])
    assert any(isinstance(o, Ready) for o in line.run(200))
    assert line.model(two) == files[MODEL_FILE]
    assert len(line.fetcher.packings_failed) == 1


def test_bomb_stops_at_the_declared_size_to_the_byte(tmp_path):
    blob, target = tmp_path / "blob", tmp_path / "target"
    blob.write_bytes(zstandard.compress(bytes(64 << 20)))
    packed = Packed(blob=FileRef.of(blob.read_bytes()))
    with pytest.raises(Exception, match="more than 1000000 bytes"):
        unpack(packed, blob, None, target, 1_000_000)
    assert not target.exists()
    assert (tmp_path / "target.new").stat().st_size <= 1_000_000


def test_unknown_encoding_and_absent_source_are_passed_over(line):
    manifest, files = bundle(size=90_000)
    line.held = chunks(manifest, files)
    strange = Packed(encoding="lzma-9", blob=FileRef.of(b"x" * 10))
    absent = Packed(source="a" * 64, blob=FileRef.of(b"y" * 10))
    line.start(manifest, model_tflite=[strange, absent])
    assert any(isinstance(o, Ready) for o in line.run())
    assert line.model(manifest) == files[MODEL_FILE]


def test_smaller_chunks_for_a_broker_that_takes_no_more(tmp_path, line):
    manifest, files = bundle(size=70_000)
    packings = Packings(tmp_path / "packed", 4096)
    forms = packings.of(manifest, files, [])
    assert [p.encoding for p in forms[MODEL_FILE]] == ["plain"]
    small = forms[MODEL_FILE][0].blob
    data = files[MODEL_FILE]
    line.held = {d: data[i * 4096 : (i + 1) * 4096] for i, d in enumerate(small.chunks)}
    line.held |= blob_chunks(manifest.encode()) | blob_chunks(files[GOLDEN_FILE])
    line.start(manifest, model_tflite=forms[MODEL_FILE])
    assert any(isinstance(o, Ready) for o in line.run(100))
    assert line.model(manifest) == data


def test_days_budget_is_kept_across_a_restart_and_renewed_next_day(tmp_path):
    line = Line(tmp_path, budget_bytes_per_day=150_000)
    manifest, files = bundle(size=400_000)
    line.held = chunks(manifest, files)
    line.start(manifest)
    outcomes = line.run()
    assert codes(outcomes) == ["download.budget"]
    assert "used up" in next(o.reason for o in outcomes if isinstance(o, Refused))
    assert 0 < line.fetcher.bytes_received <= 150_000
    line.fetcher.stop()
    line.state.close()
    again = Line(tmp_path, budget_bytes_per_day=150_000)
    again.held = line.held
    again.start(manifest)
    assert codes(again.run()) == ["download.budget"]
    assert line.fetcher.bytes_received + again.fetcher.bytes_received <= 150_000
    for _ in range(8):
        again.utc_ns += DAY_NS
        again.now_s += 100_000
        again.run(20)
    assert again.model(manifest) == files[MODEL_FILE]


def test_clock_set_back_gives_no_new_budget(tmp_path):
    now_ns = [20_000 * DAY_NS]
    state = TrustState(tmp_path / "trust.sqlite")
    budget = Budget(state, 100_000, lambda: now_ns[0])
    budget.spend(70_000)
    now_ns[0] -= 5 * DAY_NS
    assert budget.room == 30_000
    assert Budget(state, 100_000, lambda: now_ns[0]).spent <= 70_000 + STEP_BYTES


def test_metered_connection_takes_small_downloads_only_and_goes_on_when_it_costs_nothing(tmp_path):
    line = Line(tmp_path, metered=True, metered_bytes_max=50_000)
    small, small_files = bundle(1, size=20_000)
    large, large_files = bundle(2, size=200_000)
    line.held = chunks(small, small_files) | chunks(large, large_files)
    line.start(small)
    line.start(large)
    outcomes = line.run()
    assert [o.ref.version for o in outcomes if isinstance(o, Ready)] == [1]
    assert codes(outcomes) == ["download.metered"]
    line.fetcher.metered = False
    assert [o.ref.version for o in line.run() if isinstance(o, Ready)] == [2]


def test_slow_data_is_given_up_in_words_and_goes_on_later(tmp_path):
    line = Line(tmp_path, rate_min_bytes_s=1000, rate_window_s=60, missing_after_s=10_000)
    manifest, files = bundle(size=600_000)
    held = chunks(manifest, files)
    line.start(manifest)
    outcomes: list[Outcome] = []
    for digest in list(held)[:5]:  # a chunk every 100 s
        line.held = {digest: held[digest]}
        outcomes += line.run(100, 1.0)
    assert "download.slow" in codes(outcomes)
    assert "bytes/s" in next(o.reason for o in outcomes if isinstance(o, Refused))
    line.held = held
    line.now_s += 4000
    line.step(0.0)
    assert any(isinstance(o, Ready) for o in line.run(60))


def test_backoff_has_a_cap_however_often_it_fails(tmp_path):
    line = Line(tmp_path, deadline_s=5, retry_base_s=1, retry_cap_s=20, missing_after_s=1e6)
    line.start(bundle()[0])
    outcomes = [o for _ in range(2000) for o in line.step(1.0, serve=False)]
    waits = [float(o.reason.split()[-2]) for o in outcomes if isinstance(o, Refused)]
    assert len(waits) > 50
    assert max(waits) <= 20
    assert max(waits) > 10


def fit(manifest: Manifest) -> Capability:
    return Capability(
        runtime="litert", runtime_version="2.1.0", memory_bytes=1 << 30, disk_free_bytes=1 << 30
    )


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"requires": Requires(runtimes={"tflite": ">=2.14"})}, "capability.runtime"),
        ({"requires": Requires(runtimes={"litert": ">=3"})}, "capability.runtime-version"),
        ({"requires": Requires(ops={"CONV_2D": 9})}, "capability.ops"),
        ({"limits": Limits(memory_bytes_max=1 << 40)}, "capability.memory"),
        ({"requires": Requires(runtimes={"litert": ">=2.0,<3"}, ops={"CONV_2D": 3})}, ""),
    ],
)
def test_device_that_cannot_run_a_model_fetches_none_of_its_files(tmp_path, wanted, code):
    manifest, files = bundle(size=100_000)
    manifest = manifest.model_copy(update=wanted)
    capability = fit(manifest).model_copy(update={"ops": {"CONV_2D": 5}})
    line = Line(tmp_path, capability=capability)
    line.held = chunks(manifest, files)
    line.start(manifest)
    outcomes = line.run()
    assert codes(outcomes) == ([code] if code else [])
    if code:
        assert all(o.final for o in outcomes if isinstance(o, Refused))
        assert line.fetcher.bytes_received <= len(manifest.encode())


def test_bundle_that_only_https_has_is_refused_in_words_without_a_server(line):
    manifest, _files = bundle()
    carriage = Carriage(manifest=FileRef.of(manifest.encode()), retained=False)
    line.fetcher.start(manifest.ref(), carriage)
    assert codes(line.run(3)) == ["download.no-road"]
