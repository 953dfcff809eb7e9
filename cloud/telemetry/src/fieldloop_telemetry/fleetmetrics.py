"""Gauges of the fleet, as the store knows it; set by housekeeping, read by Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from fieldloop_store.fleet import FleetFigures
from fieldloop_store.ledger import Books
from fieldloop_store.rows import LogKey


class FleetMetrics:
    """One thread sets them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"fieldloop_fleet_{name}", text, ("fleet", *labels), registry=registry)

        self._devices = gauge("devices", "devices by the registry's state", "state")
        self._online = gauge("devices_online", "devices of which any service is online")
        self._services = gauge("services", "services by state", "service", "state")
        self._letters = gauge("dead_letters", "dead letters kept, by reason", "code")
        self._overflow = gauge("dead_letters_overflowed", "refusals counted, not kept")
        self._models = gauge(
            "models", "devices that serve a model version", "slot", "model", "version"
        )
        self._unbalanced = gauge("logs_unbalanced", "logs whose books do not balance")
        self._unreported = gauge("logs_unreported", "logs that their device has not reported")
        self._lacking = gauge("rows_lacking", "rows that devices count as stored and are not")
        self._audited = Gauge(
            "fieldloop_fleet_audit_timestamp_seconds",
            "when the last audit of all logs ended",
            registry=registry,
        )
        self.wanted = Counter(
            "fieldloop_telemetry_rows_wanted", "rows asked for again", registry=registry
        )
        self.retired = Counter(
            "fieldloop_telemetry_rows_retired",
            "rows removed by the retention policy",
            ("table",),
            registry=registry,
        )

    def show(self, figures: Mapping[str, FleetFigures]) -> None:
        """Set what the store's tables say."""
        for gauge in (self._devices, self._services, self._letters, self._models):
            gauge.clear()
        for fleet, found in figures.items():
            self._online.labels(fleet).set(found.online)
            self._overflow.labels(fleet).set(found.overflow)
            for state, n in found.devices.items():
                self._devices.labels(fleet, state).set(n)
            for (service, state), n in found.services.items():
                self._services.labels(fleet, service, state).set(n)
            for code, n in found.dead_letters.items():
                self._letters.labels(fleet, code).set(n)
            for (slot, model, version), n in found.models.items():
                self._models.labels(fleet, slot, model, str(version)).set(n)

    def show_books(self, entries: Mapping[LogKey, Books], now_s: float) -> None:
        """Set what an audit of all logs found."""
        for gauge in (self._unbalanced, self._unreported, self._lacking):
            gauge.clear()
        for log, entry in entries.items():
            self._unreported.labels(log.fleet).inc(entry.report is None)
            self._unbalanced.labels(log.fleet).inc(entry.report is not None and not entry.balanced)
            self._lacking.labels(log.fleet).inc(entry.lacking)
        self._audited.set(now_s)
