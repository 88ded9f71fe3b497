"""A search with an evaluator of one's own in a store: killed, continued, extended, and looked at."""

from __future__ import annotations

import inspect
import json
import signal
import time

import pytest
from plotly.utils import PlotlyJSONEncoder

from dashboard.app import page
from dashboard.reader import Reader
from nas.cli import main
from nas.experiment import Busy, lock
from nas.library import CategoricalSpace, SearchFailed, ask_tell, search
from nas.storage.store import Store
from tests.conftest import write_experiment
from tests.own_search import GOALS, SIX, evaluate, found_by, keys, raising, run_script
from tests.synthetic import small_space

KILLED = """
import os, signal, sys
from nas.library import CategoricalSpace, search
left, space = int(sys.argv[2]), CategoricalSpace({name: [1, 2, 3, 4, 5] for name in "abcdef"}, name="six")
GOALS = {"accuracy": "maximize", "latency_ms": "minimize"}

def deadly(architecture):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(architecture)

"""
KILLED += "import math\n" + inspect.getsource(evaluate)
KILLED += "search(space, deadly, GOALS, sys.argv[3], 48, store=sys.argv[1], quiet=True)"


@pytest.mark.parametrize("searcher", ["nsga2", "regularised_evolution", "linas"])
def test_a_search_that_is_killed_and_called_again_is_an_uninterrupted_one(searcher, tmp_path):
    store = str(tmp_path / "nas.db")
    for lives in (0, 9, 20):
        done = run_script(KILLED, store, str(lives), searcher)
        assert done.returncode == -signal.SIGKILL, done.stderr
    counted = []

    def counting(architecture):
        counted.append(architecture.key)
        return evaluate(architecture)

    found, undisturbed = found_by(searcher, 48, counting, store=store), found_by(searcher, 48)

    assert [(one.key, one.values) for one in found.candidates] == [
        (one.key, one.values) for one in undisturbed.candidates
    ]
    assert counted == keys(undisturbed)[29:]


def test_while_it_is_asked_again_what_is_known_progress_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nas.progress.EVERY", 0.0)
    store = str(tmp_path / "nas.db")
    search(SIX, evaluate, GOALS, "nsga2", 24, store=store)
    first = capsys.readouterr().err

    search(SIX, evaluate, GOALS, "nsga2", 30, store=store)

    assert "asking again" not in first
    assert "searching: asking again what is known: 0/24\n" in capsys.readouterr().err


def test_a_larger_budget_goes_on_and_a_finished_search_evaluates_nothing(tmp_path):
    store, counted = tmp_path / "nas.db", []

    def counting(architecture):
        counted.append(architecture.key)
        return evaluate(architecture)

    found_by(budget=20, function=counting, store=store)
    found_by(budget=20, function=counting, store=store)
    found = found_by(budget=33, function=counting, store=f"sqlite:///{store}")

    assert counted == keys(found) == keys(found_by(budget=33))


def test_an_open_store_stays_open(tmp_path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        found_by(budget=4, store=store)

        assert store.run("six").status == "finished" and store.count_candidates("six") == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "another searcher or seed"),
        ({"searcher": "random"}, "another searcher or seed"),
        ({"start_from": [dict.fromkeys("abcdef", 1)]}, "another start"),
        ({"focus": {"latency_ms": [1, 2]}}, "another focus"),
        ({"extend": True, "space": CategoricalSpace({"a": [1, 2]}, name="six")}, "another space"),
        ({"goals": {"accuracy": "minimize", "latency_ms": "minimize"}}, "other objectives"),
        ({"constraints": {"latency_ms": {"max": 3}}}, "other constraints"),
    ],
)
def test_a_name_belongs_to_one_search(change, said, tmp_path):
    found_by(budget=4, store=tmp_path / "nas.db")

    with pytest.raises(ValueError, match=rf"the run six in .* has {said}; give this one another name"):
        found_by(**{"budget": 4, "store": tmp_path / "nas.db", **change})
    assert (
        len(found_by(**{"budget": 4, "store": tmp_path / "nas.db", "name": "other", **change}).candidates)
        <= 4
    )


def test_a_search_says_what_ended_it_and_so_does_its_run(tmp_path, capsys):
    store, pair = tmp_path / "nas.db", CategoricalSpace({"a": [1, 2], "b": [1, 2]}, name="pair")
    constant = {"function": lambda a: {"accuracy": 1.0, "latency_ms": 1.0}}
    ended = [
        found_by(store=store, budget=4).ended,
        found_by(store=store, budget=40, plateau=16, name="flat", **constant).ended,
        found_by(store=store, seconds=1e-9, name="late").ended,
        found_by(store=store, space=pair, function=lambda a: {"accuracy": a["a"], "latency_ms": 1}).ended,
    ]

    with Store(f"sqlite:///{store}", create=False) as kept:
        assert [kept.run(name).message for name in ("six", "flat", "late", "pair")] == ended
        counts = [kept.count_candidates(name) for name in ("six", "flat", "late", "pair")]
    assert ended == [
        "its budget is spent",
        "plateau: the last 16 candidates raised the hypervolume by less than 0.1%",
        "its seconds are spent",
        "the space has nothing left",
    ]
    assert counts == [4, 32, 1, 4]
    assert main(["report", "flat", "--store", f"sqlite:///{store}"]) == 0
    assert "flat: finished (plateau: the last 16 candidates raised" in capsys.readouterr().out


def test_the_seconds_of_all_sittings_count(tmp_path):
    def slow(architecture):
        time.sleep(0.02)
        return evaluate(architecture)

    store = tmp_path / "nas.db"
    first = found_by(function=slow, store=store, budget=60, seconds=0.1)
    known = len(first.candidates)
    again = found_by(function=slow, store=store, budget=60, seconds=0.1)
    more = found_by(function=slow, store=store, budget=known + 3, seconds=1e6)

    assert 1 <= known <= 5 and keys(again) == keys(first)
    assert keys(more) == keys(found_by(budget=known + 3))
    with Store(f"sqlite:///{store}", create=False) as kept:
        [leg] = kept.legs("six")
    assert leg.seconds > 0.1 + 3 * 0.02


@pytest.mark.parametrize("searcher", ["nsga2", "random"])
def test_an_extended_run_that_is_killed_and_called_again_is_an_uninterrupted_one(searcher, tmp_path):
    stores = [str(tmp_path / name) for name in ("undisturbed.db", "killed.db")]
    for store in stores:
        found_by("regularised_evolution", 20, store=store)
    undisturbed = found_by(searcher, 48, store=stores[0], extend=True)
    extended = KILLED.replace("quiet=True", "quiet=True, extend=True")

    for lives in (0, 5, 12):
        done = run_script(extended, stores[1], str(lives), searcher)
        assert done.returncode == -signal.SIGKILL, done.stderr
    found = found_by(searcher, 48, store=stores[1])

    assert [(one.key, one.values) for one in found.candidates] == [
        (one.key, one.values) for one in undisturbed.candidates
    ]
    assert keys(found)[:20] == keys(found_by("regularised_evolution", 20))
    assert len(set(keys(found))) == 48


def test_another_objective_is_measured_of_the_stored_candidates_first(tmp_path, capsys):
    store, evaluated = tmp_path / "nas.db", []
    before = found_by(budget=20, store=store)

    def energetic(architecture):
        evaluated.append(architecture.key)
        return {"accuracy": 0.0, "latency_ms": 0.0, "energy_mJ": float(architecture["a"])}

    goals = {"accuracy": "maximize", "energy_mJ": "minimize"}
    limits = {"latency_ms": {"max": 5.0}}
    asked = {"function": energetic, "goals": goals, "constraints": limits, "store": store, "extend": True}
    found = found_by("random", 26, **asked)

    assert evaluated[:20] == keys(before) and evaluated == keys(found)
    for one, was in zip(found.candidates, before.candidates, strict=False):  # what was measured stays
        assert one.values == {**was.values, "energy_mJ": found.architecture(one)["a"]}
    with Store(f"sqlite:///{store}", create=False) as kept:
        run = kept.run("six")
        assert [leg.known for leg in kept.legs("six")] == [0, 20]
    assert (run.objectives, run.constraints) == (found.objectives, found.constraints)
    assert {one.key for one in found.front} <= set(keys(found))
    assert main(["report", "six", "--store", f"sqlite:///{store}"]) == 0
    said = capsys.readouterr().out
    assert "candidates 1-20 by nsga2 (seed 0; accuracy, latency_ms), 21-26 by random (seed 0; " in said


def test_an_objective_that_cannot_be_measured_afterwards_costs_no_candidate(tmp_path):
    store, goals = tmp_path / "nas.db", {**GOALS, "energy": "minimize"}
    before = found_by(budget=20, store=store)

    with pytest.raises(
        SearchFailed, match="the candidates of six lack energy, and 10 evaluations in a row failed"
    ):
        found_by(budget=20, store=store, goals=goals, extend=True)

    assert found_by(budget=20, store=store).candidates == before.candidates

    def mostly(architecture):
        return {**evaluate(architecture), **({} if architecture["a"] == 1 else {"energy": 1.0})}

    found = found_by(budget=20, store=store, goals=goals, function=mostly, extend=True)
    wrong = [one for one in found.candidates if found.architecture(one)["a"] == 1]
    assert wrong and [one.key for one in found.candidates if one.error] == [one.key for one in wrong]


def test_what_came_to_nothing_is_no_leg(tmp_path):
    store = tmp_path / "nas.db"
    found_by(budget=20, store=store)

    assert len(found_by("random", 20, store=store, extend=True).candidates) == 20
    back = found_by(budget=30, store=store, extend=True)

    assert keys(back) == keys(found_by(budget=30))


@pytest.mark.parametrize("kept", [True, False])
def test_a_search_starts_from_architectures_of_another(kept, tmp_path):
    before = found_by(budget=60, seed=3)
    start = [before.architecture(one) for one in before.front]
    given = [dict(start[0]), *start]

    found = found_by(budget=40, start_from=given, store=tmp_path / "nas.db" if kept else None)

    assert keys(found)[: len(start)] == [one.key for one in start]
    reference = {"accuracy": 0.0, "latency_ms": 20.0}
    assert found.hypervolume(reference) >= before.hypervolume(reference)


def test_the_focus_draws_the_search_and_takes_nothing_off_the_front():
    def inside(found) -> int:
        return sum(3 <= one.values["latency_ms"] <= 4 for one in found.candidates)

    plain, focused = found_by(budget=100), found_by(budget=100, focus={"latency_ms": [3, 4]})

    assert inside(focused) > 1.5 * inside(plain)
    assert any(not 3 <= one.values["latency_ms"] <= 4 for one in focused.front)
    loop = ask_tell(SIX, GOALS, "nsga2", focus={"latency_ms": [3, 4]})
    while len(loop.found.candidates) < 100:
        for one in loop.ask(100 - len(loop.found.candidates)):
            loop.tell(one, evaluate(one))
    assert keys(loop.found) == keys(focused)


def test_a_run_of_an_experiment_file_is_not_gone_on_with(tiny_run):
    with pytest.raises(ValueError, match=r"the run tiny in .* has a supernet"):
        found_by(store=tiny_run.store_url, name="tiny")


def test_an_interrupted_search_keeps_what_is_stored(tmp_path):
    def interrupted(architecture):
        if len(seen) == 7:
            raise KeyboardInterrupt
        return evaluate(architecture)

    seen, store = [], tmp_path / "nas.db"
    with pytest.raises(KeyboardInterrupt):
        found_by(function=interrupted, store=store, on_candidate=seen.append)

    with Store(f"sqlite:///{store}", create=False) as kept:
        assert (kept.run("six").status, kept.count_candidates("six")) == ("interrupted", 7)
    assert keys(found_by(store=store)) == keys(found_by())


def test_two_processes_do_not_carry_out_one_run(tmp_path):
    with (
        lock(tmp_path, "six"),
        pytest.raises(Busy, match=r"the run six is being carried out by process \d+; wait for it, or give"),
    ):
        found_by(store=tmp_path / "nas.db")


# -- looked at ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The URL of a store with a search in it, of which some candidates failed."""

    def sometimes(architecture):
        return evaluate(architecture) if architecture["a"] != 2 else raising(architecture)

    url = f"sqlite:///{tmp_path_factory.mktemp('shown')}/nas.db"
    found_by("random", 40, sometimes, store=url, constraints={"latency_ms": {"max": 7}})
    networks = {"function": lambda a: {"accuracy": 50.0, "latency_ms": 1.0}, "space": small_space()}
    found_by("random", 4, **networks, store=url, name="networks")
    return url


def texts(component) -> str:
    return json.dumps(component, cls=PlotlyJSONEncoder, ensure_ascii=False)


def test_the_report_lists_the_front_with_its_decisions(shown, capsys):
    assert main(["report", "six", "--store", shown]) == 0
    said = capsys.readouterr().out

    assert (
        "six: finished (its budget is spent); 40 candidates" in said
        and "constraints: latency_ms at most 7" in said
    )
    assert "latency (ms)" in said and "accuracy  " in said and "0.7" in said and ", f " in said
    assert "KeyError: 'kernel'" in said
    assert main(["report", "six", "--json", "--store", shown]) == 0
    assert json.loads(capsys.readouterr().out)["front"][0]["architecture"]["topology"] == "categorical"
    assert main(["report", "--store", shown]) == 0


@pytest.mark.parametrize("command", [["export", "six"], ["pick", "six", "--macs", "1M"], ["health", "six"]])
def test_what_needs_a_supernet_says_that_there_is_none(command, shown, capsys):
    assert main([*command, "--store", shown]) == 2

    said = capsys.readouterr().err
    assert "sometimes: it has no images, no supernet and nothing to export" in said and said.count("\n") == 1


def test_an_experiment_does_not_go_on_with_it(shown, tmp_path, capsys):
    run = write_experiment(tmp_path)

    assert main(["run", str(run.file), "--name", "six", "--store", shown, "--runs", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "the run six exists, its candidates measured by" in said and "another --name" in said


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/", ["best accuracy", "six", "networks"]),
        ("/run/six", ["40 candidates", "own evaluator", "a: 1", "latency (ms)", "nothing"]),
        ("/run/six/training", ["were measured by", "no supernet was trained"]),
        ("/run/six/health", ["no supernet was trained"]),
        ("/run/networks", ["4 candidates"]),
    ],
)
def test_the_dashboard_has_every_page_of_it(address, said, shown):
    with Store(shown, create=False) as store:
        component, title = page(Reader(store), address)

    assert not title.startswith("not found")
    assert [text for text in said if text not in texts(component)] == []


def test_a_candidate_has_a_page_without_an_export(shown):
    with Store(shown, create=False) as store:
        reader = Reader(store)
        best, failed = reader.standing(store.run("six")).front[0], reader.standing(store.run("six")).failed[0]
        [network, *_] = store.candidates("networks")
        pages = [
            texts(page(reader, f"/run/{run}/candidate/{one.key}")[0])
            for run, one in (("six", best), ("six", failed), ("networks", network))
        ]

    assert all("There is nothing to export" in one and "nas export" not in one for one in pages)
    assert "own evaluator" in pages[0] and "KeyError" in pages[1] and "stage 1" in pages[2]


def test_accuracies_in_percent_and_in_shares_are_not_in_one_column(shown, tiny_run):
    from dashboard import tables

    runs = []
    for url in (shown, tiny_run.store_url):
        with Store(url, create=False) as store:
            reader = Reader(store)
            runs += [(run, reader.standing(run)) for run in store.runs()]
    columns, rows = tables.run_table(runs)

    heads = {column["headerName"]: column["field"] for column in columns}
    assert heads["best accuracy"] != heads["best accuracy (%)"]
    assert heads["best accuracy"] in rows[1] and heads["best accuracy (%)"] not in rows[1]
