"""What the store holds, as everyone else sees it: flat, frozen, and free of SQL and torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

import numpy as np


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Objective:
    """A named number with a unit and a goal.

    `key` is the name with its unit, `latency_ms`, and is what values, constraints and
    tables are called by.
    """

    name: str
    key: str
    unit: str
    goal: Literal["minimize", "maximize"]

    def loss(self, value: float) -> float:
        """The value turned so that less is better."""
        return value if self.goal == "minimize" else -value


@dataclass(frozen=True)
class Constraint:
    """A limit on an objective, in the unit of its key; None means unlimited."""

    key: str
    min: float | None = None
    max: float | None = None

    def violation(self, low: float, high: float) -> float:
        """By how much the interval [low, high] breaks the limit, relative to it; 0 if it keeps it.

        An uncertain value is judged by the end of its interval that is worse for it.
        """
        over = 0.0 if self.max is None else (high - self.max) / max(abs(self.max), 1e-12)
        under = 0.0 if self.min is None else (self.min - low) / max(abs(self.min), 1e-12)
        return max(over, under, 0.0)


@dataclass(frozen=True)
class Latency:
    """One latency measurement: every sample, and what is needed to believe it.

    `samples_ms` holds one time per run of one batch, in milliseconds, on `clock`:
    `thread-cpu` (processor time of the measuring thread: what the network costs on a machine that
    others use too), `wall`, or `cuda-event`. `wall_ms` holds the wall time of the same runs.
    """

    device: str
    settings: Mapping[str, int | str]  # threads, batch, precision, warmup, ...
    input_shape: tuple[int, ...]  # C, H, W of images, C, L of signals
    clock: str
    samples_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    versions: Mapping[str, str]
    processor: str
    load: float  # one-minute load average when it began
    involuntary_switches: int
    contended: bool  # other processes disturbed it, even when repeated
    form: str = "plain"  # of the ways to deploy the network, the one that ran fastest
    measured_at: str = field(default_factory=now)

    @property
    def median_ms(self) -> float:
        return float(np.median(self.samples_ms))

    @property
    def interval_ms(self) -> tuple[float, float]:
        """95 % confidence interval of the median, from order statistics (no distribution assumed)."""
        ordered = np.sort(self.samples_ms)
        count = len(ordered)
        reach = 0.98 * np.sqrt(count)  # 1.96 standard deviations of Binomial(n, 1/2)
        low = max(int(np.floor(count / 2 - reach)), 0)
        high = min(int(np.ceil(count / 2 + reach)), count - 1)
        return float(ordered[low]), float(ordered[high])

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.samples_ms, percent))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Latency:
        fields = json.loads(text)
        for name in ("input_shape", "samples_ms", "wall_ms"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True)
class Candidate:
    """One architecture with what was measured of it, or why it failed."""

    key: str
    architecture: str  # JSON
    values: Mapping[str, float] = field(default_factory=dict)  # by objective key
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # 95 %, where uncertain
    latency: Latency | None = None
    error: str | None = None
    seconds: float = 0.0  # how long the evaluation took
    created: str = field(default_factory=now)
    number: int = 0  # its place in the run, from 1; given by the store

    def interval(self, key: str) -> tuple[float, float]:
        """The interval of a value; a certain value is its own interval."""
        return self.intervals.get(key, (self.values[key], self.values[key]))

    def feasible(self, constraints: tuple[Constraint, ...]) -> bool:
        """Whether it was measured and keeps every constraint, uncertain values by their worse end."""
        return self.error is None and self.violation(constraints) == 0

    def violation(self, constraints: tuple[Constraint, ...]) -> float:
        return sum(limit.violation(*self.interval(limit.key)) for limit in constraints)


RunStatus = Literal["created", "training", "searching", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Run:
    """One experiment file carried out."""

    name: str
    experiment: str  # the experiment file, resolved, as JSON: what was asked for, defaults filled in
    space: str  # the search space, as JSON
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    folder: str  # where its supernet and exports are
    status: RunStatus = "created"
    message: str = ""  # why it failed, or what it waits for
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)
    facts: Mapping[str, str] = field(default_factory=dict)  # versions, machine, data fingerprint, seeds

    @cached_property
    def dims(self) -> int:
        """2 for images, 1 for signals."""
        return 1 if len(json.loads(self.space).get("image_shape", ())) == 2 else 2

    @property
    def unit(self) -> str:
        """Of its resolutions: pixels of an image, samples of a signal."""
        return "px" if self.dims == 2 else "samples"


@dataclass(frozen=True)
class TrainingPoint:
    """What was seen of the training at one step: loss, learning_rate, images_per_second, and,
    for the shift sampler, `probability/0` ... `probability/K-1` of its cost bins and their upper
    edges `edge/0` ... `edge/K-1` (in the cost that the sampler goes by)."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Export:
    """One candidate written to a folder and verified there."""

    candidate: str  # its key
    folder: str
    verified: bool
    max_difference: float  # the largest relative difference between any two of its forms
    agreement: float  # share of images on which every form gives the same class
    test_accuracy: float  # %, read once
    card: str  # card.json
    created: str = field(default_factory=now)


TrialKind = Literal["inherited", "uncalibrated", "alone", "sampled"]


@dataclass(frozen=True)
class Trial:
    """One accuracy of an architecture: inherited from the supernet, or trained alone.

    `inherited` is with batch-norm statistics of its own, `uncalibrated` with one set of statistics for all;
    `alone` is trained from the start, for `epochs`. The kind `sampled` is of no architecture: it keeps what
    the supernet's training sampled, `edge/0` ... `edge/K` in MACs and `count/0` ... `count/K-1`.
    """

    key: str  # of the architecture
    architecture: str  # JSON
    kind: TrialKind
    seed: int = 0  # of a training alone; 0 for the others
    values: Mapping[str, float] = field(default_factory=dict)  # accuracy (%), loss, macs, parameters, epochs
    error: str | None = None
    seconds: float = 0.0
    created: str = field(default_factory=now)
