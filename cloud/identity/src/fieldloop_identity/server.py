"""The door to enrolment: HTTPS with three paths, each a plain function of `enrolment.py`.

    GET  /v1/trust    the authority's certificates; a device believes the one its token names
    POST /v1/enrol    {"token", "csr"} -> Grant
    POST /v1/renew    {"csr"} -> Grant

Answers are JSON; an error is {"code", "message"} with status 400 (not understood), 403 (refused),
413, 429 or 503 (later). Bounds: bytes of a request, seconds of a connection, connections at a time.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fieldloop_contract.errors import (
    FieldloopError,
    FixConfiguration,
    MalformedMessage,
    RejectedInput,
    RetryLater,
    Untrusted,
)
from fieldloop_identity.enrolment import Enrolment, EnrolRequest, Grant, RenewRequest, utc_now
from fieldloop_runtime.journal import Journal

BODY_BYTES_MAX = 32_768
CONNECTIONS_MAX = 64
_TIMEOUT_S = 15
STATUS: dict[type[FieldloopError], int] = {
    Untrusted: 403,
    RetryLater: 503,
    RejectedInput: 400,
    FixConfiguration: 503,
}
RequestT = TypeVar("RequestT", bound=BaseModel)
Answer = tuple[int, dict[str, Any]]


def answer(enrolment: Enrolment, path: str, body: bytes, now: datetime) -> Answer:
    """One request, whatever carried it: HTTP status and JSON document."""
    try:
        if path == "/v1/enrol":
            return _granted(enrolment.enrol(_parse(EnrolRequest, body), now))
        if path == "/v1/renew":
            return _granted(enrolment.renew(_parse(RenewRequest, body), now))
    except FieldloopError as error:
        status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 500)
        return status, {"code": error.code, "message": str(error)}
    return 404, {"code": "http.path", "message": "try /v1/trust, /v1/enrol or /v1/renew"}


def _granted(grant: Grant) -> Answer:
    return 200, grant.model_dump()


def _parse(model: type[RequestT], body: bytes) -> RequestT:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise MalformedMessage(f"not a request: {error.error_count()} faults in it") from error


class Door(ThreadingHTTPServer):
    """The HTTPS server. `serve_forever` in a thread of its own; `shutdown` from another.

    Raises:
        FixConfiguration: the port cannot be had, or the certificate cannot be read.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        certificate: Path,
        key: Path,
        enrolment: Enrolment,
        trust: Callable[[], bytes],
        journal: Journal,
    ) -> None:
        self.enrolment, self.trust, self.journal = enrolment, trust, journal
        self._files = (certificate, key)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self.reload()
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise FixConfiguration(
                f"cannot listen on {address[0]}:{address[1]}: {error}"
            ) from error

    def reload(self) -> None:
        """Read certificate and key again; the next connection gets them."""
        try:
            self._tls.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            raise FixConfiguration(f"{self._files[0]} cannot be used: {error}") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each connection, as many as there are places."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The handshake happens here, so that a silent client holds up nobody but itself."""
        try:
            request.settimeout(_TIMEOUT_S)
            super().process_request_thread(self._wrap(request), client_address)
        except (OSError, ssl.SSLError):
            self.shutdown_request(request)
        finally:
            self._places.release()

    def _wrap(self, plain: socket) -> ssl.SSLSocket:
        return self._tls.wrap_socket(plain, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A connection that broke is nobody's business; the rest is logged, never shown."""
        self.journal.error("enrolment.failed", trace=True)


class _Handler(BaseHTTPRequestHandler):
    server: Door
    timeout = _TIMEOUT_S
    server_version = "fieldloop-identity"
    sys_version = ""

    def do_GET(self) -> None:
        """The authority's certificates."""
        if self.path == "/v1/trust":
            self._send(200, "application/x-pem-file", self.server.trust())
        else:
            self._json(*answer(self.server.enrolment, self.path, b"", utc_now()))

    def do_POST(self) -> None:
        """Enrol or renew."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            self._json(413, {"code": "http.length", "message": f"at most {BODY_BYTES_MAX} bytes"})
            return
        body = self.rfile.read(int(length))
        self._json(*answer(self.server.enrolment, self.path, body, utc_now()))

    def _json(self, status: int, document: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged; what came of them is."""
