"""Whether a docker engine answers; the image of PostgreSQL for a test."""

from __future__ import annotations

import subprocess

from fieldloop_contract.errors import FieldloopError
from fieldloop_demo.stack import TREE, Stack

POSTGRES = "postgres:15-bookworm"
NO_ENGINE = "machine: no docker engine answers `docker info`"


def docker_answers() -> bool:
    """Whether there is an engine, and not only its client."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"Server Version" in done.stdout


def postgres_image(stack: Stack) -> str:
    """The public image; where no registry can be reached, a stand-in of the same interface."""
    try:
        stack.docker("image", "inspect", POSTGRES)
        return POSTGRES
    except FieldloopError:
        pass
    try:
        stack.docker("pull", "-q", POSTGRES, timeout_s=120)
        return POSTGRES
    except FieldloopError:
        folder = str(TREE / "tests" / "system" / "postgres")
        stack.docker("build", "-q", "-t", "fieldloop-test-postgres", folder, timeout_s=900)
        return "fieldloop-test-postgres"
