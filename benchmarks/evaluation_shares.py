"""How much of the work of NSGA-II populations is the same for several architectures, and who could share it?

    python benchmarks/evaluation_shares.py [--preset digits] [--resolution 28] [--population 100]
        [--generations 1 10 20] [--workers 2]

Counted are MACs of the parts of blocks that `nas.prefix_tree` shares, of the populations of benchmarks/evaluation.py:
all that each architecture has, for each that is computed

    one tree        by the whole population as one tree
    portions        in the portions of `nas.together`
    workers         by so many workers, in their rounds (`workers.pool.ROUND`), as `nas.pool.shared_out` deals them
    kept for ever   by one tree, if every activation of every earlier generation were still there

Time follows MACs only where convolutions take it all, so these are bounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from evaluation import make_bench, populations
from torch import nn

from nas.evaluation import BATCH
from nas.pool import shared_out
from nas.prefix_tree import Part, path, portions
from nas.together import MEMORY, PORTION, beginning
from search_spaces import Architecture
from supernets.cost import count
from supernets.supernet import Supernet
from workers.pool import ROUND


class Work:
    """What the beginnings of architectures cost, each counted once."""

    def __init__(self, supernet: Supernet):
        self.supernet = supernet
        self.costs: dict[Hashable, int] = {}

    def of(self, architectures: Iterable[Architecture], before: set[Hashable] | None = None) -> int:
        """MACs of all parts that come after different beginnings, but for those in `before`; they are added to it."""
        seen, macs = set() if before is None else before, 0
        for one in architectures:
            beginning: Hashable = ()
            for part in path(self.supernet, one):
                beginning = hash((beginning, part.key, part.shape))
                if beginning not in seen:
                    seen.add(beginning)
                    macs += self._cost(part)
        return macs

    def _cost(self, part: Part) -> int:
        known = part.key, part.shape
        if known not in self.costs:
            self.costs[known] = int(count(nn.Sequential(part.make()), part.shape)[0])
        return self.costs[known]


def in_portions(supernet: Supernet, asked: Sequence[Architecture]) -> list[list[Architecture]]:
    paths = [path(supernet, one) for one in asked]
    return [[asked[number] for number in some] for some in portions(paths, PORTION, MEMORY // (4 * BATCH))]


def in_rounds(asked: Sequence[Architecture], workers: int) -> list[list[Architecture]]:
    size, alike = ROUND * workers, sorted(asked, key=beginning)
    rounds = [alike[start : start + size] for start in range(0, len(asked), size)]
    return [some for together in rounds for some in shared_out(together, workers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--resolution", type=int, help="pixels; by default those of the images, 8")
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--generations", type=int, nargs="+", default=[1, 10, 20])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(given.preset, given.resolution, 0, Path(folder))
    work, before = Work(bench.supernet), set()
    print(f"| {given.preset}, generation | one tree | portions | {given.workers} workers | kept for ever |")
    print("|---|---|---|---|---|")
    for number, asked in populations(bench.space, given.population, range(1, max(given.generations) + 1)):
        new = work.of(asked, before)
        if number in given.generations:
            everything = sum(work.of([one]) for one in asked)
            cuts = [[asked], in_portions(bench.supernet, asked), in_rounds(asked, given.workers)]
            computed = [sum(map(work.of, cut)) for cut in cuts] + [new]
            print(f"| {number} |", *(f"{everything / macs:.2f} |" for macs in computed), flush=True)


if __name__ == "__main__":
    main()
