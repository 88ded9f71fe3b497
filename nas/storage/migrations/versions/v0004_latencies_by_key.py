"""Version 4: a candidate may have several latency records, one for each device."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKeyConstraint, Integer, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.rename_table("latencies", "latencies_of_one_device")
    op.create_table(
        "latencies",
        Column("run_id", Integer, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("record", Text, nullable=False),
        ForeignKeyConstraint(
            ["run_id", "number"], ["candidates.run_id", "candidates.number"], ondelete="CASCADE"
        ),
    )
    op.execute(
        "INSERT INTO latencies (run_id, number, key, record) "
        "SELECT run_id, number, 'latency_ms', record FROM latencies_of_one_device"
    )
    op.drop_table("latencies_of_one_device")
    op.execute("UPDATE paretoshift_schema SET version = 4")
