"""Top-1 accuracy on the search-validation images, in percent, that an architecture is predicted to reach when it is
trained alone: what it inherits, corrected by landmarks (nas.landmarks)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas.objectives.measure import Measure, Measured
from nas.storage.records import Objective

if TYPE_CHECKING:
    from nas.evaluation import Bench
    from search_spaces import Architecture

NEEDS = ("accuracy", "macs")


def _predicted(architecture: Architecture, values: Mapping[str, float], bench: Bench) -> Measured:
    return Measured(*bench.accuracy_model(architecture, values["accuracy"], values["macs"]))


predicted_accuracy = Measure(
    Objective("predicted_accuracy", "predicted_accuracy", "%", "maximize"), needs=NEEDS, of_values=_predicted
)
