"""`fieldloop-training`: the service, and the commands to see and steer what it does.

The composition root: settings are read here, once, and everything is passed on from here.
"""

from __future__ import annotations

import sys

from fieldloop_training.commands import app


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        app(arguments, prog_name="fieldloop-training")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
