"""Where evaluations run: the protocol, and the pool that runs them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from nas.storage.records import Candidate
from search_spaces import Architecture


class Pool(Protocol):
    """Evaluates architectures. What fails is a candidate with an error; a dead worker is nobody's
    candidate, and its work is done again."""

    def map(self, architectures: Iterable[Architecture]) -> Iterator[Candidate]:
        """One candidate per architecture, as they come."""

    def close(self) -> None: ...


class HerePool:
    """One after the other, in this process."""

    def __init__(self, evaluate: Callable[[Architecture], Candidate]):
        self.evaluate = evaluate

    def map(self, architectures: Iterable[Architecture]) -> Iterator[Candidate]:
        yield from map(self.evaluate, architectures)

    def close(self) -> None:
        pass
