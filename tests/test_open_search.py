"""The search as a library: a space of plain decisions, and a search of it in memory."""

from __future__ import annotations

import math
import pickle
import sys
from random import Random

import numpy as np
import pytest

from nas import library
from nas.library import CategoricalSpace
from nas.searchers import SEARCHERS
from nas.storage.records import Constraint, Objective
from search_spaces import CategoricalArchitecture, architecture_from_json, space_from_json
from tests.own_search import SIX, evaluate, found_by, keys, run_script
from tests.synthetic import small_space
from tests.synthetic import values as of_network

every_searcher = pytest.mark.parametrize("name", SEARCHERS)


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
        ({"rate": np.ones((2, 2))}, "rate has the options array([[1., 1.], [1., 1.]]); write a list"),
        ({3: [1]}, "a decision is called 3; its name must be text"),
    ],
)
def test_what_is_no_space_is_refused(decisions, said):
    with pytest.raises(ValueError) as caught:
        CategoricalSpace(decisions)

    assert said in str(caught.value) and "\n" not in str(caught.value)


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
    for worst in (float("nan"), "0", None):
        with pytest.raises(ValueError, match=r"the reference is .* for accuracy; it must be a finite number"):
            found.hypervolume({"accuracy": worst, "latency_ms": 9})


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


def test_everything_that_the_door_names_is_there():
    assert all(hasattr(library, name) for name in library.__all__)
