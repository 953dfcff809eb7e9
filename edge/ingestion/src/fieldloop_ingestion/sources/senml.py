"""Readings out of SenML packs in JSON: RFC 8428. Pure.

A pack is resolved (section 4.6): base name, time, unit and value hold from the record in which they
stand; a time below 2**28 s counts from now (section 4.5.3). Records of one time make one row of the
stream, so that a row is whole only when every channel stands in the pack for that time. A record
that cannot be used is set aside with its reason, and the others pass.

Not read: sums (`s`, `bs`), and values that are strings or data. A boolean is 0 or 1. A label that
ends with `_` has to be understood and is not (section 4.4): its record is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fieldloop_contract.batch import load_json
from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.frames import CHANNELS_MAX, T_NS_MAX
from fieldloop_contract.ids import Text
from fieldloop_ingestion.sources.framing import Refused
from fieldloop_ingestion.sources.jsonfields import ROWS_MAX, NotThere, Reading, number, scaled

VERSION = 10
RELATIVE_BELOW_S = 1 << 28
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*")
_NAME_CHARS_MAX = 400
_EXCERPT_BYTES = 128
_UNITLESS = frozenset({"", "1", "/"})


class SenmlMapping(BaseModel):
    """How a SenML pack becomes readings."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    names: dict[Text, Text] = Field(
        min_length=1,
        max_length=CHANNELS_MAX,
        description="for each channel of the stream the resolved SenML name (bn + n)",
    )
    units: dict[Text, Text] = Field(
        default_factory=dict,
        max_length=CHANNELS_MAX,
        description="SenML units where they are written otherwise than the channel's unit",
    )
    units_optional: bool = Field(
        default=False, description="take records that say no unit, as if in the channel's unit"
    )
    others: Literal["refuse", "ignore"] = Field(
        default="refuse", description="what becomes of records whose name no channel has"
    )


class _Base:
    """Base values, as they hold for the records that follow."""

    def __init__(self) -> None:
        self.name = ""
        self.unit = ""
        self.time_ns = 0
        self.value = 0.0

    def take(self, record: Mapping[str, Any]) -> None:
        """Take the base values of a record.

        Raises:
            NotThere: one of them is wrong; nothing after it can be trusted.
        """
        for label in ("bn", "bu"):
            if label in record and not isinstance(record[label], str):
                raise NotThere(f"{label} is {record[label]!r:.40}")
        version = record.get("bver", VERSION)
        if isinstance(version, bool) or not isinstance(version, int) or version > VERSION:
            raise NotThere(f"version {version!r:.40} of SenML")
        self.name = record.get("bn", self.name)
        self.unit = record.get("bu", self.unit)
        if "bt" in record:
            self.time_ns = _seconds(record["bt"])
        if "bv" in record:
            self.value = number(record["bv"])


class SenmlReader:
    """Reads packs by one mapping.

    Args:
        channels: name and unit of the stream's channels, in order; `mapping.names` has just these.
    """

    def __init__(self, mapping: SenmlMapping, channels: Sequence[tuple[str, str]]) -> None:
        self._mapping = mapping
        self._channels = [name for name, _ in channels]
        self._column = {mapping.names[name]: i for i, (name, _) in enumerate(channels)}
        self._units = [mapping.units.get(name, unit) for name, unit in channels]

    def read(self, payload: bytes, bytes_max: int, now_ns: int) -> Iterator[Reading | Refused]:
        """Everything that a pack holds: what was refused, then the rows by their time."""
        excerpt = payload[:_EXCERPT_BYTES]
        try:
            pack = load_json(payload, bytes_max)
        except RejectedInput as error:
            yield Refused(error.code, str(error), excerpt)
            return
        if not isinstance(pack, list) or len(pack) > ROWS_MAX:
            yield Refused("senml.pack", f"not an array of at most {ROWS_MAX} records", excerpt)
            return
        base = _Base()
        rows: dict[int, dict[int, float]] = {}
        for index, record in enumerate(pack):
            shown = repr(record).encode()[:_EXCERPT_BYTES]
            if not isinstance(record, dict):
                yield Refused("senml.record", f"record {index} is not an object", shown)
                continue
            try:
                base.take(record)
            except NotThere as error:
                yield Refused("senml.base", f"record {index} and all after it: {error}", shown)
                break
            try:
                self._take(record, base, rows, now_ns)
            except NotThere as error:
                yield Refused("senml.record", f"record {index}: {error}", shown)
        yield from self._rows(rows)

    def _take(
        self,
        record: Mapping[str, Any],
        base: _Base,
        rows: dict[int, dict[int, float]],
        now_ns: int,
    ) -> None:
        for label in record:
            if label.endswith("_"):
                raise NotThere(f"{label!r:.40} has to be understood")
        if not record.keys() & {"n", "v", "vs", "vb", "vd", "s"}:
            return  # base values only
        name = record.get("n", "")
        if not isinstance(name, str) or len(name) > _NAME_CHARS_MAX:
            raise NotThere(f"n is {name!r:.40}")
        name = base.name + name
        if not _NAME.fullmatch(name):
            raise NotThere(f"{name!r:.40} is not a name")
        column = self._column.get(name)
        if column is None:
            if self._mapping.others == "ignore":
                return
            raise NotThere(f"no channel is called {name!r:.60}")
        self._check_unit(record.get("u", base.unit), column)
        value = self._value(record, base)
        row = rows.setdefault(_resolved_ns(base, record, now_ns), {})
        if column in row:
            raise NotThere(f"{name!r:.60} stands twice for one time")
        row[column] = value

    def _check_unit(self, unit: Any, column: int) -> None:
        wanted = self._units[column]
        if unit == wanted or (unit in _UNITLESS and wanted in _UNITLESS):
            return
        if unit == "" and self._mapping.units_optional:
            return
        said = f"the unit {unit!r:.40}" if unit else "no unit"
        raise NotThere(f"{said}, {self._channels[column]} is in {wanted}")

    def _value(self, record: Mapping[str, Any], base: _Base) -> float:
        if "v" in record:
            return base.value + number(record["v"])
        if isinstance(record.get("vb"), bool):
            return float(record["vb"])
        raise NotThere("it has no number")

    def _rows(self, rows: dict[int, dict[int, float]]) -> Iterator[Reading | Refused]:
        for t_ns, row in sorted(rows.items()):
            absent = [name for i, name in enumerate(self._channels) if i not in row]
            if absent:
                reason = f"no {', '.join(absent)} for the time {t_ns} ns"
                yield Refused("senml.incomplete", reason, repr(row).encode()[:_EXCERPT_BYTES])
            elif not 0 <= t_ns <= T_NS_MAX:
                yield Refused("senml.time", f"a time of {t_ns} ns", b"")
            else:
                yield Reading([row[i] for i in range(len(self._channels))], t_ns)


def _seconds(value: Any) -> int:
    """Seconds as ns. Time and base time are converted one by one: their sum would lose digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > T_NS_MAX:
            raise NotThere(f"a time of {value!r:.40}")
        return value * 10**9
    return scaled(number(value), 10**9)


def _resolved_ns(base: _Base, record: Mapping[str, Any], now_ns: int) -> int:
    t_ns = base.time_ns + _seconds(record.get("t", 0))
    return now_ns + t_ns if t_ns < RELATIVE_BELOW_S * 10**9 else t_ns
