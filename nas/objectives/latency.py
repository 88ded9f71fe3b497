"""Median time of one batch on the experiment's device, in milliseconds, as a record with all samples.

A network that can be deployed in more than one form is timed in each, and the fastest counts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from nas.devices import on
from nas.objectives.measure import Measure, Measured
from nas.storage.records import Latency, Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench
    from nas.hardware import Device


def fastest(device: Device, subnet: nn.Module, input_shape: tuple[int, ...]) -> Latency:
    """The record of the form of an exported subnet that the device runs fastest."""
    from supernets.merging import forms

    records = [
        replace(device.measure(network, input_shape), form=form) for form, network in forms(subnet).items()
    ]
    return min(records, key=lambda one: one.median_ms)


def _latency(subnet: nn.Module, input_shape: tuple[int, ...], bench: Bench, name: str = "") -> Measured:
    record = fastest(bench.devices[name], subnet, input_shape)
    return Measured(record.median_ms, record.interval_ms, record)


@cache
def latency_on(device: str) -> Measure:
    """The latency on one of several devices, by its name in the experiment."""
    objective = Objective(on("latency", device), on("latency_ms", device), "ms", "minimize")
    return Measure(objective, partial(_latency, name=device), quiet=True)


latency = Measure(Objective("latency", "latency_ms", "ms", "minimize"), _latency, quiet=True)
