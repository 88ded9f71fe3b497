"""The search as a library: a space of plain decisions, a person's own function, whatever that does; in memory,
in a store, on workers, and by ask and tell.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from plotly.utils import PlotlyJSONEncoder

from dashboard.app import page
from dashboard.reader import Reader
from nas import library
from nas.cli import main
from nas.experiment import Busy, lock
from nas.library import CategoricalSpace, SearchFailed, ask_tell, search
from nas.searchers import SEARCHERS
from nas.storage.records import Constraint, Objective
from nas.storage.store import Store
from search_spaces import CategoricalArchitecture, architecture_from_json, space_from_json
from tests.conftest import write_experiment
from tests.synthetic import small_space
from tests.synthetic import values as of_network

SIX = CategoricalSpace({name: [1, 2, 3, 4, 5] for name in ("a", "b", "c", "d", "e", "f")}, name="six")
GOALS = {"accuracy": "maximize", "latency_ms": "minimize"}
HOUSE = Path(__file__).parents[1]

every_searcher = pytest.mark.parametrize("name", SEARCHERS)


def evaluate(architecture) -> dict[str, float]:
    """Accuracy that saturates with all decisions, and latency that some of them cost more."""
    options = list(architecture.values())
    work = sum(number * option for number, option in enumerate(options, start=1))
    return {"accuracy": 1 - math.exp(-sum(options) / 10), "latency_ms": work / 10}


def found_by(searcher="nsga2", budget=24, function=evaluate, space=SIX, goals=None, **more):
    return search(space, function, goals or GOALS, searcher, budget, quiet=True, **more)


def keys(found) -> list[str]:
    return [one.key for one in found.candidates]


def run_script(text: str, *arguments: str, **more) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, env=environment, **more
    )


# -- a space of plain decisions ----------------------------------------------------------------

MANY = CategoricalSpace(
    {
        "kernel": [7, 3, 5],
        "activation": ["relu", "silu"],
        "kernels": [[3], (3, 5)],
        "pool": [{"size": 2, "kind": "max"}, None],
        "near": [1, 1.0, True, "1"],
        "fixed": [0.1],
    }
)


def test_a_space_is_made_of_plain_decisions_and_an_architecture_is_read_like_a_dictionary():
    one = MANY.sample(Random(0))

    assert MANY.size == 3 * 2 * 2 * 2 * 4
    assert list(one) == ["kernel", "activation", "kernels", "pool", "near", "fixed"]
    assert one["kernel"] in (3, 5, 7) and one["fixed"] == 0.1 and {**one} == dict(one)
    assert one["kernels"] in ([3], [3, 5])
    with pytest.raises(KeyError):
        one["kernal"]


def test_what_a_person_does_with_an_option_changes_no_space():
    one = MANY.architecture({**MANY.sample(Random(0)), "kernels": [3, 5]})

    one["kernels"].append(7)

    assert one["kernels"] == [3, 5] and MANY.architecture(one) == one


def test_vectors_json_and_pickle_lead_back_to_every_architecture():
    vectors = {MANY.encode(one) for one in (MANY.sample(Random(seed)) for seed in range(500))}
    again = space_from_json(MANY.to_json())

    assert len(vectors) == MANY.size
    assert [decision.name for decision in MANY.decisions] == list(MANY.sample(Random(0)))[:-1]
    for vector in vectors:
        one = MANY.decode(vector)
        assert MANY.encode(one) == vector == again.encode(one)
        assert architecture_from_json(one.to_json()) == one == pickle.loads(pickle.dumps(one))
        assert MANY.architecture(dict(one)).key == one.key
    assert len({MANY.decode(vector).key for vector in vectors}) == MANY.size
    assert again.to_json() == MANY.to_json() == pickle.loads(pickle.dumps(MANY)).to_json()


def test_canonical_and_features_are_those_of_the_vectors():
    drawn = [MANY.sample(Random(seed)) for seed in range(20)]
    vectors = np.array([MANY.encode(one) for one in drawn])

    assert (MANY.canonical(vectors * (vectors > 1)) == vectors).all()
    assert MANY.features(drawn).shape == (20, 3 + 2 + 2 + 2 + 4)
    assert (MANY.features(drawn).sum(1) == 5).all()


def test_moves_stay_in_the_space_and_change_something():
    random = Random(1)
    mother, father = MANY.sample(random), MANY.sample(random)

    for _ in range(50):
        mutant, child = MANY.mutate(mother, random), MANY.crossover(mother, father, random)
        MANY.check(mutant), MANY.check(child)
        assert mutant != mother
        assert all(child.choices[i] in (mother.choices[i], father.choices[i]) for i in range(6))


def test_the_ends_are_the_least_and_the_most_of_numbers_in_whatever_order():
    least, most = MANY.ends

    assert (least["kernel"], most["kernel"]) == (3, 7)
    assert least["activation"] == most["activation"] == "relu"


def test_a_space_in_which_nothing_is_to_be_decided_has_one_architecture():
    space = CategoricalSpace({"kernel": [3]})
    [one] = found_by(space=space, function=lambda a: {"accuracy": a["kernel"], "latency_ms": 1}).candidates

    assert (space.size, space.decisions) == (1, ())
    assert space.mutate(space.sample(Random(0)), Random(0)) == space.sample(Random(0))
    assert one.values["accuracy"] == 3


@pytest.mark.parametrize(
    ("decisions", "said"),
    [
        ({}, "the decisions of a space are {}; write a mapping"),
        ([3, 5], "write a mapping such as"),
        ({"kernel": 3}, "kernel has the options 3; write a list of one or more"),
        ({"kernel": []}, "kernel has the options []; write a list"),
        ({"act": "relu"}, "act has the options 'relu'; write a list"),
        ({"act": {"relu", "silu"}}, "write a list of one or more"),
        ({"kernel": [3, 5, 3]}, "kernel offers 3 twice"),
        ({"act": [math.sin]}, "which JSON cannot hold; offer a number, text"),
        ({"rate": [math.nan]}, "rate offers nan, which JSON cannot hold"),
        ({"map": [{1: 2}]}, "which JSON cannot hold"),
        ({3: [1]}, "a decision is called 3; its name must be text"),
    ],
)
def test_what_is_no_space_is_refused(decisions, said):
    with pytest.raises(ValueError) as caught:
        CategoricalSpace(decisions)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"a": 1, "b": 9}, "b is 9; the space pair offers 1, 2"),
        ({"a": 1}, "the architecture decides a; the space pair decides a, b"),
        ({"a": 1, "bb": 1}, "bb is not known; did you mean b?"),
    ],
)
def test_what_is_no_architecture_of_the_space_is_refused(choices, said):
    with pytest.raises(ValueError) as caught:
        CategoricalSpace({"a": [1, 2], "b": [1, 2]}, name="pair").architecture(choices)

    assert said in str(caught.value)


def test_an_architecture_of_another_space_and_a_vector_of_another_length_are_refused():
    with pytest.raises(ValueError, match="the space own decides kernel"):
        MANY.check(SIX.sample(Random(0)))
    with pytest.raises(ValueError, match="a vector of six has 6 places, not 2"):
        SIX.decode([1, 1])
    with pytest.raises(ValueError, match="f has options 1 to 5, not 6"):
        SIX.decode([1, 1, 1, 1, 1, 6])


def test_numbers_of_numpy_are_options():
    space = CategoricalSpace({"rate": np.linspace(0, 1, 3), "depth": [np.int64(2), np.int64(3)]})

    assert dict(space.ends[1]) == {"rate": 1.0, "depth": 3}


# -- the search --------------------------------------------------------------------------------


@every_searcher
def test_every_searcher_searches_six_decisions_of_five_options(name):
    budget = 18 if name == "gp" else 24  # its proposals are slow; the first from a model are among them
    seen = []

    found = found_by(name, budget, on_candidate=seen.append)

    assert len(set(keys(found))) == budget and seen == found.candidates
    assert [one.number for one in seen] == list(range(1, budget + 1))
    for one in found.candidates:
        assert one.values == evaluate(found.architecture(one))
        assert isinstance(found.architecture(one), CategoricalArchitecture)
    assert found.front and found.knee in found.front


def test_the_same_seed_finds_the_same_and_another_does_not():
    assert keys(found_by(seed=1)) == keys(found_by(seed=1)) != keys(found_by(seed=2))


@pytest.mark.parametrize(
    "goals",
    [{"accuracy": "maximize"}, {"accuracy": "maximize", "latency_ms": "minimize", "energy": "minimize"}],
)
def test_any_number_of_objectives(goals):
    found = found_by(function=lambda a: {key: sum(a.values()) for key in goals}, goals=goals)

    assert len(found.candidates) == 24 and found.front and found.hypervolume() > 0


def test_a_space_of_networks_is_searched_too_and_its_architectures_are_handed_over():
    handed = []

    def by_macs(architecture):
        handed.append(architecture)
        return {"accuracy": of_network(architecture)["accuracy"], "latency_ms": 1.0}

    found = found_by(space=small_space(), function=by_macs, budget=10)

    assert [found.architecture(one) for one in found.candidates] == handed
    assert "stage 0 width" in found.to_frame().columns


def test_constraints_decide_what_is_on_the_front_and_may_be_on_other_values():
    def three(architecture):
        return {**evaluate(architecture), "bytes": 100 * architecture["a"]}

    found = found_by(function=three, constraints={"bytes": {"max": 200}, "latency_ms": {"min": 3}}, budget=60)

    assert found.front
    for one in found.front:
        assert one.values["bytes"] <= 200 and one.values["latency_ms"] >= 3
    assert any(one.values["bytes"] > 200 for one in found.candidates)


def test_records_say_the_same_as_words():
    goals = (
        Objective("accuracy", "accuracy", "", "maximize"),
        Objective("latency", "latency_ms", "ms", "minimize"),
    )
    found = found_by(goals=goals, constraints=[Constraint("latency_ms", max=5.0)])

    assert found.objectives == found_by(constraints={"latency_ms": {"max": 5}}).objectives
    assert keys(found) == keys(found_by(constraints={"latency_ms": {"max": 5}}))


def test_the_hypervolume_is_up_to_a_reference_in_the_units_of_the_objectives():
    found = found_by(budget=100)
    # stairs: each point of the front, by how much it is better than the one before, down to the worst latency
    steps = [0.0, *(one.values["accuracy"] for one in found.front)]
    heights = [9.0 - one.values["latency_ms"] for one in found.front]
    by_hand = sum(
        (high - low) * max(0.0, height) for low, high, height in zip(steps, steps[1:], heights, strict=False)
    )

    assert found.hypervolume({"latency_ms": 9.0, "accuracy": 0.0}) == pytest.approx(by_hand)
    assert found.hypervolume({"latency_ms": 0.0, "accuracy": 0.0}) == 0
    with pytest.raises(ValueError, match="the reference has accuracy; it needs accuracy, latency_ms"):
        found.hypervolume({"accuracy": 0})


def test_as_a_frame_there_is_a_row_per_candidate():
    def failing(architecture):
        return evaluate(architecture) if architecture["a"] > 1 else {}

    found = found_by(function=failing, budget=40)
    frame = found.to_frame()

    assert len(frame) == 40 and set(SIX.architecture(dict.fromkeys("abcdef", 1))) < set(frame.columns)
    assert (frame["front"].sum(), frame["error"].notna().sum()) == (
        len(found.front),
        sum(one.error is not None for one in found.candidates),
    )
    assert (frame[frame["error"].isna()]["a"] > 1).all() and not frame[frame["error"].notna()][
        "feasible"
    ].any()


def test_a_decision_that_is_called_like_a_value_has_a_column_of_its_own():
    space = CategoricalSpace({"accuracy": [1, 2], "seconds": [1, 2]})
    frame = found_by(space=space, function=lambda a: {"accuracy": 0.5, "latency_ms": a["seconds"]}).to_frame()

    assert {"accuracy", "decision accuracy", "seconds", "decision seconds"} <= set(frame.columns)


def test_without_pandas_a_frame_is_an_error_of_one_line(monkeypatch):
    found = found_by(budget=4)
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(ImportError, match=r"to_frame needs pandas, .*: pip install pandas$"):
        found.to_frame()


def test_a_search_with_a_store_loads_neither_torch_nor_ray(tmp_path):
    script = """
import sys
from nas.library import CategoricalSpace, ask_tell, search
space = CategoricalSpace({"a": [1, 2, 3], "b": [1, 2]})
search(space, lambda a: {"x": a["a"]}, {"x": "minimize"}, "random", 4, store=sys.argv[1])
ask_tell(space, {"x": "minimize"}, "random").ask(2)
print({"torch", "ray", "pandas", "dash"} & set(sys.modules))
"""
    done = run_script(script, str(tmp_path / "nas.db"))

    assert done.stdout == "set()\n", done.stderr


# -- evaluators as strangers write them --------------------------------------------------------


def raising(architecture):
    raise KeyError("kernel")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raising, "KeyError: 'kernel'"),
        (lambda a: 1 / 0, "ZeroDivisionError: division by zero"),
        (
            lambda a: evaluate(a) | {"accuracy": math.nan},
            "ValueError: evaluate returned nan (float) for accuracy",
        ),
        (lambda a: evaluate(a) | {"latency_ms": -math.inf}, "evaluate returned -inf (float) for latency_ms"),
        (lambda a: {"accuracy": 1}, "evaluate returned no latency_ms, only accuracy"),
        (lambda a: {}, "evaluate returned no accuracy, only nothing"),
        (lambda a: evaluate(a) | {"acuracy": 1}, "'acuracy', which is not known; did you mean accuracy?"),
        (lambda a: evaluate(a) | {"accuracy": "0.9"}, "evaluate returned '0.9' (str) for accuracy"),
        (lambda a: evaluate(a) | {"accuracy": True}, "evaluate returned True (bool) for accuracy"),
        (lambda a: evaluate(a) | {"accuracy": None}, "evaluate returned None (NoneType) for accuracy"),
        (lambda a: evaluate(a) | {"accuracy": np.ones(3)}, "for accuracy; it must be a finite number"),
        (lambda a: evaluate(a) | {"accuracy": 1j}, "for accuracy; it must be a finite number"),
        (lambda a: 0.93, 'evaluate returned 0.93 (float); it must be {"accuracy": ..., "latency_ms": ...}'),
        (lambda a: None, "evaluate returned None (NoneType); it must be"),
        (lambda: None, "TypeError: "),
    ],
)
def test_what_an_evaluator_does_wrong_is_the_error_of_a_candidate(function, said):
    def now_and_then(architecture):
        return function(architecture) if architecture["a"] == 2 else evaluate(architecture)

    if function.__code__.co_argcount == 0:
        now_and_then = lambda a: function(a) if a["a"] == 2 else evaluate(a)  # noqa: E731

    found = found_by("random", function=now_and_then)

    wrong = [one for one in found.candidates if one.error is not None]
    assert len(found.candidates) == 24 and wrong
    for one in found.candidates:
        assert (one.error is not None) == (found.architecture(one)["a"] == 2)
        assert one.error is None or (said in one.error and "\n" not in one.error and not one.values)


@pytest.mark.parametrize("number", [np.float32(0.5), np.int64(3), np.array(0.5), 2**60])
def test_whatever_is_a_number_counts(number):
    found = found_by(function=lambda a: {"accuracy": number, "latency_ms": 1}, budget=3)

    assert [one.values["accuracy"] for one in found.candidates] == [float(number)] * 3


def test_ten_failures_in_a_row_end_the_search_with_the_last_reason_and_keep_the_candidates(tmp_path):
    store = tmp_path / "nas.db"

    with pytest.raises(SearchFailed, match=r"10 evaluations in a row failed, .* ZeroDivisionError"):
        found_by(function=lambda a: 1 / 0, store=store)

    with Store(f"sqlite:///{store}", create=False) as kept:
        assert kept.count_candidates("six") == 10
        assert kept.run("six").status == "failed" and "ZeroDivisionError" in kept.run("six").message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"timeout": 5},
            "timeout ends the process that evaluates, so it needs workers; give workers=1 or more",
        ),
        ({"timeout": 0, "workers": 1}, "timeout is 0; it must be above 0 seconds"),
        ({"gpus_per_worker": 1}, "give workers=N as well"),
        ({"function": 3}, "evaluate is 3; it must be a function"),
        ({"space": {"a": [1]}}, "make one with CategoricalSpace"),
        ({"goals": {"accuracy": "maximise"}}, "'maximise', which is not known; did you mean maximize?"),
        ({"goals": ["accuracy"]}, "objectives is ['accuracy']; write for example"),
        (
            {"goals": {"accuracy": "maximize"}, "constraints": {"accuracy": 3}},
            'write {"max": ...} or {"min": ...}',
        ),
        ({"constraints": {"latency_ms": {"mx": 3}}}, "did you mean max?"),
        ({"constraints": {"latency_ms": {"max": "3"}}}, "latency_ms.max is '3'; it must be a finite number"),
        ({"constraints": {"latency_ms": {"min": 3, "max": 2}}}, "min 3 is above max 2"),
        ({"searcher": "nsga22"}, "search.searcher 'nsga22' is not known; did you mean nsga2?"),
        ({"budget": 0}, "search.budget is 0"),
        ({"seconds": 0}, "search.seconds is 0; it must be above 0"),
        ({"seconds": "60"}, "search.seconds is '60'; it must be above 0"),
        ({"plateau": 2.5}, "search.plateau is 2.5; it must be at least 1 candidate"),
        ({"plateau": 0}, "search.plateau is 0; it must be at least 1 candidate"),
        ({"focus": {"latency": [1, 3]}}, "focus.latency is not known; did you mean latency_ms?"),
        (
            {"focus": {"latency_ms": [3, 1]}},
            "focus: latency_ms is [3, 1]; write its two ends, such as [1, 3]",
        ),
        ({"focus": {"latency_ms": [None, None]}}, "focus: latency_ms is [None, None]; write its two ends"),
        ({"focus": [1, 3]}, "focus is [1, 3]; write for example"),
        ({"start_from": "other"}, "start_from is 'other'; give architectures, such as [found.architecture("),
        ({"start_from": [3]}, "start_from holds 3, which is no architecture of the space six"),
        ({"start_from": [{"a": 1}]}, "the architecture decides a; the space six decides a, b"),
        ({"name": "a/b", "store": "nas.db"}, "use letters, digits, dots"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_evaluated(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluated = []

    with pytest.raises(ValueError) as caught:
        found_by(**{"function": evaluated.append, **arguments})

    assert said in str(caught.value) and "\n" not in str(caught.value) and not evaluated


# -- in a store --------------------------------------------------------------------------------

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


@pytest.mark.parametrize("searcher", ["nsga2", "regularised_evolution"])
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


# -- ask and tell ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nsga2", "random", "regularised_evolution"])
def test_a_loop_of_ones_own_comes_to_what_search_comes_to(name):
    loop, random = ask_tell(SIX, GOALS, searcher=name), Random(0)
    while len(loop.found.candidates) < 48:
        asked = loop.ask(48 - len(loop.found.candidates))
        random.shuffle(asked)  # told in any order
        for one in asked:
            loop.tell(one, evaluate(one))

    undisturbed = found_by(name, 48)
    assert sorted(keys(loop.found)) == sorted(keys(undisturbed))
    assert {one.key for one in loop.front()} == {one.key for one in undisturbed.front}
    assert len(loop.found.to_frame()) == 48


def test_a_small_space_is_asked_to_its_end():
    loop = ask_tell(CategoricalSpace({"a": [1, 2, 3], "b": [1, 2]}), GOALS)
    asked = []
    while some := loop.ask(2):
        for one in some:
            asked.append(one.key)
            loop.tell(one, {"accuracy": one["a"], "latency_ms": one["b"]})

    assert len(asked) == len(set(asked)) <= 6


def test_what_failed_is_told_as_none():
    loop = ask_tell(SIX, GOALS)
    one, other = loop.ask(2)

    assert loop.tell(one, None).error == "told as failed"
    loop.tell(other, evaluate(other))
    assert [one.key for one in loop.front()] == [other.key]


def test_a_loop_that_does_not_keep_the_rules_hears_of_it():
    loop = ask_tell(SIX, GOALS)
    [one] = loop.ask()

    with pytest.raises(
        ValueError, match="1 of the last architectures are not told yet, the first is a 1, b 1"
    ):
        loop.ask()
    with pytest.raises(ValueError, match="was not asked for; tell what `ask` returned, once"):
        loop.tell(SIX.ends[1], evaluate(one))
    with pytest.raises(ValueError, match="tell got no latency_ms, only accuracy"):
        loop.tell(one, {"accuracy": 1})
    with pytest.raises(ValueError, match=r"tell got nan \(float\) for accuracy"):
        loop.tell(one, evaluate(one) | {"accuracy": math.nan})
    loop.tell(one, evaluate(one))
    with pytest.raises(ValueError, match="was told before"):
        loop.tell(one, evaluate(one))
    with pytest.raises(ValueError, match="asked for 0 architectures"):
        loop.ask(0)


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


# -- on workers --------------------------------------------------------------------------------

ON_WORKERS = """
import json, os, sys, threading, time
from nas.library import CategoricalSpace, search
space = CategoricalSpace({"a": [1, 2, 3, 4], "b": [1, 2, 3]})
goals = {"x": "minimize", "y": "maximize"}

def evaluate(one):
    if (one["a"], one["b"]) == (2, 3):
        time.sleep(600)
    if (one["a"], one["b"]) == (3, 1):
        os._exit(1)
    if one["a"] == 4:
        raise ValueError("no")
    return {"x": one["a"], "y": one["b"]}

found = search(space, evaluate, goals, "random", 12, workers=2, timeout=4, store=sys.argv[1])
again = search(space, evaluate, goals, "random", 12, workers=2, timeout=4, store=sys.argv[1])
held = threading.Lock()
try:
    search(space, lambda one: held.locked(), goals, "random", 12, workers=1)
except ValueError as error:
    said = str(error)
rows = [[found.architecture(one)["a"], found.architecture(one)["b"], one.error, one.values] for one in found.candidates]
print(json.dumps({"rows": rows, "said": said, "same": again.candidates == found.candidates,
                  "torch": "torch" in sys.modules}))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_on_workers_what_hangs_dies_or_raises_is_a_candidate_and_the_rest_is_the_same(tmp_path):
    done = run_script(ON_WORKERS, str(tmp_path / "nas.db"), timeout=400)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    errors = {(a, b): error for a, b, error, _ in said["rows"]}
    assert len(errors) == 12 and said["same"] and not said["torch"]
    assert errors[2, 3] == "TimedOut: it took longer than 4 seconds"
    assert errors[3, 1].startswith("WorkerDied: 3 workers died")
    assert errors[4, 1] == errors[4, 2] == "ValueError: no"
    assert [values for a, b, _, values in said["rows"] if (a, b) == (1, 2)] == [{"x": 1.0, "y": 2.0}]
    assert said["said"].startswith("evaluate cannot be sent to workers: ") and "\n" not in said["said"]


def test_everything_that_the_door_names_is_there():
    assert all(hasattr(library, name) for name in library.__all__)
