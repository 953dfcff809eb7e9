"""What asks for a stretch of a stream: a person (`capture`), or an alarm in the inference log.

Requests are small files in the folder `{log}.requests`, written by `request` under another name and
renamed, so that the service never sees half of one. Alarms are events `alarm.raised` whose data
name the stream, read from the inference service's log where its path is set. Owner thread only.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldloop_buffer import Cursor, Kind, Reader
from fieldloop_contract.batch import load_json
from fieldloop_contract.errors import FieldloopError, RejectedInput
from fieldloop_contract.ids import check_id
from fieldloop_runtime.journal import Journal

ALARM_EVENT = "alarm.raised"
REQUESTS_PER_LOOK = 16
REQUEST_BYTES_MAX = 4_096
ROWS_PER_LOOK = 200


@dataclass(frozen=True, slots=True)
class Trigger:
    """A stretch of `stream` around `t_ns` is wanted, and why."""

    stream: str
    t_ns: int
    reason: str


def folder_of(log_path: str) -> Path:
    """Where requests for the service of this log are put."""
    return Path(f"{log_path}.requests")


def request(log_path: str, stream: str, t_ns: int | None = None, reason: str = "asked") -> Path:
    """Ask the service that writes `log_path` to record a stretch of a stream.

    Raises:
        MalformedMessage: `stream` is no identifier.
    """
    check_id(stream, "stream")
    folder = folder_of(log_path)
    folder.mkdir(parents=True, exist_ok=True)
    body = {"stream": stream, "t_ns": t_ns or time.time_ns(), "reason": reason}
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
    part = folder / f".{name}"
    part.write_text(json.dumps(body), encoding="utf-8")
    os.replace(part, folder / f"{name}.json")
    return folder / f"{name}.json"


class Triggers:
    """Looks for requests and alarms.

    Args:
        alarm_path: the inference service's log; "" where alarms trigger nothing.
    """

    def __init__(self, log_path: str, alarm_path: str, journal: Journal) -> None:
        self.refused = 0
        self._folder = folder_of(log_path)
        self._journal = journal
        self._reader = Reader(alarm_path) if alarm_path else None
        self._cursor: Cursor | None = None
        self._begun = False

    def look(self) -> list[Trigger]:
        """What has been asked for since the last look; a bounded number."""
        return [*self._requests(), *self._alarms()]

    def _requests(self) -> list[Trigger]:
        if not self._folder.is_dir():
            return []
        found = []
        for path in sorted(self._folder.glob("*.json"))[:REQUESTS_PER_LOOK]:
            try:
                with path.open("rb") as file:
                    data = file.read(REQUEST_BYTES_MAX + 1)
                found.append(_parse(load_json(data, REQUEST_BYTES_MAX)))
            except (OSError, FieldloopError) as error:
                self.refused += 1
                self._journal.warning("capture.refused", file=path.name, error=str(error))
            path.unlink(missing_ok=True)
        return found

    def _alarms(self) -> list[Trigger]:
        if self._reader is None:
            return []
        try:
            if not self._begun:
                # Alarms from before this service ran ask for samples that nobody kept.
                self._cursor, self._begun = self._reader.latest(), True
            chunk = self._reader.read(self._cursor, kinds=[Kind.EVENT], limit=ROWS_PER_LOOK)
        except FieldloopError as error:
            self._journal.debug("capture.alarms_unreadable", error=str(error))
            return []
        self._cursor = chunk.cursor
        found = []
        for row in chunk.rows:
            event = json.loads(row.payload)
            data = event.get("data", {})
            if event.get("type") == ALARM_EVENT and isinstance(data.get("stream"), str):
                found.append(Trigger(data["stream"], int(data.get("t_ns", row.t_ns)), ALARM_EVENT))
        return found

    def close(self) -> None:
        """Let go of the inference log."""
        if self._reader is not None:
            self._reader.close()


def _parse(document: Any) -> Trigger:
    if not isinstance(document, dict) or not isinstance(document.get("t_ns"), int):
        raise RejectedInput("a request is an object with stream and t_ns", code="capture.request")
    stream = check_id(document.get("stream"), "stream")  # type: ignore[arg-type]
    return Trigger(stream, document["t_ns"], str(document.get("reason", ""))[:100])
