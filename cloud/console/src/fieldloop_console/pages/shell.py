"""What every page has: who looks at it, the frame around it, and parts that stay up to date.

A page is built for one visit. Its parts are templates filled in from the store in a thread of their
own; every `refresh_s` they are filled in again, and the browser is sent those that differ. Before
each look and each action the session is looked up again: who was logged out, disabled or given
another role is so at once, whatever the open page shows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from nicegui import Client, events, ui

from fieldloop_console.console import Console
from fieldloop_console.guard import ACTOR
from fieldloop_console.identity import Actor, NotAllowed
from fieldloop_console.rendering import render
from fieldloop_contract.errors import FieldloopError, RejectedInput, RetryLater

STATIC = Path(__file__).parents[1] / "static"
THEMES = {"light": False, "dark": True}
_HEAD = (
    '<link rel="stylesheet" href="/static/console.css"><script src="/static/console.js"></script>'
)
PAGE_S_MAX = 30.0
Draw = Callable[[], str]
Do = Callable[[Actor, dict[str, str]], Awaitable[None] | None]
NAV = (
    ("", "overview", "Overview"),
    ("/machines", "machines", "Machines"),
    ("/devices", "devices", "Devices"),
    ("/data", "data", "Data"),
    ("/training", "training", "Training"),
    ("/models", "models", "Models"),
    ("/rollouts", "rollouts", "Rollouts"),
    ("/fleet", "fleet", "Fleet"),
)


def page(path: str) -> ui.page:
    """A page at a path. One that is slow on a busy machine comes late rather than as an error."""
    return ui.page(path, response_timeout=PAGE_S_MAX)


class Gone(Exception):
    """The session is over: whoever looks has to log in again."""


@dataclass(slots=True)
class Visit:
    """One look at one page.

    Attributes:
        actor: who opened it; `now` says who they are now.
        fleet: whose pages these are; "" outside of any.
    """

    console: Console
    actor: Actor
    fleet: str = ""
    theme: str = "auto"
    _parts: list[tuple[str, Draw, str]] = field(default_factory=list)
    _looks: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    _does: dict[str, Do] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Path of the fleet's pages."""
        return f"/f/{self.fleet}"

    def now(self) -> Actor:
        """Who looks, as of now. Raises Gone."""
        actor = self.console.gate.again(self.actor.session, self.actor.address)
        if actor is None:
            raise Gone
        return actor

    async def part(self, draw: Draw, *, classes: str = "", tag: str = "div") -> ui.html:
        """Add a part of the page that is drawn again and again, in a thread."""
        text = await asyncio.to_thread(draw)
        element = ui.html(text, sanitize=False, tag=tag).classes(classes)
        self._parts.append((element.html_id, draw, text))
        return element

    def look(self, does: Callable[[], Awaitable[None]]) -> None:
        """Add something else to do at each look, such as bringing a plot up to date."""
        self._looks.append(does)

    def on(self, name: str, does: Do) -> None:
        """What to do when a button with `data-do=name` is pressed."""
        self._does[name] = does

    def live(self) -> None:
        """Begin to look again and again, and to answer buttons. Once, at the page's end."""
        client = ui.context.client
        self._run(f"fl.clock({self.console.now_ns() // 1_000_000})")
        busy = asyncio.Lock()

        async def look() -> None:
            if busy.locked() or not client.has_socket_connection:
                return
            async with busy:
                await self._look_again()

        ui.timer(self.console.settings.refresh_s, look)
        ui.on("fl", self._pressed)

    async def _look_again(self) -> None:
        try:
            await asyncio.to_thread(self.now)
            for at, (element, draw, before) in enumerate(self._parts):
                text = await asyncio.to_thread(draw)
                if text != before:
                    self._parts[at] = (element, draw, text)
                    self._run(f"fl.patch({json.dumps(element)}, {_script(text)})")
            for does in self._looks:
                await does()
            self._run("fl.trouble('')") if self._troubled else None
            self._troubled = False
        except Gone:
            ui.navigate.to("/login")
        except RetryLater:
            self._troubled = True
            self._run("fl.trouble('The database does not answer; this is the last state known.')")

    _troubled: bool = False

    async def _pressed(self, event: events.GenericEventArguments) -> None:
        given = {str(k): str(v) for k, v in dict(event.args or {}).items()}
        await self.press(given.get("do", ""), given)

    async def press(self, name: str, given: dict[str, str]) -> None:
        """Do what a button of this name does, and bring the page up to date."""
        does = self._does.get(name)
        if does is not None:
            await self.attempt(does, given)
            await self.refresh()

    async def refresh(self) -> None:
        """Look again now."""
        await self._look_again()

    async def attempt(self, does: Do, given: dict[str, str] | None = None) -> bool:
        """Do something as who looks is now, and say what went wrong; returns whether it went."""
        try:
            actor = await asyncio.to_thread(self.now)
            outcome = does(actor, given or {})
            if outcome is not None:
                await outcome
        except Gone:
            ui.navigate.to("/login")
            return False
        except FieldloopError as error:
            mild = isinstance(error, NotAllowed | RejectedInput)
            ui.notify(
                str(error), type="warning" if mild else "negative", position="bottom",
                timeout=8_000,
            )  # fmt: skip
            return False
        return True

    def _run(self, script: str) -> None:
        ui.run_javascript(script)


def _script(text: str) -> str:
    """A text as a literal that cannot end the script it stands in."""
    return json.dumps(text).replace("</", "<\\/").replace("\u2028", "\\u2028")


def visit_of(console: Console, request: Request, fleet: str = "") -> Visit:
    """The visit that a request begins; the guard has seen to it that somebody is logged in."""
    actor: Actor = request.scope[ACTOR]
    theme = request.cookies.get("fieldloop_theme", "auto")
    return Visit(console, actor, fleet, theme if theme in THEMES else "auto")


def frame(visit: Visit, title: str, here: str) -> None:
    """The frame of a page: bar, navigation, theme. `here` is a path of `NAV`."""
    ui.page_title(f"{title} · fieldloop")
    ui.add_head_html(_HEAD)
    ui.add_body_html('<a class="skip" href="#main">Skip to the content</a>')
    ui.dark_mode(THEMES.get(visit.theme))
    fleets = visit.console.pulse.fleets()
    bar = render("bar.html", fleet=visit.fleet, fleets=fleets, actor=visit.actor, theme=visit.theme)
    ui.html(bar, sanitize=False, tag="header").classes("bar")
    nav = render(
        "nav.html", base=visit.base, nav=NAV, here=here, fleet=visit.fleet, actor=visit.actor
    )
    ui.html(nav, sanitize=False, tag="nav").classes("side").props('id=side aria-label="Pages"')


def page_main() -> ui.element:
    """The element that holds a page's content."""
    ui.html(
        '<div id="trouble" class="banner" role="status" hidden><span></span></div>', sanitize=False
    )
    return ui.element("div").classes("page").props("id=main tabindex=-1")


async def static_part(template: str, **values: Any) -> ui.html:
    """A part that does not change."""
    return ui.html(render(template, **values), sanitize=False)


def not_found() -> Callable[[Request, Exception], Awaitable[Response]]:
    """The answer where there is no such page."""

    async def answer(_request: Request, _error: Exception) -> Response:
        return HTMLResponse(
            render("message.html", title="There is no such page",
                   words="It may have been renamed, or what it showed is gone."),
            404,
        )  # fmt: skip

    return answer


def message(title: str, words: str, status: int) -> Response:
    """A page that only says something."""
    return HTMLResponse(render("message.html", title=title, words=words), status)


def crowded(console: Console) -> Response | None:
    """The answer where as many pages are open as may be; None where there is room."""
    if len(Client.instances) <= console.settings.browsers_max:
        return None
    return message("Too many pages are open", "Please close some, or try again in a minute.", 503)
