"""Events as log entries: CloudEvents 1.0, the device their source. Pure but for a random id."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from fieldloop_buffer.entry import Entry, Kind
from fieldloop_contract.messages import Event

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(t_ns: int) -> str:
    """UTC in ns as RFC 3339 text with microseconds.

    >>> rfc3339(0)
    '1970-01-01T00:00:00.000000Z'
    """
    moment = _EPOCH + timedelta(microseconds=t_ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event_entry(source: str, type_: str, data: dict[str, Any], t_ns: int, stream: str) -> Entry:
    """An event to append.

    Args:
        source: `fleet/device/service`.
        type_: dotted, lower-case, such as `log.dropped`.
        t_ns: UTC in ns as the device believes.
        stream: the stream it speaks of, or the service's id.
    """
    event = Event(id=uuid.uuid4().hex, source=source, type=type_, time=rfc3339(t_ns), data=data)
    return Entry(Kind.EVENT, stream, t_ns, event.encode())
