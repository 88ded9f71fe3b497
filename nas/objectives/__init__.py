"""The objectives: one file each and one line in OBJECTIVES. Importing them loads no torch."""

from __future__ import annotations

from nas.objectives.accuracy import accuracy
from nas.objectives.cost import bytes_, macs, parameters
from nas.objectives.latency import latency
from nas.objectives.measure import Measure, Measured

OBJECTIVES: dict[str, Measure] = {
    measure.objective.name: measure for measure in (accuracy, latency, macs, parameters, bytes_)
}
KEYS: dict[str, Measure] = {measure.objective.key: measure for measure in OBJECTIVES.values()}

__all__ = ["KEYS", "OBJECTIVES", "Measure", "Measured"]
