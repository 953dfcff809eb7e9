"""What stands before every request: who may see pages, which site may open a socket, safe headers.

The API's routes check for themselves who asks, and with which role; the guard keeps the dashboard,
its scripts and its socket for those who are logged in, refuses sockets that another site opens,
bounds bodies, and gives every response the headers that keep other sites out of ours.
"""

from __future__ import annotations

import asyncio
import hashlib
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fieldloop_console import problems
from fieldloop_console.api.doors import COOKIE
from fieldloop_console.console import Console
from fieldloop_console.identity import Actor
from fieldloop_contract.errors import RetryLater

BODY_BYTES_MAX = 4 << 20
ETAG_BYTES_MAX = 1 << 20
ACTOR = "fieldloop.actor"
_OPEN = ("/api/", "/login", "/welcome/", "/static/", "/healthz", "/hooks/", "/favicon.ico")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self' ws: wss:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""NiceGUI's pages compile templates in the browser; hence the two `unsafe-` words."""
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, console: Console) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        path = scope["path"]
        if refused is None and not path.startswith(_OPEN):
            try:
                actor = await asyncio.to_thread(self._actor, scope, headers)
            except RetryLater as error:
                refused = problems.answer_error(error)
            else:
                if actor is None:
                    refused = self._to_login(scope)
                scope[ACTOR] = actor
        if refused is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refused(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["path"].startswith("/_nicegui_ws") or scope["type"] == "websocket":
            origin = headers.get("origin")
            if origin is not None and origin.split("://", 1)[-1] != headers.get("host", ""):
                return problems.answer(403, "opened by another site", code="access.origin")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            return problems.answer(
                413, f"a body has at most {BODY_BYTES_MAX} bytes", code="request.length"
            )
        return None

    def _actor(self, scope: Scope, headers: Headers) -> Actor | None:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return None
        morsel = cookies.get(COOKIE)
        address = scope["client"][0] if scope.get("client") else ""
        return self._console.gate.by_session(morsel.value, address) if morsel else None

    def _to_login(self, scope: Scope) -> Response:
        path = scope["path"]
        if scope["type"] == "http" and scope["method"] == "GET" and "_nicegui" not in path:
            query = scope["query_string"].decode("latin-1")
            target = quote(path + (f"?{query}" if query else ""), safe="")
            return RedirectResponse(f"/login?next={target}", 303)
        return problems.answer(401, "log in first", code="access.unknown")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


class ETags:
    """ASGI middleware: an ETag on the API's answers, and 304 where the caller has it already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold a GET's answer back until its body is known."""
        if (
            scope["type"] != "http"
            or scope["method"] != "GET"
            or not scope["path"].startswith("/api/")
        ):
            await self._app(scope, receive, send)
            return
        known = Headers(scope=scope).get("if-none-match", "")
        held: list[Message] = []
        size = 0

        async def holding(message: Message) -> None:
            nonlocal size
            held.append(message)
            size += len(message.get("body", b""))
            if size > ETAG_BYTES_MAX:
                while held:
                    await send(held.pop(0))

        await self._app(scope, receive, holding)
        if held and held[0]["type"] == "http.response.start":
            await _finish(held, known, send)
        else:
            for message in held:
                await send(message)


async def _finish(held: list[Message], known: str, send: Send) -> None:
    start = held[0]
    headers = MutableHeaders(scope=start)
    headers.setdefault("Cache-Control", "private, no-cache")
    if start["status"] == 200:
        body = b"".join(m.get("body", b"") for m in held[1:])
        tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        headers["ETag"] = tag
        if known and tag in [part.strip() for part in known.split(",")]:
            del headers["content-length"]
            await send({**start, "status": 304})
            await send({"type": "http.response.body", "body": b""})
            return
    for message in held:
        await send(message)
