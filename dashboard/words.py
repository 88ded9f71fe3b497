"""How numbers, times and architectures are put into words: every number with its unit and where it is from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from nas.devices import device_of, on
from nas.landmarks import FACT
from nas.landmarks import KEY as PREDICTED
from nas.objectives import KEYS, measure_of
from nas.profile_view import significant
from nas.storage.records import Candidate, Latency, Run
from search_spaces import (
    CategoricalArchitecture,
    CellArchitecture,
    Choice,
    EdgeCellArchitecture,
    architecture_from_json,
)
from search_spaces.cells import INPUTS, KINDS, Cell, Path


@dataclass(frozen=True)
class Quantity:
    """What a value of a candidate is: its name, unit and goal, and how it came about."""

    key: str
    name: str
    unit: str
    goal: Literal["minimize", "maximize"] | None = None  # None: neither is better
    source: str = "measured"

    @property
    def label(self) -> str:
        """The name with its unit, for headers and axes."""
        return f"{self.name} ({self.unit})" if self.unit and self.unit != self.name else self.name

    def text(self, value: float) -> str:
        """A value with its unit."""
        digits = number(value, self.unit)
        unit = self.unit if self.unit != self.name else ""
        glue = "" if not unit or (unit == "B" and digits[-1].isalpha()) else " "  # 12.3 kB, but 12.3 M MACs
        return f"{digits}{glue}{unit}"

    def limit_text(self, value: float) -> str:
        """A limit, as it was asked for."""
        return f"{value:g} {self.unit}" if self.unit in PHYSICAL else self.text(value)

    def interval_text(self, low: float, high: float) -> str:
        return f"{number(low, self.unit)} to {self.text(high)}"


COUNTED = ("macs", "parameters", "bytes")
OWN = "measured by the run's own evaluator"
NUMBER = Quantity("#", "number of the candidate", "", source="counted")
PHYSICAL = ("%", "ms", "s", "mJ", "J", "W")  # units that take no further prefix


def quantity(run: Run, key: str) -> Quantity:
    """What a key of the run's values stands for, an objective of the run or another value of its candidates."""
    if key == NUMBER.key:
        return NUMBER
    recorded = {one.key: one for one in run.objectives}
    if key not in recorded and (key in KEYS or device_of(key)) and run.evaluator is None:
        recorded[key] = measure_of(key).objective
    if key not in recorded and run.evaluator is not None:
        return Quantity(
            key, key, "", source=OWN
        )  # an objective, of which the front on another device has none
    if key not in recorded:
        return Quantity(key, key.replace("_", " "), "")
    one = recorded[key]
    if run.evaluator is not None:
        return Quantity(key, one.name, one.unit, one.goal, OWN)
    source = "counted" if one.name in COUNTED else "measured"
    if one.name == "accuracy":  # the test images are read by exports alone
        source = f"measured on validation {'images' if run.dims == 2 else 'signals'}"
    if key == PREDICTED:
        source = f"predicted by {run.facts.get(FACT, 'trainings alone').partition(',')[0]}"
    spelled = one.unit if one.unit.lower() == one.name.lower() else one.name  # MACs, not macs
    if device := device_of(key):  # latency on tablet, not latency@tablet
        spelled = f"{one.name.removesuffix(on('', device))} on {device}"
    return Quantity(key, spelled, one.unit, one.goal, source)


def quantities(run: Run, candidates: Iterable[Candidate]) -> list[Quantity]:
    """Everything that can be an axis: the run's objectives first, then what else was recorded, by name."""
    objectives = [one.key for one in run.objectives]
    others = {key for one in candidates for key in one.values} - set(objectives)
    return [quantity(run, key) for key in (*objectives, *sorted(others))]


def source(what: Quantity, candidate: Candidate) -> str:
    """How a value of a candidate came about: its accuracy perhaps on a part of the images."""
    partly = what.key == "accuracy" and not candidate.whole
    return f"{what.source}, {candidate.part}: beaten for certain" if partly else what.source


def sources(several: Iterable[Quantity]) -> str:
    """Which of them were measured and which counted, as a sentence."""
    by_source: dict[str, list[str]] = {}
    for one in several:
        by_source.setdefault(one.source, []).append(one.name)
    return ". ".join(f"{source.capitalize()}: {', '.join(names)}" for source, names in by_source.items())


# -- numbers -----------------------------------------------------------------------------------


def number(value: float, unit: str = "") -> str:
    """Two decimals for percent, four digits for milliseconds, else three, and counts with a prefix: 91.25, 0.01412,
    1.23, 12.3 M."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if unit == "%":
        return f"{value:.2f}"
    if value == int(value) and abs(value) < 10_000:
        return f"{value:,.0f}"
    prefix = ""
    for step in ("k", "M", "G", "T") if unit not in PHYSICAL else ():
        if abs(value) < 999.5:
            break
        value, prefix = value / 1000, f" {step}"
    return significant(value, 4 if unit == "ms" else 3) + prefix


def count(several: int, one: str, many: str | None = None) -> str:
    """`1 candidate`, `2 candidates`."""
    return f"{several:,} {one if several == 1 else many or one + 's'}"


def moment(iso: str) -> str:
    """2026-01-31T12:00:00+00:00 as 2026-01-31 12:00 UTC."""
    return f"{iso[:16].replace('T', ' ')} UTC"


def last_line(text: str) -> str:
    """Where the message of an error is, with or without a traceback before it."""
    return (text.strip().splitlines() or [""])[-1]


def device(latency: Latency) -> str:
    """Where and how a latency was measured: onnxruntime-cpu, 1 thread, batch 1, float32, eager."""
    settings = dict(latency.settings)
    words = [latency.device]
    if "threads" in settings:
        words.append(count(int(settings["threads"]), "thread"))
    if "batch" in settings:
        words.append(f"batch {settings['batch']}")
    words += [str(settings[name]) for name in ("precision", "execution") if name in settings]
    return ", ".join(words)


# -- architectures -----------------------------------------------------------------------------


@lru_cache(maxsize=50_000)
def architecture_lines(architecture: str, dims: int = 2) -> tuple[str, ...]:
    """An architecture's JSON as a line for the resolution and one per stage, per cell, or per node of a cell of edges;
    or one per decision."""
    fields = architecture_from_json(architecture)
    if isinstance(fields, CategoricalArchitecture):
        return tuple(f"{name}: {option}" for name, option in decision_words(fields))
    if isinstance(fields, CellArchitecture):
        cells = [f"{kind} cell: {' | '.join(cell_words(fields.cell(kind))) or 'none'}" for kind in KINDS]
        return (f"{fields.resolution} {'px' if dims == 2 else 'samples'}", *cells)
    if isinstance(fields, EdgeCellArchitecture):
        nodes = [f"node {node}: {' + '.join(row)}" for node, row in enumerate(edge_words(fields), start=1)]
        return (f"{fields.resolution} {'px' if dims == 2 else 'samples'}", *nodes)
    stages = [
        f"{stage.width} channels{', shared kernels' if stage.share_kernels else ''}: "
        + " | ".join(" ".join(block_words(block, dims)) for block in stage.blocks)
        for stage in fields.stages
    ]
    return (f"{fields.resolution} {'px' if dims == 2 else 'samples'}", *stages)


def decision_words(architecture: CategoricalArchitecture) -> list[tuple[str, str]]:
    """The decisions of an architecture, each with its option as JSON; text is plain."""
    return [
        (name, option if isinstance(option, str) else json.dumps(option))
        for name, option in architecture.items()
    ]


def cell_words(cell: Cell) -> list[str]:
    """The blocks of a cell in words: both paths, and how they are combined."""
    combined = {"add": " + ", "concat": " & "}
    return [combined[block.combiner].join(map(path_words, block.paths)) for block in cell]


def edge_words(architecture: EdgeCellArchitecture) -> list[list[str]]:
    """Of each node of a cell of edges after its input, what comes in from each node before it."""
    return [
        [
            f"{'nothing' if name == 'none' else name.replace('_', ' ')} of {f'node {source}' if source else 'input'}"
            for source, name in enumerate(row)
        ]
        for row in architecture.edges
    ]


def path_words(path: Path) -> str:
    """The operator, and what it reads: the cell before the last, the last cell, or a block from 1 on."""
    names = ("cell before last", "last cell")
    read = names[path.input] if path.input < INPUTS else f"block {path.input - INPUTS + 1}"
    return f"{path.operator.replace('_', ' ')} of {read}"


def block_words(choice: Choice, dims: int = 2) -> list[str]:
    """A block in words: operator, its settings, expansion, attention, precision; what does nothing is left out."""
    words = [choice.operator.replace("_", " "), *setting_words(choice, dims)]
    if choice.expansion != 1:
        words.append(f"×{choice.expansion:g}")
    if choice.attention != "none":
        words.append(choice.attention)
    if choice.weight_bits < 32 or choice.activation_bits < 32:
        words.append(f"{choice.weight_bits}/{choice.activation_bits} bit")
    return words


def setting_words(choice: Choice, dims: int = 2) -> list[str]:
    """Its settings; a kernel is 5×5 on images and 5 on signals."""
    settings = dict(choice.settings)
    kernel, kernels, dilation = (settings.pop(name, None) for name in ("kernel_size", "kernels", "dilation"))
    sizes = [kernel] if kernel else kernels or ()
    words = [" + ".join("×".join([str(size)] * dims) for size in sizes)] if sizes else []
    words = [f"kernel {word}" for word in words] if dims == 1 else words
    words += [f"dilation {dilation}"] if dilation and dilation > 1 else []
    if paths := settings.pop("paths", None):
        words += [" + ".join("×".join([str(size)] * dims) for size in paths)]
    if settings.get("split") == "equal":
        del settings["split"]
    return words + [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in settings.items()
        if value is not False
    ]
