"""`ModelSource`: what a service asks for orders and bundles. Fed by its owner loop, which has MQTT.

It is handed messages and two callables, knows no broker, and never blocks: verification runs in a
child process that is polled. Owner thread only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from fieldloop_contract.errors import FixConfiguration, MalformedMessage, RetryLater
from fieldloop_contract.frames import Clock
from fieldloop_contract.messages import Capability, ModelRef
from fieldloop_contract.topics import Topic, blob_filter, meta_filter, parse_blob, parse_meta
from fieldloop_runtime.clock import BUILD_FLOOR_NS, SystemClock
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.link import LinkMeter, Use
from fieldloop_update.budget import Budget
from fieldloop_update.bundles import Bundle, Bundles
from fieldloop_update.durable import make_folder
from fieldloop_update.fetch import Fetcher
from fieldloop_update.mirror import TIMESTAMP, Mirror
from fieldloop_update.outcomes import Ordered, Outcome, Ready, Refused
from fieldloop_update.settings import UpdateSettings
from fieldloop_update.state import TrustState
from fieldloop_update.verifier import Order, Verdict, Verifier

DESIRED_BYTES_MAX = 256 * 1024
_TRANSIENT = ("trust.missing", "desired.not-in-targets", "desired.digest", "trust.mix-and-match")
_REPEAT_S = 300.0
_BACKOFF_S_MAX = 60.0


class ModelSource:
    """Orders and bundles for one service of one device.

    Args:
        root: the fleet's TUF root metadata that came with the installation.
        subscribe, unsubscribe: take MQTT filters; remembered by the session while offline.
        capability: what this device can run, asked before files are fetched; None for no gate.
        link: the month's budget of the whole device.
        verifier: how metadata is verified; in a child process by default.

    Raises:
        FixConfiguration: another process works in the same folder.
    """

    def __init__(
        self,
        settings: UpdateSettings,
        *,
        fleet: str,
        device: str,
        service: str,
        root: bytes,
        subscribe: Callable[..., None],
        unsubscribe: Callable[..., None],
        clock: SystemClock,
        journal: Journal | None = None,
        capability: Callable[[], Capability] | None = None,
        link: LinkMeter | None = None,
        verifier: type[Verifier] = Verifier,
    ) -> None:
        folder = Path(settings.dir)
        make_folder(folder)
        self._lock = _lock(folder)
        self._settings = settings
        self._clock = clock
        self._journal = journal or Journal("update")
        self._meta_prefix = meta_filter(fleet)[:-1]
        self._blob_prefix = blob_filter(fleet)[:-1]
        self._desired_topic = str(Topic(fleet, device, service, "desired"))
        self._standing = [meta_filter(fleet), self._desired_topic]
        self._mirror = Mirror(settings.mirror_bytes_max, settings.mirror_files_max)
        self._state = TrustState(folder / "trust.sqlite")
        self._verifier = verifier(
            folder / "trust", self._state, fleet=fleet, device=device, root=root
        )
        self._bundles = Bundles(folder, settings.bundles_max)
        self._fetcher = Fetcher(
            settings,
            fleet,
            self._bundles,
            subscribe,
            unsubscribe,
            budget=Budget(
                self._state,
                settings.budget_bytes_per_day,
                lambda: clock.now().utc_ns,
                *([partial(link.room, Use.RAW)] if link is not None else []),
            ),
            capability=capability,
            link=link,
        )
        self._order: Order | None = self._verifier.order()
        self._queued: list[Outcome] = []
        if self._order is not None:
            self._queued.append(Ordered(self._order.desired, self._order.version))
        self._desired: bytes | None = None
        self._desired_changed = False
        self._online = False
        self._dirty_since_s: float | None = None
        self._changed_s = 0.0
        self._verified_s: float | None = None
        self._not_before_s = 0.0
        self._failures = 0
        self._packings_failed = 0
        self._expiry_told = ""
        self._told: dict[str, tuple[str, float]] = {}
        self._transient: tuple[str, float] | None = None

    def filters(self) -> list[str]:
        """Standing subscriptions: the fleet's metadata and this service's own order."""
        return list(self._standing)

    def message(self, topic: str, payload: bytes) -> bool:
        """Take a message; True if it was for us, good or bad."""
        try:
            if topic == self._desired_topic:
                self._take_desired(payload)
            elif topic.startswith(self._meta_prefix):
                self._mirror.put(parse_meta(topic), payload)
            elif topic.startswith(self._blob_prefix):
                self._fetcher.message(parse_blob(topic), payload)
            else:
                return False
        except MalformedMessage:
            self._mirror.refused += 1
        return True

    def connected(self) -> None:
        """The broker granted the subscriptions; retained messages follow."""
        self._online = True
        self._fetcher.reconnected()

    def disconnected(self) -> None:
        """The connection is gone; nothing is late while it is."""
        self._online = False

    def fetch(self, ref: ModelRef) -> None:
        """Get a bundle that the order in force names; ends in Ready or, with reasons, Refused."""
        if self.bundle(ref) is not None:
            self._queued.append(Ready(ref))
            return
        file = self._order.models.get(ref.digest) if self._order is not None else None
        if file is None or self._recalled(ref):
            text = f"{ref.name} {ref.version} is not in the order in force"
            self._queued.append(Refused("download.not-ordered", text, ref, final=True))
            return
        self._fetcher.start(ref, file)

    def cancel(self, ref: ModelRef) -> None:
        """Stop a download and forget what came of it."""
        self._fetcher.cancel(ref.digest)

    def bundle(self, ref: ModelRef) -> Bundle | None:
        """The bundle if it is complete, verified, on disk and not recalled."""
        return None if self._recalled(ref) else self._bundles.open(ref)

    def keep(self, digests: Collection[str]) -> None:
        """Bundles other than these, and left-overs of other downloads, are deleted."""
        self._bundles.keep(set(digests), self._fetcher.digests)

    def set_metered(self, metered: bool) -> None:
        """Say whether the connection costs by the byte; a download that is too large waits."""
        self._fetcher.metered = metered

    def step(self, now_s: float) -> list[Outcome]:
        """Do what is due. `now_s` is monotonic seconds."""
        outcomes, self._queued = self._queued, []
        outcomes += self._poll_verifier(now_s)
        outcomes += self._verify_if_due(now_s)
        outcomes += self._tell_expiry()
        fault = self._installing_forbidden() if self._fetcher.digests else None
        if fault is not None:
            outcomes += self._tell(fault, now_s)
        else:
            outcomes += self._fetcher.step(now_s, online=self._online)
            for text in self._fetcher.packings_failed:
                self._packings_failed += 1
                self._journal.warning("update.packing_failed", reason=text)
            self._fetcher.packings_failed.clear()
        return outcomes

    def close(self) -> None:
        """End the child and close all files."""
        self._verifier.stop()
        self._fetcher.stop()
        self._state.close()
        os.close(self._lock)

    @property
    def counters(self) -> dict[str, int]:
        """Figures for `reported`."""
        return {
            "update.chunks": self._fetcher.chunks_taken,
            "update.chunks_refused": self._fetcher.chunks_refused,
            "update.bytes_received": self._fetcher.bytes_received,
            "update.packings_failed": self._packings_failed,
            "update.metadata_refused": self._mirror.refused,
        }

    def _take_desired(self, payload: bytes) -> None:
        if not payload or len(payload) > DESIRED_BYTES_MAX:
            self._mirror.refused += 1 if payload else 0
            return
        if payload != self._desired:
            self._desired, self._desired_changed = payload, True

    def _recalled(self, ref: ModelRef) -> bool:
        return self._order is not None and ref.digest in self._order.desired.recalled

    def _clock_fault(self) -> Refused | None:
        now = self._clock.now()
        floor_ns = max(BUILD_FLOOR_NS, self._verifier.seen_ns)
        if now.utc_ns < floor_ns:
            text = "the clock is before the last time this device is known to have seen"
        elif now.clock is Clock.UNKNOWN and not self._settings.trust_clock:
            text = "the clock is not synchronised"
        else:
            return None
        return Refused("clock.unknown", f"{text}: nothing new is installed")

    def _installing_forbidden(self) -> Refused | None:
        """Why no download may go on now; the model that runs is never stopped by this."""
        fault = self._clock_fault()
        if fault is None and self._order is not None:
            valid_until_ns = self._order.valid_until_ns
            if self._clock.now().utc_ns >= valid_until_ns:
                fault = Refused("trust.expired", "the order or its metadata has expired")
        return fault

    def _tell_expiry(self) -> list[Outcome]:
        """Say once that the order in force has expired: a freeze, or a long time offline."""
        order = self._order
        if order is None or order.sha256 == self._expiry_told or self._clock_fault() is not None:
            return []
        if self._clock.now().utc_ns < order.valid_until_ns:
            return []
        self._expiry_told = order.sha256
        text = "the order or its metadata has expired: nothing new is installed, what runs stays"
        self._journal.warning("update.refused", code="trust.expired", reason=text)
        return [Refused("trust.expired", text)]

    def _verify_if_due(self, now_s: float) -> list[Outcome]:
        changed = self._mirror.take_changed() or self._desired_changed
        self._desired_changed = False
        if changed:
            self._changed_s = now_s
            if self._dirty_since_s is None:
                self._dirty_since_s = now_s
        if self._verifier.busy or now_s < self._not_before_s:
            return []
        if self._desired is None or TIMESTAMP not in self._mirror or not self._is_due(now_s):
            return []
        fault = self._clock_fault()
        if fault is not None:
            return self._tell(fault, now_s)
        self._dirty_since_s = None
        self._verified_s = now_s
        self._verifier.start(self._mirror, self._desired, now_s, self._settings.verify_timeout_s)
        return []

    def _is_due(self, now_s: float) -> bool:
        if self._dirty_since_s is None:
            elapsed_s = now_s - self._verified_s if self._verified_s is not None else 0.0
            return elapsed_s >= self._settings.refresh_s
        quiet = now_s - self._changed_s >= self._settings.quiet_s
        return quiet or now_s - self._dirty_since_s >= self._settings.settle_s_max

    def _poll_verifier(self, now_s: float) -> list[Outcome]:
        try:
            verdict = self._verifier.poll(now_s)
        except RetryLater as error:
            self._failed(now_s)
            return self._tell(Refused(error.code, str(error)), now_s)
        if verdict is None:
            return []
        if verdict.refused is not None:
            self._failed(now_s)
            return self._tell(verdict.refused, now_s)
        self._failures, self._transient = 0, None
        self._told.clear()
        return self._accept(verdict)

    def _failed(self, now_s: float) -> None:
        """Verify again after a while, longer each time, whatever is thrown at us."""
        self._failures += 1
        self._not_before_s = now_s + min(_BACKOFF_S_MAX, 0.5 * 2 ** min(self._failures, 10))
        if self._dirty_since_s is None:
            self._dirty_since_s = self._changed_s = now_s

    def _accept(self, verdict: Verdict) -> list[Outcome]:
        order, before = verdict.order, self._order
        if order is None:
            return []
        self._order, self._expiry_told = order, ""
        stopped: list[Outcome] = []
        for digest in self._fetcher.digests:
            if digest not in order.models:
                ref = self._fetcher.ref(digest)
                text = f"order {order.version} names it no more"
                stopped.append(Refused("download.stopped", text, ref, final=True))
                self._fetcher.cancel(digest)
        if before is not None and before.sha256 == order.sha256:
            return stopped
        self._journal.info("order.accepted", version=order.version)
        # The order first: whoever obeys it has let go of the model whose download is stopped.
        return [Ordered(order.desired, order.version), *stopped]

    def _tell(self, refused: Refused, now_s: float) -> list[Outcome]:
        """Report a refusal once, and again after a while if it stays.

        What is missing or does not fit may be still on its way, so that it is named only when it
        stays for some seconds.
        """
        if refused.code in _TRANSIENT:
            if self._transient is None or self._transient[0] != refused.code:
                self._transient = (refused.code, now_s)
            if now_s - self._transient[1] < self._settings.patience_s:
                return []
        told = self._told.get(refused.code)
        if told is not None and told[0] == refused.reason and now_s - told[1] < _REPEAT_S:
            return []
        self._told[refused.code] = (refused.reason, now_s)
        self._journal.warning("update.refused", code=refused.code, reason=refused.reason)
        return [refused]


def _lock(folder: Path) -> int:
    """Keep other processes out of the folder; the lock goes with the process."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise FixConfiguration(
            f"another process works in {folder}",
            code="update.locked",
            hint="stop the service that updates there first",
        ) from error
    return descriptor
