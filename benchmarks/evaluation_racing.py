"""What does a race (`search.first_images`, nas/racing.py) save, on a trained supernet, and what does it cost a search?

    nas train EXPERIMENT.yaml --store STORE --runs RUNS
    python benchmarks/evaluation_racing.py RUN populations --store STORE [--generations 2 3] [--population 100]
    python benchmarks/evaluation_racing.py RUN searches --store STORE [--searcher nsga2 linas] [--budget 100]

`populations` are those of NSGA-II by accuracy and MACs. Portion by portion they are evaluated whole and in a race
against what was known before the generation, in turns; who comes through must have the same values to the last digit.
"Wrong" are those that were beaten in the race and would be on the front of what is known with their generation.

`searches` are carried out twice, whole and in a race, step by step in turns; that in a race goes on until the time of
the other is spent too. Shown is the hypervolume by
accuracy and MACs, as a share of that of all that was evaluated whole in any of the searches, after so many candidates
and after so much processor time: the time in which the search without a race came to these candidates.

Times are processor time of one thread. Latency, which a race does not shorten, is left out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from nas import config, pareto
from nas.data import load
from nas.devices import Goals
from nas.evaluation import BATCH, Bench, space_of
from nas.hardware.timing import processor_name
from nas.prefix_tree import path, portions
from nas.racing import Entrant, race_against
from nas.search import Search, make_searcher, tell
from nas.storage.records import Candidate
from nas.storage.store import Store
from nas.together import MEMORY, PORTION, evaluate_together, race_together
from search_spaces import Architecture, architecture_from_json


class Timed:
    """Evaluates, and says how much processor time that has taken."""

    def __init__(self, bench: Bench, goals: Goals, first: int | None):
        self.bench, self.goals, self.first = bench, goals, first
        self.seconds = 0.0

    def __call__(self, asked: Sequence[Architecture], told: Sequence[Candidate]) -> list[Candidate]:
        begun = time.process_time()
        if self.first is None:
            found = list(evaluate_together(self.bench, asked))
        else:
            race = race_against(self.first, self.goals, told)
            found = list(race_together(self.bench, [Entrant(one, race) for one in asked]))
        self.seconds += time.process_time() - begun
        return found


def bench_of(store: str, name: str) -> tuple[Bench, Goals]:
    with Store(store, create=False) as opened:
        run = opened.run(name)
    experiment = config.from_json(run.experiment)
    splits = load(experiment.data)
    bench = Bench(experiment, splits, space_of(experiment, splits), Path(run.folder) / "supernet.safetensors")
    return bench, Goals(run.objectives)


def looked_at(candidates: Sequence[Candidate]) -> float:
    """Which share of the images."""
    return float(np.mean([1 if one.scored is None else one.scored[0] / one.scored[1] for one in candidates]))


def cut(bench: Bench, asked: Sequence[Architecture]) -> Iterator[list[Architecture]]:
    paths = [path(bench.supernet, one) for one in asked]
    for numbers in portions(paths, PORTION, MEMORY // (4 * BATCH)):
        yield [asked[number] for number in numbers]


def populations(
    bench: Bench, goals: Goals, generations: Sequence[int], size: int, firsts: Sequence[int]
) -> None:
    searcher = make_searcher(Search(searcher={"name": "nsga2", "population": size}), bench.space, 2)
    ways = {None: Timed(bench, goals, None)} | {first: Timed(bench, goals, first) for first in firsts}
    told: list[Candidate] = []
    print("| generation | accuracies | first images | ms whole | ms raced | gain | images | beaten | wrong |")
    print("|" + "---|" * 9, flush=True)
    for generation in range(1, max(generations) + 1):
        asked = searcher.ask(size)
        found: dict[int | None, dict[str, Candidate]] = {way: {} for way in ways}
        before = {way: one.seconds for way, one in ways.items()}
        for some in cut(bench, asked):
            for way, timed in ways.items():
                if way is None or generation in generations:
                    found[way] |= {one.key: one for one in timed(some, told)}
        whole = [found[None][one.key] for one in asked]
        front = {one.key for one in pareto.front([*told, *whole], goals.objectives)}
        spread = "{:.1f} to {:.1f}".format(
            *np.percentile([one.values["accuracy"] for one in whole], [10, 90])
        )
        for first in firsts if generation in generations else ():
            raced = found[first]
            for one in whole:
                if raced[one.key].whole and raced[one.key].values != one.values:
                    raise SystemExit(f"{one.key}: {one.values} whole, {raced[one.key].values} in a race")
            beaten = {key for key, one in raced.items() if not one.whole}
            plain, own = (1000 * (ways[way].seconds - before[way]) / size for way in (None, first))
            cells = [generation, spread, first, f"{plain:.0f}", f"{own:.0f}", f"{plain / own:.2f}"]
            cells += [f"{looked_at(list(raced.values())):.2f}", len(beaten), len(beaten & front)]
            print("|", *(f"{one} |" for one in cells), flush=True)
        told += whole
        for one in asked:
            tell(searcher, one, found[None][one.key], goals.objectives, ())


def steps(
    bench: Bench, goals: Goals, searcher: str, seed: int, first: int | None
) -> Iterator[list[tuple[float, Candidate]]]:
    """A search, step by step: all its candidates so far, each with the processor time after which it was known."""
    asking, timed = (
        make_searcher(Search(searcher=searcher, seed=seed), bench.space, 2),
        Timed(bench, goals, first),
    )
    found: list[tuple[float, Candidate]] = []
    begun = 0.0
    while True:
        before = time.process_time()
        asked = asking.ask(bench.space.size)
        begun += time.process_time() - before
        several = {one.key: one for one in timed(asked, [one for _, one in found])}
        for one in asked:
            found.append((begun + timed.seconds, several[one.key]))
            tell(asking, one, several[one.key], goals.objectives, ())
        yield list(found)


def searches(
    bench: Bench, goals: Goals, searchers: Sequence[str], budget: int, seeds: Sequence[int], first: int
) -> None:
    found: dict[tuple, list[tuple[float, Candidate]]] = {}
    for searcher in searchers:
        for seed in seeds:
            whole, raced = (steps(bench, goals, searcher, seed, way) for way in (None, first))
            plain, own = next(whole), next(raced)
            while len(plain) < budget or len(own) < budget or own[-1][0] < plain[-1][0]:
                if len(plain) < budget and plain[-1][0] <= own[-1][0]:
                    plain = next(whole)
                else:
                    own = next(raced)
            found |= {(searcher, seed, None): plain[:budget], (searcher, seed, first): own}
            print(f"{searcher}, seed {seed} is through", flush=True)
    everything = [one for several in found.values() for _, one in several]
    known = {one.key: one for one in everything if one.whole}
    points = pareto.losses(pareto.front(everything, goals.objectives), goals.objectives)
    reference = pareto.reference_point(points)

    def share(candidates: Sequence[Candidate]) -> float:
        front = pareto.losses(pareto.front(candidates, goals.objectives), goals.objectives)
        return pareto.hypervolume(front, reference) / pareto.hypervolume(points, reference)

    at = [budget // 4, budget // 2, budget]
    print(
        "| searcher | seed | | images | beaten | wrong | CPU s | " + " | ".join(f"after {one}" for one in at),
        end=" | ",
    )
    print(" | ".join(f"in the time of {one}" for one in at) + " |\n|" + "---|" * (7 + 2 * len(at)))
    for (searcher, seed, way), several in found.items():
        candidates, plain = [one for _, one in several], found[searcher, seed, None]
        times = [plain[one - 1][0] for one in at]
        cells = [
            searcher,
            seed,
            "whole" if way is None else f"raced from {way} on",
            f"{looked_at(candidates):.2f}",
        ]
        beaten = [one for one in candidates if not one.whole]
        cells += [
            f"{len(beaten)} of {len(candidates)}",
            wrong(bench, goals, candidates, known),
            f"{several[-1][0]:.0f}",
        ]
        cells += [f"{share(candidates[:one]):.4f}" for one in at]
        cells += [f"{share([one for seconds, one in several if seconds <= most]):.4f}" for most in times]
        print("|", *(f"{one} |" for one in cells), flush=True)


def wrong(bench: Bench, goals: Goals, candidates: Sequence[Candidate], known: dict[str, Candidate]) -> int:
    """How many of the beaten would be on the front, were they whole; `known` by key are."""
    beaten = {one.key: one.architecture for one in candidates if not one.whole}
    left = [architecture_from_json(text) for key, text in beaten.items() if key not in known]
    known |= {one.key: one for one in evaluate_together(bench, left)}
    truth = [known.get(one.key, one) for one in candidates]
    return sum(one.key in beaten for one in pareto.front(truth, goals.objectives))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("what", choices=("populations", "searches"))
    parser.add_argument("--store", default="sqlite:///nas.db")
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--generations", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--first", type=int, nargs="+", default=[500], help="images of the first part")
    parser.add_argument("--searcher", nargs="+", default=["nsga2", "linas"])
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench, goals = bench_of(given.store, given.run)
    shape = bench.space.input_shape(bench.space.resolutions[0])
    numbers = len(bench.calibration_images(shape)), len(bench.validation_images(shape))
    print(f"{processor_name()}, torch {torch.__version__}; {given.run} at {shape[1]} pixels,")
    print(f"{numbers[0]} images to calibrate, {numbers[1]} to score\n")
    if given.what == "populations":
        populations(bench, goals, given.generations, given.population, given.first)
    else:
        searches(bench, goals, given.searcher, given.budget, given.seeds, given.first[0])


if __name__ == "__main__":
    main()
