"""One architecture: export it, give it batch-norm statistics of its own, merge it, measure every objective."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas import config
from nas.data import Splits, load
from nas.data.batches import laid_out, normalize
from nas.hardware import device as latency_device
from nas.memory import keep_freed_memory, uncollected
from nas.objectives import KEYS, Measure, Measured, measures_for, with_needs
from nas.predictors.accuracy import FILE as ACCURACY_MODEL
from nas.predictors.accuracy import AccuracyModel
from nas.prefix_tree import Exported
from nas.racing import Race, as_seen
from nas.storage.records import Candidate
from search_spaces import Architecture, NetworkSpace, SearchSpace, unroll
from supernets import checkpoint
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.cost import count
from supernets.folding import folded
from supernets.merging import deployed
from supernets.operators import OPERATORS
from supernets.spatial import channels_last
from supernets.supernet import make_supernet, resize
from supernets.training import load_weights, training_device

log = logging.getLogger(__name__)

NOT_A_NUMBER = "the subnet's output is not a number"
ALWAYS = ("macs", "parameters", "bytes")  # they cost nothing, so every candidate has them
BATCH = 500  # images scored at once, at most
PIXELS = 50_000  # of them on a CPU, at most: fewer fit its cache better, too few are all calls
ACCURACY = KEYS["accuracy"]


def space_of(experiment: config.Experiment, splits: Splits) -> NetworkSpace:
    """The search space of an experiment on its data."""
    return unroll(experiment.space, OPERATORS, ATTENTIONS, splits.shape, len(splits.classes))


def measures_of(experiment: config.Experiment) -> list[Measure]:
    """What is measured of every candidate where its supernet is: objectives, what constraints limit, and what costs
    nothing; not what devices of other nodes measure (nas.far)."""
    keys = [one.key for one in (*experiment.objectives, *experiment.constraints)]
    away = experiment.far
    return measures_for(key for key in [*keys, *ALWAYS] if key not in away)


class Bench:
    """Everything an evaluation needs, prepared once: the trained supernet, images, the latency device."""

    def __init__(
        self, experiment: config.Experiment, splits: Splits, space: SearchSpace, supernet_file: Path
    ):
        keep_freed_memory()
        self.space, self.folder = space, supernet_file.parent
        self.fingerprint = splits.fingerprint
        self.measures = measures_of(experiment)
        self.devices = {name: latency_device(section) for name, section in experiment.near.items()}
        where = training_device(experiment.training)
        self.supernet = make_supernet(space)
        tensors, _ = checkpoint.load(supernet_file)
        load_weights(self.supernet, tensors, supernet_file)
        channels_last(self.supernet.eval().to(where))
        self._images = {
            name: normalize(part.images, splits.mean, splits.std, where)
            for name, part in (("calibration", splits.calibration), ("validation", splits.validation))
        }
        self.validation_labels = torch.from_numpy(splits.validation.labels).to(where)
        self._resized: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        # of `nas.prefix_tree`: a part is and costs the same in any subnet
        self.exported = Exported(where)
        self.part_costs: dict[Hashable, np.ndarray] = {}
        self._counted: tuple[nn.Module | None, np.ndarray] = None, np.empty(0)

    def calibration_images(self, shape: tuple[int, ...]) -> Tensor:
        """Training images that no weight was trained on, (N, C, H, W) or (N, C, L), as in a test: for batch norm."""
        return self._at("calibration", shape)

    def validation_images(self, shape: tuple[int, ...]) -> Tensor:
        """The search-validation images, (N, C, H, W) or (N, C, L), in the order of `validation_labels`."""
        return self._at("validation", shape)

    @cached_property
    def accuracy_model(self) -> AccuracyModel:
        """What predicts accuracies of trainings alone, from beside the supernet.

        Raises:
            FileNotFoundError, ValueError: as `AccuracyModel.load`.
        """
        return AccuracyModel.load(self.folder / ACCURACY_MODEL)

    def branched(self, architecture: Architecture, statistics: bool = True) -> nn.Module:
        """The architecture exported as it was trained, in evaluation mode, with statistics of its own if asked."""
        subnet = self.supernet.export(architecture).to(self._images["calibration"].device)
        subnet = channels_last(subnet).eval()
        shape = self.space.input_shape(architecture.resolution)
        return recalibrate(subnet, self.calibration_images(shape)) if statistics else subnet

    def subnet(self, architecture: Architecture, statistics: bool = True) -> nn.Module:
        """The architecture exported as it is deployed: what branches it was trained in are merged, what is zero
        all around a kernel is cut."""
        return channels_last(deployed(self.branched(architecture, statistics)))

    def costs(self, subnet: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
        """(3,) in the order of COSTS, counted once for all objectives that ask for the same subnet in a row."""
        if self._counted[0] is not subnet:
            self._counted = subnet, count(subnet, shape)
        return self._counted[1]

    def _at(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if (name, shape) not in self._resized:
            self._resized[name, shape] = laid_out(resize(self._images[name], shape))
        return self._resized[name, shape]


def prepare(experiment_json: str, supernet_file: str) -> Bench:
    """A bench from what can be sent to another process: text and a path."""
    experiment = config.from_json(experiment_json)
    splits = load(experiment.data)
    return Bench(experiment, splits, space_of(experiment, splits), Path(supernet_file))


@uncollected()
def evaluate(
    bench: Bench,
    architecture: Architecture,
    measures: Sequence[Measure] | None = None,
    known: Mapping[str, Measured] = MappingProxyType({}),
    race: Race | None = None,
) -> Candidate:
    """Measure an architecture; whatever goes wrong with it is a candidate with an error.

    Args:
        measures: what to measure, by default everything that the experiment asks for.
        known: by key, what was measured already.
        race: its accuracy is measured last, and only until it is beaten.
    """
    begun = time.perf_counter()
    blank = Candidate(architecture.key, architecture.to_json())
    measures = with_needs(bench.measures if measures is None else measures)
    try:
        candidate = _measured(bench, architecture, blank, measures, known, race)
    except Exception as error:  # the one place: a candidate that fails must not end the search
        log.info("candidate %s failed", architecture.key, exc_info=True)
        reason = " ".join(str(error).split()) or "no message"
        candidate = replace(blank, error=f"{type(error).__name__}: {reason}")
    return replace(candidate, seconds=time.perf_counter() - begun)


def merge(first: Candidate, second: Candidate) -> Candidate:
    """One candidate from two evaluations of the same architecture, each of other objectives."""
    assert first.key == second.key
    seconds = first.seconds + second.seconds
    if error := first.error or second.error:
        return Candidate(first.key, first.architecture, error=error, seconds=seconds, created=first.created)
    return replace(
        first,
        values={**first.values, **second.values},
        intervals={**first.intervals, **second.intervals},
        latencies={**first.latencies, **second.latencies},
        seconds=seconds,
    )


def _measured(
    bench: Bench,
    architecture: Architecture,
    blank: Candidate,
    measures: Sequence[Measure],
    known: Mapping[str, Measured],
    race: Race | None,
) -> Candidate:
    unknown = [measure for measure in measures if measure.of and measure.objective.key not in known]
    if unknown:
        subnet = bench.subnet(architecture, statistics=any(measure.statistics for measure in unknown))
        shape = bench.space.input_shape(architecture.resolution)
    candidate, raced = blank, ACCURACY if race is not None and ACCURACY in unknown else None
    for measure in measures:
        key = measure.objective.key
        if measure is raced:
            continue
        if key in known:
            measured = known[key]
        elif measure.of_values:
            measured = measure.of_values(architecture, candidate.values, bench)
        else:
            measured = measure.of(subnet, shape, bench)
        candidate = with_value(candidate, key, measured)
    return candidate if raced is None else _raced(bench, subnet, shape, candidate, race)


def with_value(candidate: Candidate, key: str, measured: Measured) -> Candidate:
    """The candidate with one more value."""
    uncertain = {} if measured.interval is None else {key: measured.interval}
    record = {} if measured.latency is None else {key: measured.latency}
    return replace(
        candidate,
        values={**candidate.values, key: measured.value},
        intervals={**candidate.intervals, **uncertain},
        latencies={**candidate.latencies, **record},
        scored=measured.scored or candidate.scored,
    )


def _raced(
    bench: Bench, subnet: nn.Module, shape: tuple[int, ...], candidate: Candidate, race: Race
) -> Candidate:
    """A candidate of which all else is known, with its accuracy.

    Raises:
        FloatingPointError: the output of the subnet is not a number.
    """
    images, labels, network = bench.validation_images(shape), bench.validation_labels, folded(subnet)

    def beaten(number: int, right: int, seen: int) -> bool:
        return race.beaten(as_seen(candidate, right, seen, len(labels)))

    [scores] = right_of(lambda batch, _: network(batch)[None], 1, images, labels, race.first, beaten)
    if scores is None:
        raise FloatingPointError(NOT_A_NUMBER)
    return as_seen(candidate, *scores, len(labels))


def accuracy_of(subnet: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent of a subnet in evaluation mode on images at its resolution.

    Raises:
        FloatingPointError: its output is not a number.
    """
    return scores_of(subnet, images, labels)[0]


@torch.inference_mode()
def scores_of(subnet: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """As `accuracy_of`, and beside it the mean cross entropy, and the mean of `label_cosines` in percent."""
    subnet = folded(subnet)
    right = torch.zeros((), dtype=torch.long, device=images.device)
    loss, cosine = torch.zeros((2,), device=images.device)
    for batch, answers in in_batches(images, labels):
        logits = subnet(batch)
        if not torch.isfinite(logits).all():
            raise FloatingPointError(NOT_A_NUMBER)
        right += (logits.argmax(1) == answers).sum()
        loss += F.cross_entropy(logits.float(), answers, reduction="sum")
        cosine += label_cosines(logits.float(), answers).sum()
    return 100 * right.item() / len(labels), loss.item() / len(labels), 100 * cosine.item() / len(labels)


def label_cosines(logits: Tensor, labels: Tensor) -> Tensor:
    """The cosine between each image's (N, K) logits and its label as one of K, both less their mean: (N,).

    1 where the label's logit stands out and all others are equal, 0 where all are, -1 at least. No scale of the logits
    changes it, so it is not the confidence of a network that it tells, as the cross entropy is.
    """
    centred = logits - logits.mean(1, keepdim=True)
    longest = centred.norm(dim=1) * (1 - 1 / logits.shape[1]) ** 0.5
    of_label = centred.gather(1, labels[:, None])[:, 0]
    return of_label / longest.clamp_min(torch.finfo(logits.dtype).tiny)


@torch.inference_mode()
def right_of(
    logits_of: Callable[[Tensor, Sequence[int]], Tensor],
    count: int,
    images: Tensor,
    labels: Tensor,
    first: int,
    beaten: Callable[[int, int, int], bool],
) -> list[tuple[int, int] | None]:
    """How many right answers each of several subnets gives, and on how many images: on all, or on those after which
    it was beaten. None for one whose output is not a number.

    Args:
        logits_of: of a batch and the numbers of some subnets, (some, N, classes).
        first: images after which is looked for the first time, or the whole batches that hold them; then whenever they
            have doubled.
        beaten: of the number of a subnet, how many are right, and of how many.
    """
    right = torch.zeros(count, dtype=torch.long, device=images.device)
    finite = torch.ones(count, dtype=torch.bool, device=images.device)
    racing, seen, look, scored = list(range(count)), 0, first, [len(labels)] * count
    for batch, answers in in_batches(images, labels):
        logits = logits_of(batch, racing)
        finite[racing] &= torch.isfinite(logits).flatten(1).all(1)
        right[racing] += (logits.argmax(2) == answers).sum(1)
        seen += len(batch)
        if not look <= seen < len(labels):
            continue
        look, counts = 2 * seen, right.tolist()
        for number in [one for one in racing if beaten(one, counts[one], seen)]:
            scored[number] = seen
            racing.remove(number)
        if not racing:
            break
    counts = zip(right.tolist(), scored, strict=True)
    return [one if is_finite else None for one, is_finite in zip(counts, finite.tolist(), strict=True)]


def in_batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (N, C, H, W) or signals (N, C, L), and labels, to score at once: the same whatever is scored."""
    size = batch_size(images.shape[1:], images.device)
    return zip(images.split(size), labels.split(size), strict=True)


def batch_size(shape: tuple[int, ...], device: torch.device) -> int:
    """How many (C, H, W) or (C, L) are scored at once."""
    return min(BATCH, max(1, PIXELS // prod(shape[1:]))) if device.type == "cpu" else BATCH


def check_race(experiment: config.Experiment, splits: Splits, space: NetworkSpace) -> None:
    """Refuse a race that would always look at all images.

    Raises:
        ValueError: names the way out.
    """
    first, count = experiment.search.first_images, len(splits.validation)
    if first is None:
        return
    if first >= count:
        raise ValueError(
            f"search.first_images is {first}, but there are {count} search-validation images; give fewer, or leave it "
            "out"
        )
    device = training_device(experiment.training)
    sizes = [batch_size(space.input_shape(one), device) for one in space.resolutions]
    if all(-(-first // size) * size >= count for size in sizes):
        raise ValueError(
            f"search.first_images is {first}, but the {count} search-validation images are scored {min(sizes)} at "
            "once, so the first part would be all of them; leave it out, or give the search more (data.validation)"
        )
