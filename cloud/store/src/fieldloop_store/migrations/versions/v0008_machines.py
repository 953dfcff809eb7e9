"""Alarms, commissionings, calibrations and notices. Only adds.

Revision ID: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_OPEN = "phase != 'closed'"


def _text(name: str, length: int = 63, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def _ns(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _row_id() -> sa.Column[int]:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("id", number, nullable=False, primary_key=True)


def upgrade() -> None:
    """Add them."""
    _alarms()
    _calibrations()
    op.create_table(
        "notices",
        _row_id(),
        _text("fleet"),
        _ns("at_ns"),
        *(_json(name) for name in ("document", "due", "sent")),
        sa.Column("told", sa.Boolean(), nullable=False),
    )
    op.create_index("notices_by_time", "notices", ["fleet", "at_ns"])
    op.create_index("notices_due", "notices", ["fleet", "told", "id"])
    op.create_table(
        "machines_state",
        _text("fleet"),
        _text("key"),
        _json("value"),
        sa.PrimaryKeyConstraint("fleet", "key"),
    )


def _alarms() -> None:
    op.create_table(
        "alarms",
        _text("id", 32),
        *(_text(name) for name in ("fleet", "device", "slot", "stream", "machine")),
        _text("site", 200),
        _text("phase", 16),
        sa.Column("standing", sa.Boolean(), nullable=False),
        _ns("raises"),
        _ns("raised_ns"),
        _ns("cleared_ns", nullable=True),
        _ns("shelved_until_ns", nullable=True),
        _text("acknowledged_by", 200),
        _text("verdict", 16, nullable=True),
        _text("verdict_by", 200),
        sa.Column("label_due", sa.Boolean(), nullable=False),
        _json("document"),
        _ns("updated_ns"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("alarms_by_time", "alarms", ["fleet", "raised_ns", "id"])
    op.create_index("alarms_by_machine", "alarms", ["fleet", "machine", "raised_ns"])
    op.create_index(
        "alarms_open_once",
        "alarms",
        ["fleet", "device", "slot"],
        unique=True,
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )
    op.create_table(
        "alarm_history",
        _row_id(),
        _text("fleet"),
        _text("alarm", 32),
        _ns("at_ns"),
        _text("event", 16),
        _text("actor", 200),
        _json("detail"),
    )
    op.create_index("alarm_history_by_alarm", "alarm_history", ["fleet", "alarm", "id"])


def _calibrations() -> None:
    op.create_table(
        "commissionings",
        _text("id", 32),
        *(_text(name) for name in ("fleet", "machine", "device", "slot")),
        _text("state", 16),
        _json("plan"),
        _json("assessment"),
        sa.Column("record", sa.LargeBinary(), nullable=True),
        _ns("begun_ns"),
        _ns("updated_ns"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("commissionings_by_machine", "commissionings", ["fleet", "machine", "begun_ns"])
    op.create_index("commissionings_by_state", "commissionings", ["fleet", "state"])
    op.create_table(
        "calibrations",
        _text("fleet"),
        _text("digest", 64),
        *(_text(name) for name in ("machine", "device", "slot")),
        _text("model_digest", 64),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        _json("peaks"),
        _text("armed_by", 200),
        _ns("armed_ns"),
        _ns("stale_ns", nullable=True),
        _text("stale_because", 200),
        sa.PrimaryKeyConstraint("fleet", "digest"),
    )
    op.create_index("calibrations_by_slot", "calibrations", ["fleet", "device", "slot", "armed_ns"])
    op.create_index("calibrations_by_model", "calibrations", ["fleet", "model_digest"])
