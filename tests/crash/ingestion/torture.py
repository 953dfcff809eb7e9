"""Kill ingestion over and over under load, and let a checker of its own look for what is missing.

    python tests/crash/ingestion/torture.py --runs 1000

Ingestion replays recordings as fast as its log takes them, its uplink sends to a small cloud over a
real mosquitto, and each run ends with SIGKILL: at a random moment, or at a named point. Each sample
carries its recording's number and its own, so that the checker needs no help from the log:

- acknowledged: rows that a commit called durable, written to a file of its own by the process;
- lost: such rows that the cloud does not have in the end, and samples that it does not have;
- duplicated: keys with two contents, and samples that came under two keys;
- unaccounted: rows by which the books do not balance.

The last line is `runs N acknowledged A lost 0 duplicated 0 unaccounted 0`; exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

CHANNELS = 3
SAMPLES = 20_000
FRAME = 20
POINTS = (
    "before-commit",
    "after-commit",
    "inside-commit",
    "before-answer",
    "after-answer",
    "after-publish",
    "before-position",
)
PROFILE = """
streams:
  - id: imu
    rate_hz: 100
    channels: [{name: recording}, {name: sample}, {name: noise}]
sources:
  - id: recordings
    kind: replay
    stream: imu
    path: "%s"
    watch: true
    speed: 0
    frame_samples: %d
"""


# ---- the process that is killed ----------------------------------------------------------------


def zygote() -> None:
    """Import everything once; then fork a service for each line on stdin: `point countdown`."""
    from fieldloop_ingestion import service  # noqa: F401, PLC0415
    from fieldloop_ingestion.sources import replay  # noqa: F401, PLC0415

    for line in sys.stdin:
        point, countdown = line.split()
        pid = os.fork()
        if pid == 0:
            serve(point, int(countdown))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def serve(point: str, countdown: int) -> None:
    """Run the service in this process, which may kill itself at a named point."""
    from fieldloop_buffer.log import Log  # noqa: PLC0415
    from fieldloop_ingestion.__main__ import _run  # noqa: PLC0415
    from fieldloop_ingestion.intake import LogSink  # noqa: PLC0415
    from fieldloop_runtime.mqtt import Session  # noqa: PLC0415

    left = [countdown]

    def reached(name: str) -> None:
        if name == point:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str, before: str = "", after: str = "") -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            reached(before)
            result = inner(*arguments, **named)
            reached(after)
            return result

        setattr(owner, name, wrapped)

    diary = os.open(os.environ["TORTURE_DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    commit = Log.commit

    def noted(self: Log, *arguments: Any, **named: Any) -> int:
        reached("before-commit")
        durable = commit(self, *arguments, **named)
        os.write(diary, f"{self.epoch} {durable}\n".encode())
        reached("after-commit")
        return durable

    setattr(Log, "commit", noted)  # noqa: B010
    around(Log, "_write_state", before="inside-commit")
    around(Log, "apply", before="before-answer", after="after-answer")
    around(Session, "publish", after="after-publish")
    around(LogSink, "remember", before="before-position")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    code = _run()
    os._exit(code)


# ---- the one who kills ---------------------------------------------------------------------------


@dataclass
class Outcome:
    """What the checker found."""

    runs: int
    acknowledged: int
    lost: int
    duplicated: int
    unaccounted: int
    epochs: int
    samples: int

    def line(self) -> str:
        return (
            f"runs {self.runs} acknowledged {self.acknowledged} lost {self.lost}"
            f" duplicated {self.duplicated} unaccounted {self.unaccounted}"
        )

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unaccounted) and self.acknowledged > 0


def write_recording(folder: Path, number: int) -> None:
    """A recording whose samples say which they are; moved in by a rename."""
    values = array("f")
    for index in range(SAMPLES):
        values.extend((float(number), float(index), (index * 7919 % 1000) / 1000))
    header = repr({"descr": "<f4", "fortran_order": False, "shape": (SAMPLES, CHANNELS)})
    header += " " * (-(len(header) + 11) % 64) + "\n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1")
    temporary = folder / f".{number:05d}"
    with zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr("samples.npy", start + values.tobytes())
    temporary.rename(folder / f"{number:05d}.npz")


class Victim:
    """The zygote and its child."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("TORTURE_LOUD") else None,
            text=True,
            env=environ,
        )

    def start(self, point: str = "none", countdown: int = 0) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{point} {countdown}\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError("the zygote died")
            if not line.startswith("{"):  # a line of the service's own log
                return line

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def torture(runs: int, seed: int, folder: Path, mode: str) -> Outcome:
    """Run, kill, and check."""
    from support.broker import Mosquitto  # noqa: PLC0415
    from support.cloud import PretendCloud  # noqa: PLC0415

    rng = random.Random(seed)
    recordings = folder / "recordings"
    recordings.mkdir(parents=True)
    (folder / "profile.yaml").write_text(PROFILE % (recordings, FRAME), encoding="utf-8")
    broker = Mosquitto(folder / "mosquitto").start()
    cloud = PretendCloud(broker.port).start()
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
        "FIELDLOOP_FLEET": "demo",
        "FIELDLOOP_DEVICE": "pump-1",
        "FIELDLOOP_PROFILE": str(folder / "profile.yaml"),
        "FIELDLOOP_LOG_PATH": str(folder / "log" / "log.db"),
        "FIELDLOOP_LOG_MODE": mode,
        "FIELDLOOP_LOG_COMMIT_INTERVAL_MS": "50",
        "FIELDLOOP_LOG_LEVEL": "ERROR",
        "FIELDLOOP_UPLINK_BATCH_AGE_S": "0.02",
        "FIELDLOOP_UPLINK_RESEND_AFTER_S": "1",
        "FIELDLOOP_UPLINK_BACKLOG_BYTES_S": "100000000",
        "FIELDLOOP_MQTT_HOST": "127.0.0.1",
        "FIELDLOOP_MQTT_PORT": str(broker.port),
        "FIELDLOOP_MQTT_RECONNECT_BASE_S": "0.05",
        "TORTURE_DIARY": str(folder / "diary"),
    }
    victim = Victim(environ)
    written = 0
    try:
        for run in range(runs):
            while written * SAMPLES < taken_samples(cloud) + 3 * SAMPLES:
                write_recording(recordings, written)
                written += 1
            point = rng.choice(POINTS) if rng.random() < 0.5 else "none"
            pid = victim.start(point, rng.randrange(1, 30))
            time.sleep(rng.uniform(0.0, 0.6) if rng.random() < 0.8 else rng.uniform(0.0, 0.05))
            kill(pid)
            victim.wait()
            if (run + 1) % 50 == 0:
                say(f"{run + 1} runs, {len(cloud.rows)} rows in the cloud")
        outcome = finish(victim, cloud, folder, runs, written)
    finally:
        victim.stop()
        cloud.stop()
        broker.kill()
    return outcome


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it had reached its named point
        os.kill(pid, signal.SIGKILL)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def taken_samples(cloud: Any) -> int:
    return len(cloud.frames) * FRAME


def finish(victim: Victim, cloud: Any, folder: Path, runs: int, written: int) -> Outcome:
    """Let the service run until all is sent, stop it politely, and check."""
    pid = victim.start()
    deadline = time.monotonic() + 120 + runs * 0.2
    quiet_since, before = time.monotonic(), -1
    while time.monotonic() < deadline:
        time.sleep(0.2)
        finished = sum(d.get("type") == "replay.finished" for d in list(cloud.documents.values()))
        if len(cloud.rows) != before:
            before, quiet_since = len(cloud.rows), time.monotonic()
        if finished >= written and time.monotonic() - quiet_since > 2.5:
            break
    os.kill(pid, signal.SIGTERM)
    victim.wait()
    return check(cloud, folder, runs, written)


def check(cloud: Any, folder: Path, runs: int, written: int) -> Outcome:
    from fieldloop_buffer.connection import open_reader  # noqa: PLC0415
    from fieldloop_buffer.ledger import Books  # noqa: PLC0415

    promised: dict[str, int] = {}
    for line in (folder / "diary").read_text(encoding="ascii").splitlines():
        epoch, durable = line.split()
        promised[epoch] = max(promised.get(epoch, 0), int(durable))
    has = cloud.keys("ingestion")
    lost = sum((epoch, seq) not in has for epoch, n in promised.items() for seq in range(1, n + 1))
    samples: Counter[tuple[int, int]] = Counter()
    for frame in cloud.frames.values():
        values = array("f", frame.samples)
        for at in range(0, len(values), CHANNELS):
            samples[int(values[at]), int(values[at + 1])] += 1
    lost += written * SAMPLES - len(samples)
    duplicated = len(cloud.clashes) + sum(n - 1 for n in samples.values())
    db = open_reader(str(folder / "log" / "log.db"))
    totals = [account.totals() for account in Books(db).accounts.values()]
    db.close()
    unaccounted = 0
    for ledger in totals:
        accounted = ledger.stored + ledger.pending + ledger.withheld + sum(ledger.dropped.values())
        unaccounted += abs(ledger.produced - accounted)
        unaccounted += abs(ledger.stored - sum(epoch == ledger.epoch for epoch, _ in has))
        unaccounted += ledger.pending
    return Outcome(
        runs, sum(promised.values()), lost, duplicated, unaccounted, len(totals), len(samples)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=("durable", "balanced"), default="balanced")
    parser.add_argument("--zygote", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.zygote:
        zygote()
        return 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        outcome = torture(arguments.runs, arguments.seed, Path(folder), arguments.mode)
    say(json.dumps(outcome.__dict__))
    say(outcome.line())
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
