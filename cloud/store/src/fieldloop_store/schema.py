"""The schema: one set of tables for SQLite and PostgreSQL, and who may write each.

A row from a device is known by (fleet, device, service, epoch, seq): its primary key, in whichever
table its kind belongs to. Times are int64 ns of UTC. One service writes each table:

    telemetry   frames, samples, results, events, annotations, dead_letters, dead_letter_overflow,
                devices, services, ledgers, retired, frame_summaries, machines,
                stream_assignments, device_audit
    training    datasets, runs, run_epochs, artefacts, questions, frozen_sets, frozen_looks,
                models, blobs
    delivery    rollouts, rollout_devices, rollout_audit, assignments, documents
    anybody     rollout_requests: inserted by whoever asks (console, commands), answered by delivery
    machines    those of `schema_machines`
    console     users, tokens, sessions, links, console_audit, webhooks, webhook_deliveries,
                console_cursors, log_books
    identity    enrolment_tokens, certificates, incidents

Two of training's tables take a person's word from elsewhere, through training's own functions: the
console enqueues and cancels `runs` (`runqueue`) and answers `questions`.

A service is its processes and its commands: `python -m fieldloop_telemetry devices ...` writes
telemetry's tables as telemetry does, one transaction for each change. Two commands go further,
because what they do concerns all tables at once: `restore` fills an empty store, and erasing a
device takes its rows out of delivery's and the console's tables too. The console changes the
tables of others only through those functions of this package that are said to be for it.

The migrations in `migrations/versions` make these tables; a test holds the two equal.
"""

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

from fieldloop_store import schema_machines
from fieldloop_store.metadata import metadata

__all__ = ["ROW_KEY", "metadata", "schema_machines"]

ROW_KEY = ("fleet", "device", "service", "epoch", "seq")


def _row_key() -> list[Column[str] | Column[int]]:
    return [
        Column("fleet", String(63), primary_key=True),
        Column("device", String(63), primary_key=True),
        Column("service", String(63), primary_key=True),
        Column("epoch", String(32), primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
    ]


def _raw_table(name: str) -> Table:
    """Raw data, as it was measured: `frames` by policy `all`, `samples` by policy `selected`."""
    return Table(
        name,
        metadata,
        *_row_key(),
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
    *_row_key(),
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
    *_row_key(),
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
    *_row_key(),
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
    *_row_key()[:4],
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

datasets = Table(
    "datasets",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("query", JSON, nullable=False),
    Column("summary", JSON, nullable=False),
    Column("path", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("recalled_ns", BigInteger),  # NULL: it stands
    Column("recall_reason", Text),
)

# The queue of training runs. `owner` holds a running one until `lease_ns`; a lease that ran out
# gives it to whoever claims next. `options` is what the run needs beside the recipe's settings.
runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("recipe", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("trigger", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("dataset", String(64)),
    Column("progress", JSON, nullable=False),
    Column("verdict", JSON),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Column("options", JSON),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("owner", String(200)),
    Column("lease_ns", BigInteger),
    Column("started_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Column("cancel_by", String(200)),
    Index("runs_by_state", "fleet", "state", "created_ns"),
)

# The curves of a run: its figures after each epoch.
run_epochs = Table(
    "run_epochs",
    metadata,
    Column("run", String(32), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("figures", JSON, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
)

# Files about a run or a dataset (`subject`): plots, reports. The bytes are in `blobs`.
artefacts = Table(
    "artefacts",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("name", String(120), primary_key=True),
    Column("media_type", String(80), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

# What training asks a person: a drift that was seen, its evidence, and the run that it proposes.
questions = Table(
    "questions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("proposal", JSON, nullable=False),
    Column("answer", JSON),
    Column("run", String(32)),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Index("questions_by_state", "fleet", "state", "created_ns"),
)

# The frozen evaluation sets of a model, by recording, and each run that has looked at one.
frozen_sets = Table(
    "frozen_sets",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("recordings", JSON, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

frozen_looks = Table(
    "frozen_looks",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("run", String(32), primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("run", String(32)),
    Column("dataset", String(64)),
    Column("metrics", JSON, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("slot", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("document", JSON, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Index("rollouts_by_state", "fleet", "state"),
)

assignments = Table(
    "assignments",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("slot", String(63), primary_key=True),
    Column("model", String(63)),
    Column("version", BigInteger),
    Column("rollout", String(32)),
    Column("updated_ns", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
)

# What a rollout did to a device: `role` is treated or control; `previous` is what it goes back to.
rollout_devices = Table(
    "rollout_devices",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("rollout", String(32), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("role", String(8), nullable=False),
    Column("wave", Integer, nullable=False),
    Column("cohort", String(500), nullable=False),
    Column("at_s", Float(53), nullable=False),
    Column("previous", JSON),
    Column("back_s", Float(53)),
)

# What people ask of rollouts; `state` is waiting, done or refused, `answer` says what came of it.
rollout_requests = Table(
    "rollout_requests",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("rollout", String(32)),
    Column("lane", String(63)),
    Column("model", String(63)),
    Column("version", String(63)),
    Column("actor", String(200), nullable=False),
    Column("reason", String(500), nullable=False),
    Column("asked_ns", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("answer", Text, nullable=False),
    Column("answered_ns", BigInteger),
    Index("rollout_requests_by_state", "fleet", "state", "asked_ns"),
)

# Who did what to which rollout, when and on which evidence. `due` is the sum of the notifications
# that are still to be sent: 1 by MQTT, 2 by webhook.
rollout_audit = Table(
    "rollout_audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("rollout", String(32), nullable=False),
    Column("type", String(80), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("due", Integer, nullable=False),
    Index("rollout_audit_by_rollout", "fleet", "rollout", "id"),
    Index("rollout_audit_by_due", "fleet", "due", "id"),
)

# Who may use the console. `password` is an argon2 hash; NULL until its owner has set one.
users = Table(
    "users",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("password", Text),
    Column("created_ns", BigInteger, nullable=False),
    Column("changed_ns", BigInteger, nullable=False),
)

# Of tokens, sessions and links only the SHA-256 is kept: what a thief of this table reads opens
# nothing.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user", String(63), nullable=False),
    Column("name", String(200), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger),
    Column("used_ns", BigInteger),
    Index("tokens_by_user", "user"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user", String(63), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("seen_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Index("sessions_by_user", "user"),
)

# One-time links: whoever opens one sets the password of its user, once.
links = Table(
    "links",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user", String(63), nullable=False),
    Column("created_by", String(63), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Index("links_by_user", "user"),
)

console_audit = Table(
    "console_audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("via", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("fleet", String(63)),
    Column("action", String(63), nullable=False),
    Column("target", String(200), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("detail", JSON, nullable=False),
)

# `direction` out: events are posted to `url`, signed with `secret`. In: a caller that signs with
# `secret` starts a training of `fleet`.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("direction", String(8), nullable=False),
    Column("name", String(200), nullable=False),
    Column("url", Text, nullable=False),
    Column("events", JSON, nullable=False),
    Column("secret", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_by", String(63), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("webhook", String(32), nullable=False),
    Column("event", String(80), nullable=False),
    Column("document", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_ns", BigInteger, nullable=False),
    Column("answer", String(200), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Index("webhook_deliveries_due", "state", "next_ns"),
    Index("webhook_deliveries_by_webhook", "webhook", "id"),
)

# How far the console has read what it passes on.
console_cursors = Table(
    "console_cursors",
    metadata,
    Column("name", String(120), primary_key=True),
    Column("position", JSON, nullable=False),
)

# The books of each log as the console last audited them, since counting a log's rows takes long.
log_books = Table(
    "log_books",
    metadata,
    *_row_key()[:4],
    Column("held", BigInteger, nullable=False),
    Column("balanced", Boolean, nullable=False),
    Column("faults", JSON, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("reported_ns", BigInteger, nullable=False),
    Column("audited_ns", BigInteger, nullable=False),
    Index("log_books_by_balance", "fleet", "balanced"),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),  # sha256: the token itself is stored nowhere
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("used_ns", BigInteger),
    Column("key_sha256", String(64)),  # of the public key that the token was used for
    Index("enrolment_tokens_by_device", "fleet", "device"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),  # hex; RFC 5280 allows 20 bytes
    Column("issuer", String(64), nullable=False),  # sha256 of the authority's certificate
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("key_sha256", String(64), nullable=False),
    Column("not_before_ns", BigInteger, nullable=False),
    Column("not_after_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger),
    Index("certificates_by_device", "fleet", "device"),
    Index("certificates_by_key", "key_sha256"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("code", String(80), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("incidents_by_device", "fleet", "device"),
)
