"""One search per device, over one supernet: their searchers take turns, and each hears of every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.devices import Goals

if TYPE_CHECKING:
    from nas.search import Searcher
    from search_spaces import Architecture


class Turns:
    """Several searchers, each with goals of its own, of which one after the other is asked.

    What one of them asked for is evaluated once, in all that any of them goes by; `nas.search.search` tells it to
    each, in the terms of its own goals. So nothing is evaluated twice, and what is proposed follows from the seeds.
    """

    def __init__(self, parts: Sequence[tuple[Searcher, Goals]]):
        self.parts = tuple(parts)
        self.next = 0

    def ask(self, count: int) -> list[Architecture]:
        """What the next of them asks for that has something left; none if nobody has."""
        for _ in self.parts:
            searcher, _ = self.parts[self.next]
            self.next = (self.next + 1) % len(self.parts)
            if asked := searcher.ask(count):
                return asked
        return []

    def expect(self, architectures: Sequence[Architecture]) -> None:
        """Hear what was asked before, by whichever of them."""
        for searcher, _ in self.parts:
            searcher.expect(architectures)
