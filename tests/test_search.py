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
from nas.search import FAILURES, Search, SearchFailed, make_searcher, search, tell
from nas.searchers import SEARCHERS
from nas.stopping import EXHAUSTED, GROWTH, LATE, SPENT, Clock, course, growth
from nas.storage.records import Candidate, Constraint, Leg
from search_spaces import Architecture
from tests.synthetic import OBJECTIVES, candidate, small_space, space

SPACE = space()
LIMITS = (Constraint("macs", max=15_000),)

# gp takes seconds for a proposal, and asks as tpe does
every_searcher = pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "gp"])

CHEAP = ["nsga2", "nsga3", "age_moea", "regularised_evolution", "random"]  # replayed in no time
cheap_searchers = pytest.mark.parametrize("name", CHEAP)


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
    plateau: int | None = None,
    seconds: float | None = None,
    **more,
) -> str | None:
    settings = Search(budget=budget, searcher=name, seed=seed, plateau=plateau, seconds=seconds)
    searcher, pool = make_searcher(settings, among, 2), pool or HerePool(candidate)
    return search("run", searcher, pool, memory, OBJECTIVES[:2], LIMITS, settings, on_candidate, stop, **more)


def stop_after(count: int) -> Callable[[], bool]:
    answers = iter(range(count - 1))
    return lambda: next(answers, None) is None


@every_searcher
def test_its_budget_counts_different_architectures(name):
    memory = Memory()

    assert carry_out(memory, name) == SPENT

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


@pytest.mark.parametrize("name", ["nsga2", "linas"])
def test_how_much_is_asked_again_is_said_before_each_question(name):
    memory, said = Memory(), []
    carry_out(memory, name, budget=24, on_again=said.append)
    assert not said

    carry_out(memory, name, budget=30, on_again=said.append)

    assert said[0] == 0 and said == sorted(set(said)) and said[-1] < 24 and len(said) > 1


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

    assert carry_out(memory, name, pool=HerePool(sometimes)) == SPENT

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

    assert carry_out(memory, name, budget=1000, among=small_space()) == EXHAUSTED

    assert len(memory.kept) == 24


def test_the_searchers_hear_of_constraints():
    memory = Memory()

    carry_out(memory, "nsga2", budget=150)

    kept = [one.feasible(LIMITS) for one in memory.kept]
    assert sum(kept[-40:]) > 1.5 * sum(kept[:40])


# -- what ends it ------------------------------------------------------------------------------


@cheap_searchers
def test_a_plateau_ends_a_stopped_search_at_the_candidate_where_it_ends_an_uninterrupted_one(name):
    uninterrupted, stopped, random = Memory(), Memory(), Random(1)

    ended = carry_out(uninterrupted, name, 200, plateau=8)
    while not (again := carry_out(stopped, name, 200, plateau=8, stop=stop_after(random.randint(20, 60)))):
        pass

    assert again == ended == "plateau: the last 8 candidates raised the hypervolume by less than 0.1%"
    assert stopped.keys == uninterrupted.keys
    assert len(stopped.kept) < 200
    assert growth(stopped.kept, OBJECTIVES[:2], LIMITS, 8) < GROWTH
    assert carry_out(stopped, name, 200, plateau=8) == ended and stopped.keys == uninterrupted.keys


def test_without_a_plateau_a_search_goes_on_where_the_plateau_had_ended_it():
    undisturbed, ended = Memory(), Memory()
    carry_out(undisturbed, budget=150)

    carry_out(ended, budget=150, plateau=8)
    assert len(ended.kept) < 150
    assert carry_out(ended, budget=150) == SPENT

    assert ended.keys == undisturbed.keys


def test_there_is_no_plateau_before_anything_keeps_the_constraints():
    found = [replace(candidate(SPACE.sample(Random(seed))), number=seed) for seed in range(30)]

    assert growth(found, OBJECTIVES[:2], [Constraint("macs", max=1.0)], 10) == 1
    assert growth(found, OBJECTIVES[:2], (), 30) == 1
    assert growth([*found, *found], OBJECTIVES[:2], (), 30) == 0
    assert 0 <= growth(found, OBJECTIVES[:2], (), 20) <= 1


def test_the_course_of_a_front_never_falls_and_says_what_growth_says():
    random = Random(2)
    found = [candidate(SPACE.sample(random)) for _ in range(30)]
    found[3] = replace(found[3], values={}, error="failed")

    reached = course(found, OBJECTIVES[:2], LIMITS)

    assert reached == sorted(reached) and reached[-1] == 1 and len(set(reached)) > 2
    for last in (1, 7, 20, 29):
        assert 1 - reached[-last - 1] == pytest.approx(growth(found, OBJECTIVES[:2], LIMITS, last))
    assert course(found, OBJECTIVES[:2], [Constraint("macs", max=1.0)]) == [0.0] * 30
    assert course([], OBJECTIVES[:2]) == []


def test_growth_is_a_share_that_units_do_not_change():
    found = [candidate(SPACE.sample(Random(seed))) for seed in range(40)]
    in_kilo = [replace(one, values={**one.values, "macs": one.values["macs"] / 1000}) for one in found]

    assert growth(found, OBJECTIVES[:2], (), 30) == pytest.approx(growth(in_kilo, OBJECTIVES[:2], (), 30))
    assert growth(found, OBJECTIVES[:2], (), 30) > 0


class Hours:
    """A clock's time that stands still but for evaluations, an hour each."""

    def __init__(self):
        self.now = 0.0

    def evaluated(self, architecture: Architecture) -> Candidate:
        self.now += 3600
        return candidate(architecture)


@cheap_searchers
def test_time_ends_a_search_whatever_sittings_it_had_and_more_time_goes_on(name):
    undisturbed, timed, hours = Memory(), Memory(), Hours()
    carry_out(undisturbed, name)

    def sit(seconds: float, before: float, **more) -> str | None:
        clock = Clock(before, lambda: hours.now)
        pool = HerePool(hours.evaluated)
        return carry_out(timed, name, pool=pool, seconds=seconds, clock=clock, **more)

    assert sit(20 * 3600, 0, stop=stop_after(7)) is None
    assert sit(20 * 3600, 7 * 3600) == LATE and len(timed.kept) == 20
    assert sit(20 * 3600, 20 * 3600) == LATE and len(timed.kept) == 20
    assert sit(21.5 * 3600, 20 * 3600) == LATE and len(timed.kept) == 22  # what is begun is ended
    assert sit(1e9, 22 * 3600) == SPENT

    assert timed.keys == undisturbed.keys


# -- going on from candidates that others found ------------------------------------------------


@pytest.mark.parametrize("name", [*CHEAP, "linas", "tpe"])
def test_another_searcher_goes_on_and_stopped_anywhere_it_asks_the_same(name):
    before = "random" if name != "random" else "nsga2"
    uninterrupted, stopped, asked, random = Memory(), Memory(), [], Random(2)
    for memory in (uninterrupted, stopped):
        carry_out(memory, before, 23)
    leg = Leg(known=23)

    def counted(architecture: Architecture) -> Candidate:
        asked.append(architecture.key)
        return candidate(architecture)

    carry_out(uninterrupted, name, 45, seed=5, leg=leg)
    while not carry_out(
        stopped, name, 45, HerePool(counted), stop=stop_after(random.randint(5, 15)), seed=5, leg=leg
    ):
        pass

    assert stopped.keys == uninterrupted.keys
    assert asked == stopped.keys[23:] and len(set(stopped.keys)) == 45


@cheap_searchers
@pytest.mark.parametrize("known", [1, 3])
def test_few_known_candidates_are_enough_to_go_on(name, known):
    memory = Memory()
    carry_out(memory, "random", known)

    assert carry_out(memory, name, 40, leg=Leg(known)) == SPENT
    assert len(set(memory.keys)) == 40


@cheap_searchers
def test_what_it_starts_from_is_evaluated_first_once_and_again_after_a_stop(name):
    start = [SPACE.sample(Random(seed)) for seed in range(9)]
    leg = Leg(start=tuple(one.to_json() for one in start))
    uninterrupted, stopped, random = Memory(), Memory(), Random(3)

    assert carry_out(uninterrupted, name, 40, leg=leg) == SPENT
    while not carry_out(stopped, name, 40, leg=leg, stop=stop_after(random.randint(1, 7))):
        pass

    assert stopped.keys == uninterrupted.keys
    assert stopped.keys[:9] == [one.key for one in start] and len(set(stopped.keys)) == 40


def test_a_budget_below_the_start_is_kept_and_a_larger_one_goes_on():
    leg = Leg(start=tuple(SPACE.sample(Random(seed)).to_json() for seed in range(9)))
    at_once, in_two = Memory(), Memory()
    carry_out(at_once, budget=30, leg=leg)

    carry_out(in_two, budget=5, leg=leg)
    assert len(in_two.kept) == 5
    carry_out(in_two, budget=30, leg=leg)

    assert in_two.keys == at_once.keys


# -- a region that matters ---------------------------------------------------------------------

REGION = (Constraint("macs", 10_000, 14_000), Constraint("accuracy", max=60.0))


def test_beyond_the_better_end_of_a_focus_nothing_is_gained_and_beyond_the_worse_a_constraint_is_broken():
    class Listener:
        def tell(self, architecture, losses, violation=0.0):
            heard.append((losses, violation))

    heard, several = [], [SPACE.sample(Random(seed)) for seed in range(200)]
    for one in several:
        tell(Listener(), one, candidate(one), OBJECTIVES[:2], (), REGION)

    sides = set()
    for one, (losses, violation) in zip(several, heard, strict=True):
        accuracy, macs = (candidate(one).values[key] for key in ("accuracy", "macs"))
        assert losses == [-min(accuracy, 60.0), max(macs, 10_000)]
        assert violation == pytest.approx(max(0.0, macs / 14_000 - 1))
        sides |= {(accuracy > 60, (macs > 10_000) + (macs > 14_000))}
    assert len(sides) == 6
    tell(Listener(), one, candidate(one), OBJECTIVES[:2], (), (Constraint("accuracy", 99.0, None),))
    assert heard[-1][0] == [-accuracy, macs] and heard[-1][1] == pytest.approx(1 - accuracy / 99)


@pytest.mark.parametrize("name", [name for name in CHEAP if name != "random"])
def test_a_searcher_looks_more_often_where_the_focus_is(name):
    def inside(**more) -> int:
        memory = Memory()
        carry_out(memory, name, 120, **more)
        return sum(10_000 <= one.values["macs"] <= 14_000 for one in memory.kept[60:])

    assert inside(focus=REGION[:1]) > 1.5 * inside()


# -- what is no search -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seconds": 0.0}, "search.seconds is 0.0; it must be above 0, or left out"),
        ({"plateau": 0}, "search.plateau is 0; it must be at least 1 candidate, or left out"),
        ({"start_from": {"name": "digits"}}, "search.start_from.name is not known"),
        ({"start_from": {"architectures": 3}}, "search.start_from names no run; write for example"),
        ({"start_from": {"run": "digits", "architectures": 0}}, "architectures is 0; it must be an integer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError) as caught:
        Search(**settings)

    assert said in str(caught.value) and "\n" not in str(caught.value)


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
