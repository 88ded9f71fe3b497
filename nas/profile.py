"""What an experiment is about, before anything is trained: the size of its space, what it costs, and whether
its constraints can be met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random

import numpy as np

from nas import config
from nas.data import load
from nas.predictors.accuracy import block_shares
from nas.search import make_searcher
from nas.storage.records import Constraint
from search_spaces import NetworkArchitecture, SearchSpace
from supernets.cost import COSTS, CostTable, cost_table

DRAWN = 10_000  # architectures that the medians and shares are taken from
LOOKED_AT = 1000  # of these, for their operators


class Infeasible(ValueError):
    """No architecture of the space keeps a constraint."""


@dataclass(frozen=True)
class Profile:
    """`costs` holds min, median and max of each cost; the median is over architectures drawn uniformly
    per decision. `shares` holds, for each constraint on a cost, the share of those that keep it."""

    name: str
    images: str
    noun: str  # what one of them is called
    size: int
    decisions: int
    blocks: tuple[int, int]  # fewest and most
    supernet_parameters: int
    steps: int
    costs: dict[str, dict[str, float]]
    shares: dict[str, float]
    joint: float  # the share that keeps all of those limits
    measured_later: tuple[str, ...]  # constraints on what only a measurement can tell
    operators: dict[
        str, float
    ]  # in which share of the blocks of random architectures each is, the commonest first

    def to_dict(self) -> dict:
        return asdict(self)


def profile(experiment: config.Experiment) -> Profile:
    """Count the space of an experiment.

    Raises:
        Infeasible: a constraint on MACs, parameters or bytes that no architecture keeps.
        ValueError: the experiment names a searcher, a sampler or a GPU that is not there.
    """
    from nas.data.batches import Batches
    from nas.evaluation import space_of
    from supernets.supernet import make_supernet

    splits = load(experiment.data)
    space = space_of(experiment, splits)
    check_possible(experiment, space)
    table = cost_table(space)
    limits = [one for one in experiment.constraints if one.key in COSTS]
    random = Random(0)
    architectures = [space.sample(random) for _ in range(min(DRAWN, 10 * space.size))]
    drawn = table.of(architectures)
    extremes = table.of([table.smallest, table.largest])
    every = np.concatenate([drawn, extremes])
    kept = {limit.key: _kept(limit, drawn[:, COSTS.index(limit.key)]) for limit in limits}
    batches = Batches(splits.train, splits.mean, splits.std, experiment.training.batch_size, 0)
    return Profile(
        name=experiment.name,
        images=str(splits),
        noun=splits.noun,
        size=space.size,
        decisions=len(space.decisions),
        blocks=space.depth_range,
        supernet_parameters=sum(one.numel() for one in make_supernet(space).parameters()),
        steps=experiment.training.steps(batches.steps_per_epoch()),
        costs={
            cost: {
                "min": int(every[:, column].min()),
                "median": float(np.median(drawn[:, column])),
                "max": int(every[:, column].max()),
            }
            for column, cost in enumerate(COSTS)
        },
        shares={key: float(one.mean()) for key, one in kept.items()},
        joint=float(np.logical_and.reduce([np.ones(len(drawn), bool), *kept.values()]).mean()),
        measured_later=tuple(one.key for one in experiment.constraints if one.key not in COSTS),
        operators=_operators(architectures[:LOOKED_AT]),
    )


def _operators(architectures: Sequence[NetworkArchitecture]) -> dict[str, float]:
    """Whose turn it is in a block, as shares; of cells, of their paths or edges."""
    counted: Counter[str] = Counter()
    for one in architectures:
        for name, share in block_shares(one).items():
            counted[name] += share / len(architectures)
    return {name: share for name, share in counted.most_common() if " " not in name}  # others are settings


def check_possible(experiment: config.Experiment, space: SearchSpace) -> None:
    """Refuse what would fail after hours: a wrong searcher or sampler, constraints that nothing can meet."""
    from supernets.samplers import check_sampler
    from supernets.training import training_device

    training_device(experiment.training)
    check_sampler(experiment.training.sampler)
    make_searcher(experiment.search, space, len(experiment.objectives))
    if limits := [one for one in experiment.constraints if one.key in COSTS]:
        check_constraints(limits, cost_table(space))


def check_constraints(limits: Sequence[Constraint], table: CostTable) -> None:
    """Raise Infeasible for the first limit that lies outside what the space can cost.

    The least and the most MACs are exact, but for kernels that learn their size, of which the largest counts;
    parameters and bytes are judged by those two architectures and a sample, and refused only if all of them
    break the limit on the same side.
    """
    random = Random(0)
    architectures = [table.smallest, table.largest, *(table.space.sample(random) for _ in range(1000))]
    costs = table.of(architectures)
    for limit in limits:
        values = costs[:, COSTS.index(limit.key)]
        low, high = int(values.min()), int(values.max())
        if limit.max is not None and low > limit.max:
            raise Infeasible(
                f"constraints.{limit.key}.max is {limit.max:g}, but the smallest architecture of the space "
                f"{table.space.name} has {low}; raise the limit or choose a smaller space"
            )
        if limit.min is not None and high < limit.min:
            raise Infeasible(
                f"constraints.{limit.key}.min is {limit.min:g}, but the largest architecture of the space "
                f"{table.space.name} has {high}; lower the limit or choose a larger space"
            )


def _kept(limit: Constraint, values: np.ndarray) -> np.ndarray:
    return np.array([limit.violation(value, value) == 0 for value in values])
