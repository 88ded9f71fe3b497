"""An architecture drawn stage by stage: a row per stage, a box per block; or cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from dashboard.words import edge_words, path_words, setting_words
from search_spaces import (
    Architecture,
    CellArchitecture,
    CellSpace,
    Choice,
    EdgeCellArchitecture,
    EdgeCellSpace,
    NetworkArchitecture,
    NetworkSpace,
    SearchSpace,
    Stage,
    StageChoice,
)
from search_spaces.cells import KINDS, Cell, unused

# muted, and told apart by people who do not see red and green alike
TONES = ("#2f6f9f", "#b5651d", "#4d8076", "#8a5a83", "#7a7a3c", "#a34b4b", "#5c6f8a", "#3f7f4f")


def network(architecture: NetworkArchitecture, space: NetworkSpace) -> Component:
    """The network from its input to its classes, with the size of what flows between the stages or cells."""
    drawn = {Architecture: _stages, CellArchitecture: _cells, EdgeCellArchitecture: _edge_cells}
    channels, *sides = space.input_shape(architecture.resolution)
    noun = "image" if space.dims == 2 else "signal"
    whole = "×".join(map(str, space.image_shape[1:]))
    scaled = "" if architecture.resolution == space.image_shape[1] else f" scaled from {whole}"
    rows = [_end("input", _size(channels, sides), f"{noun}s{scaled}")]
    sides = _halved(sides, space.stem.stride)
    size = space.stem.kernel_size
    kernel = f"{size}×{size} convolution" if space.dims == 2 else f"convolution, kernel {size}"
    rows.append(_end("stem", _size(space.stem.width, sides), kernel))
    rows += drawn[type(architecture)](architecture, space, sides)
    one = "×".join("1" * space.dims)
    width = getattr(space, "head_width", 0)
    head = f"{one} convolution to {width} channels, " if width else ""
    rows.append(_end("head", f"{space.classes} classes", f"{head}average over the {noun}, linear"))
    return html.Div(rows, className="network")


def _stages(architecture: Architecture, space: SearchSpace, sides: Sequence[int]) -> list[Component]:
    rows, tones = [], _tones(space)
    for number, (stage, chosen) in enumerate(zip(space.stages, architecture.stages, strict=True), start=1):
        sides = _halved(sides, stage.stride)
        rows.append(_stage(number, stage, chosen, _size(chosen.width, sides), tones, space.dims))
    return rows


def _cells(architecture: CellArchitecture, space: CellSpace, sides: Sequence[int]) -> list[Component]:
    """The two cells, a box per block, then how they are stacked and what each gives."""
    rows = [_cell(kind, architecture.cell(kind)) for kind in KINDS]
    for place, cell, _ in space.rows(architecture):
        kind = space.places[place].kind
        halvings = 2 ** (space.places[place].level + (kind == "reduction"))
        shape = _size(space.places[place].filters * len(unused(cell)), _halved(sides, halvings))
        rows.append(_end(f"cell {place + 1}", shape, f"{kind}, {space.places[place].filters} filters"))
    return rows


def _cell(kind: str, cell: Cell) -> Component:
    boxes = [
        html.Div(
            [html.B(f"block {number + 1}"), *(html.Span(path_words(path)) for path in block.paths)]
            + [html.Span("concatenated" if block.combiner == "concat" else "added", className="quiet")]
            + ([html.Span("goes out", className="quiet")] if number in unused(cell) else []),
            className="block",
            style={"borderTopColor": TONES[number % len(TONES)]},
        )
        for number, block in enumerate(cell)
    ]
    absent = html.Div("stepped over by the normal cell", className="block absent")
    row = [html.Div(box) for box in boxes or [absent]]  # each by itself: an arrow stands between neighbours
    return _row(f"{kind} cell", f"{len(boxes)} blocks", "", *row)


def _edge_cells(
    architecture: EdgeCellArchitecture, space: EdgeCellSpace, sides: Sequence[int]
) -> list[Component]:
    """The cell, a row per node and a box per edge to it, then how cells are stacked and what each gives."""
    tones = {operator: TONES[place % len(TONES)] for place, operator in enumerate(sorted(space.operators))}
    rows = [
        _row(f"node {node}", "", "sum of", *(_edge(*edge, tones) for edge in zip(words, row, strict=True)))
        for node, (words, row) in enumerate(
            zip(edge_words(architecture), architecture.edges, strict=True), start=1
        )
    ]
    for number, place in enumerate(space.places):  # from 0, as an export names them
        halvings = 2 ** (place.level + (place.kind == "reduction"))
        name = "residual block" if place.kind == "reduction" else "cell"
        rows.append(_end(f"block {number}", _size(place.filters, _halved(sides, halvings)), name))
    return rows


def _edge(words: str, operator: str, tones: dict[str, str]) -> Component:
    """Each box by itself: an arrow stands between neighbours."""
    if operator == "none":
        return html.Div(html.Div(words, className="block absent"))
    return html.Div(html.Div(words, className="block", style={"borderTopColor": tones[operator]}))


def _stage(
    number: int, stage: Stage, chosen: StageChoice, shape: str, tones: dict[str, str], dims: int
) -> Component:
    blocks = [
        _block(choice, stage.stride if place == 0 else 1, tones[choice.operator], dims)
        for place, choice in enumerate(chosen.blocks)
    ]
    absent = [html.Div("not there", className="block absent")] * (max(stage.depths) - len(blocks))
    depth = f"width {chosen.width}, depth {len(blocks)} of {max(stage.depths)}"
    depth += ", shared kernels" if chosen.share_kernels else ""
    return _row(f"stage {number}", shape, depth, *blocks, *absent)


def _block(choice: Choice, stride: int, tone: str, dims: int) -> Component:
    lines = [" · ".join(setting_words(choice, dims)), f"expansion ×{choice.expansion:g}"]
    if stride > 1:
        lines.append(f"stride {stride}")
    if choice.attention != "none":
        lines.append(f"attention {choice.attention}")
    if choice.weight_bits < 32 or choice.activation_bits < 32:
        lines.append(f"{choice.weight_bits} bit weights, {choice.activation_bits} bit activations")
    return html.Div(
        [html.B(choice.operator.replace("_", " ")), *(html.Span(line) for line in lines if line)],
        className="block",
        style={"borderTopColor": tone},
    )


def _end(name: str, shape: str, note: str) -> Component:
    return _row(name, shape, "", html.Span(note, className="quiet"))


def _row(name: str, shape: str, note: str, *content: Component) -> Component:
    label = [html.B(name), html.Span(shape)] + ([html.Span(note, className="quiet")] if note else [])
    return html.Div(
        [html.Div(label, className="stage-label"), html.Div(content, className="blocks")], className="stage"
    )


def _size(channels: int, sides: Sequence[int]) -> str:
    return " × ".join(map(str, (channels, *sides)))


def _halved(sides: Sequence[int], stride: int) -> list[int]:
    return [-(-side // stride) for side in sides]


def _tones(space: SearchSpace) -> dict[str, str]:
    """A colour per operator of the space, the same for all its architectures."""
    operators = sorted({option.operator for *_, block in space.blocks for option in block.options})
    return {operator: TONES[place % len(TONES)] for place, operator in enumerate(operators)}
