"""Health and metrics over HTTP: `/healthz` for supervisors, `/metrics` for Prometheus.

Health is the age of each loop's last tick against its limit, and named conditions; not "connected":
a device that is offline is healthy.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from fieldloop_contract.errors import FixConfiguration
from fieldloop_runtime.settings import HealthSettings


class Health:
    """Ticks and conditions of one process. Any thread may call it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ticks: dict[str, tuple[float, float]] = {}
        self._conditions: dict[str, Callable[[], str | None]] = {}
        self._lock = threading.Lock()

    def tick(self, loop: str, limit_s: float = 30.0) -> None:
        """Say that `loop` is alive; it is unhealthy when silent for `limit_s`."""
        with self._lock:
            self._ticks[loop] = (time.monotonic(), limit_s)

    def condition(self, name: str, check: Callable[[], str | None]) -> None:
        """Add a condition: `check` returns None when fine, otherwise what is wrong."""
        with self._lock:
            self._conditions[name] = check

    def report(self) -> tuple[bool, dict[str, str]]:
        """Whether all is well, and the state of each part in words."""
        with self._lock:
            ticks, conditions = dict(self._ticks), dict(self._conditions)
        now = time.monotonic()
        parts: dict[str, str] = {}
        healthy = True
        for loop, (at, limit_s) in ticks.items():
            age = now - at
            parts[loop] = "ok" if age <= limit_s else f"silent for {age:.0f} s"
            healthy = healthy and age <= limit_s
        for name, check in conditions.items():
            fault = check()
            parts[name] = fault or "ok"
            healthy = healthy and fault is None
        return healthy, parts


def serve(health: Health, settings: HealthSettings) -> Callable[[], None]:
    """Serve `/healthz` and `/metrics` in a thread of its own; returns the function that ends it.

    Raises:
        FixConfiguration: the port cannot be had.
    """
    if settings.port == 0:
        return lambda: None

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            """Answer one request."""
            if self.path == "/healthz":
                healthy, parts = health.report()
                body = json.dumps({"healthy": healthy, "parts": parts}).encode()
                self._answer(200 if healthy else 503, "application/json", body)
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(health.registry))
            else:
                self._answer(404, "text/plain", b"try /healthz or /metrics\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged."""

    try:
        server = ThreadingHTTPServer((settings.host, settings.port), Handler)
    except OSError as error:
        raise FixConfiguration(
            f"cannot listen on {settings.host}:{settings.port}: {error}",
            hint="set FIELDLOOP_HEALTH_PORT to a free port, or 0",
        ) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return stop
