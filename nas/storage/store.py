"""The one place that speaks SQL: records in, records out."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from pathlib import Path

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from nas.storage import schema
from nas.storage.records import (
    Candidate,
    Constraint,
    Export,
    Latency,
    Leg,
    Objective,
    Run,
    RunStatus,
    TrainingPoint,
    Trial,
    now,
)
from nas.storage.schema import (
    candidates,
    exports,
    latencies,
    legs,
    measurements,
    runs,
    training_values,
    trial_values,
    trials,
)

_PARTIAL = (
    "accuracy",
    "accuracy/scored",
    "accuracy/images",
)  # rows of an accuracy that was on a part of the images
_AGAIN = "again/"  # before the key of what was measured a second time
ONE_DEVICE = "latency_ms"  # the key of a record in stores of before version 4


class Store:
    """Everything that is known of the runs: written by the one process that drives a run, read by anyone.

    Every write is one transaction that has reached the file when the method returns; a process that is
    killed leaves what was acknowledged. One store may be used from several threads.
    """

    def __init__(self, url: str = "sqlite:///nas.db", create: bool = True):
        """Open the store at `url`; if `create` is true, to write: one that is not there is made, an older
        one brought to today's version. Otherwise it stays as it is, and what it has no table for is empty.

        Raises:
            FileNotFoundError: there is none, or no folder to make it in.
            ValueError: it is no store, or one of a later schema version.
            OSError: it cannot be read or written.
        """
        self._engine = schema.connect(url, create)
        self._writer = self._engine.execution_options(immediate=True)

    @property
    def url(self) -> str:
        """Where it is, its password hidden."""
        return self._engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- runs ----------------------------------------------------------------------------------

    def add_run(self, run: Run) -> None:
        own = {column.name: getattr(run, column.name) for column in runs.c if column.name != "id"}
        with self._write() as connection:
            if connection.scalar(select(runs.c.id).where(runs.c.name == run.name)):
                raise ValueError(
                    f"there is a run named '{run.name}' in the store {self.url}; choose another name"
                )
            run_id = connection.scalar(insert(runs).values(own).returning(runs.c.id))
            _put_goals(connection, run_id, run)
            _add_facts(connection, run_id, run.facts)

    def update_run(
        self,
        name: str,
        status: RunStatus | None = None,
        message: str | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Change what is given. Facts are added to those known; one of the same name is replaced."""
        given = {"status": status, "message": message}
        with self._write_run(name) as (connection, run_id):
            changed = {field: value for field, value in given.items() if value is not None}
            if changed:
                connection.execute(update(runs).where(runs.c.id == run_id).values(changed))
            _add_facts(connection, run_id, facts or {})

    def extend_run(self, run: Run, leg: Leg) -> None:
        """Change what is asked of the run of that name (its experiment, objectives, constraints), and add the leg of
        its search; legs that began with as many candidates, or with more, are dropped."""
        with self._write_run(run.name) as (connection, run_id):
            asked = update(runs).where(runs.c.id == run_id).values(experiment=run.experiment)
            connection.execute(asked)
            _put_goals(connection, run_id, run)
            connection.execute(delete(legs).where(legs.c.run_id == run_id, legs.c.known >= leg.known))
            row = {**asdict(leg), "start": json.dumps(leg.start)}
            _insert(connection, legs, [{"run_id": run_id, **row}])

    def legs(self, run: str) -> list[Leg]:
        """The legs of a run's search, in order; none before it was searched, or by an earlier version."""
        with self._read() as connection:
            run_id = _run_id(connection, run)
            if not schema.has(connection, legs):
                return []
            columns = [legs.c[field.name] for field in fields(Leg)]
            rows = connection.execute(select(*columns).where(legs.c.run_id == run_id).order_by(legs.c.known))
            return [Leg(**{**row, "start": tuple(json.loads(row["start"]))}) for row in rows.mappings()]

    def note_seconds(self, run: str, leg: Leg, seconds: float) -> None:
        """Keep how long a leg has taken, in seconds of wall clock."""
        with self._write_run(run) as (connection, run_id):
            this = (legs.c.run_id == run_id) & (legs.c.known == leg.known)
            connection.execute(update(legs).where(this).values(seconds=seconds))

    def rename_run(self, old: str, new: str, folder: str | None = None) -> None:
        """Give a run another name and, with its exports, another folder if one is given."""
        with self._write() as connection:
            run_id = _run_id(connection, old)
            if new != old and connection.scalar(select(runs.c.id).where(runs.c.name == new)):
                raise ValueError(f"there is a run named '{new}' in the store {self.url}; choose another name")
            if folder is not None:
                _move(connection, run_id, folder)
            connection.execute(update(runs).where(runs.c.id == run_id).values(name=new, updated=now()))

    def runs(self) -> list[Run]:
        """Every run, the newest first."""
        with self._read() as connection:
            rows = connection.execute(select(runs).order_by(runs.c.id.desc())).all()
            return [_run(connection, row) for row in rows]

    def run(self, name: str) -> Run:
        """The run of that name; LookupError names those that are like it."""
        with self._read() as connection:
            run_id = _run_id(connection, name)
            return _run(connection, connection.execute(select(runs).where(runs.c.id == run_id)).one())

    # -- candidates ----------------------------------------------------------------------------

    def add_candidate(self, run: str, candidate: Candidate) -> Candidate:
        """Record a candidate; what comes back has its number. A run measures an architecture once."""
        with self._write_run(run) as (connection, run_id):
            mine = candidates.c.run_id == run_id
            known = connection.scalar(
                select(candidates.c.number).where(mine, candidates.c.key == candidate.key)
            )
            assert known is None, (
                f"candidate {candidate.key} of run {run} is recorded already, as number {known}"
            )
            number = (
                connection.scalar(select(func.coalesce(func.max(candidates.c.number), 0)).where(mine)) + 1
            )
            place = {"run_id": run_id, "number": number}
            own = ("key", "architecture", "error", "seconds", "created")
            _insert(connection, candidates, [place | {name: getattr(candidate, name) for name in own}])
            _insert(connection, measurements, [place | row for row in _measurement_rows(candidate)])
            _insert(connection, latencies, [place | row for row in _latency_rows(candidate)])
        return replace(candidate, number=number)

    def complete_candidate(self, run: str, measured: Candidate) -> None:
        """Add the values that a candidate had not been measured in; those that it has stay, but an accuracy on a part
        of the images, in place of which comes that on all. If these could not be measured, it has failed from now
        on."""
        with self._write_run(run) as (connection, run_id):
            known = _candidates(connection, run_id, candidates.c.key == measured.key, with_latency=True)
            assert known, f"run {run} has no candidate {measured.key}"
            place = {"run_id": run_id, "number": known[0].number}
            changed = {"error": measured.error, "seconds": known[0].seconds + measured.seconds}
            this = (candidates.c.run_id == run_id) & (candidates.c.number == known[0].number)
            connection.execute(update(candidates).where(this).values(changed))
            have = set(known[0].values)
            if not known[0].whole and _PARTIAL[0] in measured.values:
                _, images = known[0].scored
                measured = replace(measured, scored=(images, images))
                this = (measurements.c.run_id == run_id) & (measurements.c.number == known[0].number)
                connection.execute(delete(measurements).where(this, measurements.c.key.in_(_PARTIAL)))
                have -= set(_PARTIAL)
            rows = [row for row in _measurement_rows(measured) if row["key"] not in have]
            _insert(connection, measurements, [place | row for row in rows])
            rows = [row for row in _latency_rows(measured) if row["key"] not in known[0].latencies]
            _insert(connection, latencies, [place | row for row in rows])

    def add_again(self, run: str, measured: Candidate) -> None:
        """Keep beside the values of a candidate those of a second measurement, with their records; what was measured
        again already stays. It must be uncertain: a count is the same each time."""
        with self._write_run(run) as (connection, run_id):
            known = _candidates(connection, run_id, candidates.c.key == measured.key, with_latency=False)
            assert known, f"run {run} has no candidate {measured.key}"
            place = {"run_id": run_id, "number": known[0].number}
            for table, rows in (
                (measurements, _measurement_rows(measured)),
                (latencies, _latency_rows(measured)),
            ):
                new = [
                    row
                    for row in rows
                    if row["key"] in measured.intervals and row["key"] not in known[0].again
                ]
                _insert(connection, table, [place | row | {"key": _AGAIN + row["key"]} for row in new])

    def replace_values(self, run: str, changed: Sequence[Candidate]) -> None:
        """Give candidates these values in place of those that they had by the same keys: what is predicted of them
        changes when more is known."""
        with self._write_run(run) as (connection, run_id):
            numbers = dict(
                connection.execute(
                    select(candidates.c.key, candidates.c.number).where(candidates.c.run_id == run_id)
                ).all()
            )
            for one in changed:
                number, keys = numbers[one.key], list(one.values)
                this = (measurements.c.run_id == run_id) & (measurements.c.number == number)
                connection.execute(delete(measurements).where(this, measurements.c.key.in_(keys)))
                rows = [{"run_id": run_id, "number": number} | row for row in _measurement_rows(one)]
                _insert(connection, measurements, rows)

    def candidates(self, run: str, after: int = 0, with_latency: bool = False) -> list[Candidate]:
        """The candidates whose number is above `after`, in order; latency records only if asked for."""
        with self._read() as connection:
            run_id = _run_id(connection, run)
            return _candidates(connection, run_id, candidates.c.number > after, with_latency)

    def candidate(self, run: str, key_prefix: str) -> Candidate:
        """The one candidate whose key begins so, with its latency record."""
        with self._read() as connection:
            run_id = _run_id(connection, run)
            begins = candidates.c.key.startswith(key_prefix, autoescape=True)
            found = _candidates(connection, run_id, begins, with_latency=True)
        if len(found) == 1:
            return found[0]
        if not found:
            raise LookupError(
                f"run '{run}' has no candidate {key_prefix}; `nas report {run}` lists their keys"
            )
        keys = ", ".join(one.key for one in found[:4]) + (", …" if len(found) > 4 else "")
        raise LookupError(
            f"{len(found)} candidates of run '{run}' begin with '{key_prefix}': {keys}; give more of it"
        )

    def count_candidates(self, run: str) -> int:
        with self._read() as connection:
            run_id = _run_id(connection, run)
            return connection.scalar(
                select(func.count()).select_from(candidates).where(candidates.c.run_id == run_id)
            )

    # -- training ------------------------------------------------------------------------------

    def add_training_points(self, run: str, points: Iterable[TrainingPoint]) -> None:
        """Record what was seen of the training; a step that is there already is replaced."""
        points = {point.step: point for point in points}.values()
        with self._write_run(run) as (connection, run_id):
            again = delete(training_values).where(
                training_values.c.run_id == run_id, training_values.c.step == bindparam("again")
            )
            if points:
                connection.execute(again, [{"again": point.step} for point in points])
            rows = [
                {"run_id": run_id, "step": point.step, "key": key, "value": _number(value)}
                for point in points
                for key, value in point.values.items()
            ]
            _insert(connection, training_values, rows)

    def training_points(self, run: str, after: int = -1) -> list[TrainingPoint]:
        """What was seen of the training after that step, in order."""
        with self._read() as connection:
            run_id = _run_id(connection, run)
            rows = connection.execute(
                select(training_values.c["step", "key", "value"])
                .where(training_values.c.run_id == run_id, training_values.c.step > after)
                .order_by(training_values.c.step)
            )
            steps: dict[int, dict[str, float]] = defaultdict(dict)
            for step, key, value in rows:
                steps[step][key] = _nan(value)
        return [TrainingPoint(step, values) for step, values in steps.items()]

    def forget_training_after(self, run: str, step: int) -> None:
        """Drop what was recorded beyond a checkpoint, which training is about to do again."""
        with self._write_run(run) as (connection, run_id):
            mine = training_values.c.run_id == run_id
            connection.execute(delete(training_values).where(mine, training_values.c.step > step))

    # -- trials --------------------------------------------------------------------------------

    def add_trial(self, run: str, trial: Trial) -> None:
        """Record a trial; a run has one of an architecture, a kind and a seed."""
        with self._write_run(run) as (connection, run_id):
            mine = trials.c.run_id == run_id
            same = [trials.c[name] == getattr(trial, name) for name in ("key", "kind", "seed")]
            known = connection.scalar(select(trials.c.number).where(mine, *same))
            what = f"{trial.kind} {trial.key} with seed {trial.seed}"
            assert known is None, f"{what} of run {run} is recorded already, as trial {known}"
            last = connection.scalar(select(func.coalesce(func.max(trials.c.number), 0)).where(mine))
            place = {"run_id": run_id, "number": last + 1}
            _insert(connection, trials, [place | {name: getattr(trial, name) for name in _TRIAL}])
            rows = [{"key": key, "value": _number(value)} for key, value in trial.values.items()]
            _insert(connection, trial_values, [place | row for row in rows])

    def trials(self, run: str) -> list[Trial]:
        """The run's trials, in the order in which they were recorded."""
        with self._read() as connection:
            run_id = _run_id(connection, run)
            return _trials(connection, run_id) if schema.has(connection, trials) else []

    def forget_trials(self, run: str, failed: bool = False) -> None:
        """Drop all trials of a run, or those that failed, which are about to be done again."""
        with self._write_run(run) as (connection, run_id):
            which = [trials.c.error.is_not(None)] if failed else []
            connection.execute(delete(trials).where(trials.c.run_id == run_id, *which))

    # -- exports -------------------------------------------------------------------------------

    def add_export(self, run: str, export: Export) -> None:
        numbers = ("max_difference", "agreement", "test_accuracy")
        with self._write_run(run) as (connection, run_id):
            known = select(candidates.c.number).where(
                candidates.c.run_id == run_id, candidates.c.key == export.candidate
            )
            if connection.scalar(known) is None:
                raise LookupError(
                    f"run '{run}' has no candidate {export.candidate}; `nas report {run}` lists their keys"
                )
            certain = {name: _number(getattr(export, name)) for name in numbers}
            _insert(connection, exports, [{"run_id": run_id, **asdict(export), **certain}])

    def exports(self, run: str) -> list[Export]:
        """The run's exports, in the order in which they were made."""
        names = [column.name for column in exports.c if column.name not in ("id", "run_id")]
        with self._read() as connection:
            run_id = _run_id(connection, run)
            rows = connection.execute(
                select(exports.c[tuple(names)]).where(exports.c.run_id == run_id).order_by(exports.c.id)
            ).mappings()
            return [
                Export(**{name: _nan(value) if value is None else value for name, value in row.items()})
                for row in rows
            ]

    # -- transactions --------------------------------------------------------------------------

    def _read(self) -> AbstractContextManager[Connection]:
        return _transaction(self._engine)

    def _write(self) -> AbstractContextManager[Connection]:
        return _transaction(self._writer)

    @contextmanager
    def _write_run(self, name: str) -> Iterator[tuple[Connection, int]]:
        """A transaction on a run, with its id; the run counts as updated."""
        with self._write() as connection:
            run_id = _run_id(connection, name)
            # PostgreSQL lets two writers in; on SQLite the transaction began as the only one
            connection.execute(select(runs.c.id).where(runs.c.id == run_id).with_for_update())
            yield connection, run_id
            connection.execute(update(runs).where(runs.c.id == run_id).values(updated=now()))


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        raise OSError(f"the store {engine.url!r} does not answer: {schema.reason(error)}") from error
    except IntegrityError:
        raise  # our mistake
    except DatabaseError as error:
        raise OSError(
            f"the store {engine.url!r} is damaged: {schema.reason(error)}; restore it from a copy, or name "
            "another with --store"
        ) from error


def _move(connection: Connection, run_id: int, folder: str) -> None:
    """Change the folder of a run, and of those of its exports that lie in it."""
    before = connection.scalar(select(runs.c.folder).where(runs.c.id == run_id))
    connection.execute(update(runs).where(runs.c.id == run_id).values(folder=folder))
    mine = select(exports.c.id, exports.c.folder).where(exports.c.run_id == run_id)
    for export_id, place in connection.execute(mine).all():
        if Path(place).is_relative_to(before):
            moved = str(Path(folder) / Path(place).relative_to(before))
            connection.execute(update(exports).where(exports.c.id == export_id).values(folder=moved))


def _put_goals(connection: Connection, run_id: int, run: Run) -> None:
    """Write the objectives and constraints of a run in place of those that it has."""
    for table, records in ((schema.objectives, run.objectives), (schema.constraints, run.constraints)):
        connection.execute(delete(table).where(table.c.run_id == run_id))
        rows = [{"run_id": run_id, "position": i, **asdict(one)} for i, one in enumerate(records)]
        _insert(connection, table, rows)


def _insert(connection: Connection, table: Table, rows: Sequence[Mapping]) -> None:
    if rows:
        connection.execute(insert(table), rows)


# -- rows to records ---------------------------------------------------------------------------


def _run_id(connection: Connection, name: str) -> int:
    run_id = connection.scalar(select(runs.c.id).where(runs.c.name == name))
    if run_id is not None:
        return run_id
    names = connection.scalars(select(runs.c.name).order_by(runs.c.id.desc())).all()
    close = get_close_matches(name, names, n=3)
    if not names:
        has = "it has none; `nas run` makes one"
    elif close:
        has = f"did you mean {' or '.join(close)}?"
    else:
        has = f"it has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
    raise LookupError(f"no run named '{name}' in this store; {has}")


def _run(connection: Connection, row: Row) -> Run:
    def records(table: Table, kind: type) -> tuple:
        columns = [table.c[field.name] for field in fields(kind)]
        rows = connection.execute(select(*columns).where(table.c.run_id == row.id).order_by(table.c.position))
        return tuple(kind(*values) for values in rows)

    facts = connection.execute(
        select(schema.facts.c["name", "value"])
        .where(schema.facts.c.run_id == row.id)
        .order_by(schema.facts.c.name)
    )
    own = {name: value for name, value in row._mapping.items() if name != "id"}
    return Run(
        **own,
        objectives=records(schema.objectives, Objective),
        constraints=records(schema.constraints, Constraint),
        facts=dict(facts.all()),
    )


def _candidates(
    connection: Connection, run_id: int, which: ColumnElement[bool], with_latency: bool
) -> list[Candidate]:
    mine = (candidates.c.run_id == run_id) & which

    def of_candidates(table: Table, *columns: str) -> Iterable[Row]:
        same = (table.c.run_id == candidates.c.run_id) & (table.c.number == candidates.c.number)
        joined = table.join(candidates, same)
        return connection.execute(select(table.c[("number", *columns)]).select_from(joined).where(mine))

    own = ("number", "key", "architecture", "error", "seconds", "created")
    # first of all: what is added in between is then whole or not there at all
    rows = (
        connection.execute(select(candidates.c[own]).where(mine).order_by(candidates.c.number))
        .mappings()
        .all()
    )
    values: dict[int, dict[str, float]] = defaultdict(dict)
    intervals: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)
    scored: dict[int, tuple[int, int]] = {}
    again: dict[int, dict[str, tuple[float, float, float]]] = defaultdict(dict)
    for number, key, value, low, high in of_candidates(measurements, "key", "value", "low", "high"):
        if key.startswith(_AGAIN):
            again[number][key.removeprefix(_AGAIN)] = value, low, high
            continue
        values[number][key] = _nan(value)
        if low is not None and high is not None:
            intervals[number][key] = (low, high)
    for number, several in values.items():
        if _PARTIAL[1] in several:
            seen, images = (int(several.pop(key)) for key in _PARTIAL[1:])
            scored[number] = seen, images
    records: dict[int, dict[str, Latency]] = defaultdict(dict)
    keyed = with_latency and schema.has_column(connection, latencies.c.key)
    for number, record, *key in of_candidates(latencies, "record", *["key"] * keyed) if with_latency else ():
        if not (key and key[0].startswith(_AGAIN)):
            records[number][key[0] if key else ONE_DEVICE] = Latency.from_json(record)
    return [
        Candidate(
            **row,
            values=values[n],
            intervals=intervals[n],
            latencies=records[n],
            scored=scored.get(n),
            again=again.get(n, {}),
        )
        for row in rows
        for n in [row["number"]]
    ]


_TRIAL = ("key", "architecture", "kind", "seed", "error", "seconds", "created")


def _trials(connection: Connection, run_id: int) -> list[Trial]:
    # first of all: what is added in between is then whole or not there at all
    rows = connection.execute(
        select(trials.c[("number", *_TRIAL)]).where(trials.c.run_id == run_id).order_by(trials.c.number)
    ).all()
    values: dict[int, dict[str, float]] = defaultdict(dict)
    found = select(trial_values.c["number", "key", "value"]).where(trial_values.c.run_id == run_id)
    for number, key, value in connection.execute(found):
        values[number][key] = _nan(value)
    return [Trial(**dict(zip(_TRIAL, row, strict=True)), values=values[number]) for number, *row in rows]


# -- records to rows ---------------------------------------------------------------------------


def _measurement_rows(candidate: Candidate) -> list[dict]:
    rows = []
    for key, value in candidate.values.items():
        low, high = candidate.intervals.get(key, (None, None))
        rows.append({"key": key, "value": _number(value), "low": _number(low), "high": _number(high)})
    if candidate.scored is not None:
        several = zip(_PARTIAL[1:], candidate.scored, strict=True)
        rows += [{"key": key, "value": float(count), "low": None, "high": None} for key, count in several]
    return rows


def _latency_rows(candidate: Candidate) -> list[dict]:
    return [{"key": key, "record": one.to_json()} for key, one in candidate.latencies.items()]


def _add_facts(connection: Connection, run_id: int, facts: Mapping[str, str]) -> None:
    table = schema.facts
    connection.execute(delete(table).where(table.c.run_id == run_id, table.c.name.in_(list(facts))))
    _insert(connection, table, [{"run_id": run_id, "name": k, "value": str(v)} for k, v in facts.items()])


def _number(value: float | None) -> float | None:
    """As the database keeps it: SQLite knows no NaN, so that is NULL everywhere."""
    return None if value is None or math.isnan(value) else float(value)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
