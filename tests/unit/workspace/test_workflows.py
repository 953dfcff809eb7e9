"""Workflows and the tree agree: commands, files, targets, images, and what documents name."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from fieldloop_delivery.commands import parser as delivery
from fieldloop_demo.stack import IMAGES

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
AVAILABLE = re.compile(r"\$\{\{ *(vars|secrets|github|needs|matrix|env|steps)\.[\w.-]+ *\}\}")


@cache
def workflow(path: Path) -> dict[str, Any]:
    return dict(yaml.load(path.read_text("utf-8"), yaml.BaseLoader))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in workflow(path)["jobs"].values():
        yield from job["steps"]


def commands(path: Path) -> Iterator[list[str]]:
    """Every command of every step, in words; what a shell makes of them is not followed."""
    for step in steps(path):
        text = AVAILABLE.sub("GIVEN", step.get("run", "")).replace("\\\n", " ")
        for line in re.split(r"\n|&&|\|\||;", text):
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue  # part of a longer piece of shell
            if words:
                yield words


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_workflow_is_whole_bounded_and_asks_for_no_more_rights_than_it_needs(path: Path) -> None:
    document = workflow(path)
    assert document["permissions"] == {"contents": "read"}
    assert document["on"]
    for name, job in document["jobs"].items():
        assert int(job["timeout-minutes"]) > 0, name
        for needed in [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", []):
            assert needed in document["jobs"]
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), "pinned by its commit"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_what_a_workflow_runs_is_there(path: Path) -> None:
    seen = 0
    for words in commands(path):
        if words[0] == "make":
            assert words[1] in TARGETS
            seen += 1
        for word in words[1:] if words[0] in ("make", "bash", "pip", "python") else ():
            for part in word.removeprefix("ARGS=").split():
                if re.match(r"(tests|tools|locks|\.ci|docs)/", part):
                    assert (ROOT / part).exists(), part
                    seen += 1
    assert seen or path.name == "audit.yml"


def test_commands_of_delivery_in_the_model_pipeline_are_understood() -> None:
    found = []
    for words in commands(ROOT / ".github" / "workflows" / "models.yml"):
        if "fieldloop-delivery" in words:
            arguments = words[words.index("fieldloop-delivery") + 1 :]
            found.append(arguments[0])
            given = [re.sub(r"^\$.*", "1", word) for word in arguments]
            assert delivery().parse_args(given)
    assert found == ["export", "import-bundle"]


def test_a_release_builds_every_image_there_is_for_both_platforms() -> None:
    matrix = workflow(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["images"]["strategy"]
    built = {row["image"]: row for row in matrix["matrix"]["include"]}
    files = {
        str(p.relative_to(ROOT)) for p in ROOT.glob("*/*/Dockerfile") if p.parts[-3] != "tests"
    }
    assert {row["file"] for row in built.values()} == files
    assert {name: row["file"] for name, row in built.items()} == IMAGES
    single = {n for n, row in built.items() if row["platforms"] != "linux/amd64,linux/arm64"}
    assert single == {"fieldloop-training"}


def test_what_the_way_of_a_model_names_is_there() -> None:
    """Paths, commands and routes of docs/models-as-code.md."""
    text = (ROOT / "docs" / "models-as-code.md").read_text("utf-8")
    jobs = workflow(ROOT / ".github" / "workflows" / "models.yml")["jobs"]
    scripts: set[str] = set()
    for project in ROOT.glob("*/*/pyproject.toml"):
        scripts |= set(tomllib.loads(project.read_text("utf-8"))["project"].get("scripts", {}))
    routes = (ROOT / "cloud/console/src/fieldloop_console/api/learning.py").read_text("utf-8")
    for quoted in re.findall(r"`([^`]+)`", text):
        first = quoted.split()[0]
        if "/" in first and not first.startswith("/"):
            assert (ROOT / first).exists(), quoted
        elif first.startswith("fieldloop-"):
            assert first in scripts, quoted
    for name in ("loop", "staging", "production"):
        assert name in jobs
        assert f"`{name}`" in text
    route = re.search(r"PATCH /api/v1(/\S+?)`", text)
    assert route
    wanted = re.sub(r"\b(F|NAME|VERSION)\b", lambda m: {"F": "{fleet}"}.get(m[0], m[0]), route[1])
    shape = re.sub(r"\{\w+\}|NAME|VERSION", "{}", wanted)
    known = {re.sub(r"\{\w+\}", "{}", r) for r in re.findall(r"patch\(\s*\"([^\"]+)\"", routes)}
    assert shape in known
