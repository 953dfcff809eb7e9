"""What mkdocs does not do by itself: pages beside the code, and links between all of them.

A service's README is one page of the site (`repository/edge-ingestion.md`), so that it is written
once. Links are written as they work in the repository; here they are turned to the page of the
site, or, where they lead to a file that is no page, to plain text. Diagrams are drawn by the copy
of mermaid that comes with NiceGUI, so that the site loads nothing from elsewhere.
"""

from __future__ import annotations

import os
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_TOP = {
    "ARCHITECTURE.md": "architecture",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
}
_DIAGRAMS = """\
import { mermaid } from "./mermaid/mermaid.js";
mermaid.initialize({startOnLoad: false, theme: "neutral"});
for (const [n, block] of document.querySelectorAll("pre.diagram").entries()) {
  const drawn = await mermaid.render(`diagram-${n}`, block.textContent);
  const figure = document.createElement("div");
  figure.innerHTML = drawn.svg;
  block.replaceWith(figure);
}
"""


def pages() -> dict[str, str]:
    """Markdown files of the repository that are pages: their path there, and in the site."""
    found = {name: f"repository/{page}.md" for name, page in _TOP.items()}
    for path in sorted([*ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]):
        name = path.relative_to(ROOT)
        if name.parts[0] not in ("docs", "tests", "build") and not name.parts[0].startswith("."):
            found[str(name)] = f"repository/{'-'.join(name.parts[:-1])}.md"
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT)
        found[str(name)] = str(name.relative_to("docs"))
    found["docs/adr/README.md"] = "adr/index.md"
    found["README.md"] = "index.md"
    return found


def turn(text: str, source: str, known: dict[str, str], files: set[str]) -> str:
    """Links of a page, turned from the repository's paths to the site's.

    Args:
        source: the page's path in the repository.
        known: as of `pages`.
        files: other files of the site, by their path in the repository.
    """
    here = posixpath.dirname(known[source])

    def one(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, mark, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if path + "/README.md" in known:
            path += "/README.md"
        to = known.get(path) or (path.removeprefix("docs/") if path in files else None)
        if to is None:
            return words if words.startswith("`") else f"{words} (`{path}`)"
        return f"[{words}]({posixpath.relpath(to, here or '.')}{mark}{anchor})"

    return _LINK.sub(one, _IMAGE.sub(r"\1", text))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that live beside the code, and the diagrams' script."""
    for source, page in pages().items():
        if not source.startswith("docs/") or page == "adr/index.md":
            if source == "README.md":
                continue  # its first page is the site's own
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    spec = find_spec("nicegui")
    if spec is None or spec.origin is None:
        raise SystemExit("NiceGUI is missing: make .venv/.ready")
    dist = Path(spec.origin).parent / "elements" / "mermaid" / "dist"
    for path in sorted(dist.glob("*.js")):
        name = "mermaid.js" if path.name == "index.js" else path.name
        files.append(File.generated(config, f"assets/mermaid/{name}", abs_src_path=str(path)))
    files.append(File.generated(config, "assets/diagrams.mjs", content=_DIAGRAMS))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Turn the links of one page."""
    known = pages()
    by_page = {where: source for source, where in known.items()}
    source = by_page.get(page.file.src_uri)
    if page.file.src_uri == "index.md":
        source = "docs/index.md"
    if source is None:
        return markdown
    others = {
        str(p.relative_to(ROOT))
        for p in (ROOT / "docs").rglob("*")
        if p.is_file() and p.suffix in (".json", ".png") and "console" not in p.parts
    }
    return turn(markdown, source, known, others)


if __name__ == "__main__":
    os.chdir(ROOT)
    for where, page in pages().items():
        print(f"{where} -> {page}")
