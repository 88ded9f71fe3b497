"""How well the latency model predicts architectures that it has not seen, and what its own choice of measurements is
worth, beside the noise of measuring the same architectures again.

    python benchmarks/latency_model.py measure --space mobile --folder OUT [--budget 150] [--unseen 200]
    python benchmarks/latency_model.py table --folder OUT
    python benchmarks/latency_model.py synthetic

Subnets of a preset, untrained, on onnxruntime-cpu with one thread. In turns, so that drift of the machine hits all
alike: measurements that the model chooses, architectures drawn at random to compare with, and the unseen ones, drawn at
random too, each of which is measured again a turn later. Results are lines of JSON: what was interrupted goes on.
`synthetic` compares the two choices on made-up tables with boundary terms, where the truth is known.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from nas.predictors import LatencyModel, fit_latencies, fit_latency_model
from nas.predictors.latency import measurer
from nas.predictors.learning import BATCH, ENOUGH, Learner, reading
from search_spaces import CategoricalSpace, SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS
from supernets.samplers.cost_bins import uniform_vectors

SHAPES = {"mobile": (1, 28, 28), "digits": (1, 8, 8)}
DEVICE = {"name": "onnxruntime-cpu", "min_runs": 30, "max_runs": 200, "seconds": 0.08}
KINDS = ("chosen", "random", "unseen", "again")


def space_named(name: str) -> SearchSpace:
    return unroll(read_skeleton(name), OPERATORS, ATTENTIONS, SHAPES[name], 10)


def drawn(space: SearchSpace | CategoricalSpace, count: int, seed: int) -> list[tuple[int, ...]]:
    """Different encoded architectures, every decision drawn uniformly."""
    vectors = space.canonical(uniform_vectors(space, 2 * count, np.random.default_rng(seed)))
    return list(dict.fromkeys(map(tuple, vectors.tolist())))[:count]


def measure(name: str, folder: Path, budget: int, unseen: int) -> None:
    """Measure what the file of the space does not hold yet."""
    import torch

    torch.set_num_threads(1)
    space, path = space_named(name), folder / f"{name}.jsonl"
    both = drawn(space, unseen + budget, seed=1)
    tests, randoms = both[:unseen], both[unseen:]
    known = read(path)
    learner, measure_all = Learner(space, seed=0), measurer(space, DEVICE)
    turns = -(-budget // BATCH)
    per_turn = -(-unseen // turns)

    with path.open("a", encoding="utf-8") as file:

        def take(kind: str, vectors: Sequence[tuple[int, ...]]) -> list[tuple[float, float]]:
            unknown = [vector for vector in vectors if vector not in known[kind]]
            begun = time.monotonic()
            for vector, found in zip(unknown, measure_all(map(space.decode, unknown)), strict=True):
                record = found.latency
                milliseconds, deviation = reading(record)
                known[kind][vector] = milliseconds, deviation, record.contended
                fields = milliseconds, deviation, record.contended, time.monotonic() - begun
                print(json.dumps([kind, vector, *fields]), file=file, flush=True)
                begun = time.monotonic()
            return [known[kind][vector][:2] for vector in vectors]

        for turn in range(turns + 1):
            asked = learner.ask(budget, 0.0)
            for vector, found in zip(asked, take("chosen", asked), strict=True):
                learner.tell(vector, *found)
            take("random", randoms[turn * BATCH : (turn + 1) * BATCH])
            take("unseen", tests[turn * per_turn : (turn + 1) * per_turn])
            take("again", tests[max(turn - 1, 0) * per_turn : turn * per_turn])
            print(f"{name}: turn {turn + 1} of {turns + 1}", flush=True)


def read(path: Path) -> dict[str, dict[tuple[int, ...], tuple[float, float, bool]]]:
    """By kind and vector, in the order measured: milliseconds, their relative deviation, whether disturbed."""
    known: dict[str, dict] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        kind, vector, milliseconds, deviation, contended, _ = json.loads(line)
        known[kind][tuple(vector)] = milliseconds, deviation, contended
    return known


# -- the table ---------------------------------------------------------------------------------


def table(folder: Path) -> None:
    for path in sorted(folder.glob("*.jsonl")):
        if (known := read(path))["again"]:
            show(path.stem, known)


def show(name: str, known: dict) -> None:
    space = space_named(name)
    tests = [vector for vector in known["unseen"] if vector in known["again"]]
    first, again = (np.array([known[kind][vector][0] for vector in tests]) for kind in ("unseen", "again"))
    every = [one for kind in KINDS for one in known[kind].values()]
    disturbed = f"{np.mean([one[2] for one in every]):.0%} of {len(every)} measurements were disturbed"
    print(f"\n## {name}: {space.size:.2g} architectures, {first.min():.3g} to {first.max():.3g} ms\n")
    print(f"{len(tests)} unseen architectures, measured twice; {disturbed}.\n")
    print(
        "| predicted from | is compared with | Spearman | median error | 90th percentile | held out | pricing |"
    )
    print("|---|---|---|---|---|---|---|")
    print(f"| the second measurement | the first | {against(again, first)} | | |")
    for kind, label in (("chosen", "of its own choice"), ("random", "drawn at random")):
        rows = list(known[kind].items())
        for count in sorted({30, 60, 100, len(rows)} & set(range(len(rows) + 1))):
            model = fitted(space, rows[:count])
            held_out, priced = f"{100 * model.quality.relative_error:.1f} %", priced_in(model, space)
            compared = {"the first": first}
            compared |= {"the mean of both": np.sqrt(first * again)} if count == len(rows) else {}
            for what, times in compared.items():
                row = f"{count} {label} | {what} | {against(model(np.array(tests)), times)}"
                print(f"| {row} | {held_out} | {priced:.0f} ms |")
    ends = ended(space, known["chosen"])
    when = f"after {ends} measurements" if ends else "not before the budget is spent"
    print(f"\nIts own choice ends by itself, with {ENOUGH:.0%}, {when}.")


def fitted(space: SearchSpace, rows: list) -> LatencyModel:
    vectors, read_ = zip(*rows, strict=True)
    milliseconds, deviations, _ = zip(*read_, strict=True)
    return fit_latencies(space, np.array(vectors), milliseconds, deviations)


def against(predicted: np.ndarray, times: np.ndarray) -> str:
    from scipy.stats import spearmanr

    wrong = np.abs(predicted / times - 1)
    return (
        f"{spearmanr(predicted, times).statistic:.3f} | {100 * np.median(wrong):.1f} % | "
        f"{100 * np.percentile(wrong, 90):.0f} %"
    )


def priced_in(model: LatencyModel, space: SearchSpace) -> float:
    """Processor time of ten thousand architectures, the median of nine times, in ms."""
    vectors = uniform_vectors(space, 10_000, np.random.default_rng(0))

    def once(clock: Callable[[], float] = time.process_time) -> float:
        begun = clock()
        model(vectors)
        return 1e3 * (clock() - begun)

    return float(np.median([once() for _ in range(9)]))


def ended(space: SearchSpace, chosen: dict) -> int | None:
    """After how many measurements enough is known; None if the budget ends before, or the choice is another today."""
    learner = Learner(space, seed=0)
    for count in range(0, len(chosen), BATCH):
        asked = learner.ask(len(chosen))
        if not asked or not chosen.keys() >= set(asked):
            return None if asked else count
        for vector in asked:
            learner.tell(vector, *chosen[vector][:2])
    return None


# -- where the truth is known ------------------------------------------------------------------


def synthetic(seeds: int = 10) -> None:
    """Ten blocks of four operators, each with a latency, and one for each meeting of two neighbours; 1 % of noise."""
    space = CategoricalSpace({f"block {n}": ["3x3", "5x5", "pool", "skip"] for n in range(10)})
    unseen = drawn(space, 300, seed=1)
    print("| measurements | own choice, median error (mean of tables) | drawn at random | own is better in |")
    print("|---|---|---|---|")
    for budget in (40, 75, 110, 150):
        own, drawn_ = np.array([both_errors(space, np.array(unseen), budget, one) for one in range(seeds)]).T
        won = f"{(own < drawn_).sum()} of {seeds}"
        print(f"| {budget} | {100 * own.mean():.1f} % | {100 * drawn_.mean():.1f} % | {won} |", flush=True)


def both_errors(space: CategoricalSpace, unseen: np.ndarray, budget: int, seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    own, meeting = random.gamma(1.0, 1.0, (10, 5)), 0.3 * random.gamma(1.0, 1.0, (9, 5, 5))

    def latency(vectors: np.ndarray) -> np.ndarray:
        met = sum(meeting[n, vectors[:, n], vectors[:, n + 1]] for n in range(9))
        return 0.5 + met + sum(own[n, vectors[:, n]] for n in range(10))

    def measured(vectors: np.ndarray) -> np.ndarray:
        return latency(vectors) * np.exp(0.01 * random.normal(size=len(vectors)))

    def measure_one(one) -> float:
        return float(measured(np.array([space.encode(one)]))[0])

    vectors = np.array(drawn(space, budget, seed=100 + seed))
    models = (
        fit_latency_model(space, measure_one, budget, enough=0, seed=seed),
        fit_latencies(space, vectors, measured(vectors)),
    )
    return tuple(float(np.median(np.abs(model(unseen) / latency(unseen) - 1))) for model in models)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("measure", "table", "synthetic"))
    parser.add_argument("--folder", type=Path, default=Path("latency"))
    parser.add_argument("--space", choices=SHAPES, default="mobile")
    parser.add_argument("--budget", type=int, default=150)
    parser.add_argument("--unseen", type=int, default=200)
    given = parser.parse_args()
    if given.command == "synthetic":
        return synthetic()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.command == "table":
        return table(given.folder)
    return measure(given.space, given.folder, given.budget, given.unseen)


if __name__ == "__main__":
    main()
