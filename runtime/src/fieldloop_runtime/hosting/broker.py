"""A broker for one machine: mosquitto where it is installed, otherwise the embedded amqtt."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import time
from pathlib import Path

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_runtime.hosting.processes import BROKER, Child, Processes

_START_TIMEOUT_S = 20.0
_SEARCH = ":/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a TCP port of the loopback interface can be listened on now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Broker:
    """One broker process that can be killed, with all it held, and started again.

    Args:
        kind: `mosquitto`, `amqtt`, or `auto` for the first one that is there.
        port: to listen on; 0 takes a free one.
        keep: whether what it holds survives a restart; mosquitto only.

    Raises:
        FixConfiguration: `mosquitto` was asked for and is not installed.
    """

    def __init__(
        self, kind: str, folder: Path, processes: Processes, *, port: int = 0, keep: bool = False
    ) -> None:
        binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + _SEARCH)
        if kind == "mosquitto" and binary is None:
            raise FixConfiguration(
                "mosquitto is not installed",
                hint="apt-get install mosquitto, or use --broker amqtt",
            )
        self.port = port or free_port()
        self._processes = processes
        self._child: Child | None = None
        if binary is not None and kind != "amqtt":
            self.name = "mosquitto"
            self._command = [binary, "-c", str(self._configure(folder, keep))]
        else:
            self.name = "amqtt"
            self._command = [
                sys.executable,
                "-m",
                "fieldloop_runtime.hosting.embedded",
                str(self.port),
            ]

    def _configure(self, folder: Path, keep: bool) -> Path:
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true"]
        lines += ["persistence true", f"persistence_location {folder}/"] if keep else []
        lines += ["max_inflight_messages 100", "max_queued_messages 10000", "log_type error"]
        if os.geteuid() == 0:
            lines.append("user root")
        path = folder / "mosquitto.conf"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def start(self) -> None:
        """Start it and wait until it accepts connections; RetryLater if it does not."""
        self._child = self._processes.start(BROKER, self._command, {})
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._child.running:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise RetryLater(f"{self.name} did not start; see {self._child.log_path}")

    def kill(self) -> None:
        """SIGKILL it; all that it held is gone."""
        if self._child is not None:
            self._processes.kill(self._child)
            self._child = None
