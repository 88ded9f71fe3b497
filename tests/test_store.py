"""What was acknowledged is there, whatever happens afterwards; what comes out is what went in."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from nas.storage.records import Candidate, Constraint, Export, Latency, Objective, Run, TrainingPoint
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
    given = candidate("k1", intervals={"latency_ms": (1.1, 1.2)}, latency=TIMED, seconds=2.5)

    recorded = store.add_candidate("digits", given)

    assert recorded == replace(given, number=1)
    assert store.candidate("digits", "k1") == recorded
    assert store.candidates("digits", with_latency=True) == [recorded]


def test_latency_records_are_left_out_unless_asked_for(store):
    store.add_candidate("digits", candidate("k1", latency=TIMED))

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


def test_a_store_of_another_schema_version_is_left_alone(tmp_path, url):
    Store(url).close()
    with sqlite3.connect(tmp_path / "nas.db") as connection:
        connection.execute("UPDATE paretoshift_schema SET version = 99")
    connection.close()

    with pytest.raises(ValueError, match="has schema version 99, this paretoshift writes 1; open it with"):
        Store(url)


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
