"""A real Chromium for tests, and the console as a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

PASSWORD = "violet kettle harbour"
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def find_chromium() -> str:
    """Chromium, or a skip that says what to install (a failure in CI)."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed: apt-get install chromium")
        pytest.skip("chromium is not installed: apt-get install chromium")
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium that ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class ConsoleProcess:
    """The console on a store, as it is run: `python -m fieldloop_console run`."""

    def __init__(self, store_url: str, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "console.log"
        self._link_file = folder / "link"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
        environ |= {
            "FIELDLOOP_STORE_URL": store_url, "FIELDLOOP_PORT": "0", "FIELDLOOP_REFRESH_S": "0.5",
            "FIELDLOOP_FIRST_LINK_FILE": str(self._link_file), **settings,
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fieldloop_console", "run"],
                env=environ, stdout=log, stderr=log,
            )  # fmt: skip
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in self.log.read_text("utf-8").splitlines():
                if '"service.started"' in line:
                    url = line.split('"url": "')[1].split('"')[0]
                    with contextlib.suppress(OSError):
                        urllib.request.urlopen(f"{url}/healthz", timeout=20).close()
                        return url
            time.sleep(0.1)
        raise AssertionError(self.log.read_text("utf-8"))

    @property
    def first_link(self) -> str:
        """The link that makes the first administrator."""
        return self._link_file.read_text("utf-8").strip()

    def stop(self) -> int:
        """End it as a supervisor does; returns its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def set_up(page: Page, console: ConsoleProcess) -> None:
    """Become the first administrator, as a person does."""
    page.goto(console.first_link)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Set password and enter").click()


def log_in(page: Page, console: ConsoleProcess, name: str = "admin") -> None:
    """Log in as a person does."""
    page.goto(f"{console.url}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/login" not in url)


def set_theme(context: BrowserContext, console: ConsoleProcess, theme: str) -> None:
    """Choose light or dark."""
    context.add_cookies([{"name": "fieldloop_theme", "value": theme, "url": console.url}])
