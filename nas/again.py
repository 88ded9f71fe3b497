"""The latencies of the front once more, after the search: a front is the best of many measurements, so some of those on
it were lucky. The first value stays what the search went by; the second is kept beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nas.config import Experiment
from nas.devices import fronts, is_latency
from nas.goals import keys_of
from nas.pareto import front
from nas.pool import Pool
from nas.progress import in_words, track
from nas.storage.records import Candidate, Run
from nas.storage.store import Store
from search_spaces import architecture_from_json

log = logging.getLogger(__name__)

FACT = "measured again"  # how many candidates, in the facts of a run


def keys_again(experiment: Experiment) -> list[str]:
    """The latencies that are measured once more: not those of devices on other nodes."""
    keys = keys_of(experiment.objectives, experiment.constraints)
    return [key for key in keys if is_latency(key) and key not in experiment.far]


def lacking(run: Run, candidates: Sequence[Candidate], keys: Sequence[str]) -> list[Candidate]:
    """Those on the front of the run, or on that of one of its devices, that were not measured again."""
    several = [front(candidates, run.objectives, run.constraints)]
    several += [one.candidates for one in fronts(run, candidates)]
    members = {one.number: one for members in several for one in members}
    return [members[number] for number in sorted(members) if not set(keys) <= set(members[number].again)]


def asked_again(experiment: Experiment, keys: Sequence[str]) -> Experiment:
    """The experiment as it measures these keys alone, and uses no measurement of before again."""
    from nas.objectives import measure_of

    def anew(section: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in section.items() if name != "reuse_days"}

    return replace(
        experiment,
        objectives=tuple(measure_of(key).objective for key in keys),
        constraints=(),
        search=replace(experiment.search, first_images=None),
        device=anew(experiment.device),
        devices={name: anew(one) for name, one in experiment.devices.items()},
    )


def measure_again(
    store: Store,
    name: str,
    experiment: Experiment,
    make_pool: Callable[[Experiment], Pool],
    stop: Callable[[], bool],
) -> bool:
    """Measure the latencies of the front's candidates that were measured once; each is kept as it comes.

    One that cannot be measured again keeps what it has, with a warning.

    Args:
        make_pool: a pool that evaluates what an experiment asks for.

    Returns:
        Whether it came to an end; False if `stop` said so before.
    """
    keys = keys_again(experiment) if experiment.search.measure_again else []
    once = lacking(store.run(name), store.candidates(name), keys) if keys else []
    if not once:
        return True
    asked = asked_again(experiment, keys)
    pool = make_pool(asked)
    try:
        with track("measuring the front again", len(once)) as shown:
            architectures = [architecture_from_json(one.architecture) for one in once]
            for done, measured in enumerate(pool.map(architectures), start=1):
                if measured.error is None:
                    store.add_again(name, measured)
                else:
                    log.warning("candidate %s could not be measured again: %s", measured.key, measured.error)
                shown.to(done, in_words(measured, asked.objectives, ()))
                if stop():
                    return False
    finally:
        pool.close()
    count = sum(bool(one.again) for one in store.candidates(name))
    store.update_run(name, facts={FACT: f"{count} candidates of the front"})
    return True
