"""An authority, its enrolment door and a mosquitto that believes it, all real, in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fieldloop_identity.authority import Authority, new_key
from fieldloop_identity.broker import configuration
from fieldloop_identity.enrolment import Enrolment, Terms
from fieldloop_identity.keeping import Keeper, Places
from fieldloop_identity.server import Door
from fieldloop_runtime.journal import Journal
from fieldloop_store.engine import Store
from support.broker import find_mosquitto, free_port

FLEET = "acme"
ROOT = '{"signed": "the root of this test"}'


def request(name: str = "device") -> tuple[str, bytes]:
    """A signing request and its key, as a device makes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return csr.public_bytes(serialization.Encoding.PEM).decode(), pem


@dataclass(frozen=True)
class Files:
    """A client's certificate and key on disk."""

    cert: Path
    key: Path


class Site:
    """Authority and enrolment; `open_door` and `start_broker` add the servers.

    The clock is the test's: `now` moves by `advance`.
    """

    def __init__(self, folder: Path, store: Store, *, grace_days: float = 180.0) -> None:
        self.folder, self.store = folder, store
        self.now = datetime.now(UTC)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "root.json").write_text(ROOT, encoding="utf-8")
        self.port = free_port()
        Authority.create(folder / "ca", "test authority", self.now)
        terms = Terms(
            broker_host="localhost",
            broker_port=self.port,
            root_file=folder / "root.json",
            profiles_dir=folder / "profiles",
            grace_days=grace_days,
        )
        journal = Journal("identity")
        self.enrolment = Enrolment(store, lambda: self.authority, terms, journal)
        places = Places(
            authority=folder / "ca",
            broker=folder / "broker",
            seen_as=str(folder / "broker"),
            clients=folder / "clients",
            hosts=("localhost", "127.0.0.1"),
            fleet=FLEET,
            service_days=90,
        )
        self.keeper = Keeper(places, self.enrolment, journal)
        self.keep()
        self._door: Door | None = None
        self._broker: subprocess.Popen[bytes] | None = None

    @property
    def authority(self) -> Authority:
        """The authority in force."""
        return Authority.open(self.folder / "ca")

    @property
    def trust(self) -> Path:
        """What clients trust."""
        return self.folder / "clients" / "reader" / "trust.pem"

    def advance(self, **span: float) -> None:
        """Move the clock of the authority."""
        self.now += timedelta(**span)

    def keep(self) -> None:
        """What the service's loop does every some seconds."""
        self.keeper.look(self.now, time.monotonic())

    def certify(self, name: str, *, days: float = 90, authority: Authority | None = None) -> Files:
        """A certificate straight from an authority, for `fleet/device` or a service."""
        key, pem = new_key()
        maker = authority or self.authority
        public = key.public_key()
        if "/" in name:
            fleet, device = name.split("/")
            issued = maker.issue_device(fleet, device, public, now=self.now, days=days)
        else:
            issued = maker.issue_service(name, public, now=self.now, days=days)
        return self.save(f"{name.replace('/', '-')}-{issued.serial[:8]}", issued.pem, pem)

    def save(self, stem: str, certificate: bytes, key: bytes) -> Files:
        """Put a pair on disk."""
        folder = self.folder / "given"
        folder.mkdir(exist_ok=True)
        files = Files(folder / f"{stem}.pem", folder / f"{stem}-key.pem")
        files.cert.write_bytes(certificate)
        files.key.write_bytes(key)
        return files

    def service(self, name: str) -> Files:
        """The certificate of a cloud service."""
        folder = self.folder / "clients" / name
        return Files(folder / "cert.pem", folder / "key.pem")

    def open_door(self) -> str:
        """Serve enrolment over HTTPS; returns its URL. Requests see the machine's clock."""
        broker = self.folder / "broker"
        self._door = Door(
            ("127.0.0.1", 0),
            broker / "server.pem",
            broker / "server-key.pem",
            self.enrolment,
            lambda: self.authority.trust,
            Journal("identity"),
        )
        threading.Thread(target=self._door.serve_forever, daemon=True).start()
        return f"https://localhost:{self._door.server_address[1]}"

    def start_broker(self) -> None:
        """A mosquitto on the generated configuration, as it is but for folder, port and user."""
        home = self.folder / "mosquitto"
        home.mkdir(exist_ok=True)
        text = configuration(str(self.folder / "broker"), self.port, home=f"{home}/")
        text = text.replace(f"listener {self.port}", f"listener {self.port} 127.0.0.1")
        if os.geteuid() == 0:
            text += "user root\n"
        (home / "mosquitto.conf").write_text(text, encoding="utf-8")
        log = (home / "log").open("ab")
        self._broker = subprocess.Popen(
            [find_mosquitto(), "-c", str(home / "mosquitto.conf")], stdout=log, stderr=log
        )
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.02)
        raise RuntimeError((home / "log").read_text(encoding="utf-8"))

    def reload_broker(self) -> None:
        """What the container's entry does when a file changed."""
        assert self._broker is not None
        self._broker.send_signal(signal.SIGHUP)

    def close(self) -> None:
        """End all servers."""
        if self._door is not None:
            self._door.shutdown()
            self._door.server_close()
        if self._broker is not None:
            self._broker.kill()
            self._broker.wait()
        shutil.rmtree(self.folder / "mosquitto", ignore_errors=True)
