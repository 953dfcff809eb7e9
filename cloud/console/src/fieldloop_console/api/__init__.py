"""The REST API: `/api/v1`, described by OpenAPI at `/api/v1/openapi.json`."""

from __future__ import annotations

from fastapi import APIRouter

from fieldloop_console.api import (
    alarms,
    asking,
    commissioning,
    data,
    devices,
    hooks,
    learning,
    overview,
    people,
    rollouts,
    session,
)
from fieldloop_console.problems import responses

PREFIX = "/api/v1"


def router() -> APIRouter:
    """All routes."""
    root = APIRouter(prefix=PREFIX, responses=responses(401, 403, 404, 422, 503))
    parts = (
        session, overview, devices, alarms, commissioning, learning, asking, rollouts, data, people,
        hooks,
    )  # fmt: skip
    for part in parts:
        root.include_router(part.router)
    return root
