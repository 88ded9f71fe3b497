"""One search for two devices or one for each: what share of each device's true hypervolume is found.

    python benchmarks/devices.py [--searchers nsga2 linas] [--budget 60] [--seeds 8]

The objectives are computed, so that both true fronts are known: synthetic. An error and a latency on each device are
sums over six decisions, and over pairs of them, with coefficients drawn at random; `alike` is how far those of the
second device are those of the first, 1 for the same device. Compared at an equal number of candidates: one search of
three objectives, a search for each device that takes turns with the other, and one for the first device alone.
"""

from __future__ import annotations

import argparse
import os
from itertools import combinations

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from nas.devices import Goals, goals_on
from nas.library import CategoricalSpace
from nas.objectives import measure_of
from nas.pareto import hypervolume, reference_point
from nas.pool import HerePool
from nas.search import Search, make_searcher, search
from nas.storage.records import Candidate, Objective
from nas.turns import Turns

DEVICES = ("server", "phone")
KEYS = tuple(f"latency_ms@{name}" for name in DEVICES)
DECISIONS, OPTIONS = 6, 5
GOALS = Goals((Objective("error", "error", "%", "minimize"), *(measure_of(key).objective for key in KEYS)))


class Problem:
    """Losses (n, 3) of encoded architectures (n, decisions): the error, and the latency on each device."""

    def __init__(self, alike: float, seed: int = 7):
        self.space = CategoricalSpace({f"edge {n}": list(range(OPTIONS)) for n in range(DECISIONS)})
        random = np.random.default_rng(seed)
        error, server, other = (_coefficients(random) for _ in range(3))
        phone = [alike * a + (1 - alike**2) ** 0.5 * b for a, b in zip(server, other, strict=True)]
        error = [e - s - p for e, s, p in zip(error, server, phone, strict=True)]  # what is fast errs more
        self.parts = error, server, phone
        every = np.stack(np.meshgrid(*[np.arange(OPTIONS)] * DECISIONS, indexing="ij"), -1)
        self.every = self.losses(every.reshape(-1, DECISIONS))

    def losses(self, options: np.ndarray) -> np.ndarray:
        return np.stack([_sum(part, options) for part in self.parts], axis=1)

    def evaluate(self, architecture) -> Candidate:
        options = np.array([self.space.encode(architecture)]) - 1
        values = dict(zip(("error", *KEYS), self.losses(options)[0].tolist(), strict=True))
        return Candidate(architecture.key, architecture.to_json(), values)

    def found(self, candidates: list[Candidate]) -> list[float]:
        """The share of the true hypervolume on each device, in percent."""
        shares = []
        for place, key in enumerate(KEYS, 1):
            truth = self.every[:, [0, place]]
            reference = reference_point(truth)
            mine = np.array([[one.values["error"], one.values[key]] for one in candidates])
            shares.append(100 * hypervolume(mine, reference) / hypervolume(truth, reference))
        return shares


def _coefficients(random: np.random.Generator) -> list[np.ndarray]:
    pairs = len(list(combinations(range(DECISIONS), 2)))
    return [
        random.standard_normal((DECISIONS, OPTIONS)),
        random.standard_normal((pairs, OPTIONS, OPTIONS)) / 4,
    ]


def _sum(part: list[np.ndarray], options: np.ndarray) -> np.ndarray:
    alone, together = part
    total = sum(alone[n][options[:, n]] for n in range(DECISIONS))
    pairs = combinations(range(DECISIONS), 2)
    return total + sum(
        table[options[:, a], options[:, b]] for table, (a, b) in zip(together, pairs, strict=True)
    )


class Memory:
    """Candidates of one search in a list."""

    def __init__(self):
        self.kept: list[Candidate] = []

    def candidates(self, run: str) -> list[Candidate]:
        return list(self.kept)

    def add_candidate(self, run: str, candidate: Candidate) -> Candidate:
        self.kept.append(candidate)
        return candidate


def searched(problem: Problem, how: str, searcher: str, budget: int, seed: int) -> list[float]:
    settings, memory = Search(budget=budget, searcher=searcher, seed=seed), Memory()

    def of(device: str, place: int):
        own = goals_on(device, GOALS)
        return make_searcher(Search(searcher=searcher, seed=seed + 1000 * place), problem.space, 2), own

    asked = {
        "one search": lambda: make_searcher(settings, problem.space, 3),
        "one for each": lambda: Turns([of(name, place) for place, name in enumerate(DEVICES)]),
        "for the first alone": lambda: Turns([of(DEVICES[0], 0)]),
    }[how]()
    search("run", asked, HerePool(problem.evaluate), memory, GOALS.objectives, (), settings)
    return problem.found(memory.kept)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--searchers", nargs="+", default=["nsga2", "linas"])
    options.add_argument("--budget", type=int, default=60)
    options.add_argument("--seeds", type=int, default=8)
    args = options.parse_args()
    print("| searcher | alike | search | first device (%) | second device (%) |\n|---|---|---|---|---|")
    for searcher in args.searchers:
        for alike in (0.95, 0.5):
            problem = Problem(alike)
            for how in ("one search", "one for each", "for the first alone"):
                shares = np.array(
                    [searched(problem, how, searcher, args.budget, seed) for seed in range(args.seeds)]
                )
                mean, error = shares.mean(axis=0), shares.std(axis=0, ddof=1) / args.seeds**0.5
                told = " | ".join(f"{m:.1f} ± {e:.1f}" for m, e in zip(mean, error, strict=True))
                print(f"| {searcher} | {alike} | {how} | {told} |", flush=True)


if __name__ == "__main__":
    main()
