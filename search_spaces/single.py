"""One architecture as a space of its own, to train it alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from search_spaces.cells import CellSpace
from search_spaces.edge_cells import EdgeCellSpace
from search_spaces.parts import Block, Choice, Option, Stage, StageChoice
from search_spaces.topologies import NetworkArchitecture, NetworkSpace

T = TypeVar("T")


def only(space: NetworkSpace, architecture: NetworkArchitecture) -> NetworkSpace:
    """The smallest space that holds the architecture, of whichever topology.

    It holds nothing else, but for stages that share kernels among unlike blocks: there every block after the
    first keeps the options of all of them, since blocks that share must be alike.

    Raises:
        ValueError: it is not an architecture of this space; the message names the place.
    """
    space.check(architecture)
    name, resolutions = f"{space.name}-{architecture.key}", (architecture.resolution,)
    if isinstance(space, EdgeCellSpace):
        return replace(space, name=name, found=architecture.edges)
    if isinstance(space, CellSpace):
        found = (architecture.normal, architecture.reduction)
        return replace(space, name=name, resolutions=resolutions, found=found)
    pairs = zip(space.stages, architecture.stages, strict=True)
    stages = tuple(_stage(stage, chosen) for stage, chosen in pairs)
    return replace(space, name=name, resolutions=resolutions, stages=stages)


def _stage(stage: Stage, chosen: StageChoice) -> Stage:
    first, *rest = chosen.blocks
    blocks = (_block(rest if chosen.share_kernels else [choice]) for choice in rest)
    return replace(
        stage,
        widths=(chosen.width,),
        depths=(len(chosen.blocks),),
        blocks=(_block([first]), *blocks),
        share_kernels=(chosen.share_kernels,),
        shareable=stage.shareable if chosen.share_kernels else (),
    )


def _block(choices: Iterable[Choice]) -> Block:
    """What may become each of the choices, and as little else as possible."""
    choices = list(choices)
    return Block(
        tuple(_option(name, choices) for name in _different(choice.operator for choice in choices)),
        _different(choice.expansion for choice in choices),
        _different(choice.attention for choice in choices),
        _different(choice.weight_bits for choice in choices),
        _different(choice.activation_bits for choice in choices),
    )


def _option(operator: str, choices: Iterable[Choice]) -> Option:
    chosen = [dict(choice.settings) for choice in choices if choice.operator == operator]
    return Option(operator, tuple((name, _different(one[name] for one in chosen)) for name in chosen[0]))


def _different(values: Iterable[T]) -> tuple[T, ...]:
    """Each value once, numbers in ascending order, as a space lists them."""
    once = tuple(dict.fromkeys(values))
    return once if isinstance(once[0], str) else tuple(sorted(once))
