"""Identifiers: what a fleet, a device, a service, a stream, a slot and a model may be called.

`[a-z0-9][a-z0-9-]{0,62}`: a DNS label. None begins with `_`, so that the reserved topic levels
(`_tuf`, `_blob`) can never be a device; none holds `/`, `+`, `#`, `.` or a space, so that an id is
safe in a topic, a file name and a URL as it is.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from fieldloop_contract.errors import MalformedMessage

ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
SHA256_PATTERN = r"^[0-9a-f]{64}$"
EPOCH_PATTERN = r"^[0-9a-f]{32}$"

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
Epoch = Annotated[str, StringConstraints(pattern=EPOCH_PATTERN)]
Text = Annotated[str, StringConstraints(max_length=200)]


def check_id(value: str, what: str = "id") -> str:
    """Return `value` unchanged if it is a valid identifier.

    Raises:
        MalformedMessage: it is not.

    >>> check_id("pump-7")
    'pump-7'
    """
    if not isinstance(value, str) or not _ID.match(value):
        raise MalformedMessage(
            f"{what} {value!r:.80} is not a valid identifier",
            code="id.invalid",
            hint="use 1 to 63 of a-z, 0-9 and '-', not beginning with '-'",
        )
    return value
