"""`python -m fieldloop_buffer.migrate PATH`: make or migrate a log file, in a process of its own.

Exit status 0: done; 75: disk full; 1: SQLite refused the file.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys

from fieldloop_buffer.connection import is_full
from fieldloop_buffer.schema import migrate


def main() -> int:
    """Migrate the file named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fieldloop_buffer.migrate",
        description="Make a log file, or bring an older one to the current schema.",
    )
    parser.add_argument("path", help="the log's file")
    arguments = parser.parse_args()
    try:
        migrate(arguments.path)
    except sqlite3.Error as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 75 if is_full(error) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
