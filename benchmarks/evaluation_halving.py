"""Would it pay to evaluate on a first part of the images, and go on with the promising alone (successive halving)?

    python benchmarks/evaluation_halving.py [--space stages] [--searcher nsga2] [--range 5 20]
        [--first 250 500 1000] [--keep 0.5 0.75] [--sure 2.33 3.29] [--seeds 20]

Searches of a space whose true objectives are known (benchmarks/searchers.py), their errors laid over so many
percentage points. What a first part of the search-validation images says is drawn as it would come: without
replacement, from as many right answers as there are on all of them. Of a batch of the searcher some are promoted to
all images; the others are told as the first part has them, and count for no front:

    rank    a share of the batch, by nondominated sorting
    sure    all but those that what is known dominates for certain, their accuracy taken so many deviations higher;
            asked again whenever the images have doubled: what `search.first_images` does (nas/racing.py)

An evaluation takes 1, of which the share `--scoring` grows with the images: the rest is calibration, latency, export.
Shown is the share of the true hypervolume, by what was evaluated on all images, after the same time: medians over
the seeds, and of how many a rule was better and worse than all images for all; and how many of a search would be on its
front, were they not left behind.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from searchers import SPACES, Truth, everything, truth

from nas.pareto import nondominated
from nas.racing import SURE, interval
from nas.search import Search, make_searcher

TIMES = (50, 100, 200)  # in evaluations on all images
BEST = 8.0  # % error

# from what is true of a batch, points (n, 2) of error and latency, and the front that is known: what is told of each,
# which share of the images each took, and who was evaluated on all
Rule = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]]


def laid_over(name: str, points: float) -> Truth:
    """The objectives of the space with errors from BEST on over so many percentage points."""
    known = truth(name)
    vectors = everything(known.space)
    values = np.array([known.points[tuple(row)] for row in vectors.tolist()])
    error = values[:, 0]
    values[:, 0] = BEST + points * (error - error.min()) / np.ptp(error)
    return Truth.of(known.space, vectors, values)


def whole(batch: np.ndarray, front: np.ndarray, random: np.random.Generator) -> tuple:
    return batch, np.ones(len(batch)), np.ones(len(batch), bool)


def by_rank(batch: np.ndarray, front: np.ndarray, random: np.random.Generator, images, first, keep) -> tuple:
    told = _seen(batch, _shuffled(batch, images, random), first)
    kept, left = np.zeros(len(batch), bool), np.arange(len(batch))
    wanted = int(np.ceil(keep * len(batch)))
    while kept.sum() < wanted:
        best = left[nondominated(told[left])]
        kept[random.permutation(best)[: max(0, wanted - kept.sum())]] = True
        left = np.setdiff1d(left, best)
    return np.where(kept[:, None], batch, told), np.where(kept, 1.0, first / images), kept


def unless_sure(
    batch: np.ndarray, front: np.ndarray, random: np.random.Generator, images, first, sure
) -> tuple:
    answers, seen = _shuffled(batch, images, random), first
    told, share, racing = batch.copy(), np.ones(len(batch)), np.ones(len(batch), bool)
    while seen < images:
        now = _seen(batch, answers, seen)
        for number in np.flatnonzero(racing):
            least, _ = interval(int(answers[number, :seen].sum()), seen, images, sure)
            if (front <= [least, batch[number, 1]]).all(axis=1).any():
                racing[number], told[number], share[number] = False, now[number], seen / images
        seen *= 2
    return told, share, racing


def _shuffled(batch: np.ndarray, images: int, random: np.random.Generator) -> np.ndarray:
    """Which images of each are wrong, (n, images), in an order of chance."""
    wrong = np.arange(images) < np.round(batch[:, :1] / 100 * images)
    return random.permuted(wrong, axis=1)


def _seen(batch: np.ndarray, wrong: np.ndarray, count: int) -> np.ndarray:
    return np.stack([100 * wrong[:, :count].mean(axis=1), batch[:, 1]], axis=1)


def replay(
    true: Truth, searcher: str, rule: Rule, seed: int, scoring: float
) -> tuple[list[float], float, int]:
    """The share of the true hypervolume at TIMES, and of the images that were looked at; how many were left behind that
    would be on the front."""
    random, asking = (
        np.random.default_rng(seed),
        make_searcher(Search(searcher=searcher, seed=seed), true.space, 2),
    )
    front, left, spent, at_times, shares = np.empty((0, 2)), np.empty((0, 2)), 0.0, {}, []
    while spent < TIMES[-1]:
        asked = asking.ask(2 * TIMES[-1])
        batch = np.array([true.points[true.space.encode(one)] for one in asked])
        told, share, kept = rule(batch, front, random)
        for one, losses, part, is_whole in zip(asked, told, share, kept, strict=True):
            spent += 1 - scoring * (1 - part)
            if is_whole:
                front = np.concatenate([front, losses[None]])
            asking.tell(one, losses.tolist())
            at_times |= {at: true.share(front) for at in TIMES if spent <= at}
        front = front[nondominated(front)]
        left = np.concatenate([left, batch[~kept]])
        shares += share.tolist()
    lost = nondominated(np.concatenate([front, left]))[len(front) :]
    return [at_times[at] for at in TIMES], float(np.mean(shares)), int(lost.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", choices=SPACES, default="stages")
    parser.add_argument("--searcher", default="nsga2")
    parser.add_argument(
        "--range", type=float, nargs="+", default=[5.0, 20.0], help="percentage points of accuracy"
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument(
        "--first", type=int, nargs="+", default=[250, 500, 1000], help="images of the first part"
    )
    parser.add_argument("--keep", type=float, nargs="*", default=[0.5, 0.75], help="shares by rank")
    parser.add_argument("--sure", type=float, nargs="+", default=[SURE], help="deviations")
    parser.add_argument("--scoring", type=float, default=0.6)
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    rules: dict[str, Rule] = {"all images": whole}
    for first in given.first:
        for keep in given.keep:
            rules[f"rank, {first} images, {keep:g}"] = partial(
                by_rank, images=given.images, first=first, keep=keep
            )
        for sure in given.sure:
            rules[f"sure, {first} images, {sure:g}"] = partial(
                unless_sure, images=given.images, first=first, sure=sure
            )
    print(
        "| range | rule | images | lost | "
        + " | ".join(f"after {at}" for at in TIMES)
        + " |\n|"
        + "---|" * (4 + len(TIMES))
    )
    for points in given.range:
        true, plain = laid_over(given.space, points), None
        for name, rule in rules.items():
            found = [replay(true, given.searcher, rule, seed, given.scoring) for seed in range(given.seeds)]
            shares = np.array([one[0] for one in found])  # (seeds, times)
            plain = shares if plain is None else plain
            cells = [_cell(shares[:, at], plain[:, at]) for at in range(len(TIMES))]
            used = np.mean([one[1] for one in found])
            lost = np.mean([one[2] for one in found])
            print(
                f"| {points:g} | {name} | {used:.2f} | {lost:.1f} |",
                *(f"{one} |" for one in cells),
                flush=True,
            )


def _cell(shares: Sequence[float], plain: Sequence[float]) -> str:
    better, worse = int(np.greater(shares, plain).sum()), int(np.less(shares, plain).sum())
    return f"{np.median(shares):.3f}" + (f" (+{better} −{worse})" if better or worse else "")


if __name__ == "__main__":
    main()
