"""Which file on which machine: a log that was copied or cloned must begin a new epoch.

An SD card copied bit by bit has the same file, the same machine id and the same inode; what differs
is the hardware's own serial number, so whatever of these can be read goes into the fingerprint.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

_SOURCES = (
    "/etc/machine-id",
    "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_uuid",
    "/sys/block/mmcblk0/device/cid",
)
_READ_BYTES_MAX = 4096


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
    """Device and inode of the file: a copy has another inode."""
    found = os.stat(path)
    return f"{found.st_dev}:{found.st_ino}"
