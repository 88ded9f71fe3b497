"""Median time of one batch on the experiment's device, in milliseconds, as a record with all samples.

A network that can be deployed in more than one form is timed in each, and the fastest counts. Several networks are
timed in turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import TYPE_CHECKING

from nas.devices import on
from nas.objectives.measure import Measure, Measured
from nas.storage.records import Latency, Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench
    from nas.hardware import Device


def fastest(device: Device, subnets: Iterable[tuple[nn.Module, tuple[int, ...]]]) -> Iterator[Latency]:
    """Of each exported subnet the record of the form that the device runs fastest.

    Args:
        subnets: each with the shape of its input, (C, H, W) or (C, L).
    """
    from supernets.merging import forms

    names: deque[list[str]] = deque()  # of the forms of each subnet that is being measured

    def networks() -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
        for subnet, input_shape in subnets:
            several = forms(subnet)
            names.append(list(several))
            yield from ((network, input_shape) for network in several.values())

    records = device.measure_all(networks())
    for record in records:
        yield fastest_form(chain([record], records), names.popleft())


def fastest_form(records: Iterator[Latency], forms: Iterable[str]) -> Latency:
    """Of the next records, which are of one network in these forms, that of the fastest."""
    return min((replace(next(records), form=form) for form in forms), key=lambda one: one.median_ms)


def _latency(subnet: nn.Module, input_shape: tuple[int, ...], bench: Bench, name: str = "") -> Measured:
    return _latencies([(subnet, input_shape)], bench, name)[0]


def _latencies(
    subnets: Sequence[tuple[nn.Module, tuple[int, ...]]], bench: Bench, name: str = ""
) -> list[Measured]:
    records = fastest(bench.devices[name], subnets)
    return [Measured(record.median_ms, record.interval_ms, record) for record in records]


@cache
def latency_on(device: str) -> Measure:
    """The latency on one of several devices, by its name in the experiment."""
    objective = Objective(on("latency", device), on("latency_ms", device), "ms", "minimize")
    alone, in_turns = partial(_latency, name=device), partial(_latencies, name=device)
    return Measure(objective, alone, quiet=True, of_all=in_turns)


latency = Measure(
    Objective("latency", "latency_ms", "ms", "minimize"), _latency, quiet=True, of_all=_latencies
)
