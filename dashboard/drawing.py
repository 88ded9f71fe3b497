"""An architecture drawn stage by stage: a row per stage, a box per block."""

from __future__ import annotations

from dash import html
from dash.development.base_component import Component

from dashboard.words import setting_words
from search_spaces import Architecture, Choice, SearchSpace, Stage, StageChoice

# muted, and told apart by people who do not see red and green alike
TONES = ("#2f6f9f", "#b5651d", "#4d8076", "#8a5a83", "#7a7a3c", "#a34b4b", "#5c6f8a", "#3f7f4f")


def network(architecture: Architecture, space: SearchSpace) -> Component:
    """The network from its input to its classes, with the size of what flows between the stages."""
    tones = _tones(space)
    channels, height, width = space.input_shape(architecture.resolution)
    whole = "×".join(map(str, space.image_shape[1:]))
    scaled = "images" if architecture.resolution == space.image_shape[1] else f"images scaled from {whole}"
    rows = [_end("input", f"{channels} × {height} × {width}", scaled)]
    height, width = _halved(height, width, space.stem.stride)
    kernel = f"{space.stem.kernel_size}×{space.stem.kernel_size} convolution"
    rows.append(_end("stem", f"{space.stem.width} × {height} × {width}", kernel))
    for number, (stage, chosen) in enumerate(zip(space.stages, architecture.stages, strict=True), start=1):
        height, width = _halved(height, width, stage.stride)
        rows.append(_stage(number, stage, chosen, f"{chosen.width} × {height} × {width}", tones))
    head = f"1×1 convolution to {space.head_width} channels, " if space.head_width else ""
    rows.append(_end("head", f"{space.classes} classes", f"{head}average over the image, linear"))
    return html.Div(rows, className="network")


def _stage(number: int, stage: Stage, chosen: StageChoice, shape: str, tones: dict[str, str]) -> Component:
    blocks = [
        _block(choice, stage.stride if place == 0 else 1, tones[choice.operator])
        for place, choice in enumerate(chosen.blocks)
    ]
    absent = [html.Div("not there", className="block absent")] * (max(stage.depths) - len(blocks))
    depth = f"width {chosen.width}, depth {len(blocks)} of {max(stage.depths)}"
    return _row(f"stage {number}", shape, depth, *blocks, *absent)


def _block(choice: Choice, stride: int, tone: str) -> Component:
    lines = [" · ".join(setting_words(choice)), f"expansion ×{choice.expansion:g}"]
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


def _halved(height: int, width: int, stride: int) -> tuple[int, int]:
    return -(-height // stride), -(-width // stride)


def _tones(space: SearchSpace) -> dict[str, str]:
    """A colour per operator of the space, the same for all its architectures."""
    operators = sorted({option.operator for *_, block in space.blocks for option in block.options})
    return {operator: TONES[place % len(TONES)] for place, operator in enumerate(operators)}
