"""Users, tokens, sessions, audit, webhooks, audited books; events by arrival. Only adds.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _text(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def _ns(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _serial() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def upgrade() -> None:
    """Add them."""
    op.create_index("events_by_arrival", "events", ["fleet", "received_ns"])
    op.create_index("events_by_device", "events", ["fleet", "device", "received_ns"])
    _access()
    _trail()
    _webhooks()
    op.create_table(
        "log_books",
        *(_text(name, 63) for name in ("fleet", "device", "service")),
        _text("epoch", 32),
        _ns("held"),
        sa.Column("balanced", sa.Boolean(), nullable=False),
        sa.Column("faults", sa.JSON(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        _ns("reported_ns"),
        _ns("audited_ns"),
        sa.PrimaryKeyConstraint("fleet", "device", "service", "epoch"),
    )
    op.create_index("log_books_by_balance", "log_books", ["fleet", "balanced"])


def _access() -> None:
    op.create_table(
        "users",
        _text("name", 63),
        _text("role", 16),
        _text("state", 16),
        sa.Column("password", sa.Text(), nullable=True),
        _ns("created_ns"),
        _ns("changed_ns"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tokens",
        _text("id", 32),
        _text("user", 63),
        _text("name", 200),
        _text("digest", 64),
        _text("role", 16),
        _ns("created_ns"),
        _ns("expires_ns", nullable=True),
        _ns("used_ns", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("tokens_by_user", "tokens", ["user"])
    op.create_table(
        "sessions",
        _text("digest", 64),
        _text("user", 63),
        _text("csrf", 64),
        _text("address", 64),
        _ns("created_ns"),
        _ns("seen_ns"),
        _ns("expires_ns"),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("sessions_by_user", "sessions", ["user"])
    op.create_table(
        "links",
        _text("digest", 64),
        _text("user", 63),
        _text("created_by", 63),
        _ns("created_ns"),
        _ns("expires_ns"),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("links_by_user", "links", ["user"])


def _trail() -> None:
    op.create_table(
        "console_audit",
        _serial(),
        _ns("at_ns"),
        _text("actor", 200),
        _text("via", 16),
        _text("address", 64),
        _text("fleet", 63, nullable=True),
        _text("action", 63),
        _text("target", 200),
        _text("outcome", 16),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _webhooks() -> None:
    op.create_table(
        "webhooks",
        _text("id", 32),
        _text("fleet", 63),
        _text("direction", 8),
        _text("name", 200),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        _text("secret", 200),
        _text("state", 16),
        _text("created_by", 63),
        _ns("created_ns"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "webhook_deliveries",
        _serial(),
        _text("webhook", 32),
        _text("event", 80),
        sa.Column("document", sa.JSON(), nullable=False),
        _text("state", 16),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _ns("next_ns"),
        _text("answer", 200),
        _ns("created_ns"),
        _ns("updated_ns"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhook_deliveries_due", "webhook_deliveries", ["state", "next_ns"])
    op.create_index("webhook_deliveries_by_webhook", "webhook_deliveries", ["webhook", "id"])
    op.create_table(
        "console_cursors",
        _text("name", 120),
        sa.Column("position", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
