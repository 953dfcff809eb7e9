"""A real mosquitto on a free port, in a temporary folder: killed, wiped, restarted at will."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

_START_TIMEOUT_S = 15.0


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_mosquitto() -> str:
    """Path of the server; skips without it on a laptop, fails where CI is set."""
    path = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        message = "mosquitto is not installed (Debian: apt-get install mosquitto)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


class Mosquitto:
    """One server. Retained messages live in memory, so `kill` and `start` wipe it.

    Args:
        folder: where its configuration goes.
        acl: text of an access list; with one, a client's user name is its identity.
    """

    def __init__(self, folder: Path, *, acl: str | None = None, extra: str = "") -> None:
        self.port = free_port()
        self._binary = find_mosquitto()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "log_type error", extra]
        if acl is not None:
            (folder / "acl").write_text(acl, encoding="utf-8")
            lines.append(f"acl_file {folder / 'acl'}")
        if os.geteuid() == 0:
            lines.append("user root")
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        """Start it and wait until it accepts connections."""
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-c", str(self._folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            time.sleep(0.02)
        raise RuntimeError((self._folder / "mosquitto.log").read_text(encoding="utf-8"))

    def kill(self) -> None:
        """SIGKILL: everything it held is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: half-open connections, nothing answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
