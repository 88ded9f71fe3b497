"""How many true latency measurements of 30-block networks an hour holds, and what cheaper stand-ins are worth.

    python benchmarks/throughput.py measure --file OUT.jsonl [--architectures 40]
    python benchmarks/throughput.py table --file OUT.jsonl

Subnets of the preset `mobile` with ten blocks in each of its three stages, for 3×32×32 images, untrained, drawn with
one seed. For eight at a time, in an order of chance: from the supernet to the records of their latencies by graphs that
are written directly, measured in turns, until the interval is within 3 % and never early (the default); as by default
but each by itself; by `torch.onnx.export`, within 3 %; and of the eager networks. The default stands for the deployed
runtime; only the first eight go through `torch.onnx.export`, which takes longer than all the rest. Results are lines
of JSON, one for each eight: what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from nas.hardware import device
from nas.hardware.timing import TURNS, processor_name
from nas.storage.records import Latency
from search_spaces import SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS

SHAPE, BLOCKS = (3, 32, 32), 10  # blocks of each stage
HOUR = 3600
DEPLOYED, BY_TORCH, ALONE = "in turns (the default)", "by torch.onnx.export, within 3 %", "each by itself"
WAYS = {
    "in turns, within 3 %": {"name": "onnxruntime-cpu", "interval": 0.03},
    DEPLOYED: {"name": "onnxruntime-cpu"},
    ALONE: {"name": "onnxruntime-cpu"},
    BY_TORCH: {"name": "onnxruntime-cpu", "interval": 0.03},
    "eager, within 3 %": {"name": "torch-cpu", "interval": 0.03},
}
STEPS = ("subnet", "graph", "session")


def deep_space() -> SearchSpace:
    skeleton = read_skeleton("mobile")
    skeleton["stages"] = [stage | {"depth": [BLOCKS]} for stage in skeleton["stages"]]
    return unroll(skeleton, OPERATORS, ATTENTIONS, SHAPE, 10)


def measure(file: Path, architectures: int) -> None:
    """Measure what the file does not hold yet."""
    import torch

    from nas.export.onnx_graph import onnx_of
    from supernets.merging import deployed
    from supernets.spatial import channels_last
    from supernets.supernet import make_supernet

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space, random = deep_space(), Random(0)
    supernet = make_supernet(space).eval()
    drawn = [space.sample(random) for _ in range(architectures)]
    devices = {way: device(section) for way, section in WAYS.items()}

    def subnet_of(architecture):
        return channels_last(deployed(supernet.export(architecture).eval()))

    def measured(way: str, architectures: Sequence) -> list[Latency]:
        networks = ((subnet_of(one), SHAPE) for one in architectures)
        if way == BY_TORCH:
            return list(devices[way].measure_onnx((by_torch(subnet), shape) for subnet, shape in networks))
        if way == ALONE:
            return [devices[way].measure(*network) for network in networks]
        return list(devices[way].measure_all(networks))

    def step_seconds(architecture) -> list[float]:
        """Of what comes before the timing, once more by itself."""
        _, exporting, subnet = spent(lambda: subnet_of(architecture))
        _, writing, model = spent(lambda: onnx_of(subnet, SHAPE))
        _, loading, _ = spent(lambda: devices[DEPLOYED].load_onnx(model, SHAPE))
        return [exporting, writing, loading]

    known = read(file)
    for way in (DEPLOYED, "eager, within 3 %"):
        measured(way, drawn[:1])  # imports, the reference network
    by_torch(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval())
    with file.open("a", encoding="utf-8") as lines:
        for number in range(len(known), architectures // TURNS):
            some = drawn[number * TURNS : (number + 1) * TURNS]
            order = [way for way in WAYS if not number or way != BY_TORCH]
            Random(number).shuffle(order)
            row: dict[str, Any] = {"steps": [step_seconds(one) for one in some]}
            for way in order:
                wall, processor, records = spent(partial(measured, way, some))
                row[way] = [
                    {
                        "wall": wall / len(some),
                        "processor": processor / len(some),
                        "median_ms": record.median_ms,
                        "within": beyond(record),
                        "runs": len(record.samples_ms),
                        "attempts": record.attempts,
                        "contended": record.contended,
                        "load": record.load,
                    }
                    for record in records
                ]
            print(json.dumps(row), file=lines, flush=True)


def by_torch(subnet) -> bytes:
    import torch

    program = torch.onnx.export(
        subnet,
        (torch.zeros(2, *SHAPE),),
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    return program.model_proto.SerializeToString()


def spent(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of wall clock, of processor time of all threads, and what the work gives."""
    wall, processor = time.perf_counter(), time.process_time()
    given = work()
    return time.perf_counter() - wall, time.process_time() - processor, given


def beyond(record: Latency) -> float:
    """How far the interval reaches from the median, as a share."""
    low, high = record.interval_ms
    return max(record.median_ms - low, high - record.median_ms) / record.median_ms


def read(file: Path) -> list[dict[str, Any]]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


# -- the table ---------------------------------------------------------------------------------


def table(file: Path) -> None:
    from scipy.stats import kendalltau, spearmanr

    rows = read(file)
    measured = {way: [one for row in rows for one in row.get(way, ())] for way in WAYS}
    columns = {
        way: {key: np.array([one[key] for one in several]) for key in several[0]}
        for way, several in measured.items()
    }
    times, load = columns[DEPLOYED]["median_ms"], columns[DEPLOYED]["load"]
    runtimes = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch", "onnx"))
    print(
        f"{processor_name()}, {runtimes}; {len(times)} architectures, {times.min():.2f} to {times.max():.2f} ms;"
    )
    print(f"load {load.min():.1f} to {load.max():.1f} on {os.cpu_count()} cores\n")
    print(
        "| | n | processor s | per hour of it | wall s | runs | attempts | disturbed | interval | within 3 % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for way, column in columns.items():
        mean = column["processor"].mean()
        print(
            f"| {way} | {len(measured[way])} | {mean:.2f} | {HOUR / mean:,.0f} | {column['wall'].mean():.2f} | "
            f"{np.median(column['runs']):.0f} | {column['attempts'].mean():.1f} | {column['contended'].mean():.0%} | "
            f"± {100 * np.median(column['within']):.1f} % | {np.mean(column['within'] <= 0.03):.0%} |"
        )
    print("\nMeans; of runs and intervals, medians.\n")
    print(
        "| against the deployed runtime | n | Kendall | Spearman | its time over that |\n|---|---|---|---|---|"
    )
    for way, column in columns.items():
        if way != DEPLOYED:
            pair = column["median_ms"], times[: len(column["load"])]
            agreed = f"{kendalltau(*pair).statistic:.3f} | {spearmanr(*pair).statistic:.3f}"
            print(f"| {way} | {len(measured[way])} | {agreed} | {np.median(pair[0] / pair[1]):.2f} |")
    steps = np.array([one for row in rows for one in row["steps"]])
    print("\n| step of a direct measurement | processor ms (median) |\n|---|---|")
    for name, seconds in zip(STEPS, steps.T, strict=True):
        print(f"| {name} | {1e3 * np.median(seconds):.0f} |")
    before = steps.sum(1).mean()
    for way in list(WAYS)[:3]:
        print(
            f"| timing, {way} | {1e3 * (columns[way]['processor'].mean() - before):.0f} (mean, all attempts) |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--architectures", type=int, default=40)
    given = parser.parse_args()
    if given.what == "measure":
        measure(given.file, given.architectures)
    else:
        table(given.file)
