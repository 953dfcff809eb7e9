"""The pulse of each fleet: what is online, how fast rows come, which models serve, what needs one.

One thread (`beat`) reads what services said since it last looked and keeps a small picture of each;
pages and the API read that picture, so that a hundred open pages cost what one costs. Figures are
as old as the last beat; `at_ns` says when that was.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from fieldloop_store.accounts import BooksFigures, books_figures
from fieldloop_store.engine import Store
from fieldloop_store.queries import fleets as heard_fleets
from fieldloop_store.rollouts import RolloutRow, list_rollouts
from fieldloop_store.runs import RunRow, list_runs
from fieldloop_store.views import (
    ServiceChange,
    count_devices,
    count_services,
    events_page,
    services_changed,
)

T = TypeVar("T")
OPEN_ROLLOUTS = ("queued", "running", "awaiting", "paused")
HISTORY_S = 900
RATE_S = 20
_OVERLAP_NS = 5 * 10**9
_DAY_NS = 86_400 * 10**9
TROUBLE = ("alarm.raised", "drift.detected", "model.rolled-back", "model.rejected",
           "log.quarantined", "source.failed")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Need:
    """Something that wants a person: what it is, since when, and where to do something about it.

    Attributes:
        kind: bad, warn or info.
        link: path under the fleet's pages.
    """

    kind: str
    text: str
    link: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class SlotUse:
    """How many devices have a version in a slot, and in which state the slots are."""

    slot: str
    model: str
    version: int
    devices: int
    states: dict[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """A fleet at a glance.

    Attributes:
        rates: seconds before now and rows per second stored, oldest first.
        rows_s: rows per second over the last `RATE_S` seconds; None until there were two looks.
        running: training runs and rollouts under way.
    """

    fleet: str
    at_ns: int
    devices: int
    online: int
    retired: int
    services: int
    rows_s: float | None
    rates: list[tuple[float, float]]
    books: BooksFigures
    models: list[SlotUse]
    running_runs: int
    running_rollouts: int
    needs: list[Need]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a fleet is made of, each with the number of services that said so.

    Attributes:
        versions: package and version.
        boards: processor and TFLite runtime.
        streams: of the devices' profiles: stream, channels, rate in Hz.
    """

    versions: list[tuple[tuple[str, str], int]]
    boards: list[tuple[tuple[str, str], int]]
    streams: list[tuple[tuple[str, tuple[str, ...], float], int]]


@dataclass(slots=True)
class _Service:
    state: str
    stored: int
    slots: list[tuple[str, str, str, int]]  # slot, state, model, version
    versions: tuple[tuple[str, str], ...]
    board: tuple[str, str] | None
    streams: tuple[tuple[str, tuple[str, ...], float], ...]


@dataclass(slots=True)
class _Fleet:
    services: dict[tuple[str, str], _Service] = field(default_factory=dict)
    read_ns: int = 0
    history: deque[tuple[int, int]] = field(default_factory=deque)
    figures: Figures | None = None


class Pulse:
    """Figures by fleet. `beat` in one thread, everything else in any."""

    def __init__(self, store: Store, named: Iterable[str], now_ns: Callable[[], int]) -> None:
        self._store = store
        self._named = list(named)
        self._now_ns = now_ns
        self._fleets: dict[str, _Fleet] = {}
        self._lock = threading.Lock()
        self._looking = threading.Lock()

    def fleets(self) -> list[str]:
        """Fleets that were named or heard, by id."""
        with self._lock:
            return sorted({*self._named, *self._fleets})

    def figures(self, fleet: str) -> Figures:
        """The fleet as of the last beat; looked at now where it was not before, by one caller."""
        known = self._known(fleet)
        if known is None:
            with self._looking:
                known = self._known(fleet) or self._look(fleet)
        return known

    def _known(self, fleet: str) -> Figures | None:
        with self._lock:
            own = self._fleets.get(fleet)
            return own.figures if own is not None else None

    def devices_with(self, fleet: str, model: str, version: int) -> list[str]:
        """Devices in whose slots the version serves, by id."""
        with self._lock:
            known = self._fleets.get(fleet)
            pairs = list(known.services.items()) if known else []
        wanted = (model, version)
        return sorted({
            device for (device, _), s in pairs if any(slot[2:] == wanted for slot in s.slots)
        })  # fmt: skip

    def parts(self, fleet: str) -> Parts:
        """What the fleet is made of, as of the last beat."""
        with self._lock:
            known = self._fleets.get(fleet)
            services = list(known.services.values()) if known else []
        versions = Counter(pair for s in services for pair in s.versions)
        boards = Counter(s.board for s in services if s.board is not None)
        streams = Counter(stream for s in services for stream in s.streams)
        return Parts(sorted(versions.items()), sorted(boards.items()), sorted(streams.items()))

    def beat(self) -> None:
        """Look at every fleet. Raises RetryLater where the database is away."""
        for fleet in {*self._named, *heard_fleets(self._store)}:
            with self._looking:
                self._look(fleet)

    def _look(self, fleet: str) -> Figures:
        now_ns = self._now_ns()
        with self._lock:
            own = self._fleets.get(fleet) or _Fleet()
            since_ns = max(0, own.read_ns - _OVERLAP_NS)
        changes = services_changed(self._store, fleet, since_ns=since_ns, with_status=True)
        if since_ns and count_services(self._store, fleet) != len(
            own.services.keys() | {(c.device, c.service) for c in changes}
        ):
            # Something is gone, such as an erased device: begin anew.
            own = _Fleet()
            changes = services_changed(self._store, fleet, since_ns=0, with_status=True)
        with self._lock:
            for change in changes:
                own.services[change.device, change.service] = _picture(change)
            own.read_ns = now_ns
            _remember(own.history, now_ns, sum(s.stored for s in own.services.values()))
            services = dict(own.services)
            history = list(own.history)
        figures = self._count(fleet, services, history, now_ns)
        with self._lock:
            own.figures = figures
            if figures.devices or figures.services or fleet in self._named:
                self._fleets[fleet] = own
        return figures

    def _count(
        self,
        fleet: str,
        services: dict[tuple[str, str], _Service],
        history: list[tuple[int, int]],
        now_ns: int,
    ) -> Figures:
        states = count_devices(self._store, fleet)
        books = books_figures(self._store, fleet)
        uses: dict[tuple[str, str, int], Counter[str]] = {}
        for service in services.values():
            for slot, state, model, version in service.slots:
                uses.setdefault((slot, model, version), Counter())[state] += 1
        runs = list_runs(self._store, fleet, limit=50)
        rollouts = list_rollouts(self._store, fleet, limit=50)
        return Figures(
            fleet=fleet,
            at_ns=now_ns,
            devices=states.get("active", 0),
            online=len({device for (device, _), s in services.items() if s.state == "online"}),
            retired=sum(n for name, n in states.items() if name != "active"),
            services=len(services),
            rows_s=_rate(history, now_ns),
            rates=_rates(history, now_ns),
            books=books,
            models=[
                SlotUse(slot, model, version, sum(by_state.values()), dict(by_state))
                for (slot, model, version), by_state in sorted(uses.items())
            ],
            running_runs=sum(r.state in ("running", "queued") for r in runs),
            running_rollouts=sum(r.state in OPEN_ROLLOUTS for r in rollouts),
            needs=self._needs(fleet, books, runs, rollouts, now_ns),
        )

    def _needs(
        self,
        fleet: str,
        books: BooksFigures,
        runs: list[RunRow],
        rollouts: list[RolloutRow],
        now_ns: int,
    ) -> list[Need]:
        needs = []
        if books.faulty:
            text = f"{books.faulty} logs whose books do not balance"
            needs.append(Need("bad", text, "/data?books=faulty", now_ns))
        for row in rollouts:
            if row.state in ("halted", "awaiting", "paused"):
                words = str(row.document.get("verdict", row.state))
                text = f"Rollout of {row.model} v{row.version} to {row.slot}: {words}"
                needs.append(Need("bad", text, f"/rollouts/{row.id}", row.updated_ns))
                break
        for run in runs:
            if run.state in ("failed", "refused", "rejected"):
                words = str((run.verdict or {}).get("words", run.state))
                text = f"Training of {run.model}: {words}"
                needs.append(Need("warn", text, f"/training/{run.id}", run.updated_ns))
            if run.state in ("failed", "refused", "rejected", "approved"):
                break
        since_ns = now_ns - _DAY_NS
        seen: Counter[tuple[str, str]] = Counter()
        newest: dict[tuple[str, str], int] = {}
        for event in events_page(self._store, fleet, types=TROUBLE, since_ns=since_ns, limit=200):
            key = (event.log.device, event.type)
            seen[key] += 1
            newest.setdefault(key, event.received_ns)
        for (device, kind), times in list(seen.items())[:20]:
            often = f", {times} times" if times > 1 else ""
            text = f"{device}: {_WORDS.get(kind, kind)} in the last day{often}"
            needs.append(Need("warn", text, f"/devices/{device}", newest[device, kind]))
        return needs


_WORDS = {
    "alarm.raised": "an alarm was raised",
    "drift.detected": "drift was detected",
    "model.rolled-back": "a model was taken back",
    "model.rejected": "a model was rejected",
    "log.quarantined": "a damaged log was set aside",
    "source.failed": "a sensor failed",
}


def _picture(change: ServiceChange) -> _Service:
    reported = change.reported or {}
    slots = []
    for slot in reported.get("slots", ()):
        active = slot.get("active") or {}
        if active:
            slots.append((slot["slot"], slot["state"], active["name"], active["version"]))
    stored = sum(ledger.get("stored", 0) for ledger in reported.get("ledgers", ()))
    capability = change.status.get("capability") or {}
    board = None
    if capability.get("machine"):
        board = (str(capability["machine"]), str(capability.get("runtime") or "–"))
    return _Service(
        change.state, stored, slots,
        _shared(tuple((n, str(v)) for n, v in (change.status.get("versions") or {}).items())),
        _shared(board),
        _shared(tuple(
            (str(s["stream"]), tuple(map(str, s["channels"])), float(s["rate_hz"]))
            for s in reported.get("streams", ())
        )),
    )  # fmt: skip


@lru_cache(maxsize=10_000)
def _shared(value: T) -> T:
    """The same object for equal values: ten thousand devices of one kind say the same."""
    return value


def _remember(history: deque[tuple[int, int]], now_ns: int, stored: int) -> None:
    history.append((now_ns, stored))
    while history and history[0][0] < now_ns - HISTORY_S * 10**9:
        history.popleft()


def _rate(history: list[tuple[int, int]], now_ns: int) -> float | None:
    recent = [pair for pair in history if pair[0] >= now_ns - RATE_S * 10**9]
    if len(recent) < 2 or recent[-1][0] == recent[0][0]:
        return None
    return max(0.0, (recent[-1][1] - recent[0][1]) * 1e9 / (recent[-1][0] - recent[0][0]))


def _rates(history: list[tuple[int, int]], now_ns: int) -> list[tuple[float, float]]:
    """Rows per second between looks that lie at least ten seconds apart."""
    found: list[tuple[float, float]] = []
    last: tuple[int, int] | None = None
    for at_ns, stored in history:
        if last is None:
            last = (at_ns, stored)
        elif at_ns - last[0] >= 10 * 10**9:
            rate = max(0.0, (stored - last[1]) * 1e9 / (at_ns - last[0]))
            found.append(((at_ns - now_ns) / 1e9, rate))
            last = (at_ns, stored)
    return found
