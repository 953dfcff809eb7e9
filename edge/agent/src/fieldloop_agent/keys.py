"""Keys and signing requests, by the `openssl` command.

The command is in every Debian image beside the certificates it hashes; a library for the same would
cost a device 15 MB of disk, and 32-bit ARM has no wheel of it. Runs a child for some milliseconds.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fieldloop_contract.errors import FixConfiguration, RetryLater

_TIMEOUT_S = 60.0


def make_key(path: Path) -> None:
    """Write a fresh EC P-256 key, readable by this user only."""
    pem = _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())


def make_request(key: Path) -> str:
    """A signing request (PEM) by that key. Its name says nothing: the token or the key does."""
    return _openssl("req", "-new", "-sha256", "-subj", "/CN=device", "-key", str(key)).decode()


def _openssl(*arguments: str) -> bytes:
    try:
        done = subprocess.run(
            ["openssl", *arguments], capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise FixConfiguration(
            "the command openssl is missing", hint="Debian: apt-get install openssl"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RetryLater("openssl did not end in time") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace")[-300:]
        raise RetryLater(f"openssl {arguments[0]} failed: {said}", code="agent.openssl")
    return done.stdout
