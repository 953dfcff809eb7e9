"""The attacks that TUF and Uptane name, by the real library on a real repository.

The attacker controls every retained message: each case changes what the device is shown, and must
be refused under its own name while the order accepted before stays in force.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from fieldloop_contract.desired import DIRECTOR_ROLE
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.repository import Lifetimes
from support.signed import DEVICE, FLEET, MODEL, SignedFleet, TrustingDevice, bundle


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path: Path, fleet: SignedFleet) -> TrustingDevice:
    return TrustingDevice(tmp_path / "device", fleet.root)


def accepted(fleet: SignedFleet, device: TrustingDevice, version: int = 1) -> Any:
    ref = fleet.add(bundle(version)[0])
    verdict = device.see(fleet.files, fleet.order(version, ref))
    assert verdict.refused is None
    assert verdict.order is not None
    return ref


def test_order_is_accepted_with_what_a_download_needs(fleet, device):
    manifest, _ = bundle(size=200_000)
    ref = fleet.add(manifest)
    verdict = device.see(fleet.files, fleet.order(1, ref))
    assert verdict.refused is None
    assert verdict.order.desired.slots["main"].model == ref
    file = verdict.order.models[ref.digest].manifest
    assert (file.sha256, file.length) == (ref.digest, len(manifest.encode()))
    assert device.verifier.order() == verdict.order


def test_replayed_order_is_named_rollback(fleet, device):
    one = fleet.add(bundle(1)[0])
    old = fleet.order(1, one)
    assert device.refusal(fleet.files, old) == ""
    two = fleet.add(bundle(2)[0])
    assert device.refusal(fleet.files, fleet.order(2, two)) == ""
    assert device.refusal(fleet.files, old) == "desired.rollback"
    assert device.verifier.order().version == 2


def test_same_order_again_is_no_attack(fleet, device):
    ref = fleet.add(bundle()[0])
    order = fleet.order(1, ref)
    assert device.refusal(fleet.files, order) == ""
    assert device.refusal(fleet.files, order) == ""


def test_two_orders_of_one_version_are_refused(fleet, device):
    ref = accepted(fleet, device)
    other = fleet.order(1, None)
    assert device.refusal(fleet.files, other) == "desired.equivocation"
    assert device.verifier.order().desired.slots["main"].model == ref


def test_order_for_another_device_is_refused(fleet, device):
    ref = fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.order(1, ref, device="pump-8")) == "desired.device"


def test_order_for_another_fleet_is_refused(fleet, device):
    ref = fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.order(1, ref, fleet="other")) == "desired.fleet"


def test_another_fleets_whole_repository_is_refused(tmp_path, fleet, device):
    accepted(fleet, device)
    other = SignedFleet(tmp_path / "other")
    ref = other.add(bundle(9)[0])
    assert device.refusal(other.files, other.order(9, ref)) == "trust.signature"


def test_order_signed_by_another_director_is_refused(tmp_path, fleet, device):
    ref = fleet.add(bundle()[0])
    thief = SignedFleet(tmp_path / "thief")
    thief.add(bundle()[0])
    assert device.refusal(fleet.files, thief.order(1, ref)) == "desired.signature"


def test_order_without_signature_is_refused(fleet, device):
    ref = fleet.add(bundle()[0])
    document = json.loads(fleet.order(1, ref))
    document["signatures"] = []
    order = json.dumps(document).encode()
    assert device.refusal(fleet.files, order) == "desired.signature"


def test_changed_order_is_refused(fleet, device):
    ref = fleet.add(bundle()[0])
    order = fleet.order(1, ref).replace(b'"version":1', b'"version":7', 1)
    assert device.refusal(fleet.files, order) == "desired.signature"


def test_metadata_of_another_role_is_no_order(fleet, device):
    fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.files["timestamp.json"]) == "desired.malformed"
    assert device.refusal(fleet.files, b"\x00\xff") == "desired.malformed"
    name = next(n for n in fleet.files if n.endswith(f".{MODEL}.json"))
    assert device.refusal(fleet.files, fleet.files[name]) == "desired.signature"


def test_expired_order_is_refused_and_the_one_before_stays(fleet, device):
    accepted(fleet, device, 1)
    ref = fleet.add(bundle(2)[0])
    stale = fleet.order(2, ref, now=fleet.now - timedelta(days=40))
    assert device.refusal(fleet.files, stale) == "desired.expired"
    assert device.verifier.order().version == 1


def test_order_of_a_model_that_no_role_lists_is_refused(fleet, device):
    manifest, _ = bundle(3)
    order = fleet.order(1, manifest.ref(), manifests={manifest.digest(): manifest.encode()})
    assert device.refusal(fleet.files, order) == "desired.not-in-targets"


def test_order_of_another_model_under_a_listed_version_is_refused(fleet, device):
    fleet.add(bundle(1)[0])
    fake, _ = bundle(1, seed=99)
    order = fleet.order(1, fake.ref(), manifests={fake.digest(): fake.encode()})
    assert device.refusal(fleet.files, order) == "desired.digest"


def test_order_of_a_recalled_model_is_refused(fleet, device):
    ref = fleet.add(bundle()[0])
    order = fleet.order(1, ref, recalled=(ref.digest,))
    assert device.refusal(fleet.files, order) == "desired.recalled"


def test_older_metadata_is_named_rollback(fleet, device):
    one = fleet.add(bundle(1)[0])
    old = fleet.publish()
    order = fleet.order(1, one)
    two = fleet.add(bundle(2)[0])
    assert device.refusal(fleet.files, fleet.order(2, two)) == ""
    assert device.refusal(old, order) == "trust.rollback"


def test_rollback_is_refused_even_when_the_metadata_folder_was_torn(fleet, device):
    """tuf forgets what it cannot read; the floors in SQLite do not."""
    one = fleet.add(bundle(1)[0])
    old = fleet.publish()
    order = fleet.order(1, one)
    two = fleet.add(bundle(2)[0])
    assert device.refusal(fleet.files, fleet.order(2, two)) == ""
    for path in (device.folder / "trust").glob("metadata-*/*.json"):
        path.write_bytes(b"")
    assert device.refusal(old, order) == "trust.rollback"
    assert device.refusal(fleet.files, fleet.order(2, two)) in ("", "desired.equivocation")


def test_expired_timestamp_is_named_expired(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet", lifetimes=Lifetimes(timestamp=timedelta(hours=1)))
    device = TrustingDevice(tmp_path / "device", fleet.root)
    fleet.now -= timedelta(hours=2)
    ref = fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.order(1, ref)) == "trust.expired"


def test_freeze_is_noticed_when_the_frozen_timestamp_expires(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet", lifetimes=Lifetimes(timestamp=timedelta(seconds=30)))
    device = TrustingDevice(tmp_path / "device", fleet.root)
    ref = accepted(fleet, device)
    limit_ns = device.verifier.order().valid_until_ns
    assert limit_ns <= (fleet.now.timestamp() + 30) * 1e9
    assert device.verifier.order().desired.slots["main"].model == ref


@pytest.mark.parametrize("role", ["snapshot", "targets", MODEL])
def test_files_of_two_states_are_named_mix_and_match(fleet, device, role):
    fleet.add(bundle(1)[0])
    old = fleet.publish()
    fleet.repository.publish({"targets", MODEL}, fleet.now)
    ref = fleet.add(bundle(2)[0])
    mixed = dict(fleet.files)
    newest = max(
        (n for n in mixed if n.endswith(f".{role}.json")), key=lambda n: int(n.split(".")[0])
    )
    earlier = next(n for n in old if n.endswith(f".{role}.json"))
    mixed[newest] = old[earlier]
    assert device.refusal(mixed, fleet.order(1, ref)) == "trust.mix-and-match"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", MODEL])
def test_missing_file_is_named_missing(fleet, device, role):
    ref = fleet.add(bundle(1)[0])
    files = {n: p for n, p in fleet.files.items() if not n.endswith(f"{role}.json")}
    assert device.refusal(files, fleet.order(1, ref)) == "trust.missing"


def test_endless_file_is_cut_off_by_its_signed_length(fleet, device):
    ref = fleet.add(bundle(1)[0])
    name = next(n for n in fleet.files if n.endswith(".snapshot.json"))
    files = {**fleet.files, name: fleet.files[name] + b" " * 100_000}
    assert device.refusal(files, fleet.order(1, ref)) == "trust.endless-data"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", MODEL])
def test_garbage_is_refused(fleet, device, role):
    ref = fleet.add(bundle(1)[0])
    files = {n: (b"{}" if n.endswith(f"{role}.json") else p) for n, p in fleet.files.items()}
    assert device.refusal(files, fleet.order(1, ref)) in ("trust.malformed", "trust.mix-and-match")


def forged_root(fleet: SignedFleet, signers: list[Any]) -> bytes:
    metadata: Metadata[Any] = Metadata.from_bytes(fleet.root)
    metadata.signed.version = 2
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def test_root_below_its_threshold_is_refused(fleet, device):
    ref = fleet.add(bundle()[0])
    one_key = fleet.keys.signers("root")[:1]
    files = {**fleet.files, "2.root.json": forged_root(fleet, one_key)}
    assert device.refusal(files, fleet.order(1, ref)) == "trust.signature"


def test_one_root_key_signing_twice_does_not_meet_the_threshold(fleet, device):
    ref = fleet.add(bundle()[0])
    document = json.loads(forged_root(fleet, fleet.keys.signers("root")[:1]))
    document["signatures"] *= 2
    files = {**fleet.files, "2.root.json": json.dumps(document).encode()}
    assert device.refusal(files, fleet.order(1, ref)) in ("trust.malformed", "trust.signature")


def test_root_that_skips_a_version_is_not_followed(fleet, device):
    ref = fleet.add(bundle()[0])
    files = {**fleet.files, "3.root.json": forged_root(fleet, fleet.keys.signers("root"))}
    assert device.refusal(files, fleet.order(1, ref)) == ""
    files = {**fleet.files, "2.root.json": fleet.root}
    assert device.refusal(files, fleet.order(1, ref)) == "trust.rollback"


def test_root_seen_once_is_never_unseen(tmp_path, fleet, device):
    """The new root is kept even where the set it came with was refused."""
    ref = fleet.add(bundle()[0])
    rotated: Metadata[Any] = Metadata.from_bytes(fleet.root)
    rotated.signed.version = 2
    old_key = rotated.signed.roles["timestamp"].keyids[0]
    rotated.signed.revoke_key(old_key, "timestamp")
    rotated.signed.add_key(KeyRing(tmp_path / "new").generate("timestamp"), "timestamp")
    rotated.signatures.clear()
    for signer in fleet.keys.signers("root"):
        rotated.sign(signer, append=True)
    files = {**fleet.files, "2.root.json": rotated.to_bytes()}
    assert device.refusal(files, fleet.order(1, ref)) == "trust.signature"
    assert device.refusal(fleet.files, fleet.order(1, ref)) == "trust.signature"


def test_revoked_director_signs_no_more(fleet, device):
    ref = fleet.add(bundle()[0])
    order = fleet.order(1, ref)
    fleet.ceremony().rotate(DIRECTOR_ROLE, fleet.now)
    assert device.refusal(fleet.publish(), order) == "desired.signature"


def test_fast_forwarded_director_is_recovered_from_by_rotating_its_key(fleet, device):
    ref = fleet.add(bundle()[0])
    assert device.refusal(fleet.files, fleet.order((1 << 53), ref)) == ""
    assert device.refusal(fleet.files, fleet.order(2, ref)) == "desired.rollback"
    fleet.ceremony().rotate(DIRECTOR_ROLE, fleet.now)
    assert device.refusal(fleet.publish(), fleet.order(2, ref)) == ""


def test_fast_forwarded_timestamp_is_recovered_from_by_rotating_its_key(fleet, device):
    ref = fleet.add(bundle()[0])
    honest = fleet.repository._timestamp.signed.version
    fleet.repository._timestamp.signed.version = 1 << 40
    fleet.repository._sign_timestamp(fleet.now)
    assert device.refusal(fleet.publish(), fleet.order(1, ref)) == ""
    fleet.repository._timestamp.signed.version = honest
    fleet.repository._sign_timestamp(fleet.now)
    assert device.refusal(fleet.publish(), fleet.order(1, ref)) == "trust.rollback"
    fleet.ceremony().rotate("timestamp", fleet.now)
    assert device.refusal(fleet.publish(), fleet.order(1, ref)) == ""


def test_identity_of_the_device_is_its_own(tmp_path, fleet):
    ref = fleet.add(bundle()[0])
    order = fleet.order(1, ref)
    own = TrustingDevice(tmp_path / "a", fleet.root, device=DEVICE, fleet=FLEET)
    other = TrustingDevice(tmp_path / "b", fleet.root, device="pump-8", fleet=FLEET)
    assert own.refusal(fleet.files, order) == ""
    assert other.refusal(fleet.files, order) == "desired.device"
