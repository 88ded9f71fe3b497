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
image height that the network works at, by default the data's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from search_spaces.parts import Block, Option, Stage, Stem, Value
from search_spaces.space import SearchSpace
from search_spaces.strict import check_keys, parse_yaml, read_yaml, unknown

ACTIVATIONS = ("relu", "hardswish", "silu")
_BLOCK_KEYS = ("operators", "expansion", "attention", "weight_bits", "activation_bits")
_STAGE_KEYS = ("width", "depth", "stride", "activation", *_BLOCK_KEYS)
_KEYS = ("name", "resolution", "stem", "stages", "head", "activation", *_BLOCK_KEYS)


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
) -> SearchSpace:
    """The search space of a skeleton, for images (C, H, W) or signals (C, L) of so many classes.

    Args:
        operators: the operators that exist (`supernets.operators.OPERATORS`); `settings`, `defaults` and
            `dims` are read of each.
        attentions: the attentions that exist; `dims` is read of each.

    Raises:
        ValueError: a key or value that is not allowed; the message names it, what is, and the nearest.
    """
    check_keys("space", skeleton, _KEYS)
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
    )


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
    smallest = min(min(space.input_shape(resolution)[1:]) for resolution in space.resolutions)
    if smallest < total:
        raise ValueError(
            f"space {space.name}: the strides multiply to {total}, too many for images of {smallest} pixels; "
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
