"""What this machine can do at most through a runtime: arithmetic, and bytes moved. Efficiencies are shares of that.

Arithmetic is the rate of a large matrix product, movement that of a sum of two long arrays, which reads two and
writes one as the triad of STREAM does (McCalpin 1995), both on the very runtime with its threads, as ONNX models or,
on the torch devices, as modules; the product in its precision, the sum in float32, since bytes are bytes. Arrays that
fit in a cache move faster than those that do not, so the sum is measured over arrays of several sizes. The best of
some runs counts, on the clock of the device, less what the same takes over next to nothing: the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data.files import cache
from nas.hardware.loaded import Loaded
from nas.hardware.rounds import time_runs
from nas.hardware.runtime import OnnxRuntime, Runtime
from nas.hardware.settings import Settings
from nas.hardware.timing import alone_on_this_host, processor_name
from nas.json_file import read_json, write_json
from nas.storage.records import Latency, now

if TYPE_CHECKING:
    from torch import nn

SIDES = (512, 1024)  # of the square matrices
MEGABYTES = (0.5, 4, 32, 256)  # of the three arrays of a sum together
LARGE_SIDES = (2048, 4096, 8192)  # of a GPU, which smaller ones do not fill
LARGE_MEGABYTES = (4, 64, 512, 2048)
STREAM_ROWS = 128
RUNS = Settings(warmup=2, min_runs=5, max_runs=200, seconds=0.2, interval=0)
OPSET, IR_VERSION = 20, 10
NUMBER = 4  # bytes


@dataclass(frozen=True)
class Peaks:
    """The best rates that were measured, and of what: `of` are processor, runtime, threads, precision and sizes."""

    of: dict[str, Any]
    operations_per_ms: float  # two per MAC
    stream: tuple[tuple[int, float], ...]  # (bytes of the arrays together, bytes moved per ms), ascending
    measured_at: str

    def bytes_per_ms(self, footprint: int) -> float:
        """The rate for data of so many bytes, between those measured by the logarithm of the size."""
        sizes, rates = zip(*self.stream, strict=True)
        return float(np.interp(log(max(footprint, 1)), np.log(sizes), rates))

    def ridge(self, footprint: int) -> float:
        """Operations per byte above which arithmetic is the limit: the waterline."""
        return self.operations_per_ms / self.bytes_per_ms(footprint)

    def are_of(self, place: Mapping[str, Any]) -> bool:
        """Whether a latency that was measured at such a place may be held against them."""
        return all(self.of.get(name) == value for name, value in place.items())

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Peaks:
        """What `asdict` gave.

        Raises:
            KeyError, TypeError: it did not.
        """
        return cls(**{**stored, "stream": tuple(map(tuple, stored["stream"]))})


def place_of(record: Latency) -> dict[str, Any]:
    """Where a latency was measured, in the words of `Peaks.of`."""
    settings = {name: record.settings[name] for name in ("threads", "precision") if name in record.settings}
    versions = dict(record.versions)
    return {"device": record.device, "processor": record.processor, "versions": versions, **settings}


def peaks_of(device: Runtime, fresh: bool = False) -> Peaks:
    """The peaks in the user's cache folder, measured now if there are none, of something else, or if `fresh`.

    Raises:
        ValueError: the file is damaged.
    """
    path = file_of(device)
    if path.is_file() and not fresh:
        way_out = "remove it, or measure anew with --fresh"
        stored = read_json(path, way_out)
        try:
            kept = Peaks.from_dict(stored)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); {way_out}") from None
        if kept.of == described(device):
            return kept
    found = measured(device)
    write_json(path, asdict(found))
    return found


def file_of(device: Runtime) -> Path:
    """Where the peaks of a device with its threads and precision are kept."""
    return cache("peaks") / f"{device.name}-{device.precision}-{device.threads}.json"


def described(device: Runtime) -> dict[str, Any]:
    """What peaks are of: when any of it changes, they are others."""
    sides, megabytes = _sizes(device)
    with device.conditions():
        processor = _loaded(_at_best(device), "Add", 1, 1).processor or processor_name()
    return {
        "device": device.name,
        "processor": processor,
        "versions": dict(device.versions()),
        "threads": device.threads,
        "precision": device.precision,
        "sizes": [*sides, *megabytes],
    }


def measured(device: Runtime) -> Peaks:
    """Measure the peaks, which takes some seconds; no other measurement runs on this host meanwhile."""
    device = _at_best(device)
    plain, (sides, megabytes) = replace(device, precision="float32"), _sizes(device)
    with alone_on_this_host(), device.conditions():
        operations = max(2 * side**3 / _best_ms(device, "MatMul", side, side) for side in sides)
        stream = []
        for size in megabytes:
            columns = round(size * 2**20 / (3 * NUMBER * STREAM_ROWS))
            moved = 3 * NUMBER * STREAM_ROWS * columns
            stream.append((moved, moved / _best_ms(plain, "Add", STREAM_ROWS, columns)))
    return Peaks(described(device), operations, tuple(stream), now())


def _at_best(device: Runtime) -> Runtime:
    """The device for one operation at a time, whatever the batch: compiling it would change nothing."""
    return replace(device, batch=1, **({"execution": "eager"} if device.executions else {}))


def _sizes(device: Runtime) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return (LARGE_SIDES, LARGE_MEGABYTES) if device.name.endswith("-cuda") else (SIDES, MEGABYTES)


def _best_ms(device: Runtime, kind: str, rows: int, columns: int) -> float:
    """Of a product or a sum of the images, (1, rows, columns), with a weight of (columns, columns) or of that shape."""
    return _run_ms(device, kind, rows, columns) - _run_ms(device, kind, 1, 1)


def _run_ms(device: Runtime, kind: str, rows: int, columns: int) -> float:
    loaded = _loaded(device, kind, rows, columns)
    return min(time_runs(loaded.run, RUNS, loaded.clock, rounds=1).samples_ms)


def _loaded(device: Runtime, kind: str, rows: int, columns: int) -> Loaded:
    shape = (columns, columns) if kind == "MatMul" else (rows, columns)
    if isinstance(device, OnnxRuntime):
        return device.load_onnx(_model(kind, rows, columns, shape), (rows, columns))
    return device.load(_module(kind, rows, columns, shape), (rows, columns))


def _module(kind: str, rows: int, columns: int, shape: tuple[int, int]) -> nn.Module:
    """One operation whose result has its place already: to ask for memory anew takes as long as a sum."""
    import torch
    from torch import nn

    class Operation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.full(shape, 1 / columns))
            self.register_buffer("result", torch.empty(1, rows, columns))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (torch.matmul if kind == "MatMul" else torch.add)(images, self.weight, out=self.result)

    return Operation().eval()


def _model(kind: str, rows: int, columns: int, shape: tuple[int, int]) -> bytes:
    """One operation, and the first row of what it gives, so that its result stays inside of the runtime."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full(shape, 1 / columns, np.float32), "weight")
    first = numpy_helper.from_array(np.array(0), "first")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
        for name, sizes in (("images", ("N", rows, columns)), ("row", ("N", columns)))
    ]
    nodes = [
        helper.make_node(kind, ["images", "weight"], ["result"], name="result"),
        helper.make_node("Gather", ["result", "first"], ["row"], name="row", axis=1),
    ]
    graph = helper.make_graph(nodes, "peak", ends[:1], ends[1:], [weight, first])
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
