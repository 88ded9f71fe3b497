"""The tables of a store, and how it is opened; only store.py imports them.

Values are kept tall, one row per measurement, so a new objective is new rows and never a new column.
Nothing derived is kept: no front, no knee, no median.

A change of these tables is a new SCHEMA_VERSION, and a file that brings older stores to it: see migrations/.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 4
BUSY_TIMEOUT = 30  # seconds of waiting for others that write to an SQLite file

tables = MetaData()

schema = Table("paretoshift_schema", tables, Column("version", Integer, primary_key=True))

runs = Table(
    "runs",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("experiment", Text, nullable=False),  # JSON
    Column("space", Text, nullable=False),  # JSON
    Column("folder", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created", Text, nullable=False),  # ISO 8601, UTC
    Column("updated", Text, nullable=False),
)


def _of_run(*more: Column) -> tuple[Column, ...]:
    """The columns of a table whose rows belong to a run, `more` completing the primary key."""
    return (Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True), *more)


objectives = Table(
    "objectives",
    tables,
    *_of_run(Column("position", Integer, primary_key=True)),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("goal", Text, nullable=False),
)

constraints = Table(
    "constraints",
    tables,
    *_of_run(Column("position", Integer, primary_key=True)),
    Column("key", Text, nullable=False),
    Column("min", Double),  # NULL: unlimited
    Column("max", Double),
)

facts = Table(
    "facts",
    tables,
    *_of_run(Column("name", Text, primary_key=True)),
    Column("value", Text, nullable=False),
)

candidates = Table(
    "candidates",
    tables,
    *_of_run(Column("number", Integer, primary_key=True)),
    Column("key", Text, nullable=False),
    Column("architecture", Text, nullable=False),  # JSON
    Column("error", Text),  # NULL: measured
    Column("seconds", Double, nullable=False),
    Column("created", Text, nullable=False),
    UniqueConstraint("run_id", "key"),
)


def _of_candidate(*more: Column) -> tuple[Column | ForeignKeyConstraint, ...]:
    """The columns of a table whose rows belong to a candidate."""
    return (
        Column("run_id", Integer, primary_key=True),
        Column("number", Integer, primary_key=True),
        *more,
        ForeignKeyConstraint(
            ["run_id", "number"], ["candidates.run_id", "candidates.number"], ondelete="CASCADE"
        ),
    )


measurements = Table(
    "measurements",
    tables,
    *_of_candidate(Column("key", Text, primary_key=True)),
    Column("value", Double),  # NULL: not a number
    Column("low", Double),  # NULL: the value is certain
    Column("high", Double),
)

latencies = Table(
    "latencies",
    tables,
    *_of_candidate(Column("key", Text, primary_key=True)),  # of the value that it is of
    Column("record", Text, nullable=False),  # JSON, with every sample: large, so apart from the candidates
)

training_values = Table(
    "training_values",
    tables,
    *_of_run(Column("step", Integer, primary_key=True), Column("key", Text, primary_key=True)),
    Column("value", Double),  # NULL: not a number
)

exports = Table(
    "exports",
    tables,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, nullable=False),
    Column("candidate", Text, nullable=False),  # its key
    Column("folder", Text, nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("max_difference", Double),  # NULL: not a number
    Column("agreement", Double),
    Column("test_accuracy", Double),
    Column("card", Text, nullable=False),  # JSON
    Column("created", Text, nullable=False),
    ForeignKeyConstraint(
        ["run_id", "candidate"], ["candidates.run_id", "candidates.key"], ondelete="CASCADE"
    ),
)

trials = Table(
    "trials",
    tables,
    *_of_run(Column("number", Integer, primary_key=True)),
    Column("key", Text, nullable=False),  # of the architecture; empty where it is of none
    Column("architecture", Text, nullable=False),  # JSON
    Column("kind", Text, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("error", Text),  # NULL: measured
    Column("seconds", Double, nullable=False),
    Column("created", Text, nullable=False),
    UniqueConstraint("run_id", "key", "kind", "seed"),
)

trial_values = Table(
    "trial_values",
    tables,
    Column("run_id", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Double),  # NULL: not a number
    ForeignKeyConstraint(["run_id", "number"], ["trials.run_id", "trials.number"], ondelete="CASCADE"),
)

legs = Table(
    "legs",
    tables,
    *_of_run(Column("known", Integer, primary_key=True)),
    Column("start", Text, nullable=False),  # JSON, a list of architectures
    Column("settings", Text, nullable=False),  # JSON
    Column("seconds", Double, nullable=False),
    Column("created", Text, nullable=False),
)


# -- opening -----------------------------------------------------------------------------------


def connect(url: str, create: bool) -> Engine:
    """An engine over the store at `url`, its schema version checked.

    With `create` its tables are made, or brought to today's version. Without, nothing is changed: an older
    store is read as it is.

    A connection with the execution option `immediate` begins its transactions as a writer.
    """
    place = _place(url)
    if place.get_backend_name() == "sqlite":
        _check_file(place, create)
    engine = _engine(place, create)
    with ExitStack() as undo:
        undo.callback(engine.dispose)
        try:
            with engine.execution_options(immediate=create).begin() as connection:
                _check_schema(connection, place, create)
            if create and engine.dialect.name == "sqlite":
                _let_readers_go_on(engine)
        except OperationalError as error:
            raise OSError(f"the store {place} cannot be opened: {reason(error)}") from error
        except DatabaseError as error:
            raise ValueError(
                f"{place} is not a ParetoShift store: {reason(error)}; name another with --store"
            ) from error
        undo.pop_all()
    return engine


def _let_readers_go_on(engine: Engine) -> None:
    """Readers and the writer do not wait for each other; the mode is kept in the file.

    To change it SQLite wants the file to itself, and refuses at once, whatever the timeout, if another that
    opens it waits for that too.
    """
    connection, end = engine.raw_connection(), time.monotonic() + BUSY_TIMEOUT
    try:
        while True:
            try:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise OSError(f"the store {engine.url} cannot be opened: {error}") from error
            time.sleep(0.02)
    finally:
        connection.close()


def reason(error: DatabaseError) -> str:
    """What the database said, in one line."""
    return " ".join(str(error.orig).split())


def _place(url: str) -> URL:
    try:
        place = make_url(url)
    except ArgumentError as error:
        raise ValueError(
            f"'{url}' is not the URL of a store; write sqlite:///FILE, e.g. sqlite:///nas.db"
        ) from error
    backend = place.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ValueError(f"a store is sqlite:///FILE or postgresql://HOST/DATABASE, not {backend}")
    if backend == "sqlite" and place.database in (None, "", ":memory:"):
        raise ValueError(f"'{url}' names no file; write sqlite:///FILE, e.g. sqlite:///nas.db")
    return place


def _check_file(place: URL, create: bool) -> None:
    file = Path(place.database)
    if not create and not file.exists():
        raise FileNotFoundError(f"there is no store {place}; `nas run` makes one, --store names another")
    if create and not file.parent.is_dir():
        raise FileNotFoundError(
            f"the store {place} cannot be made: there is no folder {file.parent}; make it first"
        )


def _engine(place: URL, create: bool) -> Engine:
    try:
        engine = create_engine(place)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the store {place} needs {error.name}; pip install 'paretoshift[postgres]', or use sqlite:///FILE"
        ) from error
    if engine.dialect.name != "sqlite":
        return engine

    @event.listens_for(engine, "connect")
    def _(connection, _record) -> None:
        connection.isolation_level = None  # transactions begin below, not where Python's driver thinks best
        connection.execute(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT}")  # ms
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(
            "PRAGMA synchronous = NORMAL"
        )  # safe from kill -9; only a power cut may lose the last

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        # a transaction that reads first and then wants to write is refused at once if another has written
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _check_schema(connection: Connection, place: URL, create: bool) -> None:
    present = inspect(connection).get_table_names()
    if schema.name in present:
        asked = select(schema.c.version)
        # to write, PostgreSQL lets the second wait here until the first has migrated
        version = connection.scalar(asked.with_for_update() if create else asked)
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"the store {place} has schema version {version}, this paretoshift writes {SCHEMA_VERSION}; "
                f"open it with the paretoshift that wrote it, or name another store with --store"
            )
        if version < SCHEMA_VERSION and create:
            _migrate(connection, place, version)
    elif present and connection.dialect.name == "sqlite":
        raise ValueError(f"{place} is a database of something else; name another store with --store")
    elif create:
        tables.create_all(connection)
        connection.execute(insert(schema).values(version=SCHEMA_VERSION))
    else:
        raise FileNotFoundError(f"there is no store in {place}; `nas run` makes one, --store names another")


def _migrate(connection: Connection, place: URL, version: int) -> None:
    from nas.storage.migrations import migrate  # Alembic takes a while to load, and is hardly ever needed

    migrate(connection, version, SCHEMA_VERSION)
    log.warning(
        "the store %s was of version %d and is of version %d now; an older paretoshift cannot open it any more",
        place,
        version,
        SCHEMA_VERSION,
    )


def has(connection: Connection, table: Table) -> bool:
    """Whether the table is there: not in an older store that was opened to read."""
    return inspect(connection).has_table(table.name)


def has_column(connection: Connection, column: Column) -> bool:
    """Whether the table has that column: not in an older store that was opened to read."""
    return column.name in {one["name"] for one in inspect(connection).get_columns(column.table.name)}
