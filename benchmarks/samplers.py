"""Which sampler a supernet should be trained with: accuracy over cost, the extremes, and the ranking of subnets.

    python benchmarks/samplers.py pilot --data-dir DIR --folder OUT    # alone on the machine: it times steps
    python benchmarks/samplers.py train --data-dir DIR --folder OUT [--steps 1500] [--seeds 3] [--processes 2]
        [--samplers uniform shift] [--equal steps] [--test-images 10000] [--space menu]
    python benchmarks/samplers.py alone --data-dir DIR --folder OUT [--seeds 2] [--processes 2]
    python benchmarks/samplers.py table --data-dir DIR --folder OUT

Fashion-MNIST, 28 pixels, or the images of `--data`, the `data:` section of an experiment file, the same for all four:
`--data '{name: image_folder, directory: DIR, size: 32}'`. One thread per process. Each sampler is compared to uniform
sampling three times: at equal optimiser steps, at equal MACs trained, and at equal wall clock, each a training of its
own whose learning rate falls to 0 at its end. What a step of a sampler costs comes from the pilot, which trains all
samplers in turns. In the space `widths` cost decides most of what a network is worth; in `menu`, of operators with and
without weights that cost nearly the same, it does not. The same 32 architectures, four in each of eight bins of MACs,
and the two ends of the space are scored on test images after every training, with batch-norm statistics of their own;
`alone` trains each of the 32 from the start. Results are files of JSON: what was interrupted goes on, and more seeds
are added to what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import yaml
from scipy.stats import kendalltau, t

from nas import config
from nas.data import Data, Splits, load
from nas.data.batches import Batches, normalize
from nas.evaluation import accuracy_of
from nas.hardware.timing import processor_name
from nas.predictors.accuracy import Landmark, compared
from nas.rank_statistics import mean_tau, resamples
from search_spaces import Architecture, SearchSpace, only, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.cost import Costs, CostTable
from supernets.merging import merged
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.samplers import make_sampler
from supernets.samplers.cost_bins import cost_bins
from supernets.spatial import channels_last
from supernets.supernet import Supernet
from supernets.training import Watcher, train

SAMPLERS = {
    "uniform": "uniform",
    "uniform_cost": "uniform_cost",
    "sandwich": "sandwich",
    "fair": "fair",
    "attentive": "attentive",
    "shift": "shift",
    "shift, per cost": {"name": "shift", "normalise": "cost"},
}
EQUAL = ("steps", "macs", "seconds")
BINS, PER_BIN = 8, 4
BATCH = 64
CALIBRATION_IMAGES = 512
PILOT_ROUNDS, PILOT_STEPS = 2, 100

WIDTHS = {
    "name": "samplers",
    "stem": {"width": 16, "stride": 2},
    "stages": [
        {"width": [16, 24], "depth": [1, 2], "stride": 2},
        {"width": [24, 32, 40], "depth": [1, 2, 3], "stride": 1},
        {"width": [48, 64, 80], "depth": [1, 2, 3], "stride": 2},
    ],
    "operators": [{"depthwise": {"kernel_size": [3, 5]}}],
    "expansion": [2, 3, 4],
    "attention": ["none"],
}
MENU = {
    "name": "menu",
    "stem": {"width": 16, "stride": 2},
    "stages": [
        {"width": [24], "depth": [1, 2], "stride": 2},
        {"width": [40], "depth": [1, 2, 3], "stride": 1},
        {"width": [64], "depth": [1, 2], "stride": 2},
    ],
    "operators": [
        {"depthwise": {"kernel_size": [3, 5]}},
        {"max_pool": {"kernel_size": [3]}},
        {"avg_pool": {"kernel_size": [3]}},
        "shift",
        "identity",
    ],
    "expansion": [2, 4],
    "attention": ["none", "se"],
}
SKELETONS = {"widths": WIDTHS, "menu": MENU}


# -- what all have in common -------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A space by its name, and the `data:` section of an experiment as JSON."""

    space: str
    data: str


@cache
def splits_of(problem: Problem) -> Splits:
    return load(section_of_data(problem))


def section_of_data(problem: Problem) -> Data:
    return config.experiment({"data": json.loads(problem.data), "space": "tiny"}).data


@cache
def space_of(problem: Problem) -> SearchSpace:
    splits = splits_of(problem)
    skeleton = read_skeleton(SKELETONS[problem.space])
    return unroll(skeleton, OPERATORS, ATTENTIONS, splits.shape, len(splits.classes))


@cache
def table_of(problem: Problem) -> CostTable:
    return CostTable(space_of(problem))


@cache
def subnets(problem: Problem) -> tuple[Architecture, ...]:
    """The 32 that are scored, from the cheapest bin to the dearest, and the two ends."""
    table = table_of(problem)
    ends = table.smallest, table.largest
    bins, dice = cost_bins(space_of(problem), Costs(table).of("macs"), BINS, ends), Random(0)
    drawn: list[Architecture] = []
    for number in range(len(bins)):
        while len(drawn) < PER_BIN * (number + 1):
            if (one := bins.sample(number, dice)) not in drawn:
                drawn.append(one)
    return (*drawn, *ends)


def train_supernet(
    space: SearchSpace,
    sampler: str | dict,
    steps: int,
    seed: int,
    problem: Problem,
    watcher: Watcher,
    path: Path,
) -> Supernet:
    """A supernet trained from the start with the recipe's defaults."""
    splits, data = splits_of(problem), section_of_data(problem)
    batches = Batches(splits.train, splits.mean, splits.std, BATCH, seed, data.crop, data.flip, data.cutout)
    settings = Training(
        epochs=steps / batches.steps_per_epoch(), batch_size=BATCH, seed=seed, checkpoint_every=10**9
    )
    supernet = channels_last(Supernet(space, seed))
    costs = Costs(CostTable(space))
    chosen = make_sampler(sampler, space, costs, steps)

    def probe_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        places = np.random.default_rng([seed, number]).choice(len(splits.validation), 256, replace=False)
        images = normalize(splits.validation.images[places], splits.mean, splits.std)
        return images, torch.from_numpy(splits.validation.labels[places])

    train(supernet, batches, probe_batch, chosen, settings, path, watcher, costs=costs)
    return supernet


def accuracies(
    supernet: Supernet, architectures: tuple[Architecture, ...], problem: Problem, test_images: int
) -> list[float]:
    """Of each architecture on test images, in percent, with batch-norm statistics of its own."""
    splits = splits_of(problem)
    test = splits.read_test("benchmarks/samplers.py compares samplers, not architectures")
    calibration = normalize(splits.calibration.images[:CALIBRATION_IMAGES], splits.mean, splits.std)
    images = normalize(test.images[:test_images], splits.mean, splits.std)
    labels = torch.from_numpy(test.labels[:test_images])
    found = []
    for architecture in architectures:
        subnet = channels_last(supernet.export(architecture)).eval()
        found.append(accuracy_of(channels_last(merged(recalibrate(subnet, calibration))), images, labels))
    return found


# -- the pilot ---------------------------------------------------------------------------------


def pilot(folder: Path, problem: Problem) -> None:
    """Processor seconds and MACs per image of a step of each sampler, from short trainings in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    macs: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for number in range(PILOT_ROUNDS):
        for name, sampler in SAMPLERS.items():
            if name.startswith("shift"):
                sampler = {**({"name": sampler} if isinstance(sampler, str) else sampler), "warmup": 0.0}
            trained = timed(partial(train_supernet, space_of(problem), sampler, PILOT_STEPS, number, problem))
            seconds[name].append(trained.seconds / PILOT_STEPS)
            macs[name].append(trained.macs / PILOT_STEPS)
            print(f"{number} {name}: {1000 * seconds[name][-1]:.0f} ms, {macs[name][-1] / 1e6:.2f} MMACs")
    steps = {
        name: {"seconds": float(np.median(seconds[name])), "macs": float(np.mean(macs[name]))}
        for name in SAMPLERS
    }
    _write(folder / "pilot.json", {"machine": machine(), "steps": steps, "seconds": seconds})


@dataclass
class Timed:
    """A trained supernet with what its steps took: processor time and MACs per image, all steps added."""

    supernet: Supernet
    seconds: float
    macs: float
    loss: float


def timed(training: Callable[..., Supernet]) -> Timed:
    """Carry out a training. Its time begins after the first step, which prepares, and is scaled to all."""
    at, points = [], []

    def stop() -> bool:
        at.append(time.process_time())
        return False

    with tempfile.TemporaryDirectory() as scratch:
        watcher = Watcher(point=lambda step, values: points.append((step, values)), stop=stop)
        supernet = training(watcher, Path(scratch) / "supernet.safetensors")
    spans = np.diff([0, *(step for step, _ in points)])
    macs = float(sum(span * values["macs"] for span, (_, values) in zip(spans, points, strict=True)))
    return Timed(supernet, (at[-1] - at[0]) * len(at) / (len(at) - 1), macs, points[-1][1]["loss"])


# -- trainings ---------------------------------------------------------------------------------


def jobs(
    folder: Path, steps: int, seeds: int, samplers: list[str], equals: list[str]
) -> Iterator[tuple[str, str, int, int]]:
    """(sampler, what is equal, steps, seed) of every training."""
    cost = json.loads((folder / "pilot.json").read_text())["steps"] if set(equals) - {"steps"} else {}
    for seed in range(seeds):
        for name in samplers:
            for equal in equals if name != "uniform" else EQUAL[:1]:
                ratio = 1.0 if equal == "steps" else cost["uniform"][equal] / cost[name][equal]
                yield name, equal, max(1, round(steps * ratio)), seed


def train_one(
    folder: Path, problem: Problem, test_images: int, name: str, equal: str, steps: int, seed: int
) -> str:
    torch.set_num_threads(1)
    trained = timed(partial(train_supernet, space_of(problem), SAMPLERS[name], steps, seed, problem))
    found = accuracies(trained.supernet, subnets(problem), problem, test_images)
    _write(
        _file(folder, name, equal, seed),
        {
            "machine": machine(),
            "steps": steps,
            "seconds": trained.seconds,
            "macs": trained.macs,
            "loss": trained.loss,
            "test_images": test_images,
            "accuracies": found,
        },
    )
    return f"{name}, equal {equal}, seed {seed}: {steps} steps, {trained.seconds:.0f} s, mean {np.mean(found):.2f} %"


def alone_one(folder: Path, problem: Problem, test_images: int, number: int, steps: int, seed: int) -> str:
    torch.set_num_threads(1)
    architecture = subnets(problem)[number]
    trained = timed(
        partial(train_supernet, only(space_of(problem), architecture), "uniform", steps, seed, problem)
    )
    [found] = accuracies(trained.supernet, (architecture,), problem, test_images)
    content = {
        "machine": machine(),
        "steps": steps,
        "seconds": trained.seconds,
        "test_images": test_images,
        "accuracy": found,
    }
    _write(_alone_file(folder, number, seed), content)
    return f"subnet {number} alone, seed {seed}: {trained.seconds:.0f} s, {found:.2f} %"


def in_parallel(work: Callable[..., str], todo: list[tuple], processes: int) -> None:
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for number, done in enumerate(as_completed([pool.submit(work, *one) for one in todo])):
            print(f"{number + 1}/{len(todo)} {done.result()}", flush=True)


# -- the table ---------------------------------------------------------------------------------


def table(folder: Path, problem: Problem, seeds: int) -> None:
    results = {
        (name, equal): found
        for name in SAMPLERS
        for equal in EQUAL
        if (found := _results(folder, name, "steps" if name == "uniform" else equal, seeds))
    }
    costs = table_of(problem).of(subnets(problem))[:, 0] / 1e6
    first = next(iter(results.values()))[0]
    print(f"{first['machine']}; {len(costs)} architectures, {first['test_images']} test images\n")
    print(f"Cheapest {costs[-2]:.2f}, dearest {costs[-1]:.2f} MMACs; bins up to {_bin_ends(costs)} MMACs.\n")
    measured = [equal for equal in EQUAL if any(name != "uniform" and one == equal for name, one in results)]
    for equal in measured:
        print(f"## At equal {EQUAL_WORDS[equal]}\n")
        _print_curves({name: found for (name, one), found in results.items() if one == equal})
    alone = _alone(folder, seeds)
    if alone is not None:
        for equal in measured:
            print(f"## Ranking, at equal {EQUAL_WORDS[equal]}\n")
            chosen = {name: found for (name, one), found in results.items() if one == equal}
            _print_ranking(chosen, alone, costs, subnets(problem))


EQUAL_WORDS = {"steps": "optimiser steps", "macs": "MACs trained", "seconds": "processor time"}


def _print_curves(results: dict[str, list[dict]]) -> None:
    bins = [f"bin {number + 1}" for number in range(BINS)]
    print(f"| sampler | steps | s | smallest | {' | '.join(bins)} | largest | mean − uniform (95 %) |")
    print("|---" * (BINS + 6) + "|")
    base = _by_place(results["uniform"]).mean(axis=1)
    for name, found in results.items():
        places = _by_place(found)
        difference = "" if name == "uniform" else interval(places.mean(axis=1) - base[: len(places)])
        row = " | ".join(f"{value:.1f}" for value in places.mean(axis=0))
        seconds = np.mean([one["seconds"] for one in found])
        print(f"| {name} | {found[0]['steps']} | {seconds:.0f} | {row} | {difference} |")
    print(
        f"\nThe two outermost bins and ends against uniform, means over {len(base)} seeds with 95 % intervals:\n"
    )
    print("| sampler | smallest | bin 1 | bin 8 | largest |\n|---|---|---|---|---|")
    reference = _by_place(results["uniform"])
    for name, found in results.items():
        if name != "uniform":
            places = _by_place(found)
            cells = [interval(places[:, at] - reference[: len(places), at]) for at in (0, 1, -2, -1)]
            print(f"| {name} | {' | '.join(cells)} |")
    print()


def _print_ranking(
    results: dict[str, list[dict]],
    alone: np.ndarray,
    costs: np.ndarray,
    architectures: Sequence[Architecture],
) -> None:
    """`corrected` compares any two by models of trainings alone that saw neither (nas.predictors.accuracy)."""
    truth, count = alone.mean(axis=0), BINS * PER_BIN
    print("| sampler | tau | corrected | tau within bins | gap to alone, bin 1 | bin 8 | all |")
    print("|---" * 7 + "|")

    def corrected(inherited: np.ndarray, supernet: bool = True) -> float:
        of = zip(architectures, costs * 1e6, inherited, truth, strict=False)
        landmarks = [Landmark(one.to_json(), *map(float, numbers)) for one, *numbers in of]
        weights = resamples(count, several=0)
        return mean_tau([(compared(landmarks, supernet), truth)], weights).value

    for name, found in results.items():
        each = np.array([one["accuracies"][:count] for one in found])
        tau = np.array([kendalltau(one, truth).statistic for one in each])
        inside = np.array([_within(one, truth) for one in each])
        gap = (truth - each).reshape(len(each), BINS, PER_BIN).mean(axis=2)
        mended = np.array([corrected(one) for one in each])
        cells = [tau, mended, inside, gap[:, 0], gap[:, -1], gap.mean(axis=1)]
        print(f"| {name} | {' | '.join(interval(cell, sign='') for cell in cells)} |")
    by_macs, within = kendalltau(costs[:count], truth).statistic, _within(costs, truth)
    without = corrected(np.full(count, 50.0), supernet=False)
    print(
        f"| MACs; corrected: MACs and operators alone | {by_macs:.2f} | {without:.2f} | {within:.2f} | | | |"
    )
    if len(alone) > 1:
        pairs = [(a, b) for a in range(len(alone)) for b in range(a)]
        ceiling = np.mean([kendalltau(alone[a], alone[b]).statistic for a, b in pairs])
        inside = np.mean([_within(alone[a], alone[b]) for a, b in pairs])
        print(f"| trained alone, another seed | {ceiling:.2f} | | {inside:.2f} | | | |")
    print()


def _within(estimated: np.ndarray, truth: np.ndarray) -> float:
    """Mean Kendall tau inside the bins."""
    pairs = zip(
        np.asarray(estimated)[: BINS * PER_BIN].reshape(BINS, -1), truth.reshape(BINS, -1), strict=True
    )
    return float(np.nanmean([kendalltau(one, other).statistic for one, other in pairs]))


def _by_place(found: list[dict]) -> np.ndarray:
    """(seeds, 10): the smallest, the mean of each bin, the largest."""
    each = np.array([one["accuracies"] for one in found])
    middle = each[:, : BINS * PER_BIN].reshape(len(each), BINS, PER_BIN).mean(axis=2)
    return np.column_stack([each[:, -2], middle, each[:, -1]])


def interval(values: np.ndarray, sign: str = "+") -> str:
    """Mean and half of a 95 % t interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:{sign}.2f}"
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{sign}.2f} ± {half:.2f}"


def _bin_ends(costs: np.ndarray) -> str:
    return ", ".join(f"{end:.2f}" for end in costs[: BINS * PER_BIN].reshape(BINS, -1).max(axis=1))


def _results(folder: Path, name: str, equal: str, seeds: int) -> list[dict]:
    files = [_file(folder, name, equal, seed) for seed in range(seeds)]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def _alone(folder: Path, seeds: int) -> np.ndarray | None:
    """(seeds, 32) accuracies of the subnets trained alone, of the seeds that are complete."""
    rows = []
    for seed in range(seeds):
        files = [_alone_file(folder, number, seed) for number in range(BINS * PER_BIN)]
        if all(file.is_file() for file in files):
            rows.append([json.loads(file.read_text())["accuracy"] for file in files])
    return np.array(rows) if rows else None


def _file(folder: Path, name: str, equal: str, seed: int) -> Path:
    return folder / f"{name.replace(', ', '_').replace(' ', '_')}-{equal}-{seed}.json"


def _alone_file(folder: Path, number: int, seed: int) -> Path:
    return folder / f"alone-{number}-{seed}.json"


def _write(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def machine() -> str:
    return f"{processor_name()}, one thread, torch {version('torch')}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("pilot", "train", "alone", "table"))
    parser.add_argument("--data", type=yaml.safe_load, default={"name": "fashion_mnist", "flip": True})
    parser.add_argument("--data-dir", help="directory of the data")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--space", choices=SKELETONS, default="widths")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--equal", nargs="+", choices=EQUAL, default=EQUAL)
    parser.add_argument("--test-images", type=int, default=2000)
    args = parser.parse_args()
    given = args.data | ({"directory": args.data_dir} if args.data_dir else {})
    problem = Problem(args.space, json.dumps(given))
    if args.command == "pilot":
        pilot(args.folder, problem)
    elif args.command == "train":
        todo = list(jobs(args.folder, args.steps, args.seeds, args.samplers, args.equal))
        todo = [one for one in todo if not _file(args.folder, one[0], one[1], one[3]).is_file()]
        in_parallel(partial(train_one, args.folder, problem, args.test_images), todo, args.processes)
    elif args.command == "alone":
        todo = [(number, args.steps, seed) for seed in range(args.seeds) for number in range(BINS * PER_BIN)]
        todo = [one for one in todo if not _alone_file(args.folder, one[0], one[2]).is_file()]
        in_parallel(partial(alone_one, args.folder, problem, args.test_images), todo, args.processes)
    else:
        table(args.folder, problem, args.seeds)
