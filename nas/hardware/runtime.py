"""What every device does alike: load networks, and time them in turns with each other and a small reference network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from nas.hardware import machine, reuse
from nas.hardware.loaded import Loaded
from nas.hardware.settings import Settings, is_number
from nas.hardware.timing import TURNS, check_ready, measure, processor_name
from nas.storage.records import Latency

if TYPE_CHECKING:
    from torch import nn

REFERENCE_SHAPE = (3, 16, 16)
One = TypeVar("One")


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
        if self.threads > (most := machine.cores()):
            cores = f"{most} core{'s' * (most > 1)}"
            return f"threads is {self.threads}, but this process may use {cores}; use at most as many"
        return None

    def unprofiled(self) -> str | None:
        """Why nothing tells what the steps of a network take with these settings; None if a profile does."""
        return None

    def turns(self) -> int:
        """How many networks are measured in turns, at most."""
        return TURNS

    def conditions(self) -> AbstractContextManager:
        """What must hold while networks are loaded and run."""
        return nullcontext()

    def measure(self, subnet: nn.Module, input_shape: tuple[int, ...], kernels: bool = False) -> Latency:
        """The time of one batch of images (C, H, W), or signals (C, L), through a network in evaluation mode.

        Args:
            kernels: keep what the runtime's profile says of each step, too.
        """
        return next(self.measure_all([(subnet, input_shape)], kernels))

    def measure_all(
        self, networks: Iterable[tuple[nn.Module, tuple[int, ...]]], kernels: bool = False
    ) -> Iterator[Latency]:
        """As `measure`, of several networks in turns, a few at a time: the records in the order of the networks."""
        for some in in_turns(networks, self.turns()):
            for subnet, _ in some:
                check_ready(subnet)
            with self.conditions():
                loaded = [(self.load(subnet, shape), shape) for subnet, shape in some]
                records = measure(self, loaded, self.reference(), kernels)
            yield from records

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
    """A device that runs ONNX models. One of its own writes `load_onnx`.

    A measurement of the same graph that is at most `reuse_days` old is used again (`nas.hardware.reuse`).
    """

    reuse_days: float = 0

    def __post_init__(self):
        super().__post_init__()
        if not is_number(self.reuse_days) or not 0 <= self.reuse_days < math.inf:
            raise ValueError(
                f"device.reuse_days is {self.reuse_days!r}; it must be a number of days, 0 to measure each time"
            )

    def processor(self) -> str:
        """What does the work, by the name it has in the records."""
        return processor_name()

    def load(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Loaded:
        from nas.export.onnx_graph import onnx_of

        return self.load_onnx(onnx_of(subnet, input_shape), input_shape)

    def load_onnx(self, model: bytes, input_shape: tuple[int, ...]) -> Loaded:
        """
        Raises:
            ValueError: the runtime does not take the model, or not such images.
        """
        raise NotImplementedError

    def measure_all(
        self, networks: Iterable[tuple[nn.Module, tuple[int, ...]]], kernels: bool = False
    ) -> Iterator[Latency]:
        from nas.export.onnx_graph import onnx_of

        def models() -> Iterator[tuple[bytes, tuple[int, ...]]]:
            for subnet, input_shape in networks:
                check_ready(subnet)
                yield onnx_of(subnet, input_shape), input_shape

        return self.measure_onnx(models(), kernels)

    def measure_onnx(
        self,
        models: Iterable[tuple[bytes, tuple[int, ...]]],
        kernels: bool = False,
        reference: Loaded | None = None,
    ) -> Iterator[Latency]:
        """The time of one batch through any ONNX models that take images alone, measured in turns or used again.

        Args:
            models: each with the shape of its input, (C, H, W) or (C, L).
            reference: the network that shows drift; by default it is made here, which takes torch.
        """
        for some in in_turns(models, self.turns()):
            with self.conditions():
                records = self._measured_or_kept(some, kernels, reference or self.reference())
            yield from records

    def _measured_or_kept(
        self, models: Sequence[tuple[bytes, tuple[int, ...]]], kernels: bool, reference: Loaded
    ) -> list[Latency]:
        if not self.reuse_days:
            return measure(self, self._loaded(models), reference, kernels)
        of = [reuse.described(self, *one) for one in models]
        records = [reuse.kept(one, self.reuse_days, reference) for one in of]
        records = [one if one and (one.kernels or not kernels) else None for one in records]
        new = [place for place, one in enumerate(records) if one is None]
        loaded = self._loaded([models[place] for place in new])
        for place, record in zip(new, measure(self, loaded, reference, kernels), strict=True):
            reuse.keep(of[place], record)
            records[place] = record
        return records

    def _loaded(
        self, models: Iterable[tuple[bytes, tuple[int, ...]]]
    ) -> list[tuple[Loaded, tuple[int, ...]]]:
        return [(self.load_onnx(*one), one[1]) for one in models]


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


def in_turns(networks: Iterable[One], count: int = TURNS) -> Iterator[list[One]]:
    """So many at a time as are measured in turns."""
    rest = iter(networks)
    while some := list(islice(rest, count)):
        yield some
