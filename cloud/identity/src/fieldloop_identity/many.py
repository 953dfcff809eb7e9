"""Many devices at once: rows of a file become tokens, printed as JSON lines.

All rows are checked before the first token is made. A device that holds a certificate in force gets
none: the file may be given again, and says then who has enrolled.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_identity.authority import device_name
from fieldloop_store import identities
from fieldloop_store.engine import Store

ROWS_MAX: Final = 10_000
FILE_BYTES_MAX: Final = 4 << 20
_UUID: Final = re.compile(r"[0-9a-f]{7,62}")


@dataclass(frozen=True, slots=True)
class Row:
    """One device. `uuid`: balena's, or ""."""

    device: str
    uuid: str = ""


def read(fleet: str, path: str) -> list[Row]:
    """Read and check a file; "-" is stdin.

    Raises:
        FixConfiguration: every fault, each with its line.
    """
    try:
        if path == "-":
            text = sys.stdin.read(FILE_BYTES_MAX + 1)
        else:
            with Path(path).open(encoding="utf-8-sig") as file:
                text = file.read(FILE_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise FixConfiguration(f"{path} cannot be read: {error}") from error
    if len(text) > FILE_BYTES_MAX:
        raise FixConfiguration(f"{path} has more than {FILE_BYTES_MAX} bytes")
    reader = csv.DictReader(text.splitlines())
    names = [n.strip() for n in reader.fieldnames or []]
    reader.fieldnames = names
    if "device" not in names or not set(names) <= {"device", "uuid"}:
        raise FixConfiguration(
            f"{path}:1: the header is {','.join(names) or 'not there'}",
            hint="the first line is `device` or `device,uuid`",
        )
    rows: list[Row] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for values in reader:
        row = Row(*((values.get(n) or "").strip() for n in ("device", "uuid")))
        fault = _fault(fleet, row, values)
        for name in filter(None, (row.device, row.uuid)):
            if seen.setdefault(name, reader.line_num) != reader.line_num:
                fault = f"{name} stands in line {seen[name]} too"
        if fault:
            faults.append(f"{path}:{reader.line_num}: {fault}")
        rows.append(row)
    if len(rows) > ROWS_MAX:
        faults.append(f"{path}: more than {ROWS_MAX} devices")
    if not rows:
        faults.append(f"{path}: no device in it")
    if faults:
        raise FixConfiguration("\n".join(faults[:50]))
    return rows


def _fault(fleet: str, row: Row, values: dict[str, str]) -> str:
    if None in values:
        return "more values than the header names"
    if row.uuid and not _UUID.fullmatch(row.uuid):
        return f"{row.uuid!r:.80} is no UUID of balena"
    try:
        device_name(fleet, row.device)
    except FieldloopError as error:
        return str(error)
    return ""


def lines(
    store: Store, fleet: str, rows: list[Row], provision: Callable[[str], str], now_ns: int
) -> Iterator[str]:
    """One JSON line for each row: enrolled already, or waiting, with its token."""
    with store.read() as connection:
        held = {
            c.device
            for c in identities.list_certificates(connection, fleet=fleet, valid_after_ns=now_ns)
            if c.revoked_ns is None
        }
    for row in rows:
        document = {"device": row.device, "uuid": row.uuid}
        if row.device in held:
            document["state"] = "enrolled"
        else:
            document |= {"state": "waiting", "token": provision(row.device)}
        yield json.dumps(document)
