"""An architecture for a budget, straight from the architecture generator: without a search.

ShiftNAS (Zhang et al., ICCV 2023): asked for a cost, the generator answers with one architecture, the arg-max of
every head, which inherits the supernet's weights. It is measured here as the search measures a candidate, and
shown beside the best one that the search found within the same budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nas.config import Experiment
from nas.data import Splits
from nas.devices import TIMED, is_latency, on
from nas.evaluation import Bench, evaluate, merge
from nas.experiment import SUPERNET
from nas.export.checkpoint import export, write_export
from nas.json_file import read_json, write_json
from nas.objectives import measures_for
from nas.predictors.latency import costs_for, fingerprint, latency_of, model_file, predictor_for
from nas.profile import Infeasible
from nas.progress import track
from nas.search import SearchFailed
from nas.storage.records import Candidate, Constraint, Run
from nas.storage.store import Store
from search_spaces import Architecture, NetworkSpace, architecture_from_json, space_from_json
from search_spaces.strict import unknown
from supernets import checkpoint
from supernets.cost import Costs, CostTable
from supernets.samplers import make_sampler
from supernets.samplers.cost_bins import uniform_vectors
from supernets.samplers.generator import Generator

STEPS = 100  # that a generator is fitted for, on cost alone
DRAWN = 4096  # architectures whose costs bound what it is fitted for
MEASURED = 8  # architectures that are timed, at most, until one keeps a limit on the latency
MARGIN = 0.98  # of what the next of them may cost at most
TRAINED = "trained with the supernet"


@dataclass(frozen=True)
class Picked:
    """What the generator answered, as it was measured, and what it is to be compared with."""

    budget: Constraint
    cost: float  # in the unit of the budget: counted, or of a latency predicted
    candidate: Candidate
    generator: str  # where it comes from, in words
    prediction: str | None  # how well latency is predicted, in words
    searched: Candidate | None  # the most accurate candidate of the search within the budget

    @property
    def is_predicted(self) -> bool:
        return self.prediction is not None


def pick(
    run: Run, experiment: Experiment, splits: Splits, candidates: Sequence[Candidate], budget: Constraint
) -> Picked:
    """The generator's architecture for a budget, measured.

    Args:
        candidates: those of the run.
        budget: a `max` on macs, parameters, bytes, or the latency of one device.

    Raises:
        Infeasible: the space has nothing within the budget; the message says what the least is.
        ValueError: the supernet is not trained to the end, or a file of the run is damaged.
        SearchFailed: the architecture cannot be measured.
    """
    folder, space = Path(run.folder), space_from_json(run.space)
    _, facts = checkpoint.load(folder / SUPERNET)
    if facts["step"] < facts["steps"]:
        raise ValueError(
            f"the supernet of {run.name} is trained for {facts['step']} of {facts['steps']} steps; finish it with "
            "`nas train`"
        )
    searched = _searched(candidates, budget)
    costs, prediction = costs_for(experiment, space, folder), None
    if is_latency(budget.key):
        by_it = latency_of(experiment.training.sampler) == budget.key
        predictor = predictor_for(folder, experiment, space, budget.key, trained=by_it)
        costs, prediction = Costs(costs.table, {budget.key: predictor}), str(predictor)
    cost = costs.of(budget.key)
    generator = _of_training(experiment, space, costs, budget.key, facts)
    trained = generator is not None
    generator = generator or Generator(space, cost, *_range(costs.table, cost))
    choose = _Chooser(generator, costs.table)
    least = choose.cost_of(choose.cheapest)
    if not is_latency(budget.key) and least > budget.max:  # what is only predicted, a measurement decides
        raise Infeasible(
            f"no architecture of {space.name} is known with {budget.key} of at most {budget.max:g}; the least "
            f"is {least:g}"
        )
    source = TRAINED if trained else _fit(generator, folder, budget.key)
    bench = Bench(experiment, splits, space, folder / SUPERNET)
    if is_latency(budget.key):
        timed = _timed(bench, choose, budget, searched)
        architecture = architecture_from_json(timed.architecture)
        candidate = merge(timed, _measured(bench, architecture, _keys(bench, without=budget.key)))
    else:
        architecture = choose(budget.max)
        candidate = _measured(bench, architecture, _keys(bench))
    return Picked(
        budget=budget,
        cost=choose.cost_of(architecture),
        candidate=candidate,
        generator=source,
        prediction=prediction,
        searched=searched,
    )


def latency_key(run: Run, experiment: Experiment, device: str | None) -> str:
    """The key of the latency that a pick is for.

    Args:
        device: of several with names, the one that is meant.

    Raises:
        ValueError: there is no device of that name, several are there and none is named, or it is not here.
    """
    names = list(experiment.devices)
    if device is not None and not names:
        raise ValueError(f"--device is {device}, but the device of {run.name} has no name; leave it out")
    if device is None and len(names) > 1:
        ways = " or ".join(f"--device {name}" for name in names)
        raise ValueError(f"--latency-ms is of one device, and {run.name} has several; add {ways}")
    if device is not None and device not in names:
        raise unknown(f"--device {device!r}", device, names)
    name = device or "".join(names)
    if name not in experiment.near:
        raise ValueError(
            f"{f'the device {name}'.rstrip()} of {run.name} is on another node, and a pick is measured here; "
            "give another budget, such as --macs"
        )
    return on(TIMED, name)


def write_pick(
    run: Run, picked: Picked, store: Store, folder: Path, experiment: Experiment, splits: Splits
) -> dict[str, Any]:
    """Export a pick, verified; its card. The store records it if it is a candidate of the run as well.

    A pick does not become a candidate: a search that is continued would take it for one of its own.
    """
    known = {one.key for one in store.candidates(run.name)}
    candidate, key = picked.candidate, picked.budget.key
    if is_latency(key):  # in the form that is the fastest there
        candidate = replace(candidate, latencies={key: candidate.latencies[key]})
    if candidate.key in known:
        return export(run, candidate, store, folder, experiment, splits)[1]
    return write_export(run, candidate, folder, experiment, splits)[1]


def _searched(candidates: Sequence[Candidate], budget: Constraint) -> Candidate | None:
    """The most accurate candidate within the budget, of equal ones the cheapest."""
    within = [
        one
        for one in candidates
        if one.error is None
        and one.whole
        and {budget.key, "accuracy"} <= one.values.keys()
        and one.feasible((budget,))
    ]
    return max(within, key=lambda one: (one.values["accuracy"], -one.values[budget.key]), default=None)


# -- the architecture --------------------------------------------------------------------------


class _Chooser:
    """Asks a generator for an architecture of at most a cost; gives the cheapest known if that costs more."""

    def __init__(self, generator: Generator, table: CostTable):
        self.generator, self.space = generator, generator.space
        ends = (table.smallest, self.space.decode(generator.cheapest.tolist()))
        self.cheapest = min(ends, key=self.cost_of)

    def __call__(self, target: float) -> Architecture:
        answer = self.generator.best(min(target, self.generator.high))
        return answer if self.cost_of(answer) <= target else self.cheapest

    def cost_of(self, architecture: Architecture) -> float:
        return float(self.generator.cost(np.array([self.space.encode(architecture)]))[0])


def _timed(bench: Bench, choose: _Chooser, budget: Constraint, searched: Candidate | None) -> Candidate:
    """An architecture that keeps a limit on the latency as it is measured, not as it is predicted.

    While the device is slower than was predicted, less is asked for: half of what it lacks, on a logarithmic
    scale, since one measurement may be off for reasons of that architecture alone. The last one is the cheapest.

    Raises:
        Infeasible: none of those tried keeps it.
    """
    target, measured = budget.max, []
    for left in reversed(range(MEASURED)):
        architecture = choose(target) if left else choose.cheapest
        timed = _measured(bench, architecture, [budget.key])
        if timed.feasible((budget,)):
            return timed
        measured.append(timed.values[budget.key])
        if architecture == choose.cheapest:
            break
        _, high = timed.interval(budget.key)
        target = choose.cost_of(architecture) * MARGIN * (budget.max / high) ** 0.5
    known = f"; the search found {searched.key}, which keeps it: nas export does it" if searched else ""
    raise Infeasible(
        f"no architecture that was picked and measured has {budget.key} of at most {budget.max:g}; the least of "
        f"{len(measured)} is {min(measured):.4g}{known}"
    )


def _keys(bench: Bench, without: str = "") -> list[str]:
    """What is measured of a pick: accuracy, and latency on all devices that are here, whatever the search is about."""
    keys = ["accuracy", *(on(TIMED, name) for name in bench.devices)]
    keys += [measure.objective.key for measure in bench.measures]
    return [key for key in dict.fromkeys(keys) if key != without]


def _measured(bench: Bench, architecture: Architecture, keys: Sequence[str]) -> Candidate:
    candidate = evaluate(bench, architecture, measures_for(keys))
    if candidate.error is not None:
        raise SearchFailed(
            f"the picked architecture {candidate.key} cannot be measured: {candidate.error}; ask for another budget"
        )
    return candidate


# -- the generator -----------------------------------------------------------------------------


def _fit(generator: Generator, folder: Path, key: str) -> str:
    """Fit a generator to costs alone, or load what an earlier pick fitted; which of the two, in words."""
    path, identity = folder / "generators" / f"{key}.json", _identity(folder, generator.space, key)
    way_out = "remove it, and another one is fitted"
    kept = read_json(path, way_out) if path.exists() else {}
    try:
        if kept.get("identity") == identity:
            generator.load_state_dict(kept["state"])
            return "fitted to costs alone, by an earlier pick"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {way_out}") from None
    with track("fitting the generator", STEPS) as shown:
        generator.fit(STEPS, lambda step, error: shown.to(step, f"{100 * error:.1f} % off the cost"))
    write_json(path, {"identity": identity, "state": generator.state_dict()})
    return "fitted to costs alone, now, and kept for the next pick"


def _of_training(
    experiment: Experiment, space: NetworkSpace, costs: Costs, key: str, facts: Mapping
) -> Generator | None:
    """The generator that was trained with the supernet, if one was, on this cost."""
    settings = experiment.training.sampler
    while isinstance(settings, Mapping) and "of" in settings:
        settings = settings["of"]
    if not isinstance(settings, Mapping) or settings.get("architectures") != "generator":
        return None
    if settings.get("cost", "macs") != key:
        return None
    sampler = make_sampler(settings, space, costs, facts["steps"])
    sampler.load_state_dict(facts["samplers"][0])
    return sampler.generator


def _identity(folder: Path, space: NetworkSpace, key: str) -> dict[str, str | int]:
    """What a generator that was kept must be of, to be used again."""
    predicted = hashlib.sha256(model_file(folder, key).read_bytes()).hexdigest() if is_latency(key) else ""
    return {
        "space": fingerprint(space),
        "predictor": predicted,
        "version": version("paretoshift"),
        "steps": STEPS,
    }


def _range(table: CostTable, cost: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """About the least and the most that an architecture costs."""
    space = table.space
    ends = [space.encode(one) for one in (table.smallest, table.largest)]
    drawn = space.canonical(uniform_vectors(space, DRAWN, np.random.default_rng(0)))
    costs = cost(np.concatenate([ends, drawn]))
    return float(costs.min()), float(costs.max())
