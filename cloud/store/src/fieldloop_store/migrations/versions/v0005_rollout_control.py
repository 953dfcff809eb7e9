"""Devices of a rollout, requests of people, and the audit trail. Only adds.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _text(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def _ns(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "rollout_devices",
        _text("fleet", 63),
        _text("rollout", 32),
        _text("device", 63),
        _text("role", 8),
        sa.Column("wave", sa.Integer(), nullable=False),
        _text("cohort", 500),
        sa.Column("at_s", sa.Float(53), nullable=False),
        sa.Column("previous", sa.JSON(), nullable=True),
        sa.Column("back_s", sa.Float(53), nullable=True),
        sa.PrimaryKeyConstraint("fleet", "rollout", "device"),
    )
    op.create_table(
        "rollout_requests",
        _text("id", 64),
        _text("fleet", 63),
        _text("kind", 16),
        _text("rollout", 32, nullable=True),
        *(_text(name, 63, nullable=True) for name in ("lane", "model", "version")),
        _text("actor", 200),
        _text("reason", 500),
        _ns("asked_ns"),
        _text("state", 16),
        sa.Column("answer", sa.Text(), nullable=False),
        _ns("answered_ns", nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("rollout_requests_by_state", "rollout_requests", ["fleet", "state", "asked_ns"])
    op.create_table(
        "rollout_audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        _text("fleet", 63),
        _text("rollout", 32),
        _text("type", 80),
        _text("actor", 200),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        _ns("at_ns"),
        sa.Column("due", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("rollout_audit_by_rollout", "rollout_audit", ["fleet", "rollout", "id"])
    op.create_index("rollout_audit_by_due", "rollout_audit", ["fleet", "due", "id"])
