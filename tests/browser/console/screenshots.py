"""Takes the pictures of docs/console.

    python -m fieldloop_demo --once --folder .demo
    python tests/browser/console/screenshots.py .demo/cloud/store.sqlite docs/console

Most are of a real demo's store, copied first; the console runs on the copy. The demo has no
machines and asks no question: those pages are of the store that the browser tests use, whose six
weeks of scores are made up.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from playwright.sync_api import Page

from fieldloop_store.backup import copy_sqlite
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import list_rollouts
from fieldloop_store.runs import list_runs
from support.browser import ConsoleProcess, chromium, set_theme, set_up
from support.console import small_fleet

WIDE, NARROW = {"width": 1180, "height": 760}, {"width": 390, "height": 760}
FLEET, DEVICE = "demo", "subject-5"
COLOURS = 256
_BASE = f"/f/{FLEET}"
MADE_UP = {
    "machines": f"{_BASE}/machines", "machine": f"{_BASE}/machines/press",
    "questions": f"{_BASE}/training",
}  # fmt: skip
TALL = {"machine": 1_500, "new": 1_250, "model": 2_000, "questions": 900}
"""Height of pages whose main part lies lower than a screen."""


def pages(store: Store) -> dict[str, str]:
    """Paths of the demo's pages by the name of their picture."""
    runs, rollouts = list_runs(store, FLEET), list_rollouts(store, FLEET)
    return {
        "overview": _BASE,
        "devices": f"{_BASE}/devices",
        "device": f"{_BASE}/devices/{DEVICE}",
        "data": f"{_BASE}/data",
        "signal": f"{_BASE}/data?device={DEVICE}&stream=imu",
        "training": f"{_BASE}/training",
        "new": f"{_BASE}/training/new",
        "run": f"{_BASE}/training/{runs[0].id}",
        "compare": f"{_BASE}/training?run={runs[0].id}&run={runs[-1].id}",
        "models": f"{_BASE}/models",
        "model": f"{_BASE}/models/activity/2",
        "rollouts": f"{_BASE}/rollouts",
        "rollout": f"{_BASE}/rollouts/{rollouts[0].id}",
        "fleet": f"{_BASE}/fleet",
        "access": "/account",
    }


def take(source: Path, target: Path) -> int:
    """Take all pictures; returns how many."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copied, made_up = Path(folder) / "store.sqlite", Path(folder) / "made-up"
        copy_sqlite(source, copied)
        url = f"sqlite:///{copied}"
        store = Store.open(url)
        paths = pages(store)
        store.close()
        made_up.mkdir()
        taken = _take(url, Path(folder), paths, target)
        return taken + _take(small_fleet(made_up, "hall 3")[0], made_up, MADE_UP, target)


def _take(url: str, folder: Path, paths: dict[str, str], target: Path) -> int:
    taken = 0
    with _page(url, folder) as (page, console):
        for theme, size in (("light", WIDE), ("dark", WIDE), ("phone", NARROW)):
            set_theme(page.context, console, "light" if theme == "phone" else theme)
            for name, path in paths.items():
                height = TALL.get(name, size["height"]) if theme != "phone" else size["height"]
                page.set_viewport_size({"width": size["width"], "height": height})
                page.goto(console.url + path)
                page.wait_for_selector("#main")
                page.wait_for_timeout(1_500)
                _save(page.screenshot(), target / f"{name}-{theme}.png")
                taken += 1
    return taken


@contextmanager
def _page(url: str, folder: Path) -> Iterator[tuple[Page, ConsoleProcess]]:
    console = ConsoleProcess(url, folder)
    try:
        with chromium() as browser:
            page = browser.new_context().new_page()
            page.set_viewport_size(WIDE)
            set_up(page, console)
            page.wait_for_selector("#main")
            yield page, console
    finally:
        console.stop()


def _save(picture: bytes, path: Path) -> None:
    """Write a picture with few colours: of flat areas and text, half of the bytes."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    sys.stdout.write(f"{take(given.store, given.target)} pictures\n")
