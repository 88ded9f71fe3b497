"""ONNX Runtime on this machine's processor: the default, and close to how a small network is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nas.hardware.settings import Settings
from nas.hardware.timing import clock_of, fixed_images, measure
from nas.storage.records import Latency

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class OnnxRuntimeCpu(Settings):
    """A session of its own per network, all graph optimisations on, threads that sleep while they wait."""

    name: ClassVar[str] = "onnxruntime-cpu"

    @classmethod
    def available(cls) -> str | None:
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            return f"{error}; pip install onnx onnxruntime"
        return None

    def measure(self, subnet: nn.Module, input_shape: tuple[int, ...]) -> Latency:
        from nas.export.onnx_graph import onnx_of

        return self.measure_onnx(onnx_of(subnet, input_shape), input_shape)

    def measure_onnx(self, model: bytes, input_shape: tuple[int, ...]) -> Latency:
        """The time of one batch through any ONNX model that takes images alone."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (images,) = session.get_inputs()
        given = {images.name: fixed_images(self.batch, input_shape)}

        def run() -> None:
            session.run(None, given)

        versions = {"onnxruntime": onnxruntime.__version__}
        return measure(self, run, input_shape, clock_of(self.threads), versions)
