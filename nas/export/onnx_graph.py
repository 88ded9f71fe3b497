"""The ONNX graph of an exported subnet, written directly while walking its layers.

A subnet is plain layers, small modules that compose them, and no control flow that depends on data, so
one symbolic trace shows everything it does; two tables, of layers and of functions (at the end), say what
each step is in ONNX. That takes tens of milliseconds where `torch.onnx.export` takes seconds, and it is
what the devices measure. A batch norm that follows a convolution is folded into it, as in deployment.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature

import numpy as np
import torch
import torch.nn.functional as F
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

OPSET, IR_VERSION = 20, 10  # the first opset with Gelu; the format that ONNX Runtime reads since 1.18
END = np.iinfo(np.int64).max  # of a slice that has none

logger = logging.getLogger(__name__)


class UnknownModule(ValueError):
    """Something in the network that neither table knows."""


def onnx_of(subnet: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    """The ONNX model of any network: directly if its layers are known, else by `torch.onnx.export`.

    Both compute the same, the second after seconds; the log then says what was not known.
    """
    try:
        return to_onnx(subnet, input_shape)
    except UnknownModule as unknown:
        logger.warning("%s; exporting with torch.onnx.export instead, which takes seconds", unknown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter about torch's own internals
        program = torch.onnx.export(
            subnet,
            (_zeros(subnet, (2, *input_shape)),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            dynamo=True,
            verbose=False,
        )
    return program.model_proto.SerializeToString()


def to_onnx(subnet: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    """The ONNX model of a network of known layers: "images" (N, C, H, W) float32 in, "logits" out, any N.

    The network must be in evaluation mode and is not changed. While it is traced, no other thread of this
    process may run a torch module.

    Raises:
        UnknownModule: a layer or function that the tables do not know; the message says where.
        ValueError: the network is in training mode, not float32, or does not take such images.
    """
    for path, module in subnet.named_modules():
        if module.training:
            raise ValueError(f"{path or 'the network'} is in training mode; call .eval() before exporting it")
    for name, tensor in subnet.named_parameters():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; the ONNX graph is written for torch.float32 only")
    if type(subnet) in LAYERS:
        subnet = nn.Sequential(subnet)
    writer = _Writer(subnet, _traced(subnet))
    try:
        with torch.no_grad():
            writer.run(_zeros(subnet, (1, *input_shape)))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the network does not take images of {tuple(input_shape)}: {reason}") from error
    return writer.model().SerializeToString()


def _zeros(subnet: nn.Module, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, device=next((one.device for one in subnet.parameters()), "cpu"))


class _Tracer(fx.Tracer):
    """Goes into every module but the layers of the table and those of torch."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return type(module) in LAYERS or super().is_leaf_module(module, path)

    def create_arg(self, argument: object):
        # torch would keep such a tensor by setting it as an attribute of the network
        if isinstance(argument, Tensor) and not self.owns(argument):
            raise UnknownModule("a tensor made in forward")
        return super().create_arg(argument)

    def owns(self, tensor: Tensor) -> bool:
        owned = (*self.root.parameters(), *self.root.buffers(), *self.tensor_attrs)
        return any(tensor is one for one in owned)


def _traced(subnet: nn.Module) -> fx.Graph:
    tracer = _Tracer()
    try:
        traced = tracer.trace(subnet)
    except (ValueError, TypeError, RuntimeError, NameError) as error:  # what untraceable Python ends in
        place, reason = _place(tracer.module_stack, subnet), " ".join(str(error).split())
        raise UnknownModule(f"{place} cannot be traced: {reason}") from error
    inputs = sum(node.op == "placeholder" for node in traced.nodes)
    if inputs != 1:
        raise UnknownModule(f"{_place({}, subnet)} takes {inputs} inputs, not images alone")
    return traced


def _place(stack: dict[str, tuple[str, type]] | None, subnet: nn.Module) -> str:
    """The innermost of the modules that were being run."""
    path, kind = next(reversed((stack or {}).values()), ("the network", type(subnet)))
    return f"{path} ({kind.__module__}.{kind.__qualname__})"


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph, with its shape for a batch of one."""

    name: str
    shape: torch.Size


class _Writer(fx.Interpreter):
    """Runs the traced network on one blank image, for the shapes, and writes each step as ONNX."""

    def __init__(self, subnet: nn.Module, traced: fx.Graph):
        super().__init__(subnet, graph=traced)
        self.extra_traceback = False
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.values: dict[fx.Node, Value | list[Value]] = {}
        self.names = {"images", "logits"}
        self.folded: set[fx.Node] = set()  # batch norms that are in the convolution before them
        self.node: fx.Node  # the step being written
        self.shape: torch.Size | tuple[torch.Size, ...]  # of what it gives, or of each part

    def run_node(self, node: fx.Node):
        result = super().run_node(node)
        self.node = node
        self.shape = fx.node.map_aggregate(result, lambda one: getattr(one, "shape", None))
        try:
            name = self.written()
        except UnknownModule as unknown:
            raise UnknownModule(
                f"{_place(node.meta.get('nn_module_stack'), self.module)}: {unknown}"
            ) from None
        if isinstance(name, list):
            self.values[node] = [Value(*part) for part in zip(name, self.shape, strict=True)]
        else:
            self.values[node] = Value(name, self.shape)
        return result

    def written(self) -> str | list[str]:
        """The name of what the step gives, or the names of its parts, once its nodes are written."""
        node = self.node
        arguments = fx.node.map_arg(node.args, self.values.__getitem__)
        options = dict(fx.node.map_arg(node.kwargs, self.values.__getitem__))
        if node.op == "placeholder":
            return "images"
        if node.op == "get_attr":
            return self.weight(node.target, operator.attrgetter(node.target)(self.module))
        if node.op == "output":
            return self.result(*arguments)
        kind = self.kind(node)
        write = LAYERS.get(kind) if node.op == "call_module" else FUNCTIONS.get(kind)
        if write is None:
            raise UnknownModule(f"{getattr(kind, '__name__', kind)} is not known")
        if node.op == "call_module":
            layer = self.module.get_submodule(node.target)
            if layer._forward_hooks or layer._forward_pre_hooks:
                raise UnknownModule("a layer with hooks is not known")
            if getattr(layer, "inplace", False):
                options["inplace"] = True
            arguments = (layer, *arguments)
        if options.pop("inplace", False) and self.is_shared(node.args[0]):
            raise UnknownModule("overwriting a tensor that others read is not known")
        try:
            signature(write).bind(self, *arguments, **options)
        except TypeError as error:
            raise UnknownModule(f"{getattr(kind, '__name__', kind)} is not known so: {error}") from None
        return write(self, *arguments, **options)

    def kind(self, node: fx.Node) -> type | Callable | str:
        """A layer's type, a function, or the name of a method: what the tables go by."""
        return type(self.module.get_submodule(node.target)) if node.op == "call_module" else node.target

    def is_shared(self, node: fx.Node) -> bool:
        """Whether anything but the step being written may read what that node gives."""
        return len(node.users) > 1 or self.kind(node) in VIEWS

    def norm_after(self) -> nn.BatchNorm2d | None:
        """The batch norm that alone takes what the step gives; from now on it counts as folded."""
        users = list(self.node.users)
        if len(users) != 1 or users[0].op != "call_module" or self.kind(users[0]) is not nn.BatchNorm2d:
            return None
        norm = self.module.get_submodule(users[0].target)
        if norm.running_mean is None:
            return None
        self.folded.add(users[0])
        return norm

    def add(self, op: str, *inputs: str, outputs: int | None = None, **attributes) -> str | list[str]:
        """Append one ONNX node; returns the name of its output, or with `outputs` their names."""
        names = [self.unique(self.node.name) for _ in range(outputs or 1)]
        self.nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
        return names if outputs else names[0]

    def weight(self, name: str, tensor: Tensor) -> str:
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
            raise UnknownModule(f"{name} is not a tensor of float32")
        return self.constant(name, tensor.detach().cpu().numpy(), np.float32)

    def integers(self, name: str, values: Sequence[int]) -> str:
        return self.constant(f"{self.node.name}.{name}", list(values), np.int64)

    def operand(self, one: Value | float) -> str:
        """The name of a tensor, or of a constant with that number."""
        if isinstance(one, Value):
            return one.name
        if isinstance(one, (int, float)):
            return self.constant(f"{self.node.name}.constant", one, np.float32)
        raise UnknownModule(f"{type(one).__name__} as an operand is not known")

    def constant(self, name: str, values: object, kind: type) -> str:
        name = self.unique(name)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        return name

    def unique(self, name: str) -> str:
        number, free = 1, name
        while free in self.names:
            number, free = number + 1, f"{name}_{number}"
        self.names.add(free)
        return free

    def result(self, logits: Value) -> str:
        """Rename what the network gives to "logits"."""
        if not isinstance(logits, Value):
            raise UnknownModule(f"a network that gives {type(logits).__name__} is not known")
        self.shape = logits.shape
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = ["logits" if name == logits.name else name for name in names]
        if not any("logits" in node.output for node in self.nodes):  # the images or a weight itself
            self.nodes.append(helper.make_node("Identity", [logits.name], ["logits"], name="logits"))
        return "logits"

    def model(self):
        """The whole ONNX model, once the traced network has run."""
        (images, *_, logits) = self.values.values()
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", *value.shape[1:]))
            for name, value in (("images", images), ("logits", logits))
        ]
        graph = helper.make_graph(self.nodes, "subnet", ends[:1], ends[1:], self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="paretoshift"
        )


# Layers: (writer, layer, its input) -> the name of its output


def _convolution(writer: _Writer, layer: nn.Conv2d, x: Value) -> str:
    if layer.padding_mode != "zeros":
        raise UnknownModule(f"padding_mode={layer.padding_mode!r} is not known")
    weight, bias = layer.weight, layer.bias
    if norm := writer.norm_after():
        weight, bias = _folded(layer, norm)
    path = writer.node.target
    inputs = [writer.weight(f"{path}.weight", weight)]
    if bias is not None:
        inputs.append(writer.weight(f"{path}.bias", bias))
    window = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "dilations": layer.dilation}
    pads = _convolution_pads(layer)
    return writer.add("Conv", x.name, *inputs, **window, group=layer.groups, pads=pads)


def _folded(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with the batch norm after it, in double precision till the end."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    bias = -norm.running_mean.double() if layer.bias is None else layer.bias.double() - norm.running_mean
    if norm.affine:
        scale = scale * norm.weight
    bias = bias * scale + (norm.bias if norm.affine else 0)
    return (layer.weight.double() * scale[:, None, None, None]).float(), bias.float()


def _convolution_pads(layer: nn.Conv2d) -> list[int]:
    """[top, left, bottom, right]."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":  # the odd one goes to the bottom and the right
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [one // 2 for one in total] + [one - one // 2 for one in total]
    return [*layer.padding, *layer.padding]


def _batch_norm(writer: _Writer, layer: nn.BatchNorm2d, x: Value) -> str:
    if writer.node in writer.folded:
        return x.name
    mean, variance = layer.running_mean, layer.running_var
    if mean is None:
        raise UnknownModule("a batch norm without running statistics is not known")
    scale = layer.weight if layer.affine else torch.ones_like(mean)
    bias = layer.bias if layer.affine else torch.zeros_like(mean)
    tensors = {"weight": scale, "bias": bias, "mean": mean, "variance": variance}
    names = [writer.weight(f"{writer.node.target}.{name}", tensor) for name, tensor in tensors.items()]
    return writer.add("BatchNormalization", x.name, *names, epsilon=layer.eps)


def _max_pool(writer: _Writer, layer: nn.MaxPool2d, x: Value) -> str:
    if layer.return_indices:
        raise UnknownModule("return_indices is not known")
    dilation = _pair(layer.dilation)
    return writer.add("MaxPool", x.name, dilations=dilation, **_window(writer, layer, x, dilation))


def _average_pool(writer: _Writer, layer: nn.AvgPool2d, x: Value) -> str:
    if layer.divisor_override is not None:
        raise UnknownModule("divisor_override is not known")
    window, padding = _window(writer, layer, x), _pair(layer.padding)
    counted = layer.count_include_pad and any(padding)
    beyond = [end - pad for end, pad in zip(window["pads"][2:], padding, strict=True)]
    if counted and any(beyond):
        # the layer's own padding counts towards the mean, but not what its last window reaches beyond
        padded = _padded(writer, x, [0, 0, *padding, 0, 0, *padding], 0.0)
        return writer.add("AveragePool", padded, **window | {"pads": [0, 0, *beyond]})
    return writer.add("AveragePool", x.name, count_include_pad=int(counted), **window)


def _window(writer: _Writer, layer: nn.Module, x: Value, dilation: tuple[int, int] = (1, 1)) -> dict:
    """Kernel, strides and pads of a pooling. Instead of using ceil_mode, on whose last window runtimes
    differ, the pads at the end reach as far as that window does."""
    kernel, strides, starts = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding)
    ends = []
    for axis in (0, 1):
        last = (writer.shape[2 + axis] - 1) * strides[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        ends.append(max(starts[axis], last - starts[axis] - x.shape[2 + axis]))
    return {"kernel_shape": kernel, "strides": strides, "pads": [*starts, *ends]}


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _global_pool(writer: _Writer, layer: nn.AdaptiveAvgPool2d, x: Value) -> str:
    if layer.output_size not in (1, (1, 1)):
        raise UnknownModule(f"output_size={layer.output_size} is not known, only 1")
    return writer.add("GlobalAveragePool", x.name)


def _linear(writer: _Writer, layer: nn.Linear, x: Value) -> str:
    path, flat = writer.node.target, len(x.shape) == 2
    weight = writer.weight(f"{path}.weight", layer.weight if flat else layer.weight.T)
    bias = [] if layer.bias is None else [writer.weight(f"{path}.bias", layer.bias)]
    if flat:
        return writer.add("Gemm", x.name, weight, *bias, transB=1)
    product = writer.add("MatMul", x.name, weight)
    return writer.add("Add", product, *bias) if bias else product


# Functions: (writer, arguments as torch has them) -> the name of the result, or the names of its parts


def _unary(op: str, **attributes: float) -> Callable:
    return lambda writer, x: writer.add(op, x.name, **attributes)


def _binary(op: str) -> Callable:
    return lambda writer, input, other: writer.add(op, writer.operand(input), writer.operand(other))


def _relu6(writer: _Writer, x: Value) -> str:
    return writer.add("Clip", x.name, writer.operand(0.0), writer.operand(6.0))


def _silu(writer: _Writer, x: Value) -> str:
    return writer.add("Mul", x.name, writer.add("Sigmoid", x.name))


def _concatenate(writer: _Writer, tensors: Sequence[Value], dim: int = 0) -> str:
    return writer.add("Concat", *(one.name for one in tensors), axis=dim)


def _split(writer: _Writer, x: Value, parts: int | Sequence[int], dim: int = 0) -> list[str]:
    """By the size of the parts or their number; the run has shown their shapes."""
    sizes = writer.integers("sizes", [shape[dim] for shape in writer.shape])
    return writer.add("Split", x.name, sizes, outputs=len(writer.shape), axis=dim)


def _mean(writer: _Writer, x: Value, dim: int | Sequence[int], keepdim: bool = False) -> str:
    axes = writer.integers("axes", [dim] if isinstance(dim, int) else dim)
    return writer.add("ReduceMean", x.name, axes, keepdims=int(keepdim))


def _flatten(writer: _Writer, x: Value, start_dim: int = 0, end_dim: int = -1) -> str:
    if start_dim % len(x.shape) == 0:
        raise UnknownModule("flattening the batch is not known")
    return writer.add("Reshape", x.name, writer.integers("shape", [-1, *writer.shape[1:]]))


def _pad(
    writer: _Writer, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> str:
    if mode != "constant":
        raise UnknownModule(f"padding with mode={mode!r} is not known")
    # torch: (left, right, top, bottom, ...), the last dimension first; ONNX: all starts, then all ends
    untouched = [0] * (len(x.shape) - len(pad) // 2)
    return _padded(writer, x, [*untouched, *pad[-2::-2], *untouched, *pad[::-2]], value or 0.0)


def _padded(writer: _Writer, x: Value, pads: list[int], value: float) -> str:
    return writer.add("Pad", x.name, writer.integers("pads", pads), writer.operand(value))


def _part(writer: _Writer, x: Value | list[Value], index: object) -> str | list[str]:
    """One or some parts of a split, or a slice of a tensor."""
    if not isinstance(x, Value):
        return [one.name for one in x[index]] if isinstance(index, slice) else x[index].name
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(one, slice) or one is Ellipsis for one in index):
        raise UnknownModule("an index other than slices is not known")
    if Ellipsis in index:
        at, missing = index.index(Ellipsis), len(x.shape) - len(index) + 1
        index = (*index[:at], *[slice(None)] * missing, *index[at + 1 :])
    whole = (slice(None), slice(None, None, 1))
    cuts = {axis: cut for axis, cut in enumerate(index) if cut not in whole}
    if not cuts:
        return x.name
    starts = writer.integers("starts", [cut.start or 0 for cut in cuts.values()])
    ends = writer.integers("ends", [END if cut.stop is None else cut.stop for cut in cuts.values()])
    steps = writer.integers("steps", [cut.step or 1 for cut in cuts.values()])
    return writer.add("Slice", x.name, starts, ends, writer.integers("axes", cuts), steps)


_RELU, _SIGMOID, _HARDSWISH = _unary("Relu"), _unary("Sigmoid"), _unary("HardSwish")
_HARDSIGMOID = _unary("HardSigmoid", alpha=1 / 6, beta=0.5)
_ADD, _MULTIPLY = _binary("Add"), _binary("Mul")


def _layer(write: Callable, *settings: str) -> Callable:
    """A layer that is a function of its input and of some of its settings."""
    return lambda writer, layer, x: write(writer, x, *(getattr(layer, name) for name in settings))


LAYERS: dict[type[nn.Module], Callable] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.ReLU: _layer(_RELU),
    nn.ReLU6: _layer(_relu6),
    nn.Hardswish: _layer(_HARDSWISH),
    nn.SiLU: _layer(_silu),
    nn.Sigmoid: _layer(_SIGMOID),
    nn.Hardsigmoid: _layer(_HARDSIGMOID),
    nn.GELU: lambda writer, layer, x: writer.add("Gelu", x.name, approximate=layer.approximate),
    nn.Flatten: _layer(_flatten, "start_dim", "end_dim"),
    nn.Identity: lambda writer, layer, x: x.name,
    nn.Dropout: lambda writer, layer, x: x.name,
}

FUNCTIONS: dict[Callable | str, Callable] = {  # a string is a method of tensors
    operator.add: _ADD,
    torch.add: _ADD,
    operator.mul: _MULTIPLY,
    torch.mul: _MULTIPLY,
    operator.getitem: _part,
    torch.cat: _concatenate,
    torch.split: _split,
    "split": _split,
    torch.chunk: _split,
    "chunk": _split,
    torch.mean: _mean,
    "mean": _mean,
    torch.flatten: _flatten,
    "flatten": _flatten,
    torch.relu: _RELU,
    "relu": _RELU,
    F.relu: _RELU,
    torch.sigmoid: _SIGMOID,
    "sigmoid": _SIGMOID,
    F.hardsigmoid: _HARDSIGMOID,
    F.hardswish: _HARDSWISH,
    F.silu: _silu,
    F.pad: _pad,
}

# what these give may be the very memory of what they were given
VIEWS = {nn.Flatten, nn.Identity, nn.Dropout, operator.getitem, torch.flatten, "flatten"}
