"""An index of the frames from before their device knew the time. Only adds.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it."""
    unknown = sa.text("clock = 'unknown'")
    op.create_index(
        "frames_without_clock",
        "frames",
        ["fleet", "device", "stream", "boot"],
        sqlite_where=unknown,
        postgresql_where=unknown,
    )
