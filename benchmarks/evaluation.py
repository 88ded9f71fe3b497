"""What does it take to evaluate an NSGA-II population together, beside each architecture alone?

    python benchmarks/evaluation.py [--preset digits] [--resolution 28] [--population 100] [--generations 1 10 20]
        [--portions 2]

The populations are those of NSGA-II on the space, recorded while it searches objectives computed from the
architecture (benchmarks/searchers.py); then accuracy and costs are measured of them, on scikit-learn's digits, by an
untrained supernet: neither time nor sharing depends on the weights. Latency, which is not shared, is left out.
Both ways take turns, portion by portion, and the candidates must be equal; times are processor time of one thread.
Where it goes is measured step by step on the first portion, both ways again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from searchers import objectives

from nas import config
from nas.data import load
from nas.evaluation import BATCH, Bench, accuracy_of, evaluate, space_of
from nas.hardware.timing import processor_name
from nas.prefix_tree import PrefixTree, grouped, path, portions
from nas.search import Search, make_searcher
from nas.together import MEMORY, PORTION, accuracies_of, evaluate_together
from search_spaces import Architecture, SearchSpace, read_skeleton
from supernets import checkpoint
from supernets.calibration import recalibrate
from supernets.cost import count
from supernets.merging import deployed
from supernets.spatial import channels_last
from supernets.supernet import make_supernet

T = TypeVar("T")
STEPS = ("export", "calibrate", "merge, trim", "score", "count")


class Clock:
    """Processor time of each step, in seconds."""

    def __init__(self):
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, step: str, work: Callable[[], T]) -> T:
        begun = time.process_time()
        done = work()
        self.seconds[step] += time.process_time() - begun
        return done


def make_bench(preset: str, resolution: int | None, folder: Path) -> Bench:
    skeleton = {**read_skeleton(preset), **({"resolution": resolution} if resolution else {})}
    given = {"data": "digits", "space": skeleton, "objectives": ["accuracy", "macs"]}
    experiment = config.experiment(given | {"training": {"device": "cpu"}})
    splits = load(experiment.data)
    space = space_of(experiment, splits)
    weights = make_supernet(space).state_dict()
    file = folder / "supernet.safetensors"
    checkpoint.save(file, {f"supernet.{name}": one for name, one in weights.items()}, {})
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


def in_turns(bench: Bench, portions: Sequence[Sequence[Architecture]]) -> dict[str, float]:
    """Seconds of both ways."""
    clock = Clock()
    for asked in portions:
        together = clock("together", lambda asked=asked: list(evaluate_together(bench, asked)))
        alone = clock("alone", lambda asked=asked: {one.key: evaluate(bench, one) for one in asked})
        for one in together:
            if (one.values, one.error) != (alone[one.key].values, alone[one.key].error):
                raise SystemExit(f"{one.key}: {one.values} together, {alone[one.key].values} alone")
    return clock.seconds


def steps(bench: Bench, asked: Sequence[Architecture]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each step alone and together, of architectures of one resolution."""
    shape = bench.space.input_shape(asked[0].resolution)
    calibration, validation = bench.calibration_images(shape), bench.validation_images(shape)
    labels, alone, together = bench.validation_labels, Clock(), Clock()
    for one in asked:
        subnet = alone("export", lambda one=one: channels_last(bench.supernet.export(one)).eval())
        alone("calibrate", lambda subnet=subnet: recalibrate(subnet, calibration))
        subnet = alone("merge, trim", lambda subnet=subnet: channels_last(deployed(subnet)))
        alone("score", lambda subnet=subnet: accuracy_of(subnet, validation, labels))
        alone("count", lambda subnet=subnet: count(subnet, shape))
    tree = together(
        "export", lambda: channels_last(PrefixTree([path(bench.supernet, one) for one in asked]).eval())
    )
    together("calibrate", lambda: recalibrate(tree, calibration))
    tree = together("merge, trim", lambda: channels_last(deployed(tree)))
    together("score", lambda: accuracies_of(tree, validation, labels))
    together("count", lambda: tree.costs({}))
    return alone.seconds, together.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--resolution", type=int, help="pixels; by default those of the images, 8")
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--generations", type=int, nargs="+", default=[1, 10, 20])
    parser.add_argument("--portions", type=int, default=1000, help="of each generation, at most")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(given.preset, given.resolution, Path(folder))
    shape = bench.space.input_shape(bench.space.resolutions[0])
    numbers = len(bench.calibration_images(shape)), len(bench.validation_images(shape))
    print(f"{processor_name()}, torch {torch.__version__}; {given.preset} at {shape[1]} pixels,")
    print(f"{numbers[0]} images to calibrate, {numbers[1]} to score; ms per architecture\n")
    print("| generation | parts / computed | timed | alone | together | alone / together |")
    print("|---|---|---|---|---|---|", flush=True)
    where = []
    for generation, asked in populations(bench.space, given.population, given.generations):
        paths = [path(bench.supernet, one) for one in asked]
        cut = portions(paths, PORTION, MEMORY // (4 * BATCH))[: given.portions]
        some = [[asked[number] for number in numbers] for numbers in cut]
        list(evaluate_together(bench, asked[:2]))  # what happens once
        evaluate(bench, asked[0])
        whole = in_turns(bench, some)
        alone, together = steps(bench, some[0])
        timed = sum(map(len, some))
        alone_ms, together_ms = (1000 * whole[way] / timed for way in ("alone", "together"))
        share = sum(map(len, paths)) / len(grouped(paths))
        columns = [generation, f"{share:.2f}", timed, f"{alone_ms:.1f}", f"{together_ms:.1f}"]
        print("|", *(f"{one} |" for one in [*columns, f"{alone_ms / together_ms:.2f}"]), flush=True)
        where.append((generation, len(some[0]), alone, together))
    print("\n| generation | | " + " | ".join(STEPS) + " | sum |\n|" + "---|" * (3 + len(STEPS)))
    for generation, count_, *ways in where:
        for name, seconds in zip(("alone", "together"), ways, strict=True):
            times = [1000 * seconds[one] / count_ for one in STEPS]
            print(f"| {generation} | {name} |", *(f"{one:.1f} |" for one in [*times, sum(times)]))


if __name__ == "__main__":
    main()
