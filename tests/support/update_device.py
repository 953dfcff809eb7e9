"""A device that only updates: `python tests/support/update_device.py SETTINGS.json`.

A real session and a real ModelSource; each outcome is a JSON line on stdout. It fetches whatever is
ordered, and asks for missing chunks by the same event topic that a service would use its log for.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from fieldloop_runtime.clock import SystemClock
from fieldloop_runtime.mqtt import Connected, Disconnected, Received, Session
from fieldloop_runtime.settings import MqttSettings
from fieldloop_update import Missing, ModelSource, Ordered, Ready, Refused, UpdateSettings


def say(kind: str, **fields: Any) -> None:
    print(json.dumps({"kind": kind, **fields}), flush=True)  # noqa: T201


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_bytes())
    fleet, device = given["fleet"], given["device"]
    delay_s = given.get("chunk_delay_s", 0.0)
    settings = UpdateSettings(trust_clock=True, **given["update"])
    session_box: list[Session] = []

    def subscribe(*filters: str) -> None:
        session_box[0].subscribe(*filters)

    def unsubscribe(*filters: str) -> None:
        session_box[0].unsubscribe(*filters)

    source = ModelSource(
        settings,
        fleet=fleet,
        device=device,
        service="inference",
        root=Path(given["root"]).read_bytes(),
        subscribe=subscribe,
        unsubscribe=unsubscribe,
        clock=SystemClock(trusted=True),
    )
    mqtt = MqttSettings(
        host="127.0.0.1", port=given["port"], reconnect_base_s=0.1, reconnect_cap_s=0.5
    )
    session = Session(mqtt, f"{fleet}/{device}/update", subscriptions=source.filters())
    session_box.append(session)
    session.start()
    while True:
        event = session.poll(0.05)
        match event:
            case Connected():
                source.connected()
            case Disconnected():
                source.disconnected()
            case Received(topic, payload):
                if "/_blob/" in topic and delay_s:
                    time.sleep(delay_s)
                source.message(topic, payload)
        for outcome in source.step(time.monotonic()):
            match outcome:
                case Ordered(desired, version):
                    say("ordered", version=version)
                    for order in desired.slots.values():
                        if order.model is not None:
                            source.fetch(order.model)
                case Ready(ref):
                    say("ready", version=ref.version, digest=ref.digest, **source.counters)
                case Refused(code, reason):
                    say("refused", code=code, reason=reason)
                case Missing(chunks):
                    say("missing", chunks=list(chunks))


if __name__ == "__main__":
    main()
