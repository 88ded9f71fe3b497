"""Older stores, brought to the tables of today: Alembic's operations, in this process and in one transaction.

A version of a store is a revision of Alembic, version 2 the revision `0002`, in a file of its own under
`versions/`. The number in `paretoshift_schema` is the one that counts; Alembic's table only keeps its books,
under a name of its own, since a database may hold that of another tool as well.
To change tables: change schema.py, raise its SCHEMA_VERSION, write the next file. A file that is there is
history: it stays as it is, whatever becomes of schema.py.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

HERE = Path(__file__).parent
BOOKS = "paretoshift_alembic"

logging.getLogger("alembic").setLevel(logging.WARNING)  # what it does is said in our words


def migrate(connection: Connection, before: int, after: int) -> None:
    """Bring the tables from one version to a later one, in the transaction of the connection.

    Args:
        before: 0 makes the tables of a version from nothing.
    """
    scripts = ScriptDirectory(str(HERE), version_locations=[str(HERE / "versions")])

    def steps(heads, context):
        return scripts._upgrade_revs(_revision(after), heads)

    options = {"fn": steps, "script": scripts, "version_table": BOOKS}
    context = MigrationContext.configure(connection, opts=options)
    if before:
        context.stamp(scripts, _revision(before))
    with Operations.context(context):
        context.run_migrations()


def _revision(version: int) -> str:
    return f"{version:04}"
