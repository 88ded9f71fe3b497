"""Every searcher proposes architectures of its space, follows from its seed and what it was told and from
nothing else, lives with failures and limits, and comes to an end.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from nas.pareto import hypervolume, reference_point
from nas.search import Search, make_searcher
from nas.searchers import SEARCHERS
from search_spaces import Architecture
from tests.synthetic import OBJECTIVES, small_space, space, values

Answer = Callable[[Architecture], tuple[list[float] | None, float]]
SPACE = space()
ENOUGH = 400  # questions, after which a searcher is taken to go on for ever

every_searcher = pytest.mark.parametrize("name", SEARCHERS)


def searcher_of(name: str, among=SPACE, objectives: int = 2, seed: int = 0, **settings):
    return make_searcher(Search(searcher={"name": name, **settings}, seed=seed), among, objectives)


def losses(architecture: Architecture, objectives: int = 2) -> list[float]:
    measured = values(architecture)
    return [one.loss(measured[one.key]) for one in OBJECTIVES[:objectives]]


def measured(architecture: Architecture) -> tuple[list[float], float]:
    return losses(architecture), 0.0


def proposals(searcher, budget: int, answer: Answer = measured, batch: int | None = None):
    """The different architectures it proposes, in order, each told when its batch is known."""
    different: dict[str, Architecture] = {}
    for _ in range(ENOUGH):
        left = budget - len(different)
        if not left or not (asked := searcher.ask(min(left, batch or left))):
            break
        assert len(asked) <= (batch or left)
        for one in asked:
            different[one.key] = one
            searcher.tell(one, *answer(one))
    return list(different.values())


@every_searcher
def test_it_fills_its_budget_with_different_architectures_of_the_space(name):
    found = proposals(searcher_of(name), budget=100)

    assert len(found) == 100
    for one in found:
        SPACE.check(one)


@every_searcher
def test_the_same_seed_proposes_the_same_and_another_seed_does_not(name):
    first, again, other = (proposals(searcher_of(name, seed=seed), 60) for seed in (1, 1, 2))

    assert first == again
    assert first != other


@every_searcher
def test_randomness_outside_changes_nothing(name):
    expected = proposals(searcher_of(name), 60)
    np.random.seed(7)
    random.seed(7)

    assert proposals(searcher_of(name), 60) == expected


@every_searcher
@pytest.mark.parametrize("batch", [1, 3, 24, 1000])
def test_how_many_are_asked_at_once_does_not_change_what_is_proposed(name, batch):
    assert proposals(searcher_of(name), 72, batch=batch) == proposals(searcher_of(name), 72, batch=24)


@every_searcher
@pytest.mark.parametrize("objectives", [2, 3])
def test_it_takes_any_number_of_objectives(name, objectives):
    searcher = searcher_of(name, objectives=objectives)

    found = proposals(searcher, 60, lambda one: (losses(one, objectives), 0.0))

    assert len(found) == 60


@every_searcher
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_failures_do_not_stop_it(name, share):
    luck = random.Random(0)

    found = proposals(
        searcher_of(name), 80, lambda one: (None if luck.random() < share else losses(one), 0.0)
    )

    assert len(found) == 80


@every_searcher
def test_equal_losses_do_not_stop_it(name):
    assert len(proposals(searcher_of(name), 80, lambda one: ([1.0, 1.0], 0.0))) == 80


@every_searcher
def test_constraints_that_nothing_keeps_do_not_stop_it(name):
    assert len(proposals(searcher_of(name), 80, lambda one: (losses(one), 1.0))) == 80


@every_searcher
@pytest.mark.parametrize("size", [1, 2, 24])
def test_a_small_space_is_exhausted_without_end_less_asking(name, size):
    stages = [{"width": [8, 12] if size == 2 else 8, "depth": 1}]
    tiny = space(stages=stages, operators=["identity"], expansion=1, attention="none")
    among = small_space() if size == 24 else tiny
    assert among.size == size

    found = proposals(searcher_of(name, among), budget=size)

    assert len(found) == size


@every_searcher
def test_a_space_that_is_nearly_used_up_ends_the_search(name):
    found = proposals(searcher_of(name, small_space()), budget=1000)

    assert 20 <= len(found) <= 24


@every_searcher
def test_replaying_what_was_told_leads_to_the_same_next_question(name):
    searcher, told = searcher_of(name, population=8) if name == "nsga2" else searcher_of(name), []
    for _ in range(5):
        for one in searcher.ask(8):
            told.append((one, losses(one)))
            searcher.tell(*told[-1])

    again = searcher_of(name, population=8) if name == "nsga2" else searcher_of(name)
    for place in range(0, len(told), 8):
        assert again.ask(8) == [one for one, _ in told[place : place + 8]]
        for one, known in told[place : place + 8]:
            again.tell(one, known)

    assert again.ask(8) == searcher.ask(8)


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
        for name in SEARCHERS
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
