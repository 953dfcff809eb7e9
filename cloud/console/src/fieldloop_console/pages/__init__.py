"""The dashboard: NiceGUI pages on the console's application. Every asset is served from here."""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import ui

from fieldloop_console.console import Console
from fieldloop_console.pages import (
    account,
    devices,
    fleet,
    machines,
    models,
    overview,
    rollouts,
    signals,
    training,
)
from fieldloop_console.pages.shell import STATIC, not_found


def mount(app: FastAPI, console: Console) -> None:
    """Put all pages on the application."""
    for part in (overview, machines, devices, training, models, rollouts, signals, fleet, account):
        part.register(console)
    nicegui_app.add_static_files("/assets", STATIC)
    nicegui_app.exception_handler(404)(not_found())
    ui.run_with(
        app,
        title="fieldloop",
        favicon=STATIC / "logo.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        gzip_middleware_factory=None,
        show_welcome_message=False,
        reconnect_timeout=10,
    )
