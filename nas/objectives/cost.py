"""MACs of one image, parameters and bytes, counted on the exported subnet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.objectives.measure import Measure, Measured
from nas.storage.records import Objective

if TYPE_CHECKING:
    from torch import nn

    from nas.evaluation import Bench


def _counted(cost: str):
    def of(subnet: nn.Module, input_shape: tuple[int, ...], bench: Bench) -> Measured:
        from supernets.cost import COSTS

        return Measured(int(bench.costs(subnet, input_shape)[COSTS.index(cost)]))

    return of


macs = Measure(Objective("macs", "macs", "MACs", "minimize"), _counted("macs"))
parameters = Measure(Objective("parameters", "parameters", "parameters", "minimize"), _counted("parameters"))
bytes_ = Measure(Objective("bytes", "bytes", "B", "minimize"), _counted("bytes"))
