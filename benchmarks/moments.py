"""What the interval of a latency is worth in fresh processes: made in rounds that lie apart, and in one moment.

    python benchmarks/moments.py measure --file OUT.jsonl [--processes 24] [--busy 0]
    python benchmarks/moments.py table --file OUT.jsonl

Subnets of the presets `tiny`, `digits` and `mobile` (thirty blocks), untrained, drawn with one seed, on
onnxruntime-cpu with one thread and default settings. Each fresh process measures each network by itself in rounds
and in one moment, and eight networks, these three and `mobile` five times more, in turns, in an order of chance. Busy
processes sum arrays that do not fit the second cache, all the while. Results are lines of JSON: what was interrupted
goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from nas.hardware import device
from nas.hardware.loaded import Loaded
from nas.hardware.rounds import time_runs
from nas.hardware.timing import TURNS, alone_on_this_host, measure, processor_name
from nas.storage.records import median_interval

SPACES = {"tiny": (1, 8, 8), "digits": (1, 8, 8), "mobile": (3, 32, 32)}
DEEP = {"mobile": 10}  # blocks of each stage, where it is not what the preset says
WAYS = ("in turns", "rounds", "one moment")
REST = 0.5  # seconds before each, so that the ways meet different moments
COLUMNS = (
    *("network", "way", "median ms", "spread of medians", "interval", "covers", "pairs overlap", "flagged"),
    *("unflagged pairs overlap", "within 3 %", "within 5 %", "attempts", "processor s", "wall s"),
)
BUSY = """
import numpy as np
one, other = np.ones(1_500_000), np.ones(1_500_000)
while True:
    one += other
"""


def write_models(folder: Path) -> None:
    """The networks, and the reference network, as ONNX."""
    import torch

    from nas.export.onnx_graph import onnx_of
    from nas.far import reference_model
    from search_spaces import read_skeleton, unroll
    from supernets.attention import ATTENTIONS
    from supernets.merging import deployed
    from supernets.operators import OPERATORS
    from supernets.spatial import channels_last
    from supernets.supernet import make_supernet

    torch.manual_seed(0)
    (folder / "reference.onnx").write_bytes(reference_model())
    for name, shape in SPACES.items():
        skeleton = read_skeleton(name)
        if name in DEEP:
            skeleton["stages"] = [stage | {"depth": [DEEP[name]]} for stage in skeleton["stages"]]
        space = unroll(skeleton, OPERATORS, ATTENTIONS, shape, 10)
        subnet = deployed(make_supernet(space).eval().export(space.sample(Random(0))).eval())
        (folder / f"{name}.onnx").write_bytes(onnx_of(channels_last(subnet), shape))


def one_process(folder: Path, number: int) -> None:
    """Measure every network every way, and print what came out."""
    from nas.hardware.runtime import REFERENCE_SHAPE

    there = device({"name": "onnxruntime-cpu"})
    reference = there.load_onnx((folder / "reference.onnx").read_bytes(), REFERENCE_SHAPE)

    def loaded(name: str) -> tuple[Loaded, tuple[int, ...]]:
        return there.load_onnx((folder / f"{name}.onnx").read_bytes(), SPACES[name]), SPACES[name]

    def found(way: str, names: list[str]) -> list[tuple[float, tuple[float, float], bool, int]]:
        networks = [loaded(name) for name in names]
        if way == "one moment":
            network, _ = networks[0]
            with alone_on_this_host():
                runs = time_runs(network.run, there, network.clock, rounds=1)
            median, interval = float(np.median(runs.samples_ms)), median_interval(np.array(runs.samples_ms))
            return [(median, interval, bool(runs.troubles), 1)]
        records = measure(there, networks, reference)
        return [(one.median_ms, one.interval_ms, one.contended, one.attempts) for one in records]

    together = [*SPACES, *["mobile"] * (TURNS - len(SPACES))]
    tasks = [("in turns", together)] + [(way, [name]) for way in WAYS[1:] for name in SPACES]
    Random(number).shuffle(tasks)
    told: dict[str, dict[str, object]] = {name: {} for name in SPACES}
    for way, names in tasks:
        time.sleep(REST)
        wall, processor = time.perf_counter(), time.process_time()
        records = found(way, names)
        spent = [
            one / len(names) for one in (time.perf_counter() - wall, time.process_time() - processor)
        ]  # with loading
        for name, record in zip(names[: len(SPACES)], records, strict=False):
            told[name][way] = [*record, *spent]
    print(json.dumps(told))


@contextmanager
def busy(processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def measure_all(file: Path, processes: int, others: int) -> None:
    """Fill the file up to as many processes, one after the other."""
    with TemporaryDirectory() as folder, busy(others), file.open("a", encoding="utf-8") as lines:
        write_models(Path(folder))
        for number in range(len(read(file)), processes):
            command = [sys.executable, __file__, "one", "--file", folder, "--processes", str(number)]
            print(subprocess.check_output(command, text=True), file=lines, end="", flush=True)


def read(file: Path) -> list[dict]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def table(file: Path) -> None:
    rows = read(file)
    print(f"{processor_name()}; {len(rows)} processes\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|" + "---|" * len(COLUMNS))
    for name in SPACES:
        truth = np.median([row[name][way][0] for row in rows for way in WAYS])
        for way in WAYS:
            medians, intervals, flagged, attempts, wall, processor = zip(
                *(row[name][way] for row in rows), strict=True
            )
            low, high = np.array(intervals).T
            pairs = list(combinations(range(len(rows)), 2))
            steady = [(one, other) for one, other in pairs if not (flagged[one] or flagged[other])]

            def overlap(pairs, low=low, high=high):
                return share([low[one] <= high[other] and low[other] <= high[one] for one, other in pairs])

            def within(limit, pairs, medians=medians):
                return share(
                    [abs(np.log(medians[one] / medians[other])) <= np.log(1 + limit) for one, other in pairs]
                )

            cells = [
                f"{truth:.3f}",
                f"{100 * np.std(np.log(medians)):.1f} %",
                f"± {100 * np.median((high - low) / 2 / medians):.1f} %",
                share((low <= truth) & (truth <= high)),
                overlap(pairs),
                share(flagged),
                f"{overlap(steady)} of {len(steady)}",
                within(0.03, steady),
                within(0.05, steady),
                f"{np.mean(attempts):.1f}",
                f"{np.mean(processor):.2f}",
                f"{np.mean(wall):.2f}",
            ]
            print(f"| {name} | {way} | " + " | ".join(cells) + " |")


def share(of) -> str:
    return f"{np.mean(of):.0%}" if len(of) else "-"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "table", "one"))
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=24)
    parser.add_argument("--busy", type=int, default=0)
    given = parser.parse_args()
    if given.what == "measure":
        measure_all(given.file, given.processes, given.busy)
    elif given.what == "one":
        one_process(given.file, given.processes)
    else:
        table(given.file)
