"""Which nodes of an ONNX graph each step of a runtime carries out.

A runtime fuses nodes, changes the layout of tensors, and gives its steps names of its own. What is known of a step is
the tensor of the graph that it ends in; it then carries out all nodes that this tensor needs and that no earlier
step did. So every node belongs to exactly one step, and a step without nodes is work that only the runtime wants.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nas.hardware.onnxruntime_cpu import OnnxRuntimeCpu, options_of
from nas.hardware.openvino_cpu import OpenVinoCpu
from nas.hardware.runtime import OnnxRuntime
from nas.onnx_costs import Graph
from nas.storage.records import Kernel

if TYPE_CHECKING:
    from onnx import NodeProto

COMPUTES = ("Conv", "Gemm", "MatMul", "FullyConnected")  # in the kinds of kernels that have MACs
LAYOUTS = ("ReorderInput", "ReorderOutput")
WITHOUT_BIASES = "/WithoutBiases"  # how OpenVINO calls what is before the bias is added
RENAMED = re.compile(r"(_nchwc(_token_\d+)?|/\w+Fusion/)$")  # what ONNX Runtime adds to names
COUNTED = re.compile(r"_\d+$")  # OpenVINO's own names end in numbers that go on from network to network


def carried_out(graph: Graph, ends: Sequence[Sequence[str]], kernels: Sequence[Kernel]) -> list[set[str]]:
    """The names of the nodes of each kernel, each node in exactly one.

    Args:
        ends: of each kernel, the tensors that it ends in, as `ends_of` says.

    Raises:
        ValueError: a kernel computes what no node is left for.
    """
    needed = [graph.needed_for(tensors) for tensors in ends]
    order = sorted(range(len(kernels)), key=lambda place: len(needed[place]))  # who needs another comes later
    needed[order[-1]] = graph.needed_for(graph.results)
    found: list[set[str]] = [set() for _ in kernels]
    taken: set[str] = set()
    for place in order:
        found[place] = needed[place] - taken
        taken |= needed[place]
    for kernel, nodes in zip(kernels, found, strict=True):
        if not nodes and any(word in kernel.kind for word in COMPUTES):
            raise ValueError(
                f"the runtime ran {kernel.node} ({kernel.kind}), and which node that is cannot be told"
            )
    return found


def ends_of(
    device: OnnxRuntime, model: bytes, graph: Graph, input_shape: tuple[int, ...], kernels: Sequence[Kernel]
) -> list[tuple[str, ...]]:
    """Of each kernel that ran on the device, the tensors of the graph that it ends in, none where that is unknown."""
    return ENDS[type(device)](device, model, graph, input_shape, kernels)


def _of_onnxruntime(
    device: OnnxRuntimeCpu,
    model: bytes,
    graph: Graph,
    input_shape: tuple[int, ...],
    kernels: Sequence[Kernel],
) -> list[tuple[str, ...]]:
    """By the graph as ONNX Runtime has optimised it."""
    import onnx
    import onnxruntime

    with TemporaryDirectory() as folder:
        options = options_of(device.threads)
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        options.log_severity_level = 3  # it warns that the file is for this processor alone, as it should be
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(Path(folder) / "optimised.onnx").graph
    # changes of layout carry out nothing, and have other numbers in their names in each session
    found = {node.name: _ends_of_node(node, graph) for node in optimised.node if node.op_type not in LAYOUTS}
    return [found.get(kernel.node, ()) for kernel in kernels]


def _ends_of_node(node: NodeProto, graph: Graph) -> tuple[str, ...]:
    """By the tensors that it gives or, where its layout has given them other names, by its own name."""
    if known := tuple(name for name in node.output if name in graph.maker):
        return known
    name = RENAMED.sub("", node.name)
    end = next((one for one in (name, name.removesuffix("_bn")) if one in graph.maker), None)
    if end is None:
        return ()
    options = {one.name: one.s.decode() for one in node.attribute if one.s}
    if len(node.input) > 3 and node.input[3]:  # a sum that it starts from instead of zeros
        end = _then(graph, end, "Add")
    return (_then(graph, end, options.get("activation", "")),)


def _then(graph: Graph, tensor: str, kind: str) -> str:
    """What the only reader of a tensor makes of it, if it is of that kind; else the tensor."""
    readers = graph.readers.get(tensor, [])
    return readers[0].outputs[0] if len(readers) == 1 and readers[0].kind == kind else tensor


def _of_openvino(
    device: OpenVinoCpu, model: bytes, graph: Graph, input_shape: tuple[int, ...], kernels: Sequence[Kernel]
) -> list[tuple[str, ...]]:
    """By the names of the layers that OpenVINO says it has fused into a step."""
    outputs = {node.name: node.outputs for node in graph.nodes}
    known: dict[str, tuple[str, ...]] = {}
    counted: dict[str, list[tuple[str, ...]]] = {}
    for step in device.compiled(model, input_shape).get_runtime_model().get_ordered_ops():
        told = {key: step.get_rt_info()[key].astype(str) for key in ("layerType", "originalLayersNames")}
        if told["layerType"] == "Const":
            continue
        names = [name.removesuffix(WITHOUT_BIASES) for name in told["originalLayersNames"].split(",")]
        ends = [tensor for name in names for tensor in outputs.get(name, (name,)) if tensor in graph.maker]
        name = step.get_friendly_name()
        known[name] = tuple(ends)
        counted.setdefault(COUNTED.sub("", name), []).append(tuple(ends))
    ran = [COUNTED.sub("", kernel.node) for kernel in kernels]
    return [
        known[kernel.node] if kernel.node in known else counted[name][ran[:place].count(name)]
        for place, (kernel, name) in enumerate(zip(kernels, ran, strict=True))
    ]


ENDS = {OnnxRuntimeCpu: _of_onnxruntime, OpenVinoCpu: _of_openvino}
