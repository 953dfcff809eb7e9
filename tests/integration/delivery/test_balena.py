"""The balena adapter through the real SDK against the local API server: pages, limits, faults."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from fieldloop_contract.errors import (
    FixConfiguration,
    Isolate,
    RejectedInput,
    RetryLater,
)
from fieldloop_delivery.fleets import balena
from fieldloop_delivery.fleets.backend import Scope
from fieldloop_delivery.fleets.balena import BalenaFleet
from fieldloop_delivery.fleets.inventory import NS, CachedInventory
from fieldloop_delivery.fleets.pine import Exchange, retry_after
from support.balenacloud.fleet import Supervisor, add_device, add_release, make_fleet
from support.balenacloud.server import Access, Answer, BalenaCloud, Fault


@pytest.fixture
def cloud() -> Iterator[BalenaCloud]:
    server = BalenaCloud().start()
    yield server
    server.stop()


def open_fleet(cloud: BalenaCloud, slug: str, token: str, **limits: float) -> BalenaFleet:
    return BalenaFleet(cloud.url, slug, Exchange(token, **limits))  # type: ignore[arg-type]


def test_pages_bring_each_device_once_while_devices_come_and_go(
    cloud: BalenaCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(cloud, devices=23)
    monkeypatch.setattr(balena, "PAGE_ROWS", 5)
    row = fleet.devices["pump-2"]

    def between() -> None:  # after the first page: one of its devices goes, another comes
        with cloud.state.lock:
            cloud.state.remove("device", [row])
            add_device(cloud, fleet, "pump-99")

    cloud.faults.append(Fault(None, containing="/v7/device?", after=between))
    inventory = open_fleet(cloud, fleet.slug, fleet.token).inventory(1)
    assert len(inventory.devices) == 24  # 23 as they were, and the new one
    assert {"pump-2", "pump-99", "pump-23"} <= set(inventory.devices)
    pages = [s for s in cloud.seen if s.path.startswith("/v7/device?")]
    assert len(pages) == 5


def test_only_this_fleet_and_only_active_devices_are_seen(cloud: BalenaCloud) -> None:
    fleet, other = make_fleet(cloud, devices=2), make_fleet(cloud, devices=3, name="Fans")
    cloud.tokens["all"] = Access()
    with cloud.state.lock:
        cloud.state.change("device", [fleet.devices["pump-2"]], {"is_active": False})
    assert list(open_fleet(cloud, fleet.slug, "all").inventory(1).devices) == ["pump-1"]
    assert len(open_fleet(cloud, other.slug, "all").inventory(1).devices) == 3


def test_a_device_without_an_id_goes_by_its_uuid_and_one_with_a_bad_or_doubled_id_is_set_aside(
    cloud: BalenaCloud,
) -> None:
    fleet = make_fleet(cloud, devices=1)
    plain = add_device(cloud, fleet, "unnamed", named=False)
    twin, bad = (
        add_device(cloud, fleet, "twin", named=False),
        add_device(cloud, fleet, "bad", named=False),
    )
    with cloud.state.lock:
        for name, value in (("twin", "pump-1"), ("bad", "Pump/+/1")):
            variable = {"device": fleet.devices[name], "name": "ENROLMENT_DEVICE", "value": value}
            cloud.state.add("device_environment_variable", variable)
    inventory = open_fleet(cloud, fleet.slug, fleet.token).inventory(1)
    assert set(inventory.devices) == {"pump-1", plain}
    assert set(inventory.refused) == {twin, bad}
    assert "pump-1" in inventory.refused[twin]
    assert "not a valid identifier" in inventory.refused[bad]


def test_pins_targets_cohorts_and_trouble_are_read_as_they_are(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=3)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    old, new = fleet.commits
    backend.pin(["pump-2"], new)
    backend.tag("pump-2", {"hall": "3", "line": "a b"})
    backend.tag("pump-3", {"hall": "3"})
    seen = backend.inventory(1)
    assert (seen.release, seen.tracking) == (old, False)
    two = seen.devices["pump-2"]
    assert (two.pinned, two.target, two.running) == (new, new, old)
    assert seen.devices["pump-1"].target == old
    assert seen.having({"hall": "3"}) == ["pump-2", "pump-3"]
    assert seen.having({"hall": "3", "line": "a b"}) == ["pump-2"]
    supervisor = Supervisor(cloud, fleet)
    supervisor.bad = {new}
    supervisor.step()
    two = backend.inventory(2).devices["pump-2"]
    assert two.running == new
    assert two.fault


def test_two_hundred_devices_are_pinned_with_one_change(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=201)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    names = list(backend.inventory(1).devices)
    backend.pin(names, fleet.commits[1])
    assert [c.method for c in cloud.changes()] == ["PATCH", "PATCH"]
    Supervisor(cloud, fleet).step()
    assert {d.running for d in backend.inventory(2).devices.values()} == {fleet.commits[1]}


def test_variables_of_four_scopes_do_not_mix(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=2)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    scopes = [
        Scope(),
        Scope("pump-1"),
        Scope(service="inference"),
        Scope("pump-1", "inference"),
        Scope("pump-1", "ingestion"),
    ]
    for number, scope in enumerate(scopes):
        backend.set_variable(scope, "FIELDLOOP_X", f"it's {number} & more")
    for number, scope in enumerate(scopes):
        assert backend.variables(scope)["FIELDLOOP_X"] == f"it's {number} & more"
    assert "FIELDLOOP_X" not in backend.variables(Scope("pump-2"))
    backend.remove_variable(scopes[3], "FIELDLOOP_X")
    assert backend.variables(scopes[3]) == {}
    assert backend.variables(scopes[4])["FIELDLOOP_X"] == "it's 4 & more"


# Faults.


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, RejectedInput, "balena.refused"),
        (401, FixConfiguration, "balena.token"),
        (403, FixConfiguration, "balena.forbidden"),
        (404, FixConfiguration, "balena.url"),
        (302, FixConfiguration, "balena.url"),
        (409, RejectedInput, "balena.refused"),
        (423, RetryLater, "balena.away"),
        (429, RetryLater, "balena.limited"),
        (500, RetryLater, "balena.away"),
        (502, RetryLater, "balena.away"),
        (503, RetryLater, "balena.away"),
    ],
)
def test_each_status_says_what_to_do(
    cloud: BalenaCloud, status: int, kind: type[Exception], code: str
) -> None:
    fleet = make_fleet(cloud, devices=1)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    for answer in (Answer(status, "no, because"), Answer(status), Answer(status, b"<html>")):
        cloud.faults.append(Fault(answer))
        with pytest.raises(kind) as raised:
            backend.inventory(1)
        assert raised.value.code == code  # type: ignore[attr-defined]
        backend._exchange._closed_until = 0  # a pause that was asked for is another test's
    assert backend.inventory(1).devices


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>captive portal</html>",
        b"[1, 2]",
        b"{}",
        b'{"d": 3}',
        b'{"d": [null]}',
        b'{"d": [[]]}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_an_answer_of_another_form_is_to_be_asked_again(cloud: BalenaCloud, body: bytes) -> None:
    fleet = make_fleet(cloud, devices=1)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    for containing in ("/v7/application?", "/v7/application(", "/v7/device?"):
        cloud.faults.append(Fault(Answer(200, body), containing=containing))
        with pytest.raises((RetryLater, FixConfiguration)):
            backend.inventory(1)
        cloud.faults.clear()
    assert backend.inventory(1).devices


def test_a_row_that_cannot_be_read_is_set_aside_and_its_neighbours_stay(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=2)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    with cloud.state.lock:
        cloud.state.rows["device"][fleet.devices["pump-1"]]["is_of__device_type"] = None
        cloud.state.changed()
    inventory = backend.inventory(1)
    assert list(inventory.devices) == ["pump-2"]
    assert list(inventory.refused) == [fleet.uuids["pump-1"]]


def test_a_missing_and_a_revoked_token_are_a_persons_to_mend(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=1)
    for token in ("", "guessed"):
        with pytest.raises(FixConfiguration, match="make an API key"):
            open_fleet(cloud, fleet.slug, token).inventory(1)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    backend.inventory(1)
    cloud.tokens.clear()  # revoked
    with pytest.raises(FixConfiguration, match="does not accept the token"):
        backend.pin(["pump-1"], fleet.commits[1])
    assert not cloud.changes()


def test_a_reading_token_and_one_of_another_fleet_change_nothing(cloud: BalenaCloud) -> None:
    fleet, other = make_fleet(cloud, devices=1), make_fleet(cloud, devices=1, name="Fans")
    cloud.tokens["reader"] = Access(frozenset({fleet.application}), write=False)
    backend = open_fleet(cloud, fleet.slug, "reader")
    assert backend.inventory(1).devices
    with pytest.raises(FixConfiguration):
        backend.set_variable(Scope(), "FIELDLOOP_X", "1")
    with pytest.raises(FixConfiguration, match="organisation/fleet"):
        open_fleet(cloud, fleet.slug, other.token).inventory(1)
    with pytest.raises(FixConfiguration, match="organisation/fleet"):
        open_fleet(cloud, "acme/no-such-fleet", fleet.token).inventory(1)
    assert not cloud.changes()


def test_a_pause_that_is_asked_for_is_kept(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=1)
    now = [100.0]
    exchange = Exchange(fleet.token, clock=lambda: now[0])
    backend = BalenaFleet(cloud.url, fleet.slug, exchange)
    backend.inventory(1)
    cloud.faults.append(Fault(Answer(429, "Too Many Requests", {"Retry-After": "30"})))
    with pytest.raises(RetryLater, match="again in 30 s"):
        backend.inventory(1)
    asked = len(cloud.seen)
    now[0] += 29
    with pytest.raises(RetryLater, match="pause"):
        backend.inventory(1)
    assert len(cloud.seen) == asked  # nothing was sent
    now[0] += 1.5
    assert backend.inventory(1).devices


def test_with_patience_a_limited_call_is_sent_again_by_itself(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=1)
    slept: list[float] = []
    now = [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    exchange = Exchange(fleet.token, patience_s=60, clock=lambda: now[0], sleep=sleep)
    backend = BalenaFleet(cloud.url, fleet.slug, exchange)
    limited = Answer(429, "Too Many Requests", {"Retry-After": "7"})
    cloud.faults += [Fault(limited), Fault(Answer(502)), Fault(limited, method="PATCH")]
    backend.pin(["pump-1"], fleet.commits[1])
    assert slept == [7, 1.0, 7]
    assert len(cloud.changes()) == 1


def test_the_servers_own_limit_is_never_met_below_our_rate(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=1)
    cloud.limit = (20, 60.0)
    now = [0.0]
    exchange = Exchange(fleet.token, per_minute=20, clock=lambda: now[0])
    backend = BalenaFleet(cloud.url, fleet.slug, exchange)
    for _ in range(9):  # two requests each, and one more to find the fleet
        backend.inventory(1)
    with pytest.raises(RetryLater, match="20 requests in a minute"):
        backend.inventory(1)
    assert {s.status for s in cloud.seen} == {200}
    assert len(cloud.seen) == 20


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", 0), ("7", 7), (" 7 ", 7), ("999999", 3600), ("-1", 0), ("soon", 0), ("1e9", 0)],
)
def test_retry_after_in_every_form(value: str, seconds: float) -> None:
    assert retry_after(value, 0.0) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after(formatdate(1_000_000, usegmt=True), 999_990.0) == 10
    assert retry_after(formatdate(1_000_000, usegmt=True), 2_000_000.0) == 0


def test_a_server_that_hangs_drips_or_floods_is_given_up(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=1)
    release = threading.Event()
    cloud.faults.append(Fault(Answer(200), before=lambda: release.wait(20)))
    backend = open_fleet(cloud, fleet.slug, fleet.token, timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(RetryLater, match="no answer in time"):
        backend.inventory(1)
    assert time.monotonic() - began < 10
    release.set()
    with _dripping() as port, pytest.raises(RetryLater, match="not complete"):
        BalenaFleet(f"http://127.0.0.1:{port}/", "a/b", Exchange("t", timeout_s=0.3)).inventory(1)
    cloud.faults.append(Fault(Answer(200, b"x" * (65 << 20))))
    with pytest.raises(RetryLater, match="more than"):
        open_fleet(cloud, fleet.slug, fleet.token).inventory(1)


class _dripping:
    """A server that sends one byte of its answer each 0.1 s."""

    def __enter__(self) -> int:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._stop = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        return int(self._socket.getsockname()[1])

    def _run(self) -> None:
        client, _ = self._socket.accept()
        with client:
            client.recv(10_000)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not self._stop.wait(0.1):
                try:
                    client.sendall(b" ")
                except OSError:
                    return

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._socket.close()


def test_a_device_that_left_meanwhile_is_isolated(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=2)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    backend.inventory(1)
    with cloud.state.lock:
        cloud.state.remove("device", [fleet.devices["pump-1"]])
    with pytest.raises(Isolate):
        backend.pin(["pump-1", "pump-2"], fleet.commits[1])
    assert not cloud.changes()


@pytest.mark.parametrize("status", ["failed", "running", "cancelled"])
def test_a_release_that_was_not_built_is_pinned_nowhere(cloud: BalenaCloud, status: str) -> None:
    fleet = make_fleet(cloud, devices=1)
    commit = add_release(cloud, fleet, "1.2.0", status=status)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    assert not backend.releases()[0].usable
    for call in (lambda: backend.pin(["pump-1"], commit), lambda: backend.pin_fleet(commit)):
        with pytest.raises(RejectedInput, match="Release not found"):
            call()
    assert not cloud.changes()


@pytest.mark.parametrize(
    "url", ["", "api.balena-cloud.com", "ftp://x/", "http://api.example.org/", "https://"]
)
def test_a_url_that_would_not_do_is_refused_at_once(url: str) -> None:
    with pytest.raises(FixConfiguration):
        BalenaFleet(url, "acme/pumps", Exchange("t"))


def test_the_token_goes_nowhere_else(
    cloud: BalenaCloud, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = BalenaCloud().start()
    fleet = make_fleet(cloud, devices=1)
    away = Answer(302, None, {"Location": other.url + "v7/application"})
    cloud.faults.append(Fault(away))
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    with pytest.raises(FixConfiguration):
        backend.inventory(1)
    assert not other.seen
    other.stop()
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w", encoding="utf-8") as file:
        file.write("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", netrc)
    assert backend.inventory(1).devices


# The cache.


def test_a_stale_inventory_is_said_to_be_so_and_serves_nobody_beyond_its_bound(
    cloud: BalenaCloud,
) -> None:
    fleet = make_fleet(cloud, devices=2)
    backend = open_fleet(cloud, fleet.slug, fleet.token)
    cache = CachedInventory(backend, fresh_s=60, stale_s_max=600, retry_s=10)
    assert not cache.get(0).stale
    asked = len(cloud.seen)
    assert not cache.get(59 * NS).stale
    assert len(cloud.seen) == asked  # from the cache
    cloud.stop()
    old = cache.get(100 * NS)
    assert "100 s old" in old.stale
    assert "no connection" in old.stale
    assert list(old.devices) == ["pump-1", "pump-2"]
    assert "105 s old" in cache.get(105 * NS).stale
    with pytest.raises(RetryLater, match="601 s old"):
        cache.get(601 * NS)
    cloud.start()
    fresh = cache.get(620 * NS)
    assert not fresh.stale
    assert fresh.taken_ns == 620 * NS


def test_a_fleet_that_was_never_read_is_no_empty_fleet(cloud: BalenaCloud) -> None:
    fleet = make_fleet(cloud, devices=2)
    cloud.stop()
    cache = CachedInventory(open_fleet(cloud, fleet.slug, fleet.token))
    with pytest.raises(RetryLater, match="not read yet"):
        cache.get(0)
