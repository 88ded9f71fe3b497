"""What a sampler says and what it may ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import numpy as np

from search_spaces import Architecture
from search_spaces.strict import unknown
from supernets.cost import COSTS


@dataclass(frozen=True)
class Plan:
    """What one step trains. With `distil`, all but the first learn from the first, not from the labels."""

    architectures: tuple[Architecture, ...]
    distil: bool = False


@dataclass(frozen=True)
class Probe:
    """How a sampler looks at the supernet between steps.

    `loss(architecture, number)` is the validation loss on the images of that number, always the same
    ones. `mean_over_ranks` averages an array over the training processes.
    """

    loss: Callable[[Architecture, int], float]
    mean_over_ranks: Callable[[np.ndarray], np.ndarray]


Look = Callable[[Architecture], float]  # its loss on the step's own images, by their labels

Watch = Callable[[str, int, int], None]  # what is being prepared, steps done, steps in all


class Sampler(Protocol):
    """Made as `Sampler(space, costs, steps, **settings)` with `costs` a `supernets.cost.Costs`; one that
    stands around another, as `Sampler(space, costs, steps, other, **settings)`.

    Randomness comes with each call, from the seed, the step and the rank, so only what a sampler learns
    is its state.
    """

    @staticmethod
    def check(**settings: Any) -> None:
        """Raise ValueError for a setting's value that is not allowed, before anything is made.

        The message begins with the setting's name; where in the file it stands is put before it.
        """

    def prepare(self, watch: Watch) -> None:
        """Whatever takes long before the first plan; nothing if it was done before a training was stopped."""

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        """What to train in this step. Each `look` costs a forward pass, so few samplers take one."""

    def update(self, step: int, random: Random, probe: Probe) -> None:
        """Called after every step; learn from the supernet as it is now."""

    def observables(self) -> Mapping[str, float]:
        """What to show of the sampler in the training curves."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned, as JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Stateless:
    """What all samplers say that learn nothing."""

    def prepare(self, watch: Watch) -> None:
        """There is nothing to prepare."""

    def update(self, step: int, random: Random, probe: Probe) -> None:
        """It learns nothing."""

    def observables(self) -> Mapping[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Wrapper:
    """What all samplers say that stand around another: what that one, `of`, learns and shows is theirs."""

    def __init__(self, of: Sampler):
        self.of = of

    def prepare(self, watch: Watch) -> None:
        self.of.prepare(watch)

    def update(self, step: int, random: Random, probe: Probe) -> None:
        self.of.update(step, random, probe)

    def observables(self) -> Mapping[str, float]:
        return self.of.observables()

    def state_dict(self) -> dict[str, Any]:
        return self.of.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.of.load_state_dict(state)


# -- settings ----------------------------------------------------------------------------------


def check_setting(name: str, value: object, low: float, high: float, whole: bool = False) -> None:
    """Raise ValueError unless a sampler's setting is a number, or a whole one, between two limits."""
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        raise ValueError(f"{name} is {value!r}; it must be {what} between {low:g} and {high:g}")


def check_switch(name: str, value: object) -> None:
    """Raise ValueError unless a sampler's setting is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be true or false")


def check_one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ValueError unless a sampler's setting is one of some names."""
    allowed = list(allowed)  # a list, since what people write need not be hashable
    if value not in allowed:
        raise unknown(f"{name} {value!r}", value, allowed)


def check_cost(value: object) -> None:
    """Raise ValueError unless a sampler's setting `cost` is one that `Costs.of` may know."""
    of_a_device = isinstance(value, str) and value.startswith("latency_ms@")
    if not of_a_device:
        check_one_of("cost", value, (*COSTS, "latency_ms"))
