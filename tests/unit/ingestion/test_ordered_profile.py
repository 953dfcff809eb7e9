"""A profile from an order is checked, tried, and taken back where the service cannot run on it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.profile import PROFILE_BYTES_MAX
from fieldloop_ingestion.ordered import STARTS_MAX, OrderedProfile
from fieldloop_ingestion.source import fit
from fieldloop_runtime.journal import Journal

TEXT = """\
streams:
  - id: imu
    rate_hz: {rate}
    channels: [{{name: a, unit: g}}]
"""


class Device:
    """Files of a device, and what a start of its ingestion sees of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "base.yaml").write_text(TEXT.format(rate=10), "utf-8")

    def order(self, text: str) -> str:
        new = self.folder / "ordered.new"
        new.write_text(text, "utf-8")
        new.replace(self.folder / "ordered.yaml")
        return hashlib.sha256(text.encode()).hexdigest()

    def begin(self, base: str = "base.yaml") -> OrderedProfile:
        paths = (self.folder / base, self.folder / "ordered.yaml", self.folder / "log.profile")
        return OrderedProfile(*map(str, paths), fit, Journal("test"))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def rate(profiles: OrderedProfile) -> float:
    return profiles.start().streams[0].rate_hz


def test_without_an_order_the_profile_of_the_setting_counts(device: Device) -> None:
    profiles = device.begin()
    assert rate(profiles) == 10
    assert (profiles.look(), profiles.digest, profiles.told) == (False, None, [])


def test_an_ordered_profile_is_taken_while_running_proven_and_kept(device: Device) -> None:
    profiles = device.begin()
    assert rate(profiles) == 10
    digest = device.order(TEXT.format(rate=12.5))
    assert profiles.look()
    assert (rate(profiles), profiles.digest, profiles.on_trial) == (12.5, digest, True)
    assert not profiles.look()
    profiles.prove()
    assert profiles.told == [("profile.applied", {"digest": digest})]
    (device.folder / "ordered.yaml").unlink()  # the volume of models may be emptied
    again = device.begin()
    assert (rate(again), again.digest, again.on_trial) == (12.5, digest, False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (TEXT.format(rate=-1), "ordered profile:3: streams.0.rate_hz"),
        (TEXT.format(rate=5) + "sources:\n  - {id: a, kind: crystal, stream: imu}\n", "crystal"),
        ("streams: [", "ordered profile"),
        ("", "profile"),
    ],
)
def test_a_profile_with_a_fault_is_refused_in_words_once_and_the_old_one_stays(
    device: Device, wrong: str, said: str
) -> None:
    device.order(TEXT.format(rate=12.5))
    profiles = device.begin()
    profiles.start()
    profiles.prove()
    profiles.told.clear()
    digest = device.order(wrong)
    assert not profiles.look()
    [(type_, data)] = profiles.told
    assert (type_, data["digest"]) == ("profile.refused", digest)
    assert said in data["reason"]
    assert rate(profiles) == 12.5
    device.order(wrong)  # the same order again, as after each restart of inference
    assert not profiles.look()
    again = device.begin()
    assert (rate(again), again.told) == (12.5, [])


def test_a_profile_that_the_service_cannot_run_on_goes_back_and_is_not_taken_again(
    device: Device,
) -> None:
    profiles = device.begin()
    bad = device.order(TEXT.format(rate=99))
    assert (rate(profiles), profiles.on_trial) == (99, True)
    profiles.fail(FixConfiguration("no such bus"))
    assert (rate(profiles), profiles.on_trial) == (10, False)
    assert profiles.told == [("profile.refused", {"digest": bad, "reason": "no such bus"})]
    again = device.begin()
    assert rate(again) == 10
    device.order(TEXT.format(rate=98))
    assert again.look()
    assert rate(again) == 98


def test_a_profile_on_which_the_service_never_stays_up_goes_back_by_itself(device: Device) -> None:
    device.order(TEXT.format(rate=99))
    seen = [rate(device.begin()) for _ in range(STARTS_MAX + 1)]
    assert seen == [99] * STARTS_MAX + [10]
    assert rate(device.begin()) == 10


def test_a_second_profile_on_trial_goes_back_to_the_last_proven_one(device: Device) -> None:
    profiles = device.begin()
    device.order(TEXT.format(rate=11))
    profiles.start()
    profiles.prove()
    for wanted in (12, 13):
        device.order(TEXT.format(rate=wanted))
        assert profiles.look()
    profiles.fail(FixConfiguration("no"))
    assert rate(profiles) == 11


def test_a_proven_profile_that_this_release_does_not_understand_is_refused(device: Device) -> None:
    text = TEXT.format(rate=12) + "sources:\n  - {id: a, kind: crystal, stream: imu}\n"
    memory = device.folder / "log.profile"
    memory.write_text(json.dumps({"text": text, "proven": True}), "utf-8")
    profiles = device.begin()
    assert rate(profiles) == 10
    assert profiles.told[0][0] == "profile.refused"


def test_an_order_of_what_the_setting_says_already_begins_nothing_anew(device: Device) -> None:
    profiles = device.begin()
    device.order(TEXT.format(rate=10))
    assert rate(profiles) == 10
    assert (profiles.look(), profiles.digest, profiles.on_trial) == (False, None, False)


@pytest.mark.parametrize("rubbish", [b"", b"{", b'{"starts": -1}', b"\xff\xff", b"[]"])
def test_a_damaged_memory_leaves_the_profile_of_the_setting(device: Device, rubbish: bytes) -> None:
    (device.folder / "log.profile").write_bytes(rubbish)
    assert rate(device.begin()) == 10


def test_a_file_beyond_the_bound_is_not_read(device: Device) -> None:
    device.order(TEXT.format(rate=12) + "#" * PROFILE_BYTES_MAX)
    assert rate(device.begin()) == 10


def test_the_setting_s_profile_has_to_be_right_where_it_is_needed(device: Device) -> None:
    with pytest.raises(FixConfiguration, match="cannot be read"):
        device.begin("none.yaml").start()
