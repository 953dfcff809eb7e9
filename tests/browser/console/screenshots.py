"""Takes the pictures of docs/console from a real demo's store.

    python -m fieldloop_demo --once --folder .demo
    python tests/browser/console/screenshots.py .demo/cloud/store.sqlite docs/console

The store is copied first; the console runs on the copy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from fieldloop_store.backup import copy_sqlite
from fieldloop_store.engine import Store
from fieldloop_store.rollouts import list_rollouts
from fieldloop_store.runs import list_runs
from support.browser import ConsoleProcess, chromium, set_theme, set_up

WIDE, NARROW = {"width": 1180, "height": 760}, {"width": 390, "height": 760}
FLEET, DEVICE = "demo", "subject-5"


def pages(store: Store) -> dict[str, str]:
    """Paths of the pages by the name of their picture."""
    base = f"/f/{FLEET}"
    runs, rollouts = list_runs(store, FLEET), list_rollouts(store, FLEET)
    return {
        "overview": base,
        "machines": f"{base}/machines",
        "devices": f"{base}/devices",
        "device": f"{base}/devices/{DEVICE}",
        "data": f"{base}/data",
        "signal": f"{base}/data?device={DEVICE}&stream=imu",
        "training": f"{base}/training",
        "run": f"{base}/training/{runs[0].id}",
        "compare": f"{base}/training?run={runs[0].id}&run={runs[-1].id}",
        "models": f"{base}/models",
        "model": f"{base}/models/activity/2",
        "rollouts": f"{base}/rollouts",
        "rollout": f"{base}/rollouts/{rollouts[0].id}",
        "fleet": f"{base}/fleet",
        "access": "/account",
    }


def take(source: Path, target: Path) -> int:
    """Take all pictures; returns how many."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "store.sqlite"
        copy_sqlite(source, copied)
        url = f"sqlite:///{copied}"
        store = Store.open(url)
        paths = pages(store)
        console = ConsoleProcess(url, Path(folder))
        taken = 0
        try:
            with chromium() as browser:
                context = browser.new_context()
                page = context.new_page()
                page.set_viewport_size(WIDE)
                set_up(page, console)
                page.wait_for_selector("#main")
                for theme, size in (("light", WIDE), ("dark", WIDE), ("phone", NARROW)):
                    set_theme(context, console, "light" if theme == "phone" else theme)
                    page.set_viewport_size(size)
                    for name, path in paths.items():
                        page.goto(console.url + path)
                        page.wait_for_selector("#main")
                        page.wait_for_timeout(1_500)
                        page.screenshot(path=str(target / f"{name}-{theme}.png"))
                        taken += 1
        finally:
            console.stop()
            store.close()
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    sys.stdout.write(f"{take(given.store, given.target)} pictures\n")
