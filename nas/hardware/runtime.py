"""What every device does alike: load a network, time it, and a small reference network before and after it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.hardware.loaded import Loaded
from nas.hardware.settings import Settings
from nas.hardware.timing import check_ready, measure
from nas.storage.records import Latency

if TYPE_CHECKING:
    from torch import nn

REFERENCE_SHAPE = (3, 16, 16)


@dataclass(frozen=True)
class Runtime(Settings):
    """A device. One of its own writes `name`, `available`, `versions` and `load`, and what else differs."""

    name: ClassVar[str]
    executions: ClassVar[tuple[str, ...]] = ()  # what its setting `execution` may be, if it has that

    def load(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Loaded:
        """A network in evaluation mode on this device; the network given is not changed."""
        raise NotImplementedError

    def unusable(self) -> str | None:
        """Why these settings cannot be used on a machine that has the device, and what can; None if they can."""
        return None

    def conditions(self) -> AbstractContextManager:
        """What must hold while networks are loaded and run."""
        return nullcontext()

    def measure(self, subnet: nn.Module, input_shape: tuple[int, ...], kernels: bool = False) -> Latency:
        """The time of one batch of images (C, H, W), or signals (C, L), through a network in evaluation mode.

        Args:
            kernels: keep what the runtime's profile says of each step, too.
        """
        check_ready(subnet)
        with self.conditions():
            return measure(self, self.load(subnet, input_shape), input_shape, self.reference(), kernels)

    def logits(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> np.ndarray:
        """What the device answers to the fixed images that it is timed on, (N, classes) float32."""
        check_ready(subnet)
        with self.conditions():
            return self.load(subnet, input_shape).logits()

    def reference(self) -> Loaded:
        """A small network, always the same, by which drift of the machine is seen."""
        return _reference(type(self)(threads=self.threads, precision=self.precision))


@dataclass(frozen=True)
class OnnxRuntime(Runtime):
    """A device that runs ONNX models. One of its own writes `load_onnx`."""

    def load(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Loaded:
        from nas.export.onnx_graph import onnx_of

        return self.load_onnx(onnx_of(subnet, input_shape), input_shape)

    def load_onnx(self, model: bytes, input_shape: tuple[int, ...]) -> Loaded:
        """
        Raises:
            ValueError: the runtime does not take the model, or not such images.
        """
        raise NotImplementedError

    def measure_onnx(self, model: bytes, input_shape: tuple[int, ...], kernels: bool = False) -> Latency:
        """The time of one batch through any ONNX model that takes images alone."""
        with self.conditions():
            return measure(self, self.load_onnx(model, input_shape), input_shape, self.reference(), kernels)


@lru_cache(maxsize=4)
def _reference(device: Runtime) -> Loaded:
    return device.load(reference_network(), REFERENCE_SHAPE)


def reference_network() -> nn.Module:
    """Four convolutions of 2 million MACs together, with fixed weights; torch's random state is left alone."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            body += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def refusal(device: Runtime, error: Exception) -> ValueError:
    """What a runtime says of a network that it does not run, in one line."""
    said = " ".join(str(error).split())
    return ValueError(f"{device.name} does not run this network with batch {device.batch}: {said[:300]}")
