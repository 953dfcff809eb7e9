"""The telemetry service as it is, except that it dies by SIGKILL right after its first commit.

Run by the test as a process; nothing of the service is replaced.
"""

from __future__ import annotations

import os
import signal
import sys

from fieldloop_runtime import journal, life
from fieldloop_runtime.health import Health
from fieldloop_runtime.journal import Journal
from fieldloop_runtime.life import Life
from fieldloop_runtime.mqtt import Session
from fieldloop_runtime.settings import load
from fieldloop_store.engine import Store
from fieldloop_telemetry.service import Telemetry, subscriptions
from fieldloop_telemetry.settings import TelemetrySettings


def body(current: Life) -> None:
    """The composition root of the service, with its hook between commit and acknowledgement."""
    settings = load(TelemetrySettings, os.environ)
    journal.configure("INFO")
    session = Session(settings.mqtt, "telemetry-dies", subscriptions=subscriptions(settings))
    session.start()
    Telemetry(
        settings.commit,
        session=session,
        store=Store.open(settings.store.url),
        health=Health(),
        journal=Journal("telemetry"),
        after_commit=lambda: os.kill(os.getpid(), signal.SIGKILL),
    ).run(current)


if __name__ == "__main__":
    sys.exit(life.run("telemetry", body))
