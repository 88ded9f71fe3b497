"""Latency on the user's device, predicted from measurements of at most 150 architectures.

They are chosen by the model, exported untrained and timed as the search times candidates. The model and its choice
are in `nas.predictors.model` and `nas.predictors.learning`; here is the file that it is kept in, with its domain: the
search space, the device and its settings, the versions and the processor it was measured on, and the range.

The file is the memory: what a training goes by must be the same when it is resumed, so what was fitted is kept
with what was measured, and never fitted again.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.devices import TIMED, device_of, is_latency, on
from nas.json_file import read_json, write_json
from nas.objectives import measure_of
from nas.predictors.learning import BUDGET, ENOUGH, Learner, reading
from nas.predictors.model import Known, LatencyModel, Quality, Table, fit_latencies
from nas.predictors.terms import terms_of
from nas.storage.records import Latency
from search_spaces import Architecture, NetworkSpace

if TYPE_CHECKING:
    from torch import nn

    from nas.config import Experiment
    from supernets.cost import Costs

FILE = "latency_model.json"  # in a run's folder; of several devices `latency_model@tablet.json`
FORMAT = 2  # of the file; earlier ones had none and held another model


@dataclass(frozen=True)
class Measurement:
    """An encoded architecture and its latency."""

    vector: tuple[int, ...]
    latency: Latency


class LatencyPredictor:
    """The predicted latency of encoded architectures: (n, decisions) to (n,) milliseconds.

    Args:
        device: the `device` section of the experiment, as it was measured with.
        measurements: what the model was fitted to.
    """

    def __init__(self, device: Mapping[str, Any], model: LatencyModel, measurements: Sequence[Measurement]):
        self.device, self.model, self.measurements = dict(device), model, tuple(measurements)
        self.space, self.quality = model.space, model.quality

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """
        Raises:
            ValueError: these are no encoded architectures of the space.
        """
        return self.model(vectors)

    def __str__(self) -> str:
        first, (low, high) = self.measurements[0].latency, self.model.range_ms
        disturbed = sum(one.latency.contended for one in self.measurements)
        made = f"latency is predicted from {len(self.measurements)} measurements on {first.device} ({first.processor})"
        made += f", {low:.3g} to {high:.3g} ms"
        made += f", {disturbed} of them disturbed by other work" if disturbed else ""
        if self.quality is None:
            return f"{made}, too few to say how well"
        tau = "" if self.quality.tau is None else f", Kendall's tau {self.quality.tau:.2f}"
        error = f"{100 * self.quality.relative_error:.1f} %"
        return f"{made}; of what the prediction has not seen it is {error} off (median){tau}"

    # -- the file ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the predictor in place of what was there."""
        table = self.model.table
        content = {
            "format": FORMAT,
            "space": fingerprint(self.space),
            "device": self.device,
            "quality": self.quality and asdict(self.quality),
            "table": {
                "intercept": table.intercept,
                "entries": table.entries.tolist(),
                "counted": table.counted.tolist(),
                "variances": table.variances.tolist(),
                "noise": table.noise,
            },
            "measurements": [
                {"architecture": one.vector, "latency": asdict(one.latency)} for one in self.measurements
            ],
        }
        write_json(path, content)

    @classmethod
    def load(
        cls, path: Path, space: NetworkSpace, device: Mapping[str, Any], begun: bool = False
    ) -> LatencyPredictor:
        """What `save` wrote, to the last bit.

        Args:
            begun: a training goes by it already, so a new one would not do.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, of an earlier version, of another space, or of a device with other settings.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path.name} in {path.parent}, by which latency is predicted; put it back there, or "
                "start over with `nas run --fresh`, which measures"
            )
        way_out = _way_out(begun)
        content = read_json(path, f"restore it, or {way_out}")
        if isinstance(content, dict) and "model" in content and "format" not in content:
            raise ValueError(f"{path} was made by an earlier version, by another model; {way_out}")
        try:
            found = content["table"]
            arrays = {name: np.array(found[name], float) for name in ("entries", "counted", "variances")}
            table = Table(intercept=found["intercept"], noise=found["noise"], **arrays)
            quality = content["quality"] and Quality(**content["quality"])
            measurements = [
                Measurement(tuple(one["architecture"]), Latency.from_json(json.dumps(one["latency"])))
                for one in content["measurements"]
            ]
            of_format, of_space, of_device = content["format"], content["space"], content["device"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); restore it, or {way_out}") from None
        if of_format != FORMAT:
            raise ValueError(f"{path} has format {of_format}, this version reads {FORMAT}; {way_out}")
        if of_space != fingerprint(space):
            raise ValueError(f"{path} is of another search space than {space.name}; {way_out}")
        if of_device != dict(device):
            raise ValueError(
                f"{path} was measured on a device with {_differences(of_device, device)}; {way_out}"
            )
        terms = terms_of(space)
        if len(table.entries) != len(terms.sizes):
            raise ValueError(
                f"{path} is damaged (its table has {len(table.entries)} entries, not {len(terms.sizes)}); restore it, "
                f"or {way_out}"
            )
        model = LatencyModel(space, terms, table, quality, _known(measurements))
        return cls(device, model, measurements)


def fingerprint(space: NetworkSpace) -> str:
    """What tells a space from others, in 16 letters."""
    return hashlib.sha256(space.to_json().encode()).hexdigest()[:16]


def _way_out(begun: bool) -> str:
    again = "start over with `nas run --fresh`"
    return again if begun else f"remove it to measure anew, or {again}"


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    return ", ".join(f"{name} {was.get(name)}, not {now.get(name)}" for name in names)


def _known(measurements: Sequence[Measurement]) -> Known:
    vectors = np.array([one.vector for one in measurements], np.int64).reshape(len(measurements), -1)
    milliseconds, deviations = np.array([reading(one.latency) for one in measurements]).T
    return Known(vectors, milliseconds, deviations)


# -- where it is used --------------------------------------------------------------------------


def model_file(folder: Path, key: str) -> Path:
    """Where the model of a latency is kept in a run's folder, by its key: each device has one of its own."""
    file = folder / FILE
    return file.with_stem(on(file.stem, device_of(key)))


def latency_of(sampler: object) -> str | None:
    """The key of the latency that a `training.sampler`, or the one inside it, has for its cost; None if it has none."""
    while isinstance(sampler, Mapping):
        if is_latency(cost := sampler.get("cost")):
            return cost
        sampler = sampler.get("of")
    return None


def costs_for(experiment: Experiment, space: NetworkSpace, folder: Path | None) -> Costs:
    """The costs that an experiment's sampler can go by, the latency as the file in the run's folder predicts it.

    Raises:
        ValueError, FileNotFoundError: as `LatencyPredictor.load`, if the sampler needs it.
    """
    from supernets.cost import Costs, cost_table

    table, key = cost_table(space), latency_of(experiment.training.sampler)
    if folder is None or key is None:
        return Costs(table)
    path = model_file(folder, key)
    return Costs(table, {key: LatencyPredictor.load(path, space, experiment.timed_on(key), begun=True)})


def predictor_for(
    folder: Path,
    experiment: Experiment,
    space: NetworkSpace,
    key: str = TIMED,
    stop: Callable[[], bool] = lambda: False,
    begun: bool = False,
    trained: bool = False,
) -> LatencyPredictor | None:
    """The predictor in a run's folder, or if there is none, one that is made now and kept there.

    Args:
        key: of the latency: `latency_ms`, or that on one of several devices, `latency_ms@tablet`.
        begun: a training goes by it already, so a new one would not do.
        trained: one went by it, so a new one would not do either, but it must be of what measures here.

    Returns:
        None if `stop` said so before all was measured.

    Raises:
        ValueError, FileNotFoundError: as `LatencyPredictor.load`.
    """
    from nas.progress import track

    path, device = model_file(folder, key), experiment.timed_on(key)
    if begun or path.exists():
        predictor = LatencyPredictor.load(path, space, device, begun or trained)
        if not begun:
            _check_here(path, predictor, trained)
        return predictor
    learner, measurements = Learner(space, seed=experiment.training.seed), []
    measure_all = measurer(space, device)
    with track(f"measuring {measure_of(key).objective.name}", min(BUDGET, space.size)) as shown:
        while chosen := learner.ask(BUDGET, ENOUGH):
            found = measure_all(space.decode(vector) for vector in chosen)
            for vector, measurement in zip(chosen, found, strict=True):
                measurements.append(measurement)
                learner.tell(vector, *reading(measurement.latency))
                shown.to(len(measurements), f"{measurement.latency.median_ms:.3g} ms")
                if stop():
                    return None
        predictor = LatencyPredictor(device, learner.model, measurements)
        predictor.save(path)
        shown.say(str(predictor))
    return predictor


def _check_here(path: Path, predictor: LatencyPredictor, trained: bool) -> None:
    """Raise ValueError if what measures here is another processor or version than what was measured with."""
    from nas.hardware import device as latency_device
    from nas.hardware.timing import processor_name

    there, was = latency_device(predictor.device), predictor.measurements[0].latency
    with there.conditions():
        reference = there.reference()
    here = {"processor": reference.processor or processor_name(), **reference.versions}
    measured = {"processor": was.processor, **was.versions}
    if measured != here:
        way_out = (
            f"go back to what it was measured with, or {_way_out(begun=True)}"
            if trained
            else _way_out(begun=False)
        )
        raise ValueError(f"{path} was measured with {_differences(measured, here)}; {way_out}")


# -- measuring ---------------------------------------------------------------------------------


def measurer(
    space: NetworkSpace, device: Mapping[str, Any]
) -> Callable[[Iterable[Architecture]], Iterator[Measurement]]:
    """What measures architectures, untrained, in turns, on a device: its section of the experiment."""
    from nas.hardware import device as latency_device
    from nas.objectives.latency import fastest
    from supernets.merging import merged
    from supernets.supernet import make_supernet

    supernet, there = make_supernet(space).eval(), latency_device(device)

    def measure_all(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        asked: deque[Architecture] = deque()

        def subnets() -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
            for one in architectures:
                asked.append(one)
                yield merged(supernet.export(one)).eval(), space.input_shape(one.resolution)

        for record in fastest(there, subnets()):
            yield Measurement(space.encode(asked.popleft()), record)

    return measure_all


def fit(
    space: NetworkSpace, device: Mapping[str, Any], measurements: Sequence[Measurement]
) -> LatencyPredictor:
    """The predictor of what was measured."""
    known = _known(measurements)
    model = fit_latencies(space, known.vectors, known.milliseconds, known.deviations)
    return LatencyPredictor(device, model, measurements)
