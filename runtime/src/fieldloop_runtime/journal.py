"""Logs: JSON lines on stdout, a stable event name with fields.

One line for each change of state, never one for each message at INFO. The level is
`FIELDLOOP_LOG_LEVEL`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

_RESERVED = ("ts", "level", "event", "service")


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: ts (s), level, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; whatever is not JSON is written as its str."""
        line: dict[str, Any] = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "service": record.name,
            "event": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update((f"{k}_" if k in _RESERVED else k, v) for k, v in fields.items())
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class Journal:
    """Writes events of one part of the program. Any thread may call it."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"fieldloop.{name}")
        self.name = name

    def debug(self, event: str, /, **fields: Any) -> None:
        """For developers; off by default."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, /, **fields: Any) -> None:
        """A change of state."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, /, **fields: Any) -> None:
        """Something was refused, dropped or put off; it was counted too."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, /, *, trace: bool = False, **fields: Any) -> None:
        """Somebody has to look."""
        self._logger.error(event, exc_info=trace, extra={"fields": fields})


class Throttle:
    """Lets one of many like events through: at most one each `every_s`, and counts the others.

    For one thread. Time comes in as an argument.
    """

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.suppressed = 0
        self._last_s: float | None = None

    def allow(self, now_s: float | None = None) -> bool:
        """Whether to write this one."""
        now = time.monotonic() if now_s is None else now_s
        if self._last_s is None or now - self._last_s >= self.every_s:
            self._last_s, self.suppressed = now, 0
            return True
        self.suppressed += 1
        return False


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all events of this process to `stream` (stdout) as JSON lines. Call once, in `main`."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger("fieldloop")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
