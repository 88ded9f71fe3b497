"""ONNX Runtime on an NVIDIA GPU. Images and logits stay on the GPU; a run is over when the GPU is done."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.hardware.loaded import Loaded
from nas.hardware.nvidia import driver_version, gpu_name, gpu_state, no_gpu
from nas.hardware.onnxruntime_cpu import name_of_input, options_of
from nas.hardware.runtime import OnnxRuntime, refusal
from nas.hardware.timing import fixed_images

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding

PROVIDER = "CUDAExecutionProvider"
FLOAT32 = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
}  # true float32, the fastest kernels for it


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnnxRuntimeCuda(OnnxRuntime):
    name: ClassVar[str] = "onnxruntime-cuda"

    @classmethod
    def available(cls) -> str | None:
        try:
            import onnx  # noqa: F401

            onnxruntime = _runtime()
        except ImportError as error:
            return f"{error}; pip install onnx 'onnxruntime-gpu[cuda,cudnn]'"
        if PROVIDER not in onnxruntime.get_available_providers():
            return (
                f"onnxruntime {onnxruntime.__version__} is built without CUDA; pip uninstall onnxruntime, then "
                "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        return no_gpu()

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"onnxruntime": _runtime().__version__, **driver_version()}

    def processor(self) -> str:
        return gpu_name()

    def unprofiled(self) -> str | None:
        return "the profile of a GPU is not read"

    def load_onnx(self, model: bytes, input_shape: tuple[int, ...]) -> Loaded:
        options = options_of(self.threads)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of it, or an error
        try:
            session = _runtime().InferenceSession(
                model, options, providers=[(PROVIDER, FLOAT32)], enable_fallback=0
            )
            binding = bound(session, fixed_images(self.batch, input_shape), "cuda")
            run_bound(session, binding)
        except Exception as error:  # the runtime's own kinds have nothing in common
            raise refusal(self, error) from None

        def logits() -> np.ndarray:
            run_bound(session, binding)
            return binding.copy_outputs_to_cpu()[0]

        def run() -> None:
            run_bound(session, binding)

        return Loaded(run, logits, "wall", self.versions(), self.processor(), state=gpu_state)


@cache
def _runtime() -> ModuleType:
    """ONNX Runtime with the CUDA and cuDNN that pip installed, wherever the loader would look.

    What it cannot load it prints, which is no part of what a command answers; and it would print and try again on
    the processor if a session failed, which `enable_fallback=0` forbids.
    """
    import onnxruntime

    said = io.StringIO()
    with redirect_stdout(said):
        onnxruntime.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.warning("onnxruntime: %s", line)
    return onnxruntime


def bound(session: InferenceSession, images: np.ndarray, place: str) -> IOBinding:
    """The images in the memory of `place`, "cuda" or "cpu", and the logits too."""
    import onnxruntime

    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(images, place, 0)
    binding.bind_ortvalue_input(name_of_input(session), value)
    for output in session.get_outputs():
        binding.bind_output(output.name, place)
    return binding


def run_bound(session: InferenceSession, binding: IOBinding) -> None:
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
