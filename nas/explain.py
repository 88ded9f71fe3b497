"""Why a network takes as long as it does: efficiency analysis after Lavin (arXiv 2404.03617).

For each step of the runtime's own profile there are three times: the ideal one, its operations at the peak of this
machine; the attainable one, which allows for the bytes that it must move as well (waterline analysis, the roofline of
a sequence of kernels); and the measured one. What lies between the first two is the model's fault, whose operations are
too few for the bytes that they need; what lies between the last two is the kernel's. Over all steps

    max_efficiency = ideal / attainable,  kernel_quality = attainable / measured,  efficiency = their product,

and the measured time is the sum of the ideal times, of what the model and of what the kernels waste, and of
what passes outside of the steps.

A profile lengthens each step by about as much, whatever the step does (`benchmarks/waterline_*.md`): with steps of a
few microseconds, all together take longer than the network that they are of. What they take too long is taken
off each alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.fusion import carried_out, ends_of
from nas.hardware import Device
from nas.hardware.peaks import Peaks, peaks_of
from nas.hardware.runtime import OnnxRuntime
from nas.measure import Network, check
from nas.onnx_costs import Graph, graph_of, invalid, named
from nas.storage.records import Latency

BLOCK = re.compile(r"(stem|block\d+|head|classifier)(?![a-z0-9])")  # what the nodes of our exports begin with
Blame = Literal["model", "kernel", "runtime"]
PROFILING_MS = 0.01  # of a step, what profiling lengthens it by at most; what is more, other work does


@dataclass(frozen=True)
class Step:
    """What the runtime ran as one: a kernel, or several of them added up."""

    name: str  # of the node that computes the most, or what the runtime calls work of its own
    kind: str
    nodes: tuple[str, ...]  # of the graph
    macs: int
    bytes: int  # that must be moved
    milliseconds: float  # by the runtime's profile, less what profiling adds
    ideal_ms: float
    attainable_ms: float

    @property
    def intensity(self) -> float | None:
        """Operations per byte; None where no byte is moved."""
        return 2 * self.macs / self.bytes if self.bytes else None

    @property
    def model_ms(self) -> float:
        """Wasted by the model."""
        return self.attainable_ms - self.ideal_ms

    @property
    def kernel_ms(self) -> float:
        """Wasted by the kernel; below zero where the data were nearer than the peaks of moving bytes assume."""
        return self.milliseconds - self.attainable_ms

    @property
    def wasted_ms(self) -> float:
        return self.milliseconds - self.ideal_ms

    @property
    def blame(self) -> Blame | None:
        """Who wastes the most of it; the runtime, what no node asked for. None where nothing is wasted."""
        if self.wasted_ms <= 0:
            return None
        if not self.nodes:
            return "runtime"
        return "model" if self.model_ms > self.kernel_ms else "kernel"


@dataclass(frozen=True)
class Explained:
    """One network on one device; steps in the order in which they ran."""

    name: str  # of the network: its path, or the key of a candidate
    latency: Latency
    peaks: Peaks
    footprint: int  # bytes of weights and of the largest step
    steps: tuple[Step, ...]
    profiling_ms: float  # taken off each step

    @property
    def macs(self) -> int:
        return sum(step.macs for step in self.steps)

    @property
    def measured_ms(self) -> float:
        return self.latency.median_ms

    @property
    def ideal_ms(self) -> float:
        return sum(step.ideal_ms for step in self.steps)

    @property
    def attainable_ms(self) -> float:
        return sum(step.attainable_ms for step in self.steps)

    @property
    def outside_ms(self) -> float:
        """What passes outside of the steps: the call, and what lies between them; below zero where the profiled runs
        were slowed by more than profiling."""
        return self.measured_ms - sum(step.milliseconds for step in self.steps)

    @property
    def max_efficiency(self) -> float:
        """What the model would reach with kernels that lose nothing."""
        return self.ideal_ms / self.attainable_ms

    @property
    def kernel_quality(self) -> float:
        return self.attainable_ms / self.measured_ms

    @property
    def efficiency(self) -> float:
        """Operations / (latency × peak)."""
        return self.ideal_ms / self.measured_ms

    @property
    def blocks(self) -> dict[str, Step]:
        """The steps of each block added up, in the order of the network; empty where no node names one."""
        found: dict[str, list[Step]] = {}
        block = next(filter(None, map(block_of, self.steps)), None)
        if block is None:
            return {}
        for step in self.steps:
            block = block_of(step) or block  # an addition after a block belongs to it
            found.setdefault(block, []).append(step)
        return {name: added(name, steps) for name, steps in found.items()}


def explain(network: Network, device: Device, fresh: bool = False) -> Explained:
    """Measure a network and the peaks of the device, and take the time apart.

    Args:
        fresh: measure the peaks anew.

    Raises:
        ValueError: the device has no profile of its steps, does not run the network, or something in the network is
            not counted.
    """
    import onnx

    from nas.export.onnx_graph import to_onnx_with_ends

    check_profiled(device)
    check([network], [device])
    model, known = network.model, {}
    if not isinstance(device, OnnxRuntime):
        subnet = network.module()
        model, known = to_onnx_with_ends(subnet, network.input_shape)
    model = named(onnx.load_model_from_string(model))
    graph = graph_of(model, device.batch, network.input_shape, device.precision)
    if not graph.macs:
        reason = invalid(model) or "it has no convolution and no matrix product, so no efficiency"
        raise ValueError(f"{network.path} cannot be explained: {reason}")
    if isinstance(device, OnnxRuntime):
        content = model.SerializeToString()
        latency = next(device.measure_onnx([(content, network.input_shape)], kernels=True))
        ends = ends_of(device, content, graph, network.input_shape, latency.kernels)
    else:
        latency = device.measure(subnet, network.input_shape, kernels=True)
        ends = [known[kernel.node] for kernel in latency.kernels]
    return explained(network, graph, latency, ends, peaks_of(device, fresh))


def check_profiled(device: Device) -> None:
    """
    Raises:
        ValueError: the device has no profile of its steps.
    """
    if reason := device.unprofiled():
        raise ValueError(
            f"nothing tells what the steps of a network take on this {device.name}: {reason}; give --device "
            "onnxruntime-cpu, openvino-cpu or torch-cpu"
        )


def explained(
    network: Network, graph: Graph, latency: Latency, ends: Sequence[Sequence[str]], peaks: Peaks
) -> Explained:
    """What was measured, taken apart.

    Args:
        latency: with its kernels.
        ends: of each kernel, as `nas.fusion.ends_of`.
    """
    rate = peaks.bytes_per_ms(graph.footprint)
    profiled = np.array([kernel.milliseconds for kernel in latency.kernels])
    added_ms = profiling_ms(profiled, latency.median_ms)
    took_ms = np.maximum(profiled - added_ms, 0).tolist()
    steps = []
    done_by = carried_out(graph, ends, latency.kernels)
    for kernel, took, names in zip(latency.kernels, took_ms, done_by, strict=True):
        nodes = [node for node in graph.nodes if node.name in names]
        heaviest = max(nodes, key=lambda node: node.macs).name if nodes else kernel.node
        macs, moved = sum(node.macs for node in nodes), graph.moved(names)
        ideal = 2 * macs / peaks.operations_per_ms
        attainable = max(ideal, moved / rate)
        done = tuple(node.name for node in nodes)
        steps.append(Step(heaviest, kernel.kind, done, macs, moved, took, ideal, attainable))
    return Explained(str(network.path), latency, peaks, graph.footprint, tuple(steps), added_ms)


def profiling_ms(profiled: np.ndarray, measured_ms: float) -> float:
    """What to take off each of the profiled times (steps,), none below zero, so that together they take no longer
    than the network; at most `PROFILING_MS`."""
    rising = np.sort(profiled)
    too_long = rising.sum() - measured_ms
    if too_long <= 0:
        return 0.0
    # if the k shortest become zero: the sum of the others less their number times the amount is the measured time
    amounts = [(rising[k:].sum() - measured_ms) / (len(rising) - k) for k in range(len(rising))]
    amount = next(one for k, one in enumerate(amounts) if one <= rising[k])
    return float(min(amount, PROFILING_MS))


def block_of(step: Step) -> str | None:
    """The block whose node a step carries out, where its name tells."""
    found = (BLOCK.match(name) for name in step.nodes)
    return next((one[1] for one in found if one), None)


def added(name: str, steps: Iterable[Step]) -> Step:
    """Steps as one: their sums."""
    steps = tuple(steps)
    return Step(
        name,
        " ".join(dict.fromkeys(step.kind for step in steps)),
        tuple(node for step in steps for node in step.nodes),
        sum(step.macs for step in steps),
        sum(step.bytes for step in steps),
        sum(step.milliseconds for step in steps),
        sum(step.ideal_ms for step in steps),
        sum(step.attainable_ms for step in steps),
    )
