"""Every searcher proposes architectures of its space, follows from its seed and what it was told and from
nothing else, lives with failures and limits, and comes to an end.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import numpy as np
import pytest

from nas.pareto import hypervolume, reference_point
from nas.search import Search, make_searcher
from nas.searchers import SEARCHERS
from search_spaces import Architecture, unroll
from search_spaces.categorical import CategoricalSpace
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS
from tests.synthetic import OBJECTIVES, small_space, space, values

Answer = Callable[[Architecture], tuple[list[float] | None, float]]
SPACE = space()
CELL = {"blocks": 2, "repeats": 1, "filters": 4, "reductions": 1, "operators": ["conv_3x3", "max_pool_3x3"]}
CELLS = unroll({"stem": {"width": 4}, "cells": CELL}, OPERATORS, ATTENTIONS, (1, 8, 8), 10)
NAMES = CategoricalSpace({f"edge {n}": ["none", "skip", "1x1", "3x3", "pool"] for n in range(6)})
ENOUGH = 400  # questions, after which a searcher is taken to go on for ever
QUICK = {
    "linas": {"first": 12, "batch": 8},
    "tpe": {"first": 12, "batch": 8},
    "gp": {"first": 12, "batch": 2},
}
SMALLER = {  # a proposal of Optuna's processes takes seconds
    "gp": space(
        stages=[{"width": [8, 12, 16], "depth": [1, 2]}],
        operators=["max_pool"],
        expansion=[1, 2],
        attention="none",
    )
}
BUDGET = {"gp": 14}

every_searcher = pytest.mark.parametrize("name", SEARCHERS)


def searcher_of(name: str, among=None, objectives: int = 2, seed: int = 0, **settings):
    among = among or SMALLER.get(name, SPACE)
    settings = {"name": name, **QUICK.get(name, {}), **settings}
    return make_searcher(Search(searcher=settings, seed=seed), among, objectives)


def budget_of(name: str, budget: int) -> int:
    return min(budget, BUDGET.get(name, budget))


def losses(architecture: Architecture, objectives: int = 2) -> list[float]:
    measured = values(architecture)
    four = [*(one.loss(measured[one.key]) for one in OBJECTIVES), float(len(architecture.stages[0].blocks))]
    return four[:objectives]


def measured(architecture: Architecture) -> tuple[list[float], float]:
    return losses(architecture), 0.0


def proposals(searcher, budget: int, answer: Answer = measured, batch: int | None = None):
    """The architectures it proposes, in order, each told when its batch is known."""
    found: list[Architecture] = []
    for _ in range(ENOUGH):
        left = budget - len(found)
        if not left or not (asked := searcher.ask(min(left, batch or left))):
            break
        assert len(asked) <= (batch or left)
        for one in asked:
            found.append(one)
            searcher.tell(one, *answer(one))
    return found


@every_searcher
@pytest.mark.parametrize("among", [SPACE, CELLS, NAMES], ids=["stages", "cells", "categorical"])
def test_it_fills_its_budget_with_different_architectures_of_the_space(name, among):
    def by_features(one) -> tuple[list[float], float]:
        chosen = among.features([one])[0]
        return [float(chosen[::2].sum()), float(chosen @ np.linspace(-1, 1, len(chosen)) ** 2)], 0.0

    among = SMALLER.get(name, among) if among is SPACE else among
    budget = budget_of(name, 60)

    found = proposals(searcher_of(name, among), budget, by_features)

    assert len({one.key for one in found}) == len(found) == budget
    for one in found:
        among.check(one)


@every_searcher
def test_the_same_seed_proposes_the_same_and_another_seed_does_not(name):
    budget = budget_of(name, 40)

    first, again, other = (proposals(searcher_of(name, seed=seed), budget) for seed in (1, 1, 2**63 - 1))

    assert first == again
    assert first != other


@every_searcher
def test_randomness_outside_changes_nothing(name):
    budget = budget_of(name, 40)
    expected = proposals(searcher_of(name), budget)
    np.random.seed(7)
    random.seed(7)

    assert proposals(searcher_of(name), budget) == expected


@every_searcher
@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_how_many_are_asked_at_once_does_not_change_what_is_proposed(name, batch):
    budget = budget_of(name, 48)

    assert proposals(searcher_of(name), budget, batch=batch) == proposals(searcher_of(name), budget, batch=24)


@every_searcher
@pytest.mark.parametrize("objectives", [1, 3, 4])
def test_it_takes_any_number_of_objectives(name, objectives):
    budget = budget_of(name, 40)

    found = proposals(
        searcher_of(name, objectives=objectives), budget, lambda one: (losses(one, objectives), 0.0)
    )

    assert len(found) == budget


@every_searcher
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_failures_do_not_stop_it(name, share):
    luck, budget = random.Random(0), budget_of(name, 40)

    found = proposals(
        searcher_of(name), budget, lambda one: (None if luck.random() < share else losses(one), 0.0)
    )

    assert len(found) == budget


@every_searcher
def test_values_that_are_no_numbers_count_as_failures(name):
    luck, budget = random.Random(0), budget_of(name, 40)
    broken = [[float("nan"), 1.0], [float("inf"), 1.0]]

    found = proposals(
        searcher_of(name), budget, lambda one: (luck.choice([*broken, losses(one), losses(one)]), 0.0)
    )

    assert len(found) == budget


@every_searcher
def test_equal_losses_do_not_stop_it(name):
    budget = budget_of(name, 40)

    assert len(proposals(searcher_of(name), budget, lambda one: ([1.0, 1.0], 0.0))) == budget


@every_searcher
@pytest.mark.parametrize("least", [-sys.float_info.max, 1e300, 1e30])
def test_values_as_large_as_numbers_can_be_do_not_stop_it(name, least):
    luck, budget = random.Random(0), budget_of(name, 32)
    most = sys.float_info.max

    def answer(one: Architecture):
        return luck.choice([[least, most], losses(one), losses(one)]), luck.choice([0.0, 0.0, most])

    assert len(proposals(searcher_of(name), budget, answer)) == budget


@every_searcher
def test_constraints_that_nothing_keeps_do_not_stop_it(name):
    budget = budget_of(name, 40)

    assert len(proposals(searcher_of(name), budget, lambda one: (losses(one), 1.0))) == budget


@every_searcher
def test_constraints_that_are_first_broken_late_do_not_stop_it(name):
    told, budget = iter(range(1000)), budget_of(name, 40)

    found = proposals(searcher_of(name), budget, lambda one: (losses(one), float(next(told) > 10)))

    assert len(found) == budget


@every_searcher
@pytest.mark.parametrize("size", [1, 2, 24])
def test_a_small_space_is_exhausted_and_ends_the_search(name, size):
    stages = [{"width": [8, 12] if size == 2 else 8, "depth": 1}]
    tiny = space(stages=stages, operators=["identity"], expansion=1, attention="none")
    among = small_space() if size == 24 else tiny
    assert among.size == size
    searcher = searcher_of(name, among, **({"first": 22} if name == "gp" else {}))

    found = proposals(searcher, budget=1000)

    assert len({one.key for one in found}) == len(found) == size
    assert searcher.ask(5) == []


def test_what_chance_does_not_find_is_found_among_neighbours(monkeypatch):
    monkeypatch.setattr("nas.searchers.moves.TRIES", 1)
    stages = [{"width": 8, "depth": [1, 2, 7]}]
    deep = space(stages=stages, operators=["identity"], expansion=[1, 2], attention="none")

    for among in (deep, small_space()):
        found = proposals(searcher_of("random", among), budget=1000)

        assert among.size == len(found) == len({one.key for one in found})


@every_searcher
def test_replaying_what_was_told_leads_to_the_same_next_question(name):
    batch, rounds = 8, 2 if name == "gp" else 5
    searcher, told = searcher_of(name), []
    for _ in range(rounds):
        for one in searcher.ask(batch):
            told.append((one, losses(one)))
            searcher.tell(*told[-1])

    again = searcher_of(name)
    while told:
        for one in again.ask(batch):
            known, answer = told.pop(0)
            assert one == known
            again.tell(one, answer)

    assert again.ask(batch) == searcher.ask(batch)


@every_searcher
def test_what_was_told_without_being_asked_is_not_proposed(name):
    searcher = searcher_of(name)
    known = [searcher.space.sample(random.Random(seed)) for seed in range(12)]
    for one in known:
        searcher.tell(one, losses(one))

    found = proposals(searcher, budget_of(name, 30))

    assert not {one.key for one in known} & {one.key for one in found}


@every_searcher
def test_a_setting_that_it_does_not_have_is_refused(name):
    with pytest.raises(ValueError, match=r"search\.searcher\.populatoin is not known"):
        searcher_of(name, populatoin=3)


# -- what NSGA-II is for -----------------------------------------------------------------------


def test_nsga2_finds_a_larger_front_than_random_search():
    points = {
        name: [
            np.array([losses(one) for one in proposals(searcher_of(name, seed=seed), 160)])
            for seed in range(4)
        ]
        for name in ("nsga2", "random")
    }
    reference = reference_point(np.concatenate([front for fronts in points.values() for front in fronts]))

    volumes = {name: [hypervolume(front, reference) for front in fronts] for name, fronts in points.items()}

    assert np.mean(volumes["nsga2"]) > max(volumes["random"])
    assert min(volumes["nsga2"]) > np.mean(volumes["random"])


def test_nsga2_turns_to_what_keeps_the_constraints():
    limit = 6000.0  # MACs, kept by one of thirty random architectures

    def judged(one: Architecture) -> tuple[list[float], float]:
        return losses(one), max(0.0, values(one)["macs"] / limit - 1)

    kept = [
        [judged(one)[1] == 0 for one in proposals(searcher_of("nsga2", seed=seed), 160, judged)]
        for seed in range(3)
    ]

    assert np.mean([run[:24] for run in kept]) < 0.1
    assert np.mean([run[-24:] for run in kept]) > 0.5


def test_nsga2_prefers_any_architecture_to_one_that_failed():
    def judged(one: Architecture) -> tuple[list[float] | None, float]:
        return (None, 0.0) if one.resolution == 8 and one.stages[0].width == 12 else measured(one)

    found = proposals(searcher_of("nsga2"), 160, judged)

    failed = [judged(one)[0] is None for one in found]
    assert np.mean(failed[-48:]) < 0.6 * np.mean(failed[:24])


@pytest.mark.parametrize("population", [3, 4.5, True, "8"])
def test_nsga2_refuses_a_population_that_is_none(population):
    with pytest.raises(ValueError, match=r"search\.searcher\.population is .* at least 4"):
        searcher_of("nsga2", population=population)


@pytest.mark.parametrize("sample", [0, 25, "8"])
def test_regularised_evolution_refuses_a_sample_that_its_population_does_not_hold(sample):
    with pytest.raises(ValueError, match=r"search\.searcher\.sample is "):
        searcher_of("regularised_evolution", population=24, sample=sample)
