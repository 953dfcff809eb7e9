"""A signed fleet's models and orders for the one device of `support.device`, on a real broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fieldloop_contract.messages import ModelRef
from fieldloop_contract.topics import Topic, blob_topic, meta_topic
from fieldloop_runtime.mqtt import Connected, Session
from fieldloop_runtime.settings import MqttSettings
from support.device import DEVICE, FLEET
from support.signed import SignedFleet, chunks


class SignedCloud:
    """Publishes what a signed fleet has made, retained."""

    def __init__(self, folder: Path, port: int) -> None:
        self.fleet = SignedFleet(folder, fleet=FLEET)
        self.session = Session(MqttSettings(port=port), "delivery")
        self.session.start()
        while not isinstance(self.session.poll(5), Connected):
            pass

    def offer(self, manifest: Any, files: dict[str, bytes]) -> ModelRef:
        for digest, chunk in chunks(manifest, files).items():
            self.session.publish(blob_topic(FLEET, digest), chunk, retain=True)
        return self.fleet.add(manifest)

    def order(self, version: int, ref: ModelRef) -> None:
        desired = self.fleet.order(version, ref, device=DEVICE)
        for name, payload in self.fleet.publish().items():
            self.session.publish(meta_topic(FLEET, name), payload, retain=True)
        topic = str(Topic(FLEET, DEVICE, "inference", "desired"))
        self.session.publish(topic, desired, retain=True)

    def close(self) -> None:
        self.session.stop()
