"""The console on a small fleet, in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from sqlalchemy import delete

from fieldloop_store.engine import Store
from fieldloop_store.schema import sessions
from support.browser import ConsoleProcess, chromium, log_in, set_up
from support.console import SmallFleet, small_fleet


@dataclass
class World:
    """A running console, what is in its store, and a page of an administrator.

    Attributes:
        faults: what the browser's console, its scripts and its requests complained of.
    """

    console: ConsoleProcess
    fleet: SmallFleet
    page: Page
    faults: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The console's store, opened beside it."""
        return self.fleet.store

    def log_out_everywhere(self, user: str) -> None:
        """End all sessions of a user, as a new password does."""
        with self.store.begin() as connection:
            connection.execute(delete(sessions).where(sessions.c.user == user))

    def open(self, path: str) -> Page:
        """Open a page and wait until it is alive."""
        self.page.goto(self.console.url + path)
        self.page.wait_for_function("window.socket === undefined || window.did_handshake")
        self.page.wait_for_selector("#main")
        return self.page


Running = tuple[ConsoleProcess, SmallFleet]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the module."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def running(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One console for the module, with its administrator."""
    folder = tmp_path_factory.mktemp("console")
    url, fleet = small_fleet(folder)
    console = ConsoleProcess(url, folder)
    page = browser.new_page()
    set_up(page, console)
    page.wait_for_url(lambda there: "/welcome" not in there)
    page.close()
    yield console, fleet
    assert console.stop() == 0, console.log.read_text("utf-8")
    assert "Traceback" not in console.log.read_text("utf-8")


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One browser profile for the module, so that scripts are loaded once."""
    made = browser.new_context()
    yield made
    made.close()


@pytest.fixture
def world(context: BrowserContext, running: Running) -> Iterator[World]:
    """A page of somebody who is logged in as the administrator; no complaint at its end."""
    console, fleet = running
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.set_default_timeout(20_000)
    page.goto(f"{console.url}/account")
    if "/login" in page.url:
        log_in(page, console)
    made = World(console, fleet, page)
    page.on("console", lambda m: made.faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: made.faults.append(str(e)))
    page.on("response", lambda r: made.faults.append(r.url) if r.status >= 500 else None)
    yield made
    page.close()
    assert made.faults == []
