"""PyTorch on this machine's processor: eager, what the network costs without a runtime of its own, or compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.hardware.loaded import Loaded
from nas.hardware.runtime import Runtime
from nas.hardware.timing import clock_of
from nas.hardware.torch_network import (
    EXECUTIONS,
    PRECISIONS,
    check_execution,
    placed,
    turns,
    without_compiler,
)
from nas.hardware.torch_profile import steps_of
from nas.storage.records import Kernel

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TorchCpu(Runtime):
    execution: str = "eager"  # or compiled

    name: ClassVar[str] = "torch-cpu"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    executions: ClassVar[tuple[str, ...]] = EXECUTIONS

    def __post_init__(self):
        super().__post_init__()
        check_execution(self.execution)

    @classmethod
    def available(cls) -> str | None:
        try:
            import torch  # noqa: F401
        except ImportError as error:
            return f"{error}; pip install torch"
        return None

    @classmethod
    def versions(cls) -> dict[str, str]:
        import torch

        return {"torch": torch.__version__}

    def unusable(self) -> str | None:
        return super().unusable() or (without_compiler() if self.execution == "compiled" else None)

    def unprofiled(self) -> str | None:
        return (
            "its compiler fuses layers to kernels without their names"
            if self.execution == "compiled"
            else None
        )

    def turns(self) -> int:
        return turns(self.execution)

    @contextmanager
    def conditions(self) -> Iterator[None]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def load(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Loaded:
        network, images = placed(self, subnet, input_shape, "cpu")

        def run() -> None:
            network(images)

        def logits() -> np.ndarray:
            return network(images).float().numpy()

        def kernels() -> tuple[Kernel, ...]:
            return steps_of(network, images)

        profile = None if self.unprofiled() else kernels
        return Loaded(run, logits, clock_of(self.threads), self.versions(), kernels=profile)
