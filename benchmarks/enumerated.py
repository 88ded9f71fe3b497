"""How many evaluations a searcher needs where every architecture is known: 6,400 of them, subnets of one supernet
trained on Fashion-MNIST, each evaluated and each timed.

    python benchmarks/enumerated.py measure --folder OUT
    python benchmarks/enumerated.py train --folder OUT --data DIR
    python benchmarks/enumerated.py evaluate --folder OUT --data DIR
    python benchmarks/enumerated.py replay --folder OUT [--noise] [--searchers linas nsga2] [--seeds 10] [--model 0 40]
    python benchmarks/enumerated.py table --folder OUT

`measure` times every architecture on onnxruntime-cpu, in an order of chance so that drift of the machine says
nothing about them, and then some a second time, to know how far two measurements are apart. `replay` lets searchers
search the table. They are told its numbers, or with `--noise` a latency such as a single measurement gives: off by
what the two measurements of an architecture, drawn at random, are apart, over the root of two. With `--model N` linas
screens by a latency model of N measurements of the model's own choice. Hypervolume is as in benchmarks/searchers.py,
that of the table's numbers. What was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from searchers import Truth, everything, replay, show

from nas import config
from nas.config import Experiment
from nas.pareto import nondominated
from nas.predictors import fit_latency_model
from nas.search import Search, make_searcher
from nas.searchers import SEARCHERS
from search_spaces import SearchSpace, architecture_from_json, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS

SKELETON = {
    "stem": {"width": 16, "stride": 2},
    "stages": [
        {"width": 16, "depth": 1, "stride": 1},
        {"width": [16, 32], "depth": [1, 2], "stride": 2},
        {"width": [32, 64], "depth": [1, 2], "stride": 1},
    ],
    "operators": [{"depthwise": {"kernel_size": [3, 5], "dilation": [1]}}],
    "expansion": [1, 4],
    "attention": ["none"],
}
DEVICE = {"name": "onnxruntime-cpu", "min_runs": 20, "max_runs": 200, "seconds": 0.02}
AGAIN = 400  # architectures that are timed a second time
BUDGET = 500


def space() -> SearchSpace:
    return unroll(SKELETON, OPERATORS, ATTENTIONS, (1, 28, 28), 10)


# -- the table ---------------------------------------------------------------------------------


def measure(folder: Path) -> None:
    """Time what is not in the file yet."""
    import torch

    from nas.predictors.latency import measurer

    torch.set_num_threads(1)
    among, path = space(), folder / "latency.jsonl"
    vectors, known = everything(among), {tuple(one[:2]) for one in read(path)}
    measure_all, begun = measurer(among, DEVICE), time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        for turn, count in enumerate((len(vectors), AGAIN)):
            order = np.random.default_rng(turn).permutation(len(vectors))[:count].tolist()
            left = [number for number in order if (turn, number) not in known]
            for number, found in zip(
                left, measure_all(among.decode(vectors[one].tolist()) for one in left), strict=True
            ):
                low, high = found.latency.interval_ms
                fields = found.latency.median_ms, low, high, found.latency.contended
                print(json.dumps([turn, number, *fields]), file=file, flush=True)
            print(f"turn {turn + 1} ends after {time.monotonic() - begun:.0f} s", flush=True)


def experiment(data: str | None) -> Experiment:
    return config.experiment(
        {
            "data": {"name": "fashion_mnist", "directory": data, "validation": 1500, "calibration": 256},
            "space": SKELETON,
            "training": {"epochs": 2, "sampler": "uniform", "batch_size": 64, "device": "cpu"},
            "objectives": ["accuracy", "latency"],
        }
    )


def train(folder: Path, data: str | None) -> None:
    from nas.data import load
    from nas.experiment import SUPERNET, training_parts
    from supernets.training import Watcher

    given = experiment(data)
    parts = training_parts(given, load(given.data), space())
    parts.train(folder / SUPERNET, Watcher(point=lambda step, values: print(step, values, flush=True)))


def evaluate(folder: Path, data: str | None) -> None:
    """Accuracy on search-validation images of what is not in the file yet."""
    from nas.data import load
    from nas.evaluation import Bench
    from nas.experiment import SUPERNET
    from nas.objectives import KEYS
    from nas.together import evaluate_together

    given, among, path = experiment(data), space(), folder / "accuracy.jsonl"
    bench = Bench(given, load(given.data), among, folder / SUPERNET)
    vectors, known = everything(among), {one[0] for one in read(path)}
    numbers = {among.decode(row.tolist()): number for number, row in enumerate(vectors)}
    left = [one for one, number in numbers.items() if number not in known]
    with path.open("a", encoding="utf-8") as file:
        for candidate in evaluate_together(bench, left, [KEYS["accuracy"]]):
            number = numbers[architecture_from_json(candidate.architecture)]
            print(json.dumps([number, candidate.values["accuracy"]]), file=file, flush=True)


def read(path: Path) -> list[list]:
    """Lines of JSON; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# -- the searches ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """What is known of every architecture.

    `apart` (n,) is by which factor a measurement of latency is off the true one, as logarithms.
    """

    truth: Truth
    apart: np.ndarray


def load_table(folder: Path) -> Table:
    """
    Raises:
        ValueError: something has not been measured yet.
    """
    among = space()
    vectors = everything(among)
    latencies, error = np.full((2, len(vectors)), np.nan), np.full(len(vectors), np.nan)
    for turn, number, median, *_ in read(folder / "latency.jsonl"):
        latencies[turn, number] = median
    for number, accuracy in read(folder / "accuracy.jsonl"):
        error[number] = 100 - accuracy
    lacking = np.isnan(latencies[0]).sum(), np.isnan(error).sum()
    if any(lacking):
        raise ValueError(
            f"{folder} lacks {lacking[0]} latencies and {lacking[1]} accuracies; measure, evaluate"
        )
    points = np.stack([error, latencies[0]], axis=1)
    again = np.isfinite(latencies[1])
    apart = np.log(latencies[0, again] / latencies[1, again]) / np.sqrt(2)
    return Table(Truth.of(among, vectors, points), np.concatenate([apart, -apart]))


def search_table(table: Table, searcher: str, seed: int, budget: int, noise: bool, model: int) -> dict:
    """What `searchers.replay` gives, and with how many measurements a model was fitted before."""
    truth, random = table.truth, np.random.default_rng(1000 + seed)

    def measured(vector: tuple[int, ...]) -> tuple[float, float]:
        error, latency = truth.points[vector]
        return error, latency * np.exp(random.choice(table.apart)) if noise else latency

    asking = make_searcher(Search(searcher=searcher, seed=seed), truth.space, 2)
    if model:
        known = fit_latency_model(
            truth.space, lambda one: measured(truth.space.encode(one))[1], model, enough=0, seed=seed
        )
        asking.know(1, known)
    return {"seed": seed, "before": model, **replay(truth, asking, budget, measured)}


def search_all(folder: Path, given: argparse.Namespace) -> None:
    table, version = load_table(folder), "noise" if given.noise else "exact"
    for seed in range(given.seeds):
        for searcher in given.searchers:
            for model in given.model if searcher == "linas" else [0]:
                name = f"{searcher}, model of {model}" if model else searcher
                path = folder / version / f"{name}, {seed}.json"
                path.parent.mkdir(exist_ok=True)
                if not path.exists():
                    found = search_table(table, searcher, seed, given.budget, given.noise, model)
                    path.write_text(json.dumps({"searcher": name, **found}))
                    print(version, path.stem, flush=True)


def show_all(folder: Path) -> None:
    table = load_table(folder)
    points = np.array(list(table.truth.points.values()))
    on_front = points[nondominated(points)]
    print(f"{len(points)} architectures, {len(on_front)} on the true front; the reference is")
    print("{:.2f} % error and {:.4f} ms".format(*table.truth.reference))
    for name, column, ends in (("error", 0, "{:.2f} to {:.2f} %"), ("latency", 1, "{:.4f} to {:.4f} ms")):
        whole, front = ([some[:, column].min(), some[:, column].max()] for some in (points, on_front))
        print(f"{name} {ends.format(*whole)}, on the front {ends.format(*front)}")
    print(f"a measurement of latency is off by {100 * np.median(np.abs(table.apart)):.1f} % (median)")
    for version in ("exact", "noise"):
        results = [json.loads(path.read_text()) for path in sorted((folder / version).glob("*.json"))]
        if results:
            print(f"\n{version}\n")
            show([again for one in results for again in counted(one)])


def counted(result: dict) -> list[dict]:
    """A search with a model also as if each measurement that the model was fitted to had been an evaluation."""
    if not (before := result["before"]):
        return [result]
    shares = ([0.0] * before + result["shares"])[: len(result["shares"])]
    return [result, {**result, "searcher": f"{result['searcher']}, these counted", "shares": shares}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["measure", "train", "evaluate", "replay", "table"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", help="where the files of Fashion-MNIST are; downloaded if left out")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--searchers", choices=SEARCHERS, nargs="+", default=list(SEARCHERS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--model", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    match given.command:
        case "measure":
            measure(given.folder)
        case "train":
            train(given.folder, given.data)
        case "evaluate":
            evaluate(given.folder, given.data)
        case "replay":
            search_all(given.folder, given)
        case "table":
            show_all(given.folder)


if __name__ == "__main__":
    main()
