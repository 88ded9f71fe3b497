"""Landmarks: architectures of a run that are trained alone before its search, and correct what others inherit.

They are the trainings of `nas health`, from the same bins of MACs, and every one that the store has counts. What they
teach is fitted (nas.predictors.accuracy) and kept in the run's folder, where evaluations find it. When there are
more of them, it is fitted anew, all candidates are predicted again, and another leg of the search begins.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.predictors.accuracy import FEWEST, FILE, AccuracyModel, Landmark, fit_accuracies
from nas.storage.records import Candidate, Trial
from nas.subjects import subjects_of
from search_spaces import architecture_from_json

if TYPE_CHECKING:
    from nas.config import Experiment
    from nas.experiment import Opened
    from nas.health import OpenedHealth

log = logging.getLogger(__name__)

KEY = "predicted_accuracy"
FACT = "accuracy prediction"  # of a run: which landmarks its candidates are predicted by
SHORTER = 4  # a landmark is trained for this part of the supernet's epochs unless the settings say otherwise


@dataclass(frozen=True)
class Landmarks:
    """The `landmarks` section of an experiment file."""

    subnets: int = 24
    epochs: float | None = None  # of each; by default as those that are there, or a quarter of the supernet's
    seeds: int = 1  # trainings of each

    def __post_init__(self) -> None:
        if self.subnets < FEWEST:
            raise ValueError(f"landmarks.subnets is {self.subnets}; it must be at least {FEWEST}")
        if self.seeds < 1:
            raise ValueError(f"landmarks.seeds is {self.seeds}; it must be at least 1")
        if self.epochs is not None and not 0 < self.epochs <= 1e6:
            raise ValueError(f"landmarks.epochs is {self.epochs:g}; it must be above 0 and at most a million")


def are_needed(experiment: Experiment) -> bool:
    """Whether it asks for accuracies that landmarks predict."""
    return any(one.key == KEY for one in (*experiment.objectives, *experiment.constraints))


def prepare(
    opened: Opened,
    stop: Callable[[], bool],
    make_pool: Callable | None = None,
    workers: int | None = None,
) -> bool:
    """Train what landmarks the experiment asks for and the store lacks, fit the model and predict what is known by it.

    Args:
        make_pool, workers: as for `nas.health.measure`.

    Returns:
        Whether that is done; False if `stop` said so before.

    Raises:
        ValueError: too few could be trained, or those that are there were trained otherwise.
    """
    from nas.health import examining, measure

    store, name, path = opened.store, opened.run.name, Path(opened.run.folder) / FILE
    health = examining(opened.run, store, opened.experiment, opened.splits)
    requests, was = _lacking(health, opened.experiment), store.run(name)
    landmarks = landmarks_of(store.trials(name))
    if not requests and was.facts.get(FACT) == in_words(landmarks) and path.is_file():
        return True
    store.update_run(name, status="searching", message="")
    if not measure(health, requests, stop, make_pool, workers):
        store.update_run(name, status="interrupted")
        return False
    landmarks = landmarks_of(store.trials(name))
    if len(landmarks) < FEWEST:
        raise ValueError(
            f"{len(landmarks)} architectures of {name} could be trained alone, and {FEWEST} or more are needed to "
            f"predict {KEY}; `nas health {name} --retry` says why others failed, or search for accuracy instead"
        )
    model = fit_accuracies(landmarks)
    model.save(path)
    store.replace_values(
        name, [_predicted(model, one) for one in store.candidates(name) if _can_predict(one)]
    )
    store.update_run(name, was.status, was.message, {FACT: in_words(landmarks)})
    _say_what_it_is_worth(store.trials(name))
    return True


def landmarks_of(trials: Iterable[Trial]) -> list[Landmark]:
    """The architectures that were measured both ways, in the order of their keys."""
    return [
        Landmark(one.architecture, one.macs, one.inherited, one.mean_alone)
        for one in subjects_of(trials)
        if one.both_ways
    ]


def in_words(landmarks: Sequence[Landmark]) -> str:
    """How many they are, and what tells them from others."""
    content = json.dumps([asdict(one) for one in landmarks])
    return f"{len(landmarks)} trainings alone, {hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _say_what_it_is_worth(trials: Sequence[Trial]) -> None:
    """A warning where landmarks do not tell the others' order."""
    from nas.health_view import with_interval
    from nas.ranking import health_of

    health = health_of(trials)
    corrected = health.corrected
    if corrected is None or corrected.tau.above_zero:
        return
    log.warning(
        "%s ranks architectures that were trained alone no better than chance, with τ %s: train more of them or "
        "longer (landmarks: {subnets: %d}), or search for accuracy",
        KEY,
        with_interval(corrected.tau),
        2 * health.architectures,
    )


def _lacking(health: OpenedHealth, experiment: Experiment) -> list:
    """The trials that are still to be carried out: of those that are landmarks already, and of as many others as are
    missing."""
    from nas.health import chosen, wanted

    settings, trials = experiment.landmarks, health.store.trials(health.run.name)
    failed = {one.key for one in trials if one.error is not None}
    there = [architecture_from_json(one.architecture) for one in landmarks_of(trials)]
    drawn = chosen(health.bench.space, settings.subnets + len(failed), experiment.search.seed)
    several = {one.key: one for one in (*there, *drawn) if one.key not in failed}
    architectures = list(several.values())[: settings.subnets]
    try:
        requests = wanted(architectures, settings.seeds, _epochs(experiment, trials), trials)
    except ValueError as error:
        raise ValueError(str(error).replace("--epochs", "landmarks.epochs")) from None
    return [one for one in requests if one.kind != "uncalibrated"]


def _epochs(experiment: Experiment, trials: Sequence[Trial]) -> float:
    given = experiment.landmarks.epochs
    there = (one.values["epochs"] for one in trials if one.kind == "alone")
    return next(there, experiment.training.epochs / SHORTER) if given is None else given


def _can_predict(candidate: Candidate) -> bool:
    return candidate.error is None and candidate.whole and {"accuracy", "macs"} <= set(candidate.values)


def _predicted(model: AccuracyModel, candidate: Candidate) -> Candidate:
    architecture = architecture_from_json(candidate.architecture)
    value, interval = model(architecture, candidate.values["accuracy"], candidate.values["macs"])
    return Candidate(candidate.key, candidate.architecture, {KEY: value}, {KEY: interval})
