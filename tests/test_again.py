"""After the search the latencies of the front are measured once more: the first value stays what the search went by,
and nothing that is asked depends on the second.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nas.again import FACT, asked_again, keys_again, lacking
from nas.cli import main
from nas.config import read_experiment
from nas.experiment import pool_here, search_run
from nas.pareto import front
from nas.storage.records import Candidate, Constraint
from nas.storage.store import Store
from tests.conftest import TINY, TinyRun, write_experiment
from tests.test_experiment_extended import copy_of, kept, keys, never, open_with, trained_run

LATENCY = "latency_ms"


def best_of(run: TinyRun) -> list[Candidate]:
    record, candidates = kept(run)
    return front(candidates, record.objectives, record.constraints)


@pytest.fixture(scope="module")
def finished(tiny_run, tmp_path_factory) -> TinyRun:
    """A copy of a finished run. Copied before it is written to."""
    return copy_of(tiny_run, tmp_path_factory.mktemp("finished"))


def test_the_front_is_measured_twice_and_nobody_else(finished):
    run, candidates = kept(finished)
    members = keys(best_of(finished))

    assert sorted(one.key for one in candidates if one.again) == sorted(members)
    for one in best_of(finished):
        value, low, high = one.again[LATENCY]
        assert set(one.again) == {LATENCY} and low <= value <= high
        assert one.values[LATENCY] == one.latency.median_ms != value
        assert one.second.values == {**one.values, LATENCY: value}
        assert one.second.interval(LATENCY) == (low, high)
    assert run.facts[FACT] == f"{len(members)} candidates of the front"


def test_the_report_says_both_and_which_keep_the_limits_both_times(finished, capsys):
    assert main(["report", "tiny", "--store", finished.store_url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["front"]
    assert main(["report", "tiny", "--store", finished.store_url]) == 0
    out = capsys.readouterr().out

    for one, row in zip(best_of(finished), told, strict=True):
        value, low, high = one.again[LATENCY]
        assert row["again"][LATENCY] == {"value": value, "interval": [low, high]}
        assert row["again"]["keeps_constraints"] is True
        assert row["values"][LATENCY] == one.values[LATENCY]
    assert out.splitlines()[1].split()[:6] == ["candidate", "accuracy", "(%)", "latency", "(ms)", "again"]
    assert "again: measured once more after the search" in out


def test_a_search_that_is_stopped_in_it_goes_on_there_and_measures_nobody_a_third_time(tiny_run, tmp_path):
    text = TINY.replace("budget: 20", "budget: 12, measure_again: false")
    run = trained_run(tiny_run, tmp_path, text)
    assert main(["search", *run.arguments]) == 0
    before = kept(run)[1]
    assert not any(one.again for one in before)
    again, measured = "search.measure_again=true", []

    def make_pool(opened):
        pool = pool_here(opened)

        class Counting:
            def map(self, items):
                for one in pool.map(items):
                    measured.append(one.key)
                    yield one

            close = pool.close

        return Counting()

    with Store(run.store_url) as store:

        def stopped(opened):
            return search_run(opened, lambda: len(measured) == 2, make_pool)

        assert open_with(run, store, stopped, again) is False
        assert store.run("tiny").status == "interrupted"
        halfway = store.candidates("tiny")
        assert open_with(run, store, lambda opened: search_run(opened, never, make_pool), again) is True
        assert store.run("tiny").status == "finished"
        assert open_with(run, store, lambda opened: search_run(opened, never, make_pool), again) is True
    after = kept(run)[1]

    assert sum(bool(one.again) for one in halfway) == 2 < len(best_of(run))
    assert sorted(measured) == sorted(keys(best_of(run)))
    assert [one.again for one in after if one.key in measured[:2]] == [
        one.again for one in halfway if one.again
    ]
    assert [replace(one, again={}) for one in after] == before


def test_an_extended_run_measures_new_members_alone_and_asks_as_if_there_had_been_no_end(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    was = {one.key: one.again for one in kept(run)[1] if one.again}
    assert main(["search", *run.arguments, "-o", "search.budget=28"]) == 0

    after = kept(run)[1]

    assert len(after) == 28 and all(one.again for one in best_of(run))
    assert {one.key: one.again for one in after if one.key in was} == was
    record = kept(run)[0]
    assert not lacking(record, after, [LATENCY]) and lacking(record, after, ["latency_ms@other"])


def test_what_is_measured_again_is_no_measurement_of_before_and_not_that_of_another_node(tmp_path):
    text = TINY.replace("max_runs: 40,", "max_runs: 40, reuse_days: 30,")
    asked = read_experiment(write_experiment(tmp_path, text).file)
    far = read_experiment(
        write_experiment(tmp_path / "far", TINY.replace("max_runs: 40,", "resources: {jetson: 1},")).file
    )

    again = asked_again(asked, keys_again(asked))

    assert asked.device["reuse_days"] == 30 and "reuse_days" not in again.device
    assert [one.key for one in again.objectives] == [LATENCY] and again.constraints == ()
    assert keys_again(far) == []


def test_a_second_measurement_is_kept_once_beside_the_first_with_its_record(finished, tmp_path):
    run = copy_of(finished, tmp_path)
    with Store(run.store_url) as store:
        once = next(one for one in store.candidates("tiny", with_latency=True) if not one.again)
        for low in (0.9, 0.8):
            second = replace(once, values={LATENCY: 1.0, "macs": 5.0}, intervals={LATENCY: (low, 1.1)})
            store.add_again("tiny", second)
        there = store.candidate("tiny", once.key)

    assert there == replace(once, again={LATENCY: (1.0, 0.9, 1.1)})
    assert there.second.feasible((Constraint(LATENCY, max=1.1),))
    assert not there.second.feasible((Constraint(LATENCY, max=1.0),))
