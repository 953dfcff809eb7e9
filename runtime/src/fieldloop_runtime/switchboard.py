"""Very many MQTT sessions on one thread, each over a line that may be bad.

For processes that stand for many devices, such as the fleet simulator: a `Session` has two threads,
which a thousand of them in one process could not have. A `SwitchedSession` connects with the same
options, callbacks, back-off and bounds, and is driven by `Switchboard.turn`. Only the making of a
connection, which blocks, is done on a few other threads.

A `Line` says what the network does to what crosses it: whether it is up, and how long something
takes. Over TCP a lost packet is not a lost message but a late one, so loss is a delay here; a
partition passes nothing either way and is noticed by the keep-alive, as in the field.

One thread owns a switchboard and all its sessions.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import select
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import paho.mqtt.client as paho

from fieldloop_contract.errors import RetryLater
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.mqtt import (
    STABLE_AFTER_S,
    SUBSCRIBE_TIMEOUT_S,
    Disconnected,
    Event,
    Link,
    Session,
    Will,
)
from fieldloop_runtime.settings import MqttSettings

CONNECTING_MAX = 8
"""Connections made at a time: each blocks a thread for a TCP and perhaps a TLS handshake."""
_CARE_S = 2.0
_READS_PER_TURN = 50
_RETRY_S = 0.25
_UNANSWERED = 1.5
"""MQTT 3.1.1, 3.1.2.10: a broker waits one and a half keep-alive periods."""


class Line(Protocol):
    """What the network between a client and its broker does. Times are monotonic seconds."""

    def up(self, now_s: float) -> bool:
        """Whether anything passes."""

    def delay_s(self, size: int, now_s: float) -> float:
        """How long `size` bytes take towards the broker."""

    def delay_back_s(self, now_s: float) -> float:
        """How long what has arrived here should have taken longer."""


class Switchboard:
    """Drives its sessions. Close it to end all of them."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._by_fd: dict[int, SwitchedSession] = {}
        self._sessions: dict[SwitchedSession, None] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._dialled: queue.SimpleQueue[tuple[SwitchedSession, Link, paho.Client | None]] = (
            queue.SimpleQueue()
        )
        self._pool = ThreadPoolExecutor(CONNECTING_MAX, thread_name_prefix="dial")
        self._cared_s = float("-inf")

    def session(
        self,
        settings: MqttSettings,
        client_id: str,
        *,
        line: Line | None = None,
        wake: Callable[[], None] = lambda: None,
        **arguments: Any,
    ) -> SwitchedSession:
        """A session of this board.

        Args:
            line: what it goes over; None for a good one.
            wake: called whenever there is an event to poll.
            arguments: as of `Session`.
        """
        return SwitchedSession(self, settings, client_id, line, wake, **arguments)

    @property
    def connected(self) -> int:
        """Sessions whose subscriptions the broker has granted."""
        return sum(session.connected for session in self._sessions)

    def turn(self, timeout_s: float) -> None:
        """Move what can be moved; wait up to `timeout_s` for something to do."""
        now_s = time.monotonic()
        self._take_dialled()
        self._run_timers(now_s)
        if now_s - self._cared_s >= _CARE_S:
            self._cared_s = now_s
            for session in list(self._sessions):
                session.care(now_s)
        wait_s = timeout_s if not self._timers else min(timeout_s, self._timers[0][0] - now_s)
        for fd, mask in self._poll.poll(max(0.0, wait_s)):
            found = self._by_fd.get(fd)
            if found is not None:
                found.move(mask, time.monotonic())

    def close(self) -> None:
        """End all sessions and threads."""
        for session in list(self._sessions):
            session.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._poll.close()

    # ---- for its sessions ------------------------------------------------------------------------

    def later(self, at_s: float, action: Callable[[], None]) -> None:
        """Call `action` in a turn after `at_s`."""
        heapq.heappush(self._timers, (at_s, next(self._order), action))

    def join(self, session: SwitchedSession) -> None:
        """Take up a session."""
        self._sessions[session] = None

    def leave(self, session: SwitchedSession) -> None:
        """Let go of a session."""
        self._sessions.pop(session, None)

    def dial(self, session: SwitchedSession, link: Link) -> None:
        """Make a connection on another thread."""
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._pool.submit(self._dial, session, link)

    def _dial(self, session: SwitchedSession, link: Link) -> None:
        try:
            client = session.dial(link)
        except Exception as error:  # noqa: BLE001 - the attempt failed, whatever it was
            link.reason, client = f"{type(error).__name__}: {error}", None
        self._dialled.put((session, link, client))

    def _take_dialled(self) -> None:
        while True:
            try:
                session, link, client = self._dialled.get_nowait()
            except queue.Empty:
                return
            session.dialled(link, client)

    def _run_timers(self, now_s: float) -> None:
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2]()

    def watch(self, fd: int, session: SwitchedSession, mask: int) -> None:
        """Be told of a socket; one that was closed and given out again is taken up anew."""
        if self._by_fd.get(fd) is session:
            self._poll.modify(fd, mask)
            return
        with contextlib.suppress(OSError):
            self._poll.unregister(fd)
        self._poll.register(fd, mask)
        self._by_fd[fd] = session

    def unwatch(self, fd: int, session: SwitchedSession) -> None:
        """Be told no more."""
        if self._by_fd.get(fd) is session:
            del self._by_fd[fd]
            with contextlib.suppress(OSError):
                self._poll.unregister(fd)


class SwitchedSession(Session):
    """A session that a switchboard drives. Made by `Switchboard.session`; one thread."""

    __hash__ = object.__hash__

    def __init__(
        self,
        board: Switchboard,
        settings: MqttSettings,
        client_id: str,
        line: Line | None,
        wake: Callable[[], None],
        **arguments: Any,
    ) -> None:
        super().__init__(settings, client_id, **arguments)
        self._board = board
        self._line = line
        self._wake = wake
        self._link: Link | None = None
        self._fd = -1
        self._mask = 0
        self._attempts = 0
        self._muted = False
        self._held = 0
        self._down_since_s: float | None = None

    def _up(self, now_s: float) -> bool:
        return self._line is None or self._line.up(now_s)

    @property
    def alive(self) -> bool:
        """Whether it was started and not stopped."""
        return not self._stop.is_set()

    def start(self) -> None:
        """Begin connecting, in the board's next turns."""
        self._board.join(self)
        self._begin()

    def stop(self, goodbye: Will | None = None, timeout_s: float = 0.0) -> None:  # noqa: ARG002
        """Disconnect for good, after handing over `goodbye` retained, if connected."""
        if goodbye is not None and self._ready and self._up(time.monotonic()):
            with contextlib.suppress(RetryLater):
                super().publish(goodbye.topic, goodbye.payload, retain=True)
        self._stop.set()
        self._finish("stopped")
        self._board.leave(self)

    def sever(self) -> None:
        """End without a goodbye, as a device without power does; the broker publishes the will."""
        self._stop.set()
        client, self._client = self._client, None
        sock: Any = client.socket() if client is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._finish("severed")
        self._board.leave(self)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """As `Session.publish`, over the line: what is on its way when it ends is lost."""
        now_s = time.monotonic()
        line = self._line
        delay_s = line.delay_s(len(payload) + len(topic), now_s) if line is not None else 0.0
        if delay_s <= 0 and self._up(now_s):
            token = super().publish(topic, payload, retain=retain)
            self._look_after()
            return token
        if self._client is None or not self._ready:
            raise RetryLater("not connected to the broker", code="mqtt.offline")
        if self._held >= self._settings.inflight_max * 4:
            raise RetryLater("too many messages in flight", code="mqtt.window")
        self._held += 1
        send = partial(super().publish, topic, payload, retain=retain)
        self._board.later(now_s + delay_s, partial(self._arrive, self._links, send, True))
        return 0

    def subscribe(self, *filters: str) -> None:
        """As `Session.subscribe`, over the line."""
        self._or_held(partial(super().subscribe, *filters))

    def unsubscribe(self, *filters: str) -> None:
        """As `Session.unsubscribe`, over the line."""
        self._or_held(partial(super().unsubscribe, *filters))

    def _or_held(self, action: Callable[[], Any]) -> None:
        if self._client is None or self._up(time.monotonic()):
            action()
            self._look_after()
        else:
            self._board.later(
                time.monotonic() + _RETRY_S, partial(self._arrive, self._links, action, False)
            )

    def _arrive(self, number: int, action: Callable[[], Any], counted: bool) -> None:
        """What was held reaches the broker, unless its connection is another one's by now."""
        now_s = time.monotonic()
        same = number == self._links and not self._stop.is_set()
        if same and self._client is not None and not self._up(now_s):
            self._board.later(now_s + _RETRY_S, partial(self._arrive, number, action, counted))
            return
        self._held -= counted
        if not counted or (same and self._client is not None):
            with contextlib.suppress(RetryLater):
                action()
            self._look_after()

    # ---- for the board ---------------------------------------------------------------------------

    def dial(self, link: Link) -> paho.Client | None:
        """Make the connection; on another thread."""
        return self._dial(link)

    def dialled(self, link: Link, client: paho.Client | None) -> None:
        """A connection was made, or could not be."""
        sock = client.socket() if client is not None else None
        if link is not self._link or self._stop.is_set() or client is None or sock is None:
            if client is not None:
                client.disconnect()
            if link is self._link:
                self._finish(link.reason)
            return
        self._client = client
        self._fd = sock.fileno()
        self._muted = False
        self._mask = 0
        self._look_after()

    def move(self, mask: int, now_s: float) -> None:
        """The socket can be read or written."""
        client = self._client
        if client is None:
            return
        if not self._up(now_s):
            self._mute(now_s + _RETRY_S)
            return
        if mask & select.EPOLLOUT:
            client.loop_write()
        if mask & ~select.EPOLLOUT:
            delay_s = self._line.delay_back_s(now_s) if self._line is not None else 0.0
            if delay_s > 0:
                self._mute(now_s + delay_s)
            else:
                self._read(client)
        self._look_after()

    def care(self, now_s: float) -> None:
        """Keep-alive and time-outs; every few seconds."""
        link, client = self._link, self._client
        if link is None or client is None:
            return
        if not self._up(now_s):
            self._down_since_s = self._down_since_s or now_s
            if now_s - self._down_since_s > self._settings.keepalive_s * _UNANSWERED:
                link.end("no answer to a ping")
        else:
            self._down_since_s = None
            client.loop_misc()
            limit_s = self._settings.connect_timeout_s + SUBSCRIBE_TIMEOUT_S
            if not link.granted.is_set() and now_s - link.begun_s > limit_s:
                link.end("the broker did not answer in time")
        self._look_after()

    def _begin(self) -> None:
        if self._stop.is_set():
            return
        self._links += 1
        self._link = link = Link(begun_s=time.monotonic(), number=self._links)
        if self._up(link.begun_s):
            self._board.dial(self, link)
        else:
            self._finish("the line is down")

    def _mute(self, until_s: float) -> None:
        if not self._muted:
            self._muted = True
            self._board.watch(self._fd, self, 0)
            self._mask = 0
            self._board.later(until_s, partial(self._hear, self._links))

    def _hear(self, number: int) -> None:
        """What was on its way is here."""
        client, now_s = self._client, time.monotonic()
        if client is None or number != self._links:
            return
        self._muted = False
        if not self._up(now_s):
            self._mute(now_s + _RETRY_S)
            return
        self._read(client)
        self._look_after()

    def _read(self, client: paho.Client) -> None:
        """Packets that have come; TLS may hold some that the socket does not show."""
        for _ in range(_READS_PER_TURN):
            client.loop_read()
            sock = client.socket()
            pending = getattr(sock, "pending", None)
            if sock is None or pending is None or not pending():
                return

    def _look_after(self) -> None:
        """After anything was done: is the connection gone, does it want to write."""
        client, link = self._client, self._link
        if client is None or link is None:
            return
        if link.gone.is_set() or client.socket() is None:
            self._finish(link.reason)
            return
        if self._muted:
            return
        mask = select.EPOLLIN | (select.EPOLLOUT if client.want_write() else 0)
        if mask != self._mask:
            self._mask = mask
            self._board.watch(self._fd, self, mask)

    def _finish(self, reason: str) -> None:
        """The connection is gone, or never was; try again after a while."""
        link, client = self._link, self._client
        self._link = self._client = None
        self._ready = False
        if self._fd >= 0:
            self._board.unwatch(self._fd, self)
            self._fd = -1
        if client is not None:
            client.disconnect()
        if link is None:
            return
        link.end(reason)
        self._put(Disconnected(reason))
        if self._stop.is_set():
            return
        now_s = time.monotonic()
        stable = link.granted.is_set() and now_s - link.begun_s > STABLE_AFTER_S
        self._attempts = 0 if stable else self._attempts + 1
        base_s, cap_s = self._settings.reconnect_base_s, self._settings.reconnect_cap_s
        self._board.later(now_s + full_jitter(self._attempts, base_s, cap_s, self._random),
                          self._begin)  # fmt: skip

    def _put(self, event: Event) -> bool:
        """Never waits: whoever would make room is this very thread."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self.dropped += 1
            return False
        self._wake()
        return True
