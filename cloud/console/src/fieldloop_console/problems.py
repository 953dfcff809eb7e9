"""Errors as `application/problem+json` (RFC 9457): one form for all that goes wrong.

    RejectedInput      422, or 404 where the code ends in `unknown`, 409 where it clashes
    LimitExceeded      422
    NotKnown           401        NotAllowed   403        TooOften   429 with Retry-After
    RetryLater         503 with Retry-After
    everything else    500, without saying what it was

`code` is stable; `detail` and `hint` are for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from fieldloop_console.identity import NotAllowed, NotKnown, TooOften
from fieldloop_contract.errors import FieldloopError, RejectedInput, RetryLater
from fieldloop_runtime.journal import Journal

MEDIA_TYPE = "application/problem+json"
_CLASHES = frozenset(
    {"user.taken", "user.last-admin", "assignment.overlap", "registry.version-taken", "run.ended",
     "rollout.state", "commissioning.state", "questions.closed"}
)  # fmt: skip


class Problem(BaseModel):
    """What went wrong."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    errors: list[str] = []


def answer(
    status: int,
    detail: str,
    *,
    code: str,
    hint: str = "",
    errors: list[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        hint=hint,
        errors=errors or [],
    )
    return JSONResponse(
        problem.model_dump(),
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def answer_error(error: FieldloopError) -> JSONResponse:
    """The problem that an error of ours is."""
    status, headers = _status(error)
    detail = Exception.__str__(error)
    return answer(status, detail, code=error.code, hint=error.hint, headers=headers)


def _status(error: FieldloopError) -> tuple[int, dict[str, str]]:
    status, headers = 500, {}
    if isinstance(error, NotKnown):
        status, headers = 401, {"WWW-Authenticate": "Bearer"}
    elif isinstance(error, NotAllowed):
        status = 403
    elif isinstance(error, TooOften):
        status, headers = 429, {"Retry-After": str(math.ceil(error.wait_s))}
    elif isinstance(error, RetryLater):
        status, headers = 503, {"Retry-After": "5"}
    elif isinstance(error, RejectedInput) and error.code.endswith("unknown"):
        status = 404
    elif isinstance(error, RejectedInput):
        status = 409 if error.code in _CLASHES else 422
    return status, headers


def install(app: FastAPI, journal: Journal) -> None:
    """Answer every error of the application in this form."""

    @app.exception_handler(FieldloopError)
    async def on_error(_request: Request, error: FieldloopError) -> Response:
        return answer_error(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> Response:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()[:20]
        ]
        return answer(
            422, "the request is not as it should be", code="request.invalid", errors=faults
        )

    @app.exception_handler(HTTPException)
    async def on_http(_request: Request, error: HTTPException) -> Response:
        code = f"http.{HTTPStatus(error.status_code).name.lower().replace('_', '-')}"
        return answer(error.status_code, str(error.detail), code=code, headers=error.headers)

    @app.exception_handler(Exception)
    async def on_crash(request: Request, error: Exception) -> Response:
        journal.error("request.crashed", trace=True, path=request.url.path, error=str(error))
        return answer(500, "something broke; it is in the log", code="internal")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's description says of its problems."""
    return {
        status: {"description": HTTPStatus(status).phrase,
                 "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
        for status in statuses
    }  # fmt: skip
