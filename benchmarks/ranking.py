"""What inherited accuracies are worth as a ranking, and what shares weights well: small networks on Fashion-MNIST.

    python benchmarks/ranking.py alone --space edge_cells --count 100 --steps 800 --data-dir DIR --folder OUT
    python benchmarks/ranking.py supernet --space edge_cells --steps 3000 --seed 0 --data-dir DIR --folder OUT
    python benchmarks/ranking.py table --space edge_cells --steps 800 --folder OUT
    python benchmarks/ranking.py sharing --steps 1000 --data-dir DIR

Images averaged to 14×14, batches of 64, one thread, the recipe's defaults, batch-norm statistics of its own for every
subnet, 10,000 test images. `alone` trains architectures that are drawn at random from the start, `supernet` all of
them together, `table` compares their rankings with what counting MACs and shorter trainings alone (`alone` with fewer
`--steps`) give, and with what they are worth when some trainings alone correct them. `sharing` trains supernets in
which only some decisions are left, each beside one network of them. Results are lines of JSON: what was interrupted
goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nas.data import Data, Splits, load
from nas.data.batches import Batches, normalize
from nas.data.images import Split
from nas.evaluation import label_cosines
from nas.memory import keep_freed_memory
from nas.predictors.accuracy import Landmark, compared
from nas.rank_statistics import Estimate, mean_tau, resamples, tau_difference
from search_spaces import NetworkArchitecture, NetworkSpace, only, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.cost import Costs, cost_table
from supernets.merging import merged
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.samplers import make_sampler
from supernets.spatial import channels_last
from supernets.supernet import make_supernet
from supernets.training import Watcher, train

BATCH, CALIBRATION_IMAGES, TEST_BATCH = 64, 1024, 500
COSINE = 2  # where the label cosine stands among a network's scores; files of before it have none
CHANCE = 11.0  # percent; a network without a path from input to output gets no more
FIRST_DRAW = {"edge_cells": 7, "menu": 0}  # the seed of the random architectures

STAGES = [{"width": [16], "depth": [2], "stride": 1}, {"width": [32], "depth": [2], "stride": 2}]
MENU = [
    {"depthwise": {"kernel_size": [3, 5]}},
    {"max_pool": {"kernel_size": [3]}},
    {"avg_pool": {"kernel_size": [3]}},
    "shift",
    "identity",
]
PLAIN = [{"depthwise": {"kernel_size": [3], "dilation": [1]}}]


def stages(operators: Sequence[Any], **more: Any) -> dict[str, Any]:
    return {
        "stem": {"width": 16, "stride": 2},
        "stages": STAGES,
        "operators": operators,
        "expansion": 4,
    } | more


SPACES: dict[str, Mapping[str, Any]] = {
    "edge_cells": {"edge_cells": {"filters": 8, "repeats": 1}},
    "menu": stages(MENU, expansion=[2, 4], attention=["none", "se"]),
}
SHARING: dict[str, Mapping[str, Any]] = {  # in words, what may differ
    "nothing": stages(PLAIN),
    "attention, none or se": stages(PLAIN, attention=["none", "se"]),
    "expansion, 2 or 4": stages(PLAIN, expansion=[2, 4]),
    "kernel, 3 or 5": stages([{"depthwise": {"kernel_size": [3, 5], "dilation": [1]}}]),
    "dilation, 1 or 2": stages([{"depthwise": {"kernel_size": [3], "dilation": [1, 2]}}]),
    "operator, depthwise or shift": stages([*PLAIN, "shift"]),
    "operator, depthwise or identity": stages([*PLAIN, "identity"]),
    "operator, all nine, in the two blocks of the first stage": stages(
        PLAIN, stages=[STAGES[0] | {"operators": MENU}, STAGES[1]]
    ),
    "operator, all nine, in the two blocks of the second stage": stages(
        PLAIN, stages=[STAGES[0], STAGES[1] | {"operators": MENU}]
    ),
    "operator, all nine, in all four blocks": stages(MENU),
}


def space_of(skeleton: Mapping[str, Any]) -> NetworkSpace:
    return unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (1, 14, 14), 10)


def drawn(name: str, count: int) -> list[NetworkArchitecture]:
    """The same first ones, however many; one may come twice."""
    space, random = space_of(SPACES[name]), Random(FIRST_DRAW[name])
    return [space.sample(random) for _ in range(count)]


@cache
def data(directory: str) -> tuple[Splits, torch.Tensor, torch.Tensor]:
    """Training data, test images and labels, all at 14×14; normalised as at 28×28."""
    splits = load(Data("fashion_mnist", directory, flip=True))
    test = halved(splits.read_test("benchmarks/ranking.py compares supernets, not architectures"))
    parts = {name: halved(getattr(splits, name)) for name in ("train", "calibration", "validation")}
    small = replace(splits, **parts)
    return small, normalize(test.images, splits.mean, splits.std), torch.from_numpy(test.labels)


def halved(part: Split) -> Split:
    count, channels, height, width = part.images.shape
    squares = part.images.reshape(count, channels, height // 2, 2, width // 2, 2)
    return replace(part, images=np.rint(squares.mean(axis=(3, 5))).astype(part.images.dtype))


def trained(
    space: NetworkSpace, sampler: str | Mapping[str, Any], steps: int, seed: int, directory: str
) -> tuple[nn.Module, float]:
    """A supernet, or the network of a space of one, and the processor seconds that it took."""
    splits, _, _ = data(directory)
    batches = Batches(splits.train, splits.mean, splits.std, BATCH, seed, flip=True)
    epochs = steps / batches.steps_per_epoch()
    settings = Training(epochs=epochs, batch_size=BATCH, seed=seed, checkpoint_every=10**9)
    supernet, costs = channels_last(make_supernet(space, seed)), Costs(cost_table(space))

    def probe_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = np.random.default_rng([seed, number]).choice(len(splits.validation), 256, replace=False)
        images = normalize(splits.validation.images[chosen], splits.mean, splits.std)
        return images, torch.from_numpy(splits.validation.labels[chosen])

    chosen, begun = make_sampler(sampler, space, costs, steps), time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "supernet.safetensors"
        train(supernet, batches, probe_batch, chosen, settings, path, Watcher(), costs=costs)
    return supernet, time.process_time() - begun


@torch.no_grad()
def scores(
    supernet: nn.Module, architectures: Sequence[NetworkArchitecture], directory: str
) -> list[tuple[float, float, float]]:
    """(accuracy in percent, cross entropy, label cosine in percent) of each on test images."""
    splits, images, labels = data(directory)
    calibration = normalize(splits.calibration.images[:CALIBRATION_IMAGES], splits.mean, splits.std)
    found = []
    for architecture in architectures:
        subnet = channels_last(supernet.export(architecture)).eval()
        subnet = channels_last(merged(recalibrate(subnet, calibration)))
        logits = torch.cat([subnet(part) for part in images.split(TEST_BATCH)])
        right = (logits.argmax(dim=1) == labels).float().mean()
        cosine = label_cosines(logits, labels).mean()
        found.append((100 * float(right), float(F.cross_entropy(logits, labels)), 100 * float(cosine)))
    return found


def alone(name: str, count: int, steps: int, seed: int, directory: str, folder: Path) -> None:
    space, path = space_of(SPACES[name]), folder / f"alone-{steps}.jsonl"
    costs = cost_table(space)
    known = {(number, before) for number, before, *_ in read(path)}
    for number, architecture in enumerate(drawn(name, count)):
        if (number, seed) in known:
            continue
        network, seconds = trained(only(space, architecture), "uniform", steps, seed, directory)
        [(accuracy, loss, _)] = scores(network, [architecture], directory)
        macs = float(costs.of([architecture])[0, 0])
        with path.open("a") as file:
            print(json.dumps([number, seed, macs, accuracy, loss, seconds]), file=file)
        print(f"{number}, seed {seed}: {accuracy:.2f} % after {seconds:.0f} s; {architecture}", flush=True)


def supernet(
    name: str,
    sampler: str | Mapping[str, Any],
    count: int,
    steps: int,
    seed: int,
    directory: str,
    folder: Path,
) -> None:
    space = space_of(SPACES[name])
    network, seconds = trained(space, sampler, steps, seed, directory)
    found = scores(network, drawn(name, count), directory)
    named = sampler if isinstance(sampler, str) else sampler["name"]
    path = folder / f"super-{named}-{steps}-{seed}.json"
    path.write_text(json.dumps({"sec": seconds, "scores": found}))
    print(f"{path.name}: mean {np.mean([accuracy for accuracy, *_ in found]):.2f} % after {seconds:.0f} s")


def table(folder: Path, steps: int) -> None:
    """Rankings against the trainings alone of so many steps, all networks and those that learned anything."""
    rows = by_number(read(folder / f"alone-{steps}.jsonl"))
    numbers = np.array(sorted(rows))
    truth = np.array([np.mean([accuracy for _, accuracy, _, _ in rows[one]]) for one in numbers])
    macs = np.array([rows[one][0][0] for one in numbers])
    learned = truth > CHANCE
    seconds = np.mean([row[3] for one in numbers for row in rows[one]])
    print(f"{len(numbers)} architectures, {seconds:.0f} s each alone, {learned.sum()} with a path; of these:")
    print(f"accuracy alone {truth[learned].mean():.2f} ± {truth[learned].std():.2f} %\n")
    print("| ranked by | s | accuracy | τ, all | τ, with a path | less that of MACs | τ of the loss |")
    print("|---|---|---|---|---|---|---|")
    print(f"| MACs | 0 | | {said(macs, truth)} | {said(macs[learned], truth[learned])} | | |")
    others = [path for path in sorted(folder.glob("alone-*.jsonl")) if path.stem != f"alone-{steps}"]
    for path in others:
        short = by_number(read(path))
        if set(numbers) <= set(short):
            found = np.array([short[one][0][1:] for one in numbers])
            print_row(
                f"{path.stem.partition('-')[2]} steps alone, each", found[:, 2].mean(), found, truth, macs
            )
    for path in sorted(folder.glob("super-*.json")):
        content = json.loads(path.read_text())
        if len(content["scores"]) > numbers.max():
            found = np.array([content["scores"][one] for one in numbers])
            print_row(path.stem.removeprefix("super-"), content["sec"], found, truth, macs)
    print("\n| label cosine, from | τ, all | τ, with a path | less that of MACs | less that of accuracy |")
    print("|---|---|---|---|---|")
    for path in sorted(folder.glob("super-*.json")):
        scores = json.loads(path.read_text())["scores"]
        if len(scores) > numbers.max() and len(scores[0]) > COSINE:
            found = np.array([scores[one] for one in numbers])
            print_cosine(path.stem.removeprefix("super-"), found, truth, macs)


def corrected(name: str, folder: Path, steps: int) -> None:
    """What trainings alone of so many steps of some architectures say of the others, with and without a supernet."""
    rows = by_number(read(folder / f"alone-{steps}.jsonl"))
    numbers = sorted(rows)
    architectures = drawn(name, numbers[-1] + 1)
    truth = np.array([np.mean([accuracy for _, accuracy, _, _ in rows[one]]) for one in numbers])
    weights = resamples(len(numbers))
    print(f"\n{len(numbers)} architectures, any two compared by models of four fifths that saw neither:\n")
    print(
        "| inherited from | τ, corrected | less inherited | less MACs | τ of MACs and operators alone | less that |"
    )
    print("|---|---|---|---|---|---|")
    for path in sorted(folder.glob("super-*.json")):
        scores = json.loads(path.read_text())["scores"]
        if len(scores) <= numbers[-1]:
            continue
        landmarks = [
            Landmark(architectures[one].to_json(), rows[one][0][0], scores[one][0], alone)
            for one, alone in zip(numbers, truth, strict=True)
        ]
        inherited, macs = (np.array([getattr(one, of) for one in landmarks]) for of in ("inherited", "macs"))
        found, without = compared(landmarks), compared(landmarks, supernet=False)
        over = [
            tau_difference([(found, truth)], [(one, truth)], weights) for one in (inherited, macs, without)
        ]
        plain = [mean_tau([(one, truth)], weights) for one in (found, without)]
        cells = [in_words(plain[0]), *(in_words(one, "+.2f") for one in over[:2]), in_words(plain[1])]
        print(f"| {path.stem.removeprefix('super-')} | {' | '.join(cells)} | {in_words(over[2], '+.2f')} |")


def in_words(one: Estimate, digits: str = ".2f") -> str:
    return f"{one.value:{digits}} ({one.low:{digits}} to {one.high:{digits}})"


def print_row(name: str, seconds: float, found: np.ndarray, truth: np.ndarray, macs: np.ndarray) -> None:
    learned = truth > CHANCE
    accuracy, loss = found[:, 0], -found[:, 1]
    weights = resamples(int(learned.sum()))
    beyond = tau_difference([(accuracy[learned], truth[learned])], [(macs[learned], truth[learned])], weights)
    print(
        f"| {name} | {seconds:.0f} | {accuracy[learned].mean():.1f} | {said(accuracy, truth)} "
        f"| {said(accuracy[learned], truth[learned])} | {in_words(beyond, '+.2f')} "
        f"| {mean_tau([(loss[learned], truth[learned])], weights).value:.2f} |"
    )


def print_cosine(name: str, found: np.ndarray, truth: np.ndarray, macs: np.ndarray) -> None:
    learned = truth > CHANCE
    cosine, weights = found[:, COSINE], resamples(int(learned.sum()))
    over = [
        in_words(
            tau_difference([(cosine[learned], truth[learned])], [(one[learned], truth[learned])], weights),
            "+.2f",
        )
        for one in (macs, found[:, 0])
    ]
    print(
        f"| {name} | {said(cosine, truth)} | {said(cosine[learned], truth[learned])} | {' | '.join(over)} |"
    )


def said(estimated: np.ndarray, truth: np.ndarray) -> str:
    return in_words(mean_tau([(estimated, truth)], resamples(len(truth))))


def sharing(steps: int, seed: int, directory: str) -> None:
    """What is lost when only some decisions share weights, each option of them trained in turn."""
    print("| what differs | architectures | inherited, mean of 12 (least, most) | one of them alone | s |")
    print("|---|---|---|---|---|")
    for words, skeleton in SHARING.items():
        space, random = space_of(skeleton), Random(0)
        some = list(dict.fromkeys(space.sample(random) for _ in range(12)))
        network, seconds = trained(space, "uniform", steps, seed, directory)
        found = [accuracy for accuracy, *_ in scores(network, some, directory)]
        own, _ = trained(only(space, some[0]), "uniform", steps, seed, directory)
        [(single, *_)] = scores(own, some[:1], directory)
        spread = f"{np.mean(found):.1f} ({min(found):.1f}, {max(found):.1f})"
        print(f"| {words} | {space.size} | {spread} | {single:.1f} | {seconds:.0f} |", flush=True)


def sampler_of(given: str) -> str | dict[str, Any]:
    return json.loads(given) if given.startswith("{") else given


def read(path: Path) -> list[list[float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def by_number(rows: list[list[float]]) -> dict[int, list[list[float]]]:
    """(MACs, accuracy, loss, seconds) of every seed, by the architecture's number."""
    found: dict[int, list[list[float]]] = {}
    for number, _, *values in rows:
        found.setdefault(int(number), []).append(values)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("alone", "supernet", "table", "sharing"))
    parser.add_argument("--space", choices=SPACES, default="edge_cells")
    parser.add_argument("--data-dir")
    parser.add_argument("--folder", type=Path, default=Path("ranking"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sampler", type=sampler_of, default="uniform", help="a name, or JSON with its settings"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.command == "alone":
        alone(args.space, args.count, args.steps, args.seed, args.data_dir, args.folder)
    elif args.command == "supernet":
        supernet(args.space, args.sampler, args.count, args.steps, args.seed, args.data_dir, args.folder)
    elif args.command == "sharing":
        sharing(args.steps, args.seed, args.data_dir)
    else:
        table(args.folder, args.steps)
        corrected(args.space, args.folder, args.steps)
