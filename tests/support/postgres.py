"""A real PostgreSQL cluster of the tests' own, in a temporary folder, on a free port.

initdb refuses root, so as root everything runs as the system user `postgres`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.broker import free_port

_START_TIMEOUT_S = 60.0


def find_postgres() -> Path:
    """Folder of the server's programs; skips without it on a laptop, fails where CI is set."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0,
    )
    on_path = shutil.which("initdb")
    if on_path is not None:
        folders.append(Path(on_path).resolve())
    if not folders:
        message = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folders[-1].parent


def _as_user() -> dict[str, Any]:
    """Arguments for subprocess that leave root behind."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("postgres")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Postgres:
    """One cluster: start it, kill it, start it again; its data stays until `remove`."""

    def __init__(self) -> None:
        self._bin = find_postgres()
        self._who = _as_user()
        self._names = itertools.count()
        self.port = free_port()
        # Not pytest's folder: that one lets nobody but its owner in.
        self._folder = Path(tempfile.mkdtemp(prefix="fieldloop-postgres-"))
        self._data = self._folder / "data"
        if self._who:
            os.chown(self._folder, self._who["user"], self._who["group"])
        subprocess.run(
            [str(self._bin / "initdb"), "-D", str(self._data), "-U", "fieldloop", "-A", "trust",
             "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True, capture_output=True, cwd=self._folder, **self._who,
        )  # fmt: skip
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n"
                f"unix_socket_directories = '{self._folder}'\nshared_buffers = 32MB\n"
                "max_connections = 50\n"
            )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Postgres:
        """Start it and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._data)],
                stdout=log, stderr=log, cwd=self._folder, **self._who,
            )  # fmt: skip
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self._address("postgres"), connect_timeout=5).close()
                return self
            time.sleep(0.05)
        raise RuntimeError((self._folder / "log").read_text(encoding="utf-8"))

    def new_database(self) -> str:
        """Make an empty database; returns its URL."""
        name = f"test{next(self._names)}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql://fieldloop@127.0.0.1:{self.port}/{name}"

    def kill(self) -> None:
        """SIGQUIT, the server's own word for "at once": no checkpoint; recovery at the next start.

        SIGKILL would leave its children and their shared memory behind.
        """
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Kill it and delete its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _address(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=fieldloop dbname={database}"


@functools.cache
def shared_postgres() -> Postgres:
    """The one cluster that tests share which do not kill it; removed at exit."""
    cluster = Postgres()
    atexit.register(cluster.remove)
    return cluster.start()
