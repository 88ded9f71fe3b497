"""Version 1: runs with their candidates, training curves and exports."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None


def upgrade() -> None:
    version = op.create_table("paretoshift_schema", Column("version", Integer, primary_key=True))
    op.create_table(
        "runs",
        Column("id", Integer, primary_key=True),
        Column("name", Text, nullable=False, unique=True),
        *_texts("experiment", "space", "folder", "status", "message", "created", "updated"),
    )
    op.create_table("objectives", *_of_run("position", Integer), *_texts("name", "key", "unit", "goal"))
    limits = (Column("min", Double), Column("max", Double))
    op.create_table("constraints", *_of_run("position", Integer), *_texts("key"), *limits)
    op.create_table("facts", *_of_run("name", Text), *_texts("value"))
    op.create_table(
        "candidates",
        *_of_run("number", Integer),
        *_texts("key", "architecture"),
        Column("error", Text),
        Column("seconds", Double, nullable=False),
        *_texts("created"),
        UniqueConstraint("run_id", "key"),
    )
    op.create_table(
        "measurements",
        *_of_candidate(Column("key", Text, primary_key=True)),
        Column("value", Double),
        Column("low", Double),
        Column("high", Double),
    )
    op.create_table("latencies", *_of_candidate(*_texts("record")))
    op.create_table(
        "training_values",
        *_of_run("step", Integer),
        Column("key", Text, primary_key=True),
        Column("value", Double),
    )
    op.create_table(
        "exports",
        Column("id", Integer, primary_key=True),
        Column("run_id", Integer, nullable=False),
        *_texts("candidate", "folder"),
        Column("verified", Boolean, nullable=False),
        *(Column(name, Double) for name in ("max_difference", "agreement", "test_accuracy")),
        *_texts("card", "created"),
        ForeignKeyConstraint(
            ["run_id", "candidate"], ["candidates.run_id", "candidates.key"], ondelete="CASCADE"
        ),
    )
    op.bulk_insert(version, [{"version": 1}])


def _texts(*names: str) -> list[Column]:
    return [Column(name, Text, nullable=False) for name in names]


def _of_run(name: str, kind: type) -> list[Column]:
    run = Column("run_id", Integer, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    return [run, Column(name, kind, primary_key=True)]


def _of_candidate(*more: Column) -> list[Column | ForeignKeyConstraint]:
    same = ForeignKeyConstraint(
        ["run_id", "number"], ["candidates.run_id", "candidates.number"], ondelete="CASCADE"
    )
    keys = [Column(name, Integer, primary_key=True) for name in ("run_id", "number")]
    return [*keys, *more, same]
