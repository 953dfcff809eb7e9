"""The mirror holds no more than its bounds, whatever it is sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fieldloop_update.mirror import FILE_BYTES_MAX, TIMESTAMP, Mirror

names = st.one_of(
    st.integers(1, 99).map(lambda v: f"{v}.snapshot.json"),
    st.sampled_from(
        [TIMESTAMP, "1.root.json", "../etc/passwd", "a/b.json", "", "x.json", "X.JSON"]
    ),
)


@given(st.lists(st.tuples(names, st.binary(max_size=3000)), max_size=60))
def test_bounds_hold_and_only_real_names_are_kept(messages):
    mirror = Mirror(bytes_max=20_000, files_max=8)
    for name, payload in messages:
        mirror.put(name, payload)
        assert len(mirror) <= 8
        assert mirror.bytes_held <= 20_000
        assert "../etc/passwd" not in mirror
        assert "a/b.json" not in mirror


def test_flood_of_names_does_not_push_out_the_timestamp():
    mirror = Mirror(bytes_max=1 << 20, files_max=8)
    mirror.put(TIMESTAMP, b"{}")
    for version in range(1, 100):
        mirror.put(f"{version}.snapshot.json", b"{}")
    assert TIMESTAMP in mirror


def test_same_content_again_is_no_change():
    mirror = Mirror(1 << 20, 8)
    assert mirror.put(TIMESTAMP, b"{}")
    assert mirror.take_changed()
    assert not mirror.put(TIMESTAMP, b"{}")
    assert not mirror.take_changed()


def test_empty_message_removes_the_file():
    mirror = Mirror(1 << 20, 8)
    mirror.put(TIMESTAMP, b"{}")
    assert mirror.put(TIMESTAMP, b"")
    assert TIMESTAMP not in mirror
    assert mirror.bytes_held == 0


def test_oversize_file_is_refused_and_counted():
    mirror = Mirror(1 << 30, 8)
    assert not mirror.put(TIMESTAMP, b"x" * (FILE_BYTES_MAX + 1))
    assert mirror.refused == 1
