"""The certificate authority: one folder, one key, certificates for devices, services and servers.

    DIR/ca.pem, ca-key.pem          the authority in force
    DIR/retired/NAME.pem, -key.pem  earlier ones, kept until what they issued has run out
    DIR/trust.pem                   all of them: what clients and the broker trust

An authority of your own is imported: its certificate and key (a sub-authority of your company's,
say), with the chain above it. Keys are EC P-256, files are written whole or not at all. Any thread
may issue; one process at a time may create, import or rotate.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fieldloop_contract.errors import FixConfiguration, MalformedMessage, RejectedInput
from fieldloop_contract.ids import check_id

AUTHORITY_DAYS = 3650
CN_MAX = 64
"""RFC 5280, ub-common-name: longer ones are no valid certificates."""
SKEW = timedelta(days=1)
"""Certificates begin a day early: clocks of devices are not exact."""
CSR_BYTES_MAX = 16_384
_RSA_BITS_MIN = 2048
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just made."""

    pem: bytes
    serial: str
    issuer: str
    key_sha256: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry of a revocation list. `issuer`: sha256 of the authority that issued it."""

    serial: str
    issuer: str
    at: datetime


def device_name(fleet: str, device: str) -> str:
    """The common name of a device, which is its MQTT user name.

    Raises:
        RejectedInput: too long for a certificate.

    >>> device_name("acme", "pump-7")
    'acme/pump-7'
    """
    name = f"{check_id(fleet, 'fleet')}/{check_id(device, 'device')}"
    if len(name) > CN_MAX:
        raise RejectedInput(
            f"{name} has {len(name)} characters, a certificate's name at most {CN_MAX}",
            code="identity.name",
            hint="choose a shorter fleet or device id",
        )
    return name


def read_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Parse a signing request and check that its sender holds the key.

    Raises:
        MalformedMessage: no request, a key of a kind we do not take, or a wrong signature.
    """
    if len(pem) > CSR_BYTES_MAX:
        raise MalformedMessage(f"a signing request of {len(pem)} bytes", code="identity.csr")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        good = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise MalformedMessage(f"no signing request: {error}", code="identity.csr") from error
    strong = (
        (
            isinstance(key, ec.EllipticCurvePublicKey)
            and key.curve.name in ("secp256r1", "secp384r1")
        )
        or isinstance(key, ed25519.Ed25519PublicKey)
        or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS_MIN)
    )
    if not good or not strong:
        raise MalformedMessage(
            "the signing request's key or signature is not acceptable",
            code="identity.csr",
            hint="use EC P-256, P-384, Ed25519 or RSA of 2048 bits or more",
        )
    return request


def key_digest(key: PublicKey) -> str:
    """sha256 of a public key (SubjectPublicKeyInfo, DER), in hex."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def fingerprint(certificate: x509.Certificate) -> str:
    """sha256 of a certificate (DER), in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all, synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Authority:
    """The authority in force, and those before it. Made by `create`, `adopt` or `open`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._certificate, self._key = _load_pair(folder / "ca.pem", folder / "ca-key.pem")
        retired = sorted((folder / "retired").glob("*-key.pem"))
        self._retired = [
            _load_pair(path.with_name(path.name.replace("-key", "")), path) for path in retired
        ]

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """Open what is there.

        Raises:
            FixConfiguration: there is none, or its files do not fit together.
        """
        if not (folder / "ca.pem").is_file():
            raise FixConfiguration(
                f"no certificate authority in {folder}", hint="fieldloop-identity init"
            )
        return cls(folder)

    @classmethod
    def create(cls, folder: Path, name: str, now: datetime) -> Authority:
        """Make a new authority called `name`; refuses where there is one already."""
        if (folder / "ca.pem").exists():
            raise FixConfiguration(
                f"{folder} holds an authority already",
                hint="`rotate` makes a new one and keeps the old one valid",
            )
        _write_authority(folder, name, now)
        return cls.open(folder)

    @classmethod
    def adopt(cls, folder: Path, certificate: bytes, key: bytes, chain: bytes = b"") -> Authority:
        """Take an authority of your own: its certificate, its key, and those above it (PEM).

        Raises:
            FixConfiguration: no authority, or the key is another one's.
        """
        if (folder / "ca.pem").exists():
            raise FixConfiguration(f"{folder} holds an authority already")
        try:
            above = x509.load_pem_x509_certificates(chain) if chain.strip() else []
        except ValueError as error:
            raise FixConfiguration(f"the chain cannot be read: {error}") from error
        folder.mkdir(parents=True, exist_ok=True)
        candidate = folder / ".candidate"
        write_file(candidate / "ca.pem", certificate)
        write_file(candidate / "ca-key.pem", key, 0o600)
        try:
            loaded, _ = _load_pair(candidate / "ca.pem", candidate / "ca-key.pem")
            constraints = loaded.extensions.get_extension_for_class(x509.BasicConstraints).value
            if not constraints.ca:
                raise FixConfiguration("this certificate may not sign others (CA:FALSE)")
            (candidate / "ca-key.pem").replace(folder / "ca-key.pem")
            (candidate / "ca.pem").replace(folder / "ca.pem")
        except x509.ExtensionNotFound as error:
            raise FixConfiguration("this certificate is no authority's") from error
        finally:
            for path in candidate.iterdir():
                path.unlink()
            candidate.rmdir()
        write_file(folder / "above.pem", b"".join(_pem(c) for c in above))
        authority = cls.open(folder)
        authority.write_trust()
        return authority

    @property
    def fingerprint(self) -> str:
        """sha256 of the authority's certificate, which a token carries."""
        return fingerprint(self._certificate)

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._certificate

    @property
    def trust(self) -> bytes:
        """All certificates that clients trust: this authority, those before it, those above it."""
        above = self._folder / "above.pem"
        return (
            _pem(self._certificate)
            + b"".join(_pem(certificate) for certificate, _ in self._retired)
            + (above.read_bytes() if above.is_file() else b"")
        )

    def write_trust(self) -> None:
        """Write `trust.pem`."""
        write_file(self._folder / "trust.pem", self.trust)

    def rotate(self, now: datetime) -> Authority:
        """A new authority beside the old one, which stays trusted until it runs out.

        Servers and services get new certificates at once, devices at their next renewal; both
        kinds hold meanwhile, since everyone trusts both.
        """
        old = self.fingerprint[:16]
        retired = self._folder / "retired"
        write_file(retired / f"{old}.pem", _pem(self._certificate))
        write_file(retired / f"{old}-key.pem", (self._folder / "ca-key.pem").read_bytes(), 0o600)
        name = self._certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        _write_authority(self._folder, str(name), now)
        return Authority.open(self._folder)

    def issue_device(
        self, fleet: str, device: str, key: PublicKey, *, now: datetime, days: float
    ) -> Issued:
        """A client certificate for a device's key, named `{fleet}/{device}`."""
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(device_name(fleet, device), key, usage, [], now, days)

    def issue_service(
        self, name: str, key: PublicKey, *, hosts: Sequence[str] = (), now: datetime, days: float
    ) -> Issued:
        """A certificate for a cloud service (its name is its MQTT user); with hosts, a server."""
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usage.append(ExtendedKeyUsageOID.SERVER_AUTH)
        return self._issue(check_id(name, "service"), key, usage, hosts, now, days)

    def revocation_lists(self, revoked: Iterable[Revoked], now: datetime, days: float) -> bytes:
        """One list for each authority (PEM), which the broker asks of every client."""
        entries = list(revoked)
        lists = b""
        for certificate, key in [(self._certificate, self._key), *self._retired]:
            builder = (
                x509.CertificateRevocationListBuilder()
                .issuer_name(certificate.subject)
                .last_update(now - SKEW)
                .next_update(now + timedelta(days=days))
                .add_extension(_key_identifier(certificate), critical=False)
            )
            for entry in entries:
                if entry.issuer == fingerprint(certificate):
                    builder = builder.add_revoked_certificate(
                        x509.RevokedCertificateBuilder()
                        .serial_number(int(entry.serial, 16))
                        .revocation_date(entry.at)
                        .build()
                    )
            signed = builder.sign(key, hashes.SHA256())
            lists += signed.public_bytes(serialization.Encoding.PEM)
        return lists

    def _issue(
        self,
        name: str,
        key: PublicKey,
        usage: list[x509.ObjectIdentifier],
        hosts: Sequence[str],
        now: datetime,
        days: float,
    ) -> Issued:
        end = min(now + timedelta(days=days), self._certificate.not_valid_after_utc)
        if end <= now:
            raise FixConfiguration(
                "the certificate authority has run out", hint="fieldloop-identity rotate"
            )
        serial = x509.random_serial_number()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(now - SKEW)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(_key_identifier(self._certificate), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        return Issued(
            pem=_pem(made),
            serial=f"{serial:x}",
            issuer=self.fingerprint,
            key_sha256=key_digest(key),
            not_before=made.not_valid_before_utc,
            not_after=made.not_valid_after_utc,
        )


def new_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A fresh EC P-256 key, and its PEM (PKCS #8, not encrypted: the folder's mode protects it)."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, pem


def _write_authority(folder: Path, name: str, now: datetime) -> None:
    key, pem = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_file(folder / "ca-key.pem", pem, 0o600)
    write_file(folder / "ca.pem", _pem(certificate))
    Authority(folder).write_trust()


def _load_pair(
    certificate_path: Path, key_path: Path
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FixConfiguration(
            f"{key_path.parent}: the authority cannot be read: {error}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise FixConfiguration(f"{key_path}: an authority's key is EC or RSA")
    if key_digest(key.public_key()) != _certificate_key(certificate):
        raise FixConfiguration(f"{certificate_path} and {key_path} do not belong together")
    return certificate, key


def _certificate_key(certificate: x509.Certificate) -> str:
    der = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The authority's own identifier, by which chains are built where two have one name."""
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
    except x509.ExtensionNotFound:
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise FixConfiguration("an authority's key is EC or RSA") from None
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
