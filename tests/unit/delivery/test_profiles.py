"""Profiles in a folder: what a device shall have, and what is never signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fieldloop_contract.errors import RejectedInput
from fieldloop_contract.profile import PROFILE_BYTES_MAX
from fieldloop_delivery.profiles import LOOK_EVERY_NS, Profiles, checked
from fieldloop_runtime.journal import Journal

TEXT = "streams: [{id: imu, rate_hz: 12.5, channels: [{name: a}]}]\n"
OTHER = TEXT.replace("12.5", "25")


def put(folder: Path, name: str, text: str) -> None:
    (folder / ".new").write_text(text, "utf-8")
    (folder / ".new").replace(folder / f"{name}.yaml")


def test_a_device_s_own_profile_goes_before_the_default_one(tmp_path: Path) -> None:
    put(tmp_path, "default", TEXT)
    put(tmp_path, "pump-1", OTHER)
    profiles = Profiles(str(tmp_path), Journal("test"))
    profiles.look(0)
    assert (profiles.text("pump-1"), profiles.text("pump-2")) == (OTHER, TEXT)
    (tmp_path / "pump-1.yaml").unlink()
    profiles.look(LOOK_EVERY_NS - 1)
    assert profiles.text("pump-1") == OTHER
    profiles.look(LOOK_EVERY_NS)
    assert profiles.text("pump-1") == TEXT


def test_without_a_folder_or_a_file_no_order_carries_a_profile(tmp_path: Path) -> None:
    for folder in ("", str(tmp_path), str(tmp_path / "none")):
        profiles = Profiles(folder, Journal("test"))
        profiles.look(0)
        assert (profiles.text("pump-1"), profiles.keeps("pump-1")) == (None, False)


@pytest.mark.parametrize("wrong", ["streams: [", "streams: []", "", "a: 1", TEXT + "#" * (1 << 17)])
def test_a_file_that_became_wrong_leaves_what_was_right(tmp_path: Path, wrong: str) -> None:
    put(tmp_path, "pump-1", TEXT)
    profiles = Profiles(str(tmp_path), Journal("test"))
    profiles.look(0)
    put(tmp_path, "pump-1", wrong)
    profiles.look(LOOK_EVERY_NS)
    assert (profiles.text("pump-1"), profiles.keeps("pump-1")) == (TEXT, False)
    put(tmp_path, "pump-1", OTHER)
    profiles.look(2 * LOOK_EVERY_NS)
    assert profiles.text("pump-1") == OTHER


def test_a_file_that_never_was_right_asks_for_what_was_ordered_before(tmp_path: Path) -> None:
    put(tmp_path, "default", TEXT)
    put(tmp_path, "pump-1", "streams: []")
    profiles = Profiles(str(tmp_path), Journal("test"))
    profiles.look(0)
    assert (profiles.text("pump-1"), profiles.keeps("pump-1")) == (None, True)
    assert profiles.text("pump-2") == TEXT


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "pump"),
        ("streams: 3", "streams"),
        (TEXT.replace("12.5", "-1"), "rate_hz"),
        ("#" * (PROFILE_BYTES_MAX + 1), "bytes"),
    ],
)
def test_what_is_no_profile_is_said_in_words(text: str, said: str) -> None:
    with pytest.raises(RejectedInput, match=said):
        checked(text, "pump.yaml")
