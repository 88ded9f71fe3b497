"""The latency model in a run's folder as the screen of its search.

It is there where a sampler goes by latency, or where an architecture was picked for one. What it says only helps to
choose what is measured next; measured values alone are told and reported. Whether a leg of the search goes by it is
decided when the leg begins and kept with the run, so that a search which was stopped asks the same again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.devices import TIMED

if TYPE_CHECKING:
    from nas.experiment import Opened
    from nas.search import Searcher
    from nas.storage.records import Leg

log = logging.getLogger(__name__)

FACT = "latency screen"


def screen_by_latency(opened: Opened, searcher: Searcher, leg: Leg) -> None:
    """Give a searcher that can use it the latency model that the run's folder holds, if this leg goes by it.

    Raises:
        ValueError, FileNotFoundError: the leg has begun with a model, and that is damaged or gone.
    """
    from nas.predictors.latency import FILE, LatencyPredictor

    experiment, store, name = opened.experiment, opened.store, opened.run.name
    places = [place for place, one in enumerate(experiment.objectives) if one.key == TIMED]
    if not places or not hasattr(searcher, "know"):
        return
    path, of_leg = Path(opened.run.folder) / FILE, f"from candidate {leg.known + 1} on"
    begun = store.count_candidates(name) > leg.known
    if not (store.run(name).facts.get(FACT) == of_leg if begun else path.is_file()):
        return
    try:
        predictor = LatencyPredictor.load(path, opened.space, experiment.device, begun)
    except ValueError as error:
        if begun:
            raise
        log.warning("the search goes on without a latency model: %s", error)
        return
    store.update_run(name, facts={FACT: of_leg})
    best = max((one.min for one in experiment.focus if one.key == TIMED and one.min is not None), default=0.0)
    searcher.know(places[0], lambda rows: np.maximum(predictor(rows), best))
