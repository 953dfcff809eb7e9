"""Tables of telemetry: what devices sent, the books of each log, devices, machines."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from fieldloop_store.metadata import metadata, row_key


def _raw_table(name: str) -> Table:
    """Raw data, as it was measured: `frames` by policy `all`, `samples` by policy `selected`."""
    return Table(
        name,
        metadata,
        *row_key(),
        Column("stream", String(63), nullable=False),
        Column("t0_ns", BigInteger, nullable=False),
        Column("t1_ns", BigInteger, nullable=False),
        Column("mono_ns", BigInteger, nullable=False),
        Column("boot", String(32), nullable=False),
        Column("clock", String(16), nullable=False),
        Column("rate_hz", Float, nullable=False),
        Column("channels", Integer, nullable=False),
        Column("samples", LargeBinary, nullable=False),
        Column("planned_pause", Boolean),  # NULL in rows of the first release: not known, so no
        Column("digest", LargeBinary(8), nullable=False),
        Column("received_ns", BigInteger, nullable=False),
        Index(f"{name}_by_time", "fleet", "device", "stream", "t0_ns"),
    )


frames = _raw_table("frames")

samples = _raw_table("samples")

# Small: it holds only frames from before their device knew the time, which `clocks` looks for.
Index(
    "frames_without_clock",
    frames.c.fleet,
    frames.c.device,
    frames.c.stream,
    frames.c.boot,
    sqlite_where=frames.c.clock == "unknown",
    postgresql_where=frames.c.clock == "unknown",
)

results = Table(
    "results",
    metadata,
    *row_key(),
    Column("stream", String(63), nullable=False),
    Column("slot", String(63), nullable=False),
    Column("role", String(16), nullable=False),
    Column("t0_ns", BigInteger, nullable=False),
    Column("t1_ns", BigInteger, nullable=False),
    Column("model", String(63), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("label", String(200)),
    Column("score", Float),
    Column("latency_us", Float, nullable=False),
    Column("valid", Boolean, nullable=False),
    Column("document", JSON, nullable=False),
    Column("digest", LargeBinary(8), nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Index("results_by_time", "fleet", "device", "slot", "t0_ns"),
    Index("results_by_model", "fleet", "model", "version"),
)

events = Table(
    "events",
    metadata,
    *row_key(),
    Column("type", String(80), nullable=False),
    Column("time", String(200), nullable=False),
    Column("document", JSON, nullable=False),
    Column("digest", LargeBinary(8), nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Index("events_by_type", "fleet", "type", "received_ns"),
    Index("events_by_arrival", "fleet", "received_ns"),
    Index("events_by_device", "fleet", "device", "received_ns"),
)

annotations = Table(
    "annotations",
    metadata,
    *row_key(),
    Column("about_device", String(63), nullable=False),
    Column("stream", String(63), nullable=False),
    Column("t0_ns", BigInteger, nullable=False),
    Column("t1_ns", BigInteger, nullable=False),
    Column("label", String(200), nullable=False),
    Column("annotator", String(200), nullable=False),
    Column("confidence", Float, nullable=False),
    Column("document", JSON),
    Column("digest", LargeBinary(8), nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Index("annotations_by_time", "fleet", "about_device", "stream", "t0_ns"),
)

# What was refused, with its reason. `epoch` is "" and `seq` 0 where they could not be read; `times`
# counts how often the same bytes came. Bounded per device by `ingest`.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("service", String(63), nullable=False),
    Column("channel", String(16), nullable=False),
    Column("epoch", String(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("code", String(80), nullable=False),
    Column("reason", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("digest", LargeBinary(8), nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Index(
        "dead_letters_once",
        "fleet",
        "device",
        "service",
        "epoch",
        "seq",
        "channel",
        "digest",
        unique=True,
    ),
)

# How many dead letters of a log did not fit the bound: counted, not kept.
dead_letter_overflow = Table(
    "dead_letter_overflow",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("service", String(63), primary_key=True),
    Column("epoch", String(32), primary_key=True),
    Column("letters", BigInteger, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("first_seen_ns", BigInteger, nullable=False),
    # What people said of it; NULL where nobody did. `state` is active, retired or replaced.
    Column("name", String(200)),
    Column("state", String(16)),
    Column("successor", String(63)),
    Column("changed_ns", BigInteger),
)

# Seqs that were stored and then removed on purpose, by policy or erasure: exact, merged ranges, so
# that the books still balance and nobody asks a device for them again.
retired = Table(
    "retired",
    metadata,
    *row_key()[:4],
    Column("seq_first", BigInteger, primary_key=True, autoincrement=False),
    Column("seq_last", BigInteger, nullable=False),
)

# What is left of raw data that a policy reduced: one row for each interval and channel.
frame_summaries = Table(
    "frame_summaries",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("stream", String(63), primary_key=True),
    Column("interval_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("t0_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("channel", Integer, primary_key=True, autoincrement=False),
    Column("samples", BigInteger, nullable=False),
    Column("minimum", Float, nullable=False),
    Column("mean", Float, nullable=False),
    Column("maximum", Float, nullable=False),
)

machines = Table(
    "machines",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("machine", String(63), primary_key=True),
    Column("site", String(200), nullable=False),
    Column("nameplate", JSON, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

# A stream of a device measures a machine from `from_ns` until before `to_ns`; NULL: still.
stream_assignments = Table(
    "stream_assignments",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("stream", String(63), primary_key=True),
    Column("from_ns", BigInteger, primary_key=True, autoincrement=False),
    Column("to_ns", BigInteger),
    Column("machine", String(63), nullable=False),
    Column("mounting", String(200), nullable=False),
    Index("stream_assignments_by_machine", "fleet", "machine", "from_ns"),
)

device_audit = Table(
    "device_audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("action", String(32), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("device_audit_by_device", "fleet", "device", "at_ns"),
)

services = Table(
    "services",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("service", String(63), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("session", String(200), nullable=False),
    Column("status", JSON, nullable=False),
    Column("status_ns", BigInteger, nullable=False),
    Column("reported", JSON),
    Column("reported_ns", BigInteger),
)

ledgers = Table(
    "ledgers",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("service", String(63), primary_key=True),
    Column("epoch", String(32), primary_key=True),
    Column("produced", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("pending", BigInteger, nullable=False),
    Column("withheld", BigInteger, nullable=False),
    Column("dropped", JSON, nullable=False),
    Column("reported_ns", BigInteger, nullable=False),
)
