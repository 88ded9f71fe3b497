"""Top-1 accuracy on the search-validation images, in percent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.objectives.measure import Measure, Measured
from nas.storage.records import Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench


def _accuracy(subnet: nn.Module, input_shape: tuple[int, ...], bench: Bench) -> Measured:
    from nas.evaluation import accuracy_of

    return Measured(accuracy_of(subnet, bench.validation_images(input_shape), bench.validation_labels))


accuracy = Measure(Objective("accuracy", "accuracy", "%", "maximize"), _accuracy, statistics=True)
