"""The running console: the web server in the main thread, looking and auditing in two others."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from fieldloop_console import telling
from fieldloop_console.app import make_app
from fieldloop_console.console import Console, make_console
from fieldloop_console.settings import ConsoleSettings
from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_runtime.health import Health
from fieldloop_runtime.health import serve as serve_health
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.life import Life
from fieldloop_store.accounts import audit_some
from fieldloop_store.engine import Store

LOGS_PER_LOOK = 20
_IDLE_S = 2.0
_WAITING_MAX = 1_024


class _Server(uvicorn.Server):
    """Leaves signals to `Life`."""

    def install_signal_handlers(self) -> None:
        """Nothing."""

    def capture_signals(self) -> Any:
        """Nothing."""
        from contextlib import nullcontext  # noqa: PLC0415

        return nullcontext()


def serve(life: Life, settings: ConsoleSettings) -> None:
    """Serve until stopped.

    Raises:
        FixConfiguration: the address cannot be had, or the store not be opened.
    """
    journal = Journal("console")
    store = Store.open(settings.store_url)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    url = settings.url or f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    console = make_console(store, settings, url=url, journal=journal)
    health = Health()
    stop_health = serve_health(health, settings.health)
    _invite(console)
    config = uvicorn.Config(
        make_app(console),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_graceful_shutdown=3,
        ws_max_size=1 << 20,
        limit_concurrency=2_000,
    )
    server = _Server(config)
    _first_look(console)
    life.spawn("pulse", lambda: _beat(life, console, health))
    life.spawn("books", lambda: _audit(life, console, health))
    life.spawn("webhooks", lambda: _tell(life, console, health))
    life.spawn("stopping", lambda: _stop(life, console, server))
    journal.info("service.started", url=url)
    try:
        server.run(sockets=[listener])
    finally:
        life.stop.set()
        console.stop.set()
        stop_health()
        store.close()


def _listen(settings: ConsoleSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_WAITING_MAX)  # from now on whoever connects waits, and is not refused
    except OSError as error:
        raise FixConfiguration(
            f"cannot listen on {settings.host}:{settings.port}: {error}",
            hint="set FIELDLOOP_PORT to a free port, or 0",
        ) from error
    return listener


def _invite(console: Console) -> None:
    """Where there is no user yet, say how to become the first."""
    secret = console.gate.first_run_link()
    if secret is None:
        return
    link = f"{console.url}/welcome/{secret}"
    sys.stderr.write(
        f"\nNobody can log in yet. Set the administrator's password here:\n\n  {link}\n\n"
    )
    sys.stderr.flush()
    if console.settings.first_link_file:
        path = Path(console.settings.first_link_file)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(link + "\n")


def _first_look(console: Console) -> None:
    """A large fleet takes a second or two: before the first page is asked for, not while it is."""
    try:
        console.pulse.beat()
    except RetryLater as error:
        console.journal.warning("store.away", error=str(error))


def _beat(life: Life, console: Console, health: Health) -> None:
    while not life.stop.is_set():
        health.tick("pulse", 60)
        try:
            console.pulse.beat()
        except RetryLater as error:
            console.journal.warning("store.away", error=str(error))
        life.stop.wait(console.settings.refresh_s)


def _audit(life: Life, console: Console, health: Health) -> None:
    """Audit logs, a few at a time, resting so that it takes no more than its share of a core."""
    while not life.stop.is_set():
        health.tick("books", 600)
        begun_s = time.monotonic()
        try:
            audited = audit_some(console.store, limit=LOGS_PER_LOOK, now_ns=console.now_ns())
        except RetryLater as error:
            console.journal.warning("store.away", error=str(error))
            audited = 0
        took_s = time.monotonic() - begun_s
        rest_s = took_s * (1 / console.settings.audit_share - 1)
        life.stop.wait(min(max(rest_s, 0.5), 120) if audited else _IDLE_S)


def _tell(life: Life, console: Console, health: Health) -> None:
    """Tell webhooks what happened; a slow receiver holds up the others, and nothing else."""
    while not life.stop.is_set():
        health.tick("webhooks", 600)
        try:
            telling.queue_news(console.store, console.now_ns())
            telling.send_due(console.store, console.now_ns())
        except RetryLater as error:
            console.journal.warning("store.away", error=str(error))
        life.stop.wait(console.settings.refresh_s)


def _stop(life: Life, console: Console, server: uvicorn.Server) -> None:
    life.stop.wait()
    console.stop.set()
    server.should_exit = True
