"""The search: ask, evaluate, record, tell. Any number of objectives, with constraints.

The store is the only memory. A search that was stopped asks the same searcher the same questions, and is
answered from the store as far as that goes: so it comes to where it was, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nas.pool import Pool
from nas.storage.records import Candidate, Constraint, Objective
from search_spaces import Architecture, SearchSpace
from search_spaces.strict import check_keys, unknown

IDLE = 50  # rounds of asking without anything new, after which the searcher has nothing left
FAILURES = 10  # evaluations that fail one after the other before the search gives up


@dataclass(frozen=True)
class Search:
    """The `search` section of an experiment file."""

    budget: int = 100  # candidates, counting those that fail
    searcher: str | Mapping[str, Any] = "linas"  # a name, or {name: nsga2, population: 16}
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"search.budget is {self.budget}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"search.seed is {self.seed}; it must be 0 or more, and below 2^63")


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

    named = {"name": settings.searcher} if isinstance(settings.searcher, str) else dict(settings.searcher)
    if "name" not in named:
        raise ValueError("search.searcher has no name; write for example {name: nsga2, population: 16}")
    name = named.pop("name")
    if name not in list(SEARCHERS):  # a list, since what people write need not be hashable
        raise unknown(f"search.searcher {name!r}", name, SEARCHERS)
    allowed = [key for key in inspect.signature(SEARCHERS[name]).parameters if key not in _GIVEN]
    check_keys("search.searcher", named, allowed)
    return SEARCHERS[name](space, objectives, settings.seed, **named)


_GIVEN = ("space", "objectives", "seed")


def search(
    run: str,
    searcher: Searcher,
    pool: Pool,
    memory: Memory,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    budget: int,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Evaluate architectures until `budget` different ones are known, or none are left.

    Args:
        on_candidate: gets every new candidate as soon as it is recorded.
        stop: asked after every candidate.

    Returns:
        Whether it came to an end; False if it was stopped.

    Raises:
        SearchFailed: ten evaluations in a row failed.
    """
    known = {candidate.key: candidate for candidate in memory.candidates(run)}
    told: set[str] = set()
    idle = failures = 0
    while len(told) < budget and idle < IDLE:
        asked = searcher.ask(budget - len(told))
        if not asked:
            break
        idle = idle + 1 if all(one.key in told for one in asked) else 0
        for candidate in _evaluated([one for one in asked if one.key not in known], pool):
            known[candidate.key] = memory.add_candidate(run, candidate)
            on_candidate(known[candidate.key])
            failures = failures + 1 if candidate.error else 0
            if failures >= FAILURES:
                raise SearchFailed(
                    f"{FAILURES} evaluations in a row failed, the last one with: {candidate.error}"
                )
            if stop():
                return False
        for architecture in asked:  # in the order of asking, whatever the order they came in
            told.add(architecture.key)
            tell(searcher, architecture, known[architecture.key], objectives, constraints)
    return True


def tell(
    searcher: Searcher,
    architecture: Architecture,
    candidate: Candidate,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> None:
    """Tell a searcher what a candidate came to."""
    if candidate.error is not None:
        searcher.tell(architecture, None)
        return
    losses = [objective.loss(candidate.values[objective.key]) for objective in objectives]
    searcher.tell(architecture, losses, candidate.violation(tuple(constraints)))


def _evaluated(architectures: Sequence[Architecture], pool: Pool) -> Iterator[Candidate]:
    different = {architecture.key: architecture for architecture in architectures}
    return pool.map(different.values())
