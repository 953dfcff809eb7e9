"""Which operators a runtime has, and up to which version: found out by asking it.

Neither runtime lists its operators, but both look up all that a file names before they look at
anything else. So a file that names one operator and uses none loads exactly where the runtime has
it, and what it says of an absurd version holds the operator's name. Some hundred loads of 140
bytes, about 0.1 s on a PC; the answer is kept for the process.

The file is a FlatBuffer by TensorFlow's `schema.fbs` (version 3): `Model{version, operator_codes,
subgraphs, buffers}` with one empty subgraph and one empty buffer, and `OperatorCode{deprecated_
builtin_code, version, builtin_code}`. A table begins with the distance back to its vtable, which
says at which offset each field is.
"""

from __future__ import annotations

import functools
import importlib
import re
import struct
from collections.abc import Callable
from typing import Final

from fieldloop_contract.errors import Isolate
from fieldloop_scoring.runners import MODULES, choose_runtime

CODES_MAX: Final = 512
VERSIONS_MAX: Final = 64
_ABSURD: Final = 30_000
_HOLES_MAX: Final = 3
"""Versions in a row that are missing, after which no later one is looked for."""
_NAME: Final = re.compile(r"builtin opcode '([A-Z0-9_]{1,80})'")
_OUT_OF_RANGE: Final = "out of range"

_MODEL, _CODES, _CODE, _GRAPHS, _GRAPH, _NONE, _BUFFERS, _BUFFER, _END = (
    24, 44, 64, 80, 100, 120, 124, 136, 140,
)  # fmt: skip


def probe_file(code: int, version: int) -> bytes:
    """A model that names one operator, by its number in `BuiltinOperator`, and has none."""
    data = bytearray(_END)

    def put(at: int, form: str, *values: int) -> None:
        struct.pack_into("<" + form, data, at, *values)

    def refer(at: int, to: int) -> None:
        put(at, "I", to - at)

    put(0, "I4s", _MODEL, b"TFL3")  # type: ignore[arg-type]
    put(8, "7H", 14, 20, 4, 8, 12, 0, 16)
    put(_MODEL, "iI", _MODEL - 8, 3)
    refer(_MODEL + 8, _CODES)
    refer(_MODEL + 12, _GRAPHS)
    refer(_MODEL + 16, _BUFFERS)
    put(_CODES, "I", 1)
    refer(_CODES + 4, _CODE)
    put(52, "6H", 12, 16, 12, 0, 4, 8)
    put(_CODE, "iiib", _CODE - 52, version, code, min(code, 127))
    put(_GRAPHS, "I", 1)
    refer(_GRAPHS + 4, _GRAPH)
    put(88, "6H", 12, 20, 4, 8, 12, 16)
    put(_GRAPH, "i", _GRAPH - 88)
    for field in range(4):  # tensors, inputs, outputs, operators: the one empty vector
        refer(_GRAPH + 4 + 4 * field, _NONE)
    put(_BUFFERS, "I", 1)
    refer(_BUFFERS + 4, _BUFFER)
    put(132, "2H", 4, 4)
    put(_BUFFER, "i", _BUFFER - 132)
    return bytes(data)


@functools.cache
def operators(runtime: str = "auto") -> dict[str, int]:
    """Highest version of each builtin operator that a runtime has, by name.

    Raises:
        FixConfiguration: the runtime is not installed.
    """
    return dict(_numbered(choose_runtime(runtime)).values())


@functools.cache
def _numbered(runtime: str) -> dict[int, tuple[str, int]]:
    """Name and highest version by number."""
    module = importlib.import_module(f"{MODULES[runtime]}.interpreter")

    def refusal(code: int, version: int) -> str:
        try:
            module.Interpreter(model_content=probe_file(code, version))
        except (ValueError, RuntimeError) as error:
            return str(error) or type(error).__name__
        return ""

    found: dict[int, tuple[str, int]] = {}
    for code in range(CODES_MAX):
        words = refusal(code, _ABSURD)
        if _OUT_OF_RANGE in words:
            break
        name = _NAME.search(words)
        if name is None:
            continue  # a custom operator, or one that the runtime does not have at all
        version = _highest(functools.partial(refusal, code))
        if version:
            found[code] = (name[1], version)
    return found


def _highest(refusal: Callable[[int], str]) -> int:
    best = 0
    for version in range(1, VERSIONS_MAX):
        if not refusal(version):
            best = version
        elif version - best >= _HOLES_MAX:
            break
    return best


def required(model: bytes, runtime: str = "auto") -> dict[str, int]:
    """Versions of the builtin operators that a model names, for `Manifest.requires.ops`.

    Args:
        model: a file that this machine's runtime has loaded; custom operators are left out.

    Raises:
        Isolate: not a FlatBuffer of that form.
    """
    known = _numbered(choose_runtime(runtime))
    wanted: dict[str, int] = {}
    try:
        for table in _tables(model, _root(model), 1):
            (deprecated,) = _field(model, table, 0, "b") or (0,)
            (code,) = _field(model, table, 3, "i") or (0,)
            (version,) = _field(model, table, 2, "i") or (1,)
            name = known.get(max(code, deprecated), ("", 0))[0]
            if name:
                wanted[name] = max(version, wanted.get(name, 0))
    except struct.error as error:
        raise Isolate(f"not a TFLite file: {error}", code="model.unreadable") from error
    return dict(sorted(wanted.items()))


def _root(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _field(data: bytes, table: int, index: int, form: str) -> tuple[int, ...] | None:
    """A field of a table, or None where it is not set."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, vtable)
    if 4 + 2 * index >= size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * index)
    return struct.unpack_from("<" + form, data, table + offset) if offset else None


def _tables(data: bytes, table: int, index: int) -> list[int]:
    """Where the tables of a vector field begin."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * index)
    at = table + offset
    at += struct.unpack_from("<I", data, at)[0]
    (count,) = struct.unpack_from("<I", data, at)
    places = range(at + 4, at + 4 + 4 * min(count, CODES_MAX), 4)
    return [place + struct.unpack_from("<I", data, place)[0] for place in places]
