"""Who may do what at a real mosquitto with real certificates: identity by topic, both ways.

What is expected is computed from the contract's access table alone; what happens is observed: every
identity publishes to every topic and subscribes to every topic, and one client per topic that the
table lets read everything tells what arrived.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from fieldloop_contract.errors import Untrusted
from fieldloop_contract.topics import CHANNELS, Role, Topic, access_table, blob_topic, meta_topic
from fieldloop_identity.authority import Authority
from fieldloop_identity.doctor import examine
from fieldloop_identity.enrolment import EnrolRequest
from fieldloop_identity.settings import BrokerSettings, IdentitySettings
from fieldloop_store.engine import Store
from support.certified import FLEET, Files, Site, request

WAIT_S = 20.0
DEVICES = ("acme/pump-7", "acme/pump-8", "other/pump-7")
TOPICS = [
    *(
        str(Topic(fleet, device, "inference", channel))
        for fleet, device in (("acme", "pump-7"), ("acme", "pump-8"), ("other", "pump-7"))
        for channel in CHANNELS
    ),
    *(meta_topic(fleet, "timestamp.json") for fleet in ("acme", "other")),
    *(blob_topic(fleet, "ab" * 32) for fleet in ("acme", "other")),
    "homeassistant/device/pump-7/config",
    "anything/else",
]


class Client:
    """A bare MQTT client with a certificate, so that nothing of ours stands in between."""

    def __init__(self, site: Site, files: Files, name: str, *, username: str = "") -> None:
        self.granted: dict[str, bool] = {}
        self.heard: list[tuple[str, bytes]] = []
        self.connected: bool | None = None
        self._asked: deque[str] = deque()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name)
        client.tls_set(str(site.trust), str(files.cert), str(files.key))
        if username:
            client.username_pw_set(username)
        client.on_connect = lambda *a: setattr(self, "connected", not a[3].is_failure)
        client.on_subscribe = self._on_subscribe
        client.on_message = lambda _c, _u, m: self.heard.append((m.topic, m.payload))
        self.client = client
        client.connect("localhost", site.port)
        client.loop_start()

    def _on_subscribe(self, _c: object, _u: object, _mid: int, codes: list, _p: object) -> None:
        self.granted[self._asked.popleft()] = not codes[0].is_failure

    def subscribe(self, topic: str) -> None:
        self._asked.append(topic)  # the broker answers in order
        self.client.subscribe(topic, 1)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def refused(site: Site, files: Files | None) -> bool:
    """Whether the broker ends the connection before it is one; no retry, no thread."""
    codes: list[bool] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"try-{time.monotonic_ns()}")
    if files is None:
        client.tls_set(str(site.trust))
    else:
        client.tls_set(str(site.trust), str(files.cert), str(files.key))
    client.on_connect = lambda *a: codes.append(not a[3].is_failure)
    try:
        client.connect("localhost", site.port)
        deadline = time.monotonic() + WAIT_S
        while not codes and time.monotonic() < deadline:
            # TLS 1.3: the client is done before the server says that it refuses.
            if client.loop(0.1) != paho.MQTT_ERR_SUCCESS:
                return True
        return codes != [True]
    except (ssl.SSLError, OSError):
        return True
    finally:
        client.disconnect()


def matches(filter_: str, topic: str) -> bool:
    return bool(paho.topic_matches_sub(filter_, topic))


def allowed(identity: str, topic: str, access: str) -> bool:
    """What the contract's table says, with `%u` and `%f` filled in by this test.

    mosquitto has no pattern for a fleet alone, so what a whole fleet reads, metadata and chunks,
    is readable by whoever this authority lets in (`mosquitto_acl`); none but delivery writes it.
    """
    role = Role.DEVICE if "/" in identity else Role(identity)
    for rule in access_table(FLEET):
        filter_ = rule.filter.replace("%u", identity).replace("%f", FLEET)
        anyone = rule.role is Role.DEVICE and "%f" in rule.filter
        if (anyone or rule.role is role) and access in rule.access and matches(filter_, topic):
            return True
    return False


@pytest.fixture
def quiet_site(tmp_path: Path) -> Iterator[Site]:
    """Files only; the test starts the broker."""
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    made = Site(tmp_path / "site", store)
    yield made
    made.close()
    store.close()


@pytest.fixture
def site(quiet_site: Site) -> Site:
    quiet_site.start_broker()
    return quiet_site


def files_of(site: Site, identity: str) -> Files:
    return site.certify(identity) if "/" in identity else site.service(identity)


IDENTITIES = (*DEVICES, "telemetry", "delivery", "machines", "reader")


def admit_observer(site: Site) -> Client:
    """One more user, who alone may read and write everything; then the broker starts."""
    acl = site.folder / "broker" / "acl"
    acl.write_text("user observer\ntopic readwrite #\n\n" + acl.read_text(), encoding="utf-8")
    site.start_broker()
    observer = Client(site, site.certify("observer"), "observer")
    wait(lambda: observer.connected, "the observer does not connect")
    return observer


def test_each_identity_reads_what_the_table_says_and_nothing_else(quiet_site: Site) -> None:
    """mosquitto grants every subscription and denies the delivery, so delivery is what counts."""
    site = quiet_site
    observer = admit_observer(site)
    clients = {n: Client(site, files_of(site, n), n.replace("/", "_")) for n in IDENTITIES}
    try:
        for identity, client in clients.items():
            wait(lambda c=client: c.connected, f"{identity} does not connect")
            for topic in TOPICS:
                client.subscribe(topic)
            wait(lambda c=client: len(c.granted) == len(TOPICS), f"{identity}: no SUBACK")
        for round_ in (b"1", b"2"):  # a second round, so that the first has passed everywhere
            for topic in TOPICS:
                observer.client.publish(topic, round_, 1).wait_for_publish(WAIT_S)
        wanted = {(i, t) for i in IDENTITIES for t in TOPICS if allowed(i, t, "read")}

        def seen(round_: bytes) -> set[tuple[str, str]]:
            return {
                (i, t) for i, c in clients.items() for t, payload in c.heard if payload == round_
            }

        wait(lambda: seen(b"2") >= wanted, "what is allowed does not arrive")
        assert seen(b"1") == seen(b"2") == wanted
        assert len(wanted) > 40
    finally:
        for client in (*clients.values(), observer):
            client.close()


def test_each_identity_writes_what_the_table_says_and_nothing_else(quiet_site: Site) -> None:
    site = quiet_site
    observer = admit_observer(site)
    observer.subscribe("#")
    wait(lambda: observer.granted.get("#"), "no SUBACK")
    clients = {n: Client(site, files_of(site, n), n.replace("/", "_")) for n in IDENTITIES}
    wanted = {(i, t) for i in IDENTITIES for t in TOPICS if allowed(i, t, "write")}
    try:
        for identity, client in clients.items():
            wait(lambda c=client: c.connected, f"{identity} does not connect")
            for topic in TOPICS:
                sent = client.client.publish(topic, identity.encode(), 1)
            sent.wait_for_publish(WAIT_S)  # in order: the broker has judged all before it

        def seen() -> set[tuple[str, str]]:
            return {(payload.decode(), topic) for topic, payload in observer.heard}

        wait(lambda: seen() >= wanted, "what is allowed does not arrive")
        assert seen() == wanted
        assert len(wanted) > 25
    finally:
        for client in (*clients.values(), observer):
            client.close()


def test_a_device_of_another_fleet_or_wildcards_reach_nothing(site: Site) -> None:
    client = Client(site, site.certify("acme/pump-7"), "wild")
    try:
        wait(lambda: client.connected, "does not connect")
        for topic in ("#", "fieldloop/#", "fieldloop/v1/acme/+/+/desired", "$SYS/#"):
            client.subscribe(topic)
        wait(lambda: len(client.granted) == 4, "no SUBACK")
        observer = Client(site, site.service("delivery"), "observer")
        wait(lambda: observer.connected, "does not connect")
        for device in ("pump-7", "pump-8"):
            topic = str(Topic(FLEET, device, "inference", "desired"))
            observer.client.publish(topic, b"order", 1, retain=True).wait_for_publish(WAIT_S)
        client.subscribe(str(Topic(FLEET, "pump-7", "inference", "desired")))
        wait(lambda: client.heard, "its own order does not come")
        time.sleep(0.5)
        topics = {topic for topic, _ in client.heard}
        assert topics == {str(Topic(FLEET, "pump-7", "inference", "desired"))}
        observer.close()
    finally:
        client.close()


def test_the_certificate_is_the_user_whatever_the_client_says(site: Site) -> None:
    client = Client(site, site.certify("acme/pump-7"), "liar", username="acme/pump-8")
    try:
        wait(lambda: client.connected is not None, "no answer")
        both = [str(Topic(FLEET, d, "inference", "ack")) for d in ("pump-8", "pump-7")]
        for topic in both:
            client.subscribe(topic)
        wait(lambda: len(client.granted) == 2, "no SUBACK")
        telemetry = Client(site, site.service("telemetry"), "telemetry")
        wait(lambda: telemetry.connected, "no connection")
        for topic in both:
            telemetry.client.publish(topic, b"ack", 1).wait_for_publish(WAIT_S)
        wait(lambda: client.heard, "its own acknowledgement does not come")
        assert [topic for topic, _ in client.heard] == [both[1]]
        telemetry.close()
    finally:
        client.close()


def test_expired_foreign_missing_and_server_certificates_get_no_connection(
    site: Site, tmp_path: Path
) -> None:
    assert not refused(site, site.certify("acme/pump-1"))
    foreign = Authority.create(tmp_path / "foreign", "test authority", site.now)  # even its name
    assert refused(site, site.certify("acme/pump-1", authority=foreign))
    site.advance(days=-30)
    expired = site.certify("acme/pump-1", days=1)
    site.advance(days=30)
    assert refused(site, expired)
    assert refused(site, None)


def test_revoked_device_is_denied_at_once_and_gets_no_new_connection(site: Site) -> None:
    token = site.enrolment.provision(FLEET, "pump-7", actor="ann", hours=1, now=site.now)
    csr, key = request()
    grant = site.enrolment.enrol(EnrolRequest(token=token, csr=csr), site.now)
    files = site.save("enrolled", grant.certificate.encode(), key)
    client = Client(site, files, "pump-7")
    reader = Client(site, site.service("telemetry"), "telemetry")
    topic = str(Topic(FLEET, "pump-7", "inference", "frames"))
    try:
        wait(lambda: client.connected and reader.connected, "no connection")
        reader.subscribe(topic)
        wait(lambda: reader.granted.get(topic), "no SUBACK")
        client.client.publish(topic, b"before", 1).wait_for_publish(WAIT_S)
        wait(lambda: (topic, b"before") in reader.heard, "what is allowed does not arrive")
        site.enrolment.revoke(FLEET, "pump-7", site.now)
        site.keep()
        site.reload_broker()
        wait(lambda: refused(site, files), "a revoked certificate still connects")
        client.client.publish(topic, b"after", 1)
        other = Client(site, site.certify("acme/pump-8"), "pump-8")
        wait(lambda: other.connected, "others must still connect")
        other.close()
        time.sleep(1.0)
        assert (topic, b"after") not in reader.heard
    finally:
        client.close()
        reader.close()


def test_after_a_rotation_old_and_new_certificates_connect(site: Site) -> None:
    old = site.certify("acme/pump-7")
    site.authority.rotate(site.now)
    site.keep()
    site.reload_broker()
    new = site.certify("acme/pump-8")
    wait(lambda: not refused(site, new), "a certificate of the new authority is refused")
    assert not refused(site, old)


def test_the_clouds_doctor_finds_what_was_broken_and_names_the_remedy(site: Site) -> None:
    settings = IdentitySettings(
        fleet=FLEET,
        dir=str(site.folder / "ca"),
        clients_dir=str(site.folder / "clients"),
        broker=BrokerSettings(host="localhost", port=site.port, dir=str(site.folder / "broker")),
    )

    def worries() -> dict[str, str]:
        found = examine(settings, site.store, site.now, "localhost")
        assert all(f.remedy for f in found if not f.fine)
        return {f.what: f.seen for f in found if not f.fine and f.what != "clock"}

    assert worries() == {}
    acl = site.folder / "broker" / "acl"
    acl.write_text(acl.read_text(encoding="utf-8").replace("/ack", "/nack"), encoding="utf-8")
    site.reload_broker()
    wait(lambda: "access of telemetry" in worries(), "a lost line is not found")
    assert "doctor/doctor/ack" in worries()["access of telemetry"]
    token = site.enrolment.provision(FLEET, "pump-7", actor="ann", hours=1, now=site.now)
    site.enrolment.enrol(EnrolRequest(token=token, csr=request()[0]), site.now)
    with pytest.raises(Untrusted):
        site.enrolment.enrol(EnrolRequest(token=token, csr=request()[0]), site.now)
    assert worries()["incidents"] == "pump-7 (token.used)"
    site.advance(days=80)
    seen = worries()
    assert "incidents" not in seen  # of a week ago
    assert seen["certificate of server"] == "9 more days"
    (site.folder / "clients" / "reader" / "cert.pem").unlink()
    assert "certificate of reader" in worries()
