"""Swaps under load, mutants at the digest gate, and mutants that were rightly signed.

    python tests/crash/inference/campaign.py swaps --count 1000
    python tests/crash/inference/campaign.py gate --count 10000
    python tests/crash/inference/campaign.py signed --count 200

A device with real models and a real log runs in this process; frames drip in all the time. A swap
is a signed order back to the previous model, and every tenth one a walk through trial (a child
process), shadow and probation. A pause is the time between two results that the service spent in
its own turns, so that neither the feed's nor the driver's time counts. Each command prints its
figures as one line of JSON, and ends with status 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fieldloop_buffer import Entry, Kind
from fieldloop_contract.frames import Frame
from fieldloop_contract.manifest import GOLDEN_FILE, MODEL_FILE, FileRef
from fieldloop_contract.messages import ModelRef
from fieldloop_inference.slots import Phase
from fieldloop_inference.trials import Trial
from fieldloop_scoring.golden import check_golden
from fieldloop_scoring.runners import open_runner
from support.bundles import frames, make_bundle
from support.device import Bench, InstantTrial, every_window

FRAMES_PER_TURN = 4
CYCLE = 400
TURNS_MAX = 60_000
WALK_EVERY = 10
NAMES = ("good", "better", "float")


class Feed:
    """Frames without end, put into the input log a few at a time."""

    def __init__(self, bench: Bench) -> None:
        self.put = 0
        self._bench = bench
        self._cycle = frames(CYCLE)

    def __iter__(self) -> Iterator[Frame]:
        period_ns = self._cycle[1].t0_ns - self._cycle[0].t0_ns
        while True:
            frame = self._cycle[self.put % CYCLE]
            yield _at(frame, 10**18 + self.put * period_ns)

    def drip(self, count: int = FRAMES_PER_TURN) -> None:
        items = []
        for frame in itertools.islice(self, count):
            items.append(frame)
            self.put += 1
        self._bench.put(items)


def _at(frame: Frame, t0_ns: int) -> Frame:
    fields = {name: getattr(frame, name) for name in Frame.__slots__}
    return Frame(**{**fields, "t0_ns": t0_ns})


class Stopwatch:
    """Time between results, counted in the service's own turns only."""

    def __init__(self, bench: Bench) -> None:
        self.same_ms: list[float] = []
        self.swap_ms: list[float] = []
        self._bench = bench
        self._spent_ns = 0
        self._begun_ns = 0
        self._last: tuple[int, str] | None = None
        real = bench.log.append

        def append(entry: Entry) -> int:
            seq = real(entry)
            if entry.kind is Kind.RESULT and b'"role":"active"' in entry.payload:
                self._result(json.loads(entry.payload)["model"]["digest"])
            return seq

        bench.log.append = append  # type: ignore[method-assign]

    def _now_ns(self) -> int:
        return self._spent_ns + time.perf_counter_ns() - self._begun_ns

    def _result(self, digest: str) -> None:
        now_ns = self._now_ns()
        if self._last is not None:
            gap_ms = (now_ns - self._last[0]) / 1e6
            (self.same_ms if digest == self._last[1] else self.swap_ms).append(gap_ms)
        self._last = (now_ns, digest)

    def turn(self) -> int:
        self._begun_ns = time.perf_counter_ns()
        scored = self._bench.turn()
        self._spent_ns = self._now_ns()
        return scored


@dataclass(frozen=True)
class Books:
    """Windows that should have been scored, against the log."""

    windows: int
    lost: int
    doubled: int


def balance(bench: Bench, feed: Feed) -> Books:
    bench.idle()
    counted = Counter(bench.starts())
    wanted = every_window(feed.put)
    doubled = sum(n - 1 for n in counted.values())
    return Books(len(wanted), len(set(wanted) - set(counted)), doubled)


def begin(folder: Path, trial: Any) -> tuple[Bench, Feed, ModelRef]:
    """A device whose good model serves."""
    bench = Bench(folder, begin_trial=trial).open()
    feed = Feed(bench)
    feed.drip(20)
    limits = {"probation_windows": 3}
    good = bench.source.add(*make_bundle("good", limits=limits))
    bench.source.order(good)
    bench.until(Phase.ACTIVE)
    return bench, feed, good


def settle(bench: Bench, feed: Feed, turn: Any = None) -> Phase:
    """Turn until the slot rests after an order that was given."""
    turn = turn or bench.turn
    resting = (Phase.ACTIVE, Phase.REJECTED, Phase.ROLLED_BACK, Phase.EMPTY)
    turn()
    for _ in range(TURNS_MAX):
        phase: Phase = bench.slot.slot.phase
        if phase in resting:
            return phase
        feed.drip(1)
        turn()
        if phase is Phase.TRIAL:
            time.sleep(0.002)
    raise AssertionError(f"{bench.slot.slot} does not rest")


def swaps(folder: Path, count: int) -> dict[str, Any]:
    """Swap `count` times; every tenth one walks through a trial in a child process."""
    bench, feed, good = begin(folder, Trial)
    limits = {"probation_windows": 3}
    others = [
        bench.source.add(*make_bundle(name, version=n, limits=limits))
        for n, name in enumerate(NAMES[1:], start=2)
    ]
    refs, watch = [good, *others], Stopwatch(bench)
    memory, resident = psutil.Process(), []
    done = walked = 0
    while done < count:
        slot = bench.slot.slot
        known = {slot.active, slot.previous}
        if done % WALK_EVERY == 0 or slot.previous is None:
            ref = next(r for r in refs if r not in known)
            walked += 1
        else:
            ref = slot.previous
        feed.drip()
        bench.source.order(ref)
        settle(bench, feed, watch.turn)
        assert bench.slot.slot.active == ref, bench.slot.slot
        done += 1
        if done % 10 == 0:
            resident.append(memory.memory_info().rss / (1 << 20))
    feed.drip()
    books = balance(bench, feed)
    finish(bench)
    # The first third is warming up: arenas of the allocator, caches of SQLite.
    third = max(1, len(resident) // 3)
    return {
        "swaps": done,
        "walked": walked,
        **asdict(books),
        "pause_ms": percentiles(watch.swap_ms),
        "between_windows_ms": percentiles(watch.same_ms),
        "resident_mib": [round(float(np.median(resident[third : 2 * third])), 1), resident[-1]],
    }


def percentiles(values: list[float]) -> dict[str, float]:
    p50, p99, most = np.percentile(values, [50, 99, 100])
    return {"p50": round(p50, 3), "p99": round(p99, 3), "max": round(most, 3)}


def finish(bench: Bench) -> None:
    bench.close()
    bench.input.close()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Other bytes than before: flipped, overwritten, cut or swapped."""
    out = bytearray(data)
    how = rng.randrange(4)
    if how == 0:
        for _ in range(rng.randrange(1, 9)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif how == 1:
        at = rng.randrange(len(out) - 16)
        out[at : at + 16] = rng.randbytes(16)
    elif how == 2:
        del out[rng.randrange(len(out) // 4, len(out)) :]
    else:
        a, b = sorted(rng.sample(range(0, len(out) - 8, 4), 2))
        out[a : a + 4], out[b : b + 4] = out[b : b + 4], out[a : a + 4]
    return bytes(out) if out != data else mutate(data, rng)


def gate(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Damage files of a signed bundle, before or after its trial, and order it."""
    rng = random.Random(seed)
    damage: list[Path] = []

    class Damaging(InstantTrial):
        """Files that are damaged once the trial has passed them."""

        def poll(self, now_s: float) -> Any:
            for path in damage:
                path.write_bytes(mutate(path.read_bytes(), rng))
            damage.clear()
            return super().poll(now_s)

    bench, feed, good = begin(folder, Damaging)
    manifest, files = make_bundle("better", version=2)
    reasons: Counter[str] = Counter()
    activations = 0
    for index in range(count):
        ref = bench.source.add(manifest, files)
        name = rng.choice((MODEL_FILE, MODEL_FILE, GOLDEN_FILE, "manifest.json"))
        path = bench.source.folder / ref.digest / name
        if index % 10 == 9:
            damage.append(bench.source.folder / ref.digest / MODEL_FILE)
        else:
            path.write_bytes(mutate(path.read_bytes(), rng))
        bench.source.order(ref, lift=[ref.digest])
        if index % 50 == 0:
            feed.drip()
        settle(bench, feed)
        activations += bench.slot.slot.active != good
        reasons[bench.slot.slot.reason[:60]] += 1
    books = balance(bench, feed)
    versions = {r["model"]["version"] for r in bench.results()}
    finish(bench)
    return {
        "mutants": count,
        "activations": activations,
        "other_versions": len(versions - {1}),
        **asdict(books),
        "reasons": dict(reasons.most_common(6)),
    }


def signed(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Mutated models under manifests that name them rightly; trials in child processes."""
    rng = random.Random(seed)
    bench, feed, good = begin(folder, Trial)
    manifest, files = make_bundle("better", limits={"probation_windows": 3})
    reasons: Counter[str] = Counter()
    active = unproven = 0
    for index in range(count):
        data = mutate(files[MODEL_FILE], rng)
        named = {**manifest.files, MODEL_FILE: FileRef.of(data)}
        mutant = manifest.model_copy(update={"files": named, "version": index + 2})
        ref = bench.source.add(mutant, {**files, MODEL_FILE: data})
        feed.drip()
        bench.source.order(ref)
        settle(bench, feed)
        if bench.slot.slot.active == ref:
            active += 1
            unproven += not check_golden(mutant, files[GOLDEN_FILE], open_runner(data)).passed
        else:
            reasons[bench.slot.slot.reason[:40]] += 1
        bench.source.order(good)
        settle(bench, feed)
        assert bench.slot.slot.active == good
    books = balance(bench, feed)
    finish(bench)
    return {
        "mutants": count,
        "active": active,
        "active_without_goldens": unproven,
        "crashes": 0,  # of this process, which is the service
        **asdict(books),
        "reasons": dict(reasons.most_common(8)),
    }


def broken(figures: dict[str, Any]) -> list[str]:
    """Which promises a campaign found broken."""
    zero = ("lost", "doubled", "activations", "other_versions", "active_without_goldens")
    return [name for name in zero if figures.get(name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("swaps", "gate", "signed"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        folder = Path(name)
        if arguments.what == "swaps":
            figures = swaps(folder, arguments.count)
        elif arguments.what == "gate":
            figures = gate(folder, arguments.count, arguments.seed)
        else:
            figures = signed(folder, arguments.count, arguments.seed)
    print(json.dumps(figures))  # noqa: T201 - a command speaks to a person
    return 1 if broken(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
