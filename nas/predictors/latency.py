"""Latency on the user's device, predicted from measurements of a few dozen architectures.

They are drawn from bins of MACs, ends included, exported untrained and timed as the search times candidates. A
linear model of what each option of each decision adds, and of MACs and bytes, is fitted to their relative errors.
Options of one kind of decision share a part of their effect, since a few dozen measurements say little about one
kernel size in one block, but much about that size in all blocks.

The file is the memory: what a training goes by must be the same when it is resumed, so what was fitted is kept
with what was measured, and never fitted again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.json_file import read_json, write_json
from nas.predictors.ridge import held_out, ridge
from nas.storage.records import Latency
from search_spaces import Architecture, CellSpace, SearchSpace
from supernets.cost import COSTS, Costs, CostTable, cost_table

if TYPE_CHECKING:
    from nas.config import Experiment

FILE = "latency_model.json"  # in a run's folder
MEASUREMENTS = 60
STRATA = 8  # bins of MACs that are measured alike often
TRIES = 20  # draws per measurement, where a bin holds few architectures
OWN = 0.3  # the weight of an option's own effect, the part that its kind shares being 1
COUNTED = 30.0  # of MACs and bytes at their largest: hardly penalised, since more work takes more time
FLOOR = 0.5  # of the least measured latency: below it nothing is predicted
FEWEST = 10  # measurements below which nothing is held out


@dataclass(frozen=True)
class Measurement:
    """An encoded architecture and its latency."""

    vector: tuple[int, ...]
    latency: Latency


@dataclass(frozen=True)
class Quality:
    """How well latencies are predicted that the fit has not seen."""

    relative_error: float  # the median of |predicted / measured - 1|
    tau: float | None  # Kendall's, None where all are equal


@dataclass(frozen=True)
class Model:
    """Milliseconds: `intercept`, what each option of each decision adds, and each MAC and byte."""

    intercept: float
    options: tuple[tuple[float, ...], ...]
    costs: Mapping[str, float]  # of MACs and bytes
    penalty: float


class LatencyPredictor:
    """The predicted latency of encoded architectures: (n, decisions) to (n,) milliseconds.

    None is predicted to be less than half of the least that was measured.

    Args:
        device: the `device` section of the experiment, as it was measured with.
        quality: None where too little was measured to hold some of it out.
    """

    def __init__(
        self,
        space: SearchSpace | CellSpace,
        table: CostTable,
        device: Mapping[str, Any],
        model: Model,
        quality: Quality | None,
        measurements: Sequence[Measurement],
    ):
        self.space, self.table, self.device = space, table, dict(device)
        self.model, self.quality, self.measurements = model, quality, tuple(measurements)
        most = max((len(row) for row in model.options), default=0)
        self._options = np.zeros((len(model.options), most + 1))  # column 0: what does not arise adds nothing
        for row, options in zip(self._options, model.options, strict=True):
            row[1 : len(options) + 1] = options
        self.least = FLOOR * min(one.latency.median_ms for one in measurements)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        vectors = self.space.canonical(vectors)
        costs = self.table(vectors)
        total = self.model.intercept + self._options[np.arange(vectors.shape[1]), vectors].sum(axis=1)
        for name, per_one in self.model.costs.items():
            total = total + per_one * costs[:, COSTS.index(name)]
        return np.maximum(total, self.least)

    def __str__(self) -> str:
        first = self.measurements[0].latency
        disturbed = sum(one.latency.contended for one in self.measurements)
        made = f"latency is predicted from {len(self.measurements)} measurements on {first.device} ({first.processor})"
        made += f", {disturbed} of them disturbed by other work" if disturbed else ""
        if self.quality is None:
            return f"{made}, too few to say how well"
        tau = "" if self.quality.tau is None else f", Kendall's tau {self.quality.tau:.2f}"
        error = f"{100 * self.quality.relative_error:.1f} %"
        return f"{made}; of what the prediction has not seen it is {error} off (median){tau}"

    # -- the file ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the predictor in place of what was there."""
        names = [decision.name for decision in self.space.decisions]
        content = {
            "space": fingerprint(self.space),
            "device": self.device,
            "quality": self.quality and asdict(self.quality),
            "model": {
                **asdict(self.model),
                "options": dict(zip(names, map(list, self.model.options), strict=True)),
            },
            "measurements": [
                {"architecture": one.vector, "latency": asdict(one.latency)} for one in self.measurements
            ],
        }
        write_json(path, content)

    @classmethod
    def load(
        cls,
        path: Path,
        space: SearchSpace | CellSpace,
        table: CostTable,
        device: Mapping[str, Any],
        begun: bool = False,
    ) -> LatencyPredictor:
        """What `save` wrote, to the last bit.

        Args:
            begun: a training goes by it already, so a new one would not do.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, of another space, or of a device with other settings.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path.name} in {path.parent}, by which latency_ms is predicted; put it back there, or "
                "start over with --fresh, which measures"
            )
        way_out = (
            "start over with --fresh" if begun else "remove it to measure anew, or start over with --fresh"
        )
        content = read_json(path, f"restore it, or {way_out}")
        try:
            options = content["model"].pop("options")
            model = Model(options=tuple(map(tuple, options.values())), **content["model"])
            quality = content["quality"] and Quality(**content["quality"])
            measurements = [
                Measurement(tuple(one["architecture"]), Latency.from_json(json.dumps(one["latency"])))
                for one in content["measurements"]
            ]
            of_space, of_device = content["space"], content["device"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); restore it, or {way_out}") from None
        if of_space != fingerprint(space):
            raise ValueError(f"{path} is of another search space than {space.name}; {way_out}")
        if of_device != dict(device):
            names = sorted(of_device.keys() | device.keys())
            differ = [
                f"{name} {of_device.get(name)}, not {device.get(name)}"
                for name in names
                if of_device.get(name) != device.get(name)
            ]
            raise ValueError(f"{path} was measured on a device with {', '.join(differ)}; {way_out}")
        return cls(space, table, device, model, quality, measurements)


def fingerprint(space: SearchSpace | CellSpace) -> str:
    """What tells a space from others, in 16 letters."""
    return hashlib.sha256(space.to_json().encode()).hexdigest()[:16]


# -- where it is used --------------------------------------------------------------------------


def goes_by_latency(sampler: object) -> bool:
    """Whether a `training.sampler`, or one inside it, has the cost latency_ms."""
    if isinstance(sampler, Mapping):
        return sampler.get("cost") == "latency_ms" or any(map(goes_by_latency, sampler.values()))
    return isinstance(sampler, list | tuple) and any(map(goes_by_latency, sampler))


def costs_for(experiment: Experiment, space: SearchSpace | CellSpace, folder: Path | None) -> Costs:
    """The costs that an experiment's sampler can go by, the latency as the file in the run's folder predicts it.

    Raises:
        ValueError, FileNotFoundError: as `LatencyPredictor.load`, if the sampler needs it.
    """
    table = cost_table(space)
    if folder is None or not goes_by_latency(experiment.training.sampler):
        return Costs(table)
    return Costs(table, LatencyPredictor.load(folder / FILE, space, table, experiment.device, begun=True))


def predictor_for(
    folder: Path,
    experiment: Experiment,
    space: SearchSpace | CellSpace,
    stop: Callable[[], bool] = lambda: False,
    begun: bool = False,
) -> LatencyPredictor | None:
    """The predictor in a run's folder, or if there is none, one that is made now and kept there.

    Args:
        begun: a training goes by it already, so a new one would not do.

    Returns:
        None if `stop` said so before all was measured.

    Raises:
        ValueError, FileNotFoundError: as `LatencyPredictor.load`.
    """
    from nas.progress import track

    path, table, device = folder / FILE, cost_table(space), experiment.device
    if begun or path.exists():
        return LatencyPredictor.load(path, space, table, device, begun)
    chosen = stratified(space, table, seed=experiment.training.seed)
    measure, measurements = measurer(space, device), []
    with track("measuring latency", len(chosen)) as shown:
        for architecture in chosen:
            if stop():
                return None
            measurements.append(measure(architecture))
            shown.to(len(measurements), f"{measurements[-1].latency.median_ms:.3g} ms")
        predictor = fit(space, table, device, measurements)
        predictor.save(path)
        shown.say(str(predictor))
    return predictor


# -- measuring ---------------------------------------------------------------------------------


def stratified(
    space: SearchSpace | CellSpace, table: CostTable, count: int = MEASUREMENTS, seed: int = 0
) -> list[Architecture]:
    """Different architectures from bins of equal width in MACs, as many of each as it has, the ends first."""
    from supernets.samplers.cost_bins import cost_bins

    ends = (table.smallest, table.largest)
    bins = cost_bins(space, Costs(table).of("macs"), STRATA, ends, seed=seed)
    chosen, random = {one.key: one for one in ends}, Random(f"{seed}/latency")
    for number in range(TRIES * count):
        if len(chosen) >= min(count, space.size):
            break
        drawn = bins.sample(number % len(bins), random)
        chosen[drawn.key] = drawn
    return list(chosen.values())[:count]


def measurer(
    space: SearchSpace | CellSpace, device: Mapping[str, Any]
) -> Callable[[Architecture], Measurement]:
    """What measures an architecture, untrained, on a device: its section of the experiment."""
    from nas.hardware import device as latency_device
    from nas.objectives.latency import fastest
    from supernets.merging import merged
    from supernets.supernet import make_supernet

    supernet, there = make_supernet(space).eval(), latency_device(device)

    def measure(architecture: Architecture) -> Measurement:
        subnet = merged(supernet.export(architecture)).eval()
        record = fastest(there, subnet, space.input_shape(architecture.resolution))
        return Measurement(space.encode(architecture), record)

    return measure


# -- fitting -----------------------------------------------------------------------------------


def fit(
    space: SearchSpace | CellSpace,
    table: CostTable,
    device: Mapping[str, Any],
    measurements: Sequence[Measurement],
) -> LatencyPredictor:
    """The predictor of what was measured."""
    vectors = np.array([one.vector for one in measurements], np.int64).reshape(len(measurements), -1)
    targets = np.array([one.latency.median_ms for one in measurements])
    columns = [COSTS.index(name) for name in ("macs", "bytes")]
    counted = table(vectors)[:, columns].astype(float)
    largest = np.maximum(counted.max(axis=0), 1)
    chosen, kinds = _one_hot(space, vectors), _kinds(space)
    features = np.concatenate([OWN * chosen, chosen @ kinds, COUNTED * counted / largest], axis=1)
    fitted = ridge(features, targets)
    own, shared, costs = np.split(fitted.coefficients, np.cumsum(kinds.shape))
    added = iter((OWN * own + kinds @ shared).tolist())
    model = Model(
        intercept=fitted.intercept,
        options=tuple(tuple(next(added) for _ in decision.options) for decision in space.decisions),
        costs=dict(zip(("macs", "bytes"), (COUNTED * costs / largest).tolist(), strict=True)),
        penalty=fitted.penalty,
    )
    return LatencyPredictor(space, table, device, model, _quality(features, targets), measurements)


def _quality(features: np.ndarray, targets: np.ndarray) -> Quality | None:
    from nas.rank_statistics import tau

    if len(targets) < FEWEST:
        return None
    predicted = np.maximum(held_out(features, targets), FLOOR * targets.min())
    return Quality(float(np.median(np.abs(predicted / targets - 1))), tau(predicted, targets))


def _one_hot(space: SearchSpace | CellSpace, vectors: np.ndarray) -> np.ndarray:
    """(n, options of all decisions): 1 for the option that was chosen, 0 for all where none arises."""
    columns = [
        vectors[:, [place]] == np.arange(1, len(decision.options) + 1)
        for place, decision in enumerate(space.decisions)
    ]
    return np.concatenate([np.zeros((len(vectors), 0)), *columns], axis=1)


def _kinds(space: SearchSpace | CellSpace) -> np.ndarray:
    """(options of all decisions, kinds of option): to which kind, such as a kernel size of 5, each belongs."""
    kinds = [
        (re.sub(r" \d+| [ab]$", "", decision.name), option)  # in whichever block, on whichever path
        for decision in space.decisions
        for option in decision.options
    ]
    different = list(dict.fromkeys(kinds))
    return np.array([[kind == one for one in different] for kind in kinds], float).reshape(
        len(kinds), len(different)
    )
