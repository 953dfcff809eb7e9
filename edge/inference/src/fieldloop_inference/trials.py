"""The parent's side of a trial: starts the child, polls it, reads its verdict. Owner thread only.

Never blocks: the owner goes on scoring windows while the child works. The child gets no credentials
(its environment is without `FIELDLOOP_` variables), a limit of wall time, and is killed with us.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from typing import IO, Any

from fieldloop_contract.manifest import Manifest
from fieldloop_inference.trial import Verdict

START_GRACE_S = 20.0
"""A Pi takes seconds to start Python and load the runtime; only then the model's own time runs."""
OUTPUT_BYTES_MAX = 64 * 1024


class Trial:
    """One child. `poll` until it gives a verdict, or `stop` it."""

    def __init__(
        self,
        manifest: Manifest,
        folder: str,
        *,
        runtime: str,
        threads: int,
        now_s: float,
        delegate: str = "",
    ) -> None:
        self.deadline_s = now_s + manifest.limits.trial_seconds_max + START_GRACE_S
        request = {
            "manifest": manifest.encode().decode(),
            "dir": folder,
            "runtime": runtime,
            "threads": threads,
            "delegate": delegate,
        }
        # Files rather than pipes: neither side can ever block on the other.
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(request).encode())
            stdin.seek(0)
            self._child = subprocess.Popen(
                [sys.executable, "-m", "fieldloop_inference.trial"],
                stdin=stdin,
                stdout=self._out,
                stderr=self._err,
                env={k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
                start_new_session=True,
            )

    def poll(self, now_s: float) -> Verdict | None:
        """The verdict, or None while the child works."""
        code = self._child.poll()
        if code is None:
            if now_s < self.deadline_s:
                return None
            self.stop()
            return Verdict(False, "the trial did not end in time")
        verdict = self._verdict(code)
        self.stop()
        return verdict

    def _verdict(self, code: int) -> Verdict:
        self._out.seek(0)
        document = _parse(self._out.read(OUTPUT_BYTES_MAX))
        if code == 0 and document is not None:
            return document
        self._err.seek(0, os.SEEK_END)
        self._err.seek(max(0, self._err.tell() - 400))
        words = " ".join(self._err.read().decode("utf-8", "replace").split())[-200:]
        if code == -signal.SIGXCPU:
            return Verdict(False, "the trial took more CPU time than the manifest allows")
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return Verdict(False, f"the trial's process {how}: {words}")

    def stop(self) -> None:
        """End the child and forget it."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self._out.close()
        self._err.close()


def _parse(text: bytes) -> Verdict | None:
    try:
        document: dict[str, Any] = json.loads(text)
        figures = {str(k): float(v) for k, v in document["figures"].items()}
        return Verdict(
            passed=document["passed"] is True,
            reason=str(document["reason"])[:500],
            fault=document["fault"] is True,
            figures={k: v for k, v in figures.items() if math.isfinite(v)},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
