"""The devices: where and how latency is measured. One file each, registered here.

A device is a frozen dataclass: its fields are its settings, the keys of the `device:` section of an
experiment file, and what is stored with every number it measures. `available` says whether this machine
has it, `unusable` whether with these settings, `measure` times a network; what they all do alike is in
`nas.hardware.runtime`. torch and the runtimes are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar, Protocol

from nas.hardware.onnxruntime_cpu import OnnxRuntimeCpu
from nas.hardware.onnxruntime_cuda import OnnxRuntimeCuda
from nas.hardware.openvino_cpu import OpenVinoCpu
from nas.hardware.torch_cpu import TorchCpu
from nas.hardware.torch_cuda import TorchCuda
from nas.storage.records import Latency
from search_spaces.strict import check_keys, unknown

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

DEFAULT = OnnxRuntimeCpu.name
DEVICES: dict[str, type] = {
    one.name: one for one in (OnnxRuntimeCpu, OnnxRuntimeCuda, OpenVinoCpu, TorchCpu, TorchCuda)
}


class Device(Protocol):
    name: ClassVar[str]

    @classmethod
    def available(cls) -> str | None:
        """None if this machine has the device, else one line: why not, and how to get it."""

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the runtime and what it stands on, where it is available."""

    def unusable(self) -> str | None:
        """None if this machine can do what the settings say, else one line: why not, and what to use."""

    def unprofiled(self) -> str | None:
        """None if a profile tells what the steps of a network take, else one line: why none does."""

    def measure(self, subnet: nn.Module, input_shape: tuple[int, ...], kernels: bool = False) -> Latency:
        """The time of one batch of images (C, H, W), or signals (C, L), through a network in evaluation mode."""

    def measure_all(
        self, networks: Iterable[tuple[nn.Module, tuple[int, ...]]], kernels: bool = False
    ) -> Iterator[Latency]:
        """As `measure`, of several networks in turns, each with its input's shape; in the order of the networks."""

    def logits(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> np.ndarray:
        """What the device answers to the fixed images that it is timed on, (N, classes) float32."""


def device(section: Mapping[str, object]) -> Device:
    """The device of an experiment file's `device:` section, `{"name": "torch-cpu", "threads": 1}`.

    Raises:
        ValueError: an unknown name or setting, a value that is not allowed, or this machine lacks it.
    """
    chosen = declared(section)
    if reason := chosen.available() or chosen.unusable():
        raise ValueError(f"device.name {chosen.name!r} cannot be used here: {reason}")
    return chosen


def declared(section: Mapping[str, object]) -> Device:
    """As `device`, whether or not this machine has it: for what is measured on another."""
    if not isinstance(section, Mapping):
        raise ValueError(f"device is {section!r}; it must be a section with a name and settings")
    if "resources" in section:
        raise ValueError(
            "the device is on another node of a Ray cluster, so only candidates of a search with --workers are "
            "measured on it; leave resources out to measure here"
        )
    name = section.get("name", DEFAULT)
    if name not in list(DEVICES):  # a list, since what people write need not be hashable
        raise unknown(f"device.name {name!r}", name, DEVICES)
    kind = DEVICES[name]
    check_keys("device", section, ["name", *(field.name for field in fields(kind))])
    return kind(**{key: value for key, value in section.items() if key != "name"})


__all__ = ["DEFAULT", "DEVICES", "Device", "declared", "device"]
