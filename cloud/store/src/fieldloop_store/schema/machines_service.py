"""Tables of the machines service: alarms and their history, commissionings, calibrations, notices.

Its loop writes them, and so do a person's actions from the console or a command, each as one
transaction of `alarms` or `commissionings`. Part of `schema.metadata`.
"""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, Integer, LargeBinary, String, Table
from sqlalchemy import text as sql

from fieldloop_store.metadata import metadata

_OPEN = "phase != 'closed'"

alarms = Table(
    "alarms",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("slot", String(63), nullable=False),
    Column("stream", String(63), nullable=False),
    Column("machine", String(63), nullable=False),  # "" where no stream assignment says
    Column("site", String(200), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("standing", Boolean, nullable=False),
    Column("raises", BigInteger, nullable=False),
    Column("raised_ns", BigInteger, nullable=False),
    Column("cleared_ns", BigInteger),
    Column("shelved_until_ns", BigInteger),
    Column("acknowledged_by", String(200), nullable=False),
    Column("verdict", String(16)),
    Column("verdict_by", String(200), nullable=False),
    Column("label_due", Boolean, nullable=False),
    Column("document", JSON, nullable=False),  # model, score, threshold: as the device told it
    Column("updated_ns", BigInteger, nullable=False),
    Index("alarms_by_time", "fleet", "raised_ns", "id"),
    Index("alarms_by_machine", "fleet", "machine", "raised_ns"),
    Index(
        "alarms_open_once",
        "fleet",
        "device",
        "slot",
        unique=True,
        sqlite_where=sql(_OPEN),
        postgresql_where=sql(_OPEN),
    ),
)

alarm_history = Table(
    "alarm_history",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("alarm", String(32), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("event", String(16), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("detail", JSON, nullable=False),
    Index("alarm_history_by_alarm", "fleet", "alarm", "id"),
)

commissionings = Table(
    "commissionings",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("machine", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("slot", String(63), nullable=False),
    Column("state", String(16), nullable=False),  # waiting, refused, ready, armed, ended
    Column("plan", JSON, nullable=False),
    Column("assessment", JSON, nullable=False),
    Column("record", LargeBinary),  # the proposed calibration record, once it is ready
    Column("begun_ns", BigInteger, nullable=False),
    Column("updated_ns", BigInteger, nullable=False),
    Index("commissionings_by_machine", "fleet", "machine", "begun_ns"),
    Index("commissionings_by_state", "fleet", "state"),
)

# Records that a person armed. Immutable but for their end.
calibrations = Table(
    "calibrations",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("machine", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("slot", String(63), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("peaks", JSON, nullable=False),  # of the machine alone: what its cohort learns from
    Column("armed_by", String(200), nullable=False),
    Column("armed_ns", BigInteger, nullable=False),
    Column("stale_ns", BigInteger),
    Column("stale_because", String(200), nullable=False),
    Index("calibrations_by_slot", "fleet", "device", "slot", "armed_ns"),
    Index("calibrations_by_model", "fleet", "model_digest"),
)

notices = Table(
    "notices",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("fleet", String(63), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("document", JSON, nullable=False),
    Column("due", JSON, nullable=False),  # channel: {tries, next_ns}
    Column("sent", JSON, nullable=False),  # channel: when, or why it was given up
    Column("told", Boolean, nullable=False),  # nothing is due any more
    Index("notices_by_time", "fleet", "at_ns"),
    Index("notices_due", "fleet", "told", "id"),
)

machines_state = Table(
    "machines_state",
    metadata,
    Column("fleet", String(63), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", JSON, nullable=False),
)
