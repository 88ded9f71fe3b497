"""Where evaluations run: the protocol, and the pools that run them in this process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")  # an architecture, or a request for a trial; it has a `key`
Outcome = TypeVar("Outcome")  # a candidate, or a trial


class Pool(Protocol[Item, Outcome]):
    """Evaluates architectures. What fails is a candidate with an error; a dead worker is nobody's
    candidate, and its work is done again. Likewise for whatever else is evaluated."""

    def map(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """One outcome per item, as they come."""

    def close(self) -> None: ...


class HerePool(Generic[Item, Outcome]):
    """One after the other, in this process."""

    def __init__(self, evaluate: Callable[[Item], Outcome]):
        self.evaluate = evaluate

    def map(self, items: Iterable[Item]) -> Iterator[Outcome]:
        yield from map(self.evaluate, items)

    def close(self) -> None:
        pass


class TogetherPool(Generic[Item, Outcome]):
    """All that was asked for at once, in this process, by a function that shares what they have in common."""

    def __init__(self, evaluate: Callable[[list[Item]], Iterator[Outcome]]):
        self.evaluate = evaluate

    def map(self, items: Iterable[Item]) -> Iterator[Outcome]:
        return self.evaluate(list(items))

    def close(self) -> None:
        pass


def shared_out(items: Sequence[Item], workers: int) -> list[list[Item]]:
    """Items in portions for so many workers, in order: large ones first, so that what is next to each other stays
    together, and single ones at last, so that all are busy until the end.

    Each portion is two thirds of a worker's equal share of the rest, after the guided self-scheduling of
    Polychronopoulos and Kuck (IEEE Transactions on Computers 36(12), 1987), which takes the whole share.
    """
    rest, portions = list(items), []
    while rest:
        size = math.ceil(len(rest) / (1.5 * workers))
        portions.append(rest[:size])
        rest = rest[size:]
    return portions
