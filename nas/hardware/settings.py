"""The settings that every device has, and what they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from search_spaces.strict import unknown


@dataclass(frozen=True)
class Settings:
    """How a network is timed.

    After `warmup` runs that do not count, runs are timed until `seconds` are spent and `min_runs` are
    done, and never more than `max_runs`.
    """

    threads: int = 1
    batch: int = 1
    warmup: int = 10
    min_runs: int = 50
    max_runs: int = 400
    seconds: float = 0.3
    precision: str = "float32"

    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    def __post_init__(self):
        for name, low in {"threads": 1, "batch": 1, "warmup": 0, "min_runs": 1, "max_runs": 1}.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"device.{name} is {value!r}; it must be a whole number, at least {low}")
        if self.max_runs < self.min_runs:
            raise ValueError(
                f"device.max_runs is {self.max_runs}; it must be at least min_runs, {self.min_runs}"
            )
        number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if not number or not 0 <= self.seconds < math.inf:
            raise ValueError(f"device.seconds is {self.seconds!r}; it must be a number of seconds, 0 or more")
        if self.precision not in self.precisions:
            raise unknown(f"device.precision {self.precision!r}", self.precision, self.precisions)
