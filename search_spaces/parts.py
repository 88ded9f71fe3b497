"""What spaces and architectures are made of: flat, frozen, hashable data."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeAlias

Value: TypeAlias = int | float | str | bool | tuple


@dataclass(frozen=True)
class Choice:
    """One operator with every setting set, and the block's own settings around it.

    `expansion` is the ratio of the hidden channels, on which the operator works, to the block's input
    channels. `weight_bits` and `activation_bits` are 32 for float.
    """

    operator: str
    settings: tuple[tuple[str, Value], ...] = ()
    expansion: float = 1
    attention: str = "none"
    weight_bits: int = 32
    activation_bits: int = 32

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={short(value)}" for name, value in self.settings if value is not False)
        words = [f"{self.operator}({settings})" if settings else self.operator, f"×{self.expansion:g}"]
        words += [self.attention] if self.attention != "none" else []
        words += [f"w{self.weight_bits}a{self.activation_bits}"] if self.weight_bits < 32 else []
        return " ".join(words)


@dataclass(frozen=True)
class StageChoice:
    """What one stage became: its width, a row of choices whose length is its depth, and whether blocks of
    one operator share its weights."""

    width: int
    blocks: tuple[Choice, ...]
    share_kernels: bool = False

    def __str__(self) -> str:
        shared = ", shared kernels" if self.share_kernels else ""
        return f"width {self.width}{shared}: {' | '.join(map(str, self.blocks))}"


@dataclass(frozen=True)
class Architecture:
    """One network of a space: the image height it works at, and its stages."""

    resolution: int
    stages: tuple[StageChoice, ...]

    def __str__(self) -> str:
        return f"{self.resolution} px; {'; '.join(map(str, self.stages))}"

    @property
    def traits(self) -> list[list[str]]:
        """What each block has: operator, settings, expansion, attention. Settings are named after their operator:
        `depthwise kernel_size=5`."""
        return [
            [
                one.operator,
                *(f"{one.operator} {name}={short(value)}" for name, value in one.settings),
                f"expansion ×{one.expansion:g}",
                f"attention {one.attention}",
            ]
            for stage in self.stages
            for one in stage.blocks
        ]

    @cached_property
    def key(self) -> str:
        """A stable name: the first 12 hexadecimal digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        stages = [
            {
                "width": stage.width,
                "blocks": [{**asdict(choice), "settings": dict(choice.settings)} for choice in stage.blocks],
                **({"share_kernels": True} if stage.share_kernels else {}),
            }
            for stage in self.stages
        ]
        fields = {"resolution": self.resolution, "stages": stages}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        fields = json.loads(text)
        stages = tuple(
            StageChoice(
                stage["width"],
                tuple(_choice(block) for block in stage["blocks"]),
                stage.get("share_kernels", False),
            )
            for stage in fields["stages"]
        )
        return cls(fields["resolution"], stages)


@dataclass(frozen=True)
class Option:
    """One operator that a block may use, with the values that each of its settings may take.

    Settings are in alphabetical order, here and in a Choice, so that equal means equal.
    """

    operator: str
    settings: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    def __post_init__(self) -> None:
        assert list(self.settings) == sorted(self.settings, key=lambda setting: setting[0])


@dataclass(frozen=True)
class Block:
    """One place in the network and everything it may become."""

    options: tuple[Option, ...]
    expansions: tuple[float, ...] = (1,)
    attentions: tuple[str, ...] = ("none",)
    weight_bits: tuple[int, ...] = (32,)
    activation_bits: tuple[int, ...] = (32,)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Every choice, in a fixed order; `SearchSpace.choice_indices` counts in it."""
        return tuple(
            Choice(option.operator, settings, *around)
            for option in self.options
            for settings in _products(option.settings)
            for around in itertools.product(*self.around)
        )

    @property
    def around(self) -> tuple[tuple[Value, ...], ...]:
        """The block's own settings, in the order in which Choice takes them."""
        return self.expansions, self.attentions, self.weight_bits, self.activation_bits


@dataclass(frozen=True)
class Stage:
    """A row of blocks of one width. Its first block has the stride, the others have 1.

    `blocks` is as long as the largest depth; an architecture keeps the first ones.

    Where an architecture shares kernels, all blocks after the first use the second's weights of the
    operators that are `shareable`; the first, which differs in stride and input, keeps its own. There is
    something to share, and to decide, only if two of them chose the same operator. `share_kernels` has
    what may be decided, from fewer weights to more: (True, False).
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int
    blocks: tuple[Block, ...]
    activation: str = "relu"
    share_kernels: tuple[bool, ...] = (False,)
    shareable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert not any(self.share_kernels) or len(set(self.blocks[1:])) == 1, "blocks that share are alike"

    def can_share(self, row: Sequence[Choice]) -> bool:
        """Whether two blocks of a row, after its first, chose the same shareable operator."""
        chosen = [choice.operator for choice in row[1:] if choice.operator in self.shareable]
        return len(set(chosen)) < len(chosen)

    def rows(self, depth: int) -> int:
        """How many rows of so many blocks there are, each counted as often as it may share or not."""
        rows = math.prod(len(block.choices) for block in self.blocks[:depth])
        if len(self.share_kernels) == 1 or depth < 3:
            return rows
        return 2 * rows - len(self.blocks[0].choices) * self._without_pair(depth - 1)

    def _without_pair(self, blocks: int) -> int:
        """How many rows of so many blocks after the first choose no shareable operator twice."""
        ways = [1] + [0] * blocks  # ways[n]: to choose n different shareable operators and their settings
        other = 0
        for operator, choices in Counter(choice.operator for choice in self.blocks[1].choices).items():
            if operator not in self.shareable:
                other += choices
                continue
            for number in range(blocks, 0, -1):
                ways[number] += ways[number - 1] * choices
        return sum(
            several * math.perm(blocks, number) * other ** (blocks - number)
            for number, several in enumerate(ways)
        )


@dataclass(frozen=True)
class Stem:
    """The convolution that every architecture starts with."""

    width: int
    kernel_size: int = 3
    stride: int = 1


def _products(settings: Sequence[tuple[str, tuple[Value, ...]]]) -> Iterator[tuple[tuple[str, Value], ...]]:
    names = [name for name, _ in settings]
    for values in itertools.product(*(values for _, values in settings)):
        yield tuple(zip(names, values, strict=True))


def _choice(fields: Mapping[str, Any]) -> Choice:
    settings = tuple((name, tuples(value)) for name, value in sorted(fields["settings"].items()))
    return Choice(**{**fields, "settings": settings})


def block_from_json(fields: Mapping[str, Any]) -> Block:
    return Block(**{**fields, "options": tuple(Option(**option) for option in fields["options"])})


def tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, list):
        return tuple(tuples(one) for one in value)
    if isinstance(value, dict):
        return {key: tuples(one) for key, one in value.items()}
    return value


def short(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        "+".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
