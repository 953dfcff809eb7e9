"""Tables of delivery: rollouts, what each device is ordered, signed documents.

`rollout_requests` is written by whoever asks (console, commands) and answered by delivery.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from fieldloop_store.metadata import metadata

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
