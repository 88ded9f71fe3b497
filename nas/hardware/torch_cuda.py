"""PyTorch on an NVIDIA GPU, timed by events on the GPU's own clock.

A captured CUDA graph is replayed, so that the numbers are those of the kernels and not of Python launching
them; those of a network that cannot be captured are launched one by one. `launch` in the record's settings says
which it was.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.hardware.loaded import Loaded
from nas.hardware.nvidia import driver_version, gpu_state
from nas.hardware.runtime import Runtime
from nas.hardware.torch_network import EXECUTIONS, PRECISIONS, check_execution, placed, turns

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchCuda(Runtime):
    execution: str = "eager"  # or compiled, by Inductor

    name: ClassVar[str] = "torch-cuda"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    executions: ClassVar[tuple[str, ...]] = EXECUTIONS

    def __post_init__(self):
        super().__post_init__()
        check_execution(self.execution)

    @classmethod
    def available(cls) -> str | None:
        try:
            import torch
        except ImportError as error:
            return f"{error}; pip install torch"
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is built without CUDA; install a CUDA build, see https://pytorch.org"
        with warnings.catch_warnings(record=True) as said:  # why, when a driver is too old or broken
            warnings.simplefilter("always")
            usable = torch.cuda.is_available()
        reason = "".join(f" ({' '.join(str(one.message).split())})" for one in said[:1])
        return None if usable else f"torch finds no NVIDIA GPU{reason}; check nvidia-smi and the driver"

    @classmethod
    def versions(cls) -> dict[str, str]:
        import torch

        return {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": str(torch.backends.cudnn.version()),
            **driver_version(),
        }

    def unprofiled(self) -> str | None:
        return "the profile of a GPU is not read"

    def turns(self) -> int:
        return turns(self.execution)

    @contextmanager
    def conditions(self) -> Iterator[None]:
        import torch

        with torch.inference_mode(), _true_float32():
            yield

    def load(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Loaded:
        import torch

        network, images = placed(self, subnet, input_shape, "cuda")
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        launch, how = _launcher(network, images)

        def run() -> float:
            start.record()
            launch()
            end.record()
            end.synchronize()
            return start.elapsed_time(end)

        def logits() -> np.ndarray:
            return network(images).float().cpu().numpy()

        processor = torch.cuda.get_device_name()
        return Loaded(run, logits, "cuda-event", self.versions(), processor, {"launch": how}, state=gpu_state)


@contextmanager
def _true_float32() -> Iterator[None]:
    """Products in float32 and not in the shorter TF32, the fastest convolution kernels for the shapes at hand."""
    import torch

    before = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _launcher(network: nn.Module, images: Tensor) -> tuple[Callable[[], object], str]:
    """What starts one run, and whether that is a "cuda-graph" or its kernels "one-by-one"."""
    import torch

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # kernels are chosen and memory is taken before the capture
        for _ in range(3):
            network(images)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        # the outer one restores the stream, which a capture that fails leaves set to its own
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            network(images)
    except RuntimeError as error:
        torch.cuda.synchronize()
        logger.warning(
            "timed kernel by kernel: no CUDA graph of this network (%s)", str(error).splitlines()[0]
        )
        return lambda: network(images), "one-by-one"
    return graph.replay, "cuda-graph"
