"""A search that is stopped and continued ends with the candidates of one that was not; nothing is evaluated
twice; what fails is recorded and does not end it, unless everything does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from random import Random

import pytest

from nas.pool import HerePool
from nas.search import FAILURES, Search, SearchFailed, make_searcher, search
from nas.searchers import SEARCHERS
from nas.storage.records import Candidate, Constraint
from search_spaces import Architecture
from tests.synthetic import OBJECTIVES, candidate, small_space, space

SPACE = space()
LIMITS = (Constraint("macs", max=15_000),)

# gp takes seconds for a proposal, and asks as tpe does
every_searcher = pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "gp"])


class Memory:
    """Candidates of one run in a list, numbered as they come; adding one twice is an error."""

    def __init__(self):
        self.kept: list[Candidate] = []

    def candidates(self, run: str) -> list[Candidate]:
        return list(self.kept)

    def add_candidate(self, run: str, candidate: Candidate) -> Candidate:
        assert candidate.key not in [one.key for one in self.kept]
        self.kept.append(replace(candidate, number=len(self.kept) + 1))
        return self.kept[-1]

    @property
    def keys(self) -> list[str]:
        return [one.key for one in self.kept]


class Shuffled:
    """A pool whose results come in any order, as they do from workers."""

    def __init__(self, seed: int):
        self.random = Random(seed)

    def map(self, architectures: Iterable[Architecture]) -> Iterator[Candidate]:
        waiting = list(architectures)
        self.random.shuffle(waiting)
        yield from map(candidate, waiting)

    def close(self) -> None:
        pass


def carry_out(
    memory: Memory,
    name: str = "nsga2",
    budget: int = 60,
    pool=None,
    among=SPACE,
    on_candidate: Callable[[Candidate], None] = lambda one: None,
    stop: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> bool:
    searcher = make_searcher(Search(searcher=name, seed=seed), among, 2)
    pool = pool or HerePool(candidate)
    return search("run", searcher, pool, memory, OBJECTIVES[:2], LIMITS, budget, on_candidate, stop)


def stop_after(count: int) -> Callable[[], bool]:
    answers = iter(range(count - 1))
    return lambda: next(answers, None) is None


@every_searcher
def test_its_budget_counts_different_architectures(name):
    memory = Memory()

    assert carry_out(memory, name) is True

    assert len(memory.kept) == len(set(memory.keys)) == 60


@every_searcher
@pytest.mark.parametrize("seed", range(3))
def test_a_search_stopped_anywhere_and_continued_ends_with_the_same_candidates(name, seed):
    uninterrupted, stopped = Memory(), Memory()
    carry_out(uninterrupted, name)
    random = Random(seed)

    while not carry_out(stopped, name, stop=stop_after(random.randint(1, 25))):
        pass

    assert [(one.key, one.values) for one in stopped.kept] == [
        (one.key, one.values) for one in uninterrupted.kept
    ]


@every_searcher
def test_a_search_that_dies_between_evaluation_and_record_continues_the_same(name):
    uninterrupted, died = Memory(), Memory()
    carry_out(uninterrupted, name)
    killed = [0, 7, 23, 24, 55]

    def deadly(architecture: Architecture) -> Candidate:
        if len(died.kept) in killed:
            killed.remove(len(died.kept))
            raise KeyboardInterrupt
        return candidate(architecture)

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            carry_out(died, name, pool=HerePool(deadly))
    carry_out(died, name, pool=HerePool(deadly))

    assert died.keys == uninterrupted.keys


@every_searcher
def test_nothing_is_evaluated_twice_and_a_finished_search_evaluates_nothing(name):
    memory, evaluated = Memory(), []

    def counted(architecture: Architecture) -> Candidate:
        evaluated.append(architecture.key)
        return candidate(architecture)

    carry_out(memory, name, stop=stop_after(20), pool=HerePool(counted))
    carry_out(memory, name, pool=HerePool(counted))
    carry_out(memory, name, pool=HerePool(counted))

    assert len(evaluated) == len(set(evaluated)) == 60


@every_searcher
def test_a_larger_budget_goes_on_from_what_is_known(name):
    at_once, in_two = Memory(), Memory()
    carry_out(at_once, name, budget=60)

    carry_out(in_two, name, budget=37)
    carry_out(in_two, name, budget=60)

    assert in_two.keys == at_once.keys


@every_searcher
def test_results_that_come_in_another_order_lead_to_the_same_candidates(name):
    in_order, shuffled = Memory(), Memory()
    carry_out(in_order, name)

    carry_out(shuffled, name, pool=Shuffled(3))

    assert shuffled.keys != in_order.keys
    assert sorted(shuffled.keys) == sorted(in_order.keys)


@every_searcher
def test_a_stop_among_results_in_another_order_loses_nothing(name):
    in_order, shuffled = Memory(), Memory()
    carry_out(in_order, name)

    while not carry_out(shuffled, name, pool=Shuffled(3), stop=stop_after(17)):
        pass

    assert sorted(shuffled.keys) == sorted(in_order.keys)


def test_every_candidate_is_heard_of_once_and_has_its_number():
    heard = []

    carry_out(Memory(), budget=30, on_candidate=heard.append)

    assert [one.number for one in heard] == list(range(1, 31))


@every_searcher
def test_what_fails_counts_and_the_search_goes_on(name):
    memory = Memory()

    def sometimes(architecture: Architecture) -> Candidate:
        one = candidate(architecture)
        return replace(one, values={}, error="ValueError: no") if int(one.key, 16) % 3 == 0 else one

    assert carry_out(memory, name, pool=HerePool(sometimes)) is True

    assert len(memory.kept) == 60
    assert 5 < sum(one.error is not None for one in memory.kept) < 55


@every_searcher
def test_ten_failures_in_a_row_end_the_search_with_the_last_reason(name):
    memory = Memory()

    def broken(architecture: Architecture) -> Candidate:
        reason = f"OSError: no space left, {len(memory.kept)}"
        return replace(candidate(architecture), values={}, error=reason)

    with pytest.raises(SearchFailed, match=rf"{FAILURES} evaluations in a row .* no space left, 9"):
        carry_out(memory, name, pool=HerePool(broken))

    assert len(memory.kept) == FAILURES  # recorded all the same


@every_searcher
def test_a_space_smaller_than_the_budget_ends_the_search(name):
    memory = Memory()

    assert carry_out(memory, name, budget=1000, among=small_space()) is True

    assert len(memory.kept) == 24


def test_the_searchers_hear_of_constraints():
    memory = Memory()

    carry_out(memory, "nsga2", budget=150)

    kept = [one.feasible(LIMITS) for one in memory.kept]
    assert sum(kept[-40:]) > 1.5 * sum(kept[:40])


@pytest.mark.parametrize(
    ("searcher", "said"),
    [
        ("nsga4", "search.searcher 'nsga4' is not known; did you mean nsga"),
        ("genetic", f"search.searcher 'genetic' is not known; Allowed: {', '.join(SEARCHERS)}"),
        ({"population": 8}, "search.searcher has no name; write for example {name: nsga2, population: 16}"),
        ({"name": "random", "population": 8}, "search.searcher.population is not known; Allowed: nothing"),
        ({"name": ["nsga2"]}, "is not known"),
    ],
)
def test_a_searcher_that_is_not_there_is_named(searcher, said):
    with pytest.raises(ValueError) as caught:
        make_searcher(Search(searcher=searcher), SPACE, 2)

    assert said in str(caught.value)


def test_a_search_loads_neither_torch_nor_ray_nor_optuna():
    script = (
        "import sys, nas.search, nas.searchers, nas.config; "
        "assert not {'torch', 'ray', 'optuna'} & set(sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
