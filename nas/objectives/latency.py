"""Median time of one batch on the experiment's device, in milliseconds, as a record with all samples.

A network that can be deployed in more than one form is timed in each, and the fastest counts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nas.objectives.measure import Measure, Measured
from nas.storage.records import Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench


def _latency(subnet: nn.Module, input_shape: tuple[int, ...], bench: Bench) -> Measured:
    from supernets.merging import forms

    records = [
        replace(bench.device.measure(network, input_shape), form=form)
        for form, network in forms(subnet).items()
    ]
    record = min(records, key=lambda one: one.median_ms)
    return Measured(record.median_ms, record.interval_ms, record)


latency = Measure(Objective("latency", "latency_ms", "ms", "minimize"), _latency, quiet=True)
