"""How an architecture's decisions stand in its vector of integers.

Every decision has a place of its own, counted from 1; what does not arise is 0. A decision with a single
option has no place: there is nothing to decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces.parts import Block, Choice, Stage, Value, short

AROUND = ("expansion", "attention", "weight_bits", "activation_bits")  # a block's own settings


@dataclass(frozen=True)
class Decision:
    """One place of an architecture's vector: its name, and what 1, 2, ... stand for there."""

    name: str
    options: tuple[Value, ...]


def check_vector(name: str, decisions: Sequence[Decision], vector: Sequence[int]) -> None:
    """
    Raises:
        ValueError: it has another length, or a number above the count of a decision's options.
    """
    if len(vector) != len(decisions):
        raise ValueError(f"a vector of {name} has {len(decisions)} places, not {len(vector)}")
    for value, decision in zip(vector, decisions, strict=True):
        if not 0 <= value <= len(decision.options):
            raise ValueError(f"{decision.name} has options 1 to {len(decision.options)}, not {value}")


@dataclass(frozen=True)
class BlockPlaces:
    """Where a block's decisions stand in the vector; None where there is nothing to decide."""

    operator: int | None
    settings: tuple[tuple[int | None, ...], ...]  # per option, per setting
    around: tuple[int | None, ...]  # expansion, attention, weight_bits, activation_bits


@dataclass(frozen=True)
class Layout:
    """All decisions of a space, and where those of the resolution, the stages and the blocks stand.

    `stages` holds (width, depth) of each stage, `blocks` the places of each block of each stage, `shares`
    where each stage says whether it shares kernels.
    """

    decisions: tuple[Decision, ...]
    resolution: int | None
    stages: tuple[tuple[int | None, int | None], ...]
    blocks: tuple[tuple[BlockPlaces, ...], ...]
    shares: tuple[int | None, ...]


def layout(resolutions: Sequence[int], stages: Sequence[Stage]) -> Layout:
    decisions: list[Decision] = []

    def place(name: str, options: Sequence[Value]) -> int | None:
        if len(options) == 1:
            return None
        decisions.append(Decision(name, tuple(options)))
        return len(decisions) - 1

    resolution = place("resolution", resolutions)
    stage_places, block_places, shares = [], [], []
    for s, stage in enumerate(stages):
        stage_places.append(
            (place(f"stage {s} width", stage.widths), place(f"stage {s} depth", stage.depths))
        )
        places = (_place_block(place, f"stage {s} block {b}", block) for b, block in enumerate(stage.blocks))
        block_places.append(tuple(places))
        shares.append(place(f"stage {s} share_kernels", stage.share_kernels))
    return Layout(tuple(decisions), resolution, tuple(stage_places), tuple(block_places), tuple(shares))


def choice_column(zero_based: np.ndarray, places: BlockPlaces, block: Block) -> np.ndarray:
    """Index in `block.choices`, (n,): mixed radix over the operator, its settings, the block's settings."""

    def digits(where: Sequence[int | None], radices: Sequence[int]) -> np.ndarray:
        number = np.zeros(len(zero_based), np.int64)
        for at, radix in zip(where, radices, strict=True):
            number = number * radix + (0 if at is None else zero_based[:, at])
        return number

    around = digits(places.around, [len(values) for values in block.around])
    per_around = math.prod(len(values) for values in block.around)
    operator = 0 if places.operator is None else zero_based[:, places.operator]
    column, start = np.zeros(len(zero_based), np.int64), 0
    for number, option in enumerate(block.options):
        radices = [len(values) for _, values in option.settings]
        inside = start + digits(places.settings[number], radices) * per_around + around
        column = np.where(operator == number, inside, column)
        start += math.prod(radices) * per_around
    return column


def clear_absent(vectors: np.ndarray, places: BlockPlaces, there: np.ndarray) -> np.ndarray:
    """Set to 0, in place, what does not arise of a block: all where it is not `there`, (n,), and the settings
    of the operators that were not chosen.

    Returns:
        The index of the operator, (n,), whether the block is there or not.
    """
    operator = (
        np.zeros(len(vectors), np.int64) if places.operator is None else vectors[:, places.operator] - 1
    )
    for number, settings in enumerate(places.settings):
        chosen = there & (operator == number)
        for place in settings:
            if place is not None:
                vectors[:, place] *= chosen
    for place in (places.operator, *places.around):
        if place is not None:
            vectors[:, place] *= there
    return operator


def can_share_columns(stage: Stage, operators: Sequence[np.ndarray]) -> np.ndarray:
    """`stage.can_share` of many rows, (n,), by each block's index of its operator, (n,), -1 where it is absent."""
    shareable = [n for n, option in enumerate(stage.blocks[-1].options) if option.operator in stage.shareable]
    counts = [sum(block == number for block in operators[1:]) for number in shareable]
    return np.any([count > 1 for count in counts], axis=0)


def put(vector: list[int], place: int | None, options: Sequence[Value], value: Value, name: str) -> None:
    if value not in options:
        raise ValueError(f"{name} is {short(value)}; the space offers {', '.join(map(short, options))}")
    if place is not None:
        vector[place] = options.index(value) + 1


def get(vector: Sequence[int], place: int | None, options: Sequence[Value]) -> Any:
    return options[0 if place is None else max(vector[place] - 1, 0)]


def put_choice(vector: list[int], places: BlockPlaces, block: Block, choice: Choice, name: str) -> None:
    operators = [option.operator for option in block.options]
    put(vector, places.operator, operators, choice.operator, f"{name} operator")
    number = operators.index(choice.operator)
    chosen = dict(choice.settings)
    settings = block.options[number].settings
    if set(chosen) != {setting for setting, _ in settings}:
        raise ValueError(
            f"{name} {choice.operator} has settings {', '.join(chosen) or 'none'}; the space has "
            f"{', '.join(setting for setting, _ in settings) or 'none'}"
        )
    for (setting, values), place in zip(settings, places.settings[number], strict=True):
        put(vector, place, values, chosen[setting], f"{name} {choice.operator}.{setting}")
    own = (choice.expansion, choice.attention, choice.weight_bits, choice.activation_bits)
    for kind, place, values, value in zip(AROUND, places.around, block.around, own, strict=True):
        put(vector, place, values, value, f"{name} {kind}")


def get_choice(vector: Sequence[int], places: BlockPlaces, block: Block) -> Choice:
    option = get(vector, places.operator, block.options)
    where = places.settings[block.options.index(option)]
    settings = tuple(
        (name, get(vector, place, values))
        for (name, values), place in zip(option.settings, where, strict=True)
    )
    around = (get(vector, place, values) for place, values in zip(places.around, block.around, strict=True))
    return Choice(option.operator, settings, *around)


def _place_block(place: Callable, name: str, block: Block) -> BlockPlaces:
    return BlockPlaces(
        operator=place(f"{name} operator", [option.operator for option in block.options]),
        settings=tuple(
            tuple(place(f"{name} {option.operator}.{setting}", values) for setting, values in option.settings)
            for option in block.options
        ),
        around=tuple(
            place(f"{name} {kind}", values) for kind, values in zip(AROUND, block.around, strict=True)
        ),
    )
