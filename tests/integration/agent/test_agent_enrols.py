"""The agent against the real door, with real keys: enrol, renew, replace, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from fieldloop_agent.doctor import examine
from fieldloop_agent.home import Home
from fieldloop_agent.service import Agent
from fieldloop_agent.settings import AgentSettings, EnrolmentSettings
from fieldloop_contract.errors import FixConfiguration
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.journal import Journal
from fieldloop_store import identities
from fieldloop_store.engine import Store
from support.certified import FLEET, ROOT, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}")
    made = Site(tmp_path / "site", store)
    yield made
    made.close()
    store.close()


def token_for(site: Site, device: str = "pump-7") -> str:
    return site.enrolment.provision(FLEET, device, actor="ann", hours=1, now=datetime.now(UTC))


def agent(folder: Path, url: str, token: str, device: str = "") -> Agent:
    return Agent(
        AgentSettings(dir=str(folder), trust_clock=True),
        EnrolmentSettings(url=url, token=token, device=device),
        Home(folder),
        SystemClock(trusted=True),
        Journal("agent"),
        Random(1),
    )


def current(folder: Path, name: str) -> str:
    return (folder / "current" / name).read_text(encoding="utf-8")


def test_a_token_becomes_a_whole_identity_that_the_broker_believes(
    site: Site, tmp_path: Path
) -> None:
    url, home = site.open_door(), tmp_path / "identity"
    site.start_broker()
    one = agent(home, url, token_for(site))
    one.turn(time.monotonic())
    assert one.complaint is None
    assert (current(home, "fleet"), current(home, "device")) == (FLEET, "pump-7")
    assert (current(home, "broker-host"), current(home, "broker-port")) == (
        "localhost",
        str(site.port),
    )
    assert current(home, "root.json") == ROOT
    assert (home / "current" / "key.pem").stat().st_mode & 0o077 == 0
    settings = AgentSettings(dir=str(home), logs_dir=str(tmp_path / "logs"), trust_clock=True)
    findings = {f.what: f for f in examine(settings)}
    assert findings["tls"].fine
    assert findings["access"].fine, findings["access"]
    assert findings["identity"].fine
    assert not findings["signed metadata"].fine  # nobody has published any
    one.turn(time.monotonic())
    assert one.complaint is None
    assert not findings["logs"].fine
    assert findings["logs"].remedy


def test_a_silent_denial_is_found_and_named(site: Site, tmp_path: Path) -> None:
    """The broker's list lost the lines of two channels: MQTT 3.1.1 would say nothing."""
    acl = site.folder / "broker" / "acl"
    kept = [
        line for line in acl.read_text().splitlines() if not line.endswith(("frames", "events"))
    ]
    acl.write_text("\n".join(kept) + "\n", encoding="utf-8")
    url, home = site.open_door(), tmp_path / "identity"
    site.start_broker()
    one = agent(home, url, token_for(site))
    one.turn(0)  # enrols
    one.turn(1)  # tests
    assert "pump-7/agent/events" in (one.complaint or "")
    assert "pump-7/agent/frames" in (one.complaint or "")
    assert "results" not in (one.complaint or "")
    settings = AgentSettings(dir=str(home), logs_dir=str(tmp_path / "logs"), trust_clock=True)
    access = next(f for f in examine(settings) if f.what == "access")
    assert (access.fine, access.seen) == (False, "refused: events, frames")
    assert access.remedy


def test_it_enrols_once_for_one_token_and_anew_for_another(site: Site, tmp_path: Path) -> None:
    url, home, token = site.open_door(), tmp_path / "identity", token_for(site)
    agent(home, url, token).turn(0)
    key = current(home, "key.pem")
    again = agent(home, url, token)
    again.turn(0)
    assert again.complaint is None
    assert current(home, "key.pem") == key
    agent(home, url, token_for(site)).turn(0)
    assert current(home, "key.pem") != key
    assert len(list(home.glob("generation-*"))) == 2


def test_a_renewal_keeps_key_root_and_profile_and_brings_a_longer_life(
    site: Site, tmp_path: Path
) -> None:
    (site.folder / "profiles").mkdir()
    (site.folder / "profiles" / "default.yaml").write_text("streams: [first]", encoding="utf-8")
    url, home = site.open_door(), tmp_path / "identity"
    one = agent(home, url, token_for(site))
    one.turn(0)
    before = {n: current(home, n) for n in ("key.pem", "root.json", "profile.yaml", "cert.pem")}
    (site.folder / "root.json").write_text('{"signed": "another"}', encoding="utf-8")
    (site.folder / "profiles" / "default.yaml").write_text("streams: [later]", encoding="utf-8")
    one.renew(time.time())
    after = {n: current(home, n) for n in before}
    assert {n for n in before if before[n] != after[n]} == {"cert.pem"}
    with site.store.read() as connection:
        assert len(identities.list_certificates(connection, device="pump-7")) == 2


def test_a_lost_answer_costs_nothing(site: Site, tmp_path: Path) -> None:
    """The token was used, and the device never heard: it comes again with the same key."""
    url, home, token = site.open_door(), tmp_path / "identity", token_for(site)
    one = agent(home, url, token)
    real, Home.adopt = Home.adopt, _lose  # type: ignore[method-assign]
    try:
        one.turn(0)
    finally:
        Home.adopt = real  # type: ignore[method-assign]
    assert one.complaint
    agent(home, url, token).turn(0)
    assert current(home, "device") == "pump-7"
    assert identities.list_incidents(site.store, FLEET) == []


def _lose(*_a: object, **_k: object) -> None:
    from fieldloop_contract.errors import RetryLater  # noqa: PLC0415

    raise RetryLater("the connection broke")


def test_a_stolen_token_leaves_the_second_device_without_identity(
    site: Site, tmp_path: Path
) -> None:
    url, token = site.open_door(), token_for(site)
    agent(tmp_path / "thief", url, token).turn(0)
    victim = agent(tmp_path / "victim", url, token)
    victim.turn(0)
    assert "used by another key" in (victim.complaint or "")
    assert not (tmp_path / "victim" / "current").exists()
    assert [row.code for row in identities.list_incidents(site.store, FLEET)] == ["token.used"]


def test_a_server_that_did_not_make_the_token_is_not_believed(site: Site, tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other = Site(tmp_path / "other", store)
    try:
        one = agent(tmp_path / "identity", other.open_door(), token_for(site))
        one.turn(0)
        assert "somebody is in between" in (one.complaint or "")
        with site.store.read() as connection:
            assert identities.list_certificates(connection) == []
    finally:
        other.close()
        store.close()


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [
        ("http://localhost:8443", "fl1.x.y", "https://"),
        ("https://localhost:1", "", "set ENROLMENT_URL"),
        ("https://localhost:1", "nonsense", "no enrolment token"),
        ("https://localhost:1", f"fl1.{'0' * 64}.x", "refused"),
    ],
)
def test_what_cannot_work_says_what_to_do(tmp_path: Path, url: str, token: str, words: str) -> None:
    one = agent(tmp_path / "identity", url, token)
    one.turn(0)
    assert words in (one.complaint or "").replace("Connection ", "")


def test_a_clock_of_1970_waits(tmp_path: Path, site: Site) -> None:
    one = agent(tmp_path / "identity", site.open_door(), token_for(site))
    one._clock = SystemClock(trusted=True, floor_ns=1 << 62)
    one.turn(0)
    assert "clock" in (one.complaint or "")
    assert not (tmp_path / "identity" / "current").exists()


def test_the_process_enrols_becomes_healthy_and_ends_on_sigterm(site: Site, tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "FIELDLOOP_DIR": str(tmp_path / "identity"),
        "FIELDLOOP_TRUST_CLOCK": "true",
        "ENROLMENT_URL": site.open_door(),
        "ENROLMENT_TOKEN": token_for(site),
    }
    process = subprocess.Popen([sys.executable, "-m", "fieldloop_agent", "run"], env=environ)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "identity" / "current" / "cert.pem").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.terminate()
    assert process.wait(60) == 0


def test_a_folder_that_cannot_be_made_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FixConfiguration):
        Home(tmp_path / "file" / "identity")


def test_a_token_of_another_device_is_refused_where_the_device_knows_its_own_name(
    site: Site, tmp_path: Path
) -> None:
    made = agent(tmp_path / "identity", site.open_door(), token_for(site, "pump-8"), "pump-7")
    made.turn(0.0)
    assert "the token is for pump-8, and this device is pump-7" in (made.complaint or "")
    assert Home(tmp_path / "identity").read() is None
