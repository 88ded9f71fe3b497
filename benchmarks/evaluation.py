"""What does it take to evaluate an NSGA-II population together, beside each architecture alone?

    python benchmarks/evaluation.py [--preset digits] [--resolution 28] [--population 100] [--generations 1 10 20]
        [--portions 2] [--epochs 10]

The populations are those of NSGA-II on the space, recorded while it searches objectives computed from the
architecture (benchmarks/searchers.py); then accuracy and costs are measured of them, on scikit-learn's digits, by a
supernet trained for some epochs. Latency, which is not shared, is left out.

Three ways take turns, portion by portion: all together; each alone; and plainly, which is each alone by torch as it
comes: weights laid out by `contiguous`, statistics by norms in training mode, scored as it is deployed, 500 images at
once. Candidates must be equal together and alone; where plain ones are not, predictions are
held beside each other. Times are processor time of one thread. Where it goes is measured step by step on the first
portion, all three ways again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from searchers import objectives
from torch import Tensor, nn

from nas import config
from nas.data import load
from nas.data.batches import Batches
from nas.evaluation import BATCH, Bench, accuracy_of, evaluate, space_of
from nas.hardware.timing import processor_name
from nas.memory import uncollected
from nas.prefix_tree import PrefixTree, path, portions
from nas.search import Search, make_searcher
from nas.together import MEMORY, PORTION, accuracies_of, evaluate_together
from search_spaces import Architecture, SearchSpace, read_skeleton
from supernets import checkpoint
from supernets.calibration import recalibrate
from supernets.cost import COSTS, count
from supernets.folding import folded
from supernets.merging import deployed
from supernets.recipe import Training
from supernets.samplers.uniform import Uniform
from supernets.spatial import channels_last
from supernets.supernet import make_supernet
from supernets.training import train

T = TypeVar("T")
STEPS = ("export", "calibrate", "merge, trim", "score", "count")
WAYS = ("plainly", "alone", "together")


class Clock:
    """Processor time of each step, in seconds."""

    def __init__(self):
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, step: str, work: Callable[[], T]) -> T:
        begun = time.process_time()
        done = work()
        self.seconds[step] += time.process_time() - begun
        return done


def make_bench(preset: str, resolution: int | None, epochs: int, folder: Path) -> Bench:
    skeleton = {**read_skeleton(preset), **({"resolution": resolution} if resolution else {})}
    given = {"data": "digits", "space": skeleton, "objectives": ["accuracy", "macs"]}
    experiment = config.experiment(given | {"training": {"device": "cpu"}})
    splits = load(experiment.data)
    space = space_of(experiment, splits)
    supernet = channels_last(make_supernet(space))
    if epochs:
        batches = Batches(splits.train, splits.mean, splits.std, batch_size=64, seed=0)
        recipe = Training(epochs=epochs, batch_size=64, device="cpu")
        train(supernet, batches, batches, Uniform(space, None, 0), recipe, folder / "training")
    file = folder / "supernet.safetensors"
    checkpoint.save(file, {f"supernet.{name}": one for name, one in supernet.state_dict().items()}, {})
    return Bench(experiment, splits, space, file)


def populations(
    space: SearchSpace, size: int, generations: Sequence[int]
) -> Iterator[tuple[int, list[Architecture]]]:
    """Generations of NSGA-II by their number, as they are asked for."""
    searcher = make_searcher(Search(searcher={"name": "nsga2", "population": size}), space, 2)
    for generation in range(1, max(generations) + 1):
        asked = searcher.ask(size)
        for one, losses in zip(asked, objectives(space, space_rows(space, asked)), strict=True):
            searcher.tell(one, list(losses))
        if generation in generations:
            yield generation, asked


def space_rows(space: SearchSpace, architectures: Sequence[Architecture]) -> np.ndarray:
    return np.array([space.encode(one) for one in architectures])


# -- plainly -----------------------------------------------------------------------------------


def plainly_laid_out(module: nn.Module) -> nn.Module:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


@torch.no_grad()
def plainly_calibrated(subnet: nn.Module, images: Tensor, batch_size: int = 256) -> nn.Module:
    norms = [one for one in subnet.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in images.split(batch_size):
        if len(batch) >= batch_size / 2 or len(images) < batch_size:
            subnet(batch)
    return subnet.eval()


@torch.inference_mode()
def plainly_scored(subnet: nn.Module, images: Tensor, labels: Tensor) -> float:
    right = 0
    for batch, answers in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        logits = subnet(batch)
        if not torch.isfinite(logits).all():
            raise FloatingPointError("the subnet's output is not a number")
        right += (logits.argmax(1) == answers).sum()
    return 100 * int(right) / len(labels)


def plainly(bench: Bench, architecture: Architecture, clock: Clock) -> tuple[nn.Module, dict[str, float]]:
    """The subnet and its values."""
    shape = bench.space.input_shape(architecture.resolution)
    calibration, validation = bench.calibration_images(shape), bench.validation_images(shape)
    subnet = clock("export", lambda: plainly_laid_out(bench.supernet.export(architecture).eval()))
    clock("calibrate", lambda: plainly_calibrated(subnet, calibration))
    merged = clock("merge, trim", lambda: plainly_laid_out(deployed(subnet)))
    accuracy = clock("score", lambda: plainly_scored(merged, validation, bench.validation_labels))
    costs = clock("count", lambda: count(merged, shape))
    return merged, {"accuracy": accuracy} | dict(zip(COSTS, costs.tolist(), strict=True))


@torch.inference_mode()
def disagreement(plain: nn.Module, own: nn.Module, images: Tensor) -> tuple[int, float, float]:
    """On how many images the predictions differ, by how much the two logits in question differ there at most, and by
    how much any logit differs, both as shares of the largest logit."""
    first, second = (torch.cat([one(batch) for batch in images.split(BATCH)]) for one in (plain, folded(own)))
    largest = first.abs().max()
    ours, theirs = second.argmax(1, keepdim=True), first.argmax(1, keepdim=True)
    between = (first.gather(1, theirs) - first.gather(1, ours)).max() / largest
    return int((ours != theirs).sum()), float(between), float((first - second).abs().max() / largest)


# -- beside each other -------------------------------------------------------------------------


@dataclass
class Compared:
    """Seconds of each way, and how the results of plain evaluations compare."""

    seconds: Mapping[str, float]
    differing: int  # candidates with another accuracy
    predictions: int  # images on which predictions differ, in all
    margin: float  # between the two classes in question, at most, as a share of the largest logit
    rounding: float  # between any two logits


def in_turns(bench: Bench, portions: Sequence[Sequence[Architecture]]) -> Compared:
    clock, differing, found = Clock(), 0, []
    for asked in portions:
        together = clock("together", lambda asked=asked: list(evaluate_together(bench, asked)))
        alone = clock("alone", lambda asked=asked: {one.key: evaluate(bench, one) for one in asked})
        for one in together:
            if (one.values, one.error) != (alone[one.key].values, alone[one.key].error):
                raise SystemExit(f"{one.key}: {one.values} together, {alone[one.key].values} alone")
        images = bench.validation_images(bench.space.input_shape(asked[0].resolution))
        for one in asked:
            subnet, values = clock("plainly", lambda one=one: plainly(bench, one, Clock()))
            differing += values != alone[one.key].values
            found.append(disagreement(subnet, bench.subnet(one), images))
    predictions, margins, roundings = zip(*found, strict=True)
    return Compared(clock.seconds, differing, sum(predictions), max(margins), max(roundings))


@uncollected()
def steps(bench: Bench, asked: Sequence[Architecture]) -> dict[str, Mapping[str, float]]:
    """Seconds of each step of each way, of architectures of one resolution."""
    shape = bench.space.input_shape(asked[0].resolution)
    calibration, validation = bench.calibration_images(shape), bench.validation_images(shape)
    labels, plain, alone, together = bench.validation_labels, Clock(), Clock(), Clock()
    for one in asked:
        plainly(bench, one, plain)
        subnet = alone("export", lambda one=one: channels_last(bench.supernet.export(one)).eval())
        alone("calibrate", lambda subnet=subnet: recalibrate(subnet, calibration))
        subnet = alone("merge, trim", lambda subnet=subnet: channels_last(deployed(subnet)))
        alone("score", lambda subnet=subnet: accuracy_of(subnet, validation, labels))
        alone("count", lambda subnet=subnet: count(subnet, shape))
    tree = together("export", lambda: PrefixTree([path(bench.supernet, one) for one in asked]))
    together("calibrate", lambda: recalibrate(tree, calibration))
    tree = together("merge, trim", lambda: channels_last(deployed(tree)))
    together("score", lambda: accuracies_of(tree, validation, labels))
    together("count", lambda: tree.costs({}))
    return {"plainly": plain.seconds, "alone": alone.seconds, "together": together.seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--resolution", type=int, help="pixels; by default those of the images, 8")
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--generations", type=int, nargs="+", default=[1, 10, 20])
    parser.add_argument("--portions", type=int, default=1000, help="of each generation, at most")
    parser.add_argument("--epochs", type=int, default=10, help="of training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(given.preset, given.resolution, given.epochs, Path(folder))
    shape = bench.space.input_shape(bench.space.resolutions[0])
    numbers = len(bench.calibration_images(shape)), len(bench.validation_images(shape))
    print(f"{processor_name()}, torch {torch.__version__}; {given.preset} at {shape[1]} pixels,")
    print(f"{numbers[0]} images to calibrate, {numbers[1]} to score; ms per architecture\n")
    print(
        "| generation | timed | plainly | alone | together | plainly / alone | alone / together | plainly / together |"
    )
    print("|" + "---|" * 8, flush=True)
    where, compared = [], []
    for generation, asked in populations(bench.space, given.population, given.generations):
        paths = [path(bench.supernet, one) for one in asked]
        cut = portions(paths, PORTION, MEMORY // (4 * BATCH))[: given.portions]
        some = [[asked[number] for number in numbers] for numbers in cut]
        in_turns(bench, [asked[:2]])  # what happens once
        found = in_turns(bench, some)
        timed = sum(map(len, some))
        plain, alone, together = (1000 * found.seconds[way] / timed for way in WAYS)
        times = [f"{one:.1f}" for one in (plain, alone, together)]
        gains = [f"{one:.2f}" for one in (plain / alone, alone / together, plain / together)]
        print("|", *(f"{one} |" for one in [generation, timed, *times, *gains]), flush=True)
        compared.append((generation, timed, found))
        where.append((generation, len(some[0]), steps(bench, some[0])))
    print("\n| generation | | " + " | ".join(STEPS) + " | sum |\n|" + "---|" * (3 + len(STEPS)))
    for generation, count_, ways in where:
        for name in WAYS:
            times = [1000 * ways[name][one] / count_ for one in STEPS]
            print(f"| {generation} | {name} |", *(f"{one:.1f} |" for one in [*times, sum(times)]))
    for generation, timed, found in compared:
        print(
            f"\ngeneration {generation}: {found.differing} of {timed} candidates have other values plainly; "
            f"{found.predictions} of {timed * numbers[1]} predictions differ, the classes in question by "
            f"{found.margin:.1e} of the largest logit; no logit differs by more than {found.rounding:.1e} of it"
        )


if __name__ == "__main__":
    main()
