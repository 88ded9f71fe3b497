"""How many evaluations a searcher needs: evaluations to 95 % and 99 % of the true hypervolume, and what is reached
at the end of the budget.

    python benchmarks/searchers.py run --folder OUT [--space categorical] [--searchers linas nsga2] [--seeds 10]
    python benchmarks/searchers.py table --folder OUT

The objectives are computed from the architecture, so that the true front is known: these are synthetic. An error
and a latency, each a sum over decisions and over pairs of decisions with coefficients drawn at random, fall and
rise with what is chosen; a measured latency has 3 % of noise, a measured error has a tenth of a point. The hypervolume
is that of the true values of all that was measured, over that of the true front; its reference is a tenth beyond the
ends of the true front. Results are files of JSON: what was interrupted goes on, and more seeds are added to what is
there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from nas.pareto import hypervolume, nondominated
from nas.search import Search, Searcher, make_searcher
from nas.searchers import SEARCHERS
from search_spaces import SearchSpace, read_skeleton, unroll
from search_spaces.categorical import CategoricalSpace
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS

BUDGET = 250
LATENCY_NOISE, ERROR_NOISE = 0.03, 0.1  # relative; in points
LEVELS = (0.95, 0.99)
COEFFICIENTS = 7  # the seed that they are drawn with


def categorical() -> CategoricalSpace:
    """Six decisions of five options each: 15,625 architectures."""
    return CategoricalSpace({f"edge {n}": ["none", "skip", "1x1", "3x3", "pool"] for n in range(6)})


def stages() -> SearchSpace:
    """Widths, depths, kernels and expansions of two stages."""
    skeleton = {
        **read_skeleton("digits"),
        "stages": [{"width": [8, 12, 16], "depth": [1, 2]}, {"width": [16, 24, 32], "depth": [1, 2]}],
        "operators": [{"depthwise": {"kernel_size": [3, 5]}}, "max_pool"],
        "expansion": [1, 2],
        "attention": ["none"],
    }
    return unroll(skeleton, OPERATORS, ATTENTIONS, (1, 8, 8), 10)


SPACES: dict[str, Callable] = {"categorical": categorical, "stages": stages}


@dataclass(frozen=True)
class Truth:
    """Every architecture's true error (%) and latency (ms)."""

    space: SearchSpace | CategoricalSpace
    points: dict[tuple[int, ...], np.ndarray]  # by vector, (2,)
    reference: np.ndarray  # a tenth beyond the ends of the true front
    whole: float  # hypervolume of the true front

    @classmethod
    def of(cls, space: SearchSpace | CategoricalSpace, vectors: np.ndarray, points: np.ndarray) -> Truth:
        """
        Args:
            vectors: (size, decisions), of every architecture.
            points: (size, 2).
        """
        front = points[nondominated(points)]
        reference = front.max(axis=0) + 0.1 * np.ptp(front, axis=0)
        by_vector = dict(zip(map(tuple, vectors.tolist()), points, strict=True))
        return cls(space, by_vector, reference, hypervolume(front, reference))

    def share(self, points: np.ndarray) -> float:
        return hypervolume(points, self.reference) / self.whole


@cache
def truth(name: str) -> Truth:
    space = SPACES[name]()
    vectors = everything(space)
    return Truth.of(space, vectors, objectives(space, vectors))


def everything(space: SearchSpace | CategoricalSpace) -> np.ndarray:
    """Every architecture, (size, decisions), by growing combinations decision by decision."""
    vectors = np.ones((1, len(space.decisions)), np.int64)
    for place, decision in enumerate(space.decisions):
        rows = [vectors.copy() for _ in decision.options]
        for option, row in enumerate(rows, 1):
            row[:, place] = option
        vectors = np.unique(space.canonical(np.concatenate(rows)), axis=0)
    assert len(vectors) == space.size
    return vectors


def objectives(space: SearchSpace | CategoricalSpace, vectors: np.ndarray) -> np.ndarray:
    """(n, 2): what is large is slow and good, with exceptions, and choices depend on each other."""
    random = np.random.default_rng(COEFFICIENTS)
    counts = [len(decision.options) for decision in space.decisions]
    importance = random.gamma(1.0, size=len(counts)) + 0.1
    size, worth = np.zeros(len(vectors)), np.zeros(len(vectors))
    chosen = []
    for place, count in enumerate(counts):
        grows = np.concatenate([[0.0], np.linspace(0.2, 1, count)])  # nothing for what is absent
        size += importance[place] * (grows + 0.25 * random.random(count + 1) * (grows > 0))[vectors[:, place]]
        worth += importance[place] * (grows**0.5 + 0.25 * random.normal(size=count + 1))[vectors[:, place]]
        chosen.append(random.normal(size=(count + 1, 4)))  # options that go together are near each other
    for a in range(len(counts)):
        for b in range(a):
            both = (chosen[a][vectors[:, a]] * chosen[b][vectors[:, b]]).sum(axis=1) / 2
            strength = 0.25 * np.sqrt(importance[a] * importance[b]) / np.sqrt(len(counts))
            worth += strength * both
            size *= 1 + 0.02 * np.tanh(both)
    worth = (worth - worth.mean()) / worth.std()
    return np.stack([5 + 20 / (1 + np.exp(1.2 * worth)), 0.2 + 0.4 * size], axis=1)


def run(name: str, searcher: str, seed: int, budget: int) -> dict:
    true, noise = truth(name), np.random.default_rng(1000 + seed)

    def measured(vector: tuple[int, ...]) -> tuple[float, float]:
        error, latency = true.points[vector]
        return error + ERROR_NOISE * noise.normal(), latency * np.exp(LATENCY_NOISE * noise.normal())

    asking = make_searcher(Search(searcher=searcher, seed=seed), true.space, 2)
    return {"space": name, "searcher": searcher, "seed": seed, **replay(true, asking, budget, measured)}


def replay(
    true: Truth, asking: Searcher, budget: int, measured: Callable[[tuple[int, ...]], Sequence[float]]
) -> dict:
    """A search that is answered by what is `measured` of encoded architectures.

    Returns:
        The share of the true hypervolume after each evaluation, and the seconds that all proposals took.
    """
    found, shares, seconds = np.empty((0, 2)), [], 0.0
    while len(shares) < budget:
        begun = time.process_time()
        asked = asking.ask(budget - len(shares))
        seconds += time.process_time() - begun
        if not asked:
            break
        for one in asked:
            vector = true.space.encode(one)
            found = np.concatenate([found, true.points[vector][None]])
            found = found[nondominated(found)]
            shares.append(true.share(found))
            asking.tell(one, measured(vector))
    return {"shares": shares, "seconds": seconds}


def evaluations_to(shares: list[float], level: float) -> float:
    """How many evaluations were needed; infinite if the level was not reached."""
    reached = np.flatnonzero(np.array(shares) >= level)
    return float(reached[0] + 1) if len(reached) else np.inf


def median_and_interval(values: list[float]) -> str:
    """The median and, by order statistics, an interval that holds that of the population 95 times of 100."""
    from scipy.stats import binom

    ordered, n = sorted(values), len(values)
    low = int(binom.ppf(0.025, n, 0.5))
    low = max(low - (binom.cdf(low - 1, n, 0.5) > 0.025), 1)
    shown = [
        f"{one:.3g}" if np.isfinite(one) else "-"
        for one in (_median(ordered), ordered[low - 1], ordered[n - low])
    ]
    return "{} [{}, {}]".format(*shown)


def _median(ordered: list[float]) -> float:
    middle = [ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]]
    return sum(middle) / 2


def table(folder: Path) -> None:
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for name in dict.fromkeys(one["space"] for one in results):
        print(f"\n{name}: {truth(name).space.size} architectures\n")
        show([one for one in results if one["space"] == name])


def show(results: list[dict]) -> None:
    """The table of what searchers came to on one space."""
    print("| searcher | runs | to 95 % | to 99 % | % at the end | s per run |\n|---|---|---|---|---|---|")
    found = {one["searcher"] for one in results}
    for searcher in [*SEARCHERS, *sorted(found - set(SEARCHERS))]:
        if runs := [one for one in results if one["searcher"] == searcher]:
            to = [
                median_and_interval([evaluations_to(one["shares"], level) for one in runs])
                for level in LEVELS
            ]
            end = median_and_interval([100 * one["shares"][-1] for one in runs])
            seconds = float(np.median([one["seconds"] for one in runs]))
            print(f"| {searcher} | {len(runs)} | {to[0]} | {to[1]} | {end} | {seconds:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--space", choices=SPACES, nargs="+", default=list(SPACES))
    parser.add_argument("--searchers", choices=SEARCHERS, nargs="+", default=list(SEARCHERS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=BUDGET)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.command == "table":
        return table(given.folder)
    for seed in range(given.seeds):
        for name in given.space:
            for searcher in given.searchers:
                path = given.folder / f"{name}-{searcher}-{seed}.json"
                if not path.exists():
                    path.write_text(json.dumps(run(name, searcher, seed, given.budget)))
                    print(path.stem, flush=True)


if __name__ == "__main__":
    main()
