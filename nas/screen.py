"""The latency models in a run's folder as the screen of its search, each of one device.

One is there where a sampler goes by latency, or where an architecture was picked for one. What it says only helps to
choose what is measured next; measured values alone are told and reported. Whether a leg of the search goes by it is
decided when the leg begins and kept with the run, so that a search which was stopped asks the same again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.devices import device_of, is_latency, on
from nas.storage.records import Constraint
from nas.turns import Turns

if TYPE_CHECKING:
    from nas.experiment import Opened
    from nas.predictors.latency import LatencyPredictor
    from nas.search import Searcher
    from nas.storage.records import Leg

log = logging.getLogger(__name__)

FACT = "latency screen"


def screen_by_latency(opened: Opened, searcher: Searcher | Turns, leg: Leg) -> None:
    """Give searchers that can use them the latency models that the run's folder holds, if this leg goes by them.

    Raises:
        ValueError, FileNotFoundError: the leg has begun with a model, and that is damaged or gone.
    """
    parts = searcher.parts if isinstance(searcher, Turns) else ((searcher, opened.experiment.goals),)
    parts = [(one, own) for one, own in parts if hasattr(one, "know")]
    for key in dict.fromkeys(one.key for _, own in parts for one in own.objectives if is_latency(one.key)):
        if (predictor := _model(opened, leg, key)) is None:
            continue
        for one, own in parts:
            keys = [objective.key for objective in own.objectives]
            if key in keys:
                one.know(keys.index(key), _losses(predictor, own.focus, key))


def _model(opened: Opened, leg: Leg, key: str) -> LatencyPredictor | None:
    """The model of a latency by which the leg goes on or begins; None where it goes by none."""
    from nas.predictors.latency import LatencyPredictor, model_file

    store, name = opened.store, opened.run.name
    fact, of_leg = on(FACT, device_of(key)), f"from candidate {leg.known + 1} on"
    path = model_file(Path(opened.run.folder), key)
    begun = store.count_candidates(name) > leg.known
    if not (store.run(name).facts.get(fact) == of_leg if begun else path.is_file()):
        return None
    try:
        predictor = LatencyPredictor.load(path, opened.space, opened.experiment.timed_on(key), begun)
    except ValueError as error:
        if begun:
            raise
        log.warning("the search goes on without a latency model: %s", error)
        return None
    store.update_run(name, facts={fact: of_leg})
    return predictor


def _losses(
    predictor: LatencyPredictor, focus: Sequence[Constraint], key: str
) -> Callable[[np.ndarray], np.ndarray]:
    """What is predicted of encoded architectures; beyond the better end of the focus nothing is gained."""
    best = max((one.min for one in focus if one.key == key and one.min is not None), default=0.0)
    return lambda rows: np.maximum(predictor(rows), best)
