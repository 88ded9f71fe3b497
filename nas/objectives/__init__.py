"""The objectives: one file each and one line in OBJECTIVES. Importing them loads no torch."""

from __future__ import annotations

from nas.devices import device_of
from nas.objectives.accuracy import accuracy
from nas.objectives.cost import bytes_, macs, parameters
from nas.objectives.latency import latency, latency_on
from nas.objectives.measure import Measure, Measured

OBJECTIVES: dict[str, Measure] = {
    measure.objective.name: measure for measure in (accuracy, latency, macs, parameters, bytes_)
}
KEYS: dict[str, Measure] = {measure.objective.key: measure for measure in OBJECTIVES.values()}


def measure_of(key: str) -> Measure:
    """How the value of a key is measured, that of one device of several included: `latency_ms@tablet`."""
    return latency_on(device) if (device := device_of(key)) else KEYS[key]


__all__ = ["KEYS", "OBJECTIVES", "Measure", "Measured", "measure_of"]
