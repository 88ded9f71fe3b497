"""What the steps of a network take in eager PyTorch, by PyTorch's own profiler.

A step is a layer or a function of the network's trace, carried out in the order of the network by its very modules. Its
time is that of PyTorch's operators which it calls, by the wall clock, what they call included; what Python does around
them is in no step. The kernel of a step is the operator in which most of that time passed: within a convolution
`aten::mkldnn_convolution` or another, within an average it may be `aten::div_`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from nas.hardware.timing import middle_mean
from nas.storage.records import Kernel

if TYPE_CHECKING:
    from torch import Tensor, fx, nn
    from torch.autograd.profiler_util import FunctionEvent

PROFILED_RUNS = 20
LABEL = "step of the network: "  # how the ranges of the profile begin that are ours
MOST = 0.5  # the share of an operator's time from which on one that it calls stands for it


def steps_of(network: nn.Module, images: Tensor) -> tuple[Kernel, ...]:
    """The steps that called an operator, in the order in which they ran; the first run does not count.

    Each has the name of its step in the trace, as in the ONNX graph: `block0_operator`.

    Raises:
        ValueError: the network cannot be traced, so its steps have no names.
    """
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # else the profiler says on stderr that it begins and ends
    from torch.profiler import ProfilerActivity, profile

    from nas.export.onnx_graph import UnknownModule, traced

    try:
        network, graph = traced(network)
    except UnknownModule as error:
        raise ValueError(
            f"the steps of this network cannot be told apart in PyTorch ({error}); profile it on a device that runs "
            "ONNX"
        ) from None
    labelled = _labelled(network, graph)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(1 + PROFILED_RUNS):
            labelled.run(images)
    kinds = {node.name: _kind(node, network) for node in graph.nodes}
    return kernels_of(profiled.events(), kinds)


def kernels_of(events: list[FunctionEvent], kinds: dict[str, str]) -> tuple[Kernel, ...]:
    """
    Args:
        kinds: of each step of the trace, by its name.
    """
    times: dict[str, list[float]] = defaultdict(list)
    ran: dict[str, Counter[str]] = defaultdict(Counter)
    for event in events:
        name = event.name.removeprefix(LABEL)
        if name != event.name and event.cpu_children:
            times[name].append(sum(_ms(called) for called in event.cpu_children))
            ran[name][" ".join(dict.fromkeys(map(_working, event.cpu_children)))] += 1
    return tuple(
        Kernel(name, kinds[name], ran[name].most_common(1)[0][0], middle_mean(some))
        for name, some in times.items()
    )


def _labelled(network: nn.Module, graph: fx.Graph) -> fx.Interpreter:
    """What runs the network step by step, each in a range of the profile that has its name."""
    from torch import fx
    from torch.profiler import record_function

    class Labelled(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            with record_function(f"{LABEL}{node.name}"):
                return super().run_node(node)

    return Labelled(network, graph=graph)


def _kind(node: fx.Node, network: nn.Module) -> str:
    """A layer's type, or the name of a function or method."""
    if node.op == "call_module":
        return type(network.get_submodule(node.target)).__name__
    return getattr(node.target, "__name__", str(node.target))


def _working(event: FunctionEvent) -> str:
    """The innermost operator in which most of the time of one passed that leads to others."""
    while event.cpu_children:
        longest = max(event.cpu_children, key=_ms)
        if _ms(longest) < MOST * _ms(event):
            break
        event = longest
    return event.name


def _ms(event: FunctionEvent) -> float:
    return event.time_range.elapsed_us() / 1e3
