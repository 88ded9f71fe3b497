"""A chosen architecture trained alone from the start, with the recipe of its run, in place of inherited weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from nas.data import Splits
from nas.progress import track
from nas.storage.records import Candidate, Run
from nas.trials import Request, TrialBench, checkpoint_of, forget_unfinished, parts_alone, recipe_alone
from search_spaces import NetworkSpace, architecture_from_json, only, space_from_json
from supernets.recipe import Training
from supernets.training import Watcher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alone:
    """The supernet of a space of one architecture, trained to its end."""

    supernet: Path
    space: NetworkSpace
    recipe: Training


@contextmanager
def trained_alone(
    run: Run,
    candidate: Candidate,
    experiment,
    splits: Splits,
    epochs: float | None = None,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Alone | None]:
    """A candidate's architecture trained alone, for as long as it is needed; None if `stop` said so before its end.

    What was stopped goes on from its last checkpoint, also after a crash.

    Args:
        epochs: by default as many as the supernet was trained for.
    """
    space, folder = space_from_json(run.space), Path(run.folder) / "exports"
    training = replace(experiment.training, device="auto")
    bench = TrialBench(
        replace(experiment, device={}, devices={}, training=training), splits, space, folder, stop=stop
    )
    architecture = architecture_from_json(candidate.architecture)
    request = Request(architecture, "alone", seed, experiment.training.epochs if epochs is None else epochs)
    parts, path = parts_alone(bench, request), checkpoint_of(bench, request)
    with track(f"training {candidate.key} alone", parts.steps) as shown:
        watcher = Watcher(
            point=lambda step, values: shown.to(step, f"loss {values['loss']:.3f}"),
            warn=log.warning,
            stop=stop,
        )
        ended = parts.train(path, watcher)
    if not ended:
        yield None
        return
    yield Alone(path, only(space, architecture), recipe_alone(bench, request))
    forget_unfinished(bench, request)
    with suppress(OSError):  # others are being trained
        path.parent.rmdir()
