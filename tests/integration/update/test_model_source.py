"""ModelSource with its real child process, fed by hand: orders, clocks, expiry, restarts."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.frames import Clock
from fieldloop_contract.manifest import MODEL_FILE
from fieldloop_contract.topics import Topic, blob_topic, meta_topic, parse_blob
from fieldloop_delivery.repository import Lifetimes
from fieldloop_runtime.clock import Now, SystemClock
from fieldloop_update import ModelSource, Ordered, Ready, Refused, UpdateSettings
from support.signed import DEVICE, FLEET, SignedFleet, bundle, chunks

DESIRED = str(Topic(FLEET, DEVICE, "inference", "desired"))


class SetClock(SystemClock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        super().__init__(trusted=True)
        self.state = Clock.SYNCHRONISED
        self.ahead_s = 0.0

    def now(self) -> Now:
        utc_ns = time.time_ns() + int(self.ahead_s * 1e9)
        return Now(utc_ns, time.monotonic_ns(), "b" * 32, self.state)


class Device:
    def __init__(self, folder: Path, root: bytes, **given: Any) -> None:
        self.clock = SetClock()
        self.folder, self.root = folder, root
        self.settings = UpdateSettings(dir=str(folder), quiet_s=0.05, **given)
        self.asked: set[str] = set()
        self.held: dict[str, bytes] = {}
        self.source = self.open()

    def open(self) -> ModelSource:
        self.asked.clear()
        self.source = ModelSource(
            self.settings,
            fleet=FLEET,
            device=DEVICE,
            service="inference",
            root=self.root,
            subscribe=lambda *f: self.asked.update(f),
            unsubscribe=lambda *f: self.asked.difference_update(f),
            clock=self.clock,
        )
        self.source.connected()
        return self.source

    def show(self, files: dict[str, bytes], order: bytes | None = None) -> None:
        for name, payload in files.items():
            assert self.source.message(meta_topic(FLEET, name), payload)
        if order is not None:
            assert self.source.message(DESIRED, order)

    def run(self, kind: type, timeout_s: float = 20.0) -> Any:
        """Step until an outcome of this kind; chunks that are asked for and held are delivered."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for outcome in self.source.step(time.monotonic()):
                if isinstance(outcome, kind):
                    return outcome
            for topic in sorted(self.asked):
                if parse_blob(topic) in self.held:
                    self.source.message(topic, self.held[parse_blob(topic)])
            time.sleep(0.01)
        raise AssertionError(f"no {kind.__name__} in {timeout_s} s")

    def quiet(self, seconds: float) -> list[Any]:
        """What comes within a while."""
        until, found = time.monotonic() + seconds, []
        while time.monotonic() < until:
            found += self.source.step(time.monotonic())
            time.sleep(0.01)
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> SignedFleet:
    return SignedFleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path: Path, fleet: SignedFleet):
    made = Device(tmp_path / "device", fleet.root)
    yield made
    made.source.close()


def install(fleet: SignedFleet, device: Device, version: int = 1) -> Any:
    manifest, files = bundle(version, size=100_000)
    device.held |= chunks(manifest, files)
    ref = fleet.add(manifest)
    device.show(fleet.files, fleet.order(version, ref))
    assert device.run(Ordered).version == version
    device.source.fetch(ref)
    assert device.run(Ready).ref == ref
    return ref


def test_order_download_and_bundle(fleet, device):
    ref = install(fleet, device)
    got = device.source.bundle(ref)
    assert got.read(MODEL_FILE) == bundle(1, size=100_000)[1][MODEL_FILE]
    assert device.asked == set()


def test_restart_tells_the_last_order_and_has_the_bundle_without_any_network(fleet, device):
    ref = install(fleet, device)
    device.source.close()
    device.open()
    first = device.source.step(time.monotonic())
    assert [o.version for o in first if isinstance(o, Ordered)] == [1]
    assert device.source.bundle(ref) is not None


def test_unknown_clock_installs_nothing_new_says_so_and_goes_on_when_it_is_known(fleet, device):
    device.clock.state = Clock.UNKNOWN
    ref = fleet.add(bundle()[0])
    device.show(fleet.files, fleet.order(1, ref))
    refused = device.run(Refused)
    assert refused.code == "clock.unknown"
    assert device.quiet(0.3) == []
    device.clock.state = Clock.SYNCHRONISED
    assert device.run(Ordered).version == 1


def test_clock_that_went_back_installs_nothing_new(fleet, device):
    install(fleet, device)
    device.clock.ahead_s = -3600
    ref = fleet.add(bundle(2)[0])
    device.show(fleet.files, fleet.order(2, ref))
    assert device.run(Refused).code == "clock.unknown"


def test_expiry_stops_the_download_and_not_the_model_that_runs(fleet, device):
    one = install(fleet, device)
    manifest, _files = bundle(2, size=100_000)
    two = fleet.add(manifest)
    device.show(fleet.files, fleet.order(2, two))
    device.run(Ordered)
    device.source.fetch(two)
    device.clock.ahead_s = 40 * 86_400
    assert device.run(Refused).code == "trust.expired"
    assert device.source.bundle(one) is not None
    device.clock.ahead_s = 0
    device.held |= chunks(manifest, bundle(2, size=100_000)[1])
    assert device.run(Ready).ref == two


def test_expired_metadata_is_refused_by_name(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet", lifetimes=Lifetimes(timestamp=timedelta(hours=1)))
    fleet.now -= timedelta(hours=2)
    device = Device(tmp_path / "device", fleet.root)
    ref = fleet.add(bundle()[0])
    device.show(fleet.files, fleet.order(1, ref))
    assert device.run(Refused).code == "trust.expired"
    device.source.close()


def test_attack_is_named_once_and_the_next_good_order_is_taken(tmp_path, fleet, device):
    install(fleet, device)
    thief = SignedFleet(tmp_path / "thief")
    thief.add(bundle(2)[0])
    two = fleet.add(bundle(2)[0])
    device.show(fleet.files, thief.order(2, two))
    assert device.run(Refused).code == "desired.signature"
    assert [o for o in device.quiet(2.5) if isinstance(o, Refused)] == []
    device.show({}, fleet.order(2, two))
    assert device.run(Ordered).version == 2


def test_recalled_model_is_handed_out_no_more(fleet, device):
    ref = install(fleet, device)
    device.show({}, fleet.order(2, None, recalled=(ref.digest,)))
    assert device.run(Ordered).desired.recalled == [ref.digest]
    assert device.source.bundle(ref) is None
    device.source.fetch(ref)
    assert device.run(Refused).code == "download.not-ordered"


def test_new_order_stops_the_download_of_the_old_one(fleet, device):
    one = fleet.add(bundle(1)[0])
    device.show(fleet.files, fleet.order(1, one))
    device.run(Ordered)
    device.source.fetch(one)
    device.quiet(0.1)
    assert device.asked
    device.show({}, fleet.order(2, None))
    device.run(Ordered)
    assert device.asked == set()


def test_metadata_that_comes_later_than_the_order_is_waited_for(fleet, device):
    early = fleet.publish()
    ref = fleet.add(bundle()[0])
    device.show(early, fleet.order(1, ref))
    assert [o for o in device.quiet(1.0) if isinstance(o, Refused)] == []
    device.show(fleet.files)
    assert device.run(Ordered).version == 1


def test_other_topics_are_not_taken_and_odd_ones_do_no_harm(fleet, device):
    assert not device.source.message(str(Topic(FLEET, "pump-8", "inference", "desired")), b"{}")
    assert not device.source.message(str(Topic(FLEET, DEVICE, "inference", "ack")), b"{}")
    assert device.source.message(DESIRED, b"x" * 300_000)
    assert device.source.message(DESIRED, b"")
    assert device.source.message(f"{meta_topic(FLEET, 'a.json')[:-6]}..", b"{}")
    assert device.source.message(f"{blob_topic(FLEET, 'a' * 64)[:-1]}", b"{}")
    assert device.quiet(0.2) == []


def test_model_that_was_not_ordered_is_not_fetched(fleet, device):
    device.source.fetch(bundle()[0].ref())
    assert device.run(Refused).code == "download.not-ordered"


def test_three_weeks_offline_with_everything_expired_the_order_and_the_bundle_stay(tmp_path):
    short = {role: timedelta(days=1) for role in ("root", "targets", "snapshot", "director")}
    fleet = SignedFleet(tmp_path / "fleet", lifetimes=Lifetimes(**short))
    device = Device(tmp_path / "device", fleet.root)
    ref = install(fleet, device)
    device.source.disconnected()
    device.clock.ahead_s = 21 * 86_400
    assert device.run(Refused).code == "trust.expired"
    assert device.quiet(0.3) == [], "said once"
    for _ in range(2):
        device.source.close()
        device.open()
        device.source.disconnected()
        assert device.run(Ordered).desired.slots["main"].model == ref
        got = device.source.bundle(ref)
        assert got.read(MODEL_FILE) == bundle(1, size=100_000)[1][MODEL_FILE]
    device.source.close()


def test_second_process_is_kept_out_of_the_folder(device):
    with pytest.raises(FixConfiguration, match="another process works"):
        ModelSource(
            device.settings,
            fleet=FLEET,
            device=DEVICE,
            service="inference",
            root=device.root,
            subscribe=lambda *_: None,
            unsubscribe=lambda *_: None,
            clock=device.clock,
        )
