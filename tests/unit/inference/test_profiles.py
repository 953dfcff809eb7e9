"""The profile of an order is put where ingestion looks, whole, and again where it went missing."""

from __future__ import annotations

from pathlib import Path

from fieldloop_inference.profiles import RETRY_S, ProfileShelf
from fieldloop_runtime.journal import Journal


def test_an_order_s_profile_is_written_once_and_none_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "models" / "profile.yaml"
    shelf = ProfileShelf(str(path), Journal("test"))
    shelf.order(None)
    shelf.step(0)
    assert not path.exists()
    shelf.order("streams: [ü]")
    shelf.step(0)
    assert path.read_text("utf-8") == "streams: [ü]"
    before = path.stat()
    shelf.order("streams: [ü]")  # the same order again, as at each start
    shelf.step(1)
    shelf.order(None)
    shelf.step(2)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_profile_that_cannot_be_written_is_tried_again_later(tmp_path: Path) -> None:
    path = tmp_path / "models" / "profile.yaml"
    (tmp_path / "models").write_text("a file where the folder should be")
    shelf = ProfileShelf(str(path), Journal("test"))
    shelf.order("text")
    shelf.step(0)
    (tmp_path / "models").unlink()
    shelf.step(RETRY_S - 1)
    assert not path.exists()
    shelf.step(RETRY_S)
    assert path.read_text("utf-8") == "text"


def test_without_a_place_profiles_in_orders_are_ignored() -> None:
    shelf = ProfileShelf("", Journal("test"))
    shelf.order("text")
    shelf.step(0)
