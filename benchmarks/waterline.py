"""How well attainable times and MACs rank latencies, and how often a network is faster than held attainable.

    python benchmarks/waterline.py [PRESET] [NUMBER] [BATCH]

Random architectures of a preset for 3×32×32 images, untrained, on onnxruntime-cpu with one thread
(methods: attainable times rank better than MACs, and at most one of twenty is beaten).
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import numpy as np

from nas.explain import explain
from nas.export.onnx_graph import onnx_of
from nas.hardware import device
from nas.hardware.peaks import peaks_of
from nas.measure import Network
from nas.rank_statistics import tau
from search_spaces import read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.merging import deployed
from supernets.operators import OPERATORS
from supernets.supernet import make_supernet


def main(preset: str = "mobile", number: int = 200, batch: int = 1) -> None:
    space = unroll(read_skeleton(preset), OPERATORS, ATTENTIONS, (3, 32, 32), 10)
    supernet, random = make_supernet(space).eval(), Random(0)
    there = device(
        {"name": "onnxruntime-cpu", "batch": batch, "min_runs": 20, "max_runs": 60, "seconds": 0.05}
    )
    rows = []
    for _ in range(number):
        architecture = space.sample(random)
        shape = space.input_shape(architecture.resolution)
        network = Network(Path(preset), onnx_of(deployed(supernet.export(architecture)).eval(), shape), shape)
        found = explain(network, there)
        beaten = sum(step.kernel_ms < 0 for step in found.steps if step.nodes) / len(found.steps)
        inside = sum(step.milliseconds for step in found.steps)
        rows.append(
            (
                found.measured_ms,
                found.attainable_ms,
                found.macs,
                beaten,
                inside,
                found.max_efficiency,
                found.footprint,
            )
        )
    latency, attainable, macs, beaten, inside, allowed, footprint = np.array(rows).T
    peaks = peaks_of(there)
    rates = ", ".join(f"{rate / 1e6:.3g} GB/s over {size / 2**20:.3g} MiB" for size, rate in peaks.stream)
    print(
        f"{peaks.of['processor']}, {peaks.of['versions']}: {peaks.operations_per_ms / 1e6:.4g} GFLOP/s; {rates}"
    )
    print(f"{number} architectures of {preset}, batch {batch}, {latency.min():.3g} to {latency.max():.3g} ms")
    print(
        f"Kendall's tau with latency: attainable time {tau(attainable, latency):.3f}, MACs {tau(macs, latency):.3f}"
    )
    print(
        f"faster than attainable: {np.mean(attainable > latency):.1%} of networks, {beaten.mean():.1%} of steps"
    )
    print(f"steps together / latency: median {np.median(inside / latency):.2f}")
    print(
        f"efficiency: model {np.median(allowed):.0%}, kernels {np.median(attainable / latency):.0%} (medians)"
    )
    print(f"footprint: {footprint.min() / 2**20:.2g} to {footprint.max() / 2**20:.2g} MiB")


if __name__ == "__main__":
    main(*(kind(one) for kind, one in zip((str, int, int), sys.argv[1:], strict=False)))
