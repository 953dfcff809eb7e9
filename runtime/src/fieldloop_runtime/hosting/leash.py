"""`python leash.py PARENT COMMAND...`: becomes COMMAND, which the kernel kills when PARENT dies.

Linux's PR_SET_PDEATHSIG outlives exec. Doing it here, and not in a `preexec_fn`, is safe in a
process with threads. A parent that died before is noticed by its process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the signal, see that the parent still lives, then become the command."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(sys.argv[1]):
        os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
