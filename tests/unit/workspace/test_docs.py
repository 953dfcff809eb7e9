"""The documents are true: what they name exists, and what exists is named."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/*/README.md")]
WORKSPACE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MEMBERS = WORKSPACE["tool"]["uv"]["workspace"]["members"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_make_target_that_is_named_exists(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.M):
        assert target in targets


def test_every_option_of_the_demo_that_the_readme_shows_exists():
    source = (ROOT / "demo/src/fieldloop_demo/__main__.py").read_text("utf-8")
    for option in re.findall(r"--([a-z]+)", (ROOT / "README.md").read_text("utf-8")):
        assert re.search(rf"^    {option}: Annotated\[", source, re.M), option


def test_every_decision_is_listed_once_with_all_its_parts():
    index = (ROOT / "docs/adr/README.md").read_text("utf-8")
    pages = sorted((ROOT / "docs/adr").glob("0*.md"))
    assert len({p.name[:4] for p in pages}) == len(pages)
    for page in pages:
        text = page.read_text("utf-8")
        assert f"({page.name})" in index
        for part in ("Context", "Decision", "Consequences", "Violated when", "Enforced by"):
            assert f"**{part}" in text, f"{page.name} lacks {part}"


def test_every_member_is_in_the_architecture_and_every_service_has_a_readme():
    architecture = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for member in MEMBERS:
        assert f"`{member}/`" in architecture
        project = tomllib.loads((ROOT / member / "pyproject.toml").read_text("utf-8"))
        if "scripts" in project["project"]:
            assert (ROOT / member / "README.md").exists(), member


def test_no_folder_is_an_import_name():
    for member in MEMBERS:
        package = next((ROOT / member / "src").iterdir()).name
        assert package.startswith("fieldloop_")
        assert package != Path(member).name


def test_no_committed_file_names_a_registry_or_a_path_of_a_machine():
    registries = re.compile(r"(pypi|pythonhosted|npmjs)\.org|/(root|work|home)/[a-z]")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    names = [n for n in listed.stdout.split("\0") if n]
    assert len(names) > 50
    for name in names:
        path = ROOT / name
        if name.startswith("tests/unit/workspace") or not path.is_file():
            continue
        match = registries.search(path.read_text("utf-8", "ignore"))
        assert match is None, f"{name}: {match}"
