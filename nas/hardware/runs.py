"""The runs of one measurement, and what makes their median believable or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nas.hardware.loaded import Clock
from nas.storage.records import median_interval

WAITING = 1.1  # a thread that others do not hold up spends this much more wall than processor time at most
SWITCHED = 0.05  # share of the runs that may be interrupted; more cool the caches of the others
SWITCHES_PER_SECOND = 20  # a quiet kernel interrupts so often too, which long runs cannot avoid
DRIFT = 0.05  # by which share the reference network may change from the first half to the second
UNSTEADY = 0.05  # by which share the median may be above the fastest tenth of the runs
UNUSUAL = 0.03  # by which share the reference network may differ from what is usual here
UNSURE = 0.05  # by which share the interval of the median may reach from it


@dataclass(frozen=True)
class Runs:
    """The times of the runs of one network, in order, and what others did to the machine meanwhile."""

    clock: Clock
    samples_ms: tuple[float, ...]  # on that clock
    wall_ms: tuple[float, ...]
    switches: int  # how often others took the processor
    cpu_ms: tuple[float, ...] = ()  # processor time of the process, where that is not the clock
    reference_ms: tuple[float, ...] = ()  # of the reference network, in the first half and in the second
    machine: Mapping[str, float | str] = field(default_factory=dict)
    rounds: tuple[int, ...] = ()  # how many runs each round has
    usual_ms: float | None = None  # of the reference network on this machine

    @property
    def disturbances(self) -> dict[str, float]:
        """What disturbed the measurement, in words, as multiples of what is tolerated."""
        runs, seconds = len(self.wall_ms), sum(self.wall_ms) / 1e3
        tolerated = max(SWITCHED * runs, SWITCHES_PER_SECOND * seconds, 1)
        found = {f"interrupted {self.switches} times in {runs} runs": self.switches / tolerated}
        if self.clock == "thread-cpu":
            waited = float(np.median(self.wall_ms) / np.median(self.samples_ms))
            found[f"waited: wall time is {waited:.2f} × processor time"] = waited / WAITING
        if self.reference_ms:
            first, second = self.reference_ms
            apart = max(first, second) / min(first, second) - 1
            word = "more" if second > first else "less"
            found[f"drifted: the reference network took {apart:.0%} {word} in the second half"] = (
                apart / DRIFT
            )
        if events := self.machine.get("throttle_events", 0):
            found[f"throttled {events:g} times, for heat"] = 1 + events
        if reason := self.machine.get("gpu_slowed_by"):
            found[f"the GPU was slowed: {reason}"] = 2
        return found

    @property
    def disturbance(self) -> float:
        """The worst of the disturbances; above 1 it is more than is tolerated."""
        return max(self.disturbances.values())

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why the median is not to be relied on, in words; empty where it is."""
        fast, middle = np.percentile(self.samples_ms, (10, 50))
        unsteady = (f"unsteady: the median is {middle / fast - 1:.0%} above the fastest tenth of the runs",)
        unsure = (f"unsure: the median is known to ± {self.beyond:.0%}, from moments that differ",)
        disturbances = tuple(what for what, times in self.disturbances.items() if times > 1)
        disturbances += unsteady if middle > (1 + UNSTEADY) * fast else ()
        disturbances += unsure if self.beyond > UNSURE else ()
        return disturbances + self._oddities()

    def _oddities(self) -> tuple[str, ...]:
        """How the whole moment differs from what is usual, in words; empty where it does not."""
        ratio = float(np.mean(self.reference_ms)) / self.usual_ms if self.usual_ms else 1.0
        apart, word = max(ratio, 1 / ratio) - 1, "more" if ratio > 1 else "less"
        unusual = (f"unusual: the reference network took {apart:.0%} {word} than usual on this machine",)
        return unusual if apart > UNUSUAL else ()

    @cached_property
    def beyond(self) -> float:
        """How far the 95 % interval of the median reaches from it, as a share."""
        median = float(np.median(self.samples_ms))
        low, high = median_interval(np.array(self.samples_ms), self.rounds)
        return max(median - low, high - median) / median

    def suffices(self, interval: float) -> bool:
        """Whether nothing disturbed the runs so far and the 95 % interval of their median is within a share of it."""
        return self.beyond <= interval and not self.troubles
