"""Ask and tell, for people with a loop of their own: they evaluate, we propose."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from numbers import Integral
from typing import TYPE_CHECKING, Any

from nas.devices import Goals
from nas.found import Found
from nas.goals import constraints_of, focus_of, keys_of, objectives_of
from nas.own_evaluator import Given, checked
from nas.own_run import check_space, memory_of, own_run, own_searcher
from nas.pool import Pool
from nas.search import IDLE, PoolWhenNeeded, Search, tell
from nas.storage.records import Candidate, Constraint, Objective
from nas.turns import Turns
from search_spaces import Architecture, architecture_from_json

if TYPE_CHECKING:
    from nas.storage.store import Store


class AskTell:
    """A searcher, and what it was told.

    What is asked is told before the next question, in any order: proposals follow from the seed and what was
    told, and from nothing else.

    In a store every candidate is written when it is told, and the run is this loop's until it is closed, best by
    `with`. The same loop, made again, goes on from there: it asks for what was not told, and then for what an
    undisturbed one would ask.

    Args:
        per_device, store, name, extend: as of `nas.library.search`; what is extended has all values that are now
            asked for.

    Raises:
        ValueError: no space, or no such searcher, goal, limit or focus; or the store has another run of that name.
        Busy: another process, or a loop that is not closed, carries out this run.
    """

    def __init__(
        self,
        space: Any,
        objectives: Mapping[str, str] | Sequence[Objective],
        searcher: str | Mapping[str, Any] = Search.searcher,
        seed: int = 0,
        constraints: Mapping[str, Mapping[str, float]] | Sequence[Constraint] = (),
        focus: Mapping[str, Sequence[float | None]] | Sequence[Constraint] = (),
        *,
        per_device: bool = False,
        store: str | os.PathLike | Store | None = None,
        name: str | None = None,
        extend: bool = False,
    ):
        check_space(space)
        self.space = space
        self.objectives, self.constraints = objectives_of(objectives), constraints_of(constraints)
        self.focus = focus_of(focus, self.objectives)
        settings = Search(searcher=searcher, seed=seed, per_device=per_device)
        goals = Goals(self.objectives, self.constraints, self.focus)
        self.searcher = own_searcher(settings, space, goals)
        self._parts = self.searcher.parts if isinstance(self.searcher, Turns) else ((self.searcher, goals),)
        self.run = own_run(name, space, "a loop of ask and tell", settings, goals)
        self._batch: list[Architecture] = []  # as the searcher asked, known ones among them
        self._waiting: dict[str, Architecture] = {}  # asked and not told, by key
        self._passed: set[str] = set()  # keys of what the searcher was told
        self._is_closed = False
        self._used = ExitStack()
        self._memory = self._used.enter_context(
            memory_of(store, self.run, (), extend, PoolWhenNeeded(_nobody))
        )
        before = self._memory.candidates(self.run.name)
        self._known = {one.key: one for one in before}
        for one in before[: self._memory.leg.known]:
            self._pass_on(architecture_from_json(one.architecture))
        self.searcher.expect([architecture_from_json(one.architecture) for one in before])

    def __enter__(self) -> AskTell:
        return self

    def __exit__(self, *error: Any) -> None:
        self._is_closed = True
        self._memory.ended = "its loop was closed"
        self._used.__exit__(*error)

    def close(self) -> None:
        """Give the store back. What was told stays, and the same loop may be made again."""
        self.__exit__(None, None, None)

    def ask(self, count: int = 1) -> list[Any]:
        """At most `count` architectures that were not asked before; none if the searcher has nothing left.

        Raises:
            ValueError: something that was asked is not told yet, or the loop is closed.
        """
        self._check_open()
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise ValueError(f"asked for {count!r} architectures; ask for an integer of at least 1")
        if self._waiting:
            raise ValueError(
                f"{len(self._waiting)} of the last architectures are not told yet, the first is "
                f"{next(iter(self._waiting.values()))}; tell their values, or None for what failed"
            )
        idle = 0
        while idle < IDLE:
            self._batch = self.searcher.ask(count)
            if not self._batch:
                return []
            self._waiting = {one.key: one for one in self._batch if one.key not in self._known}
            if self._waiting:
                self._memory.clock.start()
                return list(self._waiting.values())
            idle = idle + 1 if all(one.key in self._passed for one in self._batch) else 0
            self._pass_on_batch()
        return []

    def tell(self, architecture: Any, values: Mapping[str, Given] | None, seconds: float = 0.0) -> Candidate:
        """Record what an architecture came to.

        Args:
            architecture: what `ask` returned, or its decisions as a mapping.
            values: a number for every objective, and for whatever else is limited, or (low, value, high) with the
                95 % interval of one that is uncertain; None if it failed.

        Raises:
            ValueError: it is not of the space, was not asked for, was told before, a value or `seconds` is missing, too
                many or no finite number, or the loop is closed.
        """
        self._check_open()
        if isinstance(architecture, dict) and hasattr(self.space, "architecture"):
            architecture = self.space.architecture(architecture)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ValueError(f"seconds is {seconds!r}; it must be a finite number of at least 0")
        key = getattr(architecture, "key", None)
        if key not in self._waiting:
            said = "was told before" if key in self._known else "was not asked for"
            raise ValueError(f"the architecture {architecture} {said}; tell what `ask` returned, once")
        text = self._waiting[key].to_json()
        if values is None:
            candidate = Candidate(key, text, error="told as failed", seconds=seconds)
        else:
            kept = checked(values, keys_of(self.objectives, self.constraints), "tell got")
            candidate = Candidate(key, text, *kept, seconds=seconds)
        self._known[key] = self._memory.add_candidate(self.run.name, candidate)
        del self._waiting[key]
        if not self._waiting:
            self._pass_on_batch()
        return self._known[key]

    @property
    def found(self) -> Found:
        """What is known so far, as `search` returns it."""
        return Found(self.space, self.objectives, self.constraints, list(self._known.values()))

    def front(self) -> list[Candidate]:
        """The candidates so far that nothing dominates."""
        return self.found.front

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("this loop is closed; make it again with the same store to go on")

    def _pass_on_batch(self) -> None:
        """Tell the searcher the batch, in the order in which it asked."""
        for one in self._batch:
            self._pass_on(one)
        self._batch = []

    def _pass_on(self, one: Architecture) -> None:
        for searcher, goals in self._parts:
            tell(searcher, one, self._known[one.key], goals.objectives, goals.constraints, goals.focus)
        self._passed.add(one.key)


def _nobody() -> Pool:
    raise ValueError(
        "the candidates of this run lack values that are now asked for, and a loop of ask and tell does not measure "
        "what is known; let search(..., extend=True) measure them, or ask for what they have"
    )
