"""Version 2: what accuracies are inherited, and reached alone."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Double, ForeignKey, ForeignKeyConstraint, Integer, Text, UniqueConstraint

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "trials",
        Column("run_id", Integer, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("key", Text, nullable=False),
        Column("architecture", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("seed", Integer, nullable=False),
        Column("error", Text),
        Column("seconds", Double, nullable=False),
        Column("created", Text, nullable=False),
        UniqueConstraint("run_id", "key", "kind", "seed"),
    )
    op.create_table(
        "trial_values",
        Column("run_id", Integer, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("value", Double),
        ForeignKeyConstraint(["run_id", "number"], ["trials.run_id", "trials.number"], ondelete="CASCADE"),
    )
    op.execute("UPDATE paretoshift_schema SET version = 2")
