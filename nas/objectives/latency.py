"""Median time of one batch on the experiment's device, in milliseconds, as a record with all samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.objectives.measure import Measure, Measured
from nas.storage.records import Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench


def _latency(subnet: nn.Module, input_shape: tuple[int, int, int], bench: Bench) -> Measured:
    record = bench.device.measure(subnet, input_shape)
    return Measured(record.median_ms, record.interval_ms, record)


latency = Measure(Objective("latency", "latency_ms", "ms", "minimize"), _latency, quiet=True)
