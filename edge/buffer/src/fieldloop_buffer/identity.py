"""Which file on which machine: a log that was copied or cloned must begin a new epoch.

An SD card copied bit by bit has the same file, the same machine id and the same inode; what differs
is the hardware's own serial number, so whatever of these can be read goes into the fingerprint.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

_SOURCES = (
    "/etc/machine-id",
    "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_uuid",
    "/sys/block/mmcblk0/device/cid",
)
_READ_BYTES_MAX = 4096
_AT_FDCWD, _STATX_BTIME, _STATX_BYTES, _BTIME_OFFSET = -100, 0x800, 256, 80


def machine_fingerprint(sources: Sequence[str] = _SOURCES) -> str:
    """A digest of what tells this machine from its clones, 32 hex digits."""
    digest = hashlib.sha256()
    for source in sources:
        try:
            with Path(source).open("rb") as file:
                value = file.read(_READ_BYTES_MAX).strip(b"\0\n ")
        except OSError:
            value = b""
        digest.update(source.encode() + b"\0" + value + b"\0")
    return digest.hexdigest()[:32]


def file_fingerprint(path: str) -> str:
    """Device, inode and time of birth of the file: a copy differs in one of them.

    The inode alone is not enough, since a file system may give that of a deleted file to its copy.
    """
    found = os.stat(path)
    return f"{found.st_dev}:{found.st_ino}:{_born_ns(path)}"


def _born_ns(path: str) -> int:
    """Time of birth by statx(2), in ns; 0 where the file system or the C library has none."""
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):
        return 0
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", buffer, 0)
    if not mask & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _BTIME_OFFSET)
    return int(seconds) * 10**9 + int(nanoseconds)
