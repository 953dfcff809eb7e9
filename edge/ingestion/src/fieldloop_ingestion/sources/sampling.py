"""Readings from a device that makes its reader wait: a thread asks, the service's loop takes.

The thread opens the device, reads one row in each period of the stream, and puts it on a bounded
queue with the time at which it was taken. A device that fails is closed and opened again after a
back-off with full jitter; meanwhile `fault` says why. A row that finds the queue full is refused
and counted, and so is a period in which the device was too slow; the loop dead-letters both
counts.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from fieldloop_contract.errors import FixConfiguration, RejectedInput
from fieldloop_ingestion.source import Context, Sink
from fieldloop_ingestion.sources.framing import Instant, Refused, frames_of, put
from fieldloop_runtime.backoff import full_jitter
from fieldloop_runtime.clock import Now

ROWS_PER_POLL = 256
RETRY_BASE_S = 0.5
RETRY_CAP_S = 30.0
JOIN_TIMEOUT_S = 2.0
_IDLE_S_MAX = 0.5
_STABLE_ROWS = 10


class Device(Protocol):
    """Something that is read row by row."""

    def read(self) -> Sequence[float]:
        """One number for each channel of the stream; may wait, but not forever.

        Raises:
            RejectedInput: this row is wrong; the next may be right.
            RetryLater, OSError: the device is gone for now.
        """
        ...

    def close(self) -> None:
        """Let go of it; may be called while another thread reads."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """One row, and when it was taken."""

    now: Now
    values: Sequence[float]


class Sampler:
    """Reads a device at a period, in a thread of its own.

    Attributes:
        fault: why there are no readings, or None. Written by the thread, read by any.
    """

    def __init__(
        self,
        context: Context,
        open_device: Callable[[], Device],
        *,
        period_s: float,
        queue_max: int,
        seed: int | None = None,
    ) -> None:
        self.fault: str | None = None
        self._context = context
        self._open_device = open_device
        self._period_s = period_s
        self._rows: queue.Queue[Row | Refused] = queue.Queue(queue_max)
        self._random = Random(seed)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._overruns = self._missed = 0
        self._died: BaseException | None = None
        self._device: Device | None = None
        self._thread = threading.Thread(target=self._run, name=f"source-{context.id}", daemon=True)
        self._thread.start()

    def take(self) -> Row | Refused | None:
        """The next row, or None.

        Raises:
            whatever ended the thread, once its rows are taken.
        """
        try:
            return self._rows.get_nowait()
        except queue.Empty:
            if self._died is not None:
                raise self._died from None
            return None

    def losses(self) -> tuple[int, int]:
        """Rows refused at a full queue, and periods without a row, since the last call."""
        with self._lock:
            counts = self._overruns, self._missed
            self._overruns = self._missed = 0
        return counts

    def stop(self) -> None:
        """End the thread; it may finish a read that hangs after this returns."""
        self._stop.set()
        device = self._device
        if device is not None:
            with contextlib.suppress(Exception):
                device.close()
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        attempt = 0
        try:
            while not self._stop.is_set():
                rows, reason = self._session()
                if self._stop.is_set():
                    return
                if self.fault is None:
                    self._context.journal.warning("source.fault", reason=reason)
                self.fault = reason
                attempt = 0 if rows >= _STABLE_ROWS else attempt + 1
                self._stop.wait(full_jitter(attempt, RETRY_BASE_S, RETRY_CAP_S, self._random))
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which makes a new source
            self._died = error

    def _session(self) -> tuple[int, str]:
        """Read until the device fails: how many rows it gave, and why it ended."""
        rows = 0
        try:
            self._device = device = self._open_device()
            try:
                due_s = time.monotonic()
                while not self._stop.is_set():
                    self._read(device)
                    rows += 1
                    if self.fault is not None:
                        self._context.journal.info("source.healed")
                        self.fault = None
                    due_s = self._wait(due_s)
            finally:
                self._device = None
                device.close()
        except FixConfiguration:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, it is tried again
            return rows, f"{type(error).__name__}: {error!s:.200}"
        return rows, "stopped"

    def _read(self, device: Device) -> None:
        now = self._context.clock()
        item: Row | Refused
        try:
            item = Row(now, device.read())
        except RejectedInput as error:
            item = Refused(error.code, str(error))
        try:
            self._rows.put_nowait(item)
        except queue.Full:
            with self._lock:
                self._overruns += 1

    def _wait(self, due_s: float) -> float:
        """Wait for the next period; whole periods that have passed are missed, not made up for."""
        due_s += self._period_s
        late = int(max(time.monotonic() - due_s, 0.0) / self._period_s)
        if late:
            due_s += late * self._period_s
            with self._lock:
                self._missed += late
        self._stop.wait(max(due_s - time.monotonic(), 0.0))
        return due_s


class SampledSource:
    """What the sources have in common that read their device through a `Sampler`."""

    def __init__(
        self, context: Context, open_device: Callable[[], Device], *, queue_max: int
    ) -> None:
        self._context = context
        self._waiting: Row | Refused | None = None
        self._period_s = 1.0 / context.stream.rate_hz
        self._sampler: Sampler | None = Sampler(
            context, open_device, period_s=self._period_s, queue_max=queue_max
        )

    @property
    def fault(self) -> str | None:
        """Why there are no readings, or None."""
        return self._sampler.fault if self._sampler is not None else None

    def poll(self, sink: Sink, now_s: float) -> float:  # noqa: ARG002 - of the protocol
        """Put at most `ROWS_PER_POLL` waiting rows into the sink, each a frame of one sample."""
        sampler = self._sampler
        if sampler is None:
            return _IDLE_S_MAX
        for _ in range(ROWS_PER_POLL):
            if self._waiting is None:
                self._waiting = sampler.take()
            if self._waiting is None:
                break
            self._put(sink, self._waiting)
            self._waiting = None
        else:
            return 0.0
        for code, count in zip(("source.overrun", "source.late"), sampler.losses(), strict=True):
            if count:
                sink.refuse(code, f"{count} readings of {self._context.stream.id} were not taken")
        return min(self._period_s, _IDLE_S_MAX)

    def close(self) -> None:
        """End the thread and let go of the device."""
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            sampler.stop()

    def _put(self, sink: Sink, item: Row | Refused) -> None:
        """One row is one piece: where OutOfSpace comes, nothing of it was taken."""
        if isinstance(item, Refused):
            put(sink, item)
            return
        for piece in frames_of(self._context.stream, item.values, Instant.of(item.now)):
            put(sink, piece)
