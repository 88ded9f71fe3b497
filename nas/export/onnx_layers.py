"""What each layer and function of a subnet is in ONNX: the two tables, and a function per entry.

A new layer needs one row here; `tests/test_onnx_graph.py` then asks for cases of it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from supernets.merging import fold

if TYPE_CHECKING:
    from nas.export.onnx_graph import Writer

END = np.iinfo(np.int64).max  # of a slice that has none


class UnknownModule(ValueError):
    """Something in the network that neither table knows; `what` it is, wherever it stands."""

    def __init__(self, message: str, what: str | None = None):
        super().__init__(message)
        self.what = what or message


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph, with its shape for a batch of one."""

    name: str
    shape: torch.Size


# Layers: (writer, layer, its input) -> the name of its output


def _convolution(writer: Writer, layer: nn.Conv1d | nn.Conv2d, x: Value) -> str:
    if layer.padding_mode != "zeros":
        raise UnknownModule(f"padding_mode={layer.padding_mode!r} is not known")
    weight, bias = layer.weight, layer.bias
    if norm := writer.norm_after():
        weight, bias = fold(weight, bias, norm)
    path = writer.node.target
    inputs = [writer.weight(f"{path}.weight", weight)]
    if bias is not None:
        inputs.append(writer.weight(f"{path}.bias", bias))
    window = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "dilations": layer.dilation}
    pads = _convolution_pads(layer)
    return writer.add("Conv", x.name, *inputs, **window, group=layer.groups, pads=pads)


def _convolution_pads(layer: nn.Conv1d | nn.Conv2d) -> list[int]:
    """[top, left, bottom, right], or [left, right] of a signal."""
    if layer.padding == "valid":
        return [0, 0] * len(layer.kernel_size)
    if layer.padding == "same":  # the odd one goes to the bottom and the right
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [one // 2 for one in total] + [one - one // 2 for one in total]
    return [*layer.padding, *layer.padding]


def _batch_norm(writer: Writer, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Value) -> str:
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


def _max_pool(writer: Writer, layer: nn.MaxPool1d | nn.MaxPool2d, x: Value) -> str:
    if layer.return_indices:
        raise UnknownModule("return_indices is not known")
    dilation = _each(layer.dilation, x)
    return writer.add("MaxPool", x.name, dilations=dilation, **_window(writer, layer, x, dilation))


def _average_pool(writer: Writer, layer: nn.AvgPool1d | nn.AvgPool2d, x: Value) -> str:
    if getattr(layer, "divisor_override", None) is not None:
        raise UnknownModule("divisor_override is not known")
    padding = _each(layer.padding, x)
    window = _window(writer, layer, x, (1,) * len(padding))
    counted = layer.count_include_pad and any(padding)
    beyond = [end - pad for end, pad in zip(window["pads"][len(padding) :], padding, strict=True)]
    if counted and any(beyond):
        # the layer's own padding counts towards the mean, but not what its last window reaches beyond
        padded = _padded(writer, x, [0, 0, *padding, 0, 0, *padding], 0.0)
        return writer.add("AveragePool", padded, **window | {"pads": [*(0 for _ in beyond), *beyond]})
    return writer.add("AveragePool", x.name, count_include_pad=int(counted), **window)


def _window(writer: Writer, layer: nn.Module, x: Value, dilation: tuple[int, ...]) -> dict:
    """Kernel, strides and pads of a pooling. Instead of using ceil_mode, on whose last window runtimes
    differ, the pads at the end reach as far as that window does."""
    kernel, strides, starts = (_each(one, x) for one in (layer.kernel_size, layer.stride, layer.padding))
    ends = []
    for axis in range(len(kernel)):
        last = (writer.shape[2 + axis] - 1) * strides[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        ends.append(max(starts[axis], last - starts[axis] - x.shape[2 + axis]))
    return {"kernel_shape": kernel, "strides": strides, "pads": [*starts, *ends]}


def _each(value: int | tuple[int, ...], x: Value) -> tuple[int, ...]:
    """A size for each dimension of space."""
    return (value,) * (len(x.shape) - 2) if isinstance(value, int) else tuple(value)


def _global_pool(writer: Writer, layer: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d, x: Value) -> str:
    if layer.output_size not in (1, (1,), (1, 1)):
        raise UnknownModule(f"output_size={layer.output_size} is not known, only 1")
    return writer.add("GlobalAveragePool", x.name)


def _linear(writer: Writer, layer: nn.Linear, x: Value) -> str:
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


def _relu6(writer: Writer, x: Value) -> str:
    return writer.add("Clip", x.name, writer.operand(0.0), writer.operand(6.0))


def _clamp(writer: Writer, x: Value, min: float | None = None, max: float | None = None) -> str:
    if isinstance(min, Value) or isinstance(max, Value):
        raise UnknownModule("clamping to tensors is not known, only to numbers")
    return writer.add("Clip", x.name, *("" if one is None else writer.operand(one) for one in (min, max)))


def _power(writer: Writer, input: Value | float, exponent: Value | float) -> str:
    return writer.add("Pow", writer.operand(input), writer.operand(exponent))


def _square(writer: Writer, x: Value) -> str:
    return writer.add("Mul", x.name, x.name)


def _rsqrt(writer: Writer, x: Value) -> str:
    return writer.add("Reciprocal", writer.add("Sqrt", x.name))


def _leaky_relu(writer: Writer, x: Value, negative_slope: float = 0.01) -> str:
    return writer.add("LeakyRelu", x.name, alpha=float(negative_slope))


def _elu(writer: Writer, x: Value, alpha: float = 1.0) -> str:
    return writer.add("Elu", x.name, alpha=float(alpha))


def _gelu(writer: Writer, x: Value, approximate: str = "none") -> str:
    return writer.add("Gelu", x.name, approximate=approximate)


def _silu(writer: Writer, x: Value) -> str:
    return writer.add("Mul", x.name, writer.add("Sigmoid", x.name))


def _concatenate(writer: Writer, tensors: Sequence[Value], dim: int = 0) -> str:
    return writer.add("Concat", *(one.name for one in tensors), axis=dim)


def _split(writer: Writer, x: Value, parts: int | Sequence[int], dim: int = 0) -> list[str]:
    """By the size of the parts or their number; the run has shown their shapes."""
    sizes = writer.integers("sizes", [shape[dim] for shape in writer.shape])
    return writer.add("Split", x.name, sizes, outputs=len(writer.shape), axis=dim)


def _mean(writer: Writer, x: Value, dim: int | Sequence[int], keepdim: bool = False) -> str:
    axes = writer.integers("axes", [dim] if isinstance(dim, int) else dim)
    return writer.add("ReduceMean", x.name, axes, keepdims=int(keepdim))


def _flatten(writer: Writer, x: Value, start_dim: int = 0, end_dim: int = -1) -> str:
    if start_dim % len(x.shape) == 0:
        raise UnknownModule("flattening the batch is not known")
    return writer.add("Reshape", x.name, writer.integers("shape", [-1, *writer.shape[1:]]))


def _pad(
    writer: Writer, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> str:
    if mode != "constant":
        raise UnknownModule(f"padding with mode={mode!r} is not known")
    # torch: (left, right, top, bottom, ...), the last dimension first; ONNX: all starts, then all ends
    untouched = [0] * (len(x.shape) - len(pad) // 2)
    return _padded(writer, x, [*untouched, *pad[-2::-2], *untouched, *pad[::-2]], value or 0.0)


def _padded(writer: Writer, x: Value, pads: list[int], value: float) -> str:
    return writer.add("Pad", x.name, writer.integers("pads", pads), writer.operand(value))


def _convolve(
    writer: Writer,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> str:
    """A convolution with any tensor as its weight."""
    if isinstance(padding, str):
        raise UnknownModule(f"padding={padding!r} is not known")
    names = [one.name for one in (input, weight, bias) if one is not None]
    strides, pads, dilations = (_each(one, input) for one in (stride, padding, dilation))
    window = {"strides": strides, "dilations": dilations, "pads": [*pads, *pads]}
    return writer.add("Conv", *names, kernel_shape=weight.shape[2:], group=groups, **window)


def _group_norm(
    writer: Writer,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> str:
    """Instance norm of the groups, since ONNX has a scale for each channel only from opset 21 on."""
    groups = writer.add("Reshape", input.name, writer.integers("groups", [0, num_groups, -1]))
    one, zero = (writer.constant(f"{writer.node.name}.plain", [x] * num_groups, np.float32) for x in (1, 0))
    normed = writer.add("InstanceNormalization", groups, one, zero, epsilon=eps)
    normed = writer.add("Reshape", normed, writer.integers("shape", [-1, *input.shape[1:]]))
    along = writer.integers("channels", [-1, *[1] * (len(input.shape) - 2)])
    for op, affine in (("Mul", weight), ("Add", bias)):
        if affine is not None:
            normed = writer.add(op, normed, writer.add("Reshape", affine.name, along))
    return normed


def _unflatten(writer: Writer, x: Value, dim: int, sizes: Sequence[int]) -> str:
    if dim % len(x.shape) == 0:
        raise UnknownModule("unflattening the batch is not known")
    return writer.add("Reshape", x.name, writer.integers("shape", [-1, *writer.shape[1:]]))


def _transpose(writer: Writer, x: Value, dim0: int, dim1: int) -> str:
    order = list(range(len(x.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return writer.add("Transpose", x.name, perm=order)


def _part(writer: Writer, x: Value | list[Value], index: object) -> str | list[str]:
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


def _shape(writer: Writer, x: Value, name: str) -> list[str]:
    """The sizes of a tensor, which the run has shown: nothing is written."""
    if name != "shape":
        raise UnknownModule(f"the attribute {name} is not known")
    return [""] * len(x.shape)


def _interpolate(
    writer: Writer,
    x: Value,
    size: object = None,
    scale_factor: object = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> str:
    """To a size, which the run has shown, linearly between the centres of pixels."""
    if mode not in ("linear", "bilinear") or size is None or align_corners or antialias:
        raise UnknownModule(
            f"interpolation with mode={mode!r}, size={size}, align_corners={align_corners}, antialias={antialias} "
            "is not known, only linearly to a size between the centres of pixels"
        )
    sizes = writer.integers("sizes", writer.shape[2:])
    options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return writer.add("Resize", x.name, "", "", sizes, axes=range(2, len(x.shape)), **options)


def _group_norm_layer(writer: Writer, layer: nn.GroupNorm, x: Value) -> str:
    tensors = {"weight": layer.weight, "bias": layer.bias} if layer.affine else {}
    path = writer.node.target
    affine = (Value(writer.weight(f"{path}.{name}", one), one.shape) for name, one in tensors.items())
    return _group_norm(writer, x, layer.num_groups, *affine, eps=layer.eps)


_RELU, _SIGMOID, _HARDSWISH = _unary("Relu"), _unary("Sigmoid"), _unary("HardSwish")
_HARDSIGMOID = _unary("HardSigmoid", alpha=1 / 6, beta=0.5)
_ADD, _MULTIPLY, _SUBTRACT, _DIVIDE = (_binary(op) for op in ("Add", "Mul", "Sub", "Div"))

# of one tensor, one node each; a function of torch and a method of tensors go by each of these names
UNARY: dict[str, str] = {
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "reciprocal": "Reciprocal",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "log": "Log",
    "sin": "Sin",
    "cos": "Cos",
    "tanh": "Tanh",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
}
_ELEMENTWISE = {name: _unary(op) for name, op in UNARY.items()} | {
    "relu": _RELU,
    "sigmoid": _SIGMOID,
    "square": _square,
    "rsqrt": _rsqrt,
    "add": _ADD,
    "sub": _SUBTRACT,
    "mul": _MULTIPLY,
    "div": _DIVIDE,
    "pow": _power,
    "minimum": _binary("Min"),
    "maximum": _binary("Max"),
    "clamp": _clamp,
    "clip": _clamp,
}


def _layer(write: Callable, *settings: str) -> Callable:
    """A layer that is a function of its input and of some of its settings."""
    return lambda writer, layer, x: write(writer, x, *(getattr(layer, name) for name in settings))


LAYERS: dict[type[nn.Module], Callable] = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm_layer,
    nn.Linear: _linear,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool1d: _average_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool1d: _global_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.ReLU: _layer(_RELU),
    nn.ReLU6: _layer(_relu6),
    nn.Hardswish: _layer(_HARDSWISH),
    nn.SiLU: _layer(_silu),
    nn.LeakyReLU: _layer(_leaky_relu, "negative_slope"),
    nn.ELU: _layer(_elu, "alpha"),
    nn.Tanh: _layer(_ELEMENTWISE["tanh"]),
    nn.Sigmoid: _layer(_SIGMOID),
    nn.Hardsigmoid: _layer(_HARDSIGMOID),
    nn.GELU: _layer(_gelu, "approximate"),
    nn.Flatten: _layer(_flatten, "start_dim", "end_dim"),
    nn.Identity: lambda writer, layer, x: x.name,
    nn.Dropout: lambda writer, layer, x: x.name,
}

FUNCTIONS: dict[Callable | str, Callable] = {  # a string is a method of tensors
    **{getattr(torch, name): write for name, write in _ELEMENTWISE.items()},
    **_ELEMENTWISE,
    operator.neg: _ELEMENTWISE["neg"],
    operator.add: _ADD,
    operator.sub: _SUBTRACT,
    operator.mul: _MULTIPLY,
    operator.truediv: _DIVIDE,
    operator.pow: _power,
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
    F.relu: _RELU,
    F.relu6: _relu6,
    F.leaky_relu: _leaky_relu,
    F.elu: _elu,
    F.gelu: _gelu,
    F.hardsigmoid: _HARDSIGMOID,
    F.hardswish: _HARDSWISH,
    F.silu: _silu,
    F.pad: _pad,
    F.interpolate: _interpolate,
    getattr: _shape,
    torch.transpose: _transpose,
    "transpose": _transpose,
    F.conv1d: _convolve,
    F.conv2d: _convolve,
    "unflatten": _unflatten,
    torch.group_norm: _group_norm,
}

# what these give may be the very memory of what they were given
VIEWS = {
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    operator.getitem,
    torch.flatten,
    "flatten",
    torch.transpose,
    "transpose",
    "unflatten",
}
