"""The device registry, machines, and what retention leaves behind. Only adds.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _id(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=63), nullable=nullable)


def _ns(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), autoincrement=False, nullable=nullable)


def upgrade() -> None:
    """Add them."""
    op.add_column("devices", sa.Column("name", sa.String(length=200), nullable=True))
    op.add_column("devices", sa.Column("state", sa.String(length=16), nullable=True))
    op.add_column("devices", _id("successor", nullable=True))
    op.add_column("devices", sa.Column("changed_ns", sa.BigInteger(), nullable=True))
    for table in ("frames", "samples"):
        op.add_column(table, sa.Column("planned_pause", sa.Boolean(), nullable=True))
    op.create_table(
        "retired",
        *(_id(name) for name in ("fleet", "device", "service")),
        sa.Column("epoch", sa.String(length=32), nullable=False),
        _ns("seq_first"),
        sa.Column("seq_last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fleet", "device", "service", "epoch", "seq_first"),
    )
    op.create_table(
        "frame_summaries",
        *(_id(name) for name in ("fleet", "device", "stream")),
        _ns("interval_ns"),
        _ns("t0_ns"),
        sa.Column("channel", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("minimum", sa.Float(), nullable=False),
        sa.Column("mean", sa.Float(), nullable=False),
        sa.Column("maximum", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("fleet", "device", "stream", "interval_ns", "t0_ns", "channel"),
    )
    op.create_table(
        "machines",
        _id("fleet"),
        _id("machine"),
        sa.Column("site", sa.String(length=200), nullable=False),
        sa.Column("nameplate", sa.JSON(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fleet", "machine"),
    )
    op.create_table(
        "stream_assignments",
        *(_id(name) for name in ("fleet", "device", "stream")),
        _ns("from_ns"),
        sa.Column("to_ns", sa.BigInteger(), nullable=True),
        _id("machine"),
        sa.Column("mounting", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("fleet", "device", "stream", "from_ns"),
    )
    op.create_index(
        "stream_assignments_by_machine", "stream_assignments", ["fleet", "machine", "from_ns"]
    )
    op.create_table(
        "device_audit",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
            primary_key=True,
        ),
        _id("fleet"),
        _id("device"),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
    )
    op.create_index("device_audit_by_device", "device_audit", ["fleet", "device", "at_ns"])
