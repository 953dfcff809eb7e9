"""Tables of the console: users and their sessions, its audit, webhooks."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, Integer, String, Table, Text

from fieldloop_store.metadata import metadata, row_key

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
    *row_key()[:4],
    Column("held", BigInteger, nullable=False),
    Column("balanced", Boolean, nullable=False),
    Column("faults", JSON, nullable=False),
    Column("notes", JSON, nullable=False),
    Column("reported_ns", BigInteger, nullable=False),
    Column("audited_ns", BigInteger, nullable=False),
    Index("log_books_by_balance", "fleet", "balanced"),
)
