"""ONNX Runtime on an NVIDIA GPU. Images and logits stay on the GPU; a run is over when the GPU is done."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.hardware.loaded import Loaded
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


@dataclass(frozen=True)
class OnnxRuntimeCuda(OnnxRuntime):
    name: ClassVar[str] = "onnxruntime-cuda"

    @classmethod
    def available(cls) -> str | None:
        try:
            import onnx  # noqa: F401
            import onnxruntime
        except ImportError as error:
            return f"{error}; pip install onnx onnxruntime-gpu"
        if PROVIDER not in onnxruntime.get_available_providers():
            return (
                f"onnxruntime {onnxruntime.__version__} is built without CUDA; pip uninstall onnxruntime, then "
                "pip install onnxruntime-gpu"
            )
        return no_gpu()

    @classmethod
    def versions(cls) -> dict[str, str]:
        import onnxruntime

        found = {"onnxruntime": onnxruntime.__version__}
        driver = _nvidia_smi("driver_version")
        return found | ({"driver": driver} if driver else {})

    def load_onnx(self, model: bytes, input_shape: tuple[int, ...]) -> Loaded:
        import onnxruntime

        options = options_of(self.threads)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # all of it, or an error
        try:
            session = onnxruntime.InferenceSession(model, options, providers=[(PROVIDER, FLOAT32)])
            binding = bound(session, fixed_images(self.batch, input_shape), "cuda")
            run_bound(session, binding)
        except Exception as error:  # the runtime's own kinds have nothing in common
            raise refusal(self, error) from None

        def logits() -> np.ndarray:
            run_bound(session, binding)
            return binding.copy_outputs_to_cpu()[0]

        processor = _nvidia_smi("name") or "NVIDIA GPU"
        return Loaded(lambda: run_bound(session, binding), logits, "wall", self.versions(), processor)


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


def no_gpu() -> str | None:
    """Why the driver offers no NVIDIA GPU, or None if it does."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is here (libcuda.so.1); install it, on a machine with an NVIDIA GPU"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else f"the NVIDIA driver finds no GPU (code {code}); check nvidia-smi"


def _nvidia_smi(field: str) -> str | None:
    """What the driver's own tool says of the first GPU; None without it."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
