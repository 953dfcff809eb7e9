"""The documentation as a website, and the commands that it shows."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path
    for pattern in ("docs/*.md", "docs/how-to/*.md", "*/README.md", "*/*/README.md")
    for path in ROOT.glob(pattern)
)


COMMAND = re.compile(
    r"(?:env )?(?:-u \S+ )*(?:[A-Z_0-9]+=\S+ )*"
    r"(python -m fieldloop_\w+|fieldloop-\w+)(?= |$)( .*)?$"
)


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site_and_no_link_is_broken(site: Path):
    known = tool("site").pages()
    for source, page in known.items():
        assert (site / page.replace(".md", ".html")).exists(), source


def test_the_site_loads_nothing_from_elsewhere(site: Path):
    loads = re.compile(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"?(https?:)?//", re.I)
    for path in site.rglob("*.html"):
        text = path.read_text("utf-8")
        assert loads.search(text.replace('rel="canonical"', "")) is None, path
    assert "unpkg" not in (site / "assets" / "diagrams.mjs").read_text("utf-8")


def test_diagrams_are_drawn_by_what_the_site_brings_along(site: Path):
    page = (site / "reference" / "states.html").read_text("utf-8")
    assert 'class="diagram"' in page
    assert "assets/diagrams.mjs" in page
    assert "as mermaid" in (site / "assets" / "mermaid" / "mermaid.js").read_text("utf-8")


def commands(page: Path) -> list[list[str]]:
    """Command lines of ours in code blocks, with their variables taken off."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.M | re.S)
    blocks += re.findall(r"(?:^(?: {4}|\t).*\n)+", text, re.M)
    found = []
    for block in blocks:
        for line in re.sub(r"\\\n", " ", block).splitlines():
            match = COMMAND.match(line.strip())
            if match is None:
                continue
            rest = re.split(r" [>|&;]|  +#| {3,}", match[2] or "")[0]
            try:
                words = shlex.split(rest, comments=True)
            except ValueError:
                continue
            program = match[1].removeprefix("python -m ").replace("-", "_")
            found.append([program.replace("fieldloop_simulate", "fieldloop_simulator"), *words])
    return found


def test_every_command_that_a_page_shows_is_one_that_there_is():
    reference = tool("reference")
    parsers = {name: reference.parser_of(name) for name in reference.COMMANDS}
    seen = 0
    for page in PAGES:
        for program, *words in commands(page):
            if program not in parsers:
                continue
            parser, known = parsers[program], {}
            for path, _, below in reference.commands_of(parser):
                known[path] = below
            path: tuple[str, ...] = ()
            for word in words:
                if (*path, word) in known:
                    path = (*path, word)
            below = known.get(path, parser)
            if words and not words[0].startswith("-") and known:
                first = words[0].split("|")[0].rstrip(".")
                assert first in {p[0] for p in known} or path, f"{page.name}: {program} {words}"
            options = {o for a in below._actions for o in a.option_strings}
            options |= {o for a in parser._actions for o in a.option_strings}
            for sub in range(1, len(path)):
                options |= {o for a in known[path[:sub]]._actions for o in a.option_strings}
            for word in words:
                if re.match(r"--[a-z]", word):
                    assert word.split("=")[0] in options, f"{page.name}: {program} {words}"
            seen += 1
    assert seen > 40
