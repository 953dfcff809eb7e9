"""Keys rotated and revoked in a real repository, and followed by a real device."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_delivery.__main__ import main
from fieldloop_delivery.ceremonies import Ceremony, role_status, warnings
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.repository import Repository
from support.signed import FLEET, MODEL, SignedFleet, TrustingDevice, bundle

ROLES = ("root", "targets", "snapshot", "timestamp", "director", MODEL)


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path: Path, fleet: SignedFleet) -> TrustingDevice:
    return TrustingDevice(tmp_path / "device", fleet.root)


@pytest.mark.parametrize("role", ROLES)
def test_device_follows_the_rotation_of_every_role_and_old_keys_count_no_more(fleet, device, role):
    ref = fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.order(1, ref)) == ""
    before = fleet.repository.key_ids(role)
    fleet.ceremony().rotate(role, fleet.now)
    after = fleet.repository.key_ids(role) if fleet.publish() else []
    assert set(before).isdisjoint(after)
    assert len(after) == len(before)
    two = fleet.add(bundle(2)[0])
    assert device.refusal(fleet.files, fleet.order(2, two)) == ""
    retired = {p.name for p in (fleet.folder / "keys" / "retired").iterdir()}
    name = role if role != MODEL else f"model.{MODEL}"
    assert f"{name}-1.pem" in retired
    assert not (fleet.folder / "keys" / f"{name}-1.pem").exists()


def test_new_device_follows_a_chain_of_roots_from_the_one_it_was_given(tmp_path, fleet):
    first = fleet.root
    for role in ("root", "timestamp", "root"):
        fleet.ceremony().rotate(role, fleet.now)
    ref = fleet.add(bundle()[0])
    late = TrustingDevice(tmp_path / "late", first)
    assert late.refusal(fleet.files, fleet.order(1, ref)) == ""
    assert fleet.repository.root_version == 4


def test_threshold_of_root_can_be_raised(fleet, device):
    fleet.ceremony().rotate("root", fleet.now, count=4, threshold=3)
    status = fleet.ceremony().status()[0]
    assert (status.threshold, len(status.keys), status.here) == (3, 4, 4)
    ref = fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.order(1, ref)) == ""


def test_one_root_key_is_revoked_and_the_rest_still_meet_the_threshold(fleet, device):
    victim = fleet.repository.key_ids("root")[0]
    fleet.ceremony().revoke("root", victim[:8], fleet.now)
    fleet.publish()
    assert victim not in fleet.repository.key_ids("root")
    ref = fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.order(1, ref)) == ""
    with pytest.raises(FixConfiguration, match="needs 2 keys and has 2"):
        fleet.ceremony().revoke("root", fleet.repository.key_ids("root")[0], fleet.now)


def test_offline_keys_are_brought_only_to_sign(tmp_path, fleet):
    fleet.add(bundle()[0])
    stick = tmp_path / "stick"
    stick.mkdir()
    for path in [*(fleet.folder / "keys").glob("root-*.pem"), fleet.folder / "keys/targets-1.pem"]:
        shutil.move(path, stick / path.name)
    with pytest.raises(FixConfiguration, match="--offline"):
        fleet.ceremony().rotate("timestamp", fleet.now)
    assert not list((fleet.folder / "keys").glob("timestamp-2*")), "keys were made for nothing"
    away = Ceremony(fleet.folder, fleet=FLEET, offline=stick)
    away.rotate("timestamp", fleet.now)
    away.rotate("root", fleet.now)
    assert {p.name for p in stick.glob("root-*.pem")} >= {"root-4.pem", "root-5.pem", "root-6.pem"}
    assert not list((fleet.folder / "keys").glob("root-*.pem"))
    reopened = Repository.open(fleet.folder, KeyRing(fleet.folder / "keys"), fleet=FLEET)
    assert reopened.root_version == 3
    assert reopened.renew(fleet.now + timedelta(hours=13))


def test_crash_between_the_new_root_and_the_new_timestamp_is_healed(fleet, device, monkeypatch):
    ref = fleet.add(bundle()[0])
    monkeypatch.setattr(Repository, "publish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fleet.ceremony().rotate("timestamp", fleet.now)
    monkeypatch.undo()
    assert device.refusal(fleet.publish(), fleet.order(1, ref)) == "trust.signature"
    assert fleet.repository.renew(fleet.now)
    assert device.refusal(fleet.publish(), fleet.order(1, ref)) == ""


def test_running_service_sees_what_a_ceremony_did(fleet):
    before = fleet.repository.state
    fleet.ceremony().rotate("director", fleet.now)
    assert not fleet.repository.renew(fleet.now)
    assert fleet.repository.state != before


def test_expiry_of_what_no_key_here_can_renew_is_said_in_time(fleet):
    fleet.add(bundle()[0])
    assert warnings(fleet.repository, fleet.now) == []
    late = fleet.now + timedelta(days=310)
    texts = warnings(fleet.repository, late)
    assert any(t.startswith("root expires in 5") and "keys renew" in t for t in texts)
    gone = warnings(fleet.repository, fleet.now + timedelta(days=400))
    assert any(t.startswith("root expired 35 days ago") for t in gone)
    ceremony = fleet.ceremony()
    assert ceremony.renew(late) == ["root", "targets"]
    assert not [t for t in warnings(ceremony.repository, late) if t.startswith("root")]


def test_command_rotates_lists_and_refuses(fleet, capsys):
    place = ["--dir", str(fleet.folder)]
    assert main(["keys", "rotate", "director", *place], {}) == 0
    assert "director has new keys" in capsys.readouterr().out
    assert main(["keys", "status", *place], {}) == 0
    out = capsys.readouterr().out
    assert all(role in out for role in ("root", "targets", "snapshot", "timestamp", "director"))
    assert main(["keys", "rotate", "nobody", *place], {}) == 78
    assert main(["keys", "revoke", "director", "zz", *place], {}) == 78
    assert {s.role for s in role_status(fleet.repository)} >= {"director", "root"}
