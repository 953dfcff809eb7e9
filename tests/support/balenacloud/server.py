"""The HTTP side: authorisation, rate limit, OData requests to answers, and faults on demand."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from support.balenacloud.odata import Options, ParsingError, parse_options, split
from support.balenacloud.state import TABLES, Refused, State

BODY_BYTES_MAX = 1 << 20
_PATH = re.compile(r"/v7/(\w+)(?:\((.*)\))?(/\$count)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Access:
    """What a token may do: applications it sees (None: all), and whether it may change them."""

    applications: frozenset[int] | None = None
    write: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body (None: empty; text and objects go as JSON, bytes as they are), headers."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Fault:
    """The next `times` requests that match are answered so; `before` is called first."""

    answer: Answer | None
    times: int = 1
    method: str = ""
    containing: str = ""
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came, decoded."""

    method: str
    path: str
    body: Any
    status: int


class Api:
    """Requests to answers, without sockets; any thread."""

    def __init__(self) -> None:
        self.state = State()
        self.tokens: dict[str, Access] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.limit: tuple[int, float] | None = None
        self._window: list[float] = []

    def answer(self, method: str, url: str, token: str, body: Any) -> Answer:
        """One request from its arrival to its answer."""
        target = unquote(url)
        with self.state.lock:
            fault = self._fault(method, target)
            limited = self._limited()
        if fault is not None:
            fault.before()
        if fault is not None and fault.answer is not None:
            answer = fault.answer
        elif limited is not None:
            answer = limited
        else:
            with self.state.lock:
                answer = self._run(method, url, token, body)
        with self.state.lock:
            self.seen.append(Seen(method, target, body, answer.status))
        if fault is not None:
            fault.after()
        return answer

    def _fault(self, method: str, target: str) -> Fault | None:
        for fault in self.faults:
            if fault.method in ("", method) and fault.containing in target:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _limited(self) -> Answer | None:
        if self.limit is None:
            return None
        most, period_s = self.limit
        now = time.monotonic()
        self._window = [t for t in self._window if now - t < period_s]
        if len(self._window) >= most:
            wait_s = max(1, round(period_s - (now - self._window[0]) + 0.5))
            return Answer(429, "Too Many Requests", {"Retry-After": str(wait_s)})
        self._window.append(now)
        return None

    def _run(  # noqa: PLR0911 - one return for each way to end
        self, method: str, url: str, token: str, body: Any
    ) -> Answer:
        parts = urlsplit(url)
        path = unquote(parts.path)
        access = self.tokens.get(token)
        if access is None:
            return Answer(401, "Unauthorized")
        if path == "/actor/v1/whoami":
            who = {"id": 1, "actorType": "user", "actorTypeId": 1, "username": "operator"}
            return Answer(200, {**who, "email": "operator@example.org"})
        match = _PATH.fullmatch(path)
        if match is None:
            return Answer(404, f"Cannot {method} {path}")
        resource, key, count = match.groups()
        if resource not in TABLES:
            return Answer(401)
        try:
            options = parse_options([unquote(p) for p in parts.query.split("&")])
            ids = self._select(resource, key, options, access)
            if method == "GET":
                return self._get(resource, ids, options, count=bool(count))
            if not access.write:
                return Answer(401)
            if method == "POST":
                return self._post(resource, body, access)
            if method == "PATCH":
                self.state.change(resource, ids, _object(body))
                return Answer(200)
            if method == "DELETE":
                self.state.remove(resource, ids)
                return Answer(200)
        except ParsingError:
            return Answer(500)
        except Refused as error:
            return Answer(error.status, error.body)
        return Answer(405)

    # Reading.

    def _select(
        self, resource: str, key: str | None, options: Options, access: Access
    ) -> list[int]:
        rows = self.state.rows[resource]
        ids = list(rows) if key is None else self._by_key(resource, key)
        if access.applications is not None:
            ids = [i for i in ids if self._application(resource, i) in access.applications | {None}]
        return self._shape(resource, ids, options)

    def _by_key(self, resource: str, key: str) -> list[int]:
        rows = self.state.rows[resource]
        if key.isdigit():
            return [int(key)] if int(key) in rows else []
        wanted = {}
        for pair in split(key, ","):
            name, _, value = pair.partition("=")
            quoted = len(value) > 1 and value[0] == value[-1] == "'"
            wanted[name] = value[1:-1].replace("''", "'") if quoted else int(value)
        return [i for i, row in rows.items() if all(row.get(k) == v for k, v in wanted.items())]

    def _application(self, resource: str, row: int) -> int | None:
        """Which application a row belongs to; None for what everybody sees."""
        for name in ("belongs_to__application", "application", "device", "release", "service"):
            link = TABLES[resource].links.get(name)
            if link is not None:
                target = self.state.rows[resource][row].get(name)
                if target is None:
                    return -1
                return target if link == "application" else self._application(link, target)
        if resource == "device_service_environment_variable":
            install = self.state.rows[resource][row]["service_install"]
            return self._application("service_install", install)
        return row if resource == "application" else None

    def _shape(self, resource: str, ids: list[int], options: Options) -> list[int]:
        """Filter, order and page."""
        data, judge = self.state, options.filter
        if judge is not None:
            ids = [i for i in ids if judge(data, (resource, i), {}) is True]
        for name, backwards in reversed(options.orderby):
            ids = sorted(
                ids,
                key=lambda i, n=name: _sortable(data.value(resource, i, n)),  # type: ignore[misc]
                reverse=backwards,
            )
        ids = ids[options.skip :]
        return ids if options.top is None else ids[: options.top]

    def _get(self, resource: str, ids: list[int], options: Options, *, count: bool) -> Answer:
        if count:
            return Answer(200, {"d": len(ids)})
        return Answer(200, {"d": [self._row(resource, i, options) for i in ids]})

    def _row(self, resource: str, row: int, options: Options) -> dict[str, Any]:
        table = TABLES[resource]
        names = options.select
        if names is None:
            names = [*table.fields, *table.links]
        document: dict[str, Any] = {}
        for name in names:
            if name in table.many and name in options.expand:
                continue  # as balena-sdk selects what it expands
            value = self.state.value(resource, row, name)
            link = name in table.links and value is not None
            document[name] = {"__id": value} if link else value
        for name, inner in options.expand.items():
            other, ids = self.state.related(resource, row, name)
            ids = self._shape(other, ids, inner)
            if inner.count:
                document[name] = len(ids)
            else:
                document[name] = [self._row(other, i, inner) for i in ids]
        return document

    def _post(self, resource: str, body: Any, access: Access) -> Answer:
        values = _object(body)
        row = self.state.add(resource, values)
        owner = self._application(resource, row)
        if access.applications is not None and owner not in access.applications | {None}:
            self.state.remove(resource, [row])
            return Answer(401)
        return Answer(201, self._row(resource, row, Options()))


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise Refused(400, "Bad Request")
    return body


def _sortable(value: Any) -> tuple[int, Any]:
    return (1, 0) if value is None else (0, value)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: Api

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            return self._send(Answer(413, "request entity too large"))
        payload = self.rfile.read(length)
        try:
            body = json.loads(payload) if payload else None
        except ValueError:
            return self._send(Answer(400, "Bad Request"))
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        answer = self.api.answer(self.command, self.path, token if scheme == "Bearer" else "", body)
        return self._send(answer)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _handle

    def _send(self, answer: Answer) -> None:
        raw = answer.body if isinstance(answer.body, bytes) else b""
        if not raw and answer.body is not None:
            raw = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        if not isinstance(answer.body, bytes) and raw:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `Api.seen` has it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class BalenaCloud(Api):
    """The API on a port of this machine; it can go down and come back with its state."""

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        self.port = port
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """What `api_endpoint` is set to."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> BalenaCloud:
        """Listen; the first time on any free port, then on the same one."""
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on, and cut those that are open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self._server.open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server = None

    def changes(self) -> list[Seen]:
        """Requests that changed something, in order."""
        with self.state.lock:
            return [s for s in self.seen if s.method != "GET" and s.status < 300]
