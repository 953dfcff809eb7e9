"""Linux industrial I/O: a sensor's channels read from sysfs, or from its buffered character device.

    kind: iio
    device: adxl345
    mode: buffer
    channels:
      ax: {element: accel_x, factor: 0.10197}     # m/s2 to g

`poll` reads `in_*_raw` (or `in_*_input`) in each period of the stream, in a thread: good to some
tens of hertz. `buffer` has the kernel fill a buffer and reads whole scans from `/dev/iio:deviceN`
without waiting, in the service's loop: for rates of kilohertz. A value is `(raw + offset) * scale`
in the units of the IIO ABI (m/s2, rad/s, mV), times `factor`.

Sources: Linux kernel, Documentation/ABI/testing/sysfs-bus-iio (names, units, scan element types),
Documentation/driver-api/iio/buffers.rst; layout of a scan as in drivers/iio/industrialio-buffer.c,
iio_compute_scan_bytes: each element is aligned to its own size, a scan to its largest element.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from fieldloop_contract.errors import RetryLater
from fieldloop_contract.frames import CHANNELS_MAX, T_NS_MAX
from fieldloop_contract.ids import Text
from fieldloop_contract.messages import Finite
from fieldloop_contract.profile import StreamProfile
from fieldloop_ingestion.source import Context, Sink
from fieldloop_ingestion.sources.framing import Instant, Piece, frames_of, put, same_channels
from fieldloop_ingestion.sources.iiosysfs import Scan, Sysfs, scan_of
from fieldloop_ingestion.sources.sampling import Device, SampledSource

BYTES_PER_POLL = 64 * 1024
_POLL_S = 0.05
_RATE_TOLERANCE = 0.02
_TRACK = 1 / 16
"""Share of the error by which times without timestamps follow the clock at each read."""
_TRACK_S_MAX = 0.25


class IioChannel(BaseModel):
    """One channel of the stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    element: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_\-]*$", max_length=64)] = Field(
        description="name of the IIO channel without in_ and _raw: accel_x, voltage0"
    )
    factor: Finite = Field(default=1.0, description="from the IIO unit to the channel's unit")


class IioOptions(BaseModel):
    """Options of an IIO source."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: str | int = Field(description="name of the sensor, iio:deviceN, or N")
    channels: dict[Text, IioChannel] = Field(
        min_length=1, max_length=CHANNELS_MAX, description="one for each channel of the stream"
    )
    mode: Literal["poll", "buffer"] = Field(
        default="poll", description="poll reads values from sysfs, buffer whole scans"
    )
    buffer_length: Annotated[int, Field(ge=2, le=1 << 20)] = Field(
        default=4_096, description="scans that the kernel holds for the service (buffer)"
    )
    trigger: str = Field(
        default="", max_length=128, description="trigger to set; empty leaves it (buffer)"
    )
    set_rate: bool = Field(
        default=True, description="write the stream's rate to sampling_frequency (buffer)"
    )
    queue_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1_000, description="rows waiting for the service (poll)"
    )
    sysfs: str = Field(default="/sys/bus/iio/devices", description="where sysfs shows the devices")
    dev: str = Field(default="/dev", description="where the character devices are")


class _Polled:
    """A device read channel by channel."""

    def __init__(self, options: IioOptions, elements: Sequence[IioChannel]) -> None:
        sysfs = Sysfs.find(options.sysfs, options.device)
        self._values = [sysfs.value_file(channel.element) for channel in elements]
        self._factors = [channel.factor for channel in elements]

    def read(self) -> Sequence[float]:
        """One row."""
        return [value() * f for value, f in zip(self._values, self._factors, strict=True)]

    def close(self) -> None:
        """Nothing is held open."""


class PolledIioSource(SampledSource):
    """Mode `poll`."""

    def __init__(
        self, options: IioOptions, context: Context, elements: Sequence[IioChannel]
    ) -> None:
        def open_device() -> Device:
            return _Polled(options, elements)

        super().__init__(context, open_device, queue_max=options.queue_max)


class BufferedIioSource:
    """Mode `buffer`. Owner thread only: reads do not wait, the kernel's buffer is the queue."""

    def __init__(
        self, options: IioOptions, context: Context, elements: Sequence[IioChannel]
    ) -> None:
        self._context = context
        self._rest = b""
        self._pieces: list[Piece] = []
        self._next_ns: int | None = None
        self._fd: int | None = None
        self._closed = False
        self._sysfs = Sysfs.find(options.sysfs, options.device)
        names = [channel.element for channel in elements]
        self._transforms = [
            self._sysfs.transform(channel.element).times(channel.factor) for channel in elements
        ]
        self._sysfs.write("buffer/enable", "0")
        try:
            self._scan = self._set_up(options, names)
            self._fd = _open(os.path.join(options.dev, self._sysfs.id))
        except BaseException:
            self.close()
            raise

    def _set_up(self, options: IioOptions, names: Sequence[str]) -> Scan:
        sysfs = self._sysfs
        if options.trigger:
            sysfs.write("trigger/current_trigger", options.trigger)
        if options.set_rate:
            self._set_rate(names)
        found = sysfs.enable(names)
        if "timestamp" in found:
            sysfs.use_realtime()
        sysfs.write("buffer/length", str(options.buffer_length))
        sysfs.write("buffer/enable", "1")
        return scan_of(found, names)

    def _set_rate(self, names: Sequence[str]) -> None:
        wanted_hz = self._context.stream.rate_hz
        attribute = self._sysfs.rate_attribute(names)
        if attribute is None:
            return
        self._sysfs.write(attribute, f"{wanted_hz:g}")
        got_hz = self._sysfs.number(attribute)
        if abs(got_hz - wanted_hz) > _RATE_TOLERANCE * wanted_hz:
            raise RetryLater(
                f"{self._sysfs.id} samples at {got_hz:g} Hz, the stream at {wanted_hz:g} Hz",
                code="iio.rate",
                hint="sampling_frequency_available lists what the sensor can do",
            )

    def poll(self, sink: Sink, now_s: float) -> float:  # noqa: ARG002 - of the protocol
        """Read at most `BYTES_PER_POLL`, and put them into the sink."""
        if self._fd is None:
            return _POLL_S
        if not self._pieces:
            data = self._read(self._fd)
            full = len(data) >= BYTES_PER_POLL - self._scan.size_bytes
            self._pieces = self._cut(self._rest + data)
        else:
            full = True
        while self._pieces:
            put(sink, self._pieces[0])
            del self._pieces[0]
        return 0.0 if full else _POLL_S

    def _read(self, fd: int) -> bytes:
        size = BYTES_PER_POLL - BYTES_PER_POLL % self._scan.size_bytes
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise RetryLater(f"{self._sysfs.id}: {error}", code="iio.read") from error
        if not data:
            raise RetryLater(f"{self._sysfs.id} gives no more data", code="iio.ended")
        return data

    def _cut(self, data: bytes) -> list[Piece]:
        """Whole scans as frames; a part of one waits for the rest."""
        scan, stream = self._scan, self._context.stream
        rows = len(data) // scan.size_bytes
        self._rest = data[rows * scan.size_bytes :]
        if not rows:
            return []
        columns = [
            transform.apply(scan.column(i, data, rows))
            for i, transform in enumerate(self._transforms)
        ]
        values = array("d", bytes(8 * rows * len(columns)))
        for i, column in enumerate(columns):
            values[i :: len(columns)] = array("d", column)
        now = self._context.clock()
        width = len(columns)
        pieces: list[Piece] = []
        for first, after, t0_ns in self._runs(data, rows, now.utc_ns):
            block = values[first * width : after * width]
            pieces.extend(frames_of(stream, block, Instant.of(now, t0_ns)))
        return pieces

    def _runs(self, data: bytes, rows: int, now_ns: int) -> list[tuple[int, int, int]]:
        """Runs of rows that follow each other: first, after the last, time of the first."""
        period_ns = 1e9 / self._context.stream.rate_hz
        if self._scan.timestamp is None:
            return [(0, rows, self._tracked_ns(rows, period_ns, now_ns))]
        stamps = [min(max(int(t), 0), T_NS_MAX) for t in self._scan.stamps(data, rows)]
        breaks = [
            i for i in range(1, rows) if abs(stamps[i] - stamps[i - 1] - period_ns) > period_ns / 2
        ]
        edges = [0, *breaks, rows]
        return [(a, b, stamps[a]) for a, b in pairwise(edges)]

    def _tracked_ns(self, rows: int, period_ns: float, now_ns: int) -> int:
        """Time of the first row without timestamps: on from the last read, slowly corrected."""
        seen_ns = now_ns - round(rows * period_ns)
        t0_ns = seen_ns
        if self._next_ns is not None and abs(seen_ns - self._next_ns) < _TRACK_S_MAX * 1e9:
            t0_ns = self._next_ns + round((seen_ns - self._next_ns) * _TRACK)
        self._next_ns = t0_ns + round(rows * period_ns)
        return t0_ns

    def close(self) -> None:
        """Stop the buffer."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        if not self._closed:
            self._closed = True
            with contextlib.suppress(RetryLater):  # the device may be gone
                self._sysfs.write("buffer/enable", "0")


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise RetryLater(
            f"{path} may not be read",
            code="iio.permission",
            hint="give the service's user the device by a udev rule, the container by `devices:`",
        ) from error
    except OSError as error:
        raise RetryLater(
            f"{path}: {error.strerror}",
            code="iio.missing",
            hint="the sensor's driver has to be loaded, and the device shown to the container",
        ) from error


class IioSource:
    """See the module: makes the source of the wanted mode."""

    Options: ClassVar[type[BaseModel]] = IioOptions

    def __init__(self, options: IioOptions, context: Context) -> None:
        self.check(options, context.stream)
        elements = [options.channels[channel.name] for channel in context.stream.channels]
        kind = PolledIioSource if options.mode == "poll" else BufferedIioSource
        self._source: PolledIioSource | BufferedIioSource = kind(options, context, elements)

    @classmethod
    def check(cls, options: IioOptions, stream: StreamProfile) -> None:
        """Whether the options fit the stream.

        Raises:
            FixConfiguration: with what does not.
        """
        same_channels(stream, options.channels)

    @property
    def fault(self) -> str | None:
        """Why there are no readings, or None."""
        return self._source.fault if isinstance(self._source, PolledIioSource) else None

    def poll(self, sink: Sink, now_s: float) -> float:
        """See the modes."""
        return self._source.poll(sink, now_s)

    def close(self) -> None:
        """See the modes."""
        self._source.close()
