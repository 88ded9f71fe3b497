"""The legs of a run's search: each has one searcher and one set of goals, and goes on from what is known.

Where the searcher, its seed, the objectives, the constraints, the focus or the landmarks of a run are changed, another
leg begins: what the candidates lack is measured, and the new searcher is told of all of them. How many these were is
kept with the leg. So what is asked follows from the store, however often a run was stopped, and in whatever leg.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np

from nas import pareto
from nas.landmarks import FACT, KEY
from nas.pool import Pool
from nas.search import FAILURES, Search, SearchFailed
from nas.stopping import Clock
from nas.storage.records import Candidate, Leg, Run
from nas.storage.store import Store
from search_spaces import architecture_from_json

STOPPING = (
    "budget",
    "seconds",
    "plateau",
    "measure_again",
)  # say when a leg ends and what then, not what it asks
# settings that legs of earlier versions do not name
_UNSET = {name: getattr(Search, name) for name in ("per_device", "first_images")}


class Sitting:
    """A leg that is being carried out: where its candidates come to, and how long it takes."""

    def __init__(self, store: Store, run: str, leg: Leg):
        self.store, self.leg = store, leg
        self.clock = Clock(sum(one.seconds for one in store.legs(run)))
        self.ended = ""

    def candidates(self, run: str) -> list[Candidate]:
        return self.store.candidates(run)

    def add_candidate(self, run: str, candidate: Candidate) -> Candidate:
        added = self.store.add_candidate(run, candidate)
        self.store.note_seconds(run, self.leg, self.leg.seconds + self.clock.here)
        return added


def settings_of(run: Run) -> str:
    """What makes a leg, as JSON: its searcher, what that starts from, and its goals."""
    asked = json.loads(run.experiment)
    search = {**asdict(Search()), **asked["search"]}
    goals = {"objectives": run.objectives, "constraints": run.constraints}
    predicted = FACT in run.facts and any(one.key == KEY for several in goals.values() for one in several)
    return json.dumps(
        {
            **({FACT: run.facts[FACT]} if predicted else {}),
            **{key: value for key, value in search.items() if key not in STOPPING},
            **{key: [asdict(one) for one in several] for key, several in goals.items()},
            "focus": asked.get("focus", []),
        },
        sort_keys=True,
    )


def _with_defaults(settings: str) -> str:
    """What an earlier version kept of a leg, with the settings that there have come since."""
    return json.dumps({**_UNSET, **json.loads(settings)}, sort_keys=True)


def begin(store: Store, run: Run, start: Callable[[], Sequence[str]]) -> Leg:
    """Keep the run as it is asked for now, and the leg that it goes on with: its last one, or another if what makes a
    leg was changed. A leg in which nothing was evaluated does not count.

    Args:
        start: the architectures, as JSON, that a leg which begins evaluates first.
    """
    known, settings = store.count_candidates(run.name), settings_of(run)
    legs = [one for one in store.legs(run.name) if one.known < known]
    leg = legs[-1] if legs else Leg(settings=settings_of(store.run(run.name)))
    if _with_defaults(leg.settings) != settings:
        leg = Leg(known, settings=settings)
    if leg.known == known:
        leg = replace(leg, start=tuple(start()))
    store.extend_run(run, leg)
    return leg


def complete(
    run: str,
    keys: Sequence[str],
    pool: Pool,
    store: Store,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    stop: Callable[[], bool] = lambda: False,
    lacking: Sequence[Candidate] | None = None,
) -> bool:
    """Measure the values that stored candidates lack; what they have stays, but for an accuracy on a part of the
    images, in place of which comes that on all.

    A candidate of which one cannot be measured has failed, unless that is so of ten in a row, or of all.

    Args:
        keys: what every candidate needs.
        on_candidate: gets what was measured of each.
        lacking: who lacks them, by default those that have no value at all.

    Returns:
        Whether it came to an end; False if it was stopped.

    Raises:
        SearchFailed: ten evaluations in a row failed, or all did; no candidate was marked as failed.
    """
    failed: list[Candidate] = []
    in_a_row = 0
    lacking = incomplete(store.candidates(run), keys) if lacking is None else lacking
    for measured in pool.map([architecture_from_json(one.architecture) for one in lacking]):
        if measured.error is None:
            store.complete_candidate(run, measured)
            in_a_row = 0
        else:
            failed.append(measured)
            in_a_row += 1
        on_candidate(measured)
        if in_a_row >= FAILURES or len(failed) == len(lacking):
            raise SearchFailed(
                f"the candidates of {run} lack {', '.join(missing(lacking, keys))}, and {in_a_row} evaluations in a "
                f"row failed, the last one with: {measured.error}"
            )
        if stop():
            return False
    for one in failed:
        store.complete_candidate(run, one)
    return True


def incomplete(candidates: Sequence[Candidate], keys: Sequence[str]) -> list[Candidate]:
    """Those that were measured, but not in all of the keys."""
    return [one for one in candidates if one.error is None and not set(keys) <= set(one.values)]


def missing(candidates: Sequence[Candidate], keys: Sequence[str]) -> list[str]:
    """Which of the keys some candidate lacks."""
    return [key for key in keys if any(key not in one.values for one in candidates)]


def best_of(store: Store, name: str, space: str, count: int) -> list[str]:
    """The architectures of a run, as JSON: its front, then what is the front without that, and so on.

    Of a front that has more than are wanted, those at equal steps along it.

    Args:
        space: JSON of the space that they must be of.

    Raises:
        LookupError: the store has no such run.
        ValueError: it is of another space, or has no candidate that keeps its constraints.
    """
    run = store.run(name)
    if run.space != space:
        raise ValueError(
            f"search.start_from is {name}, a run of another search space; name one whose space and image shape "
            "are the same"
        )
    left, chosen = store.candidates(name), []
    while len(chosen) < count and (front := pareto.front(left, run.objectives, run.constraints)):
        room = min(count - len(chosen), len(front))
        chosen += [front[place] for place in np.linspace(0, len(front) - 1, room).round().astype(int)]
        on_front = {one.key for one in front}
        left = [one for one in left if one.key not in on_front]
    if not chosen:
        raise ValueError(f"search.start_from is {name}, a run without a candidate that keeps its constraints")
    return [one.architecture for one in chosen]
