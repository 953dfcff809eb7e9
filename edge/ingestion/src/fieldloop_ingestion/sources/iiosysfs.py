"""The IIO subsystem's files: finding a device, its attributes, and the layout of its scans.

Every failure of a file is a RetryLater that says what to do: a sensor may be plugged in later.
Sources as in `iio`. Any one thread.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

from fieldloop_contract.errors import RetryLater

DEVICES_MAX = 256
SCAN_BYTES_MAX = 4_096
TIMESTAMP = "timestamp"
_ATTRIBUTE_BYTES_MAX = 4_096
_TYPE = re.compile(r"(le|be):([su])(\d{1,3})/(\d{1,3})(?:X(\d{1,3}))?>>(\d{1,3})")
_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_PERMISSION_HINT = "give the service's user the files by a udev rule (group iio), or run as root"


@dataclass(frozen=True, slots=True)
class Transform:
    """`(raw + offset) * scale`: sysfs-bus-iio."""

    offset: float = 0.0
    scale: float = 1.0

    def times(self, factor: float) -> Transform:
        """The same, in another unit."""
        return Transform(self.offset, self.scale * factor)

    def apply(self, raw: Iterable[int]) -> list[float]:
        """Values of raw readings."""
        offset, scale = self.offset, self.scale
        return [(value + offset) * scale for value in raw]


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a scan, by its `type` and `index` files.

    Attributes:
        index: its place in the scan.
        bits: valid bits, after shifting right by `shift`.
        size_bytes: bytes in storage; the element is aligned to them.
    """

    name: str
    index: int
    big_endian: bool
    signed: bool
    bits: int
    size_bytes: int
    shift: int

    @classmethod
    def parse(cls, name: str, index: int, text: str) -> Element:
        """Read a type such as `le:s12/16>>4`.

        Raises:
            RetryLater: it is no such type, or one that is not supported (repeats, odd sizes).
        """
        match = _TYPE.fullmatch(text.strip())
        if match is None:
            raise RetryLater(f"{name}: the type {text!r:.40} is not known", code="iio.type")
        order, sign, bits, storage, repeat, shift = match.groups()
        size, rest = divmod(int(storage), 8)
        fits = int(bits) > 0 and int(bits) + int(shift) <= int(storage)
        if rest or size not in _INTEGERS or int(repeat or 1) != 1 or not fits:
            raise RetryLater(f"{name}: the type {text!r:.40} is not supported", code="iio.type")
        return cls(name, index, order == "be", sign == "s", int(bits), size, int(shift))

    def decode(self, stored: array[int]) -> Sequence[int]:
        """Raw readings of storage words in the machine's byte order."""
        mask, shift = (1 << self.bits) - 1, self.shift
        plain = self.bits == self.size_bytes * 8
        if plain and not self.signed:
            return stored
        if plain:
            return array(stored.typecode.lower(), stored.tobytes())
        values = [(word >> shift) & mask for word in stored]
        if self.signed:
            sign = 1 << (self.bits - 1)
            values = [(value ^ sign) - sign for value in values]
        return values


@dataclass(frozen=True, slots=True)
class Scan:
    """The layout of one scan.

    Attributes:
        wanted: element and offset in bytes of each channel, in the order of the stream.
        timestamp: element and offset of the timestamp, if it is enabled.
        size_bytes: size of a scan, with its padding.
    """

    wanted: tuple[tuple[Element, int], ...]
    timestamp: tuple[Element, int] | None
    size_bytes: int

    def column(self, i: int, data: bytes, rows: int) -> Sequence[int]:
        """Raw readings of channel `i` of `rows` scans."""
        return self._extract(*self.wanted[i], data, rows)

    def stamps(self, data: bytes, rows: int) -> Sequence[int]:
        """Timestamps in ns of `rows` scans; only where `timestamp` is not None."""
        assert self.timestamp is not None
        return self._extract(*self.timestamp, data, rows)

    def _extract(self, element: Element, offset: int, data: bytes, rows: int) -> Sequence[int]:
        size = element.size_bytes
        whole = array(_INTEGERS[size])
        whole.frombytes(data[: rows * self.size_bytes])
        words = whole[offset // size :: self.size_bytes // size]  # by its alignment
        if element.big_endian != (sys.byteorder == "big"):
            words.byteswap()
        return element.decode(words)


def scan_of(enabled: Mapping[str, Element], names: Sequence[str]) -> Scan:
    """The layout of a scan of just the enabled elements.

    Raises:
        RetryLater: a scan is larger than `SCAN_BYTES_MAX`.
    """
    at = 0
    offsets: dict[str, int] = {}
    for element in sorted(enabled.values(), key=lambda e: e.index):
        at = _aligned(at, element.size_bytes)
        offsets[element.name] = at
        at += element.size_bytes
    size = _aligned(at, max(element.size_bytes for element in enabled.values()))
    if size > SCAN_BYTES_MAX:
        raise RetryLater(f"a scan of {size} bytes", code="iio.scan")
    stamp = enabled.get(TIMESTAMP)
    return Scan(
        tuple((enabled[name], offsets[name]) for name in names),
        None if stamp is None else (stamp, offsets[TIMESTAMP]),
        size,
    )


def _aligned(at: int, size: int) -> int:
    return -(-at // size) * size


class Sysfs:
    """One device's folder."""

    def __init__(self, folder: Path) -> None:
        self.id = folder.name
        self._folder = folder

    @classmethod
    def find(cls, root: str, device: str | int) -> Sysfs:
        """The device of a name, an id or a number.

        Raises:
            RetryLater: there is none, or more than one of that name.
        """
        wanted = str(device)
        try:
            folders = sorted(p for p in Path(root).iterdir() if p.name.startswith("iio:device"))
        except OSError as error:
            raise RetryLater(
                f"{root}: {error.strerror}",
                code="iio.missing",
                hint="the kernel needs industrial I/O, and a container needs /sys",
            ) from error
        names = {folder.name: cls(folder).text_or("name", "") for folder in folders[:DEVICES_MAX]}
        found = [
            folder
            for folder in folders[:DEVICES_MAX]
            if wanted in (folder.name, folder.name.removeprefix("iio:device"), names[folder.name])
        ]
        if len(found) == 1:
            return cls(found[0])
        listed = ", ".join(starmap("{} ({})".format, names.items())) or "none"
        raise RetryLater(
            f"{len(found) or 'no'} IIO devices are called {wanted!r}; present: {listed}",
            code="iio.missing",
            hint="load the sensor's driver (device-tree overlay), or name it by iio:deviceN",
        )

    def text(self, attribute: str) -> str:
        """An attribute's text.

        Raises:
            RetryLater: it cannot be read.
        """
        path = self._folder / attribute
        try:
            with path.open("rb") as file:
                return file.read(_ATTRIBUTE_BYTES_MAX).decode("utf-8", "replace").strip()
        except PermissionError as error:
            raise RetryLater(
                f"{path} may not be read", code="iio.permission", hint=_PERMISSION_HINT
            ) from error
        except OSError as error:
            raise RetryLater(f"{path}: {error.strerror}", code="iio.attribute") from error

    def text_or(self, attribute: str, default: str) -> str:
        """An attribute's text, or `default` where there is no such attribute."""
        return self.text(attribute) if (self._folder / attribute).exists() else default

    def number(self, attribute: str) -> float:
        """An attribute that is a number; a unit behind it is left out.

        Raises:
            RetryLater: it cannot be read, or is none.
        """
        text = self.text(attribute)
        try:
            return float(text.split()[0])
        except (ValueError, IndexError) as error:
            raise RetryLater(
                f"{self.id}/{attribute} is {text!r:.40}, not a number", code="iio.attribute"
            ) from error

    def write(self, attribute: str, value: str) -> None:
        """Set an attribute.

        Raises:
            RetryLater: it cannot be written.
        """
        path = self._folder / attribute
        try:
            with path.open("wb", buffering=0) as file:
                file.write(value.encode())
        except PermissionError as error:
            raise RetryLater(
                f"{path} may not be written", code="iio.permission", hint=_PERMISSION_HINT
            ) from error
        except OSError as error:
            raise RetryLater(
                f"{path}: {error.strerror}, writing {value!r}",
                code="iio.attribute",
                hint="somebody else may be using the sensor's buffer",
            ) from error

    def _shared(self, element: str, suffix: str) -> str | None:
        """The attribute of an element, of its type, or of all: the most specific that exists."""
        kind = re.sub(r"\d+", "", element)
        plain = kind.split("_")[0]
        for stem in (f"in_{element}_", f"in_{kind}_", f"in_{plain}_", "in_", ""):
            if (self._folder / f"{stem}{suffix}").exists():
                return f"{stem}{suffix}"
        return None

    def transform(self, element: str) -> Transform:
        """Offset and scale of an element."""
        scale, offset = self._shared(element, "scale"), self._shared(element, "offset")
        return Transform(
            0.0 if offset is None else self.number(offset),
            1.0 if scale is None else self.number(scale),
        )

    def value_file(self, element: str) -> Callable[[], float]:
        """What reads one value, scaled.

        Raises:
            RetryLater: the device has no such channel.
        """
        raw, processed = f"in_{element}_raw", f"in_{element}_input"
        if (self._folder / raw).exists():
            transform = self.transform(element)
            return lambda: (self.number(raw) + transform.offset) * transform.scale
        if (self._folder / processed).exists():
            return lambda: self.number(processed)
        raise RetryLater(f"{self.id} has no channel {element}", code="iio.channel")

    def rate_attribute(self, elements: Sequence[str]) -> str | None:
        """The attribute that holds the sample rate in Hz, or None."""
        return self._shared(elements[0], "sampling_frequency")

    def enable(self, names: Sequence[str]) -> dict[str, Element]:
        """Enable just these elements and, where there is one, the timestamp.

        Raises:
            RetryLater: the device has no buffer or no such element, or keeps others enabled.
        """
        folder = self._folder / "scan_elements"
        present = {
            path.name.removeprefix("in_").removesuffix("_en")
            for path in sorted(folder.glob("in_*_en"))
        }
        if missing := sorted(set(names) - present):
            raise RetryLater(
                f"{self.id} cannot buffer {', '.join(missing)}; it has {sorted(present)}",
                code="iio.channel",
                hint="use mode: poll for a sensor without a buffer",
            )
        wanted = {*names, TIMESTAMP} & present
        for name in sorted(present - wanted):
            if self.text(f"scan_elements/in_{name}_en") != "0":
                self.write(f"scan_elements/in_{name}_en", "0")
        found = {}
        for name in sorted(wanted):
            stem = f"scan_elements/in_{name}"
            self.write(f"{stem}_en", "1")
            index = int(self.number(f"{stem}_index"))
            found[name] = Element.parse(name, index, self.text(f"{stem}_type"))
        return found

    def use_realtime(self) -> None:
        """Have timestamps in UTC; it is the default where the attribute does not exist."""
        attribute = "current_timestamp_clock"
        if self.text_or(attribute, "realtime") != "realtime":
            self.write(attribute, "realtime")
