"""What is wrong in the cloud, and the remedy: one finding for each thing worth a look.

Looks at what is there and changes nothing: clock, authority, certificates, the broker's files and
the broker itself, the services' access, the store, the devices' books, incidents.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.topics import CHANNELS, Direction, Topic, access_table
from fieldloop_identity.authority import Authority
from fieldloop_identity.enrolment import to_ns
from fieldloop_identity.keeping import SERVICES
from fieldloop_identity.settings import IdentitySettings
from fieldloop_runtime.channels import try_channels
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.findings import Finding, judged
from fieldloop_runtime.settings import MqttSettings
from fieldloop_store import identities
from fieldloop_store.engine import Store
from fieldloop_store.ledger import books
from fieldloop_store.queries import device_services

QUIET_S = 3_600.0
INCIDENT_DAYS = 7
_AUTHORITY_DAYS_MIN = 180
_NAMED_MAX = 5


def examine(settings: IdentitySettings, store: Store, now: datetime, host: str) -> list[Finding]:
    """Look at everything; takes some seconds where the broker does not answer.

    Args:
        host: name under which the broker is reached from here; it has to be in its certificate.
    """
    clock = SystemClock().now()
    remedy = "give the machine NTP; inside a container its kernel may just not say so"
    found = [judged("clock", clock.clock.value != "unknown", now.isoformat(), remedy)]
    found += look_at_certificates(settings, now)
    found += look_at_access(settings, host)
    found += look_at_devices(settings, store, now)
    return found


def look_at_certificates(settings: IdentitySettings, now: datetime) -> Iterator[Finding]:
    """Authority, server, services, revocation lists."""
    try:
        authority = Authority.open(Path(settings.dir))
    except FieldloopError as error:
        yield Finding("authority", False, str(error), "fieldloop-identity init")
        return
    days = (authority.certificate.not_valid_after_utc - now).days
    remedy = "fieldloop-identity rotate: a new one beside it, while the old one is still good"
    yield judged("authority", days >= _AUTHORITY_DAYS_MIN, f"{days} more days", remedy)
    places = {"server": Path(settings.broker.dir) / "server.pem"}
    places |= {name: Path(settings.clients_dir) / name / "cert.pem" for name in SERVICES}
    for name, path in places.items():
        try:
            held = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            yield Finding(f"certificate of {name}", False, str(error), "is identity running?")
            continue
        life = held.not_valid_after_utc - held.not_valid_before_utc
        left = held.not_valid_after_utc - now
        seen = f"{left.days} more days"
        yield judged(f"certificate of {name}", left > life / 4, seen, "is identity running?")
    path = Path(settings.broker.dir) / "crl.pem"
    try:
        age = now.timestamp() - path.stat().st_mtime
        remedy = "is identity running? when a list runs out, nobody connects any more"
        yield judged("revocation lists", age < 86_400, f"written {age / 3600:.1f} h ago", remedy)
    except OSError as error:
        yield Finding("revocation lists", False, str(error), "is identity running?")


def look_at_access(settings: IdentitySettings, host: str) -> Iterator[Finding]:
    """Each service's connection and channels, with its own certificate."""
    for name in SERVICES:
        folder = Path(settings.clients_dir) / name
        mqtt = MqttSettings(
            host=host,
            port=settings.broker.port,
            ca_file=str(folder / "trust.pem"),
            cert_file=str(folder / "cert.pem"),
            key_file=str(folder / "key.pem"),
        )
        try:
            verdict = try_channels(mqtt, f"doctor-{name}", write=_writable(settings.fleet, name))
        except FieldloopError as error:
            remedy = "is the broker up, on these files, reachable under this name?"
            yield Finding(f"access of {name}", False, str(error), remedy)
            continue
        refused = ", ".join(sorted(verdict.refused))
        remedy = "the broker's access list is not the one that identity writes: reload it"
        seen = f"refused: {refused}" if refused else "all its channels"
        yield judged(f"access of {name}", not refused, seen, remedy)


def _writable(fleet: str, service: str) -> list[str]:
    """Topics that a service publishes, of a device that is none."""
    written = {r.filter for r in access_table(fleet) if r.role.value == service and "w" in r.access}
    return [
        str(Topic(fleet, "doctor", "doctor", channel.name))
        for channel in CHANNELS.values()
        if channel.direction is Direction.DOWN and any(f.endswith(channel.name) for f in written)
    ]


def look_at_devices(settings: IdentitySettings, store: Store, now: datetime) -> Iterator[Finding]:
    """Books, devices that have gone quiet, certificates that nobody renews, incidents."""
    fleet, now_ns = settings.fleet, to_ns(now)
    try:
        entries = list(books(store, fleet=fleet))
        heard = list(device_services(store, fleet))
        with store.read() as connection:
            held = identities.list_certificates(connection, fleet=fleet)
        incidents = identities.list_incidents(store, fleet)
    except FieldloopError as error:
        yield Finding("store", False, str(error), "is the database up?")
        return
    wrong = sorted({entry.log.device for entry in entries if not entry.balanced})
    remedy = "fieldloop-telemetry ledger shows which rows"
    yield judged("books", not wrong, _named(wrong, f"{len(entries)} logs balance"), remedy)
    last: dict[str, int] = {}
    for one in heard:
        last[one.device] = max(last.get(one.device, 0), one.status_ns, one.reported_ns or 0)
    quiet = sorted(d for d, at_ns in last.items() if now_ns - at_ns > QUIET_S * 1e9)
    remedy = "is it powered and online? its data waits in its log"
    yield judged("devices heard", not quiet, _named(quiet, f"all {len(last)}"), remedy)
    ends: dict[str, int] = {}
    for certificate in held:
        if certificate.revoked_ns is None:
            ends[certificate.device] = max(
                ends.get(certificate.device, 0), certificate.not_after_ns
            )
    over = sorted(d for d, end_ns in ends.items() if end_ns < now_ns)
    remedy = "they renew by themselves when they are back, within the grace"
    yield judged("devices' certificates", not over, _named(over, f"{len(ends)} good"), remedy)
    since_ns = to_ns(now - timedelta(days=INCIDENT_DAYS))
    recent = sorted({f"{i.device} ({i.code})" for i in incidents if i.at_ns > since_ns})
    remedy = "if that was not the device itself, revoke it and provision it again"
    yield judged("incidents", not recent, _named(recent, "none this week"), remedy)


def _named(names: list[str], otherwise: str) -> str:
    if not names:
        return otherwise
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more
