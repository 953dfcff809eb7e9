"""Boards, jobs and balenaOS files are right; a wrong one names file, line and remedy."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fieldloop_contract.errors import FixConfiguration

TREE = Path(__file__).resolve().parents[3]
FIRMWARE = TREE / "firmware-config"
sys.path.insert(0, str(TREE / "tools"))
BOARDS = sorted(p.stem for p in (FIRMWARE / "boards").glob("*.yaml"))
JOBS = sorted(p.name for p in (FIRMWARE / "jobs").iterdir())


def configure() -> Any:
    import configure  # noqa: PLC0415 - a tool, not a package

    return configure


def test_every_board_and_job_is_right_and_every_board_is_one_of_balena_yml() -> None:
    assert configure().check() == []
    supported = yaml.safe_load((TREE / "balena.yml").read_text())["data"]["supportedDeviceTypes"]
    assert set(BOARDS) <= set(supported)
    assert len(BOARDS) >= 6
    assert len(JOBS) >= 3


@pytest.mark.parametrize("name", [f"boards/{b}.yaml" for b in BOARDS])
def test_boards_fit_the_schema_that_editors_use(name: str) -> None:
    schema = json.loads((FIRMWARE / "board.schema.json").read_text(encoding="utf-8"))
    path = FIRMWARE / name
    text = path.read_text(encoding="utf-8")
    jsonschema.validate(yaml.safe_load(text), schema)
    named = re.search(r"\$schema=(\S+)", text)
    assert named
    assert (path.parent / named[1]).resolve() == FIRMWARE / "board.schema.json"


@pytest.mark.parametrize("name", [*(f"jobs/{j}/profile.yaml" for j in JOBS)])
def test_profiles_fit_the_schema_that_editors_use(name: str) -> None:
    schema = json.loads((FIRMWARE / "profile.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load((FIRMWARE / name).read_text(encoding="utf-8")), schema)


def test_the_default_profile_of_the_cloud_fits_the_schema_too() -> None:
    schema = json.loads((FIRMWARE / "profile.schema.json").read_text(encoding="utf-8"))
    path = TREE / "cloud" / "config" / "profiles" / "default.yaml"
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("job", JOBS)
def test_every_pair_renders(board: str, job: str, tmp_path: Path) -> None:
    configure().render(board, job, tmp_path)
    variables = json.loads((tmp_path / "variables.json").read_text(encoding="utf-8"))
    assert all(name.startswith("BALENA_HOST_CONFIG_") for name in variables["config"])
    services = yaml.safe_load((TREE / "docker-compose.yml").read_text())["services"]
    assert set(variables["service"]) <= set(services)
    rules = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["os"]["udevRules"]
    assert set(rules) == {"70-fieldloop-sensors", "71-fieldloop-edgetpu"}
    assert "yaml-language-server" not in (tmp_path / "profile.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wrong", "line", "words"),
    [
        ("name: x\narchitecture: z80\nmemory_mib: 512\n", 2, "aarch64"),
        ("name: x\narchitecture: amd64\nmemory_mib: 1\n", 3, "256"),
        ("name: x\narchitecture: amd64\nmemory_mib: 512\ncolour: red\n", 4, "Extra"),
        (
            "name: x\narchitecture: amd64\nmemory_mib: 512\nsettings:\n  inference:\n"
            "    FIELDLOOP_THREDS: '2'\n",
            6,
            "did you mean FIELDLOOP_THREADS",
        ),
        (
            "name: x\narchitecture: amd64\nmemory_mib: 512\nsettings:\n  inference:\n"
            "    FIELDLOOP_THREADS: '200'\n",
            6,
            "less than or equal to 64",
        ),
        (
            "name: x\narchitecture: amd64\nmemory_mib: 512\nsettings:\n  telemetry: {}\n",
            5,
            "agent",
        ),
    ],
)
def test_a_wrong_board_names_file_line_and_remedy(
    tmp_path: Path, wrong: str, line: int, words: str
) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(FixConfiguration) as caught:
        configure().load_board(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_policy_that_reads_a_stream_nobody_has_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(FIRMWARE / "jobs" / "process-rig", folder)
    path = folder / "policy.yaml"
    path.write_text(path.read_text().replace("{process: process}", "{process: steam}"))
    with pytest.raises(FixConfiguration, match=r"steam.*it has process"):
        configure().load_job(folder)


def test_connection_profiles_are_keyfiles_without_a_secret() -> None:
    found = sorted((FIRMWARE / "balenaos" / "system-connections").iterdir())
    assert len(found) == 3
    for path in found:
        parsed = configparser.ConfigParser()
        parsed.read(path, encoding="utf-8")
        assert parsed["connection"]["id"] == path.name
        assert parsed["ipv4"]["method"] in ("auto", "manual")
        for section in parsed.values():
            assert section.get("psk", "CHANGE-ME") == "CHANGE-ME"


def test_actions_in_workflows_are_pinned_by_commit() -> None:
    for path in (TREE / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"uses:\s*(\S+)", path.read_text(encoding="utf-8"))
        assert used
        assert [u for u in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u)] == [], path.name


def test_a_profile_is_pushed_whole_under_the_device_s_name(tmp_path: Path) -> None:
    tool = configure()
    push = ["push", "raspberrypi4-64", "motor-monitor", "--profiles", str(tmp_path)]
    assert tool.main(push) == 0
    assert tool.main([*push, "--device", "pump-7"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["default.yaml", "pump-7.yaml"]
    tool.load_profile(str(tmp_path / "pump-7.yaml"), tool.fit)


@pytest.mark.parametrize(
    ("board", "job", "more", "said"),
    [
        ("pentium", "motor-monitor", ["--profiles", "."], "boards: "),
        ("raspberrypi4-64", "poetry", ["--profiles", "."], "cannot be read"),
        ("raspberrypi4-64", "motor-monitor", ["--profiles", "none"], "none"),
        ("raspberrypi4-64", "motor-monitor", ["--profiles", ".", "--device", "A b"], "device"),
    ],
)
def test_a_push_that_cannot_be_says_why_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    board: str,
    job: str,
    more: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configure().main(["push", board, job, *more]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
