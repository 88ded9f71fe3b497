"""OpenVINO on this machine's processor, in float32 or bfloat16.

The precision is always set: left alone, OpenVINO runs a float32 model in bfloat16 wherever the processor can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.hardware.loaded import Loaded
from nas.hardware.runtime import OnnxRuntime, refusal
from nas.hardware.timing import clock_of, fixed_images
from nas.storage.records import Kernel

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, InferRequest, ProfilingInfo

HINTS = {"float32": "f32", "bfloat16": "bf16"}
PROFILED_RUNS = 50
NO_WORK = ("Parameter", "Result")


@dataclass(frozen=True)
class OpenVinoCpu(OnnxRuntime):
    """One stream with a fixed number of threads, compiled for the very batch; the calling thread takes part."""

    name: ClassVar[str] = "openvino-cpu"
    precisions: ClassVar[tuple[str, ...]] = tuple(HINTS)

    @classmethod
    def available(cls) -> str | None:
        try:
            import onnx  # noqa: F401
            import openvino  # noqa: F401
        except ImportError as error:
            return f"{error}; pip install 'paretoshift[openvino]', or pip install openvino"
        return None

    @classmethod
    def versions(cls) -> dict[str, str]:
        import openvino

        return {"openvino": openvino.__version__}

    def unusable(self) -> str | None:
        if self.precision == "bfloat16" and "BF16" not in _capabilities():
            return "this processor has no bfloat16 instructions; use precision: float32"
        return super().unusable()

    def compiled(self, model: bytes, input_shape: tuple[int, ...], **more: bool) -> CompiledModel:
        """An ONNX model compiled as the settings say, and `more` properties of OpenVINO."""
        network = _core().read_model(model)
        if len(network.inputs) != 1:
            raise ValueError(f"it takes {len(network.inputs)} inputs, not images alone")
        network.reshape([self.batch, *input_shape])
        properties = {
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        return _core().compile_model(network, "CPU", {**properties, **more})

    def load_onnx(self, model: bytes, input_shape: tuple[int, ...]) -> Loaded:
        import openvino

        images = openvino.Tensor(fixed_images(self.batch, input_shape))

        def request(**more: bool) -> InferRequest:
            made = self.compiled(model, input_shape, **more).create_infer_request()
            made.set_input_tensor(images)
            made.infer()
            return made

        try:
            timed = request()
        except Exception as error:  # the runtime's own kinds have nothing in common
            raise refusal(self, error) from None

        def run() -> None:
            timed.infer()

        def logits() -> np.ndarray:
            timed.infer()
            return np.array(timed.get_output_tensor(0).data, np.float32)

        def kernels() -> tuple[Kernel, ...]:
            profiled = request(PERF_COUNT=True)
            first = profiled.get_profiling_info()
            for _ in range(PROFILED_RUNS):
                profiled.infer()
            return kernels_of(first, profiled.get_profiling_info())

        return Loaded(run, logits, clock_of(self.threads), self.versions(), kernels=kernels)


def kernels_of(first: list[ProfilingInfo], all_runs: list[ProfilingInfo]) -> tuple[Kernel, ...]:
    """The steps that ran, in order, with mean times from which the first and slow run is taken out.

    Args:
        first: the profile after one run; OpenVINO tells means over all runs since a network was compiled.
        all_runs: the profile after `PROFILED_RUNS` more.
    """
    found = []
    for before, after in zip(first, all_runs, strict=True):
        slow, mean = (one.real_time.total_seconds() * 1e3 for one in (before, after))
        rest = ((PROFILED_RUNS + 1) * mean - slow) / PROFILED_RUNS
        if after.status == after.Status.EXECUTED and after.node_type not in NO_WORK:
            found.append(Kernel(after.node_name, after.node_type, after.exec_type, round(max(rest, 0.0), 6)))
    return tuple(found)


@cache
def _core() -> Core:
    import openvino

    return openvino.Core()


@cache
def _capabilities() -> tuple[str, ...]:
    return tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
