"""How well what a network says of the search-validation images goes with their labels, in percent: the mean cosine
between its logits and the label, both less their mean (`nas.evaluation.label_cosines`). 100 is all that can be.

With weights of a supernet it ranks better than the accuracy does (benchmarks/ranking_xeon2_202611.md); ours. Of two
classes it tells as much as the accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.objectives.measure import Measure, Measured
from nas.storage.records import Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench


def _label_cosine(subnet: nn.Module, input_shape: tuple[int, ...], bench: Bench) -> Measured:
    from nas.evaluation import scores_of

    return Measured(scores_of(subnet, bench.validation_images(input_shape), bench.validation_labels)[2])


label_cosine = Measure(
    Objective("label_cosine", "label_cosine", "%", "maximize"), _label_cosine, statistics=True
)
