"""Latency of finished networks, exports or any ONNX files, on one device or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.hardware import DEVICES, Device, device
from nas.hardware.runtime import OnnxRuntime, in_turns
from nas.storage.records import Latency
from search_spaces.strict import parse_yaml

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Network:
    """A network to be measured, as it lies on the disk."""

    path: Path  # of an export's folder, or of an ONNX file
    model: bytes  # ONNX
    input_shape: tuple[int, ...]  # of one input: C, H, W or C, L
    module: Callable[[], nn.Module] | None = None  # what makes it for PyTorch, where that can be


@dataclass(frozen=True)
class Measured:
    """One network on one device."""

    network: Network
    latency: Latency


def read_network(path: Path, shape: Sequence[int] | None = None) -> Network:
    """An export's folder, or an ONNX file.

    Args:
        shape: of one input, for an ONNX file that leaves it open.

    Raises:
        FileNotFoundError: there is nothing, or a folder that is no export.
        ValueError: it is no ONNX model of one input, or its shape is open, or another than `shape`.
    """
    if path.is_dir():
        card = path / "card.json"
        if not card.is_file() or not (path / "model.onnx").is_file():
            raise FileNotFoundError(f"{path} is no export: give a folder of `nas export`, or an ONNX file")
        path_of_model = path / "model.onnx"
    elif path.is_file():
        path_of_model = path
    else:
        raise FileNotFoundError(f"there is no {path}; give a folder of `nas export`, or an ONNX file")
    model, found = _read_onnx(path_of_model)
    module = partial(_load, path) if path.is_dir() else None
    return Network(path, model, _agreed(path, found, shape), module)


def read_devices(given: Sequence[str], common: Mapping[str, Any]) -> list[Device]:
    """Devices as they are named on the command line, "openvino-cpu,precision=bfloat16".

    Args:
        common: settings of all of them, which its own settings replace.

    Raises:
        ValueError: as `nas.hardware.device`; or a setting is not written as setting=value.
    """
    return [device(section) for section in (_section(one, common) for one in given)]


def check(networks: Sequence[Network], devices: Sequence[Device]) -> None:
    """Raise ValueError if some network cannot be measured on some device, before any is."""
    for one in devices:
        for network in networks:
            if not isinstance(one, OnnxRuntime) and network.module is None:
                onnx = ", ".join(name for name, kind in DEVICES.items() if issubclass(kind, OnnxRuntime))
                raise ValueError(
                    f"{one.name} cannot run the ONNX file {network.path}; give a folder of `nas export`, or a device "
                    f"of {onnx}"
                )


def measure(
    networks: Sequence[Network], devices: Sequence[Device], kernels: bool = False
) -> Iterator[Measured]:
    """Every network on every device, as they come: on each device a few networks take turns. Nothing else runs in this
    process meanwhile.

    Raises:
        ValueError: as `check`, or a runtime does not take a network.
    """
    check(networks, devices)
    for some in in_turns(networks):
        for one in devices:
            for network, latency in zip(some, _measured(some, one, kernels), strict=True):
                yield Measured(network, latency)


def _measured(networks: Sequence[Network], on: Device, kernels: bool) -> Iterator[Latency]:
    if isinstance(on, OnnxRuntime):
        return on.measure_onnx([(one.model, one.input_shape) for one in networks], kernels)
    return on.measure_all(((one.module(), one.input_shape) for one in networks), kernels)


def _load(folder: Path) -> nn.Module:
    from nas.export.checkpoint import load_subnet

    return load_subnet(folder)


def _section(given: str, common: Mapping[str, Any]) -> dict[str, Any]:
    name, *settings = given.split(",")
    own: dict[str, Any] = {}
    for one in settings:
        key, equals, text = one.partition("=")
        if not equals or not key:
            raise ValueError(
                f"--device {given}: write NAME,SETTING=VALUE, such as openvino-cpu,precision=bfloat16"
            )
        own[key] = parse_yaml(text, f"--device {given}")
    allowed = {one.name for one in fields(DEVICES[name])} if name in DEVICES else common
    return {"name": name, **{key: value for key, value in common.items() if key in allowed}, **own}


def _read_onnx(path: Path) -> tuple[bytes, tuple[int | None, ...]]:
    """A model with all its weights, and the shape of one input, None where it is open."""
    import onnx

    try:
        model = onnx.load(path)  # with weights that lie in files beside it
    except Exception as error:  # of protobuf, or of a file beside it
        raise ValueError(f"{path} is no ONNX model ({' '.join(str(error).split())[:200]})") from None
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs) or "none"
        raise ValueError(
            f"{path} takes {len(inputs)} inputs ({names}); only networks of images alone are measured"
        )
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ValueError(f"{path} takes {kind}; only networks that take FLOAT are measured")
    _, *shape = [one.dim_value if one.HasField("dim_value") else None for one in tensor.shape.dim] or [None]
    return model.SerializeToString(), tuple(shape)


def _agreed(path: Path, found: tuple[int | None, ...], given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of one input, by the model and what was given."""
    if given is None:
        if not found or None in found:
            told = "×".join("?" if one is None else str(one) for one in found) or "unknown"
            raise ValueError(f"the input of {path} is {told}; say its size, such as --shape 3,32,32")
        return found
    fits = len(found) == len(given) and all(
        one in (None, size) for one, size in zip(found, given, strict=True)
    )
    if found and not fits:
        told = ",".join("?" if one is None else str(one) for one in found)
        raise ValueError(f"--shape is {','.join(map(str, given))}; the input of {path} is {told}")
    return tuple(given)


def read_shape(text: str) -> tuple[int, ...]:
    """`3,32,32` as numbers.

    Raises:
        ValueError: it is something else.
    """
    try:
        shape = tuple(int(one) for one in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(f"--shape is {text!r}; write the size of one input, such as 3,32,32")
    return shape
