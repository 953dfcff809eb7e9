"""`python -m fieldloop_runtime.healthcheck`: asks this container's own `/healthz`, for HEALTHCHECK.

Speaks HTTP on a bare socket, since importing an HTTP client every minute costs a Raspberry Pi Zero
more than the question. Status 0 where the service answers 200, otherwise 1 with what it said.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping

_TIMEOUT_S = 5.0
_ANSWER_BYTES_MAX = 65_536


def ask(port: int, host: str = "127.0.0.1") -> tuple[bool, str]:
    """Whether the service on `port` says that it is well, and what it said."""
    answer = b""
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            while len(answer) < _ANSWER_BYTES_MAX and (part := connection.recv(4096)):
                answer += part
    except OSError as error:
        return False, f"nothing answers on port {port}: {error}"
    head, _, body = answer.partition(b"\r\n\r\n")
    return b" 200 " in head.split(b"\r\n", 1)[0], body.decode("utf-8", "replace")


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Ask once; the exit status for Docker."""
    port = environ.get("FIELDLOOP_HEALTH_PORT", "")
    if not port.isdigit() or port == "0":
        sys.stdout.write("FIELDLOOP_HEALTH_PORT is not set: health is not served\n")
        return 1
    healthy, said = ask(int(port))
    sys.stdout.write(said + "\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
