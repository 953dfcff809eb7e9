"""Freeze a log as one release writes it: files as a kill leaves them, for `test_frozen_logs.py`.

    PYTHONPATH=<sources of the release> python freeze_log.py frozen/log-vN.tar.gz

Run once for each schema version, by the last release that wrote it; the archive is never changed.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path

from fieldloop_buffer import DeadLetter, Entry, Kind, Log, LogSettings

ROWS, ACKNOWLEDGED, WITHHELD = 40, 15, 5


def payload(n: int) -> bytes:
    """The row of number `n`."""
    return json.dumps({"n": n, "x": "y" * (n % 7)}).encode()


def main() -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        log = Log.open(
            LogSettings(path=str(path), mode="balanced", reserve_bytes=0),
            fleet="demo",
            device="pump-1",
            service="ingestion",
        )
        for n in range(1, ROWS + 1):
            withheld = n > ROWS - WITHHELD
            log.append(Entry(Kind.RESULT, f"stream-{n % 3}", n, payload(n), withheld))
            if n == ROWS // 2:
                log.commit(force=True)
        log.set_state("position", "7")
        log.dead_letter(DeadLetter(1, "plc", "stream-0", "range", "out of range", b"\x01"))
        log.commit(force=True)
        log.acknowledge(log.epoch, [(1, 10), (12, 16)])
        log.commit(force=True)
        with tarfile.open(sys.argv[1], "w:gz") as archive:
            for end in ("", "-wal", ".epochs"):
                archive.add(f"{path}{end}", f"log.db{end}")
            text = Path(folder) / "epoch"
            text.write_text(log.epoch, encoding="ascii")
            archive.add(text, "epoch")


if __name__ == "__main__":
    main()
