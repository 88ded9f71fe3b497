"""A search space is data: stages of blocks, each block one choice among all its operators and settings.

An architecture is canonical: a block that is not there has no choice, so two spellings of one network
cannot exist. For search algorithms it is also a vector of integers of fixed length, one per decision,
1 for a decision's first option and 0 where the decision does not arise (a block beyond the depth, a
setting of another operator).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random
from typing import Any, TypeAlias

import numpy as np

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
        settings = ", ".join(f"{name}={_short(value)}" for name, value in self.settings)
        words = [f"{self.operator}({settings})" if settings else self.operator, f"×{self.expansion:g}"]
        words += [self.attention] if self.attention != "none" else []
        words += [f"w{self.weight_bits}a{self.activation_bits}"] if self.weight_bits < 32 else []
        return " ".join(words)


@dataclass(frozen=True)
class StageChoice:
    """What one stage became: its width, and a row of choices whose length is its depth."""

    width: int
    blocks: tuple[Choice, ...]


@dataclass(frozen=True)
class Architecture:
    """One network of a space: the image height it works at, and its stages."""

    resolution: int
    stages: tuple[StageChoice, ...]

    def __str__(self) -> str:
        stages = "; ".join(
            f"width {stage.width}: {' | '.join(map(str, stage.blocks))}" for stage in self.stages
        )
        return f"{self.resolution} px; {stages}"

    @cached_property
    def key(self) -> str:
        """A stable name: the first 12 hexadecimal digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        stages = [
            {
                "width": stage.width,
                "blocks": [{**asdict(choice), "settings": dict(choice.settings)} for choice in stage.blocks],
            }
            for stage in self.stages
        ]
        fields = {"resolution": self.resolution, "stages": stages}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        fields = json.loads(text)
        stages = tuple(
            StageChoice(stage["width"], tuple(_choice(block) for block in stage["blocks"]))
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
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int
    blocks: tuple[Block, ...]
    activation: str = "relu"


@dataclass(frozen=True)
class Stem:
    """The convolution that every architecture starts with."""

    width: int
    kernel_size: int = 3
    stride: int = 1


@dataclass(frozen=True)
class Decision:
    """One place of an architecture's vector: its name, and what 1, 2, ... stand for there."""

    name: str
    options: tuple[Value, ...]


@dataclass(frozen=True)
class _BlockPlaces:
    """Where a block's decisions stand in the vector; None where there is nothing to decide."""

    operator: int | None
    settings: tuple[tuple[int | None, ...], ...]  # per option, per setting
    around: tuple[int | None, ...]  # expansion, attention, weight_bits, activation_bits


@dataclass(frozen=True)
class SearchSpace:
    """Everything that may vary between a stem and a classifier.

    `image_shape` is (C, H, W) of the data; a resolution r stands for images of height r and
    proportional width. `head_width` is the width of the 1×1 convolution before the pooling, 0 for none.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: int
    resolutions: tuple[int, ...]
    stem: Stem
    stages: tuple[Stage, ...]
    head_width: int = 0
    activation: str = "relu"  # of stem and head

    # -- what there is -------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """How many architectures the space holds, exactly."""
        return len(self.resolutions) * math.prod(
            len(stage.widths)
            * sum(math.prod(len(block.choices) for block in stage.blocks[:depth]) for depth in stage.depths)
            for stage in self.stages
        )

    @property
    def blocks(self) -> Iterator[tuple[int, int, Stage, Block]]:
        """(stage number, block number, stage, block) of every place, in order."""
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(stage.blocks):
                yield s, b, stage, block

    @property
    def positions(self) -> int:
        """How many blocks the deepest architecture has."""
        return sum(len(stage.blocks) for stage in self.stages)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self._layout[0]

    def input_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, H, W) of the images that an architecture of this resolution works on."""
        channels, height, width = self.image_shape
        return channels, resolution, max(1, round(width * resolution / height))

    def check(self, architecture: Architecture) -> None:
        """Raise ValueError, naming the place, if the architecture is not of this space."""
        self.encode(architecture)

    # -- drawing -------------------------------------------------------------------------------

    def sample(self, random: Random) -> Architecture:
        """An architecture drawn uniformly per decision (which is not uniform over architectures)."""
        return self.decode([random.randint(1, len(decision.options)) for decision in self.decisions])

    def mutate(self, architecture: Architecture, random: Random, rate: float | None = None) -> Architecture:
        """A different architecture: each decision changes with probability `rate`, at least one does.

        The default rate is one over the number of decisions that arise. A space of one architecture
        returns that one.
        """
        vector = self.encode(architecture)
        active = [place for place, value in enumerate(vector) if value]
        if not active:
            return architecture
        rate = 1 / len(active) if rate is None else rate
        changed = [place for place in active if random.random() < rate] or [random.choice(active)]
        mutant = self._filled(vector, random)
        for place in changed:
            others = list(range(1, len(self.decisions[place].options) + 1))
            others.remove(vector[place])
            mutant[place] = random.choice(others)
        return self.decode(mutant)

    def crossover(self, mother: Architecture, father: Architecture, random: Random) -> Architecture:
        """A child that takes each decision from either parent, with equal chance (uniform crossover)."""
        pairs = zip(self.encode(mother), self.encode(father), strict=True)
        child = [random.choice((a, b)) or a or b for a, b in pairs]
        return self.decode(self._filled(child, random))

    def _filled(self, vector: Sequence[int], random: Random) -> list[int]:
        """The vector with decisions that did not arise drawn at random: a deeper child needs them."""
        pairs = zip(vector, self.decisions, strict=True)
        return [value or random.randint(1, len(decision.options)) for value, decision in pairs]

    # -- vectors -------------------------------------------------------------------------------

    def encode(self, architecture: Architecture) -> tuple[int, ...]:
        """The vector of an architecture, as long as `decisions`.

        Raises:
            ValueError: it is not an architecture of this space; the message names the place.
        """
        _, resolution, stage_places, block_places = self._layout
        vector = [0] * len(self.decisions)
        _put(vector, resolution, self.resolutions, architecture.resolution, "resolution")
        if len(architecture.stages) != len(self.stages):
            raise ValueError(
                f"the architecture has {len(architecture.stages)} stages, the space {self.name} {len(self.stages)}"
            )
        for s, (stage, chosen) in enumerate(zip(self.stages, architecture.stages, strict=True)):
            width, depth = stage_places[s]
            _put(vector, width, stage.widths, chosen.width, f"stage {s} width")
            _put(vector, depth, stage.depths, len(chosen.blocks), f"stage {s} depth")
            for b, choice in enumerate(chosen.blocks):
                _put_choice(vector, block_places[s][b], stage.blocks[b], choice, f"stage {s} block {b}")
        return tuple(vector)

    def decode(self, vector: Sequence[int]) -> Architecture:
        """The architecture of a vector. Total: 0 counts as 1, places that do not arise are ignored.

        Raises:
            ValueError: wrong length, or a number above the count of the decision's options.
        """
        if len(vector) != len(self.decisions):
            raise ValueError(f"a vector of {self.name} has {len(self.decisions)} places, not {len(vector)}")
        for value, decision in zip(vector, self.decisions, strict=True):
            if not 0 <= value <= len(decision.options):
                raise ValueError(f"{decision.name} has options 1 to {len(decision.options)}, not {value}")
        _, resolution, stage_places, block_places = self._layout
        stages = []
        for s, stage in enumerate(self.stages):
            width, depth = stage_places[s]
            blocks = tuple(
                _get_choice(vector, places, block)
                for places, block in zip(
                    block_places[s][: _get(vector, depth, stage.depths)], stage.blocks, strict=False
                )
            )
            stages.append(StageChoice(_get(vector, width, stage.widths), blocks))
        return Architecture(_get(vector, resolution, self.resolutions), tuple(stages))

    def features(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """One-hot features, (n, sum of option counts) float32: built from the space, never from data.

        A decision that does not arise is a block of zeros.
        """
        vectors = np.array([self.encode(one) for one in architectures], dtype=int).reshape(
            len(architectures), len(self.decisions)
        )
        columns = [
            vectors[:, [place]] == np.arange(1, len(decision.options) + 1)
            for place, decision in enumerate(self.decisions)
        ]
        if not columns:
            return np.zeros((len(architectures), 0), np.float32)
        return np.concatenate(columns, axis=1).astype(np.float32)

    def choice_indices(self, vectors: np.ndarray) -> np.ndarray:
        """For each vector, the index of each block's choice in `Block.choices`, -1 where it is absent.

        Args:
            vectors: (n, decisions) integers.

        Returns:
            (n, positions) integers.
        """
        zero_based = np.maximum(np.asarray(vectors, dtype=np.int64) - 1, 0)
        _, _, stage_places, block_places = self._layout
        columns = []
        for s, b, stage, block in self.blocks:
            depth_place = stage_places[s][1]
            depth = np.array(stage.depths)[0 if depth_place is None else zero_based[:, depth_place]]
            column = _choice_column(zero_based, block_places[s][b], block)
            columns.append(np.where(b < depth, column, -1))
        return np.stack(columns, axis=1)

    def level_indices(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices, from 0, of the resolution, (n,), and of each stage's width, (n, stages)."""
        zero_based = np.maximum(np.asarray(vectors, dtype=np.int64) - 1, 0)
        _, resolution, stage_places, _ = self._layout

        def column(place: int | None) -> np.ndarray:
            return np.zeros(len(zero_based), np.int64) if place is None else zero_based[:, place]

        return column(resolution), np.stack([column(width) for width, _ in stage_places], axis=1)

    @cached_property
    def _layout(self) -> tuple:
        """The decisions, and where those of the resolution, the stages and the blocks stand."""
        decisions: list[Decision] = []

        def place(name: str, options: Sequence[Value]) -> int | None:
            if len(options) == 1:
                return None  # nothing to decide
            decisions.append(Decision(name, tuple(options)))
            return len(decisions) - 1

        resolution = place("resolution", self.resolutions)
        stage_places, block_places = [], []
        for s, stage in enumerate(self.stages):
            stage_places.append(
                (place(f"stage {s} width", stage.widths), place(f"stage {s} depth", stage.depths))
            )
            block_places.append(
                [_place_block(place, f"stage {s} block {b}", block) for b, block in enumerate(stage.blocks)]
            )
        return tuple(decisions), resolution, stage_places, block_places

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        fields = _tuples(json.loads(text))
        stages = tuple(
            Stage(**{**stage, "blocks": tuple(_block(block) for block in stage["blocks"])})
            for stage in fields.pop("stages")
        )
        return cls(**{**fields, "stem": Stem(**fields["stem"]), "stages": stages})


def _place_block(place, name: str, block: Block) -> _BlockPlaces:
    return _BlockPlaces(
        operator=place(f"{name} operator", [option.operator for option in block.options]),
        settings=tuple(
            tuple(place(f"{name} {option.operator}.{setting}", values) for setting, values in option.settings)
            for option in block.options
        ),
        around=tuple(
            place(f"{name} {kind}", values)
            for kind, values in zip(
                ("expansion", "attention", "weight_bits", "activation_bits"), block.around, strict=True
            )
        ),
    )


def _choice_column(zero_based: np.ndarray, places: _BlockPlaces, block: Block) -> np.ndarray:
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


def _put(vector: list[int], place: int | None, options: Sequence[Value], value: Value, name: str) -> None:
    if value not in options:
        raise ValueError(f"{name} is {_short(value)}; the space offers {', '.join(map(_short, options))}")
    if place is not None:
        vector[place] = options.index(value) + 1


def _get(vector: Sequence[int], place: int | None, options: Sequence[Value]) -> Any:
    return options[0 if place is None else max(vector[place] - 1, 0)]


def _put_choice(vector: list[int], places: _BlockPlaces, block: Block, choice: Choice, name: str) -> None:
    operators = [option.operator for option in block.options]
    _put(vector, places.operator, operators, choice.operator, f"{name} operator")
    number = operators.index(choice.operator)
    chosen = dict(choice.settings)
    settings = block.options[number].settings
    if set(chosen) != {setting for setting, _ in settings}:
        raise ValueError(
            f"{name} {choice.operator} has settings {', '.join(chosen) or 'none'}; the space has "
            f"{', '.join(setting for setting, _ in settings) or 'none'}"
        )
    for (setting, values), place in zip(settings, places.settings[number], strict=True):
        _put(vector, place, values, chosen[setting], f"{name} {choice.operator}.{setting}")
    own = (choice.expansion, choice.attention, choice.weight_bits, choice.activation_bits)
    kinds = ("expansion", "attention", "weight_bits", "activation_bits")
    for kind, place, values, value in zip(kinds, places.around, block.around, own, strict=True):
        _put(vector, place, values, value, f"{name} {kind}")


def _get_choice(vector: Sequence[int], places: _BlockPlaces, block: Block) -> Choice:
    option = _get(vector, places.operator, block.options)
    where = places.settings[block.options.index(option)]
    settings = tuple(
        (name, _get(vector, place, values))
        for (name, values), place in zip(option.settings, where, strict=True)
    )
    around = (_get(vector, place, values) for place, values in zip(places.around, block.around, strict=True))
    return Choice(option.operator, settings, *around)


def _products(settings: Sequence[tuple[str, tuple[Value, ...]]]) -> Iterator[tuple[tuple[str, Value], ...]]:
    names = [name for name, _ in settings]
    for values in itertools.product(*(values for _, values in settings)):
        yield tuple(zip(names, values, strict=True))


def _choice(fields: Mapping[str, Any]) -> Choice:
    settings = tuple((name, _tuples(value)) for name, value in sorted(fields["settings"].items()))
    return Choice(**{**fields, "settings": settings})


def _block(fields: Mapping[str, Any]) -> Block:
    return Block(**{**fields, "options": tuple(Option(**option) for option in fields["options"])})


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return value


def _short(value: Value) -> str:
    return (
        "+".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
