"""The queue of training runs, their curves and files, questions, frozen sets. Only adds.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _text(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def _ns(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _whole(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), autoincrement=False, nullable=False)


def _json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def upgrade() -> None:
    """Add them."""
    op.add_column("datasets", _ns("recalled_ns", nullable=True))
    op.add_column("datasets", sa.Column("recall_reason", sa.Text(), nullable=True))
    op.add_column("runs", _json("options", nullable=True))
    for name in ("priority", "attempt"):
        counted = sa.Column(name, sa.Integer(), nullable=False, server_default="0")
        op.add_column("runs", counted)
    for name in ("owner", "cancel_by"):
        op.add_column("runs", _text(name, 200, nullable=True))
    for name in ("lease_ns", "started_ns", "ended_ns"):
        op.add_column("runs", _ns(name, nullable=True))
    op.create_table(
        "run_epochs",
        _text("run", 32),
        _whole("epoch"),
        _json("figures"),
        _ns("at_ns"),
        sa.PrimaryKeyConstraint("run", "epoch"),
    )
    op.create_table(
        "artefacts",
        _text("subject", 64),
        _text("name", 120),
        _text("media_type", 80),
        _text("sha256", 64),
        _ns("length"),
        _ns("created_ns"),
        sa.PrimaryKeyConstraint("subject", "name"),
    )
    op.create_table(
        "questions",
        _text("id", 32),
        _text("fleet", 63),
        _text("model", 63),
        _text("kind", 32),
        _text("state", 16),
        _text("subject", 200),
        _json("evidence"),
        _json("proposal"),
        _json("answer", nullable=True),
        _text("run", 32, nullable=True),
        _ns("created_ns"),
        _ns("updated_ns"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("questions_by_state", "questions", ["fleet", "state", "created_ns"])
    op.create_table(
        "frozen_sets",
        _text("fleet", 63),
        _text("model", 63),
        _whole("number"),
        _json("recordings"),
        _ns("created_ns"),
        sa.PrimaryKeyConstraint("fleet", "model", "number"),
    )
    op.create_table(
        "frozen_looks",
        _text("fleet", 63),
        _text("model", 63),
        _whole("number"),
        _text("run", 32),
        _ns("at_ns"),
        sa.PrimaryKeyConstraint("fleet", "model", "number", "run"),
    )
