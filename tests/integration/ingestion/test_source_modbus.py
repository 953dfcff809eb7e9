"""The Modbus source on a real server of pymodbus, which is stopped, started and misused."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from pydantic import ValidationError
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from fieldloop_contract.errors import FixConfiguration
from fieldloop_ingestion.source import Source
from fieldloop_ingestion.sources.modbus import ModbusOptions, ModbusSource, Register, spans
from support.broker import free_port
from support.sources import SUITE, Store, context_of, poll, real_now, run_until, stream_of

FLOAT = list(struct.unpack(">HH", struct.pack(">f", -12.5)))
HOLDING = [*struct.unpack(">H", struct.pack(">h", -7)), 65_535, 0x0001, 0x0002, *FLOAT]
MAP = [
    {"channel": "a", "address": 0, "type": "int16", "scale": 0.5, "offset": 1},
    {"channel": "b", "address": 1, "type": "uint16"},
    {"channel": "c", "address": 2, "type": "int32"},
    {"channel": "d", "address": 2, "type": "uint32", "word_order": "little"},
    {"channel": "e", "address": 4, "type": "float32"},
    {"channel": "f", "address": 30, "type": "uint16"},
]
ROW = (-2.5, 65_535.0, 65_538.0, 131_073.0, -12.5, 99.0)


class Server:
    """One device on a TCP port of its own: holding registers 0 to 5, and 30."""

    def __init__(self) -> None:
        self.port = free_port()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: ModbusTcpServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Server:
        up = threading.Event()

        async def serve() -> None:
            values = [
                SimData(0, values=HOLDING, datatype=DataType.REGISTERS),
                SimData(30, values=[99], datatype=DataType.REGISTERS),
            ]
            self._loop = asyncio.get_running_loop()
            self._server = ModbusTcpServer(
                SimDevice(1, simdata=values), address=("127.0.0.1", self.port)
            )
            await self._server.serve_forever(background=True)
            up.set()
            await self._server.serving

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        assert up.wait(10)
        return self

    def stop(self) -> None:
        assert self._loop is not None
        assert self._server is not None
        assert self._thread is not None
        asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(10)
        self._thread.join(10)


class ModbusWorld:
    endless = True

    def __init__(self, server: Server, **changes: object) -> None:
        self.stream = stream_of("a", "b", "c", "d", "e", "f", rate_hz=100)
        self.server = server
        self.changes = changes

    def open(self, store: Store) -> Source:
        document = {
            "tcp": {"host": "127.0.0.1", "port": self.server.port},
            "registers": MAP,
            "timeout_s": 0.3,
            "retries": 0,
            **self.changes,
        }
        options = ModbusOptions.model_validate(document)
        return ModbusSource(options, context_of(self.stream, real_now, store.recall))

    def step(self) -> float:
        time.sleep(0.005)
        return time.monotonic()

    def rows(self) -> None:
        return None

    def killed(self) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server().start()
    yield made
    made.stop()


@pytest.mark.parametrize("check", SUITE, ids=lambda check: check.__name__.removeprefix("check_"))
def test_modbus(server: Server, check: Callable[[ModbusWorld], None]):
    check(ModbusWorld(server))


def wait_for_fault(world: ModbusWorld, source: Source, store: Store) -> str:
    deadline_s = time.monotonic() + 10
    while source.fault is None and time.monotonic() < deadline_s:
        poll(source, store, world.step())
    return source.fault or ""


def test_every_type_and_word_order_is_read(server: Server):
    world = ModbusWorld(server)
    store = Store(world.stream)
    source = world.open(store)
    run_until(world, source, store, 5)
    source.close()
    assert set(store.rows()) == {ROW}


def test_a_device_that_went_away_is_found_again(server: Server):
    world = ModbusWorld(server)
    store = Store(world.stream)
    source = world.open(store)
    run_until(world, source, store, 5)
    server.stop()
    assert str(server.port) in wait_for_fault(world, source, store)
    server.start()
    run_until(world, source, store, len(store.rows()) + 5)
    assert source.fault is None
    source.close()


def test_a_register_that_does_not_exist_is_told(server: Server):
    registers = [*MAP[:5], {"channel": "f", "address": 500}]
    world = ModbusWorld(server, registers=registers)
    store = Store(world.stream)
    source = world.open(store)
    fault = wait_for_fault(world, source, store)
    source.close()
    assert "1 holding registers from 500" in fault
    assert not store.frames


def test_a_device_that_never_answers_blocks_nobody(server: Server):
    world = ModbusWorld(server, device_id=9)
    store = Store(world.stream)
    source = world.open(store)
    assert wait_for_fault(world, source, store)
    begun_s = time.monotonic()
    source.close()
    assert time.monotonic() - begun_s < 3


def test_rows_that_find_the_queue_full_are_counted(server: Server):
    world = ModbusWorld(server, queue_max=3)
    store = Store(world.stream)
    source = world.open(store)
    time.sleep(0.5)
    poll(source, store, world.step())
    assert 3 <= len(store.frames) <= 5
    assert "source.overrun" in [code for code, _ in store.letters]
    source.close()


def test_neighbouring_registers_are_read_in_one_request():
    registers = [Register.model_validate(entry) for entry in MAP]
    assert [(s.first, s.count) for s in spans(registers)] == [(0, 6), (30, 1)]
    many = [Register(channel=f"c{i}", address=2 * i, type="float32") for i in range(64)]
    assert [(s.first, s.count) for s in spans(many)] == [(0, 124), (124, 4)]
    tables = [Register(channel="a", address=0), Register(channel="b", address=1, table="input")]
    assert len(spans(tables)) == 2


def test_an_input_register_is_read_by_its_own_function(server: Server):
    """A device has four tables; this one shows the same values in both of its."""
    registers = [{**entry, "table": "input"} for entry in MAP]
    world = ModbusWorld(server, registers=registers)
    store = Store(world.stream)
    source = world.open(store)
    run_until(world, source, store, 2)
    source.close()
    assert store.rows()[0] == ROW


@pytest.mark.parametrize(
    "options",
    [
        {"registers": MAP},
        {"registers": [], "tcp": {"host": "h"}},
        {"registers": MAP, "tcp": {"host": "h"}, "serial": {"port": "/dev/x"}},
        {"registers": [*MAP, MAP[0]], "tcp": {"host": "h"}},
        {"registers": [{"channel": "a", "address": 65_535, "type": "int32"}], "tcp": {"host": "h"}},
        {"registers": [{"channel": "a", "address": 0, "type": "bit"}], "tcp": {"host": "h"}},
        {"registers": [{"channel": "a", "address": -1}], "tcp": {"host": "h"}},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]):
    with pytest.raises(ValidationError):
        ModbusOptions.model_validate(options)


def test_registers_fill_just_the_channels_of_the_stream(server: Server):
    world = ModbusWorld(server, registers=MAP[:3])
    with pytest.raises(FixConfiguration, match="are filled"):
        world.open(Store(world.stream))
