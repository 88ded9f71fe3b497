"""ONNX Runtime on this machine's processor: the default, and close to how a small network is deployed."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.hardware.loaded import Loaded
from nas.hardware.runtime import OnnxRuntime, refusal
from nas.hardware.timing import clock_of, fixed_images, middle_mean
from nas.storage.records import Kernel

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

PROFILED_RUNS = 20
NODE_TIME = "_kernel_time"  # how the profile ends the names of what was computed


@dataclass(frozen=True)
class OnnxRuntimeCpu(OnnxRuntime):
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

    @classmethod
    def versions(cls) -> dict[str, str]:
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    def load_onnx(self, model: bytes, input_shape: tuple[int, ...]) -> Loaded:
        import onnxruntime

        def session(options: SessionOptions) -> InferenceSession:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        images = fixed_images(self.batch, input_shape)
        try:
            timed = session(options_of(self.threads))
            given = {name_of_input(timed): images}
            timed.run(None, given)
        except Exception as error:  # the runtime's own kinds have nothing in common
            raise refusal(self, error) from None

        def run() -> None:
            timed.run(None, given)

        def kernels() -> tuple[Kernel, ...]:
            with TemporaryDirectory() as folder:
                options = options_of(self.threads)
                options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
                profiled = session(options)
                for _ in range(1 + PROFILED_RUNS):
                    profiled.run(None, given)
                return kernels_of(json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8")))

        def logits() -> np.ndarray:
            return timed.run(None, given)[0]

        return Loaded(run, logits, clock_of(self.threads), self.versions(), kernels=kernels)


def options_of(threads: int) -> SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def name_of_input(session: InferenceSession) -> str:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ValueError(
            f"it takes {len(inputs)} inputs ({', '.join(one.name for one in inputs)}), not images alone"
        )
    return inputs[0].name


def kernels_of(events: list[dict]) -> tuple[Kernel, ...]:
    """The steps of a session's profile in the order in which they ran; the first run does not count."""
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(NODE_TIME):
            told = event["args"]
            place = event["name"].removesuffix(NODE_TIME), told["op_name"], told["provider"]
            times[place].append(event["dur"] / 1e3)
    return tuple(Kernel(*place, middle_mean(some)) for place, some in times.items())
