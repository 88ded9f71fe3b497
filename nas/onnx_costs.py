"""What the nodes of an ONNX graph compute and move: MACs and bytes, by the shapes that one batch has.

MACs are the multiply-accumulates of convolutions and matrix products, as everywhere here. Bytes are those of any
group of nodes that runs as one: what it reads and writes and its weights, once each; what is made and used inside
the group moves nothing (Lavin, arXiv 2404.03617, section on operational intensity; fused layers count for zero).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")  # the same numbers in place
PARTS = ("Slice", "Gather")  # read only what they give
UNCOUNTED = (
    "Einsum",
    "Attention",
    "LSTM",
    "GRU",
    "RNN",
    "If",
    "Loop",
    "Scan",
)  # compute, and have no row in MACS
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One node of the graph that depends on the images; what is computed of weights alone is a weight."""

    name: str
    kind: str  # Conv, Gemm, ...
    inputs: tuple[str, ...]  # tensors, weights among them
    outputs: tuple[str, ...]
    macs: int  # of the whole batch


@dataclass(frozen=True)
class Graph:
    """The nodes in an order in which they can run, and the bytes of every tensor of one batch."""

    nodes: tuple[Node, ...]
    bytes: Mapping[str, int]
    weights: frozenset[str]
    results: frozenset[str]  # what the graph gives

    @property
    def macs(self) -> int:
        return sum(node.macs for node in self.nodes)

    @cached_property
    def maker(self) -> dict[str, Node]:
        """The node that makes each tensor."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                found.setdefault(tensor, []).append(node)
        return found

    def needed_for(self, tensors: Iterable[str]) -> set[str]:
        """The names of all nodes that these tensors depend on."""
        found: set[str] = set()
        waiting = [tensor for tensor in tensors if tensor in self.maker]
        while waiting:
            node = self.maker[waiting.pop()]
            if node.name not in found:
                found.add(node.name)
                waiting += [tensor for tensor in node.inputs if tensor in self.maker]
        return found

    def moved(self, names: Collection[str]) -> int:
        """The bytes that nodes move which run as one: their weights, what they read and what others read of them.

        Of a tensor that only slices are taken of, the largest slice counts.
        """
        inside = [node for node in self.nodes if node.name in names and node.kind not in VIEWS]
        made = {tensor for node in self.nodes if node.name in names for tensor in node.outputs}
        read: dict[str, int] = {}
        for node in inside:
            for tensor in (self._source(one, names) for one in node.inputs):
                if tensor not in made:
                    read[tensor] = max(read.get(tensor, 0), self._read(node, tensor))
        written = [tensor for node in inside for tensor in node.outputs if self._leaves(tensor, names)]
        return sum(read.values()) + sum(self.bytes[tensor] for tensor in written)

    @property
    def footprint(self) -> int:
        """The bytes that one batch needs in memory at least: all weights, and the most that one node holds."""
        used = {tensor for node in self.nodes for tensor in node.inputs if tensor in self.weights}
        held = [
            sum(self.bytes[one] for one in {*node.inputs, *node.outputs} if one not in self.weights)
            for node in self.nodes
        ]
        return sum(self.bytes[tensor] for tensor in used) + max(held, default=0)

    def _read(self, node: Node, tensor: str) -> int:
        whole = self.bytes[tensor]
        return min(whole, sum(self.bytes[one] for one in node.outputs)) if node.kind in PARTS else whole

    def _source(self, tensor: str, names: Collection[str]) -> str:
        """What a tensor is a view of, as far as these nodes make the view."""
        node = self.maker.get(tensor)
        while node and node.name in names and node.kind in VIEWS:
            tensor = node.inputs[0]
            node = self.maker.get(tensor)
        return tensor

    def _leaves(self, tensor: str, names: Collection[str]) -> bool:
        """Whether a tensor is read outside of these nodes; through a view of it, too."""
        if tensor in self.results:
            return True
        return any(
            node.name not in names
            or (node.kind in VIEWS and any(self._leaves(one, names) for one in node.outputs))
            for node in self.readers.get(tensor, ())
        )


def named(model: ModelProto) -> ModelProto:
    """The model with a name of its own for every node, by which a runtime's profile calls it."""
    taken = [node.name for node in model.graph.node]
    for number, node in enumerate(model.graph.node):
        if not node.name or taken.count(node.name) > 1:
            node.name = f"{node.op_type}_{number}_of_graph"
    return model


def graph_of(model: ModelProto, batch: int, input_shape: Shape, precision: str = "float32") -> Graph:
    """The graph with its shapes for a batch of images, each of `input_shape`.

    Args:
        precision: in which the floating-point numbers are kept while it runs.

    Raises:
        ValueError: a shape cannot be inferred, or the model computes in integers.
    """
    from onnx import TensorProto

    for node in model.graph.node:
        if "Quantize" in node.op_type or "Integer" in node.op_type or node.op_type.startswith("QLinear"):
            raise ValueError(
                f"the model has {node.op_type} ({node.name}), and the peaks of this machine are those of floating "
                "point; give the model before it was quantised"
            )
        if node.op_type in UNCOUNTED:
            raise ValueError(
                f"what {node.op_type} ({node.name}) computes is not counted; allowed: networks without it"
            )
    shapes, kinds = _inferred(model, batch, input_shape)
    constant = {one.name for one in model.graph.initializer} | {""}
    nodes = []
    for node in model.graph.node:
        if all(tensor in constant for tensor in node.input):
            constant.update(node.output)
            continue
        inputs = tuple(tensor for tensor in node.input if tensor)
        outputs = tuple(tensor for tensor in node.output if tensor in shapes)
        try:
            macs = _macs(node, shapes)
        except KeyError as error:
            raise _not_inferred(model, error.args[0]) from None
        nodes.append(Node(node.name, node.op_type, inputs, outputs, macs))
    used = {tensor for node in nodes for tensor in (*node.inputs, *node.outputs)}
    if missing := sorted(used - shapes.keys()):
        raise _not_inferred(model, missing[0])
    floating = {"float32": 4, "bfloat16": 2}[precision]
    widths = {TensorProto.FLOAT: floating, TensorProto.INT64: 8, TensorProto.BOOL: 1}
    sizes = {tensor: prod(shapes[tensor]) * widths.get(kinds[tensor], 4) for tensor in used}
    results = frozenset(one.name for one in model.graph.output)
    graph = Graph(tuple(nodes), sizes, frozenset(used & constant), results)
    needed = graph.needed_for(results)
    return replace(graph, nodes=tuple(node for node in nodes if node.name in needed))


def invalid(model: ModelProto) -> str | None:
    """What makes it no valid ONNX model, in a line; None if nothing does."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        return f"it is no valid ONNX model: {' '.join(str(error).partition('==> Context')[0].split())[:300]}"
    return None


def _not_inferred(model: ModelProto, tensor: str) -> ValueError:
    return ValueError(
        invalid(model) or f"the shape of {tensor} cannot be inferred; simplify the model, or fix its shapes"
    )


def _inferred(model: ModelProto, batch: int, input_shape: Shape) -> tuple[dict[str, Shape], dict[str, int]]:
    """The shape and the element type of every tensor whose shape is known."""
    import onnx

    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    weights = {one.name for one in fixed.graph.initializer}
    (images,) = (one for one in fixed.graph.input if one.name not in weights)
    images.type.tensor_type.ClearField("shape")
    for size in (batch, *input_shape):
        images.type.tensor_type.shape.dim.add().dim_value = size
    for output in fixed.graph.output:  # else the free batch that it names would be believed
        output.type.tensor_type.ClearField("shape")
    try:
        found = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(
            f"the model's shapes do not fit together: {' '.join(str(error).split())[:200]}"
        ) from None
    shapes = {one.name: tuple(one.dims) for one in found.initializer}
    kinds = {one.name: one.data_type for one in found.initializer}
    for one in (*found.input, *found.value_info, *found.output):
        tensor = one.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[one.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
            kinds[one.name] = tensor.elem_type
    return shapes, kinds


# MACs: (attributes, input shapes, output shape) -> multiply-accumulates


def _convolution(options: Mapping, inputs: list[Shape], output: Shape) -> int:
    return prod(output) * prod(
        inputs[1][1:]
    )  # (O, I/groups, *kernel): each output is a sum of so many products


def _transposed_convolution(options: Mapping, inputs: list[Shape], output: Shape) -> int:
    return prod(inputs[0]) * prod(inputs[1][1:])


def _gemm(options: Mapping, inputs: list[Shape], output: Shape) -> int:
    return prod(output) * inputs[0][0 if options.get("transA") else 1]


def _product(options: Mapping, inputs: list[Shape], output: Shape) -> int:
    return prod(output) * inputs[0][-1]


MACS: dict[str, Callable[[Mapping, list[Shape], Shape], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _product,
}


def _macs(node: NodeProto, shapes: Mapping[str, Shape]) -> int:
    from onnx import helper

    if node.op_type not in MACS:
        return 0
    options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return MACS[node.op_type](options, [shapes[one] for one in node.input[:2]], shapes[node.output[0]])
