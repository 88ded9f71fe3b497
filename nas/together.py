"""Many architectures at once: what they begin with in common is calibrated and scored once, and no number changes;
their latencies are measured in turns. In a race their accuracy comes last, and who is beaten leaves the tree."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from torch import Tensor

from nas.evaluation import ACCURACY, BATCH, Bench, evaluate, right_of, with_value
from nas.hardware.runtime import in_turns
from nas.memory import uncollected
from nas.objectives import Measure, Measured, with_needs
from nas.prefix_tree import Part, PrefixTree, path, portions
from nas.racing import Entrant, Race, as_seen
from nas.storage.records import Candidate
from search_spaces import Architecture, SearchSpace
from supernets.calibration import recalibrate
from supernets.cost import COSTS
from supernets.folding import folded
from supernets.merging import deployed
from supernets.spatial import channels_last

log = logging.getLogger(__name__)

PORTION = 32  # architectures in one tree; a search that is to stop waits for all of them
MEMORY = 2**30  # bytes of activations that may wait

Values = dict[str, dict[str, Measured]]  # by key of the architecture and of the objective


def evaluate_together(
    bench: Bench, architectures: Iterable[Architecture], measures: Sequence[Measure] | None = None
) -> Iterator[Candidate]:
    """The candidates that `nas.evaluation.evaluate` gives, portion by portion, each in the order of asking.

    Shared are accuracy and costs, in spaces of stages; latencies are measured in turns; what else is measured, or
    cannot be shared, is measured of each by itself. The seconds of a candidate are its own and an equal part of what
    was shared.

    Args:
        measures: what to measure, by default everything that the experiment asks for.

    Raises:
        ValueError: an architecture is not of the space.
    """
    architectures = list(architectures)
    measures = with_needs(bench.measures if measures is None else measures)
    if not isinstance(bench.space, SearchSpace) or ACCURACY not in measures:
        for some in in_turns(architectures):
            yield from _evaluated(bench, some, measures, {}, 0.0)
        return
    for together, paths in _portions(bench, architectures):
        begun = time.perf_counter()
        known = _known(together, partial(_measured_together, bench, together, paths))
        share = (time.perf_counter() - begun) / len(together)
        for some in in_turns(together):
            yield from _evaluated(bench, some, measures, known, share)


def race_together(bench: Bench, entrants: Iterable[Entrant]) -> Iterator[Candidate]:
    """As `evaluate_together`, but all else is measured before accuracy, and who is beaten on a part of the
    search-validation images goes no further.

    Args:
        entrants: of one race; what was measured of them in turns before is not measured again.
    """
    by_key = {one.key: one for one in entrants}
    measures = with_needs(bench.measures)
    for together, paths in _portions(bench, [one.architecture for one in by_key.values()]):
        begun, race = time.perf_counter(), by_key[together[0].key].race
        known = {one.key: _values_of(by_key[one.key].timed) for one in together}
        turns = [measure for measure in measures if measure.of_all]
        for some in in_turns([one for one in together if turns and not known[one.key]]):
            known |= _known(some, partial(_measured_in_turns, bench, some, turns))
        raced: Values = {}
        if paths:
            raced = _known(together, partial(_measured_together, bench, together, paths, race, known))
        share = (time.perf_counter() - begun) / len(together)
        for one in together:
            values = known[one.key] | raced.get(one.key, {})
            candidate, timed = evaluate(bench, one, measures, values, race), by_key[one.key].timed
            yield replace(candidate, seconds=candidate.seconds + share + (timed.seconds if timed else 0.0))


def race_loud(bench: Bench, entrants: list[Entrant]) -> list[Candidate]:
    """As `race_together`, of those that were timed before where a machine must be quiet for that."""
    return list(race_together(bench, entrants))


def race_quiet(bench: Bench, entrants: list[Entrant]) -> list[Candidate]:
    """What needs a quiet machine."""
    return evaluate_quiet(bench, [one.architecture for one in entrants])


def after_quiet(entrant: Entrant, timed: Candidate) -> Entrant:
    """The entrant with what `race_quiet` measured of it."""
    return replace(entrant, timed=timed)


def _evaluated(
    bench: Bench,
    together: Sequence[Architecture],
    measures: Sequence[Measure],
    known: Values,
    seconds: float,
) -> Iterator[Candidate]:
    """Candidates, of what is known of them, what is measured of them in turns and what is measured of each by itself.

    Args:
        seconds: that each has cost already.
    """
    begun = time.perf_counter()
    turns = [measure for measure in measures if measure.of_all]
    timed = _known(together, partial(_measured_in_turns, bench, together, turns)) if turns else {}
    seconds += (time.perf_counter() - begun) / len(together)
    for one in together:
        candidate = evaluate(bench, one, measures, known.get(one.key, {}) | timed.get(one.key, {}))
        yield replace(candidate, seconds=candidate.seconds + seconds)


def evaluate_loud(bench: Bench, architectures: list[Architecture]) -> list[Candidate]:
    """As `evaluate_together`, but only what does not need a quiet machine."""
    return list(evaluate_together(bench, architectures, [one for one in bench.measures if not one.quiet]))


def evaluate_quiet(bench: Bench, architectures: list[Architecture]) -> list[Candidate]:
    """As `evaluate_together`, but only what needs a quiet machine."""
    return list(evaluate_together(bench, architectures, [one for one in bench.measures if one.quiet]))


def beginning(architecture: Architecture) -> str:
    """In the order of this, architectures that begin alike are next to each other: its JSON says resolution and
    stages in order."""
    return architecture.to_json()


def _portions(
    bench: Bench, architectures: Sequence[Architecture]
) -> Iterator[tuple[list[Architecture], list[list[Part]]]]:
    """Those that begin alike together with their paths, as many as the memory holds; without, some in turns, in spaces
    that are not of stages."""
    if not isinstance(bench.space, SearchSpace):
        yield from ((some, []) for some in in_turns(architectures))
        return
    for resolution in bench.space.resolutions:
        here = [one for one in architectures if one.resolution == resolution]
        paths = [path(bench.supernet, one) for one in here]
        for numbers in portions(paths, PORTION, MEMORY // (4 * BATCH)):
            yield [here[number] for number in numbers], [paths[number] for number in numbers]


def _known(together: Sequence[Architecture], measured: Callable[[], Values]) -> Values:
    """What is measured of all at once. Nothing is known of one that fails: evaluated by itself, it says why."""
    if len(together) == 1:
        return {}
    try:
        return measured()
    except Exception:  # one of them must not end the search, nor fail the others
        log.warning("%d architectures are evaluated one by one, since together they fail", len(together))
        log.info("because:", exc_info=True)
        return {}


@uncollected()
def _measured_in_turns(bench: Bench, together: Sequence[Architecture], measures: Sequence[Measure]) -> Values:
    known: Values = {one.key: {} for one in together}
    subnets = [
        (bench.subnet(one, statistics=False), bench.space.input_shape(one.resolution)) for one in together
    ]
    for measure in measures:
        for one, measured in zip(together, measure.of_all(subnets, bench), strict=True):
            known[one.key][measure.objective.key] = measured
    return known


@uncollected()
def _measured_together(
    bench: Bench,
    together: Sequence[Architecture],
    paths: Sequence[Sequence[Part]],
    race: Race | None = None,
    others: Values = MappingProxyType({}),
) -> Values:
    """
    Args:
        race: who is beaten is scored on a part of the images.
        others: what else the race needs; of whom that is not known, nothing is told.
    """
    shape = bench.space.input_shape(together[0].resolution)
    validation, labels = bench.validation_images(shape), bench.validation_labels
    tree = PrefixTree(paths, bench.exported)
    tree = channels_last(deployed(recalibrate(tree, bench.calibration_images(shape))))
    candidates = [
        _with_values(Candidate(one.key, ""), {**others.get(one.key, {}), **costs})
        for one, costs in zip(together, _costs(bench, tree, together, race), strict=True)
    ]

    def beaten(number: int, right: int, seen: int) -> bool:
        candidate = candidates[number]
        can_tell = race is not None and race.needs <= candidate.values.keys()
        return can_tell and race.beaten(as_seen(candidate, right, seen, len(labels)))

    scores = right_of(
        folded(tree), tree.paths, validation, labels, race.first if race else len(labels), beaten
    )
    known: Values = {one.key: {} for one in together}
    for candidate, score in zip(candidates, scores, strict=True):
        if score is not None and (race is None or race.needs <= candidate.values.keys()):
            known[candidate.key] = _values_of(as_seen(candidate, *score, len(labels)))
    return known


def _costs(
    bench: Bench, tree: PrefixTree, together: Sequence[Architecture], race: Race | None
) -> Iterator[dict[str, Measured]]:
    """What each subnet of a tree costs; of those that share kernels only in a race, which must know it before."""
    for one, costs in zip(together, tree.costs(bench.part_costs), strict=True):
        if any(stage.share_kernels for stage in one.stages):  # a kernel counts once wherever it stands
            if race is None:
                yield {}
                continue
            costs = bench.costs(bench.subnet(one, statistics=False), bench.space.input_shape(one.resolution))
        yield {name: Measured(cost) for name, cost in zip(COSTS, costs.tolist(), strict=True)}


def _with_values(candidate: Candidate, values: Mapping[str, Measured]) -> Candidate:
    for key, measured in values.items():
        candidate = with_value(candidate, key, measured)
    return candidate


def _values_of(candidate: Candidate | None) -> dict[str, Measured]:
    if candidate is None:
        return {}
    return {
        key: Measured(
            value,
            candidate.intervals.get(key),
            candidate.latencies.get(key),
            candidate.scored if key == ACCURACY.objective.key else None,
        )
        for key, value in candidate.values.items()
    }


def accuracies_of(tree: PrefixTree, images: Tensor, labels: Tensor) -> list[float | None]:
    """As `nas.evaluation.accuracy_of`, of each subnet of a tree; None for one whose output is not a number."""
    scores = right_of(folded(tree), tree.paths, images, labels, len(labels), lambda *_: False)
    return [None if one is None else 100 * one[0] / one[1] for one in scores]
