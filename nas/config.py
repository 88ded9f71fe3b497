"""The experiment file: read strictly, each section handed to the code that declares it.

    name: digits
    data: {name: digits}
    space: digits                      # a preset, a path, or a skeleton written out
    training: {epochs: 30, sampler: shift}
    search: {searcher: nsga2, budget: 80}
    objectives: [accuracy, latency]
    constraints: {latency_ms: {max: 2.0}, bytes: {max: 300k}}
    focus: {latency_ms: [0.5, 1.5]}
    device: {name: onnxruntime-cpu, threads: 1}

What the file leaves out has the default that the section declares. An unknown key is an error.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nas.data import Data
from nas.hardware.settings import Settings
from nas.objectives import KEYS, OBJECTIVES
from nas.search import Search
from nas.storage.records import Constraint, Objective
from search_spaces.skeleton import read_skeleton
from search_spaces.strict import check_keys, parse_yaml, read_yaml, unknown
from supernets.recipe import Training

_KEYS = ("name", "data", "space", "training", "search", "objectives", "constraints", "focus", "device")
_SECTIONS = {"data": Data, "training": Training, "search": Search, "device": Settings}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_QUANTITY = re.compile(r"([0-9]+\.?[0-9]*)(?:e([-+]?[0-9]+)|\s*([kMG]))?")
_SUFFIXES = {None: 0, "k": 3, "M": 6, "G": 9}  # powers of ten


@dataclass(frozen=True)
class Experiment:
    """An experiment file with all defaults filled in."""

    name: str
    data: Data
    space: Mapping[str, Any]  # the skeleton
    training: Training
    search: Search
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    device: Mapping[str, Any]
    focus: tuple[Constraint, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def read_experiment(path: Path, overrides: Sequence[str] = (), name: str | None = None) -> Experiment:
    """The experiment of a file.

    Args:
        overrides: settings that replace the file's, `search.budget=64`.
        name: replaces the file's name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no experiment file at {path}; examples are in the folder examples/")
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no sections; see examples/digits.yaml for a file that works")
    content = {"name": path.stem, **content}
    for override in overrides:
        _override(content, override)
    if name is not None:
        content["name"] = name
    if isinstance(content.get("space"), str) and content["space"].endswith((".yaml", ".yml")):
        content["space"] = str(path.parent / content["space"])
    return experiment(content)


def experiment(content: Mapping[str, Any]) -> Experiment:
    """The experiment of a mapping such as a file holds."""
    for key in set(content) - set(_KEYS):
        if sections := [
            name for name, one in _SECTIONS.items() if key in {field.name for field in fields(one)}
        ]:
            places = " or ".join(f"{name}.{key}" for name in sections)
            raise ValueError(f"{key} is no section, but a setting of one: {places}")
    check_keys("", content, _KEYS)
    for key in ("data", "space"):
        if key not in content:
            raise ValueError(f"the experiment has no section {key}; add for example {key}: digits")
    data = content["data"] if isinstance(content["data"], Mapping) else {"name": content["data"]}
    objectives = _objectives(content.get("objectives", ["accuracy", "latency"]))
    space = read_skeleton(content["space"])
    training = section(Training, _or_empty(content, "training"), "training")
    if training.drop_path and "cells" in space:
        raise ValueError(
            f"training.drop_path is {training.drop_path!r}, but cells have a drop path of their own; leave it out and "
            "set space.cells.drop_path"
        )
    return Experiment(
        name=run_name(content.get("name", "experiment")),
        data=section(Data, data, "data"),
        space=space,
        training=training,
        search=section(Search, _or_empty(content, "search"), "search"),
        objectives=objectives,
        constraints=_constraints(_or_empty(content, "constraints")),
        device=_device(_or_empty(content, "device")),
        focus=_focus(_or_empty(content, "focus"), objectives),
    )


def _or_empty(content: Mapping[str, Any], key: str) -> Any:
    """A section, empty if it is left out or nothing is written in it."""
    return {} if content.get(key) is None else content[key]


def from_json(text: str) -> Experiment:
    """The experiment that `to_json` wrote.

    Raises:
        ValueError: it is of a run with an evaluator of a person's own, which has neither images nor a supernet.
    """
    stored = json.loads(text)
    if evaluator := stored.get("evaluator"):
        raise ValueError(
            f"the candidates of this run were measured by {evaluator}: it has no images, no supernet and nothing to "
            "export; `nas report` and `nas dashboard` show it"
        )
    return Experiment(
        name=stored["name"],
        data=Data(**stored["data"]),
        space=stored["space"],
        training=Training(**stored["training"]),
        search=Search(**stored["search"]),
        objectives=tuple(Objective(**one) for one in stored["objectives"]),
        constraints=tuple(Constraint(**one) for one in stored["constraints"]),
        device=stored["device"],
        focus=tuple(Constraint(**one) for one in stored.get("focus", ())),
    )


def section(declared: type, given: Any, where: str) -> Any:
    """A section's dataclass from what the file gives: unknown keys and wrong types are errors."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {given!r}; it must be a section such as {where}: {{...}}")
    check_keys(where, given, [field.name for field in fields(declared)])
    hints = typing.get_type_hints(declared)
    values = {key: _typed(value, hints[key], f"{where}.{key}") for key, value in given.items()}
    missing = [
        field.name
        for field in fields(declared)
        if field.default is field.default_factory and field.name not in values
    ]
    if missing:
        raise ValueError(f"{where}.{missing[0]} is missing")
    return declared(**values)


def differences(old: Experiment, new: Experiment) -> list[str]:
    """What changed between two experiments, in words, setting by setting; the name does not count."""
    return [
        f"{key} was {was!r}, is {now!r}"
        for key, was, now in _diff("", json.loads(old.to_json()), json.loads(new.to_json()))
        if key != "name"
    ]


def _diff(where: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            change
            for key in keys
            for change in _diff(f"{where}.{key}".lstrip("."), old.get(key), new.get(key))
        ]
    return [] if old == new else [(where, old, new)]


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value, an integer made a float where a float is meant; an error if it is of another type."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = tuple(typing.get_origin(one) or one for one in allowed)
    if float in plain and int not in plain and type(value) is int:
        value = float(value)
    if float in plain and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML reads 5e-4 as a string
    finite = not isinstance(value, float) or math.isfinite(value)
    if finite and (type(value) in plain or (Mapping in plain and isinstance(value, Mapping))):
        return value
    number = "a number" if finite else "a finite number"
    words = {int: "an integer", float: number, bool: "true or false", str: "text", types.NoneType: "null"}
    wanted = " or ".join(words.get(one, "a section") for one in plain)
    raise ValueError(f"{where} is {value!r}; it must be {wanted}")


def run_name(name: Any) -> str:
    """The name of a run, which is that of a folder too."""
    if not isinstance(name, str):
        raise ValueError(f"name is {name!r}, which YAML does not read as text; put it in quotes")
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise ValueError(
            f"name is {name!r}; use letters, digits, dots, dashes and underscores, at most 100 of them"
        )
    return name


def _objectives(given: Any) -> tuple[Objective, ...]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence):
        raise ValueError(f"objectives is {given!r}; write a list such as [accuracy, latency]")
    for name in names:
        if name not in list(OBJECTIVES):  # a list, since what people write need not be hashable
            raise unknown(f"objectives: {name!r}", name, OBJECTIVES)
        if names.count(name) > 1:
            raise ValueError(f"objectives lists {name} twice; list it once")
    if len(names) < 2:
        raise ValueError(
            f"objectives is {names}; a Pareto front needs two or more of {', '.join(OBJECTIVES)}"
        )
    return tuple(OBJECTIVES[name].objective for name in names)


def _constraints(given: Any) -> tuple[Constraint, ...]:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"constraints is {given!r}; write for example constraints: {{latency_ms: {{max: 2.0}}}}"
        )
    constraints = []
    for key, limits in given.items():
        if key not in KEYS:
            raise unknown(f"constraints.{key}", key, KEYS)
        if not isinstance(limits, Mapping) or not limits:
            raise ValueError(f"constraints.{key} is {limits!r}; write {{max: ...}} or {{min: ...}}")
        check_keys(f"constraints.{key}", limits, ("min", "max"))
        numbers = {side: amount(value, f"constraints.{key}.{side}") for side, value in limits.items()}
        if numbers.get("min", -1) > numbers.get("max", float("inf")):
            raise ValueError(f"constraints.{key}: min {numbers['min']:g} is above max {numbers['max']:g}")
        if key == "accuracy":
            _check_percent("constraints.accuracy", limits, numbers.values())
        constraints.append(Constraint(key, **numbers))
    return tuple(constraints)


def _focus(given: Any, objectives: Sequence[Objective]) -> tuple[Constraint, ...]:
    if not isinstance(given, Mapping):
        raise ValueError(f"focus is {given!r}; write for example focus: {{latency_ms: [1, 3]}}")
    keys = [one.key for one in objectives]
    region = []
    for key, ends in given.items():
        where = f"focus.{key}"
        if key not in keys:
            raise unknown(where, key, keys)
        if not isinstance(ends, list) or len(ends) != 2 or ends in ([None, None], [0, None]):
            raise ValueError(f"{where} is {ends!r}; write the two ends, [1, 3], or null for one that is open")
        ends = [None if ends[0] == 0 and ends[0] is not False else ends[0], ends[1]]
        low, high = (None if end is None else amount(end, where) for end in ends)
        if low is not None and high is not None and low >= high:
            raise ValueError(f"{where} is [{low:g}, {high:g}]; the first end must be below the second")
        if key == "accuracy":
            _check_percent(where, given[key], [end for end in (low, high) if end is not None])
        region.append(Constraint(key, low, high))
    return tuple(region)


def _check_percent(where: str, given: Any, numbers: Collection[float]) -> None:
    shown = dict(given) if isinstance(given, Mapping) else given
    if min(numbers) <= 1:
        raise ValueError(f"{where} is {shown}; accuracy is in percent: write {100 * min(numbers):g}")
    if max(numbers) > 100:
        raise ValueError(f"{where} is {shown}; accuracy is in percent, at most 100")


def amount(value: Any, where: str) -> float:
    """A number above 0, or text such as 300k or 2.5M."""
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)):
        number, exponent, suffix = match.groups()
        value = float(f"{number}e{exponent or _SUFFIXES[suffix]}")  # 1.001k is 1001, which a product misses
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{where} is {value!r}; it must be a number above 0, such as 2.5, 300k or 1M")
    return float(value)


def _device(given: Any) -> dict[str, Any]:
    from nas.hardware import device

    given = {"name": given} if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise ValueError(f"device is {given!r}; write for example device: {{name: onnxruntime-cpu}}")
    chosen = device(given)
    return {"name": chosen.name, **asdict(chosen)}


def _override(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"-o {override}: write it as section.setting=value, such as search.budget=64")
    *sections, key = dotted.split(".")
    place = content
    if sections[:1] == ["space"] and isinstance(content.get("space"), str):
        raise ValueError(
            f"-o {override}: space is {content['space']!r}, which changes as a whole; write the skeleton into "
            "the experiment file to change a part of it"
        )
    for name in sections:
        inner = {} if place.get(name) is None else place[name]
        if isinstance(inner, str):
            inner = {"name": inner}  # data: digits
        if not isinstance(inner, Mapping):
            raise ValueError(f"-o {override}: {name} is no section")
        place[name] = dict(inner)
        place = place[name]
    place[key] = parse_yaml(text, f"-o {override}")
