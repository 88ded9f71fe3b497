"""A skeleton is what a person writes: a few lines of YAML that unroll into a search space.

    stem: {width: 16}
    stages:
      - {width: [16, 24], depth: [1, 2], stride: 1}
      - {width: [32, 48], depth: [1, 2, 3], stride: 2, expansion: [3, 4]}
    operators:
      - depthwise: {kernel_size: [3, 5, 7]}
      - max_pool
    expansion: [2, 3]
    attention: [none, se]

`operators`, `expansion`, `attention`, `activation`, `weight_bits` and `activation_bits` hold for every
block unless a stage says otherwise. A single value may stand for a list of one. `resolution` is the
image height that the network works at, by default the data's own. A stage of three blocks or more may say
`share_kernels: [false, true]`: blocks after its first that have the same operator may use one kernel.

Instead of stages and operators a skeleton may have `cells`: {blocks: 5, repeats: 2, filters: 16, reductions: 2,
operators: [...], combiners: [add, concat]}, or its two cells written out, a row of five decisions per block:

    cells:
      filters: 32
      normal: [[0, identity, 1, separable_3x3, add]]
      reduction: [[0, max_pool_3x3, 1, separable_5x5, add]]

Or it has `edge_cells`: {nodes: 4, repeats: 5, filters: 16, reductions: 2, operators: [...]}, or its one cell written
out: {filters: 32, cell: "|nor_conv_3x3~0|+|skip_connect~0|none~1|"}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from search_spaces.cells import COMBINERS, INPUTS, KINDS, Cell, CellBlock, CellSpace
from search_spaces.cells import OPERATORS as CELL_OPERATORS
from search_spaces.edge_cells import OPERATORS as EDGE_OPERATORS
from search_spaces.edge_cells import EdgeCellArchitecture, EdgeCellSpace
from search_spaces.parts import Block, Option, Stage, Stem, Value
from search_spaces.space import SearchSpace
from search_spaces.strict import check_keys, parse_yaml, read_yaml, unknown
from search_spaces.topologies import NetworkSpace

ACTIVATIONS = ("relu", "hardswish", "silu")
_BLOCK_KEYS = ("operators", "expansion", "attention", "weight_bits", "activation_bits")
_STAGE_KEYS = ("width", "depth", "stride", "activation", "share_kernels", *_BLOCK_KEYS)
_KEYS = ("name", "resolution", "stem", "stages", "head", "activation", *_BLOCK_KEYS)
_CELLS_KEYS = ("name", "resolution", "stem", "cells", "activation")
_CELL_KEYS = ("repeats", "filters", "reductions", "drop_path")
_EDGE_CELLS_KEYS = ("name", "resolution", "stem", "edge_cells", "activation")
_EDGE_CELL_KEYS = ("repeats", "filters", "reductions")
_MADE_OF = ("stages", "cells", "edge_cells")


def presets() -> list[str]:
    """The names of the ready-made skeletons."""
    return sorted(
        path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml")
    )


def read_skeleton(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """A skeleton from a preset's name, a path that ends in .yaml, or a mapping as it stands in YAML."""
    if isinstance(source, Mapping):
        return {"name": "custom", **source}
    if str(source).endswith((".yaml", ".yml")):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no skeleton at {path}; presets are {', '.join(presets())}")
        return _named(read_yaml(path), path.stem, str(path))
    if source not in presets():
        raise unknown(f"the space {source!r}", source, presets())
    text = (_folder() / f"{source}.yaml").read_text(encoding="utf-8")
    return _named(parse_yaml(text, source), str(source), str(source))


def unroll(
    skeleton: Mapping[str, Any],
    operators: Mapping[str, Any],
    attentions: Mapping[str, Any],
    image_shape: tuple[int, ...],
    classes: int,
) -> NetworkSpace:
    """The search space of a skeleton, for images (C, H, W) or signals (C, L) of so many classes.

    Args:
        operators: the operators that exist (`supernets.operators.OPERATORS`); `settings`, `defaults`,
            `dims` and `shareable` are read of each.
        attentions: the attentions that exist; `dims` is read of each.

    Raises:
        ValueError: a key or value that is not allowed; the message names it, what is, and the nearest.
    """
    made_of = [key for key in _MADE_OF if key in skeleton]
    if len(made_of) > 1:
        raise ValueError(f"space has both {' and '.join(made_of)}; it is made of one of them")
    if "cells" in skeleton:
        return _cell_space(skeleton, image_shape, classes)
    if "edge_cells" in skeleton:
        return _edge_cell_space(skeleton, image_shape, classes)
    check_keys("space", skeleton, (*_KEYS, *_MADE_OF))
    dims = len(image_shape) - 1
    known = {"operators": operators, "attentions": attentions, "dims": dims}
    stem = _stem(skeleton.get("stem", {}))
    if not isinstance(skeleton.get("stages"), Sequence) or not skeleton["stages"]:
        raise ValueError(
            "space.stages must be a list of at least one stage, such as {width: 24, depth: [1, 2]}"
        )
    stages = tuple(
        _stage(f"space.stages[{number}]", stage, skeleton, known)
        for number, stage in enumerate(skeleton["stages"])
    )
    head = skeleton.get("head", {})
    check_keys("space.head", _is_mapping("space.head", head), ("width",))
    space = SearchSpace(
        name=str(skeleton.get("name", "custom")),
        image_shape=tuple(image_shape),
        classes=classes,
        resolutions=_integers("space.resolution", skeleton.get("resolution", image_shape[1]), least=1),
        stem=stem,
        stages=stages,
        head_width=_one("space.head.width", head.get("width", 0), least=0),
        activation=_activation("space.activation", skeleton.get("activation", "relu")),
    )
    _check_strides(space)
    return space


def _cell_space(skeleton: Mapping[str, Any], image_shape: tuple[int, ...], classes: int) -> CellSpace:
    check_keys("space", skeleton, _CELLS_KEYS)
    cells = _is_mapping("space.cells", skeleton["cells"])
    dims = len(image_shape) - 1
    if any(kind in cells for kind in KINDS):
        varying = _written_cells(cells, dims)
    else:
        check_keys("space.cells", cells, (*_CELL_KEYS, "blocks", "operators", "combiners", *KINDS))
        if "operators" not in cells:
            raise ValueError(f"space.cells.operators is missing; list some of {', '.join(CELL_OPERATORS)}")
        varying = {
            "blocks": _one("space.cells.blocks", cells.get("blocks", 5), least=1),
            "operators": _names("space.cells.operators", cells["operators"], _cell_operators(dims)),
            "combiners": _names("space.cells.combiners", cells.get("combiners", COMBINERS), COMBINERS),
        }
    drop_path = cells.get("drop_path", 0.0)
    if isinstance(drop_path, bool) or not isinstance(drop_path, int | float) or not 0 <= drop_path < 1:
        raise ValueError(f"space.cells.drop_path is {drop_path!r}; it must be a number from 0 to below 1")
    space = CellSpace(
        name=str(skeleton.get("name", "custom")),
        image_shape=tuple(image_shape),
        classes=classes,
        resolutions=_integers("space.resolution", skeleton.get("resolution", image_shape[1]), least=1),
        stem=_stem(skeleton.get("stem", {})),
        repeats=_one("space.cells.repeats", cells.get("repeats", 2), least=1),
        filters=_one("space.cells.filters", cells.get("filters", 16), least=2),
        reductions=_one("space.cells.reductions", cells.get("reductions", 2), least=1),
        drop_path=float(drop_path),
        activation=_activation("space.activation", skeleton.get("activation", "relu")),
        **varying,
    )
    _check_total(space, space.stem.stride * 2**space.reductions)
    if space.found and not space.is_reduced(space.found[0]):
        raise ValueError(
            f"space.cells.normal reads only 0, the cell before the last, and so with repeats {space.repeats} steps "
            "over every reduction; let a block read 1, or make repeats even"
        )
    return space


def _cell_operators(dims: int) -> list[str]:
    return [name for name, works in CELL_OPERATORS.items() if dims in works]


def _names(where: str, given: Any, allowed: Sequence[str]) -> tuple[str, ...]:
    for name in _listed(given):
        if name not in list(allowed):
            raise unknown(f"{where} {name!r}", name, allowed)
    return _distinct(where, _listed(given))


def _written_cells(cells: Mapping[str, Any], dims: int) -> dict[str, Any]:
    """What a space has whose two cells are written out."""
    check_keys("space.cells", cells, (*_CELL_KEYS, *KINDS))
    for kind in KINDS:
        if not isinstance(cells.get(kind), Sequence) or not cells[kind]:
            raise ValueError(f"space.cells.{kind} must be a row of blocks, as the other cell is")
    found = tuple(_written_cell(f"space.cells.{kind}", cells[kind], dims) for kind in KINDS)
    if len(found[0]) != len(found[1]):
        raise ValueError(
            f"space.cells: the normal cell has {len(found[0])} blocks, the reduction cell {len(found[1])}; "
            "give both as many"
        )
    blocks = [block for cell in found for block in cell]
    return {
        "blocks": len(found[0]),
        "operators": tuple(sorted({path.operator for block in blocks for path in block.paths})),
        "combiners": tuple(sorted({block.combiner for block in blocks})),
        "found": found,
    }


def _written_cell(where: str, rows: Sequence[Any], dims: int) -> Cell:
    blocks = []
    for number, row in enumerate(rows):
        here = f"{where}[{number}]"
        if not isinstance(row, Sequence) or isinstance(row, str) or len(row) != 5:
            raise ValueError(f"{here} is {row!r}; write [input, operator, input, operator, combiner]")
        for value in (row[0], row[2]):
            if isinstance(value, bool) or value not in list(range(number + INPUTS)):
                raise ValueError(
                    f"{here} reads {value!r}; block {number} can read 0 and 1, the two cells before"
                    + (f", and 2 to {number + 1}, the blocks before" if number else "")
                )
        operators = _cell_operators(dims)
        for value, allowed in ((row[1], operators), (row[3], operators), (row[4], COMBINERS)):
            if value not in list(allowed):
                raise unknown(f"{here} {value!r}", value, allowed)
        blocks.append(CellBlock.of(row))
    return tuple(blocks)


def _edge_cell_space(
    skeleton: Mapping[str, Any], image_shape: tuple[int, ...], classes: int
) -> EdgeCellSpace:
    check_keys("space", skeleton, _EDGE_CELLS_KEYS)
    cells, stem = _is_mapping("space.edge_cells", skeleton["edge_cells"]), skeleton.get("stem", {})
    check_keys("space.stem", _is_mapping("space.stem", stem), ("kernel_size", "stride"))
    filters = _one("space.edge_cells.filters", cells.get("filters", 16), least=1)
    space = EdgeCellSpace(
        name=str(skeleton.get("name", "custom")),
        image_shape=tuple(image_shape),
        classes=classes,
        resolution=_one("space.resolution", skeleton.get("resolution", image_shape[1]), least=1),
        stem=_stem({**stem, "width": filters}),
        repeats=_one("space.edge_cells.repeats", cells.get("repeats", 5), least=1),
        filters=filters,
        reductions=_one("space.edge_cells.reductions", cells.get("reductions", 2), least=0),
        activation=_activation("space.activation", skeleton.get("activation", "relu")),
        **(_written_edges(cells) if "cell" in cells else _varying_edges(cells)),
    )
    _check_total(space, space.stem.stride * 2**space.reductions)
    return space


def _varying_edges(cells: Mapping[str, Any]) -> dict[str, Any]:
    """What a space has whose cell is searched."""
    check_keys("space.edge_cells", cells, (*_EDGE_CELL_KEYS, "nodes", "operators", "cell"))
    operators = cells.get("operators", EDGE_OPERATORS)
    return {
        "nodes": _one("space.edge_cells.nodes", cells.get("nodes", 4), least=2),
        "operators": _names("space.edge_cells.operators", operators, EDGE_OPERATORS),
    }


def _written_edges(cells: Mapping[str, Any]) -> dict[str, Any]:
    """What a space has whose cell is written out."""
    check_keys("space.edge_cells", cells, (*_EDGE_CELL_KEYS, "cell"))
    try:
        found = EdgeCellArchitecture.from_string(str(cells["cell"]), 1).edges
    except ValueError as error:
        raise ValueError(f"space.edge_cells.cell: {error}") from None
    used = {name for row in found for name in row}
    operators = _names("space.edge_cells.cell", sorted(used), EDGE_OPERATORS)
    return {"nodes": len(found) + 1, "operators": operators, "found": found}


def _stem(stem: Any) -> Stem:
    check_keys("space.stem", _is_mapping("space.stem", stem), ("width", "kernel_size", "stride"))
    kernel_size = _one("space.stem.kernel_size", stem.get("kernel_size", 3), least=1)
    if kernel_size % 2 == 0:
        raise ValueError(f"space.stem.kernel_size is {kernel_size}; it must be odd, such as 3")
    return Stem(
        _one("space.stem.width", stem.get("width", 16), least=1),
        kernel_size,
        _one("space.stem.stride", stem.get("stride", 1), least=1),
    )


def _stage(where: str, stage: Any, skeleton: Mapping[str, Any], known: Mapping[str, Any]) -> Stage:
    check_keys(where, _is_mapping(where, stage), _STAGE_KEYS)
    if "width" not in stage:
        raise ValueError(f"{where}.width is missing; give a width or a list, such as [16, 24]")
    given = {**{key: skeleton[key] for key in _BLOCK_KEYS if key in skeleton}, **stage}
    place = {key: f"{where}.{key}" if key in stage else f"space.{key}" for key in given}
    if "operators" not in given:
        raise ValueError(f"{where} has no operators; give space.operators or {where}.operators")
    depths = _integers(f"{where}.depth", stage.get("depth", 1), least=1)
    block = Block(
        options=_options(place["operators"], given["operators"], known["operators"], known["dims"]),
        expansions=_numbers(place.get("expansion", ""), given.get("expansion", 1)),
        attentions=_attentions(
            place.get("attention", ""), given.get("attention", "none"), known["attentions"], known["dims"]
        ),
        weight_bits=_bits(place.get("weight_bits", ""), given.get("weight_bits", 32)),
        activation_bits=_bits(place.get("activation_bits", ""), given.get("activation_bits", 32)),
    )
    return Stage(
        widths=_integers(f"{where}.width", stage["width"], least=1),
        depths=depths,
        stride=_one(f"{where}.stride", stage.get("stride", 1), least=1),
        blocks=(block,) * max(depths),
        activation=_activation(
            f"{where}.activation", stage.get("activation", skeleton.get("activation", "relu"))
        ),
        **_sharing(f"{where}.share_kernels", stage.get("share_kernels", False), depths, block, known),
    )


def _sharing(
    where: str, given: Any, depths: Sequence[int], block: Block, known: Mapping[str, Any]
) -> dict[str, Any]:
    """What a stage may decide of sharing, and the operators that can: those that say `shareable`."""
    for value in _listed(given):
        if not isinstance(value, bool):
            raise ValueError(f"{where} is {value!r}; it must be true, false, or a list of both")
    values = _distinct(where, sorted(_listed(given), reverse=True))
    if not any(values):
        return {}
    if max(depths) < 3:
        raise ValueError(
            f"{where} is true, but the first block keeps its own kernel and the stage is at most {max(depths)} "
            "deep; raise its depth to 3 or more"
        )

    def shareable(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if getattr(known["operators"][name], "shareable", False))

    operators = [option.operator for option in block.options]
    if not shareable(operators):
        raise ValueError(
            f"{where} is true, but of {', '.join(operators)} none has weights that can be shared; those that "
            f"have: {', '.join(shareable(known['operators']))}"
        )
    return {"share_kernels": values, "shareable": shareable(operators)}


def _options(where: str, listed: Any, known: Mapping[str, Any], dims: int) -> tuple[Option, ...]:
    options = []
    for entry in _listed(listed):
        name, narrowed = (entry, {}) if isinstance(entry, str) else _only_item(where, entry)
        if name not in known:
            raise unknown(f"{where}: the operator {name!r}", name, known)
        _check_dims(f"{where}: the operator {name}", name, known, dims)
        settings = known[name].settings
        offered = {**settings, **getattr(known[name], "defaults", {})}
        check_keys(f"{where}.{name}", narrowed, settings)
        chosen = {
            setting: _narrow(f"{where}.{name}.{setting}", narrowed[setting], values)
            if setting in narrowed
            else tuple(_value(value) for value in offered[setting])
            for setting, values in settings.items()
        }
        options.append(Option(name, tuple(sorted(chosen.items()))))
    names = [option.operator for option in options]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: {name} is listed twice; list it once with all its settings")
    if not options:
        raise ValueError(f"{where} is empty; list at least one of {', '.join(known)}")
    return tuple(options)


def _only_item(where: str, entry: Any) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ValueError(
            f"{where}: {entry!r} is not an operator; write its name, or name: {{setting: [values]}}"
        )
    [(name, narrowed)] = entry.items()
    return name, _is_mapping(f"{where}.{name}", narrowed or {})


def _narrow(where: str, given: Any, allowed: Sequence[Value]) -> tuple[Value, ...]:
    """The given values of a setting, each of which must be allowed; a list of lists for list values."""
    allowed = [_value(value) for value in allowed]
    of_lists = bool(allowed) and isinstance(allowed[0], tuple)
    is_one = not isinstance(given, list) or (of_lists and bool(given) and not isinstance(given[0], list))
    values = _distinct(where, [_value(value) for value in ([given] if is_one else given)])
    names = [_plain(value) for value in allowed]  # by name, since true equals 1 and 3.0 equals 3
    for value in values:
        if _plain(value) not in names:
            raise unknown(f"{where} {_plain(value)}", _plain(value), names)
    return tuple(sorted(values, key=lambda value: names.index(_plain(value))))


def _attentions(where: str, given: Any, known: Mapping[str, Any], dims: int) -> tuple[str, ...]:
    # YAML reads an unquoted `none` as a string, but a person may well write ~ or null
    names = _distinct(where, ["none" if name is None else name for name in _listed(given)])
    for name in names:
        if name not in known:
            raise unknown(f"{where}: the attention {name!r}", name, known)
        _check_dims(f"{where}: the attention {name}", name, known, dims)
    return names


def _check_dims(what: str, name: str, known: Mapping[str, Any], dims: int) -> None:
    def works(one: str) -> bool:
        return dims in getattr(known[one], "dims", (2,))

    if not works(name):
        kind = "signals, which have one dimension" if dims == 1 else "images"
        raise ValueError(f"{what} does not work on {kind}; those that do: {', '.join(filter(works, known))}")


def _bits(where: str, given: Any) -> tuple[int, ...]:
    bits = _integers(where, given, least=1)
    for one in bits:
        if one != 32:
            raise ValueError(f"{where} is {one}; only 32 (float) is offered until quantisation arrives")
    return bits


def _activation(where: str, given: Any) -> str:
    if given not in ACTIVATIONS:
        raise unknown(f"{where} {given!r}", given, ACTIVATIONS)
    return given


def _numbers(where: str, given: Any) -> tuple[float, ...]:
    for value in _listed(given):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{where} is {value!r}; it must be a number above 0, or a list of them")
    values = [int(value) if value == int(value) else value for value in _listed(given)]
    return _distinct(where, sorted(values))


def _integers(where: str, given: Any, least: int) -> tuple[int, ...]:
    for value in _listed(given):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"{where} is {value!r}; it must be an integer of at least {least}, or a list of them"
            )
    return _distinct(where, sorted(_listed(given)))


def _one(where: str, given: Any, least: int) -> int:
    values = _integers(where, given, least)
    if len(values) != 1:
        raise ValueError(f"{where} is {given!r}; it is one number, it cannot vary")
    return values[0]


def _distinct(where: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if not values:
        raise ValueError(f"{where} is an empty list; give at least one value")
    for value in values:
        if list(values).count(value) > 1:
            raise ValueError(f"{where} lists {_plain(value)} twice; list it once")
    return tuple(values)


def _check_strides(space: SearchSpace) -> None:
    total = space.stem.stride
    for stage in space.stages:
        total *= stage.stride
    _check_total(space, total)


def _check_total(space: NetworkSpace, total: int) -> None:
    smallest = min(min(space.input_shape(resolution)[1:]) for resolution in space.resolutions)
    if smallest < total:
        noun, unit = ("images", "pixels") if len(space.image_shape) == 3 else ("signals", "samples")
        raise ValueError(
            f"space {space.name}: the strides multiply to {total}, too many for {noun} of {smallest} {unit}; "
            "lower a stride or raise space.resolution"
        )


def _is_mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}; it must be a mapping, such as {{width: 16}}")
    return value


def _named(skeleton: Any, name: str, source: str) -> dict[str, Any]:
    return {"name": name, **_is_mapping(source, skeleton)}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _value(value: Any) -> Value:
    return tuple(value) if isinstance(value, list | tuple) else value


def _plain(value: Value) -> str:
    return f"[{', '.join(map(repr, value))}]" if isinstance(value, tuple) else repr(value)


def _folder():
    return files("search_spaces") / "presets"
