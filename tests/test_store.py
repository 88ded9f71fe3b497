"""What was acknowledged is there, whatever happens afterwards; what comes out is what went in."""

from __future__ import annotations

import logging
import math
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, inspect

from nas.storage import schema
from nas.storage.migrations import BOOKS, migrate
from nas.storage.records import (
    Candidate,
    Constraint,
    Export,
    Latency,
    Leg,
    Objective,
    Run,
    TrainingPoint,
    Trial,
)
from nas.storage.store import Store

ACCURACY = Objective("accuracy", "accuracy", "%", "maximize")
LATENCY = Objective("latency", "latency_ms", "ms", "minimize")
TIMED = Latency(
    device="onnxruntime-cpu",
    settings={"threads": 1, "batch": 1, "precision": "float32"},
    input_shape=(1, 28, 28),
    clock="thread-cpu",
    samples_ms=(1.1, 1.2, 1.15),
    wall_ms=(1.3, 1.4, 9.9),
    versions={"onnxruntime": "1.31.1"},
    processor="a processor",
    load=0.5,
    involuntary_switches=3,
    contended=True,
)
DIGITS = Run(
    "digits",
    experiment='{"seed": 0}',
    space='{"name": "digits"}',
    objectives=(LATENCY, ACCURACY),
    constraints=(Constraint("latency_ms", max=2.0), Constraint("accuracy", min=50.0)),
    folder="runs/digits",
    facts={"torch": "2.13.0"},
)
EXPORT = Export("k1", "exports/k1", True, 1e-6, 1.0, 91.5, '{"license": "CC0"}')

TRIAL = Trial("k1", '{"stages": []}', "alone", 1, {"accuracy": 91.25, "epochs": 0.5}, seconds=60.5)


def candidate(key, **fields):
    values = {"accuracy": 91.25, "latency_ms": 1.15, "macs": 12_345_678.0}
    return Candidate(key, '{"stages": []}', **{"values": values, **fields})


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/nas.db"


@pytest.fixture
def store(url):
    with Store(url) as store:
        store.add_run(DIGITS)
        yield store


# -- runs --------------------------------------------------------------------------------------


def test_a_run_comes_back_as_it_went_in(store):
    assert store.run("digits") == DIGITS


def test_runs_come_newest_first(store):
    store.add_run(replace(DIGITS, name="later"))

    assert [run.name for run in store.runs()] == ["later", "digits"]


def test_a_name_is_taken_once(store):
    with pytest.raises(ValueError, match=r"there is a run named 'digits'.*choose another"):
        store.add_run(DIGITS)


def test_only_what_is_given_is_updated_and_facts_are_added(store):
    store.update_run("digits", status="failed", message="no space left", facts={"seed": "1"})
    store.update_run("digits", facts={"torch": "2.14.0"})

    run = store.run("digits")
    assert (run.status, run.message) == ("failed", "no space left")
    assert run.facts == {"torch": "2.14.0", "seed": "1"}


def test_an_extended_run_has_its_new_goals_and_the_legs_that_still_stand(store):
    first, second = Leg(0, ("[1]", "[2]"), '{"seed": 0}', 1.5), Leg(4, (), '{"seed": 1}')
    other = replace(DIGITS, experiment='{"seed": 1}', objectives=(ACCURACY,), constraints=())
    store.extend_run(DIGITS, first)

    store.extend_run(other, second)
    store.note_seconds("digits", second, 2.5)

    assert store.legs("digits") == [first, replace(second, seconds=2.5)]
    assert replace(store.run("digits"), updated="") == replace(other, updated="")
    store.extend_run(DIGITS, first)  # the second came to nothing
    assert store.legs("digits") == [first]


def test_a_renamed_run_keeps_everything(store):
    store.add_candidate("digits", candidate("k1"))

    store.rename_run("digits", "numerals")

    assert [run.name for run in store.runs()] == ["numerals"]
    assert store.count_candidates("numerals") == 1


def test_a_run_is_not_renamed_onto_another(store):
    store.add_run(replace(DIGITS, name="other"))

    with pytest.raises(ValueError, match="there is a run named 'other'"):
        store.rename_run("digits", "other")


def test_an_unknown_run_is_answered_with_the_likely_one(store):
    with pytest.raises(LookupError, match="no run named 'digit' in this store; did you mean digits"):
        store.run("digit")
    with pytest.raises(LookupError, match="no run named 'xyz' in this store; it has digits"):
        store.candidates("xyz")


def test_an_empty_store_says_so(url):
    with Store(url) as store, pytest.raises(LookupError, match="it has none; `nas run` makes one"):
        store.run("digits")


# -- candidates --------------------------------------------------------------------------------


def test_a_candidate_comes_back_with_its_number_values_intervals_and_latency(store):
    given = candidate(
        "k1", intervals={"latency_ms": (1.1, 1.2)}, latencies={"latency_ms": TIMED}, seconds=2.5
    )

    recorded = store.add_candidate("digits", given)

    assert recorded == replace(given, number=1)
    assert store.candidate("digits", "k1") == recorded
    assert store.candidates("digits", with_latency=True) == [recorded]


def test_latency_records_are_left_out_unless_asked_for(store):
    store.add_candidate("digits", candidate("k1", latencies={"latency_ms": TIMED}))

    assert store.candidates("digits")[0].latency is None


def test_candidates_come_in_order_and_from_where_one_has_read(store):
    for key in "cab":
        store.add_candidate("digits", candidate(key))

    assert [one.key for one in store.candidates("digits")] == ["c", "a", "b"]
    assert [one.key for one in store.candidates("digits", after=1)] == ["a", "b"]
    assert store.count_candidates("digits") == 3


def test_each_run_numbers_its_own_candidates(store):
    store.add_run(replace(DIGITS, name="other"))
    store.add_candidate("digits", candidate("k1"))

    assert store.add_candidate("other", candidate("k1")).number == 1


def test_a_failed_candidate_keeps_its_reason(store):
    store.add_candidate("digits", candidate("k1", values={}, error="out of memory"))

    [failed] = store.candidates("digits")
    assert (failed.error, failed.values) == ("out of memory", {})


def test_a_run_records_an_architecture_once(store):
    store.add_candidate("digits", candidate("k1"))

    with pytest.raises(AssertionError, match="k1 of run digits is recorded already, as number 1"):
        store.add_candidate("digits", candidate("k1"))
    assert store.count_candidates("digits") == 1


def test_what_a_candidate_lacks_is_added_and_what_it_has_stays(store):
    before = store.add_candidate("digits", candidate("k1", values={"accuracy": 90.0}, seconds=1.0))
    more = candidate("k1", intervals={"latency_ms": (1.1, 1.2)}, latencies={"latency_ms": TIMED}, seconds=2.0)

    store.complete_candidate("digits", more)

    assert store.candidate("digits", "k1") == replace(
        before,
        values={"accuracy": 90.0, "latency_ms": 1.15, "macs": 12_345_678.0},
        intervals={"latency_ms": (1.1, 1.2)},
        latencies={"latency_ms": TIMED},
        seconds=3.0,
    )


def test_an_accuracy_on_a_part_of_the_images_says_so_until_that_on_all_takes_its_place(store):
    partly = candidate(
        "k1", values={"accuracy": 90.0, "macs": 9.0}, intervals={"accuracy": (88.0, 92.0)}, scored=(50, 400)
    )
    added = store.add_candidate("digits", partly)
    assert store.candidates("digits") == [added] and added.part == "on the first 50 of 400"
    store.complete_candidate("digits", candidate("k1", values={"parameters": 7.0}, intervals={}))
    [still] = store.candidates("digits")
    assert not still.whole and still.values == {"accuracy": 90.0, "macs": 9.0, "parameters": 7.0}

    store.complete_candidate("digits", candidate("k1", values={"accuracy": 89.0, "macs": 8.0}, intervals={}))

    [found] = store.candidates("digits")
    assert found.whole and (found.scored, found.part, found.intervals) == ((400, 400), "", {})
    assert found.values == {"accuracy": 89.0, "macs": 9.0, "parameters": 7.0}


def test_a_candidate_whose_lack_cannot_be_measured_has_failed(store):
    store.add_candidate("digits", candidate("k1"))

    store.complete_candidate("digits", Candidate("k1", "{}", error="OSError: no board"))

    [found] = store.candidates("digits")
    assert (found.error, found.values["accuracy"]) == ("OSError: no board", 91.25)


def test_a_value_that_is_no_number_stays_none(store):
    store.add_candidate("digits", candidate("k1", values={"accuracy": math.nan, "loss": math.inf}))

    values = store.candidate("digits", "k1").values
    assert math.isnan(values["accuracy"]) and values["loss"] == math.inf


def test_a_candidate_is_found_by_the_beginning_of_its_key(store):
    for key in ("abc1", "abd2", "a%c3"):
        store.add_candidate("digits", candidate(key))

    assert store.candidate("digits", "abc").key == "abc1"
    assert store.candidate("digits", "a%").key == "a%c3"
    with pytest.raises(LookupError, match="2 candidates of run 'digits' begin with 'ab': abc1, abd2"):
        store.candidate("digits", "ab")
    with pytest.raises(LookupError, match="run 'digits' has no candidate zzz"):
        store.candidate("digits", "zzz")


# -- training and exports ----------------------------------------------------------------------


def test_training_points_come_in_order_and_a_step_done_again_replaces_the_old(store):
    store.add_training_points("digits", [TrainingPoint(10, {"loss": 2.0, "edge/0": 5.0})])
    store.add_training_points(
        "digits", [TrainingPoint(20, {"loss": math.nan}), TrainingPoint(10, {"loss": 1.5})]
    )

    first, second = store.training_points("digits")
    assert (first, second.step) == (TrainingPoint(10, {"loss": 1.5}), 20)
    assert math.isnan(second.values["loss"])
    assert [point.step for point in store.training_points("digits", after=10)] == [20]


def test_training_beyond_a_checkpoint_is_forgotten(store):
    store.add_training_points("digits", [TrainingPoint(step, {"loss": 1.0}) for step in (0, 10, 20)])

    store.forget_training_after("digits", 10)

    assert [point.step for point in store.training_points("digits")] == [0, 10]


def test_no_training_points_are_no_error(store):
    store.add_training_points("digits", [])

    assert store.training_points("digits") == []


def test_exports_come_back_in_order(store):
    store.add_candidate("digits", candidate("k1"))
    later = replace(EXPORT, folder="exports/again", verified=False)

    for export in (EXPORT, later):
        store.add_export("digits", export)

    assert store.exports("digits") == [EXPORT, later]


def test_only_a_recorded_candidate_has_an_export(store):
    with pytest.raises(LookupError, match="run 'digits' has no candidate k1"):
        store.add_export("digits", EXPORT)


# -- trials ------------------------------------------------------------------------------------


def test_trials_come_back_in_order_of_an_architecture_for_each_kind_and_seed(store):
    given = [
        TRIAL,
        replace(TRIAL, seed=0, values={"accuracy": math.inf}),
        replace(TRIAL, kind="inherited", seed=0),
        replace(TRIAL, key="k2", values={"epochs": 3.0}, error="Diverged: it diverged"),
        Trial("", "", "sampled", values={"edge/0": 1e5, "edge/1": 2e5, "count/0": 7.0}),
    ]

    for trial in given:
        store.add_trial("digits", trial)

    assert store.trials("digits") == given


def test_a_trial_that_is_no_number_stays_none(store):
    store.add_trial("digits", replace(TRIAL, values={"loss": math.nan}))

    assert math.isnan(store.trials("digits")[0].values["loss"])


def test_a_run_records_a_trial_once(store):
    store.add_trial("digits", TRIAL)

    with pytest.raises(AssertionError, match="alone k1 with seed 1 of run digits is recorded already"):
        store.add_trial("digits", replace(TRIAL, error="again"))
    assert store.trials("digits") == [TRIAL]


def test_trials_are_forgotten_of_one_run_alone(store):
    store.add_run(replace(DIGITS, name="other"))
    for run in ("digits", "other"):
        store.add_trial(run, TRIAL)

    store.forget_trials("digits")

    assert (store.trials("digits"), store.trials("other")) == ([], [TRIAL])
    store.add_trial("digits", TRIAL)
    assert store.trials("digits") == [TRIAL]


def test_trials_that_failed_are_forgotten_alone(store):
    store.add_trial("digits", TRIAL)
    store.add_trial("digits", replace(TRIAL, key="k2", error="Diverged: it diverged"))

    store.forget_trials("digits", failed=True)

    assert store.trials("digits") == [TRIAL]


# -- older stores ------------------------------------------------------------------------------


@pytest.fixture
def old_url(url):
    """A store as version 1 made it, with everything in it that it could hold."""
    engine = create_engine(url)
    with engine.begin() as connection:
        migrate(connection, 0, 1)
    engine.dispose()
    raw = sqlite3.connect(engine.url.database)
    raw.execute(f"DROP TABLE {BOOKS}")  # which version 1 did not know of
    raw.executescript(
        """
        INSERT INTO runs VALUES (1, 'digits', '{"seed": 0}', '{"name": "digits"}', 'runs/digits', 'created', '',
            '2026-11-20T10:00:00+00:00', '2026-11-20T10:00:00+00:00');
        INSERT INTO objectives VALUES (1, 0, 'latency', 'latency_ms', 'ms', 'minimize');
        INSERT INTO objectives VALUES (1, 1, 'accuracy', 'accuracy', '%', 'maximize');
        INSERT INTO constraints VALUES (1, 0, 'latency_ms', NULL, 2.0), (1, 1, 'accuracy', 50.0, NULL);
        INSERT INTO facts VALUES (1, 'torch', '2.13.0');
        INSERT INTO candidates VALUES (1, 1, 'k1', '{"stages": []}', NULL, 2.5, '2026-11-20T10:01:00+00:00');
        INSERT INTO measurements VALUES (1, 1, 'accuracy', 91.25, NULL, NULL), (1, 1, 'latency_ms', 1.15, 1.1, 1.2);
        INSERT INTO training_values VALUES (1, 10, 'loss', 1.5);
        INSERT INTO exports VALUES (1, 1, 'k1', 'exports/k1', 1, 1e-6, 1.0, 91.5, '{}', '2026-11-20T10:02:00+00:00');
        """
    )
    raw.execute("INSERT INTO latencies VALUES (1, 1, ?)", (TIMED.to_json(),))
    raw.commit()
    raw.close()
    return url


def contents(store):
    return (
        [replace(run, updated="") for run in store.runs()],
        store.candidates("digits", with_latency=True),
        store.training_points("digits"),
        store.exports("digits"),
    )


def version(url):
    """Of the schema, and the version that Alembic has noted."""
    engine = create_engine(url)
    with engine.connect() as connection:
        noted = (
            inspect(connection).has_table(BOOKS)
            and connection.exec_driver_sql(f"SELECT version_num FROM {BOOKS}").scalar()
        )
        number = connection.exec_driver_sql("SELECT version FROM paretoshift_schema").scalar()
    engine.dispose()
    return number, noted


def test_an_older_store_is_read_as_it_is_and_has_neither_trials_nor_legs(old_url):
    with Store(old_url, create=False) as store:
        runs, candidates, points, exports = contents(store)
        assert store.trials("digits") == store.legs("digits") == []

    assert runs == [replace(DIGITS, created="2026-11-20T10:00:00+00:00", updated="")]
    [found] = candidates
    assert (found.values, found.intervals) == (
        {"accuracy": 91.25, "latency_ms": 1.15},
        {"latency_ms": (1.1, 1.2)},
    )
    assert found.latency == TIMED
    assert points == [TrainingPoint(10, {"loss": 1.5})]
    assert [one.candidate for one in exports] == ["k1"]
    assert version(old_url) == (1, False)


def test_an_older_store_is_brought_to_today_when_it_is_opened_to_write_and_nothing_is_lost(old_url, caplog):
    with Store(old_url, create=False) as reader:
        before = contents(reader)
        with caplog.at_level(logging.INFO), Store(old_url) as store:
            assert contents(store) == before
            store.add_trial("digits", TRIAL)

        assert contents(reader) == before
        assert reader.trials("digits") == [TRIAL]  # a reader of before sees what is added now
    assert version(old_url) == (schema.SCHEMA_VERSION, f"{schema.SCHEMA_VERSION:04}")
    [said] = [record.getMessage() for record in caplog.records]
    assert f"was of version 1 and is of version {schema.SCHEMA_VERSION} now" in said

    caplog.clear()
    with Store(old_url) as store:
        assert store.trials("digits") == [TRIAL]
    assert caplog.records == []


def test_a_migration_that_fails_leaves_the_store_as_it_was(old_url, tmp_path):
    with sqlite3.connect(tmp_path / "nas.db") as connection:
        connection.execute("CREATE TABLE trial_values (mine TEXT)")
    connection.close()

    with pytest.raises(OSError, match="cannot be opened: table trial_values already exists"):
        Store(old_url)
    assert version(old_url) == (1, False)
    with Store(old_url, create=False) as store:
        assert store.count_candidates("digits") == 1


def test_a_migrated_store_has_the_tables_of_a_new_one(old_url, tmp_path):
    new_url = f"sqlite:///{tmp_path}/new.db"
    for url in (old_url, new_url):
        Store(url).close()

    assert tables_of(old_url) == tables_of(new_url)
    assert tables_of(new_url).keys() == schema.tables.tables.keys()


def tables_of(url):
    engine = create_engine(url)
    seen = inspect(engine)
    tables = {
        name: (
            [str(column) for column in seen.get_columns(name)],
            seen.get_pk_constraint(name),
            sorted(map(str, seen.get_foreign_keys(name))),
            seen.get_unique_constraints(name),
        )
        for name in seen.get_table_names()
        if name != BOOKS
    }
    engine.dispose()
    return tables


def test_the_books_of_another_tool_that_migrates_by_alembic_are_left_alone(old_url, tmp_path):
    with sqlite3.connect(tmp_path / "nas.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('of another tool')")
    connection.close()

    with Store(old_url) as store:
        assert store.trials("digits") == []

    with sqlite3.connect(tmp_path / "nas.db") as connection:
        [theirs] = connection.execute("SELECT version_num FROM alembic_version")
    connection.close()
    assert theirs == ("of another tool",)
    assert version(old_url) == (schema.SCHEMA_VERSION, f"{schema.SCHEMA_VERSION:04}")


def test_stores_that_many_open_at_once_are_migrated_once(old_url):
    def opened(_):
        with Store(old_url) as store:
            return store.count_candidates("digits")

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(opened, range(12))) == [1] * 12
    assert version(old_url) == (schema.SCHEMA_VERSION, f"{schema.SCHEMA_VERSION:04}")


# -- opening -----------------------------------------------------------------------------------


def test_a_store_outlives_the_process_that_wrote_it(store, url):
    with Store(url, create=False) as reader:
        assert reader.run("digits") == DIGITS


def test_reading_makes_no_store(tmp_path, url):
    with pytest.raises(FileNotFoundError, match=r"there is no store sqlite:.*nas run"):
        Store(url, create=False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_no_store_to_read_but_a_place_to_make_one(tmp_path, url):
    (tmp_path / "nas.db").touch()

    with pytest.raises(FileNotFoundError, match="there is no store"):
        Store(url, create=False)
    Store(url).close()


def test_a_store_of_a_later_schema_version_is_left_alone(tmp_path, url):
    Store(url).close()
    with sqlite3.connect(tmp_path / "nas.db") as connection:
        connection.execute("UPDATE paretoshift_schema SET version = 99")
    connection.close()

    for create in (True, False):
        with pytest.raises(
            ValueError,
            match=f"has schema version 99, this paretoshift writes {schema.SCHEMA_VERSION}; open it with",
        ):
            Store(url, create)


def test_the_database_of_something_else_is_left_alone(tmp_path, url):
    with sqlite3.connect(tmp_path / "nas.db") as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()

    with pytest.raises(ValueError, match="a database of something else"):
        Store(url)


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_no_database_is_left_alone(tmp_path, url, create):
    (tmp_path / "nas.db").write_text("dear diary, " * 100)

    with pytest.raises(ValueError, match="not a ParetoShift store: file is not a database; name another"):
        Store(url, create)
    assert (tmp_path / "nas.db").read_text().startswith("dear diary")


def test_a_store_cut_in_half_is_an_error_of_one_line(tmp_path, store, url):
    store.close()
    whole = (tmp_path / "nas.db").read_bytes()
    (tmp_path / "nas.db").write_bytes(whole[: len(whole) // 2])

    with pytest.raises((ValueError, OSError)) as caught, Store(url) as half:
        half.candidates("digits")
    assert "malformed" in str(caught.value) and "\n" not in str(caught.value)


def test_a_store_in_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere; make it first"):
        Store(f"sqlite:///{tmp_path}/nowhere/nas.db")


def test_a_folder_is_no_store(tmp_path):
    with pytest.raises(OSError, match="cannot be opened: unable to open database file"):
        Store(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nas.db", "'nas.db' is not the URL of a store; write sqlite:///FILE"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://host/nas", "a store is sqlite:///FILE or postgresql://HOST/DATABASE, not mysql"),
    ],
)
def test_a_url_that_cannot_be_a_store_says_what_can(url, message):
    with pytest.raises(ValueError, match=message):
        Store(url)


# -- several readers, one writer ---------------------------------------------------------------

WRITER = """
import sys
from nas.storage.records import Candidate
from nas.storage.store import Store

with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[2])):
        values = {"accuracy": 50.0 + i, "latency_ms": 1.0}
        print(store.add_candidate("digits", Candidate(f"k{i:05}", "{}", values)).key, flush=True)
"""


def writer(url, count):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_a_reader_sees_whole_candidates_in_order_while_another_process_writes(store, url):
    with writer(url, 200) as process:
        seen = []
        while process.poll() is None:
            seen += store.candidates("digits", after=len(seen))
        seen += store.candidates("digits", after=len(seen))

    assert process.returncode == 0
    assert [one.key for one in seen] == [f"k{i:05}" for i in range(200)]
    assert all(len(one.values) == 2 for one in seen)


def test_a_killed_writer_leaves_what_was_acknowledged_and_a_store_to_go_on_with(store, url):
    with writer(url, 100_000) as process:
        acknowledged = [process.stdout.readline().strip() for _ in range(50)]
        process.kill()

    keys = [one.key for one in store.candidates("digits")]
    assert keys[:50] == acknowledged
    assert all(len(one.values) == 2 for one in store.candidates("digits"))
    assert store.add_candidate("digits", candidate("next")).number == len(keys) + 1


def test_threads_share_a_store(store):
    keys = [f"k{i}" for i in range(40)]

    with ThreadPoolExecutor(4) as pool:
        recorded = list(pool.map(lambda key: store.add_candidate("digits", candidate(key)), keys))

    assert sorted(one.number for one in recorded) == list(range(1, 41))
    assert store.count_candidates("digits") == 40
