"""Streams that are recorded when asked: by a person, by an alarm, by the clock."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from fieldloop_buffer import Entry, Kind, Log, LogSettings, Reader, event_entry, unpack_frame
from fieldloop_contract.errors import MalformedMessage, OutOfSpace
from fieldloop_contract.frames import Clock, Frame
from fieldloop_contract.profile import StreamProfile
from fieldloop_ingestion.intake import LogSink
from fieldloop_ingestion.triggers import Trigger, Triggers, folder_of, request
from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.journal import Journal

S = 1_000_000_000
BASE_NS = 1_800_000_000 * S


def frame(second: int, rate_hz: int = 10) -> Frame:
    values = array("f", range(second * rate_hz, (second + 1) * rate_hz))
    t0_ns = BASE_NS + second * S
    return Frame("vib", t0_ns, t0_ns, "0" * 32, Clock.HELD, float(rate_hz), 1, values.tobytes())


def stream(**capture) -> StreamProfile:
    document = {"id": "vib", "rate_hz": 10, "channels": [{"name": "a"}], "capture": capture}
    return StreamProfile.model_validate(document)


def make(folder: Path, profile: StreamProfile) -> tuple[Log, LogSink]:
    settings = LogSettings(path=str(folder / "log.sqlite"), mode="durable")
    log = Log.open(settings, fleet="acme", device="pump-7", service="ingestion")
    return log, LogSink(log, "src", "acme/pump-7/ingestion", profile, SystemClock().now)


def recorded(log: Log) -> list[Frame]:
    log.commit(force=True)
    chunk = Reader(log.path).read(None, kinds=[Kind.FRAME])
    return [unpack_frame(row.payload) for row in chunk.rows]


def test_only_the_planned_stretches_reach_the_log(tmp_path):
    log, sink = make(tmp_path, stream(mode="periodic", length_s=2, every_s=10))
    for second in range(30):
        sink.frame(frame(second))
    frames = recorded(log)
    assert [f.t0_ns // S % 10 for f in frames] == [0, 1] * 3
    assert [f.planned_pause for f in frames] == [False, False, True, False, True, False]
    assert sink.passed_over == 240
    assert sink.samples == 60
    log.close()


def test_a_request_is_taken_once_and_a_bad_one_is_refused(tmp_path):
    path = str(tmp_path / "log.sqlite")
    looks = Triggers(path, "", Journal("test"))
    assert looks.look() == []
    request(path, "vib", t_ns=BASE_NS, reason="a person")
    folder = folder_of(path)
    (folder / "bad.json").write_text("{")
    (folder / "deep.json").write_text("[" * 5000)
    (folder / "id.json").write_text('{"stream": "../x", "t_ns": 1}')
    assert looks.look() == [Trigger("vib", BASE_NS, "a person")]
    assert looks.refused == 3
    assert looks.look() == []
    assert list(folder.iterdir()) == []
    with pytest.raises(MalformedMessage):
        request(path, "../x")


def test_an_alarm_in_the_inference_log_is_a_trigger_and_an_old_one_is_not(tmp_path):
    alarms = tmp_path / "inference.sqlite"
    settings = LogSettings(path=str(alarms), mode="durable")
    log = Log.open(settings, fleet="acme", device="pump-7", service="inference")

    def alarm(t_ns: int, type_: str = "alarm.raised") -> None:
        data = {"stream": "vib", "t_ns": t_ns}
        log.append(event_entry("acme/pump-7/inference", type_, data, t_ns, "vib"))
        log.commit(force=True)

    alarm(1)
    looks = Triggers(str(tmp_path / "log.sqlite"), str(alarms), Journal("test"))
    assert looks.look() == []
    alarm(BASE_NS)
    alarm(BASE_NS, "model.activated")
    assert looks.look() == [Trigger("vib", BASE_NS, "alarm.raised")]
    assert looks.look() == []
    looks.close()
    log.close()


def test_a_full_log_loses_and_doubles_nothing_of_a_captured_stretch(tmp_path, monkeypatch):
    log, sink = make(tmp_path, stream(mode="on_alarm", length_s=3, before_s=2))
    for second in range(5):
        sink.frame(frame(second))
    put, full = log.append, {"after": 1}

    def append(entry: Entry) -> int:
        if full["after"] <= 0:
            raise OutOfSpace("full")
        full["after"] -= 1
        return put(entry)

    monkeypatch.setattr(log, "append", append)
    full["after"] = 0
    with pytest.raises(OutOfSpace):
        sink.trigger(BASE_NS + 5 * S)
    full["after"] = 1
    sink.trigger(BASE_NS + 5 * S)  # the first of two finds room, the other waits
    with pytest.raises(OutOfSpace):
        sink.frame(frame(5))
    full["after"] = 99
    for second in range(5, 12):
        sink.frame(frame(second))
    values = [int(v) for f in recorded(log) for v in f.array()[:, 0]]
    assert values == list(range(30, 80))
    log.close()
