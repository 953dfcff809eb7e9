"""Downloads: a bounded window of chunk topics over all bundles on their way.

Each chunk is asked for by subscribing to its topic, checked against its digest, written in place,
and its topic left; large files may come over HTTPS instead, chunk by chunk too. What does not come
is reported. What takes too long, is too slow, or would cost more than the budget of the day or of
the month is given up for a while, with a reason in words, and goes on where it was. Owner thread
only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from fieldloop_contract.errors import Isolate, OutOfSpace
from fieldloop_contract.manifest import CHUNK_BYTES_MAX, Carriage, sha256
from fieldloop_contract.messages import Capability, ModelRef
from fieldloop_contract.topics import blob_topic
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.link import LinkMeter, wire_bytes
from fieldloop_update.budget import Budget
from fieldloop_update.bundles import Bundles
from fieldloop_update.download import Download
from fieldloop_update.https import RUN_BYTES_MAX, Ended, HttpsRoad, Piece, Run
from fieldloop_update.outcomes import Missing, Outcome, Ready, Refused
from fieldloop_update.parts import Part
from fieldloop_update.settings import UpdateSettings

STEP_S_MAX = 10.0
"""A longer pause between two steps is a sleep of the machine, and no fault of a download's."""
HTTPS_FAILURES_MAX = 3
"""Then what the broker also has comes from there."""
LEAVE_CHUNKS = 6
"""Chunk topics that were served and are left together."""
_MISSING_DOUBLINGS_MAX = 6
_MISSING_CHUNKS_MAX = 64
_PACKINGS_TOLD_MAX = 100


@dataclass(slots=True)
class _Ask:
    """A chunk topic we are subscribed to."""

    length: int
    since_s: float | None = None
    reports: int = 0
    damaged: bool = False


class Fetcher:
    """All downloads of one service. Owner thread only."""

    def __init__(
        self,
        settings: UpdateSettings,
        fleet: str,
        bundles: Bundles,
        subscribe: Callable[..., None],
        unsubscribe: Callable[..., None],
        *,
        budget: Budget | None = None,
        capability: Callable[[], Capability] | None = None,
        link: LinkMeter | None = None,
        seed: int | None = None,
    ) -> None:
        self.chunks_taken = 0
        self.chunks_refused = 0
        self.bytes_received = 0
        self.metered = settings.metered
        self.packings_failed: list[str] = []
        self._settings = settings
        self._fleet = fleet
        self._bundles = bundles
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._budget = budget
        self._link = link
        self._capability = capability
        self._random = Random(seed)
        self._downloads: dict[str, Download] = {}
        self._asked: dict[str, _Ask] = {}
        self._left: dict[str, None] = {}
        self._outcomes: list[Outcome] = []
        self._last_s: float | None = None
        self._https: HttpsRoad | None = None
        if settings.https_url:
            self._https = HttpsRoad(
                settings.https_url, settings.https_ca_file, settings.https_timeout_s
            )

    @property
    def digests(self) -> list[str]:
        """Manifest digests of the downloads."""
        return list(self._downloads)

    def ref(self, digest: str) -> ModelRef | None:
        """Which model a download is of."""
        download = self._downloads.get(digest)
        return download.ref if download is not None else None

    def start(self, ref: ModelRef, carriage: Carriage) -> None:
        """Begin or go on; a download that runs is left alone."""
        if ref.digest in self._downloads:
            return
        if len(self._downloads) >= self._settings.downloads_max:
            text = f"{len(self._downloads)} downloads run already"
            self._outcomes.append(Refused("download.count", text, ref, final=True))
            return
        folder = self._bundles.partial(ref.digest)
        try:
            self._downloads[ref.digest] = Download(
                ref,
                carriage,
                folder,
                self._bundles,
                bytes_max=self._settings.bundle_bytes_max,
                capability=self._capability,
            )
        except OSError as error:
            self._outcomes.append(Refused("bundle.storage", str(error), ref, final=True))

    def cancel(self, digest: str) -> None:
        """Stop a download and forget what came of it."""
        download = self._downloads.pop(digest, None)
        if download is not None:
            download.close()
            self._bundles.discard_partial(digest)
            self._leave_unwanted()

    def stop(self) -> None:
        """Close files; what came stays for the next start."""
        for download in self._downloads.values():
            download.close()
        self._downloads.clear()
        if self._https is not None:
            self._https.stop()

    def reconnected(self) -> None:
        """Chunks asked for are waited for anew."""
        for ask in self._asked.values():
            ask.since_s = None

    def message(self, digest: str, payload: bytes) -> None:
        """Take a chunk from the wire. Anything but the chunk itself is counted and dropped."""
        self._count(len(payload))
        ask = self._asked.get(digest)
        if ask is None or not payload:
            return
        if len(payload) > CHUNK_BYTES_MAX or sha256(payload) != digest:
            self.chunks_refused += 1
            self._complain(digest, ask, "the bytes under this digest are others")
            return
        if not self._take(digest, payload):
            self.chunks_refused += 1
            self._complain(digest, ask, "the chunk has another length than its file says")
        self._leave_unwanted()

    def step(self, now_s: float, *, online: bool) -> list[Outcome]:
        """Advance all downloads, fill the window, report what does not come."""
        elapsed_s = now_s - self._last_s if self._last_s is not None else 0.0
        elapsed_s = min(max(0.0, elapsed_s), STEP_S_MAX)
        self._last_s = now_s
        self._hear_https(now_s)
        for download in list(self._downloads.values()):
            self._advance(download, now_s, elapsed_s if online or self._https else 0.0)
        self._fill_window(now_s)
        self._ask_https(now_s)
        if online:
            self._report_missing(now_s)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _count(self, size: int) -> None:
        self.bytes_received += size
        if self._budget is not None:
            self._budget.spend(size)

    def _take(self, digest: str, payload: bytes) -> bool:
        """Write a chunk wherever it is wanted; False where no file has room for its length."""
        took = True
        for download in list(self._downloads.values()):
            if not download.wants(digest):
                continue
            try:
                took = download.put(digest, payload)
                self.chunks_taken += took
            except OSError as error:
                refused = Refused("space.exhausted", str(error), download.ref)
                self._pause(download, self._last_s or 0.0, refused)
        return took

    def _advance(self, download: Download, now_s: float, elapsed_s: float) -> None:
        if download.paused_for == "download.metered" and not self.metered:
            download.paused_until_s = now_s
        if now_s < download.paused_until_s:
            return
        download.spent_s += elapsed_s
        download.rate_since_s += elapsed_s
        try:
            done = download.advance(self._settings.disk_reserve_bytes)
        except Isolate as error:
            self._give_up(download, Refused(error.code, str(error), download.ref, final=True))
            return
        except (OutOfSpace, OSError) as error:
            refused = Refused("space.exhausted", str(error), download.ref)
            self._pause(download, now_s, refused)
            return
        finally:
            self.packings_failed += download.packings_failed
            del self.packings_failed[_PACKINGS_TOLD_MAX:]
        if done:
            self._finish(download)
        else:
            self._check_limits(download, now_s)

    def _check_limits(self, download: Download, now_s: float) -> None:
        """Give up for now what takes too long, is too slow, or costs too much."""
        settings, ref = self._settings, download.ref
        had, known = download.progress
        if download.spent_s > settings.deadline_s:
            text = f"{had} of {known} chunks after {download.spent_s:.0f} s"
            self._pause(download, now_s, Refused("download.deadline", text, ref))
        elif download.rate_since_s >= settings.rate_window_s:
            rate = download.rate_bytes / download.rate_since_s
            download.rate_since_s, download.rate_bytes = 0.0, 0
            if rate < settings.rate_min_bytes_s:
                text = f"{rate:.0f} bytes/s, and {settings.rate_min_bytes_s} is the least"
                self._pause(download, now_s, Refused("download.slow", text, ref))
        elif self.metered and download.bytes_missing > settings.metered_bytes_max:
            text = f"{download.bytes_missing} bytes to come over a metered connection"
            refused = Refused("download.metered", text, ref)
            self._pause(download, now_s, refused, at_least_s=settings.retry_cap_s)
        elif not download.retained and self._https is None:
            text = "its chunks are not on the broker, and no HTTPS server is set"
            self._give_up(download, Refused("download.no-road", text, ref, final=True))

    def _finish(self, download: Download) -> None:
        download.close(finished=True)
        del self._downloads[download.ref.digest]
        self._leave_unwanted()
        try:
            self._bundles.promote(download.ref.digest)
        except Isolate as error:
            self._outcomes.append(Refused(error.code, str(error), download.ref, final=True))
            return
        self._outcomes.append(Ready(download.ref))

    def _pause(
        self, download: Download, now_s: float, refused: Refused, at_least_s: float = 0.0
    ) -> None:
        """Give up for now; go on later where it was."""
        settings = self._settings
        base_s, cap_s = settings.retry_base_s, settings.retry_cap_s
        delay_s = base_s + full_jitter(download.attempt, base_s, cap_s - base_s, self._random)
        delay_s = max(delay_s, at_least_s)
        download.attempt += 1
        download.spent_s = download.rate_since_s = 0.0
        download.rate_bytes = 0
        download.paused_until_s = now_s + delay_s
        download.paused_for = refused.code
        text = f"{refused.reason}; again in {delay_s:.0f} s"
        self._outcomes.append(Refused(refused.code, text, download.ref))
        self._leave_unwanted(now_s)

    def _give_up(self, download: Download, refused: Refused) -> None:
        self._outcomes.append(refused)
        self.cancel(download.ref.digest)

    def _complain(self, digest: str, ask: _Ask, what: str) -> None:
        """Once for each chunk: name it, and ask the cloud to publish it again."""
        if ask.damaged:
            return
        ask.damaged = True
        ref = next((d.ref for d in self._downloads.values() if d.wants(digest)), None)
        self._outcomes.append(Refused("chunk.damaged", f"chunk {digest}: {what}", ref))
        self._outcomes.append(Missing((digest,)))

    def _active(self, now_s: float) -> list[Download]:
        return [d for d in self._downloads.values() if now_s >= d.paused_until_s]

    def _fill_window(self, now_s: float) -> None:
        room = self._settings.window_chunks - len(self._asked)
        if self._asked and room * 2 < self._settings.window_chunks:
            return  # several are asked for with one packet, while the others are on their way
        left = self._budget_left()
        wanted: dict[str, _Ask] = {}
        for download in self._active(now_s):
            for digest in download.missing(self._by_https):
                if len(wanted) >= room:
                    break
                if digest in self._asked or digest in wanted:
                    continue
                length = download.length_of(digest)
                if length > left:
                    self._over_budget(download, now_s, idle=not self._asked and not wanted)
                    break
                left -= length
                wanted[digest] = _Ask(length)
        if wanted:
            self._asked.update(wanted)
            for digest in wanted:
                self._left.pop(digest, None)
            self._subscribe(*(blob_topic(self._fleet, d) for d in wanted))

    def _budget_left(self) -> int:
        """Bytes that may be asked for yet, besides what is asked for already."""
        if self._budget is None:
            return 1 << 62
        return self._budget.room - sum(ask.length for ask in self._asked.values())

    def _over_budget(self, download: Download, now_s: float, *, idle: bool) -> None:
        if not idle or self._budget is None:
            return  # what is asked for already is within the budget, and may come
        text = f"the budget is used up ({self._budget.spent} bytes today)"
        refused = Refused("download.budget", text, download.ref)
        self._pause(download, now_s, refused, at_least_s=self._budget.renewed_in_s)

    def _leave_unwanted(self, now_s: float | None = None) -> None:
        at_s = self._last_s if now_s is None else now_s
        active = self._active(at_s if at_s is not None else 0.0)
        for digest in [d for d in self._asked if not any(x.wants(d) for x in active)]:
            del self._asked[digest]
            self._left[digest] = None
        # A topic whose chunk has come costs nothing: several are left with one packet.
        if self._left and (len(self._left) >= LEAVE_CHUNKS or not self._asked):
            self._unsubscribe(*(blob_topic(self._fleet, d) for d in self._left))
            self._left.clear()

    def _report_missing(self, now_s: float) -> None:
        late: list[str] = []
        for digest, ask in self._asked.items():
            if ask.since_s is None:
                ask.since_s = now_s
            patience_s = self._settings.missing_after_s * 2 ** min(
                ask.reports, _MISSING_DOUBLINGS_MAX
            )
            if now_s - ask.since_s >= patience_s and len(late) < _MISSING_CHUNKS_MAX:
                ask.since_s, ask.damaged = now_s, False
                ask.reports += 1
                late.append(digest)
        if late:
            self._outcomes.append(Missing(tuple(late)))

    # The other road.

    def _by_https(self, download: Download, part: Part) -> bool:
        if self._https is None:
            return False
        if not download.retained:
            return True
        large = part.ref.length >= self._settings.https_from_bytes
        return large and download.https_failures < HTTPS_FAILURES_MAX

    def _ask_https(self, now_s: float) -> None:
        road = self._https
        if road is None or road.busy is not None:
            return
        for download in self._active(now_s):
            for part in download.parts:
                if part.complete or not self._by_https(download, part):
                    continue
                offset, chunks = part.missing_run(min(RUN_BYTES_MAX, max(1, self._budget_left())))
                lengths = tuple((digest, part.length_of_digest(digest)) for digest in chunks)
                if sum(n for _, n in lengths) > self._budget_left():
                    self._over_budget(download, now_s, idle=not self._asked)
                    return
                road.ask(Run(download.ref.digest, part.ref.sha256, offset, lengths))
                return

    def _hear_https(self, now_s: float) -> None:
        if self._https is None:
            return
        for item in self._https.take():
            if isinstance(item, Piece):
                self._count(len(item.payload))
                if self._link is not None:  # what comes by MQTT its session counts
                    self._link.spend(wire_bytes(len(item.payload)))
                if sha256(item.payload) == item.digest:
                    self._take(item.digest, item.payload)
                else:
                    self.chunks_refused += 1
                    self._https_failed(item.bundle, f"chunk {item.digest} is other bytes", now_s)
            elif isinstance(item, Ended) and item.fault:
                self._https_failed(item.run.bundle, item.fault, now_s)

    def _https_failed(self, bundle: str, fault: str, now_s: float) -> None:
        download = self._downloads.get(bundle)
        if download is None or now_s < download.paused_until_s:
            return
        download.https_failures += 1
        self._pause(download, now_s, Refused("download.https", fault, download.ref))
