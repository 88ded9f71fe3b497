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

or, in place of `device`, several with names: `devices: {server: onnxruntime-cpu, tablet: {name: openvino-cpu}}`. The
objective `latency` is then one for each, `latency@server` and `latency@tablet`.

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
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nas.data import Data
from nas.devices import TIMED, Goals, device_of, devices_in, is_latency, on
from nas.hardware.settings import Settings
from nas.landmarks import Landmarks
from nas.objectives import KEYS, OBJECTIVES, measure_of
from nas.search import Search
from nas.storage.records import Constraint, Objective
from search_spaces.skeleton import read_skeleton
from search_spaces.strict import check_keys, parse_yaml, read_yaml, unknown
from supernets.recipe import Training

_GOALS = ("objectives", "constraints", "focus")
_KEYS = ("name", "data", "space", "training", "search", *_GOALS, "device", "devices", "landmarks")
_SECTIONS = {
    "data": Data,
    "training": Training,
    "search": Search,
    "device": Settings,
    "landmarks": Landmarks,
}
PERCENT = ("accuracy", "predicted_accuracy", "label_cosine")  # keys that people write as shares by mistake
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
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
    device: Mapping[str, Any]  # of several with names the first
    focus: tuple[Constraint, ...] = ()
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by name; none where it is one
    landmarks: Landmarks = field(default_factory=Landmarks)  # where predicted_accuracy is asked for

    @property
    def goals(self) -> Goals:
        """What it searches for, on all of its devices together."""
        return Goals(self.objectives, self.constraints, self.focus)

    @property
    def near(self) -> dict[str, Mapping[str, Any]]:
        """The devices that are where candidates are evaluated, by name; `device` has none."""
        every = self.devices or {"": self.device}
        return {name: one for name, one in every.items() if "resources" not in one}

    @property
    def far(self) -> dict[str, Mapping[str, Any]]:
        """The devices of other Ray nodes that something is measured on, by the key of the value."""
        keys = dict.fromkeys(one.key for one in (*self.objectives, *self.constraints))
        timed = {key: self.timed_on(key) for key in keys if is_latency(key)}
        return {key: one for key, one in timed.items() if "resources" in one}

    def timed_on(self, key: str) -> Mapping[str, Any]:
        """The section of the device that a latency of this key is measured on."""
        return self.devices[name] if (name := device_of(key)) else self.device

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
    device, devices = _devices(content)
    objectives = _objectives(content.get("objectives", ["accuracy", "latency"]), devices)
    constraints = _constraints(_on_each(_or_empty(content, "constraints"), "constraints", devices), devices)
    search = section(Search, _or_empty(content, "search"), "search")
    if search.per_device and len(devices_in(one.key for one in (*objectives, *constraints))) < 2:
        raise ValueError(
            "search.per_device is true, but fewer than two devices are measured: name them in devices, such as "
            "devices: {server: onnxruntime-cpu, tablet: openvino-cpu}, with latency among the objectives"
        )
    _check_race(search, objectives, constraints)
    space = read_skeleton(content["space"])
    training = section(Training, _or_empty(content, "training"), "training")
    training = replace(training, sampler=_on_one(training.sampler, "training.sampler", devices))
    if training.drop_path and "edge_cells" in space:
        raise ValueError(
            f"training.drop_path is {training.drop_path!r}, but that is for spaces of stages, and this one is of edge "
            "cells; leave it out"
        )
    if training.drop_path and "cells" in space:
        raise ValueError(
            f"training.drop_path is {training.drop_path!r}, but cells have a drop path of their own; leave it out and "
            "set space.cells.drop_path"
        )
    asked = Experiment(
        name=run_name(content.get("name", "experiment")),
        data=section(Data, data, "data"),
        space=space,
        training=training,
        search=search,
        objectives=objectives,
        constraints=constraints,
        device=device,
        focus=_focus(_on_each(_or_empty(content, "focus"), "focus", devices), objectives),
        devices=devices,
        landmarks=section(Landmarks, _or_empty(content, "landmarks"), "landmarks"),
    )
    if search.first_images is not None and asked.far:
        raise ValueError(
            f"search.first_images is {search.first_images}, but {next(iter(asked.far))} is measured on another node, "
            "after accuracy; leave one of them out"
        )
    return asked


def _check_race(search: Search, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> None:
    if search.first_images is None:
        return
    keys, where = [one.key for one in objectives], f"search.first_images is {search.first_images}"
    if "accuracy" not in keys:
        raise ValueError(
            f"{where}, but accuracy is not among the objectives, and it alone can be scored on a part of the images; "
            "leave it out"
        )
    for key in (*keys, *(one.key for one in constraints)):
        measure = measure_of(key)
        if key != "accuracy" and (measure.statistics or "accuracy" in measure.needs):
            raise ValueError(f"{where}, but {key} needs all of the images; leave one of them out")


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
        devices=stored.get("devices", {}),
        landmarks=Landmarks(**stored.get("landmarks", {})),
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
        f"{key} was {_as_written(was)}, is {_as_written(now)}"
        for key, was, now in _diff("", json.loads(old.to_json()), json.loads(new.to_json()))
        if key != "name"
    ]


def _as_written(value: Any) -> str:
    """As a file has it: of a whole number that is meant as a float, 2 and not 2.0."""
    return (
        f"{value:g}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e6 else repr(value)
    )


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


def _objectives(given: Any, devices: Collection[str]) -> tuple[Objective, ...]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence):
        raise ValueError(f"objectives is {given!r}; write a list such as [accuracy, latency]")
    latency = KEYS[TIMED].objective.name
    known = {name: one.objective for name, one in OBJECTIVES.items()}
    several = {on(latency, device): measure_of(on(TIMED, device)).objective for device in devices}
    for name in names:
        if name not in [*known, *several]:  # a list, since what people write need not be hashable
            raise unknown(f"objectives: {name!r}", name, [*known, *several])
    if devices:
        names = [one for name in names for one in (several if name == latency else [name])]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"objectives lists {name} twice; list it once")
    if len(names) < 2:
        raise ValueError(
            f"objectives is {names}; a Pareto front needs two or more of {', '.join(OBJECTIVES)}"
        )
    return tuple((known | several)[name] for name in names)


def _on_each(given: Any, where: str, devices: Collection[str]) -> Any:
    """What is asked for of the latency, asked for on each of the devices, if they have names."""
    if not devices or not isinstance(given, Mapping) or TIMED not in given:
        return given
    several = [on(TIMED, device) for device in devices]
    if twice := [key for key in several if key in given]:
        raise ValueError(
            f"{where} has {TIMED}, which is of every device, and {twice[0]}; leave one of them out"
        )
    pairs = [(one, value) for key, value in given.items() for one in (several if key == TIMED else [key])]
    return dict(pairs)


def _on_one(sampler: Any, where: str, devices: Collection[str]) -> Any:
    """A sampler, and what is inside it, that goes by a latency: by that on one of the devices, if they have names."""
    if not isinstance(sampler, Mapping):
        return sampler
    cost, keys = sampler.get("cost"), [on(TIMED, device) for device in devices]
    if "of" in sampler:
        sampler = {**sampler, "of": _on_one(sampler["of"], f"{where}.of", devices)}
    if not is_latency(cost) or cost in (keys or [TIMED]):
        return sampler
    if cost == TIMED and len(keys) == 1:
        return {**sampler, "cost": keys[0]}
    if cost == TIMED:
        raise ValueError(f"{where}.cost is {TIMED}, but there are several devices; write {' or '.join(keys)}")
    raise unknown(f"{where}.cost {cost!r}", cost, keys or [TIMED])


def _constraints(given: Any, devices: Collection[str]) -> tuple[Constraint, ...]:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"constraints is {given!r}; write for example constraints: {{latency_ms: {{max: 2.0}}}}"
        )
    constraints, keys = [], [*KEYS, *(on(TIMED, device) for device in devices)]
    for key, limits in given.items():
        if key not in keys:
            raise unknown(f"constraints.{key}", key, keys)
        if not isinstance(limits, Mapping) or not limits:
            raise ValueError(f"constraints.{key} is {limits!r}; write {{max: ...}} or {{min: ...}}")
        check_keys(f"constraints.{key}", limits, ("min", "max"))
        numbers = {side: amount(value, f"constraints.{key}.{side}") for side, value in limits.items()}
        if numbers.get("min", -1) > numbers.get("max", float("inf")):
            raise ValueError(f"constraints.{key}: min {numbers['min']:g} is above max {numbers['max']:g}")
        if key in PERCENT:
            _check_percent(f"constraints.{key}", limits, numbers.values())
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
        if key in PERCENT:
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


def _devices(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The one device, or the first of several, and these by name."""
    given = content.get("devices")
    if given is None:
        return _device(_or_empty(content, "device"), "device"), {}
    if content.get("device") is not None:
        raise ValueError("device is one and devices are several with names; leave one of the sections out")
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            f"devices is {given!r}; give each a name, such as devices: {{server: onnxruntime-cpu, tablet: "
            "{name: openvino-cpu, precision: bfloat16}}"
        )
    for name in given:
        if not isinstance(name, str) or not _DEVICE.fullmatch(name):
            raise ValueError(
                f"devices.{name}: the name of a device is of letters, digits, dashes and underscores, at most 40"
            )
    devices = {name: _device(one, f"devices.{name}") for name, one in given.items()}
    return next(iter(devices.values())), devices


def _device(given: Any, where: str) -> dict[str, Any]:
    from nas.hardware import declared, device

    given = {"name": given} if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {given!r}; write for example {where}: {{name: onnxruntime-cpu}}")
    settings = {key: value for key, value in given.items() if key != "resources"}
    try:
        chosen = declared(settings) if "resources" in given else device(settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where != "device" else str(error)) from None
    section = {"name": chosen.name, **asdict(chosen)}
    if "resources" not in given:
        return section
    return section | {"resources": _resources(chosen, given["resources"], f"{where}.resources")}


def _resources(device: Any, given: Any, where: str) -> dict[str, float]:
    """What the Ray node of a device has that others have not."""
    from nas.hardware.runtime import OnnxRuntime

    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{where} is {given!r}; write what its Ray node has, such as {{jetson: 1}}")
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise ValueError(f"{where}.{name} is {number!r}; it must be a number above 0, such as 1")
    if not isinstance(device, OnnxRuntime):
        raise ValueError(
            f"{where}: {device.name} cannot be on another node, since networks are sent as ONNX; leave resources out, "
            "or name onnxruntime-cpu, onnxruntime-cuda or openvino-cpu"
        )
    return {str(name): float(number) for name, number in given.items()}


def _override(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"-o {override}: write it as section.setting=value, such as search.budget=64")
    *sections, key = dotted.split(".")
    place = content
    if sections[:1] == ["space"] and isinstance(content.get("space"), str):
        content["space"] = read_skeleton(content["space"]) | {
            "name": f"{Path(content['space']).stem}, changed"
        }
    for name in sections:
        inner = {} if place.get(name) is None else place[name]
        if isinstance(inner, str):
            inner = {"name": inner}  # data: digits
        if not isinstance(inner, Mapping):
            raise ValueError(f"-o {override}: {name} is no section")
        place[name] = dict(inner)
        place = place[name]
    place[key] = parse_yaml(text, f"-o {override}")
