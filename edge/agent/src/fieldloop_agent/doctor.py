"""What is wrong with this device, and the remedy: one finding for each thing worth a look.

Looks at what is there and changes nothing: clock, identity, connection and access list, disk, logs,
streams and their rates, slots, last acknowledgement. Each finding is fine, or says what to do.
Works beside running services; its own MQTT client id differs from theirs.
"""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from fieldloop_agent.access import try_own_channels
from fieldloop_agent.home import Held, Home
from fieldloop_agent.rates import look_at_rates
from fieldloop_agent.settings import AgentSettings
from fieldloop_buffer.connection import FAILURES, open_reader
from fieldloop_buffer.ledger import Books
from fieldloop_contract.errors import RetryLater
from fieldloop_contract.frames import Clock
from fieldloop_runtime.clock import BUILD_FLOOR_NS, SystemClock
from fieldloop_runtime.findings import Finding, judged

FREE_BYTES_MIN = 64 << 20
FRESH_S = 120.0
_CONNECT_S = 15.0


def examine(settings: AgentSettings, now_s: Callable[[], float] = time.time) -> list[Finding]:
    """Look at everything; takes some seconds where the broker does not answer."""
    clock = SystemClock(trusted=settings.trust_clock)
    held = Home(Path(settings.dir)).read()
    found = [look_at_clock(clock), *look_at_identity(held, now_s())]
    if held is not None:
        found.extend(look_at_broker(held, Path(settings.dir) / "current"))
    found.append(look_at_disk(Path(settings.logs_dir)))
    logs = sorted(Path(settings.logs_dir).glob("*.sqlite"))
    if not logs:
        remedy = "are ingestion and inference running, on the same volume?"
        found.append(Finding("logs", False, f"none in {settings.logs_dir}", remedy))
    for path in logs:
        found.extend(look_at_log(path, now_s()))
        found.extend(look_at_rates(str(path)))
    return found


def look_at_clock(clock: SystemClock) -> Finding:
    """Whether times can be believed."""
    now = clock.now()
    seen = datetime.fromtimestamp(now.utc_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if now.clock is not Clock.UNKNOWN:
        return Finding("clock", True, seen)
    if now.utc_ns < BUILD_FLOOR_NS:
        return Finding("clock", False, f"{seen}, before this release", "give it NTP, or an RTC")
    return Finding(
        "clock",
        False,
        f"{seen}, which the kernel does not vouch for",
        "give it NTP (UDP 123); where somebody else keeps it, FIELDLOOP_TRUST_CLOCK=true",
    )


def look_at_identity(held: Held | None, now_s: float) -> Iterator[Finding]:
    """Whether the device is enrolled, and for how long."""
    if held is None:
        remedy = "set ENROLMENT_URL and ENROLMENT_TOKEN (fieldloop devices provision)"
        yield Finding("identity", False, "not enrolled", remedy)
        return
    days = (held.not_after_s - now_s) / 86_400
    seen = f"{held.user}, certificate for {days:.1f} more days"
    if days >= 0:
        halfway = now_s < held.not_before_s + (held.not_after_s - held.not_before_s) * 0.75
        remedy = "renewal is overdue: is the enrolment URL reachable?"
        yield judged("identity", halfway, seen, remedy)
    elif days >= -held.grace_days:
        remedy = "the agent renews it as soon as the enrolment URL is reachable"
        yield Finding("identity", False, f"{held.user}, run out {-days:.1f} days ago", remedy)
    else:
        remedy = "too long ago to renew: provision the device again"
        yield Finding("identity", False, f"{held.user}, run out {-days:.1f} days ago", remedy)


def look_at_broker(held: Held, current: Path) -> Iterator[Finding]:
    """TLS and access list, as a service would meet them."""
    where = f"{held.broker_host}:{held.broker_port}"
    try:
        context = ssl.create_default_context(cafile=str(current / "trust.pem"))
        with (
            socket.create_connection((held.broker_host, held.broker_port), _CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=held.broker_host) as tls,
        ):
            version = tls.version()
        yield Finding("tls", True, f"{where}, {version}")
    except ssl.SSLCertVerificationError as error:
        remedy = "its certificate is not our authority's, or not for this name: FIELDLOOP_HOSTS"
        yield Finding("tls", False, f"{where}: {error.verify_message}", remedy)
        return
    except OSError as error:
        remedy = "is the address right, and the port open on the way? data waits in the log"
        yield Finding("tls", False, f"{where}: {error}", remedy)
        return
    yield from _look_at_access(held, current)


def _look_at_access(held: Held, current: Path) -> Iterator[Finding]:
    try:
        verdict = try_own_channels(held, current)
    except RetryLater as error:
        yield Finding("access", False, str(error), "was it revoked? then provision it again")
        return
    refused = ", ".join(sorted(topic.rsplit("/", 1)[-1] for topic in verdict.refused))
    remedy = "the broker's access list is not the one that identity writes: reload it"
    yield judged("access", not refused, f"refused: {refused}" if refused else held.user, remedy)
    count = len(verdict.heard)
    remedy = "is delivery running? has the broker lost what it retained? may this device read it?"
    yield judged("signed metadata", count > 0, f"{count} files at the broker", remedy)


def look_at_disk(folder: Path) -> Finding:
    """Whether there is room."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", False, str(error), "is the data volume mounted?")
    remedy = "lower FIELDLOOP_LOG_BYTES_MAX, or remove what else fills the disk"
    return judged("disk", free >= FREE_BYTES_MIN, f"{free >> 20} MiB free", remedy)


def look_at_log(path: Path, now_s: float) -> Iterator[Finding]:
    """Books, fresh rows, what waits for the cloud, and the slots of an inference log."""
    name = path.stem
    try:
        db = open_reader(str(path))
        try:
            accounts = [Books(db).accounts[no] for no in sorted(Books(db).accounts)]
            totals = [account.totals() for account in accounts]
            newest = db.execute("SELECT max(t_ns) FROM rows").fetchone()[0]
            slots = dict(db.execute("SELECT key, value FROM state WHERE key LIKE 'slot:%'"))
        finally:
            db.close()
    except (*FAILURES, sqlite3.Error) as error:
        remedy = "the service sets a damaged log aside at its next start: restart it"
        yield Finding(f"log {name}", False, str(error), remedy)
        return
    pending = sum(t.pending for t in totals)
    produced = sum(t.produced for t in totals)
    stored = sum(t.stored for t in totals)
    balanced = all(t.balanced for t in totals)
    seen = f"{produced} rows produced, {stored} acknowledged by the cloud, {pending} waiting"
    remedy = "the books do not balance: keep the file, and report it"
    yield judged(f"log {name}", balanced, seen, remedy)
    age_s = now_s - (newest or 0) / 1e9
    fresh = newest is not None and age_s < FRESH_S
    when = "no row yet" if newest is None else f"newest row {age_s:.0f} s ago"
    remedy = "is the source alive? `fieldloop-ingestion probe` shows rates; idle devices are fine"
    yield judged(f"rows of {name}", fresh, when, remedy)
    for key, value in sorted(slots.items()):
        yield _look_at_slot(key.removeprefix("slot:"), value)


def _look_at_slot(name: str, text: str) -> Finding:
    try:
        document = json.loads(text)
        phase = str(document["phase"])
        active = document.get("active")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Finding(f"slot {name}", False, "its state cannot be read", "restart inference")
    model = f"{active['name']} {active['version']}" if isinstance(active, dict) else "no model"
    wrong = phase in ("REJECTED", "ROLLED_BACK") or not isinstance(active, dict)
    remedy = "no model was ordered yet, or it was refused: `fieldloop rollouts` says why"
    return judged(f"slot {name}", not wrong, f"{phase}, {model}", remedy)
