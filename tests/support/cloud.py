"""A small cloud for tests: decodes batches, remembers each row by its key, acknowledges as told."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable

from fieldloop_contract.batch import decode_frames, decode_rows
from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.frames import Frame
from fieldloop_contract.messages import Ack, Want
from fieldloop_contract.topics import Topic, channel_filter, parse
from fieldloop_runtime.mqtt import Connected, Received, Session
from fieldloop_runtime.settings import MqttSettings

Key = tuple[str, str, str, int]
UP = ("frames", "samples", "results", "events", "annotations")


class PretendCloud:
    """Takes whatever every device sends.

    Attributes:
        rows: digest of each row's content by (device, service, epoch, seq).
        copies: how often each row came.
        clashes: rows that came again with other content.
        mute: while set, nothing is acknowledged.
        bend: changes what is acknowledged: gets and gives a list of Ack.
    """

    def __init__(self, port: int, fleet: str = "demo") -> None:
        self.rows: dict[Key, str] = {}
        self.copies: Counter[Key] = Counter()
        self.clashes: list[Key] = []
        self.frames: dict[Key, Frame] = {}
        self.documents: dict[Key, dict[str, object]] = {}
        self.historical: dict[Key, bool] = {}
        self.order: list[Key] = []
        self.batches = 0
        self.refused = 0
        self.unreadable = 0
        self.mute = threading.Event()
        self.bend: Callable[[list[Ack]], list[Ack]] = lambda acks: acks
        self._fleet = fleet
        self._stop = threading.Event()
        settings = MqttSettings(
            host="127.0.0.1",
            port=port,
            keepalive_s=5,
            reconnect_base_s=0.05,
            reconnect_cap_s=0.3,
            inflight_max=500,
        )
        filters = [channel_filter(name, fleet=fleet) for name in UP]
        self._session = Session(settings, f"cloud-{id(self)}", subscriptions=filters)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> PretendCloud:
        self._session.start()
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._session.stop(timeout_s=1)

    def keys(self, service: str, device: str = "pump-1") -> set[tuple[str, int]]:
        return {
            (epoch, seq) for d, s, epoch, seq in list(self.rows) if d == device and s == service
        }

    def want(self, device: str, service: str, want: Want) -> None:
        topic = str(Topic(self._fleet, device, service, "want"))
        self._session.publish(topic, want.encode())

    def acknowledge(self, device: str, service: str, ack: Ack) -> None:
        self._session.publish(str(Topic(self._fleet, device, service, "ack")), ack.encode())

    def _run(self) -> None:
        while not self._stop.is_set():
            event = self._session.poll(0.05)
            if isinstance(event, Connected):
                self._ready.set()
            elif isinstance(event, Received):
                self._take(event)

    def _take(self, event: Received) -> None:
        topic = parse(event.topic)
        self.batches += 1
        cbor = topic.channel in ("frames", "samples")
        try:
            batch = decode_frames(event.payload) if cbor else decode_rows(event.payload)
        except FieldloopError:  # as the real one: what cannot be read is not acknowledged
            self.unreadable += 1
            return
        self.refused += len(batch.refused)
        seqs = []
        for item in batch.rows:
            key = (topic.device, topic.service, batch.epoch, item.seq)
            content = item.frame if cbor else item.row  # type: ignore[union-attr]
            digest = hashlib.sha256(repr((topic.channel, content)).encode()).hexdigest()
            if self.rows.setdefault(key, digest) != digest:
                self.clashes.append(key)
            self.copies[key] += 1
            if cbor:
                self.frames[key] = item.frame  # type: ignore[union-attr]
            else:
                self.documents[key] = item.row  # type: ignore[union-attr]
            if key not in self.historical:
                self.order.append(key)
            self.historical.setdefault(key, batch.historical)
            seqs.append(item.seq)
        if self.mute.is_set() or not seqs:
            return
        ranges: list[tuple[int, int]] = []
        for seq in sorted(seqs):
            if ranges and ranges[-1][1] + 1 == seq:
                ranges[-1] = (ranges[-1][0], seq)
            else:
                ranges.append((seq, seq))
        for ack in self.bend([Ack(epoch=batch.epoch, ranges=ranges)]):
            try:
                self.acknowledge(topic.device, topic.service, ack)
            except Exception:  # noqa: BLE001 - a broker that is away: the device sends again
                time.sleep(0.01)
