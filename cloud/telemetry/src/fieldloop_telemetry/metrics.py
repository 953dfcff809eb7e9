"""What telemetry counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fieldloop_store.ingest import Outcome


class Metrics:
    """Counters and gauges of one service. The owner thread writes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"fieldloop_telemetry_{name}", text, labels, registry=registry)

        self.messages = counter("messages", "messages taken from the broker", "channel")
        self.bad_topics = counter("bad_topics", "messages on a topic that names nobody")
        self.rows = counter("rows_stored", "rows that were new", "table")
        self.again = counter("rows_again", "rows that were stored already, the same")
        self.conflicts = counter("row_conflicts", "rows whose key came with other content")
        self.refused = counter("refused", "rows and messages refused at the door", "code")
        self.undecodable = counter("undecodable", "batches that could not be read at all")
        self.overflowed = counter("letters_overflowed", "dead letters counted, not kept")
        self.wills = counter("wills_ignored", "last wills of a session that is over")
        self.acks = counter("acks", "acknowledgements published")
        self.failures = counter("commit_failures", "commits put off because the store was away")
        self.pending = Gauge(
            "fieldloop_telemetry_pending_rows", "rows waiting for a commit", registry=registry
        )
        self.commit_s = Histogram(
            "fieldloop_telemetry_commit_seconds", "time of a group commit", registry=registry
        )

        self.lag_s = Histogram(
            "fieldloop_telemetry_lag_seconds",
            "age of the newest live sample of a batch when it came, by a clock that is in step",
            registry=registry,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
        )

    def count(self, outcome: Outcome) -> None:
        """Add what one commit did."""
        for table, new in outcome.new.items():
            self.rows.labels(table).inc(new)
        self.again.inc(outcome.again)
        self.conflicts.inc(len(outcome.conflicts))
        self.overflowed.inc(outcome.overflowed)
        self.wills.inc(outcome.ignored_wills)
