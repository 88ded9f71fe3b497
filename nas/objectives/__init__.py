"""The objectives: one file each and one line in OBJECTIVES. Importing them loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

from nas.devices import device_of
from nas.objectives.accuracy import accuracy
from nas.objectives.cost import bytes_, macs, parameters
from nas.objectives.label_cosine import label_cosine
from nas.objectives.latency import latency, latency_on
from nas.objectives.measure import Measure, Measured
from nas.objectives.predicted_accuracy import predicted_accuracy

OBJECTIVES: dict[str, Measure] = {
    measure.objective.name: measure
    for measure in (accuracy, latency, macs, parameters, bytes_, predicted_accuracy, label_cosine)
}
KEYS: dict[str, Measure] = {measure.objective.key: measure for measure in OBJECTIVES.values()}


def measure_of(key: str) -> Measure:
    """How the value of a key is measured, that of one device of several included: `latency_ms@tablet`."""
    return latency_on(device) if (device := device_of(key)) else KEYS[key]


def measures_for(keys: Iterable[str]) -> list[Measure]:
    """How the values of these keys are measured, what some of them follow from before them, each once."""
    return with_needs(measure_of(key) for key in keys)


def with_needs(measures: Iterable[Measure]) -> list[Measure]:
    """Measures with what they follow from before them, each once."""
    return list(dict.fromkeys(one for last in measures for one in (*map(measure_of, last.needs), last)))


__all__ = ["KEYS", "OBJECTIVES", "Measure", "Measured", "measure_of", "measures_for", "with_needs"]
