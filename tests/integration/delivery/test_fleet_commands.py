"""`fieldloop-delivery fleet ...` as people type it: on balena's local API, and without balena."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldloop_delivery.__main__ import main
from fieldloop_store.engine import Store
from fieldloop_store.schema import devices, services
from support.balenacloud.fleet import Supervisor, add_release, make_fleet
from support.balenacloud.server import BalenaCloud
from support.fleet_process import FleetProcess

Run = Callable[..., tuple[int, str, str]]


class Desk:
    """An operator's desk: an API, a fleet, and a command line."""

    def __init__(self, folder: Path) -> None:
        self.cloud = BalenaCloud().start()
        self.fleet = make_fleet(self.cloud, devices=3)
        self.supervisor = Supervisor(self.cloud, self.fleet)
        plan = {"waves": [{"count": 1}, {"all": True}], "gates": {"soak_s": 0.1}}
        self.process = FleetProcess(folder, self.cloud, self.fleet, **plan)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.process.kill()
    made.cloud.stop()


@pytest.fixture
def run(desk: Desk, capsys: pytest.CaptureFixture[str]) -> Run:
    """One command; its status, and what it printed on stdout and stderr."""

    def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
        capsys.readouterr()
        environ = {**desk.process.environment, **environment}
        status = main(["fleet", *arguments], {k: v for k, v in environ.items() if v != "-"})
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


def test_sync_devices_and_releases_say_what_there_is(desk: Desk, run: Run) -> None:
    run("pin", "pump-2", "--release", "1.1.0")
    status, out, _ = run("sync")
    assert status == 0
    assert "3 devices by balena, 3 online" in out
    assert "the fleet is pinned: 1.0.0" in out
    assert "1 pinned by themselves: pump-2" in out
    assert "1 not yet there: pump-2" in out
    _, out, _ = run("devices")
    assert out.splitlines()[1].split()[:3] == ["pump-2", "online", "raspberrypi4-64"]
    assert "-> 1.1.0" in out
    assert "(pinned)" in out
    _, out, _ = run("releases")
    assert [line.split()[0] for line in out.splitlines()] == ["1.1.0", "1.0.0"]


def test_every_listing_is_also_for_scripts(desk: Desk, run: Run) -> None:
    run("tag", "pump-1", "site=north hall", "line=4")
    run("tag", "pump-1", "line=")
    found = {d["device"]: d for d in json.loads(run("devices", "--json")[1])}
    assert found["pump-1"]["tags"] == {"site": "north hall"}
    assert [d["device"] for d in json.loads(run("devices", "--tag", "site=north hall", "--json")[1])
            ] == ["pump-1"]  # fmt: skip
    assert json.loads(run("sync", "--json")[1])["online"] == 3
    assert json.loads(run("releases", "--json")[1])[0]["version"] == "1.1.0"
    assert json.loads(run("rollouts", "--json")[1]) == []
    assert "none of 3 devices has the tags site=west" in run("devices", "--tag", "site=west")[1]


def test_variables_in_every_scope(run: Run) -> None:
    for scope in ([], ["--device", "pump-1"], ["--service", "inference"],
                  ["--device", "pump-1", "--service", "inference"]):  # fmt: skip
        assert run("variables", "set", "FIELDLOOP_X=a=b c", "FIELDLOOP_Y=", *scope)[0] == 0
        found = json.loads(run("variables", "list", "--json", *scope)[1])
        assert found["FIELDLOOP_X"] == "a=b c"
        assert found["FIELDLOOP_Y"] == ""
        assert run("variables", "remove", "FIELDLOOP_X", "FIELDLOOP_X", *scope)[0] == 0
        assert "FIELDLOOP_X" not in run("variables", "list", *scope)[1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["pin", "pump-99", "--release", "1.1.0"], "no device of acme/pumps"),
        (["pin", "pump-1", "--release", "9.9"], "no release is called '9.9'; there are: 1.1.0"),
        (["pin", "--release", "1.1.0"], "name devices, or say --all"),
        (["pin", "--all", "pump-1", "--release", "1.1.0"], "name devices, or say --all"),
        (["pin", "--all", "--follow"], "name devices, or say --all"),
        (["tag", "pump-1", "site"], "is not KEY=VALUE"),
        (["tag", "pump-1", "a=1", "a=2"], "stands twice"),
        (["tag", "pump-1", "a b=1"], "cannot be a tag"),
        (["variables", "set", "FIELDLOOP_X"], "is not KEY=VALUE"),
        (["variables", "set", "BALENA_HOST_CONFIG_gpu_mem=16"], "is reserved"),
        (["variables", "set", "two words=1"], "cannot be a variable"),
        (["variables", "set", "X=1", "--device", "pump-99"], "no device of acme/pumps"),
        (["variables", "set", "X=1", "--service", "infrence"], "has no service 'infrence'"),
    ],
)
def test_a_mistake_gets_a_reason_and_changes_nothing(
    desk: Desk, run: Run, arguments: list[str], why: str
) -> None:
    status, _, err = run(*arguments)
    assert status != 0
    assert why in err
    assert not desk.cloud.changes()


def test_a_missing_a_wrong_and_a_revoked_token_name_the_remedy(desk: Desk, run: Run) -> None:
    token = "FIELDLOOP_BALENA_TOKEN_FILE"
    status, _, err = run("sync", **{token: "-"})
    assert status != 0
    assert "and no token" in err
    status, _, err = run("sync", **{token: "-", "FIELDLOOP_BALENA_TOKEN": "guess"})
    assert "does not accept the token" in err
    desk.cloud.tokens.clear()
    status, _, err = run("sync")
    assert status != 0
    assert "make an API key in the dashboard" in err
    assert desk.fleet.token not in err


def test_balena_down_is_said_after_some_tries(desk: Desk, run: Run) -> None:
    desk.cloud.stop()
    status, out, err = run("devices")
    assert status != 0
    assert out == ""
    assert "balena cannot be reached: no connection" in err


def test_without_the_sdk_the_error_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith("fieldloop_delivery.fleets.")]:
        if name.endswith((".balena", ".pine")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "balena", None)
    status, _, err = run("devices")
    assert status != 0
    assert "fieldloop-delivery[balena]" in err


def test_a_fleet_without_balena_has_its_devices_and_says_what_is_the_owners(
    desk: Desk, run: Run
) -> None:
    store = Store.open(desk.process.url)
    with store.begin() as connection:
        row: dict[str, Any] = {"fleet": "demo", "device": "pump-1"}
        connection.execute(devices.insert().values(**row, first_seen_ns=1))
        status = {"state": "online", "session": "s", "status": {}, "status_ns": 1}
        connection.execute(services.insert().values(**row, service="inference", **status))
    store.close()
    alone = {"FIELDLOOP_BALENA_FLEET": "-", "FIELDLOOP_BALENA_TOKEN_FILE": "-"}
    code, out, _ = run("sync", **alone)
    assert (code, "1 devices by mqtt, 1 online" in out) == (0, True)
    assert run("devices", **alone)[1].startswith("pump-1")
    for arguments in (
        ["variables", "list"],
        ["pin", "--all", "--release", "abcdef1"],
        ["tag", "pump-1", "a=1"],
        ["rollout", "1.1.0"],
    ):
        code, _, err = run(*arguments, **alone)
        assert code != 0
        assert "FIELDLOOP_BALENA_FLEET" in err
    assert not desk.cloud.seen


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fleet", "--help"], {})
    text = capsys.readouterr().out
    for word in ("fleet sync", "variables list --device", "fleet rollout 1.4.0", "TOKEN_FILE"):
        assert word in text


def test_a_rollout_from_the_command_line_with_the_service_beside(desk: Desk, run: Run) -> None:
    """Everything as in production: two processes, the store between them, HTTP to the API."""
    add_release(desk.cloud, desk.fleet, "1.2.0")
    code, _, err = run("rollout", "1.1.0", "--wait-s", "0.2")
    assert code == 2
    assert "is `fleet run` running?" in err
    stop = threading.Event()

    def devices_live() -> None:
        while not stop.wait(0.05):
            desk.supervisor.step()

    thread = threading.Thread(target=devices_live, daemon=True)
    thread.start()
    desk.process.start()
    try:
        # The request stayed, and is obeyed first.
        code, out, _ = run("rollout", "1.2.0", "--wait-s", "60")
        assert code == 0, desk.process.log()
        assert "is queued" in out
        code, out, _ = run("rollout", "1.1.0", "--wait-s", "60")
        assert code == 1
        assert "on its way already" in out or "runs already" in out or "since rollout" in out
        newest = desk.fleet.commits[-1]
        for _ in range(600):
            if set(desk.supervisor.running().values()) == {newest} and all(
                r["state"] == "completed" and r["settled"]
                for r in json.loads(run("rollouts", "--json")[1])
            ):
                break
            stop.wait(0.1)
        else:
            raise AssertionError(desk.process.log())
        assert "1.2.0 completed" in run("devices")[1]
    finally:
        stop.set()
        thread.join()


def board(folder: Path, **changes: str) -> str:
    """A rendered board, as `tools/configure.py render` writes it."""
    document = {
        "config": {"BALENA_HOST_CONFIG_gpu_mem": "16"},
        "service": {"inference": {"FIELDLOOP_THREADS": "2", **changes}},
    }
    (folder / "variables.json").write_text(json.dumps(document), "utf-8")
    return str(folder)


def test_a_board_s_variables_are_pushed_to_host_and_services_and_only_differences_are_sent(
    desk: Desk, run: Run, tmp_path: Path
) -> None:
    folder = board(tmp_path, FIELDLOOP_IDLE_MS="50")
    status, out, _ = run("push", folder, "--dry-run")
    assert (status, out.splitlines()[-1]) == (0, "3 variables would be changed")
    assert run("variables", "list", "--service", "inference")[1] == ""
    assert run("push", folder)[1].splitlines()[-1] == "3 variables changed"
    assert run("push", folder)[1] == "0 variables changed\n"
    run("variables", "set", "MY_OWN=1", "--service", "inference")
    folder = board(tmp_path)
    assert run("push", folder)[1] == "0 variables changed\n"
    status, out, _ = run("push", folder, "--prune")
    assert out == "inference: FIELDLOOP_IDLE_MS removed\n1 variables changed\n"
    listed = run("variables", "list", "--service", "inference")[1]
    assert listed.split() == ["FIELDLOOP_THREADS=2", "MY_OWN=1"]
    rows = desk.cloud.state.rows
    [host] = rows["application_config_variable"].values()
    assert (host["name"], host["value"]) == ("BALENA_HOST_CONFIG_gpu_mem", "16")

    assert run("push", folder, "--device", "pump-2")[1].splitlines()[-1] == "2 variables changed"
    assert len(rows["device_config_variable"]) == 1
    assert run("push", folder, "--device", "pump-2")[1] == "0 variables changed\n"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "configure.py render"),
        ("[]", "variables.json"),
        ('{"service": {"inference": {"BALENA_X": "1"}}}', "reserved"),
        ('{"config": {"FIELDLOOP_X": "1"}}', "does not configure the host"),
        ('{"config": {}, "more": 1}', "more"),
        ('{"service": {"lamp": {"FIELDLOOP_X": "1"}}}', "no service"),
    ],
)
def test_a_push_that_cannot_be_says_why_and_sets_nothing(
    desk: Desk, run: Run, tmp_path: Path, document: str | None, said: str
) -> None:
    if document is not None:
        (tmp_path / "variables.json").write_text(document, "utf-8")
    before = repr(desk.cloud.state.rows)
    status, _, error = run("push", str(tmp_path))
    assert status != 0
    assert said in error
    assert repr(desk.cloud.state.rows) == before


def test_what_every_board_renders_to_can_be_pushed(desk: Desk, run: Run, tmp_path: Path) -> None:
    tree = Path(__file__).resolve().parents[3]
    sys.path.insert(0, str(tree / "tools"))
    from configure import render  # noqa: PLC0415 - a tool, not a package

    for path in sorted((tree / "firmware-config" / "boards").glob("*.yaml")):
        out = tmp_path / path.stem
        render(path.stem, "motor-monitor", out)
        status, _, error = run("push", str(out), "--prune")
        assert (status, error) == (0, "")
