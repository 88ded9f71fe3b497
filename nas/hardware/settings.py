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
    done, and never more than `max_runs`. After `min_runs` they end sooner once the 95 % interval of their
    median is within `interval` of it, as a share, and nothing has disturbed them; 0 is never.
    """

    threads: int = 1
    batch: int = 1
    warmup: int = 10
    min_runs: int = 50
    max_runs: int = 400
    seconds: float = 0.3
    interval: float = 0.0
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
        if not is_number(self.seconds) or not 0 <= self.seconds < math.inf:
            raise ValueError(f"device.seconds is {self.seconds!r}; it must be a number of seconds, 0 or more")
        if not is_number(self.interval) or not 0 <= self.interval < 1:
            raise ValueError(
                f"device.interval is {self.interval!r}; it must be a share of the median below 1, such as 0.03, "
                "or 0 for runs that never end early"
            )
        if self.precision not in self.precisions:
            raise unknown(f"device.precision {self.precision!r}", self.precision, self.precisions)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
