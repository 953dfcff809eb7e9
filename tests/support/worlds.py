"""Worlds for the sources' suite: a recording, a machine, a broker in memory, a tree of sysfs."""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from fieldloop_ingestion.source import Source
from fieldloop_ingestion.sources.iio import IioOptions, IioSource
from fieldloop_ingestion.sources.machine import MachineOptions, MachineSource
from fieldloop_ingestion.sources.machinery import DIRECTIONS, Simulation
from fieldloop_ingestion.sources.mqtt import MqttOptions, MqttSource
from fieldloop_ingestion.sources.replay import ReplayOptions, ReplaySource
from fieldloop_runtime.mqtt import Connected, Event, Received
from support.sources import FakeClock, Store, context_of, stream_of

Row = tuple[float, ...]


class ReplayWorld:
    endless = False

    def __init__(self, folder: Path) -> None:
        self.stream = stream_of("ax", "ay", rate_hz=100)
        self._rows = [(float(i), i / 2) for i in range(400)]
        lines = ["ax,ay", *(f"{a},{b}" for a, b in self._rows)]
        self._path = folder / "recording.csv"
        self._path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._clock = FakeClock()

    def open(self, store: Store) -> Source:
        options = ReplayOptions(path=str(self._path), frame_samples=4)
        return ReplaySource(options, context_of(self.stream, self._clock.now, store.recall))

    def step(self) -> float:
        self._clock.s += 0.05
        return self._clock.s

    def rows(self) -> list[Row]:
        return self._rows

    def killed(self) -> None:
        pass


class MachineWorld:
    endless = True

    def __init__(self) -> None:
        self.stream = stream_of("x", "y", "z", rate_hz=400)
        self.options = MachineOptions.model_validate(
            {
                "frame_samples": 16,
                "seed": 5,
                "machine": {
                    "shaft_hz": 10,
                    "resonance_hz": 150,
                    "defects": [{"fault": "outer"}, {"fault": "inner"}],
                    "schedule": [{"for_s": 1}, {"for_s": 1, "speed": 0.5}],
                    "ramp_s": 0.2,
                },
            }
        )
        self._clock = FakeClock()

    def open(self, store: Store) -> Source:
        context = context_of(self.stream, self._clock.now, store.recall)
        return MachineSource(self.options, context)

    def step(self) -> float:
        self._clock.s += 0.05
        return self._clock.s

    def rows(self) -> list[Row]:
        simulation = Simulation(
            self.options.machine, rate_hz=400, columns=DIRECTIONS, seed=self.options.seed
        )
        state, found = simulation.begin(), []
        for _ in range(150):
            state, values = simulation.block(state, self.options.frame_samples)
            found += [tuple(values[i : i + 3]) for i in range(0, len(values), 3)]
        return found

    def killed(self) -> None:
        pass


class MemoryBroker:
    """A broker with one persistent session: sends again what was not acknowledged.

    Acknowledgements of a killed client arrive up to some point only, as on a real connection.
    """

    def __init__(self, window: int = 20, seed: int = 0) -> None:
        self.window = window
        self.queued: deque[tuple[str, bytes, bool]] = deque()
        self.in_flight: dict[int, tuple[str, bytes, bool]] = {}
        self.tried: set[int] = set()
        self.unsubscribed: list[str] = []
        self.link = 0
        self._random = Random(seed)
        self._next_id = 1
        self._sent: set[int] = set()
        self._acks: list[int] = []
        self._events: deque[Event] = deque()

    def publish(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        self.queued.append((topic, payload, retained))

    def connect(self, *_: Any) -> MemoryBroker:
        self.killed()
        self.link += 1
        self._events.append(Connected())
        return self

    def killed(self) -> None:
        """The connection broke: of the acknowledgements under way a part arrived."""
        arrived = self._random.randint(0, len(self._acks))
        for packet_id in self._acks[:arrived]:
            self.in_flight.pop(packet_id, None)
            self.tried.discard(packet_id)
        self._acks.clear()
        self._events.clear()
        self._sent.clear()

    # what a source sees of it

    alive = True

    def start(self) -> None:
        pass

    def stop(self, *, timeout_s: float) -> None:
        for packet_id in self._acks:
            self.in_flight.pop(packet_id, None)
        self._acks.clear()

    def poll(self) -> Event | None:
        if self._events:
            return self._events.popleft()
        for packet_id, message in self.in_flight.items():
            if packet_id not in self._sent:
                return self._send(packet_id, message)
        if self.queued and len(self.in_flight) < self.window:
            packet_id, self._next_id = self._next_id, self._next_id % 65_535 + 1
            self.in_flight[packet_id] = self.queued.popleft()
            return self._send(packet_id, self.in_flight[packet_id])
        return None

    def _send(self, packet_id: int, message: tuple[str, bytes, bool]) -> Received:
        self._sent.add(packet_id)
        repeated = packet_id in self.tried
        self.tried.add(packet_id)
        topic, payload, retained = message
        return Received(topic, payload, retained, self.link << 16 | packet_id, packet_id, repeated)

    def acknowledge(self, token: int) -> bool:
        if token >> 16 != self.link:
            return False
        packet_id = token & 0xFFFF
        assert packet_id in self._sent, "acknowledged what was not sent"
        self._acks.append(packet_id)
        if len(self._acks) > 3:  # the older ones have arrived
            done = self._acks.pop(0)
            self.in_flight.pop(done, None)
            self.tried.discard(done)
        return True

    def unsubscribe(self, *filters: str) -> None:
        self.unsubscribed += filters


class MqttWorld:
    endless = False

    def __init__(self, seed: int = 0) -> None:
        self.stream = stream_of("a", "b")
        self.broker = MemoryBroker(seed=seed)
        self._clock = FakeClock()
        self._rows: list[Row] = []
        self.options = MqttOptions.model_validate(
            {"topics": ["t/+"], "json": {"fields": {"a": "/a", "b": "/b"}, "items": "/items"}}
        )

    def open(self, store: Store) -> Source:
        def connect(_settings: object, _id: str, _topics: Iterable[str]) -> MemoryBroker:
            return self.broker.connect()

        context = context_of(self.stream, self._clock.now, store.recall)
        return MqttSource(self.options, context, connect)

    def step(self) -> float:
        """A message of two readings; many of them are alike, as those of a quiet sensor are."""
        self._clock.s += 0.05
        value = float(len(self._rows) // 12)
        self._rows += [(value, 1.0), (value, 2.0)]
        items = [{"a": value, "b": 1}, {"a": value, "b": 2}]
        self.broker.publish("t/1", json.dumps({"items": items}).encode())
        return self._clock.s

    def rows(self) -> list[Row]:
        return self._rows

    def killed(self) -> None:
        self.broker.killed()


def make_sensor(root: Path, *, number: int = 0, name: str = "adxl345") -> Path:
    """The sysfs folder of a made accelerometer with a buffer: two axes and a timestamp."""
    folder = root / f"iio:device{number}"
    (folder / "scan_elements").mkdir(parents=True)
    (folder / "buffer").mkdir()
    files = {
        "name": name,
        "in_accel_x_raw": "100",
        "in_accel_y_raw": "-50",
        "in_accel_scale": "0.5",
        "in_accel_x_offset": "4",
        "sampling_frequency": "100",
        "current_timestamp_clock": "monotonic",
        "buffer/enable": "0",
        "buffer/length": "2",
        "scan_elements/in_accel_x_en": "0",
        "scan_elements/in_accel_x_index": "0",
        "scan_elements/in_accel_x_type": "le:s13/16>>3",
        "scan_elements/in_accel_y_en": "0",
        "scan_elements/in_accel_y_index": "1",
        "scan_elements/in_accel_y_type": "be:s16/16>>0",
        "scan_elements/in_accel_z_en": "1",
        "scan_elements/in_accel_z_index": "2",
        "scan_elements/in_accel_z_type": "le:s16/16>>0",
        "scan_elements/in_timestamp_en": "0",
        "scan_elements/in_timestamp_index": "3",
        "scan_elements/in_timestamp_type": "le:s64/64>>0",
    }
    for path, text in files.items():
        (folder / path).write_text(text + "\n", encoding="ascii")
    return folder


def scan(x: int, y: int, t_ns: int) -> bytes:
    """One scan as the driver writes it: x 13 bits shifted by 3, y big-endian, padding, time."""
    return struct.pack("<h", x << 3) + struct.pack(">h", y) + bytes(4) + struct.pack("<q", t_ns)


def iio_options(root: Path, **changes: Any) -> IioOptions:
    document = {
        "device": "adxl345",
        "sysfs": str(root / "sys"),
        "dev": str(root / "dev"),
        "channels": {"x": {"element": "accel_x"}, "y": {"element": "accel_y", "factor": 2}},
        **changes,
    }
    return IioOptions.model_validate(document)


class IioBufferWorld:
    endless = False

    def __init__(self, folder: Path) -> None:
        self.stream = stream_of("x", "y", rate_hz=100)
        self.root = folder
        make_sensor(folder / "sys")
        (folder / "dev").mkdir()
        self.fifo = folder / "dev" / "iio:device0"
        os.mkfifo(self.fifo)
        self._rest = b""
        self._writer = os.open(self.fifo, os.O_RDWR)  # keeps the FIFO open, as a device is
        self._clock = FakeClock()
        self._rows: list[Row] = []

    def open(self, store: Store) -> Source:
        context = context_of(self.stream, self._clock.now, store.recall)
        return IioSource(iio_options(self.root, mode="buffer"), context)

    def step(self) -> float:
        """Five scans, the last of them cut at an odd place: its rest comes the next time."""
        data = self._rest
        for _ in range(5):
            i = len(self._rows)
            data += scan(i, -i, 1_790_000_000 * 10**9 + i * 10_000_000)
            self._rows.append(((i + 4) * 0.5, -i * 0.5 * 2))
        os.write(self._writer, data[:-7])
        self._rest = data[-7:]
        self._clock.s += 0.05
        return self._clock.s

    def rows(self) -> list[Row]:
        return self._rows

    def killed(self) -> None:
        pass

    def end(self) -> None:
        os.close(self._writer)
