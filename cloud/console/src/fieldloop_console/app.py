"""The application: API, log-in pages and dashboard on one FastAPI, put together here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from fieldloop_console import api, doorway, problems
from fieldloop_console.console import Console
from fieldloop_console.guard import ETags, Guard

STATIC = Path(__file__).parent / "static"
STATIC_PATH = "/static"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def make_app(console: Console, *, dashboard: bool = True) -> FastAPI:
    """The application.

    Args:
        dashboard: with NiceGUI's pages, of which a process can have one set only.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        console.stop.set()
        console.waveforms.close()

    app = FastAPI(
        title="fieldloop",
        version="1",
        summary="See the fleet learn, and steer it.",
        description="Times are ns of UTC. Errors are application/problem+json.",
        openapi_url=f"{api.PREFIX}/openapi.json",
        docs_url=None,  # its page loads scripts from a CDN; the description is what matters
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.console = console
    problems.install(app, console.journal)
    app.include_router(api.router())
    app.include_router(doorway.router)
    app.mount(STATIC_PATH, StaticFiles(directory=STATIC), name="console-static")

    @app.api_route("/api/{path:path}", include_in_schema=False, methods=list(_METHODS))
    def no_such_route(path: str) -> Response:
        return problems.answer(404, f"no route /api/{path:.100}", code="http.not-found")

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> Response:
        return JSONResponse({"healthy": True})

    if dashboard:
        from fieldloop_console.pages import mount  # noqa: PLC0415 - NiceGUI takes a second to load

        mount(app, console)
    app.add_middleware(ETags)
    app.add_middleware(GZipMiddleware, minimum_size=2_000)
    app.add_middleware(Guard, console=console)
    return app
