"""Forty devices at once: a file, tokens as variables of balena, and taken away again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fieldloop_delivery.__main__ import main as delivery
from fieldloop_delivery.fleets.backend import ID_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE, Scope
from fieldloop_delivery.fleets.balena import BalenaFleet
from fieldloop_delivery.fleets.pine import Exchange
from fieldloop_identity.__main__ import compose
from fieldloop_identity.__main__ import main as identity
from fieldloop_identity.enrolment import EnrolRequest
from fieldloop_identity.settings import IdentitySettings
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.settings import load
from fieldloop_store.engine import Store
from support.balenacloud.fleet import add_device, make_fleet
from support.balenacloud.server import BalenaCloud
from support.certified import ROOT, request
from support.fleet_process import FleetProcess

COUNT = 40
URL = "https://cloud.example.com:8443"
Run = Callable[..., tuple[int, str, str]]


class Desk:
    """Who provisions: identity's and delivery's commands, a fleet on the local API."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cloud = BalenaCloud().start()
        self.fleet = make_fleet(self.cloud, devices=0)
        self.names = [f"pump-{n}" for n in range(1, COUNT + 1)]
        self.uuids = {n: add_device(self.cloud, self.fleet, n, named=False) for n in self.names}
        self.environ = FleetProcess(folder, self.cloud, self.fleet).environment
        (folder / "root.json").write_text(ROOT, "utf-8")
        self.identity = {
            "FIELDLOOP_FLEET": "demo",
            "FIELDLOOP_STORE_URL": self.environ["FIELDLOOP_STORE_URL"],
            "FIELDLOOP_DIR": str(folder / "authority"),
            "FIELDLOOP_BROKER_DIR": str(folder / "broker"),
            "FIELDLOOP_CLIENTS_DIR": str(folder / "clients"),
            "FIELDLOOP_ROOT_FILE": str(folder / "root.json"),
        }
        assert identity(["init"], self.identity) == 0
        self.backend = BalenaFleet(
            self.cloud.url, self.fleet.slug, Exchange(self.fleet.token, per_minute=10_000)
        )

    def table(self, text: str) -> str:
        path = self.folder / "devices.csv"
        path.write_text(text, "utf-8")
        return str(path)

    def whole_table(self) -> str:
        rows = [f"{name},{self.uuids[name]}" for name in self.names]
        return self.table("\n".join(["device,uuid", *rows]) + "\n")

    def enrol(self, device: str, token: str) -> None:
        """As the device's agent would."""
        store = Store.open(self.identity["FIELDLOOP_STORE_URL"])
        settings = load(IdentitySettings, self.identity)
        grant = compose(settings, store, Journal("identity")).enrol(
            EnrolRequest(token=token, csr=request()[0]), datetime.now(UTC)
        )
        assert grant.device == device
        store.close()

    def variables(self, device: str) -> dict[str, str]:
        self.backend.inventory(0)
        return self.backend.variables(Scope(device))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.backend.close()
    made.cloud.stop()


@pytest.fixture
def provision(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """`fieldloop-identity provision --csv FILE | fieldloop-delivery fleet enrol --url URL`."""

    def run(path: str) -> tuple[int, str, str]:
        capsys.readouterr()
        assert identity(["provision", "--csv", path], desk.identity) == 0
        lines = capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        status = delivery(["fleet", "enrol", "--url", URL], desk.environ)
        printed = capsys.readouterr()
        assert status != 78, printed.err
        return status, lines, printed.out

    return run


def test_forty_devices_get_tokens_enrol_and_lose_them_again(desk: Desk, provision: Run) -> None:
    status, lines, _ = provision(desk.whole_table())
    assert status == 0
    given = {row["device"]: row for row in map(json.loads, lines.splitlines())}
    assert {row["state"] for row in given.values()} == {"waiting"}
    assert set(desk.backend.inventory(0).devices) == set(desk.names)
    for name in desk.names:
        assert desk.variables(name) == {
            ID_VARIABLE: name,
            URL_VARIABLE: URL,
            TOKEN_VARIABLE: given[name]["token"],
        }
    for name in desk.names[:30]:
        desk.enrol(name, given[name]["token"])

    status, lines, said = provision(desk.whole_table())  # again: some are through, some are not
    assert status == 0
    states = {row["device"]: row["state"] for row in map(json.loads, lines.splitlines())}
    assert [states[n] for n in desk.names] == ["enrolled"] * 30 + ["waiting"] * 10
    assert said.count("enrolled") == 30
    assert not any(TOKEN_VARIABLE in desk.variables(n) for n in desk.names[:30])
    for name in desk.names[30:]:
        desk.enrol(name, desk.variables(name)[TOKEN_VARIABLE])


def test_a_device_that_balena_does_not_have_is_named_and_the_others_are_served(
    desk: Desk, provision: Run
) -> None:
    text = f"device,uuid\nghost,{'ab' * 31}\npump-1,{desk.uuids['pump-1']}\n"
    status, _, said = provision(desk.table(text))
    assert status == 1
    assert "ghost: no device has this id or the UUID abab" in said
    assert desk.variables("pump-1")[TOKEN_VARIABLE].startswith("fl1.")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "header"),
        ("name,uuid\na,b\n", "the first line is"),
        ("device,uuid\n", "no device in it"),
        ("device\nUpper Case\n", ":2:"),
        ("device,uuid\npump-1,not-hex\n", ":2: 'not-hex' is no UUID"),
        ("device\npump-1\npump-2\npump-1\n", ":4: pump-1 stands in line 2 too"),
        ("device\npump-1,abcdef01\n", ":2: more values than the header names"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_makes_no_token(
    desk: Desk, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert identity(["provision", "--csv", desk.table(text)], desk.identity) != 0
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    identity(["list"], desk.identity)
    assert json.loads(capsys.readouterr().out)["waiting"] == []


def test_one_device_or_a_file_and_never_both(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["pump-1", "--csv", desk.whole_table()]):
        assert identity(["provision", *arguments], desk.identity) != 0
        assert "one device, or a file" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"device": "A b", "state": "waiting"}', "[]"])
def test_enrol_takes_all_lines_or_none(
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
) -> None:
    good = json.dumps({"device": "pump-1", "uuid": desk.uuids["pump-1"], "state": "waiting",
                       "token": "fl1.a.b"})  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{good}\n{line}\n"))
    assert delivery(["fleet", "enrol"], desk.environ) != 0
    assert "line 2" in capsys.readouterr().err
    assert desk.variables(desk.uuids["pump-1"]) == {}
