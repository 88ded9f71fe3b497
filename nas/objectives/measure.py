"""What an objective is to the code that evaluates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.storage.records import Latency, Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench
    from search_spaces import Architecture


@dataclass(frozen=True)
class Measured:
    """A value in the objective's unit, its 95 % interval if it is uncertain, and the record behind it.

    `scored` is of an accuracy on a part of the images: on how many, and of how many.
    """

    value: float
    interval: tuple[float, float] | None = None
    latency: Latency | None = None
    scored: tuple[int, int] | None = None


@dataclass(frozen=True)
class Measure:
    """An objective and how it is measured.

    `of(subnet, input_shape, bench)` gets an exported subnet in evaluation mode and the (C, H, W) or
    (C, L) it works on. `statistics` says that the subnet must have batch-norm statistics of its own,
    `quiet` that nothing else may run on the machine meanwhile.

    What can be measured of several subnets in turns has `of_all(subnets, bench)` beside it, which gets each with its
    (C, H, W) or (C, L).

    What follows from other values has `of_values(architecture, values, bench)` instead, and `needs` says by their keys
    which, so that they are measured before.
    """

    objective: Objective
    of: Callable[[nn.Module, tuple[int, ...], Bench], Measured] | None = None
    statistics: bool = False
    quiet: bool = False
    of_all: Callable[[Sequence[tuple[nn.Module, tuple[int, ...]]], Bench], list[Measured]] | None = None
    needs: tuple[str, ...] = ()
    of_values: Callable[[Architecture, Mapping[str, float], Bench], Measured] | None = None
