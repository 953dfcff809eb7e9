"""Run by an earlier release's code: opens a log, says what it finds, adds rows, closes it.

python old_log_reader.py LOG ROWS
"""

from __future__ import annotations

import json
import sys

import fieldloop_buffer
from fieldloop_buffer import Entry, Kind, Log, LogSettings, Reader
from fieldloop_buffer.outbox import Outbox


def main() -> None:
    """Print what is found as one JSON object."""
    path, rows = sys.argv[1], int(sys.argv[2])
    log = Log.open(LogSettings(path=path), fleet="demo", device="pump-1", service="ingestion")
    outbox = Outbox(path)
    view = outbox.view()
    assert view is not None
    waiting = outbox.waiting(0, view.durable, 100_000, 1 << 30)
    letters = outbox.fetch([(row.key, row.key) for row in waiting])
    reader = Reader(path)
    held = len(reader.read(None, kinds=tuple(Kind), limit=100_000).rows)
    found = {
        "code": fieldloop_buffer.__file__,
        "ledgers": [ledger.model_dump() for ledger in log.ledgers()],
        "pending": [letter.seq for letter in letters if letter.sound],
        "held": held,
        "state": log.state("position"),
        "first_seq": log.append(Entry(Kind.RESULT, "imu", 1, b'{"n": 0}')),
    }
    for n in range(1, rows):
        log.append(Entry(Kind.RESULT, "imu", n, b'{"n": 1}'))
    log.commit(force=True)
    log.acknowledge(log.epoch, [(1, found["first_seq"])])
    reader.close()
    outbox.file.close()
    log.close()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
