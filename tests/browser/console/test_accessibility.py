"""axe-core finds nothing serious on any page, in light and dark, wide and narrow."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from support.browser import set_theme
from support.console import FLEET, OTHER_RUN, ROLLOUT, RUN

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
BASE = f"/f/{FLEET}"
PAGES = [
    BASE, f"{BASE}/machines", f"{BASE}/machines/press", f"{BASE}/devices",
    f"{BASE}/devices/pump-1", f"{BASE}/data", f"{BASE}/data?device=pump-1&stream=imu",
    f"{BASE}/training", f"{BASE}/training/new", f"{BASE}/training/{RUN}",
    f"{BASE}/training?run={RUN}&run={OTHER_RUN}", f"{BASE}/models", f"{BASE}/models/activity/1",
    f"{BASE}/rollouts", f"{BASE}/rollouts/{ROLLOUT}", f"{BASE}/fleet", "/account", "/login?next=x",
]  # fmt: skip


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious_on_any_page(world: Any, theme: str, width: int):
    set_theme(world.page.context, world.console, theme)
    world.page.set_viewport_size({"width": width, "height": 860})
    found = []
    for path in PAGES:
        if path.startswith("/login"):
            world.page.context.clear_cookies(name="fieldloop_session")
            world.page.goto(world.console.url + path)
        else:
            world.open(path)
        world.page.wait_for_timeout(300)
        world.page.evaluate(AXE)
        outcome = world.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            (path, v["impact"], v["id"], v["nodes"][0]["html"][:160])
            for v in outcome["violations"]
            if v["impact"] in ("serious", "critical")
        ]
    assert not found, "\n".join(map(str, found))
