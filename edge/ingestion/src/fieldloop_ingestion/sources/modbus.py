"""Modbus: registers of a device over TCP or a serial line, by pymodbus.

    kind: modbus
    tcp: {host: 10.0.0.7}
    device_id: 1
    registers:
      - {channel: pressure, address: 0, type: uint16, scale: 0.01}
      - {channel: flow, address: 10, type: float32, word_order: little}

All registers are read once in each period of the stream (`1 / rate_hz`), neighbours in one request,
and make one row. Bytes within a register are big-endian (MODBUS Application Protocol 1.1b3, 4.2);
the order of the registers of a 32-bit value is the device's choice. An exception response is a
fault of the whole device: its text says which registers were asked for.

Needs the extra `modbus` of this package. The thread of `sampling.Sampler` owns the connection.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_contract.frames import CHANNELS_MAX
from fieldloop_contract.ids import Text
from fieldloop_contract.messages import Finite
from fieldloop_contract.profile import StreamProfile
from fieldloop_ingestion.source import Context
from fieldloop_ingestion.sources.framing import same_channels
from fieldloop_ingestion.sources.sampling import Device, SampledSource
from fieldloop_runtime.settings import PositiveSeconds

try:
    from pymodbus.client import ModbusSerialClient, ModbusTcpClient
    from pymodbus.exceptions import ModbusException
except ImportError as error:
    raise ImportError(
        "pymodbus is not installed: pip install 'fieldloop-ingestion[modbus]'"
    ) from error

REGISTERS_PER_READ_MAX = 125
"""MODBUS Application Protocol 1.1b3, 6.3: at most 125 registers in one request."""
_ADDRESS_MAX = 65_535
_FORMATS = {
    "int16": (">h", 1),
    "uint16": (">H", 1),
    "int32": (">i", 2),
    "uint32": (">I", 2),
    "float32": (">f", 2),
}

# What pymodbus has to say of a connection, `fault` says once; its own lines are not JSON.
logging.getLogger("pymodbus").addHandler(logging.NullHandler())
logging.getLogger("pymodbus").propagate = False


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Register(_Strict):
    """One value: `channel = raw * scale + offset`."""

    channel: Text = Field(description="channel of the stream that it fills")
    address: Annotated[int, Field(ge=0, le=_ADDRESS_MAX)] = Field(
        description="address as sent, from 0: 40001 of a manual is usually 0 of `holding`"
    )
    type: Literal["int16", "uint16", "int32", "uint32", "float32"] = "int16"
    table: Literal["holding", "input"] = Field(default="holding", description="function 3 or 4")
    word_order: Literal["big", "little"] = Field(
        default="big", description="which register of a 32-bit value comes first"
    )
    scale: Finite = 1.0
    offset: Finite = 0.0

    @property
    def registers(self) -> int:
        """How many registers it takes."""
        return _FORMATS[self.type][1]

    def value(self, words: Sequence[int]) -> float:
        """The value of its registers, in the channel's unit."""
        ordered = words if self.word_order == "big" else list(reversed(words))
        raw = struct.unpack(_FORMATS[self.type][0], struct.pack(f">{len(ordered)}H", *ordered))[0]
        return float(raw) * self.scale + self.offset

    @model_validator(mode="after")
    def _within(self) -> Register:
        if self.address + self.registers > _ADDRESS_MAX + 1:
            raise ValueError("it reaches beyond address 65535")
        return self


class Tcp(_Strict):
    """A device, or a gateway, on the network."""

    host: str = Field(min_length=1, description="host name or address")
    port: Annotated[int, Field(ge=1, le=65_535)] = 502


class Serial(_Strict):
    """A serial line (RTU). Needs pyserial: `pip install pymodbus[serial]`."""

    port: str = Field(min_length=1, description="the line's device file, such as /dev/ttyUSB0")
    baudrate: Annotated[int, Field(ge=300, le=4_000_000)] = 19_200
    bytesize: Literal[7, 8] = 8
    parity: Literal["N", "E", "O"] = "N"
    stopbits: Literal[1, 2] = 1


class ModbusOptions(_Strict):
    """Options of a Modbus source."""

    tcp: Tcp | None = Field(default=None, description="connect by TCP; this or `serial`")
    serial: Serial | None = Field(default=None, description="connect by a serial line")
    device_id: Annotated[int, Field(ge=0, le=255)] = Field(
        default=1, description="unit id of the device behind the connection"
    )
    registers: list[Register] = Field(
        min_length=1, max_length=CHANNELS_MAX, description="one for each channel of the stream"
    )
    timeout_s: PositiveSeconds = Field(default=1.0, description="limit for an answer")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        default=1, description="repetitions of a request that was not answered"
    )
    queue_max: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1_000, description="rows waiting for the service"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ModbusOptions:
        if (self.tcp is None) == (self.serial is None):
            raise ValueError("either tcp or serial says where the device is")
        names = [register.channel for register in self.registers]
        if len(set(names)) != len(names):
            raise ValueError("two registers fill one channel")
        return self


class Span:
    """Neighbouring registers that one request reads."""

    def __init__(self, table: str, first: int) -> None:
        self.table = table
        self.first = first
        self.count = 0
        self.members: list[tuple[int, Register]] = []


def spans(registers: Sequence[Register]) -> list[Span]:
    """The fewest requests that read just these registers; gaps are not read, they may not exist.

    Members of a span carry the index of their register, which is that of their channel.
    """
    ordered = sorted(enumerate(registers), key=lambda item: (item[1].table, item[1].address))
    found: list[Span] = []
    for index, register in ordered:
        end = register.address + register.registers
        current = found[-1] if found else None
        if (
            current is None
            or current.table != register.table
            or register.address > current.first + current.count
            or end - current.first > REGISTERS_PER_READ_MAX
        ):
            current = Span(register.table, register.address)
            found.append(current)
        current.count = max(current.count, end - current.first)
        current.members.append((index, register))
    return found


class _Connection:
    """A connected device. One thread reads; `close` may come from another."""

    def __init__(self, options: ModbusOptions, ordered: Sequence[Register]) -> None:
        self._options = options
        self._width = len(ordered)
        self._spans = spans(ordered)
        self._client: Any = _client(options)
        if not self._client.connect():
            self._client.close()
            raise RetryLater(f"no connection to {_where(options)}", code="modbus.offline")

    def read(self) -> Sequence[float]:
        """One row."""
        row = [0.0] * self._width
        for span in self._spans:
            words = self._words(span)
            for index, register in span.members:
                at = register.address - span.first
                row[index] = register.value(words[at : at + register.registers])
        return row

    def _words(self, span: Span) -> list[int]:
        client = self._client
        ask = client.read_holding_registers
        if span.table == "input":
            ask = client.read_input_registers
        what = f"{span.count} {span.table} registers from {span.first} of {_where(self._options)}"
        try:
            answer = ask(span.first, count=span.count, device_id=self._options.device_id)
        except ModbusException as error:
            raise RetryLater(f"{what}: {error}", code="modbus.silent") from error
        if answer.isError():
            raise RetryLater(f"{what}: {answer}", code="modbus.exception")
        if len(answer.registers) != span.count:
            raise RetryLater(f"{what}: {len(answer.registers)} came", code="modbus.short")
        return list(answer.registers)

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


def _client(options: ModbusOptions) -> Any:
    common: dict[str, Any] = {"timeout": options.timeout_s, "retries": options.retries}
    if options.tcp is not None:
        return ModbusTcpClient(options.tcp.host, port=options.tcp.port, **common)
    assert options.serial is not None  # one of the two is given
    line = options.serial.model_dump()
    try:
        return ModbusSerialClient(line.pop("port"), **line, **common)
    except RuntimeError as error:  # pymodbus says so where pyserial is missing
        raise FixConfiguration(f"a serial line cannot be used: {error}") from error


def _where(options: ModbusOptions) -> str:
    if options.tcp is not None:
        return f"{options.tcp.host}:{options.tcp.port}"
    return options.serial.port if options.serial is not None else ""


class ModbusSource(SampledSource):
    """See the module."""

    Options: ClassVar[type[BaseModel]] = ModbusOptions

    def __init__(self, options: ModbusOptions, context: Context) -> None:
        self.check(options, context.stream)
        by_name = {register.channel: register for register in options.registers}
        ordered = [by_name[channel.name] for channel in context.stream.channels]

        def connect() -> Device:
            return _Connection(options, ordered)

        super().__init__(context, connect, queue_max=options.queue_max)

    @classmethod
    def check(cls, options: ModbusOptions, stream: StreamProfile) -> None:
        """Whether the options fit the stream.

        Raises:
            FixConfiguration: with what does not.
        """
        same_channels(stream, (register.channel for register in options.registers))
