"""A desk where recordings are labelled: annotations go through a log and an uplink like any row.

It is a device of the fleet called `desk` with the service `labels`, which telemetry lets speak of
other devices. Nothing of a label is lost when the broker is: it waits in the desk's log.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from fieldloop_buffer import Entry, Kind, Log, LogSettings, Uplink, UplinkSettings
from fieldloop_contract.errors import RetryLater
from fieldloop_contract.messages import Annotation, Reported
from fieldloop_runtime.mqtt import Connected, Session
from fieldloop_runtime.presence import Presence
from fieldloop_runtime.settings import MqttSettings

DEVICE, SERVICE = "desk", "labels"


class Desk:
    """The log and the uplink of the annotator. Owner thread only."""

    def __init__(self, fleet: str, folder: Path, mqtt: MqttSettings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / "labels.sqlite")
        self._log = Log.open(LogSettings(path=path), fleet=fleet, device=DEVICE, service=SERVICE)
        self._uplink = Uplink(
            UplinkSettings(), mqtt=mqtt, fleet=fleet, device=DEVICE, service=SERVICE, log_path=path
        )
        self._uplink.start()
        self._presence = Presence(fleet, DEVICE, SERVICE, versions={})
        client_id = f"{fleet}/{DEVICE}/{SERVICE}/ctl"
        self._control = Session(mqtt, client_id, will=self._presence.will())
        self._control.start()

    def label(self, annotation: Annotation) -> None:
        """Write one label into the log; `step` commits it."""
        payload = annotation.encode()
        self._log.append(Entry(Kind.ANNOTATION, annotation.stream, annotation.t0_ns, payload))

    def step(self) -> None:
        """Commit, apply what the cloud has acknowledged, and report the desk's own books."""
        self._log.apply(self._uplink.take_orders())
        self._log.commit(force=True)
        while (event := self._control.poll()) is not None:
            if isinstance(event, Connected):
                with contextlib.suppress(RetryLater):
                    self._presence.connected(self._control)
        report = Reported(
            session=self._presence.session_id,
            ledgers=self._log.ledgers(),
            counters={"bytes_sent": self._uplink.bytes_sent},
        )
        self._presence.report(self._control, report, time.monotonic())

    def close(self) -> None:
        """Say goodbye, stop the uplink, close the log."""
        self._control.stop(goodbye=self._presence.will())
        self._uplink.stop()
        self._log.close()
