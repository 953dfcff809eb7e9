"""Run by the Python of another environment: rows into ThingsBoard Gateway's own SQLite storage.

    python gateway_storage.py FOLDER ROWS ROW_BYTES

Prints a JSON object: `rows_s` until all rows are in its database (its `put` answers at once, before
any commit), and `put_rows_s` of that answer alone.
"""

from __future__ import annotations

import glob
import json
import logging
import sqlite3
import sys
import threading
import time

from thingsboard_gateway.storage.sqlite.sqlite_event_storage import (  # type: ignore[import-not-found]
    SQLiteEventStorage,
)


class Quiet(logging.Logger):
    """The gateway's loggers know a level more."""

    def trace(self, *arguments: object, **named: object) -> None:
        """Say nothing."""


def main() -> None:
    folder, rows, row_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    stop = threading.Event()
    logger = Quiet("storage", logging.CRITICAL)
    config = {"data_file_path": folder + "/", "writing_batch_size": 1000}
    storage = SQLiteEventStorage(config, logger, stop)
    message = json.dumps({"x": "y" * (row_bytes - 8)})
    begun = time.perf_counter()
    for _ in range(rows):
        if not storage.put(message):
            raise SystemExit("refused")
    put = time.perf_counter() - begun
    (path,) = glob.glob(folder + "/*.db")
    reader = sqlite3.connect(path, timeout=10)
    while reader.execute("SELECT max(id) FROM messages").fetchone()[0] != rows:
        time.sleep(0.005)
    seconds = time.perf_counter() - begun
    print(json.dumps({"rows_s": rows / seconds, "put_rows_s": rows / put}))
    stop.set()
    storage.stop()


if __name__ == "__main__":
    main()
