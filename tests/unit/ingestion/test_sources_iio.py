"""Industrial I/O on a made tree of sysfs, with a FIFO for the character device."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from fieldloop_contract.errors import FixConfiguration, RetryLater
from fieldloop_ingestion.sources.iio import IioOptions, IioSource
from fieldloop_ingestion.sources.iiosysfs import Element, Sysfs, Transform, scan_of
from support.sources import FakeClock, Store, context_of, stream_of
from support.worlds import IioBufferWorld, iio_options, make_sensor, scan

T0_NS = 1_790_000_000 * 10**9


@pytest.fixture
def world(tmp_path: Path) -> Iterator[IioBufferWorld]:
    made = IioBufferWorld(tmp_path)
    yield made
    made.end()


def text(world: IioBufferWorld, path: str) -> str:
    return (world.root / "sys" / "iio:device0" / path).read_text(encoding="ascii").strip()


# ---- types and layouts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "stored", "raw"),
    [
        ("le:s16/16>>0", 0xFFFF, -1),
        ("le:u16/16>>0", 0xFFFF, 65_535),
        ("le:s12/16>>4", 0x8010, -2_047),
        ("le:u12/16>>4", 0x8010, 2_049),
        ("be:s12/16>>0", 0xF7FF, 2_047),
        ("le:s24/32>>8", 0xFFFFFF00, -1),
        ("le:s8/8>>0", 0x80, -128),
        ("le:s64/64>>0", 0xFFFF_FFFF_FFFF_FFFF, -1),
        ("le:u10/32>>22", 0xFFC0_0000, 1_023),
    ],
)
def test_raw_readings_are_shifted_masked_and_signed(type_: str, stored: int, raw: int):
    element = Element.parse("x", 0, type_)
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[element.size_bytes]
    assert list(element.decode(array(code, [stored]))) == [raw]


@pytest.mark.parametrize(
    "type_",
    [
        "",
        "le:s16/16",
        "xe:s16/16>>0",
        "le:s16/12>>0",
        "le:s16/16X3>>0",
        "le:s16/16>>4",
        "le:s0/8>>0",
    ],
)
def test_types_that_cannot_be_read_are_told(type_: str):
    with pytest.raises(RetryLater, match="type"):
        Element.parse("x", 0, type_)


def test_elements_are_aligned_to_their_own_size_and_a_scan_to_its_largest():
    types = {"a": "le:s8/8>>0", "b": "le:s16/16>>0", "c": "le:s8/8>>0", "timestamp": "le:s64/64>>0"}
    found = {n: Element.parse(n, i, t) for i, (n, t) in enumerate(types.items())}
    layout = scan_of(found, ["c", "a", "b"])
    assert [offset for _, offset in layout.wanted] == [4, 0, 2]
    assert layout.timestamp is not None
    assert (layout.timestamp[1], layout.size_bytes) == (8, 16)
    data = struct.pack("<bxhb3xq", 1, 2, 3, 4) + struct.pack("<bxhb3xq", -1, -2, -3, -4)
    assert [list(layout.column(i, data, 2)) for i in range(3)] == [[3, -3], [1, -1], [2, -2]]
    assert list(layout.stamps(data, 2)) == [4, -4]


def test_a_scan_without_timestamp_is_padded_to_its_largest_element_only():
    types = {"a": "le:s32/32>>0", "b": "le:s16/16>>0"}
    found = {n: Element.parse(n, i, t) for i, (n, t) in enumerate(types.items())}
    assert scan_of(found, ["a", "b"]).size_bytes == 8


def test_big_endian_words_are_turned():
    layout = scan_of({"a": Element.parse("a", 0, "be:u16/16>>0")}, ["a"])
    assert list(layout.column(0, b"\x01\x02\x03\x04", 2)) == [0x0102, 0x0304]


def test_offset_comes_before_scale():
    assert Transform(4, 0.5).times(2).apply([100]) == [104.0]


# ---- finding a device ---------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["adxl345", "iio:device3", "3", 3])
def test_a_device_is_found_by_name_id_and_number(tmp_path: Path, device: str | int):
    make_sensor(tmp_path, number=2, name="bmp280")
    make_sensor(tmp_path, number=3)
    assert Sysfs.find(str(tmp_path), device).id == "iio:device3"


def test_a_missing_device_is_told_with_those_that_are_there(tmp_path: Path):
    make_sensor(tmp_path)
    with pytest.raises(RetryLater, match=r"no IIO devices.*iio:device0 \(adxl345\).*driver"):
        Sysfs.find(str(tmp_path), "bmp280")
    with pytest.raises(RetryLater, match="container"):
        Sysfs.find(str(tmp_path / "nowhere"), "bmp280")


def test_two_devices_of_one_name_are_not_guessed_at(tmp_path: Path):
    make_sensor(tmp_path, number=0)
    make_sensor(tmp_path, number=1)
    with pytest.raises(RetryLater, match="2 IIO devices are called 'adxl345'"):
        Sysfs.find(str(tmp_path), "adxl345")


@pytest.mark.skipif(os.geteuid() == 0, reason="machine: root may do everything")
def test_a_forbidden_file_is_told_with_what_to_do(tmp_path: Path):
    folder = make_sensor(tmp_path)
    (folder / "buffer" / "enable").chmod(0o400)
    with pytest.raises(RetryLater, match="udev"):
        Sysfs(folder).write("buffer/enable", "1")


def test_an_attribute_that_is_no_number_is_told(tmp_path: Path):
    folder = make_sensor(tmp_path)
    (folder / "in_accel_scale").write_text("fast\n", encoding="ascii")
    with pytest.raises(RetryLater, match="'fast', not a number"):
        Sysfs(folder).transform("accel_x")
    (folder / "in_accel_scale").write_text("\n", encoding="ascii")
    with pytest.raises(RetryLater, match="not a number"):
        Sysfs(folder).transform("accel_x")


def test_an_own_scale_goes_before_that_of_the_type(tmp_path: Path):
    folder = make_sensor(tmp_path)
    (folder / "in_accel_x_scale").write_text("3\n", encoding="ascii")
    assert Sysfs(folder).transform("accel_x").scale == 3
    assert Sysfs(folder).transform("accel_y").scale == 0.5


def test_a_numbered_channel_finds_the_scale_of_its_type(tmp_path: Path):
    folder = make_sensor(tmp_path)
    (folder / "in_voltage_scale").write_text("0.25 mV\n", encoding="ascii")
    assert Sysfs(folder).transform("voltage3").scale == 0.25


def test_a_processed_value_is_taken_as_it_is(tmp_path: Path):
    folder = make_sensor(tmp_path)
    (folder / "in_temp_input").write_text("21500\n", encoding="ascii")
    assert Sysfs(folder).value_file("temp")() == 21_500
    with pytest.raises(RetryLater, match="no channel pressure"):
        Sysfs(folder).value_file("pressure")


# ---- the buffer ---------------------------------------------------------------------------------


def open_buffer(world: IioBufferWorld, store: Store, **changes: object) -> IioSource:
    context = context_of(world.stream, FakeClock().now, store.recall)
    return IioSource(iio_options(world.root, mode="buffer", **changes), context)


def test_the_buffer_is_set_up_and_stopped(world: IioBufferWorld):
    source = open_buffer(world, Store(world.stream), buffer_length=512)
    assert text(world, "buffer/enable") == "1"
    assert text(world, "buffer/length") == "512"
    assert text(world, "scan_elements/in_accel_z_en") == "0", "a foreign element changes the scan"
    assert text(world, "scan_elements/in_timestamp_en") == "1"
    assert text(world, "current_timestamp_clock") == "realtime"
    assert text(world, "sampling_frequency") == "100"
    source.close()
    assert text(world, "buffer/enable") == "0"


def test_scans_become_frames_with_the_times_of_the_kernel(world: IioBufferWorld):
    store = Store(world.stream)
    source = open_buffer(world, store)
    gap_ns = 500_000_000
    times = [T0_NS + i * 10_000_000 + (gap_ns if i >= 3 else 0) for i in range(6)]
    os.write(world._writer, b"".join(scan(10 + i, i, t) for i, t in enumerate(times)))
    source.poll(store, 0.0)
    source.close()
    assert [f.t0_ns for f in store.frames] == [times[0], times[3]]
    assert store.rows() == [((10 + i + 4) * 0.5, i * 1.0) for i in range(6)]


def test_without_timestamps_time_goes_on_smoothly(world: IioBufferWorld):
    for name in ("en", "index", "type"):
        (world.root / "sys/iio:device0/scan_elements" / f"in_timestamp_{name}").unlink()
    store, clock = Store(world.stream), FakeClock()
    source = IioSource(
        iio_options(world.root, mode="buffer"), context_of(world.stream, clock.now, store.recall)
    )
    for late_s in (0.0, 0.03, -0.02, 0.01):
        clock.s += 0.05 + late_s
        os.write(world._writer, b"".join(scan(1, 1, 0)[:4] for _ in range(5)))
        source.poll(store, 0.0)
    source.close()
    ends = [(b.t0_ns - a.t1_ns) / 1e9 for a, b in zip(store.frames, store.frames[1:], strict=False)]
    assert len(store.frames) == 4
    assert all(abs(end) < 0.005 for end in ends), "less than half a period"


def test_the_work_of_one_poll_is_bounded(world: IioBufferWorld):
    store = Store(world.stream)
    source = open_buffer(world, store)
    os.set_blocking(world._writer, False)
    scans = b"".join(scan(1, 1, T0_NS + i * 10_000_000) for i in range(3_000))
    written = os.write(world._writer, scans)
    wait_s = source.poll(store, 0.0)
    source.close()
    assert written >= 48_000
    assert len(store.rows()) == written // 16
    assert wait_s > 0


def test_a_rate_that_the_sensor_cannot_do_is_told(
    world: IioBufferWorld, monkeypatch: pytest.MonkeyPatch
):
    read = Sysfs.number

    def rounded(self: Sysfs, attribute: str) -> float:
        """A sensor takes the nearest rate that it can do; a made file takes any."""
        return 104.0 if attribute == "sampling_frequency" else read(self, attribute)

    monkeypatch.setattr(Sysfs, "number", rounded)
    with pytest.raises(RetryLater, match=r"104 Hz, the stream at 100 Hz.*available"):
        open_buffer(world, Store(world.stream))
    assert text(world, "buffer/enable") == "0"
    open_buffer(world, Store(world.stream), set_rate=False).close()


def test_a_device_that_ends_or_is_missing_is_tried_again_later(world: IioBufferWorld):
    store = Store(world.stream)
    source = open_buffer(world, store)
    world.end()
    with pytest.raises(RetryLater, match="no more data"):
        source.poll(store, 0.0)
    source.close()
    world.fifo.unlink()
    with pytest.raises(RetryLater, match="driver"):
        open_buffer(world, store)
    assert text(world, "buffer/enable") == "0", "a buffer that nobody reads is stopped"
    world._writer = os.open("/dev/null", os.O_RDONLY)


def test_a_channel_that_cannot_be_buffered_is_told(world: IioBufferWorld):
    channels = {"x": {"element": "accel_x"}, "y": {"element": "temp"}}
    with pytest.raises(RetryLater, match=r"cannot buffer temp.*mode: poll"):
        open_buffer(world, Store(world.stream), channels=channels)


# ---- options ------------------------------------------------------------------------------------


def test_channels_that_the_stream_does_not_have_are_a_fault_of_the_profile(tmp_path: Path):
    with pytest.raises(FixConfiguration, match="are filled"):
        IioSource(
            iio_options(tmp_path), context_of(stream_of("x"), FakeClock().now, lambda _: None)
        )


@pytest.mark.parametrize(
    "options",
    [
        {"channels": {}},
        {"channels": {"x": {"element": "../../etc"}}},
        {"mode": "dma"},
        {"buffer_length": 0},
        {"channels": {"x": {"element": "accel_x", "factor": float("inf")}}},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]):
    with pytest.raises(ValidationError):
        IioOptions.model_validate(
            {"device": "a", "channels": {"x": {"element": "accel_x"}}, **options}
        )
