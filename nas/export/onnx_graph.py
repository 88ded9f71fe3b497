"""The ONNX graph of an exported subnet, written directly while walking its layers.

A subnet is plain layers, small modules that compose them, and no control flow that depends on data, so
one symbolic trace shows everything it does; the tables of `nas.export.onnx_layers` say what each step is in
ONNX. That takes tens of milliseconds where `torch.onnx.export` takes seconds, and it is
what the devices measure. A batch norm that follows a convolution is folded into it, as in deployment; not into
one that stands in several places, whose weights are written once: folding would make several of them.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from inspect import Signature, signature

import numpy as np
import torch
from onnx import AttributeProto, NodeProto, TensorProto, helper
from torch import Tensor, fx, nn

from nas.export.onnx_layers import FUNCTIONS, LAYERS, VIEWS, UnknownModule, Value
from nas.loggers import only_errors
from supernets.spatial import BATCH_NORMS

OPSET, IR_VERSION = 20, 10  # the first opset with Gelu; the format that ONNX Runtime reads since 1.18
KINDS = {np.float32: TensorProto.FLOAT, np.int64: TensorProto.INT64}

logger = logging.getLogger(__name__)
_told: set[str] = set()  # what this process has said not to know

Weight = tuple[str, tuple[int, ...], bytes]  # name, shape, values


def onnx_of(subnet: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    """The ONNX model of any network: directly if its layers are known, else by `torch.onnx.export`.

    Both compute the same, the second after seconds; the log then says what was not known, once of each thing.
    """
    try:
        return to_onnx(subnet, input_shape)
    except UnknownModule as unknown:
        if unknown.what not in _told:
            _told.add(unknown.what)
            logger.warning(
                "%s; exporting with torch.onnx.export instead, which takes seconds for each network (CONTRIBUTING.md "
                "says what is written directly)",
                unknown,
            )
    # torch's exporter warns of every package that it could have used
    with warnings.catch_warnings(), only_errors("torch.onnx"):
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


def to_onnx(subnet: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    """The ONNX model of a network of known layers: "images" (N, C, H, W) float32 in, "logits" out, any N.

    The network must be in evaluation mode and is not changed. While it is traced, no other thread of this
    process may run a torch module.

    Raises:
        UnknownModule: a layer or function that the tables do not know; the message says where.
        ValueError: the network is in training mode, not float32, or does not take such images.
    """
    return _written(subnet, input_shape).model().SerializeToString()


def to_onnx_with_ends(
    subnet: nn.Module, input_shape: tuple[int, ...]
) -> tuple[bytes, dict[str, tuple[str, ...]]]:
    """As `to_onnx`, and by the name of each step of the trace the tensors of the model that it gives."""
    writer = _written(subnet, input_shape)
    return writer.model().SerializeToString(), writer.ends


def _written(subnet: nn.Module, input_shape: tuple[int, ...]) -> Writer:
    """The writer that has run the whole network."""
    for path, module in subnet.named_modules():
        if module.training:
            raise ValueError(f"{path or 'the network'} is in training mode; call .eval() before exporting it")
    for name, tensor in subnet.named_parameters():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; the ONNX graph is written for torch.float32 only")
    writer = Writer(*traced(subnet))
    try:
        with torch.no_grad():
            writer.run(_zeros(subnet, (1, *input_shape)))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the network does not take images of {tuple(input_shape)}: {reason}") from error
    return writer


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


def traced(subnet: nn.Module) -> tuple[nn.Module, fx.Graph]:
    """A network of known layers step by step, each layer of the table as one; and the network that the steps are of,
    another one where it is a single layer.

    Raises:
        UnknownModule: it cannot be traced, or takes more than images; the message says where.
    """
    if type(subnet) in LAYERS:
        subnet = nn.Sequential(subnet)
    tracer = _Tracer()
    try:
        graph = tracer.trace(subnet)
    except (ValueError, TypeError, RuntimeError, NameError) as error:  # what untraceable Python ends in
        place, reason = _place(tracer.module_stack, subnet), " ".join(str(error).split())
        raise UnknownModule(f"{place} cannot be traced: {reason}", what=reason) from error
    inputs = sum(node.op == "placeholder" for node in graph.nodes)
    if inputs != 1:
        raise UnknownModule(f"{_place({}, subnet)} takes {inputs} inputs, not images alone")
    return subnet, graph


def _place(stack: dict[str, tuple[str, type]] | None, subnet: nn.Module) -> str:
    """The innermost of the modules that were being run."""
    path, kind = next(reversed((stack or {}).values()), ("the network", type(subnet)))
    return f"{path} ({kind.__module__}.{kind.__qualname__})"


class Writer(fx.Interpreter):
    """Runs the traced network on one blank image, for the shapes, and writes each step as ONNX."""

    def __init__(self, subnet: nn.Module, traced: fx.Graph):
        super().__init__(subnet, graph=traced)
        self.extra_traceback = False
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.values: dict[fx.Node, Value | list[Value]] = {}
        self.names = {"images", "logits"}
        self.folded: set[fx.Node] = set()  # batch norms that are in the convolution before them
        self.calls = Counter(node.target for node in traced.nodes if node.op == "call_module")
        self.layers = {path: subnet.get_submodule(path) for path in self.calls}
        self.weight_names: dict[Weight, str] = {}  # of what was written, by what it is
        self.node: fx.Node  # the step being written
        self.shape: torch.Size | tuple[torch.Size, ...]  # of what it gives, or of each part

    def run_node(self, node: fx.Node):
        result = super().run_node(node)
        self.node = node
        self.shape = fx.node.map_aggregate(result, lambda one: getattr(one, "shape", None))
        try:
            name = self.written()
        except UnknownModule as unknown:
            place = _place(node.meta.get("nn_module_stack"), self.module)
            raise UnknownModule(f"{place}: {unknown}", what=str(unknown)) from None
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
            layer = self.layers[node.target]
            if layer._forward_hooks or layer._forward_pre_hooks:
                raise UnknownModule("a layer with hooks is not known")
            if getattr(layer, "inplace", False):
                options["inplace"] = True
            arguments = (layer, *arguments)
        if options.pop("inplace", False) and self.is_shared(node.args[0]):
            raise UnknownModule("overwriting a tensor that others read is not known")
        try:
            _signature(write).bind(self, *arguments, **options)
        except TypeError as error:
            raise UnknownModule(f"{getattr(kind, '__name__', kind)} is not known so: {error}") from None
        return write(self, *arguments, **options)

    def kind(self, node: fx.Node) -> type | Callable | str:
        """A layer's type, a function, or the name of a method: what the tables go by."""
        return type(self.layers[node.target]) if node.op == "call_module" else node.target

    def is_shared(self, node: fx.Node) -> bool:
        """Whether anything but the step being written may read what that node gives."""
        return len(node.users) > 1 or self.kind(node) in VIEWS

    def norm_after(self) -> nn.Module | None:
        """The batch norm that alone takes what the step gives; from now on it counts as folded. None after a
        layer that others use too."""
        users = list(self.node.users)
        if (
            self.calls[self.node.target] > 1
            or len(users) != 1
            or users[0].op != "call_module"
            or self.kind(users[0]) not in BATCH_NORMS
        ):
            return None
        norm = self.layers[users[0].target]
        if norm.running_mean is None:
            return None
        self.folded.add(users[0])
        return norm

    def add(self, op: str, *inputs: str, outputs: int | None = None, **attributes) -> str | list[str]:
        """Append one ONNX node; returns the name of its output, or with `outputs` their names."""
        names = [self.unique(self.node.name) for _ in range(outputs or 1)]
        written = [_attribute(key, value) for key, value in sorted(attributes.items())]
        self.nodes.append(NodeProto(op_type=op, input=inputs, output=names, name=names[0], attribute=written))
        return names if outputs else names[0]

    def weight(self, name: str, tensor: Tensor) -> str:
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
            raise UnknownModule(f"{name} is not a tensor of float32")
        values = tensor.detach().cpu().numpy()
        known = name, values.shape, values.tobytes()
        if known not in self.weight_names:  # a layer that stands in several places has one name
            self.weight_names[known] = self.constant(name, values, np.float32)
        return self.weight_names[known]

    def integers(self, name: str, values: Sequence[int]) -> str:
        return self.constant(f"{self.node.name}.{name}", list(values), np.int64)

    def operand(self, one: Value | float) -> str:
        """The name of a tensor, or of a constant with that number."""
        if isinstance(one, Value):
            if not one.name:
                raise UnknownModule("a size as an operand is not known")
            return one.name
        if isinstance(one, (int, float)):
            return self.constant(f"{self.node.name}.constant", one, np.float32)
        raise UnknownModule(f"{type(one).__name__} as an operand is not known")

    def constant(self, name: str, values: object, kind: type) -> str:
        name = self.unique(name)
        values = np.ascontiguousarray(values, kind)
        self.weights.append(
            TensorProto(name=name, dims=values.shape, data_type=KINDS[kind], raw_data=values.tobytes())
        )
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

    @property
    def ends(self) -> dict[str, tuple[str, ...]]:
        """By the name of each step, the tensors of the graph that it gives, once the traced network has run."""
        ends = {
            node.name: tuple(one.name for one in (given if isinstance(given, list) else [given]))
            for node, given in self.values.items()
        }
        [(last, *_)] = (node.args for node in self.values if node.op == "output")
        return ends | {last.name: ends["output"]}

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


@cache
def _signature(write: Callable) -> Signature:
    return signature(write)


def _attribute(key: str, value: int | float | str | Sequence[int]) -> AttributeProto:
    """As `onnx.helper.make_attribute`, without asking each value which of a dozen kinds it is."""
    if isinstance(value, str):
        return AttributeProto(name=key, type=AttributeProto.STRING, s=value.encode())
    if isinstance(value, float):
        return AttributeProto(name=key, type=AttributeProto.FLOAT, f=value)
    if isinstance(value, int):
        return AttributeProto(name=key, type=AttributeProto.INT, i=int(value))
    return AttributeProto(name=key, type=AttributeProto.INTS, ints=value)
