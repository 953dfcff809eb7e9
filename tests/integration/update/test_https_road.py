"""The other road: files over HTTPS from a real TLS server with an authority of its own."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import MODEL_FILE, Carriage, FileRef, sha256
from fieldloop_update.bundles import Bundles
from fieldloop_update.fetch import Fetcher
from fieldloop_update.https import HttpsRoad
from fieldloop_update.outcomes import Outcome, Ready, Refused
from fieldloop_update.settings import UpdateSettings
from support.signed import FLEET, bundle

SIZE = 1_500_000


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate, and a chain with key for 127.0.0.1."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("ca", "server")]

    def build(index: int) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(names[index])
            .issuer_name(names[0])
            .public_key(keys[index].public_key())
            .serial_number(index + 1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=index == 0, path_length=None), critical=True)
        )

    alt = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    authority = build(0).sign(keys[0], hashes.SHA256())
    server = build(1).add_extension(alt, critical=False).sign(keys[0], hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(pem))
    key = keys[1].private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(server.public_bytes(pem) + key)
    return folder / "ca.pem", folder / "server.pem"


class Server:
    """Serves files by digest with ranges; misbehaves when told to."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, bytes] = {}
        self.mode = ""
        self.ranges: list[str] = []
        self.ca, chain = make_certificates(folder)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                owner.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}/models"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        data = self.files.get(request.path.removeprefix("/models/sha256/"))
        asked = request.headers["Range"]
        self.ranges.append(asked)
        if data is None or self.mode == "absent":
            request.send_response(404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        body = data[first : last + 1]
        if self.mode == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        request.send_response(200 if self.mode == "whole" else 206)
        body = data if self.mode == "whole" else body
        if self.mode == "endless":
            body += bytes(5 << 20)
        request.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.mode == "cut":
            request.wfile.write(body[: len(body) // 2])
            request.close_connection = True
            request.connection.close()
            return
        with contextlib.suppress(OSError):
            request.wfile.write(body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.close()


class Getter:
    """A device that has no broker's chunks at all."""

    def __init__(self, folder: Path, server: Server, **given: Any) -> None:
        settings = {"https_url": server.url, "https_ca_file": str(server.ca), **given}
        self.bundles = Bundles(folder, 4)
        self.asked: set[str] = set()
        self.fetcher = Fetcher(
            UpdateSettings(dir=str(folder), disk_reserve_bytes=0, retry_base_s=0.05, **settings),
            FLEET,
            self.bundles,
            lambda *f: self.asked.update(f),
            lambda *f: self.asked.difference_update(f),
            seed=1,
        )

    def run(self, kind: type, seconds: float = 20.0) -> Any:
        until_s = time.monotonic() + seconds
        found: list[Outcome] = []
        while time.monotonic() < until_s:
            found += self.fetcher.step(time.monotonic(), online=False)
            match = next((o for o in found if isinstance(o, kind)), None)
            if match is not None:
                return match
            time.sleep(0.005)
        raise AssertionError(found)


MANIFEST, FILES = bundle(size=SIZE)
PAYLOAD = MANIFEST.encode()
CARRIAGE = Carriage(manifest=FileRef.of(PAYLOAD), retained=False)


@pytest.fixture
def getter(tmp_path: Path, server: Server) -> Iterator[Getter]:
    server.files = {sha256(d): d for d in [PAYLOAD, *FILES.values()]}
    made = Getter(tmp_path / "device", server)
    yield made
    made.fetcher.stop()


def check(getter: Getter) -> None:
    got = getter.bundles.open(MANIFEST.ref())
    assert got is not None
    assert {n: got.read(n) for n in FILES} == FILES
    assert getter.asked == set()


def test_bundle_comes_by_ranges_and_no_chunk_twice(getter, server):
    getter.fetcher.start(MANIFEST.ref(), CARRIAGE)
    assert getter.run(Ready).ref == MANIFEST.ref()
    check(getter)
    assert len(server.ranges) == len(set(server.ranges)) >= 5
    total = len(PAYLOAD) + sum(len(d) for d in FILES.values())
    assert getter.fetcher.bytes_received == total


def test_download_goes_on_where_it_was_after_a_restart(tmp_path, getter, server):
    getter.fetcher.start(MANIFEST.ref(), CARRIAGE)
    while getter.fetcher.chunks_taken < 20:
        getter.fetcher.step(time.monotonic(), online=False)
        time.sleep(0.002)
    had = getter.fetcher.chunks_taken
    getter.fetcher.stop()
    again = Getter(tmp_path / "device", server)
    again.fetcher.start(MANIFEST.ref(), CARRIAGE)
    again.run(Ready)
    check(again)
    assert again.fetcher.chunks_taken <= len(MANIFEST.files[MODEL_FILE].chunks) + 3 - had + 1
    again.fetcher.stop()


@pytest.mark.parametrize("mode", ["flip", "cut", "absent", "endless"])
def test_server_that_lies_gives_nothing_but_a_reason_and_is_asked_again(getter, server, mode):
    server.mode = mode
    getter.fetcher.start(MANIFEST.ref(), CARRIAGE)
    if mode != "endless":
        refused = getter.run(Refused)
        assert refused.code == "download.https"
        assert not refused.final
        assert "again in" in refused.reason
        server.mode = ""
    getter.run(Ready)
    check(getter)
    total = len(PAYLOAD) + sum(len(d) for d in FILES.values())
    assert getter.fetcher.bytes_received <= total + 4 * (1 << 20), "it read beyond what it asked"


def test_server_of_another_authority_is_not_spoken_to(tmp_path, getter, server):
    other = tmp_path / "other"
    other.mkdir()
    make_certificates(other)
    wary = Getter(tmp_path / "wary", server, https_ca_file=str(other / "ca.pem"))
    wary.fetcher.start(MANIFEST.ref(), CARRIAGE)
    assert "CERTIFICATE_VERIFY_FAILED" in wary.run(Refused).reason
    assert server.ranges == []
    wary.fetcher.stop()


def test_what_the_broker_has_too_is_asked_there_after_some_failures(tmp_path, server):
    server.mode = "absent"
    server.files = {}
    getter = Getter(tmp_path / "both", server, https_from_bytes=1)
    carriage = CARRIAGE.model_copy(update={"retained": True})
    getter.fetcher.start(MANIFEST.ref(), carriage)
    until_s = time.monotonic() + 15
    while not getter.asked and time.monotonic() < until_s:
        for download in getter.fetcher._downloads.values():
            download.attempt = 0
        getter.fetcher.step(time.monotonic(), online=False)
        time.sleep(0.01)
    assert getter.asked
    getter.fetcher.stop()


def test_plain_http_is_refused():
    with pytest.raises(FixConfiguration, match="no https URL"):
        HttpsRoad("http://127.0.0.1/models", "", 5)
