"""The console on a store of ten thousand devices and ten million frames.

Each page's answer over HTTP; with twenty live pages open in a real Chromium while devices report,
the console's share of a core and its memory. Filling the store takes some minutes and 5 GB; with
`--data FOLDER` it is kept there and used again. Chromium, console and the devices' reports share
this machine.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from playwright.sync_api import BrowserContext, Page

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fieldloop_console import passwords
from fieldloop_contract.batch import SequencedFrame
from fieldloop_contract.messages import LedgerTotals, Reported, StreamState
from fieldloop_store import access
from fieldloop_store.engine import Store
from fieldloop_store.ingest import Intake, store_intake
from fieldloop_store.presence import Presence
from fieldloop_store.rows import LogKey, frame_row
from fieldloop_store.views import count_devices
from support.bigfleet import FLEET, ROLLOUT, RUN, STREAM, fill
from support.browser import PASSWORD, ConsoleProcess, chromium, log_in
from support.bundles import frame

DEVICES, FRAMES = 10_000, 10_000_000
REPORTS_S, FRAMES_S = 150, 300
"""What devices send while pages are open: each of ten thousand reports about once a minute."""
ROUNDS, BROWSERS, WATCHED_S = 5, 20, 30.0
ANSWER_MS_MAX, CORES_MAX, MIB_MAX = 1_000.0, 1.0, 1_024.0
_BASE = f"/f/{FLEET}"
PAGES = {
    "overview": _BASE,
    "machines": f"{_BASE}/machines",
    "machines with alarms": f"{_BASE}/machines?alarmed=yes",
    "machine": f"{_BASE}/machines/pump-00020",
    "devices": f"{_BASE}/devices",
    "devices by name": f"{_BASE}/devices?text=0500",
    "devices offline": f"{_BASE}/devices?online=no",
    "device": f"{_BASE}/devices/dev-00020",
    "data": f"{_BASE}/data",
    "books": f"{_BASE}/data?books=faulty",
    "signal, newest minute": f"{_BASE}/data?device=dev-00000&stream={STREAM}",
    "signal, all of it": f"{_BASE}/data?device=dev-00000&stream={STREAM}&t0=1&t1={1 << 62}",
    "training": f"{_BASE}/training",
    "run": f"{_BASE}/training/{RUN}",
    "models": f"{_BASE}/models",
    "model": f"{_BASE}/models/activity/1",
    "rollouts": f"{_BASE}/rollouts",
    "rollout": f"{_BASE}/rollouts/{ROLLOUT}",
    "fleet": f"{_BASE}/fleet",
    "access": "/account",
}
Row = dict[str, Any]


def measure(*, quick: bool = False, data: Path | None = None) -> list[Row]:
    """One row for each figure, with what it is to be at most.

    Args:
        data: folder in which the filled store is kept; None for one that is thrown away.
    """
    with contextlib.ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = _store(folder / "store.sqlite", quick)
        stack.callback(store.close)
        console = ConsoleProcess(str(store.engine.url), folder, FIELDLOOP_REFRESH_S="2")
        stack.callback(console.stop)
        process = psutil.Process(console.process.pid)
        rows = _answers(console, process)
        with _devices(store):
            rows += _open_pages(console, process)
    return rows


def closing(rows: list[Row]) -> Iterator[str]:
    """What was missed, if anything."""
    missed = [f"{r['what']}: {r['seen']:,.1f} {r['unit']}" for r in rows if r["seen"] > r["most"]]
    yield "missed: " + "; ".join(missed) if missed else "nothing was missed"


def _row(
    what: str, unit: str, seen: float, most: float, median: float | None = None,
    cpu_ms: float | None = None,
) -> Row:  # fmt: skip
    """A figure at its worst; where it was taken often its median, and the console's CPU."""
    return {
        "what": what, "unit": unit, "seen": seen, "most": most,
        "median": "" if median is None else median, "CPU ms": "" if cpu_ms is None else cpu_ms,
    }  # fmt: skip


def _store(path: Path, quick: bool) -> Store:
    """The filled store, filled now where it is not there."""
    store = Store.open(f"sqlite:///{path}", checkpoints=True)
    if not count_devices(store, FLEET):
        devices, frames = (DEVICES // 10, FRAMES // 50) if quick else (DEVICES, FRAMES)
        fill(store, devices, frames, now_ns=time.time_ns())
    if access.find_user(store, "admin") is None:
        hashed = passwords.hash_password(PASSWORD)
        access.add_user(store, "admin", "admin", password=hashed, now_ns=time.time_ns())
    return store


def _answers(console: ConsoleProcess, process: psutil.Process) -> list[Row]:
    """The slowest answer of each page in a few rounds, and what the console spent on one."""
    took: dict[str, list[float]] = {name: [] for name in PAGES}
    spent: dict[str, list[float]] = {name: [] for name in PAGES}
    with httpx.Client(base_url=console.url, timeout=60) as client:
        answer = client.post("/api/v1/session", json={"name": "admin", "password": PASSWORD})
        answer.raise_for_status()
        for _ in range(ROUNDS):
            for name, path in PAGES.items():
                begun_s, used_s = time.perf_counter(), sum(process.cpu_times()[:2])
                client.get(path).raise_for_status()
                took[name].append((time.perf_counter() - begun_s) * 1e3)
                spent[name].append((sum(process.cpu_times()[:2]) - used_s) * 1e3)
    return [
        _row(f"page: {name}", "ms", max(took[name]), ANSWER_MS_MAX,
             statistics.median(took[name]), statistics.median(spent[name]))
        for name in PAGES
    ]  # fmt: skip


@contextlib.contextmanager
def _devices(store: Store) -> Iterator[None]:
    """Devices that report and send frames, until the block ends."""
    stop = threading.Event()
    wave = np.sin(np.arange(32, dtype=np.float32) / 5)[:, None]
    sample = frame(wave, time.time_ns(), 0, stream=STREAM, rate_hz=32.0)

    def send() -> None:
        seq = 10_000_000
        while not stop.is_set():
            begun_s, now_ns = time.monotonic(), time.time_ns()
            presence, frames = [], []
            for number in range(REPORTS_S):
                seq += 1
                log = LogKey(FLEET, f"dev-{(seq * 7) % 1_000:05d}", "ingestion", "3" * 32)
                totals = LedgerTotals(
                    epoch=log.epoch, produced=seq, stored=seq, pending=0, withheld=0
                )
                stream = StreamState(stream=STREAM, channels=["x"], units=["g"], rate_hz=32.0)
                reported = Reported(session="s", ledgers=[totals], streams=[stream])
                presence.append(Presence(FLEET, log.device, log.service, reported, now_ns))
                for part in range(FRAMES_S // REPORTS_S):
                    item = SequencedFrame(2 * seq + part, sample)
                    frames.append(frame_row(log, item, now_ns + number))
            intake = Intake(rows={"frames": frames}, presence=presence, received_ns=now_ns)
            store_intake(store, intake)
            stop.wait(max(0.0, 1 - (time.monotonic() - begun_s)))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


def _open_pages(console: ConsoleProcess, process: psutil.Process) -> list[Row]:
    """What the console takes with pages open that bring themselves up to date."""
    before_mib = process.memory_info().rss / 2**20
    with chromium() as browser:
        context = browser.new_context()
        page = context.new_page()
        log_in(page, console)
        paths = list(PAGES.values())
        pages = [_live(context, console, paths[n % len(paths)]) for n in range(BROWSERS)]
        time.sleep(10)
        used_s, begun_s = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(WATCHED_S)
        cores = (sum(process.cpu_times()[:2]) - used_s) / (time.monotonic() - begun_s)
        mib = process.memory_info().rss / 2**20
        alive = sum(p.evaluate("window.socket.connected === true") for p in pages)
    return [
        _row(f"console with {BROWSERS} live pages", "cores", cores, CORES_MAX),
        _row("its memory before", "MiB", before_mib, MIB_MAX),
        _row(f"its memory with {BROWSERS} live pages", "MiB", mib, MIB_MAX),
        _row("pages that lost their socket", "pages", float(BROWSERS - alive), 0.0),
    ]


def _live(context: BrowserContext, console: ConsoleProcess, path: str) -> Page:
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(console.url + path)
    page.wait_for_selector("#main")
    page.wait_for_function("window.did_handshake === true")
    return page
