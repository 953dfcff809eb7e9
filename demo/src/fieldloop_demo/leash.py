"""`python leash.py COMMAND...`: becomes COMMAND, which the kernel kills when its parent dies.

Linux's PR_SET_PDEATHSIG outlives exec. Doing it here, and not in a `preexec_fn`, is safe in a
process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the signal, then become the command."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
