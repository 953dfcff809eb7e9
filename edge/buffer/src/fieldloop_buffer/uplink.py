"""The uplink: drains a log to the cloud, on a thread, an MQTT connection and a database connection
of its own.

Promises. A row is sent until the cloud's `ack` names it, across broker, network and process deaths;
what the broker says about a publication counts for nothing. Only durable rows are sent, withheld
rows never. Memory is bounded by the window of batches in flight, whatever the backlog; of a batch
in flight only its ranges of seq are kept, and its rows are read again if it must be sent again.
Live data goes before backlog, which a token bucket slows down and which is marked `historical`.
Samples go below both: where no backlog is left to send, in small batches, one in flight at a time.

It never writes to the log: the cloud's answers wait in a bounded list for the log's owner
(`take_orders`), and one that is lost there costs a repetition.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random

from fieldloop_buffer.batching import Encoded, encode
from fieldloop_buffer.connection import FAILURES, is_damaged
from fieldloop_buffer.entry import BULK, CHANNEL_OF, Kind, split_id
from fieldloop_buffer.following import View
from fieldloop_buffer.orders import Damaged, Order, Unreadable
from fieldloop_buffer.outbox import Letter, Outbox, Waiting, spans_of
from fieldloop_buffer.pacing import Flight, Lanes, TokenBucket, Verdict, Window
from fieldloop_buffer.ranges import count, halves, runs
from fieldloop_buffer.settings import UplinkSettings
from fieldloop_contract.errors import FieldloopError, RetryLater
from fieldloop_contract.messages import Ack, Want, decode
from fieldloop_contract.topics import CHANNELS, Topic
from fieldloop_runtime.journal import Journal, Throttle
from fieldloop_runtime.link import LinkMeter, Use
from fieldloop_runtime.mqtt import Connected, Disconnected, Event, Received, Session
from fieldloop_runtime.settings import MqttSettings

ORDERS_MAX = 1_000
_POLL_S = 0.05
_IDLE_POLL_S = 0.2
_EVENTS_PER_TURN = 200
_BITES_PER_TURN = 16
_SWEEP_S = 5.0
_ORDERS_QUIET_S = 1.0
_FIGURES_S = 2.0
ALL_KINDS = tuple(Kind)
SMALL_KINDS = tuple(kind for kind in Kind if kind not in BULK)
_SAMPLES_SHARE = 4
"""A batch of samples has a quarter of another's bytes: what a live row may find before it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A snapshot for metrics."""

    connected: bool = False
    in_flight: int = 0
    pending_rows: int = 0
    batches_sent: int = 0
    batches_resent: int = 0
    rows_acknowledged: int = 0
    answers_refused: int = 0


class Uplink:
    """Sends one log to the cloud.

    `start`, `stop`, `take_orders` and the properties may be called from any thread.

    Args:
        mqtt: the cloud's broker.
        log_path: the log's file; it may come later.
        seed: of the jitter; None for a random one.
        meter: the month's budget of the link; what it does not allow stays pending.
        connect: makes the connection; a process with very many uplinks has them on one thread.
    """

    def __init__(
        self,
        settings: UplinkSettings,
        *,
        mqtt: MqttSettings,
        fleet: str,
        device: str,
        service: str,
        log_path: str,
        journal: Journal | None = None,
        seed: int | None = None,
        meter: LinkMeter | None = None,
        connect: Callable[..., Session] = Session,
    ) -> None:
        self._settings = settings
        self._journal = journal or Journal("uplink")
        self._noise = Throttle(60)
        self._topics = {name: str(Topic(fleet, device, service, name)) for name in CHANNELS}
        self._ack_topic, self._want_topic = self._topics["ack"], self._topics["want"]
        self._session = connect(
            mqtt,
            f"{fleet}/{device}/{service}/up",
            subscriptions=(self._ack_topic, self._want_topic),
            seed=seed,
            meter=meter,
        )
        self._meter = meter
        self._kinds: Collection[Kind] = ALL_KINDS
        self._telemetry = _telemetry(ALL_KINDS)
        random = Random(seed)
        self._window = Window(
            settings.inflight_max, settings.resend_after_s, settings.resend_cap_s, random
        )
        self._bucket = TokenBucket(settings.backlog_bytes_s)
        self._lanes = Lanes()
        self._outbox = Outbox(log_path)
        self._generation = 0
        self._live_since_s: float | None = None
        self._sweep_at_s = 0.0
        self._figures_at_s = 0.0
        self._orders: list[Order] = []
        self._taken_s = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent = self._resent = self._acknowledged = self._refused = 0
        self._pending_rows = 0

    # ---- for other threads -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin connecting and sending; returns at once."""
        self.connect()
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 3.0) -> None:
        """End; what is not acknowledged stays in the log."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        else:
            self._outbox.file.close()
        self._session.stop(timeout_s=timeout_s)

    def connect(self) -> None:
        """Begin connecting, for an owner that calls `step` itself instead of `start`."""
        self._session.start()

    def take_orders(self) -> list[Order]:
        """What the log's owner shall do, in the order in which it came."""
        with self._lock:
            orders, self._orders = self._orders, []
            if orders:
                self._taken_s = time.monotonic()
        return orders

    @property
    def alive(self) -> bool:
        """Whether both threads live; if not, the process should end."""
        return self._thread is not None and self._thread.is_alive() and self._session.alive

    @property
    def connected(self) -> bool:
        """Whether the broker has granted the subscriptions."""
        return self._session.connected

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload and topic handed to the broker."""
        return self._session.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes of payload and topic that came."""
        return self._session.bytes_received

    @property
    def figures(self) -> Figures:
        """A snapshot for metrics."""
        return Figures(
            connected=self._session.connected,
            in_flight=len(self._window.flights),
            pending_rows=self._pending_rows,
            batches_sent=self._sent,
            batches_resent=self._resent,
            rows_acknowledged=self._acknowledged,
            answers_refused=self._refused,
        )

    # ---- the uplink's own thread -----------------------------------------------------------------

    def _run(self) -> None:
        idle = False
        while not self._stop.is_set():
            idle = not self.step(time.monotonic, _IDLE_POLL_S if idle else _POLL_S)
        self._outbox.file.close()

    def step(self, now_s: Callable[[], float], wait_s: float = 0.0) -> bool:
        """One turn: the cloud's answers, then what is due to be sent. One thread only.

        Args:
            now_s: reads the monotonic clock, in seconds.
            wait_s: how long to wait for an answer.

        Returns:
            Whether something was sent.
        """
        event = self._session.poll(wait_s)
        for _ in range(_EVENTS_PER_TURN):
            if event is None:
                break
            self._take_event(event)
            event = self._session.poll()
        try:
            view = self._outbox.view()
            if view is not None and self._session.connected:
                return self._turn(view, now_s())
        except FAILURES as error:
            self._trouble(error)
        return False

    def _turn(self, view: View, now_s: float) -> bool:
        """One round of sending; True if something was sent."""
        if self._outbox.file.generation != self._generation:
            self._generation = self._outbox.file.generation
            self._window.clear()
            self._lanes.restart(view.durable)
        self._keep_budget()
        sent = self._resend(view, now_s)
        for _ in range(_BITES_PER_TURN):
            if not self._window.open or self._stop.is_set():
                break
            if not (
                self._send_live(view, now_s)
                or self._send_backlog(view, now_s)
                or self._send_samples(view, now_s)
            ):
                break
            sent = True
        self._sweep(now_s)
        if now_s >= self._figures_at_s:
            self._figures_at_s = now_s + _FIGURES_S
            self._pending_rows = self._outbox.pending_rows()
        return sent

    def _keep_budget(self) -> None:
        """Which kinds the month's budget still allows; what was held is swept up afterwards."""
        if self._meter is None:
            return
        before = self._kinds
        if self._meter.room(Use.RAW):
            self._kinds = ALL_KINDS
        else:
            self._kinds = SMALL_KINDS if self._meter.room(Use.ROWS) else ()
        self._telemetry = _telemetry(self._kinds)
        if len(self._kinds) < len(before):
            self._journal.warning("uplink.budget", sends=[kind.value for kind in self._kinds])
            channels = {CHANNEL_OF[kind] for kind in self._kinds}
            for flight in [f for f in self._window.flights if f.channel not in channels]:
                self._window.land(flight)
        elif len(self._kinds) > len(before):
            self._journal.info("uplink.budget", sends=[kind.value for kind in self._kinds])
            self._lanes.sweep()

    def _send_live(self, view: View, now_s: float) -> bool:
        settings = self._settings
        waiting = self._outbox.waiting(
            self._lanes.live,
            view.durable,
            settings.batch_rows,
            settings.batch_bytes,
            self._telemetry,
        )
        if not waiting:
            self._live_since_s = None
            self._lanes.live = view.durable  # samples, and what is held, are not looked at again
            return False
        if self._live_since_s is None:
            self._live_since_s = now_s
        total = sum(row.payload_bytes for row in waiting)
        full = len(waiting) >= settings.batch_rows or total >= settings.batch_bytes // 2
        if not full and now_s - self._live_since_s < settings.batch_age_s:
            return False
        self._live_since_s = None
        self._lanes.live = waiting[-1].key
        self._send(self._outbox.fetch(runs(row.key for row in waiting)), view, now_s, False)
        return True

    def _send_backlog(self, view: View, now_s: float) -> bool:
        if self._lanes.backlog_done or not self._window.open_for_backlog:
            return False
        if not self._bucket.ready(now_s):
            return False
        settings = self._settings
        waiting = self._outbox.waiting(
            self._lanes.backlog,
            self._lanes.floor,
            settings.batch_rows,
            settings.batch_bytes,
            self._telemetry,
        )
        if not waiting:
            self._lanes.backlog = self._lanes.floor
            return False
        self._lanes.backlog = waiting[-1].key
        self._send_slowly(waiting, view, now_s, True)
        return True

    def _send_samples(self, view: View, now_s: float) -> bool:
        """A small batch of samples where nothing else waits but live rows for their batch to fill.

        While there is a backlog the lane does not look: it would read through all of it.
        """
        lanes, settings = self._lanes, self._settings
        if Kind.SAMPLE not in self._kinds or not lanes.backlog_done:
            return False
        historical = lanes.samples < lanes.floor
        upto = lanes.floor if historical else view.durable
        if lanes.samples >= upto or not self._window.open_for_samples:
            return False
        if not self._bucket.ready(now_s):
            return False
        bytes_max = settings.batch_bytes // _SAMPLES_SHARE
        waiting = self._outbox.waiting(
            lanes.samples, upto, settings.batch_rows, bytes_max, (Kind.SAMPLE,)
        )
        lanes.samples = waiting[-1].key if waiting else upto
        self._send_slowly(waiting, view, now_s, historical)
        return bool(waiting)

    def _send_slowly(
        self, waiting: list[Waiting], view: View, now_s: float, historical: bool
    ) -> None:
        """Send, at the cost of the bucket, what is not in flight yet."""
        keys = [row.key for row in waiting if not self._in_flight(row.key)]
        self._bucket.take(sum(row.payload_bytes for row in waiting))
        self._send(self._outbox.fetch(runs(keys)), view, now_s, historical)

    def _in_flight(self, key: int) -> bool:
        return self._window.holds(*split_id(key))

    def _send(self, letters: list[Letter], view: View, now_s: float, historical: bool) -> None:
        groups: dict[int, tuple[int, list[Letter]]] = {}
        for letter in letters:
            suspect = self._window.suspicion(letter.epoch_no, letter.seq)
            ignored = suspect.ignored if suspect else 0
            groups.setdefault(id(suspect), (ignored, []))[1].append(letter)
        for ignored, group in groups.values():
            self._send_group(group, view, now_s, historical, ignored)

    def _send_group(
        self, letters: list[Letter], view: View, now_s: float, historical: bool, ignored: int
    ) -> None:
        encoding = encode(letters, view.epochs, historical=historical)
        for batch in encoding.batches:
            flight = Flight(
                batch.epoch_no,
                view.epochs[batch.epoch_no],
                batch.channel,
                historical,
                batch.seqs,
                due_s=now_s,
                ignored=ignored,
            )
            self._launch(flight, batch, now_s)
        self._report_damaged(encoding.damaged, view)

    def _launch(self, flight: Flight, batch: Encoded, now_s: float) -> None:
        self._window.launch(flight, now_s)
        try:
            self._session.publish(self._topics[batch.channel], batch.payload)
            self._sent += 1
        except RetryLater:
            flight.attempts -= 1
            flight.due_s = now_s + 1.0

    def _resend(self, view: View, now_s: float) -> bool:
        """Send batches again that the cloud was silent about: what of them is still pending."""
        due = self._window.due(now_s)
        for flight in due[:_BITES_PER_TURN]:
            verdict = self._window.judge(flight)
            if verdict is not Verdict.RESEND:
                self._window.land(flight)
                self._isolate(flight, view, now_s)
                continue
            letters = self._outbox.fetch(spans_of(flight.epoch_no, flight.seqs))
            encoding = encode(letters, view.epochs, historical=flight.historical)
            self._report_damaged(encoding.damaged, view)
            if len(encoding.batches) != 1:
                # Nothing left, or rows that do not fit together: those are swept up later.
                self._window.land(flight)
                continue
            batch = encoding.batches[0]
            flight.seqs = batch.seqs
            self._resent += 1
            self._launch(flight, batch, now_s)
        return bool(due)

    def _isolate(self, flight: Flight, view: View, now_s: float) -> None:
        """Send the halves of a batch that the cloud ignores; a row that is left over is given up.

        It ends in the books, as a drop with its cause, and as a dead letter.
        """
        if count(flight.seqs) == 1:
            self._journal.error("uplink.unreadable_row", epoch=flight.epoch, seq=flight.seqs[0][0])
            self._order(Unreadable(flight.epoch, (flight.seqs[0][0],)))
            return
        for seqs in halves(flight.seqs):
            letters = self._outbox.fetch(spans_of(flight.epoch_no, seqs))
            self._resent += 1
            self._send_group(letters, view, now_s, flight.historical, flight.ignored - 1)

    def _sweep(self, now_s: float) -> None:
        """Find pending rows behind the lanes: wanted again, or lost track of."""
        with self._lock:
            settled = not self._orders and now_s - self._taken_s > _ORDERS_QUIET_S
        held = len(self._kinds) < len(ALL_KINDS)  # what is found would be what may not be sent
        if held or now_s < self._sweep_at_s or not self._lanes.backlog_done or not settled:
            return
        self._sweep_at_s = now_s + _SWEEP_S
        lanes = self._lanes
        for upto, kinds in ((lanes.live, self._telemetry), (lanes.samples, (Kind.SAMPLE,))):
            first = self._outbox.waiting(0, upto, 1, 1, kinds)
            if first and not self._in_flight(first[0].key):
                lanes.sweep()
                return

    def _take_event(self, event: Event) -> None:
        if isinstance(event, Connected):
            if event.refused:
                self._journal.error("uplink.refused", filters=event.refused)
            self._window.clear()
            self._generation = -1  # all that is pending is sent again
            self._journal.info("uplink.connected")
        elif isinstance(event, Disconnected):
            self._live_since_s = None
        elif isinstance(event, Received):
            self._take_answer(event)

    def _take_answer(self, event: Received) -> None:
        try:
            if event.topic == self._ack_topic:
                ack = decode(Ack, event.payload)
                self._acknowledged += self._window.acknowledge(
                    ack.epoch, ack.ranges, time.monotonic()
                )
                self._order(ack)
            elif event.topic == self._want_topic:
                self._order(decode(Want, event.payload))
                self._sweep_at_s = time.monotonic() + _ORDERS_QUIET_S
        except FieldloopError as error:
            self._refused += 1
            if self._noise.allow():
                self._journal.warning("uplink.answer_refused", code=error.code, error=str(error))

    def _order(self, order: Order) -> None:
        with self._lock:
            if len(self._orders) < ORDERS_MAX:
                self._orders.append(order)

    def _report_damaged(self, damaged: dict[int, list[int]], view: View) -> None:
        for no, seqs in damaged.items():
            self._journal.error("uplink.damaged_rows", rows=len(seqs))
            self._order(Damaged(view.epochs[no], tuple(seqs)))

    def _trouble(self, error: Exception) -> None:
        """The file could not be read: if it is damaged, its owner has to replace it."""
        if self._noise.allow():
            self._journal.warning("uplink.log_unreadable", error=str(error))
        self._outbox.file.close()
        if is_damaged(error):
            with self._lock:
                told = any(isinstance(o, Damaged) and not o.seqs for o in self._orders)
            if not told:
                self._order(Damaged(""))
        self._stop.wait(_IDLE_POLL_S)


def _telemetry(kinds: Collection[Kind]) -> Collection[Kind]:
    """Kinds that go in the lanes of live data and backlog: all but samples."""
    return tuple(kind for kind in kinds if kind is not Kind.SAMPLE)
