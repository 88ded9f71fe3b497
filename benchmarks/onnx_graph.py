"""How long it takes to turn a subnet into an ONNX graph: directly, and by torch.onnx.export.

    python benchmarks/onnx_graph.py [ROUNDS]

Subnets of the preset `mobile` at 28 pixels, drawn with one seed; the two ways take turns. Processor time of
this process, in milliseconds.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from importlib.metadata import version
from random import Random

import numpy as np
import torch

from nas.export.onnx_graph import to_onnx
from nas.hardware.timing import processor_name
from search_spaces import read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS
from supernets.supernet import Supernet

SHAPE = (1, 28, 28)


def directly(subnet: torch.nn.Module) -> bytes:
    return to_onnx(subnet, SHAPE)


def by_torch(subnet: torch.nn.Module) -> bytes:
    program = torch.onnx.export(
        subnet,
        (torch.zeros(2, *SHAPE),),
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    return program.model_proto.SerializeToString()


def main(rounds: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    space = unroll(read_skeleton("mobile"), OPERATORS, ATTENTIONS, SHAPE, 10)
    supernet, random = Supernet(space).eval(), Random(0)
    times: dict[str, list[float]] = {"directly": [], "by torch.onnx.export": []}
    for number in range(rounds + 1):
        subnet = supernet.export(space.sample(random))
        for name, convert in zip(times, (directly, by_torch), strict=True):
            begun = time.process_time()
            convert(subnet)
            if number:  # the first round warms up
                times[name].append(1e3 * (time.process_time() - begun))
    fast, slow = (np.array(one) for one in times.values())
    print(
        f"{processor_name()}, torch {version('torch')}, onnx {version('onnx')}, {rounds} subnets of mobile\n"
    )
    print("| | median ms | 10th to 90th percentile |\n|---|---|---|")
    for name, samples in times.items():
        low, high = np.percentile(samples, (10, 90))
        print(f"| {name} | {np.median(samples):.1f} | {low:.1f} to {high:.1f} |")
    print(f"\nmedian of the ratios, subnet by subnet: {np.median(slow / fast):.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
