"""A profile is checked as a whole: every fault at once, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from fieldloop_contract.errors import FixConfiguration
from fieldloop_contract.profile import SourceProfile, StreamProfile
from fieldloop_ingestion.cost import cost_lines
from fieldloop_ingestion.located_yaml import load
from fieldloop_ingestion.profile import load_profile

GOOD = """\
streams:
  - id: imu
    rate_hz: 50
    channels:
      - {name: ax, unit: g, min: -16, max: 16}
      - {name: ay, unit: g}
  - id: raw
    rate_hz: 3200
    uplink: none
    policy: drop_newest
    channels: [{name: z}]
sources:
  - id: rec
    kind: replay
    stream: imu
    path: /data
"""


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: str


def fit(source: SourceProfile, _stream: StreamProfile | None) -> None:
    if source.kind != "replay":
        raise FixConfiguration(f"no source is called {source.kind}")
    Options.model_validate(source.options)


def faults_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FixConfiguration) as caught:
        load_profile(str(path), fit)
    return str(caught.value).replace(str(path), "p.yaml").splitlines()


def test_a_good_profile_is_read_and_its_cost_is_said(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD, encoding="utf-8")
    profile = load_profile(str(path), fit)
    assert [s.id for s in profile.streams] == ["imu", "raw"]
    assert profile.streams[0].channels[0].max == 16
    assert profile.sources[0].options == {"path": "/data"}
    assert profile.streams[0].state(7).samples == 7
    lines = "\n".join(cost_lines(profile, 1 << 30, 500_000_000))
    assert "imu: 34.6 MB a day" in lines
    assert "raw: 1105.9 MB a day on the card, uplink none" in lines
    assert "in all 1140.5 MB a day on the card, of flash 2509.1" in lines
    assert "a log of 1074 MB is full after 0.9 days offline" in lines
    assert "about 933 MB a month on the link" in lines
    assert "MORE than the budget of 500 MB a month: raw data waits from day 14" in lines
    assert "within the budget" in "\n".join(cost_lines(profile, 1 << 30, 2_000_000_000))


def test_all_faults_are_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    bad = GOOD.replace("rate_hz: 50", "rate_hz: -1").replace("uplink: none", "uplink: some")
    faults = faults_of(tmp_path, bad)
    assert len(faults) == 2
    assert faults[0].startswith("p.yaml:3: streams.0.rate_hz: ")
    assert faults[1].startswith("p.yaml:9: streams.1.uplink: ")


def test_faults_between_the_parts_and_in_options_are_reported_too(tmp_path: Path) -> None:
    bad = GOOD.replace("stream: imu", "stream: gone").replace("path: /data", "paht: /data")
    bad += "  - {id: rec, kind: serial, stream: imu}\n"
    faults = faults_of(tmp_path, bad)
    text = "\n".join(faults)
    assert "p.yaml:15: sources.0.stream: no stream is called gone" in text
    assert "p.yaml:16: sources.0.paht" in text
    assert "sources.0.path" in text
    assert "p.yaml:17: sources.1.kind: no source is called serial" in text
    assert "p.yaml:17: sources.1.id: rec stands twice" in text


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [", 1), ("a: 1\nb: 2\na: 3\n", 3), ("a: &x 1\nb: *x\n", 1), ("\tb: 1", 1)],
)
def test_what_is_not_plain_yaml_is_named_by_line(text: str, line: int) -> None:
    with pytest.raises(FixConfiguration) as caught:
        load(text, "p.yaml")
    assert f"p.yaml:{line}" in str(caught.value)


def test_a_profile_that_is_not_there_says_which_setting_names_it(tmp_path: Path) -> None:
    with pytest.raises(FixConfiguration, match="FIELDLOOP_PROFILE"):
        load_profile(str(tmp_path / "none.yaml"), fit)
