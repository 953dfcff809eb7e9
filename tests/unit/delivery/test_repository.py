"""The signed repository on disk."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.manifest import target_path
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.repository import Repository
from support.signed import FLEET, MODEL, SignedFleet, bundle


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


def reopen(fleet: SignedFleet) -> Repository:
    return Repository.open(fleet.folder, KeyRing(fleet.folder / "keys"), fleet=FLEET)


def test_reopened_repository_is_the_same(fleet):
    fleet.add(bundle()[0])
    assert reopen(fleet).files() == fleet.files


def test_private_keys_are_for_their_owner_only(fleet):
    modes = {p.stat().st_mode & 0o777 for p in (fleet.folder / "keys").glob("*.pem")}
    assert modes == {0o600}


def test_versions_only_grow_and_only_when_something_changed(fleet):
    fleet.add(bundle(1)[0])
    before = fleet.repository.versions()
    assert not fleet.repository.set_models(fleet.models, fleet.now)
    assert fleet.repository.versions() == before
    fleet.add(bundle(2)[0])
    after = fleet.repository.versions()
    grown = {role for role in after if after[role] > before[role]}
    assert grown == {MODEL, "snapshot", "timestamp"}


def test_recalled_version_leaves_the_targets_and_its_role_stays(fleet):
    fleet.add(bundle(1)[0])
    fleet.repository.set_models({}, fleet.now)
    files = fleet.publish()
    role = next(p for n, p in files.items() if n.endswith(f".{MODEL}.json"))
    assert target_path(MODEL, 1) not in Metadata.from_bytes(role).signed.targets


def test_timestamp_is_renewed_at_half_of_its_life(fleet):
    start = fleet.repository.versions()
    assert not fleet.repository.renew(fleet.now + timedelta(hours=11))
    assert fleet.repository.renew(fleet.now + timedelta(hours=13))
    after = fleet.repository.versions()
    assert after == {**start, "timestamp": start["timestamp"] + 1}


def test_targets_are_renewed_at_half_of_their_life(fleet):
    fleet.add(bundle()[0])
    start = fleet.repository.versions()
    assert fleet.repository.renew(fleet.now + timedelta(days=46))
    after = fleet.repository.versions()
    assert after["targets"] == start["targets"] + 1
    assert after[MODEL] == start[MODEL] + 1


def test_crash_before_the_timestamp_leaves_the_repository_as_it_was(fleet, monkeypatch):
    fleet.add(bundle(1)[0])
    before = fleet.publish()
    monkeypatch.setattr(fleet.repository, "_sign_timestamp", lambda now: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fleet.add(bundle(2)[0])
    again = reopen(fleet)
    assert again.files() == before
    assert again.set_models({MODEL: {2: bundle(2)[0].encode()}}, fleet.now)


def test_running_with_the_root_and_targets_keys_taken_away(fleet):
    fleet.add(bundle(1)[0])
    for path in (fleet.folder / "keys").glob("*.pem"):
        if path.name.startswith(("root-", "targets-")):
            path.unlink()
    repository = reopen(fleet)
    assert repository.set_models({MODEL: {2: bundle(2)[0].encode()}}, fleet.now)
    assert repository.renew(fleet.now + timedelta(days=46))
    with pytest.raises(FixConfiguration, match=r"targets-N\.pem"):
        repository.set_models(
            {"vibration": {1: bundle(1, name="vibration")[0].encode()}}, fleet.now
        )


def test_model_cannot_take_a_roles_name(fleet):
    with pytest.raises(FixConfiguration, match="director"):
        fleet.repository.set_models({"director": {1: b"{}"}}, fleet.now)


def test_repository_is_not_made_twice_nor_opened_for_another_fleet(fleet):
    keys = KeyRing(fleet.folder / "keys")
    with pytest.raises(FixConfiguration, match="already"):
        Repository.create(fleet.folder, keys, fleet=FLEET, now=fleet.now)
    with pytest.raises(FixConfiguration, match="fleet acme"):
        Repository.open(fleet.folder, keys, fleet="other")


def test_folder_without_a_repository_says_how_to_make_one(tmp_path):
    with pytest.raises(FixConfiguration, match="keys init"):
        Repository.open(tmp_path, KeyRing(tmp_path / "keys"), fleet=FLEET)
