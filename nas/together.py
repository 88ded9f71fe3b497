"""Many architectures at once: what they begin with in common is calibrated and scored once, and no number changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nas.evaluation import BATCH, Bench, evaluate, in_batches
from nas.memory import uncollected
from nas.objectives import KEYS, Measure, Measured
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


def evaluate_together(
    bench: Bench, architectures: Iterable[Architecture], measures: Sequence[Measure] | None = None
) -> Iterator[Candidate]:
    """The candidates that `nas.evaluation.evaluate` gives, portion by portion, each in the order of asking.

    Shared are accuracy and costs, in spaces of stages; what else is measured, or cannot be shared, is measured of
    each by itself. The seconds of a candidate are its own and an equal part of what was shared.

    Args:
        measures: what to measure, by default everything that the experiment asks for.

    Raises:
        ValueError: an architecture is not of the space.
    """
    architectures = list(architectures)
    measures = bench.measures if measures is None else measures
    if not isinstance(bench.space, SearchSpace) or ACCURACY not in measures:
        yield from (evaluate(bench, one, measures) for one in architectures)
        return
    for together, paths in _portions(bench, architectures):
        begun = time.perf_counter()
        known = _known(bench, together, paths) if len(together) > 1 else {}
        share = (time.perf_counter() - begun) / len(together)
        for one in together:
            candidate = evaluate(bench, one, measures, known.get(one.key, {}))
            yield replace(candidate, seconds=candidate.seconds + share)


def evaluate_loud(bench: Bench, architectures: list[Architecture]) -> list[Candidate]:
    """As `evaluate_together`, but only what does not need a quiet machine."""
    return list(evaluate_together(bench, architectures, [one for one in bench.measures if not one.quiet]))


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


def _known(
    bench: Bench, together: Sequence[Architecture], paths: Sequence[Sequence[Part]]
) -> dict[str, dict[str, Measured]]:
    """By key of the architecture, what is measured of all at once. Nothing is known of one that fails: evaluated
    by itself, it says why."""
    try:
        return _measured_together(bench, together, paths)
    except Exception:  # one of them must not end the search, nor fail the others
        log.warning("%d architectures are evaluated one by one, since together they fail", len(together))
        log.info("because:", exc_info=True)
        return {}


@uncollected()
def _measured_together(
    bench: Bench, together: Sequence[Architecture], paths: Sequence[Sequence[Part]]
) -> dict[str, dict[str, Measured]]:
    shape = bench.space.input_shape(together[0].resolution)
    calibration, validation = bench.calibration_images(shape), bench.validation_images(shape)
    tree = channels_last(PrefixTree(paths).to(calibration.device))
    tree = channels_last(deployed(recalibrate(tree, calibration)))
    accuracies = accuracies_of(tree, validation, bench.validation_labels)
    known: dict[str, dict[str, Measured]] = {one.key: {} for one in together}
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
