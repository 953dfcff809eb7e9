"""A slow link: a TCP relay that lets so many bytes a second through towards the server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_BITE = 1024


class SlowLink:
    """Relays connections to a port of this machine.

    Attributes:
        port: where to connect.
        bytes_s: the rate towards the server; may be changed. The way back is not slowed down.
    """

    def __init__(self, to_port: int, bytes_s: float) -> None:
        self.bytes_s = bytes_s
        self._to_port = to_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it and all its connections."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to_port))
                self._open += [near, far]
                for pair, slow in (((near, far), True), ((far, near), False)):
                    threading.Thread(target=self._relay, args=(*pair, slow), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BITE):
                if slow:
                    time.sleep(len(data) / self.bytes_s)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
