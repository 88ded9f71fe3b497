"""A search space is data: stages of blocks, each block one choice among all its operators and settings.

An architecture is canonical: a block that is not there has no choice, so two spellings of one network
cannot exist. For search algorithms it is also a vector of integers of fixed length, one per decision,
1 for a decision's first option and 0 where the decision does not arise (a block beyond the depth, a
setting of another operator, sharing where no two blocks have the same operator).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random

import numpy as np

from search_spaces.parts import Architecture, Block, Stage, StageChoice, Stem, block_from_json, tuples
from search_spaces.vectors import (
    Decision,
    Layout,
    can_share_columns,
    check_vector,
    choice_column,
    clear_absent,
    get,
    get_choice,
    layout,
    put,
    put_choice,
)


@dataclass(frozen=True)
class SearchSpace:
    """Everything that may vary between a stem and a classifier.

    `image_shape` is (C, H, W) of images or (C, L) of signals; a resolution r stands for images of
    height r and proportional width, or signals of length r. `head_width` is the width of the 1×1
    convolution before the pooling, 0 for none.
    """

    name: str
    image_shape: tuple[int, ...]
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
            len(stage.widths) * sum(stage.rows(depth) for depth in stage.depths) for stage in self.stages
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
    def depth_range(self) -> tuple[int, int]:
        """The fewest and the most blocks of one network."""
        return sum(min(stage.depths) for stage in self.stages), self.positions

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self._layout.decisions

    @property
    def dims(self) -> int:
        """2 for images, 1 for signals."""
        return len(self.image_shape) - 1

    def input_shape(self, resolution: int) -> tuple[int, ...]:
        """(C, H, W) of the images, or (C, L) of the signals, that an architecture of this resolution works on."""
        channels, height, *width = self.image_shape
        return channels, resolution, *(max(1, round(side * resolution / height)) for side in width)

    def check(self, architecture: Architecture) -> None:
        """Raise ValueError, naming the place, if the architecture is not of this space."""
        self.encode(architecture)

    # -- drawing -------------------------------------------------------------------------------

    def sample(self, random: Random) -> Architecture:
        """An architecture drawn uniformly per decision (which is not uniform over architectures)."""
        return self.decode([random.randint(1, len(decision.options)) for decision in self.decisions])

    @property
    def ends(self) -> tuple[Architecture, Architecture]:
        """The least and the most of everything that is a number; of names, such as operators, the first."""
        most = [1 if isinstance(one.options[0], str) else len(one.options) for one in self.decisions]
        return self.decode([1] * len(self.decisions)), self.decode(most)

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
        places = self._layout
        vector = [0] * len(self.decisions)
        put(vector, places.resolution, self.resolutions, architecture.resolution, "resolution")
        if len(architecture.stages) != len(self.stages):
            raise ValueError(
                f"the architecture has {len(architecture.stages)} stages, the space {self.name} {len(self.stages)}"
            )
        for s, (stage, chosen) in enumerate(zip(self.stages, architecture.stages, strict=True)):
            width, depth = places.stages[s]
            put(vector, width, stage.widths, chosen.width, f"stage {s} width")
            put(vector, depth, stage.depths, len(chosen.blocks), f"stage {s} depth")
            for b, choice in enumerate(chosen.blocks):
                put_choice(vector, places.blocks[s][b], stage.blocks[b], choice, f"stage {s} block {b}")
            if stage.can_share(chosen.blocks):
                name = f"stage {s} share_kernels"
                put(vector, places.shares[s], stage.share_kernels, chosen.share_kernels, name)
            elif chosen.share_kernels:
                raise ValueError(
                    f"stage {s} share_kernels is True, but no two blocks after its first chose one operator that "
                    f"the space shares ({', '.join(stage.shareable) or 'none'}); it must be False"
                )
        return tuple(vector)

    def decode(self, vector: Sequence[int]) -> Architecture:
        """The architecture of a vector. Total: 0 counts as 1, places that do not arise are ignored.

        Raises:
            ValueError: wrong length, or a number above the count of the decision's options.
        """
        check_vector(self.name, self.decisions, vector)
        places, stages = self._layout, []
        for s, stage in enumerate(self.stages):
            width, depth = places.stages[s]
            there = range(get(vector, depth, stage.depths))
            blocks = tuple(get_choice(vector, places.blocks[s][b], stage.blocks[b]) for b in there)
            share = stage.can_share(blocks) and get(vector, places.shares[s], stage.share_kernels)
            stages.append(StageChoice(get(vector, width, stage.widths), blocks, share))
        return Architecture(get(vector, places.resolution, self.resolutions), tuple(stages))

    def canonical(self, vectors: np.ndarray) -> np.ndarray:
        """`encode(decode(vector))` of many vectors at once, (n, decisions)."""
        vectors = np.maximum(np.asarray(vectors, np.int64), 1)
        places = self._layout
        for s, stage in enumerate(self.stages):
            _, depth = places.stages[s]
            depths = np.array(stage.depths)[0 if depth is None else vectors[:, depth] - 1]
            operators = [
                np.where(b < depths, clear_absent(vectors, where, b < depths), -1)
                for b, where in enumerate(places.blocks[s])
            ]
            if (share := places.shares[s]) is not None:
                vectors[:, share] *= can_share_columns(stage, operators)
        return vectors

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
        places, columns = self._layout, []
        for s, b, stage, block in self.blocks:
            _, depth_place = places.stages[s]
            depth = np.array(stage.depths)[0 if depth_place is None else zero_based[:, depth_place]]
            column = choice_column(zero_based, places.blocks[s][b], block)
            columns.append(np.where(b < depth, column, -1))
        return np.stack(columns, axis=1)

    def level_indices(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices, from 0, of the resolution, (n,), and of each stage's width, (n, stages)."""
        zero_based = np.maximum(np.asarray(vectors, dtype=np.int64) - 1, 0)
        places = self._layout

        def column(place: int | None) -> np.ndarray:
            return np.zeros(len(zero_based), np.int64) if place is None else zero_based[:, place]

        return column(places.resolution), np.stack([column(width) for width, _ in places.stages], axis=1)

    def sharing(self, vectors: np.ndarray) -> np.ndarray:
        """Whether each stage shares kernels, (n, stages), wherever it has some to share."""
        vectors = np.asarray(vectors)
        columns = []
        for stage, place in zip(self.stages, self._layout.shares, strict=True):
            chosen = (
                np.zeros(len(vectors), np.int64) if place is None else np.maximum(vectors[:, place] - 1, 0)
            )
            columns.append(np.array(stage.share_kernels)[chosen])
        return np.stack(columns, axis=1)

    @cached_property
    def _layout(self) -> Layout:
        return layout(self.resolutions, self.stages)

    # -- JSON ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        fields = asdict(self)
        for stage in fields["stages"]:
            if not any(stage["share_kernels"]):  # what was stored before there was a choice stays the same
                del stage["share_kernels"], stage["shareable"]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        fields = tuples(json.loads(text))
        stages = tuple(
            Stage(**{**stage, "blocks": tuple(block_from_json(block) for block in stage["blocks"])})
            for stage in fields.pop("stages")
        )
        return cls(**{**fields, "stem": Stem(**fields["stem"]), "stages": stages})
