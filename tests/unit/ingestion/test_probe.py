"""The probe: measured beside declared, and what disagrees is said."""

from __future__ import annotations

import csv
import doctest
import math
import subprocess
import sys
from array import array

import pytest
import yaml

from fieldloop_contract.profile import Profile
from fieldloop_ingestion import probe as module
from fieldloop_ingestion.probe import ChannelFigures, flat_samples, probe, report


def test_examples_in_the_documentation_are_true():
    assert doctest.testmod(module).failed == 0


def test_figures_of_a_sine_are_those_of_a_sine():
    figures = ChannelFigures()
    for start in range(0, 1000, 50):
        values = [math.sin(2 * math.pi * i / 100) for i in range(start, start + 50)]
        figures.add(array("f", values))
    assert figures.rms == pytest.approx(math.sqrt(0.5), rel=1e-3)
    assert (figures.low, figures.high) == pytest.approx((-1, 1), abs=1e-6)
    assert figures.clipped_share == 0


def test_a_clipped_sine_is_seen_and_a_constant_is_not_called_clipped():
    clipped = ChannelFigures()
    values = [min(0.8, math.sin(2 * math.pi * i / 100)) for i in range(1000)]
    clipped.add(array("f", values))
    assert clipped.clipped_share == pytest.approx(0.2, abs=0.02)
    constant = ChannelFigures()
    constant.add(array("f", [3.0] * 100))
    assert constant.clipped_share == 0
    assert flat_samples(array("f", [1, 1]), 1.0) == 0


def profile(folder, rate_hz: float, rows: int = 400, bad_row: int | None = None) -> Profile:
    path = folder / "signal.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a"])
        for i in range(rows):
            writer.writerow(["nonsense" if i == bad_row else math.sin(i / 10)])
    source = {
        "id": "file", "kind": "replay", "stream": "s", "path": str(path), "speed": 10,
        "frame_samples": 5,
    }  # fmt: skip
    stream = {"id": "s", "rate_hz": rate_hz, "channels": [{"name": "a", "unit": "1"}]}
    return Profile.model_validate({"streams": [stream], "sources": [source]})


class Time:
    """A clock that the probe's own sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def run(given: Profile):
    time = Time()
    return probe(given, 2.0, now_s=time.read, sleep=time.sleep)


def test_a_source_that_keeps_its_rate_is_fine(tmp_path):
    found = run(profile(tmp_path, 50.0))
    assert found[0].faults() == []
    assert found[0].rate_hz == pytest.approx(50.0, rel=0.05)
    assert found[0].channels[0].rms == pytest.approx(math.sqrt(0.5), rel=0.1)
    assert "WRONG" not in "\n".join(report(found))


def test_a_source_of_another_rate_is_told(tmp_path):
    found = run(profile(tmp_path, 50.0))
    found[0].stream = found[0].stream.model_copy(update={"rate_hz": 100.0})
    assert "100 Hz are declared" in found[0].faults()[0]


def test_a_source_without_data_is_told(tmp_path):
    given = profile(tmp_path, 50.0)
    (tmp_path / "signal.csv").unlink()
    assert run(given)[0].faults() == ["no sample came"]


def test_refused_readings_are_told_with_their_reason(tmp_path):
    found = run(profile(tmp_path, 50.0, bad_row=7))
    assert any("refused" in fault and "nonsense" in fault for fault in found[0].faults())
    assert found[0].samples > 100


def test_nothing_is_stored(tmp_path):
    run(profile(tmp_path, 50.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["signal.csv"]


@pytest.mark.parametrize(("rows", "status"), [(400, 0), (0, 1)])
def test_the_exit_status_of_the_command_says_whether_they_agree(tmp_path, rows, status):
    path = tmp_path / "profile.yaml"
    document = profile(tmp_path, 50.0, rows=rows).model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "fieldloop_ingestion", "probe", str(path), "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("WRONG" in done.stdout) == bool(status)
