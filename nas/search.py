"""The search: ask, evaluate, record, tell. Any number of objectives, with constraints.

The store is the only memory. A search that was stopped asks the same searcher the same questions, and is
answered from the store as far as that goes: so it comes to where it was, and goes on. Where a search goes on from
candidates of another (nas/legs.py), these are told first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Protocol

from nas.devices import Goals, devices_in, goals_on
from nas.pool import Pool
from nas.racing import Entrant, race_against
from nas.stopping import EXHAUSTED, GROWTH, LATE, SPENT, Clock, growth, plateau_in_words
from nas.storage.records import Candidate, Constraint, Leg, Objective
from nas.turns import Turns
from search_spaces import Architecture, SearchSpace, architecture_from_json
from search_spaces.strict import check_keys, unknown

IDLE = 50  # rounds of asking without anything new, after which the searcher has nothing left
FAILURES = 10  # evaluations that fail one after the other before the search gives up
START = 16  # architectures of another run to start from


@dataclass(frozen=True)
class Search:
    """The `search` section of an experiment file."""

    budget: int = 100  # candidates, counting those that fail
    searcher: str | Mapping[str, Any] = "linas"  # a name, or {name: nsga2, population: 16}
    seed: int = 0
    seconds: float | None = None  # of wall clock, all sittings together
    plateau: int | None = None  # candidates without growth of the hypervolume after which it ends
    start_from: str | Mapping[str, Any] | None = None  # a run, or {run: digits, architectures: 16}
    per_device: bool = False  # a search for each device, in turns, instead of one for all objectives
    first_images: int | None = None  # who is beaten for certain on these is scored on no more (nas.racing)
    measure_again: bool = True  # latencies of the front, once more at its end (nas.again)

    def __post_init__(self) -> None:
        for name in ("budget", "seed"):
            object.__setattr__(self, name, _integer(f"search.{name}", getattr(self, name)))
        if self.budget < 1:
            raise ValueError(f"search.budget is {self.budget}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"search.seed is {self.seed}; it must be 0 or more, and below 2^63")
        if self.seconds is not None:
            if isinstance(self.seconds, bool) or not isinstance(self.seconds, Real) or not self.seconds > 0:
                raise ValueError(f"search.seconds is {self.seconds!r}; it must be above 0, or left out")
            if not isinstance(self.seconds, int | float):  # numpy's, which no JSON holds
                object.__setattr__(self, "seconds", float(self.seconds))
        for name, what in (("plateau", "candidate"), ("first_images", "image")):
            given = getattr(self, name)
            if given is None:
                continue
            if not isinstance(given, Integral) or isinstance(given, bool) or given < 1:
                raise ValueError(f"search.{name} is {given!r}; it must be at least 1 {what}, or left out")
            object.__setattr__(self, name, int(given))
        self.source  # noqa: B018 -- refuses what is none

    @property
    def source(self) -> tuple[str, int] | None:
        """The run to start from, and with how many of its architectures."""
        if self.start_from is None:
            return None
        given = {"run": self.start_from} if isinstance(self.start_from, str) else dict(self.start_from)
        check_keys("search.start_from", given, ("run", "architectures"))
        run, count = given.get("run"), given.get("architectures", START)
        if not isinstance(run, str) or not run:
            raise ValueError(
                "search.start_from names no run; write for example {run: digits, architectures: 16}"
            )
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(
                f"search.start_from.architectures is {count!r}; it must be an integer of at least 1"
            )
        return run, count


def _integer(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{where} is {value!r}; it must be an integer")
    return int(value)  # of numpy's integers too, which no JSON holds


class Searcher(Protocol):
    """Made as `Searcher(space, objectives, seed, **settings)` with the number of objectives.

    What it asks follows from its seed and what it was told, in that order, and from nothing else.
    """

    def ask(self, count: int) -> list[Architecture]:
        """At most `count` architectures, none of which was asked for or told before; none if there is nothing
        left to propose.

        All of them are told before the next question.
        """

    def tell(
        self, architecture: Architecture, losses: Sequence[float] | None, violation: float = 0.0
    ) -> None:
        """One loss per objective, less being better; None if the evaluation failed. Also of an architecture
        that was not asked for: it will not be.

        `violation` is by how much the constraints are broken, 0 if they are kept.
        """

    def expect(self, architectures: Sequence[Architecture]) -> None:
        """Hear before the first question what was asked before, in whatever order within a round, and will be told
        again when it is asked again: so a proposal that nothing else follows from need not be made again."""


class SearchFailed(RuntimeError):
    """Every evaluation fails: the search cannot help it."""


class Memory(Protocol):
    """Where candidates are kept: `nas.storage.store.Store`, or a list in memory."""

    def candidates(self, run: str) -> list[Candidate]: ...

    def add_candidate(self, run: str, candidate: Candidate) -> Candidate: ...


def make_searcher(settings: Search, space: SearchSpace, objectives: int) -> Searcher:
    """The searcher that the settings name.

    Raises:
        ValueError: no such searcher, or it has no such setting.
    """
    import inspect

    from nas.searchers import SEARCHERS

    given = settings.searcher
    if not isinstance(given, str | Mapping):
        raise ValueError(
            f"search.searcher is {given!r}; write a name, or for example {{name: nsga2, population: 16}}"
        )
    named = {"name": given} if isinstance(given, str) else dict(given)
    if "name" not in named:
        raise ValueError("search.searcher has no name; write for example {name: nsga2, population: 16}")
    name = named.pop("name")
    if name not in list(SEARCHERS):  # a list, since what people write need not be hashable
        raise unknown(f"search.searcher {name!r}", name, SEARCHERS)
    allowed = [key for key in inspect.signature(SEARCHERS[name]).parameters if key not in _GIVEN]
    check_keys("search.searcher", named, allowed)
    return SEARCHERS[name](space, objectives, settings.seed, **named)


_GIVEN = ("space", "objectives", "seed")


def searcher_for(settings: Search, space: SearchSpace, goals: Goals) -> Searcher | Turns:
    """The searcher of these goals; where each device has a search of its own, one for each, with other seeds.

    Raises:
        ValueError: as `make_searcher`.
    """
    if not settings.per_device:
        return make_searcher(settings, space, len(goals.objectives))
    parts = []
    for place, device in enumerate(devices_in(one.key for one in (*goals.objectives, *goals.constraints))):
        own = goals_on(device, goals)
        seeded = replace(settings, seed=(settings.seed + place) % 2**63)
        parts.append((make_searcher(seeded, space, len(own.objectives)), own))
    return Turns(parts)


def search(
    run: str,
    searcher: Searcher | Turns,
    pool: Pool,
    memory: Memory,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    settings: Search,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    focus: Sequence[Constraint] = (),
    leg: Leg | None = None,
    clock: Clock | None = None,
    size: float = math.inf,
    on_again: Callable[[int], None] = lambda told: None,
) -> str | None:
    """Evaluate architectures until a rule of the settings ends it, or none are left.

    Budget and plateau are looked at when all that was asked for side by side is known, the plateau over the candidates
    of this leg, in the order of asking: so they end a search that was stopped and continued where they would have
    ended it undisturbed. Time is looked at after every candidate.

    Args:
        pool: of a race, which the settings may ask for, it gets entrants (`nas.racing.Entrant`).
        searcher: or several that take turns, each with goals of its own; then the plateau is that of all their fronts.
        on_candidate: gets every new candidate as soon as it is recorded.
        stop: asked after every candidate.
        focus: the region of the objectives that matters: see `tell`.
        leg: what the searcher is told, and what is evaluated, before it is asked; by default nothing.
        clock: goes from the first new evaluation on.
        size: of the space.
        on_again: gets how many of the candidates that were known the searcher was told again, before each question
            that is asked again.

    Returns:
        What ended it, in words; None if it was stopped.

    Raises:
        SearchFailed: ten evaluations in a row failed.
    """
    leg, clock = leg or Leg(), clock or Clock()
    here = Goals(tuple(objectives), tuple(constraints), tuple(focus))
    parts = searcher.parts if isinstance(searcher, Turns) else ((searcher, here),)
    known = {candidate.key: candidate for candidate in memory.candidates(run)}
    if len(known) >= min(settings.budget, size):
        return SPENT if len(known) >= settings.budget else EXHAUSTED
    told: dict[str, Candidate] = {}

    def hear(architecture: Architecture) -> None:
        told[architecture.key] = candidate = known[architecture.key]
        for one, goals in parts:
            tell(one, architecture, candidate, goals.objectives, goals.constraints, goals.focus)

    for before in list(known.values())[: leg.known]:
        hear(architecture_from_json(before.architecture))
    start = [one for one in map(architecture_from_json, leg.start) if one.key not in told]
    if settings.plateau is None:  # it goes by the order of asking, which candidates do not keep
        searcher.expect([architecture_from_json(one.architecture) for one in known.values()])
    before = len(known)
    idle = failures = 0
    while len(told) < settings.budget and idle < IDLE:
        if _levelled(settings.plateau, list(told.values()), leg, [goals for _, goals in parts]):
            return plateau_in_words(settings.plateau)
        left = settings.budget - len(told)
        if len(told) < before:
            on_again(len(told))
        asked, start = (start[:left], start[left:]) if start else (searcher.ask(left), [])
        if not asked:
            break
        idle = idle + 1 if all(one.key in told for one in asked) else 0
        new = [one for one in asked if one.key not in known]
        if new:
            if _late(settings, clock):
                return LATE
            clock.start()
        for candidate in pool.map(_entered(new, settings, here, list(told.values()))):
            late = _late(settings, clock)  # before it is recorded: what is then kept of the time is not less
            known[candidate.key] = memory.add_candidate(run, candidate)
            on_candidate(known[candidate.key])
            failures = failures + 1 if candidate.error else 0
            if failures >= FAILURES:
                raise SearchFailed(
                    f"{FAILURES} evaluations in a row failed, the last one with: {candidate.error}"
                )
            if stop():
                return None
            if late:
                return LATE
        for architecture in asked:  # in the order of asking, whatever the order they came in
            hear(architecture)
    return SPENT if len(told) >= settings.budget else EXHAUSTED


def _levelled(
    plateau: int | None,
    told: Sequence[Candidate],
    leg: Leg,
    fronts: Sequence[Goals],
) -> bool:
    """Whether every front has stopped growing within this leg."""
    if plateau is None or len(told) - leg.known < plateau:
        return False
    return all(
        growth(told, one.objectives, [*one.constraints, *one.focus], plateau) < GROWTH for one in fronts
    )


def _late(settings: Search, clock: Clock) -> bool:
    return settings.seconds is not None and clock.seconds >= settings.seconds


def tell(
    searcher: Searcher,
    architecture: Architecture,
    candidate: Candidate,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    focus: Sequence[Constraint] = (),
) -> None:
    """Tell a searcher what a candidate came to.

    In an objective that has a focus, what is better than its better end gains nothing any more, and what is worse than
    its worse end counts as a broken constraint. So any searcher turns to what lies between.
    """
    if candidate.error is not None:
        searcher.tell(architecture, None)
        return
    ends = {one.key: one for one in focus}
    seen = [_through(ends.get(one.key), one, candidate.values[one.key]) for one in objectives]
    outside = sum(beyond for _, beyond in seen)
    searcher.tell(architecture, [loss for loss, _ in seen], candidate.violation(tuple(constraints)) + outside)


def _through(focus: Constraint | None, objective: Objective, value: float) -> tuple[float, float]:
    """The loss of a value as it is told under a focus, and how far it lies beyond the worse end."""
    loss = objective.loss(value)
    if focus is None:
        return loss, 0.0
    less = objective.goal == "minimize"
    better, worse = (focus.min, replace(focus, min=None)) if less else (focus.max, replace(focus, max=None))
    return loss if better is None else max(loss, objective.loss(better)), worse.violation(value, value)


class PoolWhenNeeded:
    """A pool that is made with the first evaluation: a search that is over needs none."""

    def __init__(self, make: Callable[[], Pool]):
        self.make = make
        self.made: Pool | None = None

    def map(self, architectures: Iterable[Architecture] | Iterable[Entrant]) -> Iterator[Candidate]:
        if several := list(architectures):
            self.made = self.made or self.make()
            yield from self.made.map(several)

    def close(self) -> None:
        if self.made is not None:
            self.made.close()


def _entered(
    architectures: Sequence[Architecture], settings: Search, goals: Goals, told: Sequence[Candidate]
) -> list[Architecture] | list[Entrant]:
    """What a pool evaluates: each once, in a race against what is known if there is to be one."""
    different = list({architecture.key: architecture for architecture in architectures}.values())
    if settings.first_images is None:
        return different
    race = race_against(settings.first_images, goals, told)
    return [Entrant(architecture, race) for architecture in different]
