"""PyTorch on an NVIDIA GPU, timed by events on the GPU's own clock.

A captured CUDA graph is replayed, so that the numbers are those of the kernels and not of Python launching
them; a network that cannot be captured runs eager. The record's settings say which it was.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nas.hardware.settings import Settings
from nas.hardware.timing import check_ready, fixed_images, measure
from nas.storage.records import Latency

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchCuda(Settings):
    name: ClassVar[str] = "torch-cuda"

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

    def measure(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Latency:
        import torch

        check_ready(subnet)
        network = deepcopy(subnet).cuda()
        images = torch.from_numpy(fixed_images(self.batch, input_shape)).cuda()
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
        versions["cudnn"] = str(torch.backends.cudnn.version())
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.inference_mode(), _true_float32():
            launch, execution = _launcher(network, images)

            def run() -> float:
                start.record()
                launch()
                end.record()
                end.synchronize()
                return start.elapsed_time(end)

            processor = torch.cuda.get_device_name()
            return measure(self, run, input_shape, "cuda-event", versions, processor, execution=execution)


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
    """What starts one run, and whether that is a "cuda-graph" or "eager"."""
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
        logger.warning("timed eager: no CUDA graph of this network (%s)", str(error).splitlines()[0])
        return lambda: network(images), "eager"
    return graph.replay, "cuda-graph"
