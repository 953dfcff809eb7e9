"""What both edge services tell of their log and uplink: counters of the report, Prometheus metrics.

Set by the owner's loop once a second.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Gauge

from fieldloop_buffer.log import Log
from fieldloop_buffer.uplink import Figures
from fieldloop_contract.messages import Reported
from fieldloop_runtime.wear import Wear, written_bytes

LEDGERS_REPORTED_MAX = 64
"""Epochs in a report: the newest."""


def log_counters(log: Log, figures: Figures) -> dict[str, int]:
    """Counters of a log and its uplink, for `Reported.counters`."""
    return {
        "batches_sent": figures.batches_sent,
        "batches_resent": figures.batches_resent,
        "log_bytes": log.bytes_on_disk(),
        "out_of_space": log.out_of_space,
        "quarantined": log.quarantined,
        **{f"rejected.{code}": n for code, n in log.rejects().items()},
    }


class Metrics:
    """The gauges. Owner thread writes, the health server reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"fieldloop_{name}", text, labels, registry=registry)

        self._rows = gauge("log_rows", "rows of all epochs by account", ("account",))
        self._dropped = gauge("log_dropped_rows", "dropped rows by cause", ("cause",))
        self._bytes = gauge("log_bytes", "bytes on disk, write-ahead log and reserve included")
        self._samples = gauge("stream_samples", "samples taken", ("stream",))
        self._counters = gauge("counter", "counters as reported", ("name",))
        self._connected = gauge("uplink_connected", "whether the broker granted the subscriptions")
        self._in_flight = gauge("uplink_batches_in_flight", "batches not acknowledged by the cloud")

        self._backlog = gauge("backlog", "rows, bytes, drain_h, drops_in_h as reported", ("what",))
        self._written = gauge("disk_written_bytes", "bytes written to storage since the start")
        self._wear = gauge("disk_written_bytes_per_day", "bytes written to storage in a day")
        self._by_day = Wear()

    def update(self, reported: Reported, figures: Figures, log: Log) -> None:
        """Set all gauges."""
        for account in ("produced", "stored", "pending", "withheld"):
            total = sum(getattr(ledger, account) for ledger in reported.ledgers)
            self._rows.labels(account).set(total)
        dropped: dict[str, int] = {}
        for ledger in reported.ledgers:
            for cause, n in ledger.dropped.items():
                dropped[cause] = dropped.get(cause, 0) + n
        for cause, n in dropped.items():
            self._dropped.labels(cause).set(n)
        for stream in reported.streams:
            self._samples.labels(stream.stream).set(stream.samples)
        for name, n in reported.counters.items():
            self._counters.labels(name).set(n)
        backlog = reported.backlog.model_dump(exclude_none=True) if reported.backlog else {}
        self._backlog.clear()
        for what, n in backlog.items():
            self._backlog.labels(what).set(n)
        written = written_bytes()
        self._written.set(written)
        self._wear.set(self._by_day.per_day(time.monotonic(), written))
        self._bytes.set(log.bytes_on_disk())
        self._connected.set(figures.connected)
        self._in_flight.set(figures.in_flight)
