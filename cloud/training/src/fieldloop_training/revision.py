"""Which code made a model: the git revision where there is one, else the package's version."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_TIMEOUT_S = 3


def code_revision() -> str:
    """`git:<40 hex digits>`, with `+changes` where files differ, or the package and its version."""
    folder = Path(__file__).parent
    revision = _git(folder, "rev-parse", "HEAD")
    if revision:
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return f"git:{revision}" + ("+changes" if changed else "")
    try:
        return f"fieldloop-training {version('fieldloop-training')}"
    except PackageNotFoundError:
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
