"""Version 3: the legs of a run's search."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Double, ForeignKey, Integer, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "legs",
        Column("run_id", Integer, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        Column("known", Integer, primary_key=True),
        Column("start", Text, nullable=False),
        Column("settings", Text, nullable=False),
        Column("seconds", Double, nullable=False),
        Column("created", Text, nullable=False),
    )
    op.execute("UPDATE paretoshift_schema SET version = 3")
