"""Ask and tell, for people with a loop of their own: they evaluate, we propose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nas.found import Found
from nas.goals import constraints_of, focus_of, keys_of, objectives_of
from nas.own_evaluator import checked
from nas.search import IDLE, Search, make_searcher, tell
from nas.storage.records import Candidate, Constraint, Objective
from search_spaces import Architecture


class AskTell:
    """A searcher, and what it was told.

    What is asked is told before the next question, in any order: proposals follow from the seed and what was
    told, and from nothing else.

    Raises:
        ValueError: no such searcher, goal, limit or focus.
    """

    def __init__(
        self,
        space: Any,
        objectives: Mapping[str, str] | Sequence[Objective],
        searcher: str | Mapping[str, Any] = Search.searcher,
        seed: int = 0,
        constraints: Mapping[str, Mapping[str, float]] | Sequence[Constraint] = (),
        focus: Mapping[str, Sequence[float | None]] | Sequence[Constraint] = (),
    ):
        self.space = space
        self.objectives, self.constraints = objectives_of(objectives), constraints_of(constraints)
        self.focus = focus_of(focus, self.objectives)
        self.searcher = make_searcher(Search(searcher=searcher, seed=seed), space, len(self.objectives))
        self._batch: list[Architecture] = []  # as the searcher asked, known ones among them
        self._known: dict[str, Candidate] = {}
        self._waiting: dict[str, Architecture] = {}  # asked and not told, by key

    def ask(self, count: int = 1) -> list[Any]:
        """At most `count` architectures that were not asked before; none if the searcher has nothing left.

        Raises:
            ValueError: something that was asked is not told yet.
        """
        if count < 1:
            raise ValueError(f"asked for {count} architectures; ask for at least 1")
        if self._waiting:
            raise ValueError(
                f"{len(self._waiting)} of the last architectures are not told yet, the first is "
                f"{next(iter(self._waiting.values()))}; tell their values, or None for what failed"
            )
        for _ in range(IDLE):
            self._batch = self.searcher.ask(count)
            if not self._batch:
                return []
            self._waiting = {one.key: one for one in self._batch if one.key not in self._known}
            if self._waiting:
                return list(self._waiting.values())
            self._pass_on()
        return []

    def tell(self, architecture: Any, values: Mapping[str, float] | None, seconds: float = 0.0) -> Candidate:
        """Record what an architecture came to.

        Args:
            values: a number for every objective, and for whatever else is limited; None if it failed.

        Raises:
            ValueError: it was not asked for, it was told before, or a value is missing, too many or no finite number.
        """
        key = getattr(architecture, "key", None)
        if key not in self._waiting:
            said = "was told before" if key in self._known else "was not asked for"
            raise ValueError(f"the architecture {architecture} {said}; tell what `ask` returned, once")
        text, number = self._waiting[key].to_json(), len(self._known) + 1
        if values is None:
            candidate = Candidate(key, text, error="told as failed", seconds=seconds, number=number)
        else:
            kept = checked(values, keys_of(self.objectives, self.constraints), "tell got")
            candidate = Candidate(key, text, kept, seconds=seconds, number=number)
        self._known[key] = candidate
        del self._waiting[key]
        if not self._waiting:
            self._pass_on()
        return candidate

    @property
    def found(self) -> Found:
        """What is known so far, as `search` returns it."""
        return Found(self.space, self.objectives, self.constraints, list(self._known.values()))

    def front(self) -> list[Candidate]:
        """The candidates so far that nothing dominates."""
        return self.found.front

    def _pass_on(self) -> None:
        """Tell the searcher the batch, in the order in which it asked."""
        for one in self._batch:
            tell(self.searcher, one, self._known[one.key], self.objectives, self.constraints, self.focus)
        self._batch = []
