"""One trial: the accuracy that an architecture inherits from the supernet, or reaches when it is trained alone.

Everything is scored on the search-validation images, never on the test split. Alone means a supernet of a space
that holds the one architecture, in the training loop of all supernets with the recipe of the run: so an operator
that is trained in branches is so here as well, and nothing of it is shared with any other network.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random

from nas import config
from nas.data import Splits, load
from nas.evaluation import Bench, scores_of
from nas.experiment import SUPERNET, TrainingParts, training_parts
from nas.json_file import read_json, write_json
from nas.storage.records import Trial, TrialKind
from search_spaces import NetworkArchitecture, NetworkSpace, only, space_from_json
from supernets.calibration import share_statistics
from supernets.cost import count
from supernets.drop_path import is_largest
from supernets.recipe import Training
from supernets.samplers.plan import Look, Plan, Stateless
from supernets.training import Watcher

log = logging.getLogger(__name__)

SHARED_DRAWS = 64  # random architectures that the one set of statistics is averaged over


class Stopped(RuntimeError):
    """A training was asked to stop; its checkpoint is kept."""


@dataclass(frozen=True)
class Request:
    """A trial that is to be carried out."""

    architecture: NetworkArchitecture
    kind: TrialKind
    seed: int = 0
    epochs: float = 0.0  # of a training alone

    @property
    def key(self) -> str:
        return f"{self.architecture.key} {self.kind} {self.seed}"


class Always(Stateless):
    """The sampler of a training alone."""

    def __init__(self, architecture: NetworkArchitecture):
        self.architecture = architecture

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        return Plan((self.architecture,))


class TrialBench:
    """What trials of a run need, on one worker or in this process.

    Args:
        experiment: of the run, on the device that is here.
        folder: of the run, with the supernet in it; unfinished trainings are kept beside it.
        on_step: is told how far a training is.
        stop: asked between steps.
    """

    def __init__(
        self,
        experiment: config.Experiment,
        splits: Splits,
        space: NetworkSpace,
        folder: Path,
        on_step: Callable[[int], None] = lambda step: None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.experiment, self.splits, self.space, self.folder = experiment, splits, space, folder
        self.fingerprint = splits.fingerprint
        self.on_step, self.stop = on_step, stop

    @cached_property
    def supernet(self) -> Bench:
        """The trained supernet, its norms with one set of statistics for all architectures."""
        bench = Bench(self.experiment, self.splits, self.space, self.folder / SUPERNET)
        random = Random(f"{self.experiment.search.seed}/shared statistics")
        drawn = [self.space.sample(random) for _ in range(SHARED_DRAWS)]
        images = bench.calibration_images(self.space.input_shape(self.space.resolutions[-1]))
        share_statistics(bench.supernet, drawn, images)
        return bench


def prepare_trials(experiment: str, space: str, folder: str) -> TrialBench:
    """A bench from what can be sent to another process: text and a path."""
    read = config.from_json(experiment)
    bench = TrialBench(read, load(read.data), space_from_json(space), Path(folder))
    _ = bench.supernet  # a worker that cannot read it should say so at once
    return bench


def carry_out(bench: TrialBench, request: Request) -> Trial:
    """Carry out a trial; whatever is the architecture's fault is a trial with an error.

    The seconds of a training that was stopped in between are those of all its parts, but for what was trained twice.

    Raises:
        Stopped: the bench says so.
        OSError: a file cannot be read or written, which is nobody's accuracy.
        ValueError: what is kept of the seconds of an unfinished training is damaged.
    """
    begun = time.perf_counter() - seconds_before(bench, request)
    try:
        values = _alone(bench, request, begun) if request.kind == "alone" else _inherited(bench, request)
        trial = _trial(request, values)
    except (Stopped, OSError):
        raise
    except Exception as error:  # the one place: what fails must not end the others
        log.info("%s failed", request.key, exc_info=True)
        reason = " ".join(str(error).split()) or "no message"
        trial = failed(request, f"{type(error).__name__}: {reason}")
    return replace(trial, seconds=time.perf_counter() - begun)


def failed(request: Request, why: str) -> Trial:
    """The trial of a request that cannot be carried out."""
    return replace(_trial(request, {}), error=why)


def parts_alone(bench: TrialBench, request: Request) -> TrainingParts:
    """The training of an architecture alone, made but not begun."""
    experiment = replace(bench.experiment, training=recipe_alone(bench, request))
    space = only(bench.space, request.architecture)
    return training_parts(experiment, bench.splits, space, sampler=Always(request.architecture))


def recipe_alone(bench: TrialBench, request: Request) -> Training:
    """The recipe of the run, with the request's seed and length.

    A supernet drops paths of its largest architecture only, so here that one alone has any dropped.
    """
    recipe = bench.experiment.training
    dropped = recipe.drop_path if recipe.drop_path and is_largest(bench.space, request.architecture) else 0.0
    return replace(recipe, sampler="uniform", seed=request.seed, epochs=request.epochs, drop_path=dropped)


def checkpoint_of(bench: TrialBench, request: Request) -> Path:
    """Where a training alone is kept until its trial is recorded; another recipe has another place."""
    recipe = json.dumps(asdict(recipe_alone(bench, request)), sort_keys=True)
    stamp = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    return bench.folder / "alone" / f"{request.architecture.key}-{request.seed}-{stamp}.safetensors"


def seconds_before(bench: TrialBench, request: Request) -> float:
    """What an unfinished training alone took until its checkpoint; 0 for any other trial."""
    if request.kind != "alone" or not (file := _seconds_file(checkpoint_of(bench, request))).is_file():
        return 0.0
    return read_json(file, "remove it: the report then knows less of what its trainings took")


def forget_unfinished(bench: TrialBench, request: Request) -> None:
    """Remove what is kept of a training alone."""
    path = checkpoint_of(bench, request)
    for file in (path, _seconds_file(path)):
        file.unlink(missing_ok=True)


def _seconds_file(path: Path) -> Path:
    return path.with_suffix(".seconds.json")


def _alone(bench: TrialBench, request: Request, begun: float) -> dict[str, float]:
    path = checkpoint_of(bench, request)
    watcher = Watcher(
        point=lambda step, _: bench.on_step(step),
        saved=lambda step: write_json(_seconds_file(path), time.perf_counter() - begun),
        warn=log.warning,
        stop=bench.stop,
    )
    if not parts_alone(bench, request).train(path, watcher):
        raise Stopped
    trained = Bench(bench.experiment, bench.splits, only(bench.space, request.architecture), path)
    return _values(trained, request.architecture, statistics=True) | {"epochs": request.epochs}


def _inherited(bench: TrialBench, request: Request) -> dict[str, float]:
    return _values(bench.supernet, request.architecture, statistics=request.kind == "inherited")


def _values(bench: Bench, architecture: NetworkArchitecture, statistics: bool) -> dict[str, float]:
    subnet = bench.subnet(architecture, statistics)
    shape = bench.space.input_shape(architecture.resolution)
    scores = scores_of(subnet, bench.validation_images(shape), bench.validation_labels)
    macs, parameters, _ = count(subnet, shape)
    costs = {"macs": float(macs), "parameters": float(parameters)}
    return dict(zip(("accuracy", "loss", "label_cosine"), scores, strict=True)) | costs


def _trial(request: Request, values: dict[str, float]) -> Trial:
    epochs = {"epochs": request.epochs} if request.kind == "alone" else {}
    one = request.architecture
    return Trial(one.key, one.to_json(), request.kind, request.seed, values | epochs)
