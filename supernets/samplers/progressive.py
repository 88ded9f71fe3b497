"""Progressive shrinking: first the largest networks, then smaller and smaller ones, as a schedule.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, section
3.3. It stands around any sampler. A kind of decision stays closed until its share of the steps has passed:
whatever that sampler drew, a closed decision takes its largest option. Kinds are

    resolution, depth, width, expansion    the number itself
    kernel                                 the settings of operators on which the number of weights depends:
                                           kernel sizes, mixed kernels, ranks; the most is the largest

What has no order is never closed: operators, attention, shared kernels, settings such as dilation that
change no weight. An operator that is not drawn has weights that are not trained, so closing it would only
start it later.

The paper trains the largest network first, then opens kernels, depths and at last expansions, each in a
training of its own, and distils from the largest: `{name: progressive, of: sandwich}`. Here one training
with one schedule of the learning rate holds all phases, so all is open from half of the steps on, while the
rate is still high; these shares are ours, not the paper's. Depths and expansions open whole, not option by
option.

A sampler that draws by cost, or deals options out fairly, does so only when all is open: until then what it
drew is made larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np

from search_spaces import Architecture, SearchSpace
from search_spaces.strict import check_keys
from search_spaces.vectors import Decision
from supernets.cost import Costs
from supernets.samplers.plan import Look, Plan, Sampler, Wrapper, check_one_of

KINDS = ("resolution", "kernel", "depth", "expansion", "width")
PHASES = (
    {"at": 0.2, "open": "kernel"},
    {"at": 0.35, "open": "depth"},
    {"at": 0.5, "open": ("expansion", "width")},
)


class Progressive(Wrapper):
    """
    Args:
        of: the sampler that draws what is then made as large as the phase asks.
        phases: what opens when: `at`, a share of the steps, and `open`, a kind or a list of them. Kinds
            that no phase opens are open from the start.

    Raises:
        ValueError: the space is one of cells, which have nothing to shrink.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Costs,
        steps: int,
        of: Sampler,
        phases: Sequence[Mapping[str, Any]] = PHASES,
    ):
        self.check(phases=phases)
        if not isinstance(space, SearchSpace):
            raise ValueError(
                f"the space {space.name} is one of cells, which have no {', '.join(KINDS[1:])} to shrink; "
                "train it without progressive"
            )
        super().__init__(of)
        self.space = space
        self.opening = {kind: phase["at"] * steps for phase in phases for kind in _kinds(phase)}
        self.largest = largest_options(space, costs)

    @staticmethod
    def check(phases: Sequence[Mapping[str, Any]] = PHASES) -> None:
        if not isinstance(phases, Sequence) or isinstance(phases, str) or not phases:
            raise ValueError(f"phases is {phases!r}; it must be a list such as [{{at: 0.2, open: kernel}}]")
        opened: set[str] = set()
        for number, phase in enumerate(phases):
            _check_phase(f"phases[{number}]", phase, opened)

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        plan = self.of.plan(step, random, look)
        first, *others = (self.enlarged(one, step, random) for one in plan.architectures)
        if plan.distil:  # what became the teacher itself has nothing to learn from it
            others = [one for one in others if one != first]
        return Plan((first, *others), plan.distil)

    def enlarged(self, architecture: Architecture, step: int, random: Random) -> Architecture:
        """The architecture with the largest option of every decision that is closed in that step.

        What arises only thereby, such as the blocks of a greater depth, is drawn uniformly.
        """
        closed = {
            place: option
            for place, (kind, option) in self.largest.items()
            if step < self.opening.get(kind, 0)
        }
        if not closed:
            return architecture
        vector = [
            closed.get(place) or option or random.randint(1, len(decision.options))
            for place, (option, decision) in enumerate(
                zip(self.space.encode(architecture), self.space.decisions, strict=True)
            )
        ]
        return self.space.decode(vector)


def _check_phase(where: str, phase: object, opened: set[str]) -> None:
    """Raise ValueError unless it is a phase that opens what no other opens; add that to `opened`."""
    if not isinstance(phase, Mapping) or not {"at", "open"} <= phase.keys():
        raise ValueError(f"{where} is {phase!r}; it must be a mapping such as {{at: 0.2, open: kernel}}")
    check_keys(where, phase, ("at", "open"))
    share = phase["at"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(
            f"{where}.at is {share!r}; it must be a share of the steps, at least 0 and below 1: what opens "
            "at the end is never trained"
        )
    for kind in _kinds(phase):
        check_one_of(f"{where}.open", kind, KINDS)
        if kind in opened:
            raise ValueError(f"{where}.open is {kind}, which opens twice; keep one")
        opened.add(kind)


def _kinds(phase: Mapping[str, Any]) -> Sequence[str]:
    return phase["open"] if isinstance(phase["open"], list | tuple) else (phase["open"],)


# -- which option is the largest ---------------------------------------------------------------


def largest_options(space: SearchSpace, costs: Costs) -> dict[int, tuple[str, int]]:
    """The kind and the largest option, from 1, of every decision that can be closed, by its place."""
    largest = {}
    for place, decision in enumerate(space.decisions):
        kind = decision.name.split()[-1]
        if kind in KINDS:
            largest[place] = kind, decision.options.index(max(decision.options)) + 1
        elif "." in kind and (option := _most_weights(space, costs, decision)):
            largest[place] = "kernel", option
    return largest


def _most_weights(space: SearchSpace, costs: Costs, decision: Decision) -> int:
    """The option, from 1, of an operator's setting by which it has most weights; 0 if it has no order.

    All blocks of the stage take the same option: of blocks that share kernels, those that are alike hold fewer.
    """
    if any(isinstance(option, str | bool) for option in decision.options):
        return 0
    block, setting = decision.name.rsplit(" ", 1)
    stage, operator = block.split(" block ")[0], setting.split(".")[0]
    deepest = [len(one.options) for one in space.decisions]  # where every block arises
    vectors = np.tile(deepest, (len(decision.options), 1))
    for where, other in enumerate(space.decisions):
        if not other.name.startswith(f"{stage} block "):
            continue
        if other.name.endswith(" operator") and operator in other.options:
            vectors[:, where] = other.options.index(operator) + 1
        elif other.name.endswith(f" {setting}") and other.options == decision.options:
            vectors[:, where] = np.arange(1, len(decision.options) + 1)
    weights = costs.of("parameters")(space.canonical(vectors))
    if (weights == weights[0]).all():
        return 0
    return int(np.flatnonzero(weights == weights.max())[-1]) + 1
