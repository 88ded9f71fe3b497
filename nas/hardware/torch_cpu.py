"""PyTorch on this machine's processor, eager: what the network costs without a runtime of its own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nas.hardware.settings import Settings
from nas.hardware.timing import check_ready, clock_of, fixed_images, measure
from nas.storage.records import Latency

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TorchCpu(Settings):
    name: ClassVar[str] = "torch-cpu"

    @classmethod
    def available(cls) -> str | None:
        try:
            import torch  # noqa: F401
        except ImportError as error:
            return f"{error}; pip install torch"
        return None

    def measure(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Latency:
        import torch

        check_ready(subnet)
        network = deepcopy(subnet).cpu()
        images = torch.from_numpy(fixed_images(self.batch, input_shape))
        versions, clock = {"torch": torch.__version__}, clock_of(self.threads)

        def run() -> None:
            network(images)

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                return measure(self, run, input_shape, clock, versions)
        finally:
            torch.set_num_threads(before)
