"""The other road: chunks by range requests from an HTTPS server, which is trusted with nothing.

A thread of its own does the waiting. It is handed one run of chunks at a time and hands back their
bytes; the owner checks each against its signed digest, as if it had come over MQTT, so that
resuming and stopping at the declared length are the same on both roads. A file is
`{base}/sha256/{digest}`.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import ssl
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from fieldloop_contract.errors import FixConfiguration

RUN_BYTES_MAX = 512 * 1024
PIECES_MAX = 32
_JOIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks in a row of one file: where they begin, and their digests and lengths."""

    bundle: str
    file: str
    offset: int
    chunks: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What came for one chunk."""

    bundle: str
    digest: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A run is over; `fault` in words where it did not come as it should."""

    run: Run
    fault: str


class HttpsRoad:
    """One connection, one request at a time. `ask`, `take` and `stop` are the owner's.

    Raises:
        FixConfiguration: the URL is not https, or the authority cannot be read.
    """

    def __init__(self, base_url: str, ca_file: str, timeout_s: float) -> None:
        address = urlsplit(base_url)
        if address.scheme != "https" or not address.hostname:
            raise FixConfiguration(f"{base_url!r:.120} is no https URL", code="update.https")
        try:
            self._tls = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise FixConfiguration(f"{ca_file}: {error}", code="update.https") from error
        self._host, self._port = address.hostname, address.port or 443
        self._path = address.path.rstrip("/")
        self._timeout_s = timeout_s
        self._runs: queue.Queue[Run | None] = queue.Queue(2)
        self._found: queue.Queue[Piece | Ended] = queue.Queue(PIECES_MAX)
        self._stop = threading.Event()
        self._connection: http.client.HTTPSConnection | None = None
        self._thread: threading.Thread | None = None
        self.busy: Run | None = None

    def ask(self, run: Run) -> None:
        """Fetch a run; only while nothing is under way (`busy` is None)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="https", daemon=True)
            self._thread.start()
        self.busy = run
        self._runs.put_nowait(run)

    def take(self) -> list[Piece | Ended]:
        """What has come since the last call."""
        found: list[Piece | Ended] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < PIECES_MAX:
                found.append(self._found.get_nowait())
        if any(isinstance(item, Ended) for item in found):
            self.busy = None
        return found

    def stop(self) -> None:
        """End the thread; what it waits for ends with its time limit at the latest."""
        self._stop.set()
        with contextlib.suppress(queue.Full):
            self._runs.put_nowait(None)
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _work(self) -> None:
        while not self._stop.is_set():
            run = self._runs.get()
            if run is None:
                break
            try:
                fault = self._fetch(run)
            except (OSError, http.client.HTTPException) as error:
                fault = f"{type(error).__name__}: {error!s:.120}"
            if fault:
                self._disconnect()
            self._hand_over(Ended(run, fault))
        self._disconnect()

    def _hand_over(self, item: Piece | Ended) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._found.put(item, timeout=0.5)
                return

    def _fetch(self, run: Run) -> str:
        """One range request; returns the fault in words, or ""."""
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._tls
            )
            self._connection = connection
        size = sum(length for _, length in run.chunks)
        wanted = f"bytes={run.offset}-{run.offset + size - 1}"
        connection.request("GET", f"{self._path}/sha256/{run.file}", headers={"Range": wanted})
        response = connection.getresponse()
        whole = response.status == http.client.OK and run.offset == 0
        if response.status != http.client.PARTIAL_CONTENT and not whole:
            return f"the server answered {response.status} {response.reason!s:.60}"
        started = response.getheader("Content-Range", "")
        if not whole and not started.startswith(f"bytes {run.offset}-"):
            return f"the server sent another range: {started:.60}"
        for digest, length in run.chunks:
            payload = response.read(length)
            if len(payload) != length:
                return "the server sent less than it was asked for"
            self._hand_over(Piece(run.bundle, digest, payload))
        if whole or response.read(1):
            self._disconnect()  # the rest, however long, is never read
        return ""

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
