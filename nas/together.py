"""Many architectures at once: what they begin with in common is calibrated and scored once, and no number changes;
their latencies are measured in turns."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from nas.evaluation import BATCH, Bench, evaluate, in_batches
from nas.hardware.runtime import in_turns
from nas.memory import uncollected
from nas.objectives import KEYS, Measure, Measured, with_needs
from nas.prefix_tree import Part, PrefixTree, path, portions
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
ACCURACY = KEYS["accuracy"]

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
    """Those that begin alike together with their paths, as many as the memory holds."""
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
    bench: Bench, together: Sequence[Architecture], paths: Sequence[Sequence[Part]]
) -> Values:
    shape = bench.space.input_shape(together[0].resolution)
    calibration, validation = bench.calibration_images(shape), bench.validation_images(shape)
    tree = PrefixTree(paths, bench.exported)
    tree = channels_last(deployed(recalibrate(tree, calibration)))
    accuracies = accuracies_of(tree, validation, bench.validation_labels)
    known: Values = {one.key: {} for one in together}
    for one, accuracy, costs in zip(together, accuracies, tree.costs(bench.part_costs).tolist(), strict=True):
        if accuracy is None:
            continue
        known[one.key]["accuracy"] = Measured(accuracy)
        if not any(stage.share_kernels for stage in one.stages):  # a kernel counts once wherever it stands
            known[one.key] |= {name: Measured(cost) for name, cost in zip(COSTS, costs, strict=True)}
    return known


@torch.inference_mode()
def accuracies_of(tree: PrefixTree, images: Tensor, labels: Tensor) -> list[float | None]:
    """As `nas.evaluation.accuracy_of`, of each subnet of a tree; None for one whose output is not a number."""
    tree = folded(tree)
    right = torch.zeros(tree.paths, dtype=torch.long, device=images.device)
    finite = torch.ones(tree.paths, dtype=torch.bool, device=images.device)
    for batch, answers in in_batches(images, labels):
        logits = tree(batch)  # (paths, N, classes)
        finite &= torch.isfinite(logits).flatten(1).all(1)
        right += (logits.argmax(2) == answers).sum(1)
    return [
        100 * count / len(labels) if is_finite else None
        for count, is_finite in zip(right.tolist(), finite.tolist(), strict=True)
    ]
