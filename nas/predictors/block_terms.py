"""The terms of a space of stages: the parts of its blocks, each with the channels and the size that it works on.

A block is an expansion, an operator, attention and a projection; equal parts are one entry, wherever they stand.
What a block meets at its boundary is in them too: how many channels the block before gave is what its expansion
takes, and which operator came before which is a term of its own. A part shares with others of its type, its operator
and its settings a constant, so much per value that it reads and writes, and so much per product of channels; and
with those whose channels fill the processor's registers as its do, since kernels are chosen by that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from nas.predictors.terms import BOUNDARY, OWN, Book, Terms
from search_spaces import SearchSpace, Stage
from search_spaces.parts import Block

LANES = (16, 8)  # values that processors work on at once, most first
LEAST_SIZE = 0.1  # of a part that is small: about what it takes to begin


@dataclass(frozen=True)
class Part:
    """What a block computes in one go.

    `kind` is its type, then what tells it from others of that type, the most important first; `channels` and
    `places` (pixels, or samples of a signal) are those of its input and its output.
    """

    kind: tuple
    channels: tuple[int, int]
    places: tuple[int, int]

    @property
    def values(self) -> int:
        """That it reads and writes."""
        return sum(map(math.prod, zip(self.channels, self.places, strict=True)))

    @property
    def products(self) -> int:
        """Of an input and an output channel, at every place."""
        return math.prod(self.channels) * self.places[1]

    @property
    def filling(self) -> tuple[int, ...]:
        """Of which number of lanes its input and output channels are multiples, 0 for none."""
        return tuple(next((n for n in LANES if channels % n == 0), 0) for channels in self.channels)


class _Parts(dict[Part, int]):
    """Parts, numbered from 1 in the order in which they are first asked for."""

    def __missing__(self, part: Part) -> int:
        self[part] = len(self) + 1
        return self[part]


@dataclass(frozen=True)
class _BlockTable:
    """The parts of a block, by places in these orders: widths before (i), widths (o), resolutions (r), expansions
    (e), operators with their settings (k), operators before (p), attentions (a)."""

    expand: np.ndarray  # (i, r, e)
    operator: np.ndarray  # (i, r, e, k)
    attention: np.ndarray  # (i, r, e, a)
    project: np.ndarray  # (i, o, r, e)
    boundary: np.ndarray  # (i, r, p, k)
    of_choice: (
        np.ndarray
    )  # (choices, 4): e, k and a of each choice of the block, and p for the block after it


def block_terms(space: SearchSpace) -> Terms:
    """An entry for each part that a block of the space may have."""
    parts, sizes = _Parts(), _sizes(space)
    operators = list(dict.fromkeys(one.operator for _, _, _, block in space.blocks for one in block.options))
    known: dict[tuple[int, bool, Block], _BlockTable] = {}
    tables = []
    for s, b, stage, block in space.blocks:
        key = (s, b == 0, block)
        if key not in known:
            first = space.stages[s - 1].widths if s else (space.stem.width,)
            befores = stage.widths if b else first
            known[key] = _block_table(parts, operators, stage, block, b == 0, befores, sizes[s : s + 2])
        tables.append((s, b, known[key]))
    stem = np.array(
        [parts[Part(("stem",), (space.image_shape[0], space.stem.width), (one, one))] for one in sizes[0]]
    )
    after = space.head_width or space.classes
    tail = np.array(
        [
            [parts[Part(("tail",), (width, after), (one, one))] for width in space.stages[-1].widths]
            for one in sizes[-1]
        ]
    )

    def columns(vectors: np.ndarray) -> list[np.ndarray]:
        choices = space.choice_indices(vectors)
        resolution, widths = space.level_indices(vectors)
        row = [stem[resolution], tail[resolution, widths[:, -1]]]
        previous = np.zeros(len(vectors), np.int64)
        for position, (s, b, table) in enumerate(tables):
            there = choices[:, position] >= 0
            e, k, a, p = table.of_choice[np.maximum(choices[:, position], 0)].T
            width = widths[:, s]
            before = width if b else widths[:, s - 1] if s else np.zeros_like(width)
            row += [
                np.where(there, table.expand[before, resolution, e], 0),
                np.where(there, table.operator[before, resolution, e, k], 0),
                np.where(there, table.attention[before, resolution, e, a], 0),
                np.where(there, table.project[before, width, resolution, e], 0),
            ]
            if position:
                row.append(np.where(there, table.boundary[before, resolution, previous, k], 0))
            previous = np.where(there, p, previous)
        return row

    return _written(parts).terms(columns)


def _block_table(
    parts: _Parts,
    operators: Sequence[str],
    stage: Stage,
    block: Block,
    first: bool,
    befores: Sequence[int],
    sizes: Sequence[Sequence[int]],
) -> _BlockTable:
    """
    Args:
        operators: of the whole space.
        sizes: before and after the stage, each (resolutions,).
    """
    from supernets.supernet import hidden_channels

    chosen = list(dict.fromkeys((one.operator, one.settings) for one in block.choices))
    stride, places = (stage.stride, sizes) if first else (1, (sizes[1], sizes[1]))
    shape = len(befores), len(places[0]), len(block.expansions)
    table = _BlockTable(
        expand=np.zeros(shape, np.int64),
        operator=np.zeros((*shape, len(chosen)), np.int64),
        attention=np.zeros((*shape, len(block.attentions)), np.int64),
        project=np.zeros((shape[0], len(stage.widths), *shape[1:]), np.int64),
        boundary=np.zeros((*shape[:2], len(operators), len(chosen)), np.int64),
        of_choice=np.array(
            [
                (
                    block.expansions.index(one.expansion),
                    chosen.index((one.operator, one.settings)),
                    block.attentions.index(one.attention),
                    operators.index(one.operator),
                )
                for one in block.choices
            ]
        ),
    )
    for (i, before), (r, (size, after)) in product(enumerate(befores), enumerate(zip(*places, strict=True))):
        for (p, earlier), (k, (name, _)) in product(enumerate(operators), enumerate(chosen)):
            kind = ("boundary", earlier, name)
            table.boundary[i, r, p, k] = parts[Part(kind, (before, before), (size, size))]
        for e, expansion in enumerate(block.expansions):
            hidden = hidden_channels(before, expansion)
            inside = (hidden, hidden)
            table.expand[i, r, e] = parts[Part(("expand", stage.activation), (before, hidden), (size, size))]
            for k, (name, settings) in enumerate(chosen):
                kind = ("operator", name, settings, stride, stage.activation)
                table.operator[i, r, e, k] = parts[Part(kind, inside, (size, after))]
            for a, name in enumerate(block.attentions):
                if name != "none":
                    table.attention[i, r, e, a] = parts[Part(("attention", name), inside, (after, after))]
            for o, width in enumerate(stage.widths):
                kind = ("project", stride == 1 and width == before)
                table.project[i, o, r, e] = parts[Part(kind, (hidden, width), (after, after))]
    return table


def _written(parts: _Parts) -> Book:
    """The entries of the parts, numbered as these are."""
    book, most = Book(), {}
    for part in parts:
        values, products = most.get(part.kind[0], (1, 1))
        most[part.kind[0]] = max(values, part.values), max(products, part.products)
    for part in parts:
        values, products = (
            one / of for one, of in zip((part.values, part.products), most[part.kind[0]], strict=True)
        )
        kinds = [part.kind[:end] for end in range(1, len(part.kind) + 1)]
        features = {
            (kind, name): value
            for kind in (*kinds, (*part.kind[:2], "filling", part.filling))
            for name, value in (("constant", 1.0), ("values", values), ("products", products))
        }
        group = BOUNDARY if part.kind[0] == "boundary" else OWN
        book.entry(part, features, LEAST_SIZE + (values + products) / 2, group)
    return book


def _sizes(space: SearchSpace) -> list[list[int]]:
    """Places after the stem and after each stage, (stages + 1, resolutions)."""
    rows, sides = [], [space.input_shape(resolution)[1:] for resolution in space.resolutions]
    for stride in (space.stem.stride, *(stage.stride for stage in space.stages)):
        sides = [tuple(-(-side // stride) for side in one) for one in sides]
        rows.append([math.prod(one) for one in sides])
    return rows
