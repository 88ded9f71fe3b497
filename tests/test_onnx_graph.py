"""The ONNX graph computes what the network computes, whatever known layers it is made of; what is not known is said."""

from __future__ import annotations

import logging
import operator
import re
import time
from copy import deepcopy
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.export.onnx_graph import onnx_of, to_onnx
from nas.export.onnx_layers import FUNCTIONS, LAYERS, UnknownModule
from search_spaces import read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS
from supernets.spatial import BATCH_NORMS
from supernets.supernet import Supernet

SHAPE = (4, 9, 7)


class Does(nn.Module):
    """A module with one expression as its forward; its layers are known to it by number."""

    def __init__(self, forward, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self.register_buffer("shift", torch.randn(4, 1, 1))
        self.do = forward

    def forward(self, x):
        return self.do(self, x)


def does(expression, *layers):
    return lambda: Does(expression, *layers)


def ready(network: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with batch-norm statistics as unlike 0 and 1 as training makes them."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.2, 2.0, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, 0, 0.5, generator=generator)
    return network.eval()


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def difference(model: bytes, network: nn.Module, images: torch.Tensor) -> float:
    """The largest difference of the graph's output to the network's, relative to its largest value."""
    with torch.no_grad():
        expected = network(images).numpy()
    (given,) = session(model).run(["logits"], {"images": images.numpy()})
    assert given.shape == expected.shape
    return float(abs(given - expected).max() / abs(expected).max())


def nodes(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def signal(layer):
    """The layer on the images' rows, one after the other: (N, 4, 63)."""
    return lambda: nn.Sequential(nn.Flatten(2), layer())


LAYER_CASES = {
    nn.Conv1d: [
        signal(lambda: nn.Conv1d(4, 6, 5, stride=2, padding=4, dilation=2, groups=2)),
        signal(lambda: nn.Conv1d(4, 6, 4, padding="same", bias=False)),
        signal(lambda: nn.Conv1d(4, 6, 4, padding="valid")),
    ],
    nn.BatchNorm1d: [
        signal(lambda: nn.BatchNorm1d(4)),
        signal(lambda: nn.Sequential(nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6))),
    ],
    nn.MaxPool1d: [
        signal(lambda: nn.MaxPool1d(3, 2, 1)),
        signal(lambda: nn.MaxPool1d(3, 2, dilation=2)),
        signal(lambda: nn.MaxPool1d(2, 3, 1, ceil_mode=True)),
    ],
    nn.AvgPool1d: [
        signal(lambda counted=counted, ceil=ceil: nn.AvgPool1d(4, 3, 1, ceil, counted))
        for counted in (True, False)
        for ceil in (True, False)
    ],
    nn.AdaptiveAvgPool1d: [signal(lambda: nn.AdaptiveAvgPool1d(1))],
    nn.Conv2d: [
        lambda: nn.Conv2d(4, 6, 3),
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        lambda: nn.Conv2d(4, 8, (5, 3), stride=(2, 1), padding=(4, 1), dilation=(2, 1), groups=2),
        lambda: nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4, bias=False),
        lambda: nn.Conv2d(4, 6, 4, padding="same"),
        lambda: nn.Conv2d(4, 6, 4, padding="valid"),
    ],
    nn.BatchNorm2d: [
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, affine=False, eps=0.1),
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)),
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=1e-3)),
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
        does(
            lambda self, x: self.layers[1](y := self.layers[0](x)) + y, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        ),
        does(  # one convolution before two norms
            lambda self, x: self.layers[1](self.layers[0](x)) + self.layers[2](self.layers[0](x)),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
            nn.BatchNorm2d(4),
        ),
    ],
    nn.GroupNorm: [
        lambda: nn.GroupNorm(2, 4),
        lambda: nn.GroupNorm(4, 4, eps=0.1, affine=False),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(1, 4)),
        signal(lambda: nn.GroupNorm(1, 4)),
    ],
    nn.Linear: [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 9 * 7, 5)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 9 * 7, 5, bias=False)),
        lambda: nn.Linear(7, 5),
        lambda: nn.Linear(7, 5, bias=False),
    ],
    nn.MaxPool2d: [
        lambda: nn.MaxPool2d(2),
        lambda: nn.MaxPool2d(3, 2, 1),
        lambda: nn.MaxPool2d((2, 3), (2, 3), (1, 0), dilation=(2, 1)),
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        lambda: nn.MaxPool2d(2, 3, 1, ceil_mode=True),
    ],
    nn.AvgPool2d: [
        *(
            lambda counted=counted, ceil=ceil, kernel=kernel, stride=stride, pad=pad: nn.AvgPool2d(
                kernel, stride, pad, ceil_mode=ceil, count_include_pad=counted
            )
            for counted in (True, False)
            for ceil in (True, False)
            for kernel, stride, pad in ((2, None, 0), (3, 2, 1), ((4, 2), (3, 2), (2, 1)), (2, 3, 1))
        ),
    ],
    nn.AdaptiveAvgPool2d: [lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.AdaptiveAvgPool2d((1, 1))],
    nn.ReLU: [nn.ReLU, lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))],
    nn.ReLU6: [lambda: nn.Sequential(nn.Conv2d(4, 40, 5, padding=20), nn.ReLU6())],
    nn.Hardswish: [nn.Hardswish],
    nn.SiLU: [nn.SiLU],
    nn.LeakyReLU: [nn.LeakyReLU, lambda: nn.LeakyReLU(1)],
    nn.ELU: [nn.ELU, lambda: nn.ELU(2)],
    nn.Tanh: [nn.Tanh],
    nn.Sigmoid: [nn.Sigmoid],
    nn.Hardsigmoid: [nn.Hardsigmoid],
    nn.GELU: [nn.GELU, lambda: nn.GELU("tanh")],
    nn.Flatten: [nn.Flatten, lambda: nn.Flatten(2), lambda: nn.Flatten(-3, -2)],
    nn.Identity: [nn.Identity, lambda: nn.Sequential(nn.ReLU(), nn.Identity())],
    nn.Dropout: [lambda: nn.Sequential(nn.Dropout(), nn.ReLU(), nn.Dropout(0.9))],
}

FUNCTION_CASES = {
    operator.add: [
        does(lambda self, x: x + self.layers[0](x), nn.ReLU()),
        does(lambda self, x: 2 + x + 0.5),
        does(lambda self, x: x + self.scale + self.shift),
    ],
    torch.add: [does(lambda self, x: torch.add(x, other=torch.relu(x)))],
    "add": [does(lambda self, x: x.add(1).add(other=self.scale))],
    operator.mul: [
        does(
            lambda self, x: x * self.layers[0](x), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
        ),
        does(lambda self, x: 3 * x),
        does(lambda self, x: x * self.scale),
    ],
    torch.mul: [does(lambda self, x: torch.mul(x, x))],
    "mul": [does(lambda self, x: x.mul(x.mul(2)))],
    operator.neg: [does(lambda self, x: -x)],
    operator.sub: [does(lambda self, x: x - self.scale), does(lambda self, x: 1 - x - 0.5)],
    torch.sub: [does(lambda self, x: torch.sub(x, other=self.scale))],
    "sub": [does(lambda self, x: x.sub(2))],
    operator.truediv: [does(lambda self, x: x / (x * x + 1)), does(lambda self, x: 2 / (x * x + 1) / 3)],
    torch.div: [does(lambda self, x: torch.div(x, self.scale))],
    "div": [does(lambda self, x: x.div(3))],
    operator.pow: [
        does(lambda self, x: x**2 - x**3),
        does(lambda self, x: 2**x),
        does(lambda self, x: x.abs() ** x),
    ],
    torch.pow: [does(lambda self, x: torch.pow(x, exponent=2)), does(lambda self, x: torch.pow(2, x))],
    "pow": [does(lambda self, x: x.abs().pow(0.5))],
    torch.minimum: [does(lambda self, x: torch.minimum(x, self.scale))],
    "minimum": [does(lambda self, x: x.minimum(-x))],
    torch.maximum: [does(lambda self, x: torch.maximum(x, other=self.scale))],
    "maximum": [does(lambda self, x: x.maximum(-x))],
    **{
        clamp: [
            does(lambda self, x, clamp=clamp: torch_or_method(clamp, x, -0.5, 1)),
            does(lambda self, x, clamp=clamp: torch_or_method(clamp, x, min=0)),
            does(lambda self, x, clamp=clamp: torch_or_method(clamp, x, max=0.5)),
            does(lambda self, x, clamp=clamp: torch_or_method(clamp, x, 1, -1)),
        ]
        for clamp in (torch.clamp, "clamp", torch.clip, "clip")
    },
    **{
        function: [does(lambda self, x, function=function: torch_or_method(function, positive(x)))]
        for name in ("sqrt", "rsqrt", "log", "reciprocal")
        for function in (getattr(torch, name), name)
    },
    **{
        function: [does(lambda self, x, function=function: torch_or_method(function, 2 * x))]
        for name in (
            "neg",
            "abs",
            "sign",
            "square",
            "exp",
            "sin",
            "cos",
            "tanh",
            "erf",
            "floor",
            "ceil",
            "round",
        )
        for function in (getattr(torch, name), name)
    },
    operator.getitem: [
        does(lambda self, x: x[:, :, ::2, ::2]),
        does(lambda self, x: x[:, 1:-1, 2:, :-3]),
        does(lambda self, x: x[..., 1:5:3]),
        does(lambda self, x: x[:, :2] * x[:, 2:, :]),
        does(lambda self, x: x[:, :, ::1]),
    ],
    torch.cat: [
        does(lambda self, x: torch.cat([x, x * 2], dim=1)),
        does(lambda self, x: torch.cat((x, x, x), -1)),
    ],
    torch.split: [
        does(lambda self, x: torch.cat(torch.split(x, [1, 3], dim=1)[::-1], 1)),
        does(lambda self, x: torch.split(x, 2, 2)[4]),
    ],
    "split": [does(lambda self, x: x.split([3, 1], 1)[1] + x.split(1, dim=1)[0])],
    torch.chunk: [
        does(lambda self, x: torch.chunk(x, 3, dim=2)[2]),
        does(lambda self, x: torch.chunk(x, 3, 1)[1]),
    ],
    "chunk": [does(lambda self, x: swapped(x))],
    torch.mean: [does(lambda self, x: torch.mean(x, (2, 3)))],
    "mean": [
        does(lambda self, x: x.mean((2, 3), keepdim=True)),
        does(lambda self, x: x.mean(dim=[-1, -2])),
        does(lambda self, x: x.mean(1, True)),
    ],
    torch.flatten: [does(lambda self, x: torch.flatten(x, 1))],
    "flatten": [does(lambda self, x: x.flatten(1)), does(lambda self, x: x.flatten(start_dim=2))],
    torch.relu: [does(lambda self, x: torch.relu(x))],
    "relu": [does(lambda self, x: x.relu())],
    F.relu: [does(lambda self, x: F.relu(x)), does(lambda self, x: F.relu(x * 1, inplace=True))],
    torch.sigmoid: [does(lambda self, x: torch.sigmoid(x))],
    "sigmoid": [does(lambda self, x: x.sigmoid())],
    F.hardsigmoid: [does(lambda self, x: F.hardsigmoid(x))],
    F.hardswish: [does(lambda self, x: F.hardswish(x))],
    F.silu: [does(lambda self, x: F.silu(x))],
    F.relu6: [does(lambda self, x: F.relu6(5 * x))],
    F.leaky_relu: [
        does(lambda self, x: F.leaky_relu(x, 0.2)),
        does(lambda self, x: F.leaky_relu(x * 1, inplace=True)),
    ],
    F.elu: [does(lambda self, x: F.elu(x)), does(lambda self, x: F.elu(x, alpha=0.5))],
    F.gelu: [does(lambda self, x: F.gelu(x)), does(lambda self, x: F.gelu(x, approximate="tanh"))],
    F.pad: [
        does(lambda self, x: F.pad(x, (1, 2, 3, 0))),
        does(lambda self, x: F.pad(x, (0, 1), value=-2.5)),
        does(lambda self, x: F.pad(x, (0, 0, 0, 0, 2, 1), "constant", 1)),
        does(lambda self, x: F.pad(x, (-1, 2))),
    ],
    F.interpolate: [
        does(lambda self, x: F.interpolate(x[:, :, ::2, ::3], size=x.shape[2:], mode="bilinear")),
        does(lambda self, x: F.interpolate(x, (1, 20), mode="bilinear", align_corners=False)),
        signal(does(lambda self, x: F.interpolate(x[:, :, ::2], x.shape[2:], mode="linear"))),
        does(lambda self, x: F.interpolate(x[:, :, :1, :1], x.shape[2:], mode="bilinear")),
    ],
    getattr: [does(lambda self, x: F.interpolate(x[:, :, 1:, ::2], x.shape[-2:], mode="bilinear"))],
    torch.transpose: [does(lambda self, x: torch.transpose(x, 1, -1))],
    "transpose": [does(lambda self, x: x.transpose(2, 1)), does(lambda self, x: x.transpose(dim0=3, dim1=2))],
    F.conv1d: [
        does(
            lambda self, x: F.conv1d(x.flatten(2), self.layers[0].weight, stride=2, padding=1),
            nn.Conv1d(4, 6, 3),
        ),
    ],
    F.conv2d: [
        does(lambda self, x: F.conv2d(x, self.layers[0].weight, self.layers[0].bias), nn.Conv2d(4, 6, 3)),
        does(
            lambda self, x: F.conv2d(x, self.layers[0].weight, None, (2, 1), (0, 2), (1, 2), groups=2),
            nn.Conv2d(4, 6, 3, groups=2),
        ),
    ],
    "unflatten": [does(lambda self, x: x.unflatten(1, (2, 2)).flatten(2, 3))],
    torch.group_norm: [
        does(lambda self, x: torch.group_norm(x + 3, 2)),
        does(lambda self, x: torch.group_norm(x.flatten(2), 4, eps=0.1)),
        does(
            lambda self, x: torch.group_norm(x, 2, self.layers[0].running_mean, self.layers[0].running_var),
            nn.BatchNorm2d(4),
        ),
    ],
}


def torch_or_method(function, x, *arguments, **options):
    """A function of torch, or the method of tensors by that name."""
    if isinstance(function, str):
        return getattr(x, function)(*arguments, **options)
    return function(x, *arguments, **options)


def positive(x):
    return x * x + 0.1


def swapped(x):
    a, b = x.chunk(2, dim=1)
    return torch.cat([b, a], 1)


def named(cases):
    for kind, builders in cases.items():
        for number, build in enumerate(builders):
            yield pytest.param(build, id=f"{getattr(kind, '__name__', kind)}-{number}")


def test_every_entry_of_the_tables_has_its_cases():
    assert LAYER_CASES.keys() == LAYERS.keys()
    assert FUNCTION_CASES.keys() == FUNCTIONS.keys()


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # with an even kernel; torch would be slow there
@pytest.mark.parametrize("build", [*named(LAYER_CASES), *named(FUNCTION_CASES)])
def test_every_known_layer_and_function_computes_the_same(build):
    torch.manual_seed(0)
    network = ready(build())

    model = to_onnx(network, SHAPE)

    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    for batch in (1, 5):
        assert difference(model, network, torch.randn(batch, *SHAPE)) < 1e-5


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        squeeze, excite = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.gate = nn.Sequential(squeeze, nn.ReLU(), excite, nn.Hardsigmoid())

    def forward(self, x):
        return x * self.gate(x.mean((2, 3), keepdim=True))


def bottleneck(width, out, kernel_size, stride):
    """An inverted bottleneck with squeeze-and-excitation."""
    hidden = 4 * width
    parts = [
        nn.Conv2d(width, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.Hardswish(),
        nn.Conv2d(hidden, hidden, kernel_size, stride, kernel_size // 2, groups=hidden, bias=False),
        nn.BatchNorm2d(hidden),
        nn.Hardswish(),
        SqueezeExcite(hidden),
        nn.Conv2d(hidden, out, 1, bias=False),
        nn.BatchNorm2d(out),
    ]
    return Residual(*parts) if stride == 1 and width == out else nn.Sequential(*parts)


def mobile(blocks: int) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    body += [bottleneck(8, 8, 3 + 2 * (number % 2), 1) for number in range(blocks - 1)]
    body += [bottleneck(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return ready(nn.Sequential(*body))


def test_the_graph_is_the_one_that_torch_exports():
    network, images = mobile(3), torch.randn(5, 3, 17, 15)

    ours, theirs = to_onnx(network, (3, 17, 15)), exported_by_torch(network, images)

    assert difference(ours, network, images) < 1e-5
    assert difference(theirs, network, images) < 1e-5
    assert nodes(ours).count("Conv") == nodes(theirs).count("Conv") == 16
    assert "BatchNormalization" not in nodes(ours)


def exported_by_torch(network, images) -> bytes:
    """What `onnx_of` gives when nothing is known."""
    known = dict(LAYERS)
    try:
        LAYERS.clear()
        return onnx_of(network, tuple(images.shape[1:]))
    finally:
        LAYERS.update(known)


def test_thirty_blocks_convert_many_times_faster_than_torch_exports_three():
    large, small = mobile(30), mobile(3)
    to_onnx(small, (3, 32, 32))

    ours = min(seconds(lambda: to_onnx(large, (3, 32, 32))) for _ in range(3))
    theirs = seconds(lambda: exported_by_torch(small, torch.randn(2, 3, 32, 32)))

    assert ours < theirs / 4


def seconds(run) -> float:
    """Processor time, which other processes do not lengthen."""
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_every_subnet_of_a_preset_is_known(preset):
    space = unroll(read_skeleton(preset), OPERATORS, ATTENTIONS, (3, 16, 16), classes=5)
    supernet = Supernet(space).eval()
    for seed in range(6):
        architecture = space.sample(Random(seed))
        subnet, shape = ready(supernet.export(architecture), seed), space.input_shape(architecture.resolution)

        model = to_onnx(subnet, shape)

        assert difference(model, subnet, torch.randn(3, *shape)) < 1e-5


def test_the_network_is_left_as_it_was():
    network = ready(
        nn.Sequential(mobile(2), nn.Unflatten(1, (2, 5)), does(lambda self, x: x * torch.ones(5))())
    )
    before, attributes = deepcopy(network.state_dict()), {m: set(vars(m)) for m in network.modules()}

    with pytest.raises(UnknownModule):
        to_onnx(network, (3, 16, 16))
    to_onnx(network[0], (3, 16, 16))

    assert attributes == {m: set(vars(m)) for m in network.modules()}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


UNKNOWN = {
    "layer": (lambda: nn.PReLU(4), r"1 \(.*PReLU\): PReLU is not known"),
    "function": (does(lambda self, x: torch.atan(x)), r"1 \(.*Does\): atan is not known"),
    "rounded division": (
        does(lambda self, x: torch.div(x, 2, rounding_mode="floor")),
        r"div is not known so: .*rounding_mode",
    ),
    "clamped to tensors": (does(lambda self, x: x.clamp(-self.scale)), "clamping to tensors"),
    "size": (does(lambda self, x: x / x.shape[2]), "a size as an operand"),
    "argument": (
        does(lambda self, x: torch.add(x, x, alpha=2)),
        r"1 \(.*Does\): add is not known so: .*alpha",
    ),
    "control flow": (
        does(lambda self, x: x if x.sum() > 0 else -x),
        r"1 \(.*Does\) cannot be traced: .*control flow",
    ),
    "constant": (
        does(lambda self, x: x * torch.ones(7)),
        r"1 \(.*Does\) cannot be traced: a tensor made in forward",
    ),
    "index": (does(lambda self, x: x[:, 0]), "an index other than slices"),
    "batch statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), "without running statistics"),
    "reflection": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
    "reflecting pad": (
        does(lambda self, x: F.pad(x, (1, 1, 1, 1), "reflect")),
        "padding with mode='reflect'",
    ),
    "interpolation": (
        does(lambda self, x: F.interpolate(x, scale_factor=2.0)),
        "interpolation with mode='nearest'",
    ),
    "attribute": (does(lambda self, x: x * x.real), "the attribute real is not known"),
    "divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), "divisor_override"),
    "adaptive": (lambda: nn.AdaptiveAvgPool2d(3), r"output_size=3 is not known, only 1"),
    "two outputs": (does(lambda self, x: (x, x)), "gives .* is not known"),
    "in place, read again": (
        does(lambda self, x: self.layers[0](y := x * 2) + y, nn.ReLU(inplace=True)),
        r"1.layers.0 \(.*ReLU\): overwriting a tensor that others read",
    ),
    "in place, on a view": (
        does(lambda self, x: self.layers[1](self.layers[0](x)) + x, nn.Identity(), nn.ReLU6(inplace=True)),
        "overwriting a tensor that others read",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_named_with_its_place(name):
    build, message = UNKNOWN[name]

    with pytest.raises(UnknownModule, match=message):
        to_onnx(ready(nn.Sequential(nn.Conv2d(4, 4, 1), build())), SHAPE)


def test_a_layer_with_hooks_is_not_known():
    network = ready(nn.Sequential(nn.ReLU(), nn.Sigmoid()))
    network[1].register_forward_hook(lambda layer, given, result: result * 2)

    with pytest.raises(UnknownModule, match="hooks"):
        to_onnx(network, SHAPE)


def test_what_is_not_known_is_exported_by_torch_and_said_aloud(caplog):
    network = ready(nn.Sequential(nn.Conv2d(4, 4, 1), nn.PReLU(4), nn.Flatten(), nn.Linear(4 * 9 * 7, 3)))

    with caplog.at_level(logging.WARNING, "nas.export"):
        model = onnx_of(network, SHAPE)

    assert "PReLU is not known; exporting with torch.onnx.export" in caplog.text
    for batch in (1, 5):
        assert difference(model, network, torch.randn(batch, *SHAPE)) < 1e-5


def test_what_is_not_known_is_said_once_wherever_it_stands_and_torch_says_nothing(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch"), "propagate", True)  # else the log does not reach caplog
    networks = [
        ready(nn.Sequential(*(nn.ReLU() for _ in range(depth)), does(lambda self, x: torch.atan(x))()))
        for depth in (1, 2)
    ]

    with caplog.at_level(logging.WARNING):
        for network in networks:
            onnx_of(network, SHAPE)

    [told] = caplog.messages
    assert told.startswith("1 (") and "atan is not known; " in told and "seconds for each network" in told


def test_what_the_guide_says_is_written_directly_is_in_the_tables():
    guide = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    elementwise = guide.partition("the elementwise ")[2].partition("(to numbers)")[0]

    named = re.findall(r"`(\w+)`", elementwise)

    assert len(named) > 20
    assert all(name in FUNCTIONS and getattr(torch, name) in FUNCTIONS for name in named)


def test_a_network_in_training_mode_is_refused():
    network = ready(mobile(2))
    network[4][1].train()

    for convert in (to_onnx, onnx_of):
        with pytest.raises(ValueError, match=r"4\.1 is in training mode; call \.eval\(\)"):
            convert(network, (3, 16, 16))


def test_other_precisions_and_wrong_images_are_refused():
    with pytest.raises(ValueError, match=r"0\.weight is torch\.float64"):
        to_onnx(ready(mobile(2)).double(), (3, 16, 16))
    with pytest.raises(ValueError, match=r"does not take images of \(1, 16, 16\): .*channels"):
        to_onnx(ready(mobile(2)), (1, 16, 16))


def test_weights_keep_their_names_so_that_a_graph_can_be_read():
    model = onnx.load_from_string(to_onnx(mobile(2), (3, 16, 16)))

    weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}

    assert {"0.weight", "0.bias", "3.0.weight", "3.6.gate.2.bias"} <= weights.keys()
    assert all(weight.dtype in (np.float32, np.int64) for weight in weights.values())
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert images.type.tensor_type.shape.dim[0].dim_param == "N"
