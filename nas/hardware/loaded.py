"""A network on a device, ready to run: what every device makes and the timing takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nas.storage.records import Kernel

Clock = Literal["thread-cpu", "wall", "cuda-event"]


@dataclass(frozen=True)
class Loaded:
    """A network that runs the same fixed batch each time.

    `run` returns when the run is over, and on the clock `cuda-event` its milliseconds. `logits` are those of
    one run, (N, classes) float32. `kernels` is the runtime's own profile of a few runs, None where it has none.
    `state` is what a processor that is not this machine's says of itself at this moment.
    """

    run: Callable[[], float | None]
    logits: Callable[[], np.ndarray]
    clock: Clock
    versions: Mapping[str, str]
    processor: str | None = None  # where it is not this machine's
    facts: Mapping[str, str] = field(default_factory=dict)  # stored beside the settings
    kernels: Callable[[], tuple[Kernel, ...]] | None = None
    state: Callable[[], Mapping[str, float | str]] = dict
