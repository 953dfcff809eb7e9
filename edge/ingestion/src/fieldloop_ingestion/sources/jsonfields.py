"""Readings out of JSON documents: a channel is found by a JSON pointer (RFC 6901). Pure.

Three forms: one number for each channel (one row); an array of numbers for each channel, all of one
length (a block at the stream's rate); and, with `items`, an array of objects that are read one by
one, so that a bad one is set aside and its neighbours pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fieldloop_contract.batch import load_json
from fieldloop_contract.errors import MalformedMessage, RejectedInput
from fieldloop_contract.frames import CHANNELS_MAX, T_NS_MAX
from fieldloop_contract.ids import Text
from fieldloop_ingestion.sources.framing import Refused

ROWS_MAX = 65_536
_POINTER_CHARS_MAX = 1_000
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EXCERPT_BYTES = 128
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class NotThere(MalformedMessage):
    """A pointer leads nowhere, or to something that is not what it should be."""

    default_code = "reading.field"


def _pointer(text: str) -> str:
    parse_pointer(text)
    return text


Pointer = Annotated[str, Field(max_length=_POINTER_CHARS_MAX), AfterValidator(_pointer)]


class TimeField(BaseModel):
    """Where a message says when it was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pointer: Pointer = Field(description="JSON pointer of the time")
    unit: Literal["s", "ms", "us", "ns", "iso8601"] = Field(
        default="s", description="since 1970-01-01 UTC; iso8601 needs an offset or Z"
    )
    of: Literal["first", "last"] = Field(
        default="first", description="the row of a block that the time belongs to"
    )


class JsonMapping(BaseModel):
    """How a JSON document becomes readings."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fields: dict[Text, Pointer] = Field(
        min_length=1,
        max_length=CHANNELS_MAX,
        description="for each channel of the stream the JSON pointer of its number or array",
    )
    items: Pointer | None = Field(
        default=None,
        description="JSON pointer of an array of readings; the other pointers begin in each",
    )
    time: TimeField | None = Field(
        default=None, description="where the time stands; without it, the time of receipt"
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows that follow each other at the stream's rate.

    Attributes:
        values: rows one after the other, a number for each channel.
        t_ns: UTC of the row that `of` names; None for the time of receipt, of the last row.
    """

    values: Sequence[float]
    t_ns: int | None = None
    of: Literal["first", "last"] = "first"


def parse_pointer(text: str) -> list[str]:
    """The reference tokens of a JSON pointer (RFC 6901, section 4).

    Raises:
        ValueError: it neither is empty nor begins with `/`, or has a wrong escape.

    >>> parse_pointer("/a~1b/m~0n/0")
    ['a/b', 'm~n', '0']
    """
    if not text:
        return []
    if text[0] != "/":
        raise ValueError("a JSON pointer is empty or begins with /")
    tokens = text[1:].split("/")
    for token in tokens:
        rest = token.replace("~0", "").replace("~1", "")
        if "~" in rest:
            raise ValueError(f"~ in {token!r} is followed by neither 0 nor 1")
    return [token.replace("~1", "/").replace("~0", "~") for token in tokens]


def resolve(document: Any, tokens: Sequence[str]) -> Any:
    """What a pointer leads to.

    Raises:
        NotThere: there is nothing.
    """
    current = document
    for token in tokens:
        if isinstance(current, Mapping) and token in current:
            current = current[token]
        elif isinstance(current, list) and _index(token) is not None:
            index = int(token)
            if index >= len(current):
                raise NotThere(f"an array of {len(current)} has no {index}")
            current = current[index]
        else:
            raise NotThere(f"nothing at {token!r}")
    return current


def _index(token: str) -> str | None:
    """An array index has no leading zeros (RFC 6901, section 4)."""
    good = token.isascii() and token.isdigit() and (token == "0" or token[0] != "0")
    return token if good and len(token) < 10 else None


def number(value: Any) -> float:
    """A JSON number as a float.

    Raises:
        NotThere: it is something else, or beyond double precision.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotThere(f"{value!r:.40} is not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise NotThere("a number beyond all bounds") from error


def scaled(value: float, factor: int) -> int:
    """`value * factor`, whole and rest apart: a product of doubles would lose 100 ns of today.

    Raises:
        NotThere: it is outside int64.
    """
    if not abs(value) * factor <= T_NS_MAX:
        raise NotThere(f"a time of {value!r:.40}")
    whole = math.floor(value)
    return whole * factor + round((value - whole) * factor)


def time_ns(value: Any, unit: str) -> int:
    """A time in ns since 1970 UTC; whole numbers are exact, ISO 8601 is read to the microsecond.

    Raises:
        NotThere: it is no such time, or outside int64.
    """
    if unit == "iso8601":
        if not isinstance(value, str):
            raise NotThere(f"{value!r:.40} is not a time in ISO 8601")
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise NotThere(f"{value!r:.40} is not a time in ISO 8601") from error
        if moment.tzinfo is None:
            raise NotThere(f"{value!r:.40} has neither an offset nor Z")
        t_ns = (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
    elif isinstance(value, int) and not isinstance(value, bool):
        t_ns = value * _UNIT_NS[unit]
    else:
        t_ns = scaled(number(value), _UNIT_NS[unit])
    if not 0 <= t_ns <= T_NS_MAX:
        raise NotThere(f"a time of {value!r:.40}")
    return t_ns


class JsonReader:
    """Reads documents by one mapping.

    Args:
        channels: names of the stream's channels, in order; `mapping.fields` has just these.
    """

    def __init__(self, mapping: JsonMapping, channels: Sequence[str]) -> None:
        self._items = None if mapping.items is None else parse_pointer(mapping.items)
        self._columns = [(name, parse_pointer(mapping.fields[name])) for name in channels]
        self._time = mapping.time
        self._time_tokens = parse_pointer(mapping.time.pointer) if mapping.time else []

    def read(self, payload: bytes, bytes_max: int) -> Iterator[Reading | Refused]:
        """Everything that a message holds, good and bad, in its order."""
        excerpt = payload[:_EXCERPT_BYTES]
        try:
            document = load_json(payload, bytes_max)
            items = [document] if self._items is None else resolve(document, self._items)
        except NotThere as error:
            yield Refused("reading.items", f"items: {error}", excerpt)
            return
        except RejectedInput as error:
            yield Refused(error.code, str(error), excerpt)
            return
        if not isinstance(items, list) or len(items) > ROWS_MAX:
            yield Refused("reading.items", f"items is not an array of at most {ROWS_MAX}", excerpt)
            return
        for item in items:
            try:
                yield self._reading(item)
            except NotThere as error:
                shown = excerpt if self._items is None else repr(item).encode()[:_EXCERPT_BYTES]
                yield Refused("reading.field", str(error), shown)

    def _reading(self, item: Any) -> Reading:
        columns: list[list[float]] = []
        for name, tokens in self._columns:
            try:
                found = resolve(item, tokens)
                block = found if isinstance(found, list) else [found]
                if len(block) > ROWS_MAX:
                    raise NotThere(f"more than {ROWS_MAX} numbers")
                columns.append([number(value) for value in block])
            except NotThere as error:
                raise NotThere(f"{name}: {error}") from error
        lengths = {len(column) for column in columns}
        if len(lengths) != 1 or 0 in lengths:
            raise NotThere(f"arrays of {sorted(lengths)} numbers do not make rows")
        values = [value for row in zip(*columns, strict=True) for value in row]
        if self._time is None:
            return Reading(values)
        try:
            t_ns = time_ns(resolve(item, self._time_tokens), self._time.unit)
        except NotThere as error:
            raise NotThere(f"time: {error}") from error
        return Reading(values, t_ns, self._time.of)
