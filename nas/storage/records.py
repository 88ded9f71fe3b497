"""What the store holds, as everyone else sees it: flat, frozen, and free of SQL and torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from math import ceil
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
class Kernel:
    """One step of a network as the runtime ran it, from the runtime's own profile."""

    node: str
    kind: str  # Conv, Gemm, ...
    kernel: str  # what ran it: a kernel's name where the runtime tells it, else who provided it
    milliseconds: float  # in profiled runs, which are a little slower


@dataclass(frozen=True)
class Latency:
    """One latency measurement: every sample, and what is needed to believe it.

    `samples_ms` holds one time per run of one batch, in milliseconds, on `clock`:
    `thread-cpu` (processor time of the measuring thread: what the network costs on a machine that
    others use too), `wall`, or `cuda-event`. `wall_ms` holds the wall time of the same runs, `cpu_ms` the
    processor time of all threads of the process, where that is not the clock.

    Records of earlier versions lack what has a default.
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
    cpu_ms: tuple[float, ...] = ()
    reference_ms: tuple[float, ...] = ()  # of a small fixed network, in the first half and in the second
    machine: Mapping[str, float | str] = field(default_factory=dict)  # clock_mhz, throttle_events, ...
    attempts: int = 1  # 1, and how often it was repeated because it was disturbed
    disturbed_by: tuple[str, ...] = ()  # why it is contended, in words
    kernels: tuple[Kernel, ...] = ()  # if asked for
    reused_at: str | None = None  # when this was used again for the same network instead of measuring it
    rounds: tuple[int, ...] = ()  # how many of the runs, in order, were made together, without a pause

    @property
    def median_ms(self) -> float:
        return float(np.median(self.samples_ms))

    @cached_property
    def interval_ms(self) -> tuple[float, float]:
        """95 % interval of the median; the same samples give the same interval."""
        return median_interval(np.array(self.samples_ms), self.rounds)

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.samples_ms, percent))

    @property
    def cpu_per_wall(self) -> float | None:
        """Processor time per wall time, the median of the runs; None where it was not recorded."""
        cpu = self.samples_ms if self.clock == "thread-cpu" else self.cpu_ms
        return float(np.median(np.divide(cpu, self.wall_ms))) if cpu else None

    @property
    def drift(self) -> float | None:
        """By what share the reference network took longer in the second half of the measurement than in the first."""
        return self.reference_ms[1] / self.reference_ms[0] - 1 if self.reference_ms else None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Latency:
        fields = json.loads(text)
        several = ("input_shape", "samples_ms", "wall_ms", "cpu_ms", "reference_ms", "disturbed_by", "rounds")
        fields |= {name: tuple(fields.get(name, ())) for name in several}
        fields["kernels"] = tuple(Kernel(**one) for one in fields.get("kernels", ()))
        return cls(**fields)


def median_interval(samples: np.ndarray, rounds: Sequence[int] = ()) -> tuple[float, float]:
    """95 % interval of the median of times (n,): of these runs, and of the moments in which they were made.

    Of the runs, by the percentiles of bootstrapped medians. Blocks of neighbours are drawn, around the end (Politis
    and Romano 1992), since a slow spell of a machine holds many runs. Of moments, from the lowest to the highest median
    of the rounds: six independent ones hold their median with 97 %, whatever their distribution (David and Nagaraja,
    Order Statistics, 2003, section 7.1), and those that follow each other closely with less. What is told holds both.

    Args:
        rounds: how many of the times, in order, were taken together in one moment; () says nothing of moments.
    """
    low, high = _of_runs(samples)
    if len(rounds) < 2:
        return low, high
    medians = [float(np.median(one)) for one in np.split(samples, np.cumsum(rounds[:-1])) if len(one)]
    return min(low, *medians), max(high, *medians)


def _of_runs(samples: np.ndarray) -> tuple[float, float]:
    count = len(samples)
    length = max(round(count ** (1 / 3)), 1)
    resamples = min(max(4_000_000 // count, 100), 1000)
    random = np.random.default_rng(0)
    starts = random.integers(count, size=(resamples, ceil(count / length)))
    chunks = np.array_split(starts, ceil(resamples * count / 1_000_000))  # not all in memory at once
    medians = [np.median(samples[_blocks(some, length, count)], axis=1) for some in chunks]
    low, high = np.percentile(np.concatenate(medians), [2.5, 97.5])
    median = float(np.median(samples))
    return min(float(low), median), max(float(high), median)


def _blocks(starts: np.ndarray, length: int, count: int) -> np.ndarray:
    """The places (r, count) of the samples in blocks that begin at `starts` (r, blocks)."""
    places = (starts[:, :, None] + np.arange(length)) % count
    return places.reshape(len(starts), -1)[:, :count]


@dataclass(frozen=True)
class Candidate:
    """One architecture with what was measured of it, or why it failed."""

    key: str
    architecture: str  # JSON
    values: Mapping[str, float] = field(default_factory=dict)  # by objective key
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # 95 %, where uncertain
    latencies: Mapping[str, Latency] = field(default_factory=dict)  # by key: latency_ms, latency_ms@tablet
    error: str | None = None
    seconds: float = 0.0  # how long the evaluation took
    created: str = field(default_factory=now)
    number: int = 0  # its place in the run, from 1; given by the store
    # images that its accuracy is of, and how many there are, where that was a part at first (nas.racing)
    scored: tuple[int, int] | None = None
    # by key, what a second measurement said, with its 95 % interval: of those on the front (nas.again)
    again: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def second(self) -> Candidate:
        """The candidate with what was measured again in place of what was measured at first."""
        values = {key: value for key, (value, _, _) in self.again.items()}
        intervals = {key: (low, high) for key, (_, low, high) in self.again.items()}
        return replace(
            self, values={**self.values, **values}, intervals={**self.intervals, **intervals}, again={}
        )

    @property
    def whole(self) -> bool:
        """Whether its accuracy, if it has one, is of all images."""
        return self.scored is None or self.scored[0] == self.scored[1]

    @property
    def part(self) -> str:
        """On how many images its accuracy is, in words; nothing where that is on all."""
        return "" if self.whole else f"on the first {self.scored[0]:,} of {self.scored[1]:,}"

    @property
    def latency(self) -> Latency | None:
        """Its record; of several devices that of the first by name. None where none is known."""
        return self.latencies[min(self.latencies)] if self.latencies else None

    def interval(self, key: str) -> tuple[float, float]:
        """The interval of a value; a certain value is its own interval."""
        return self.intervals.get(key, (self.values[key], self.values[key]))

    def feasible(self, constraints: tuple[Constraint, ...]) -> bool:
        """Whether it was measured and keeps every constraint, uncertain values by their worse end."""
        return self.error is None and self.violation(constraints) == 0

    def violation(self, constraints: tuple[Constraint, ...]) -> float:
        return sum(limit.violation(*self.interval(limit.key)) for limit in constraints)


RunStatus = Literal["created", "training", "trained", "searching", "finished", "interrupted", "failed"]


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
    message: str = ""  # why it failed, or what ended its search
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)
    facts: Mapping[str, str] = field(default_factory=dict)  # versions, machine, data fingerprint, seeds

    @cached_property
    def dims(self) -> int:
        """2 for images, 1 for signals."""
        return 1 if len(json.loads(self.space).get("image_shape", ())) == 2 else 2

    @cached_property
    def evaluator(self) -> str | None:
        """The name of the function that measured its candidates, where a person brought their own; such a run has
        no supernet, no images and nothing to export."""
        return json.loads(self.experiment).get("evaluator")

    @cached_property
    def focus(self) -> tuple[Constraint, ...]:
        """The region that its search attends to; candidates outside are as good as others."""
        return tuple(Constraint(**one) for one in json.loads(self.experiment).get("focus", ()))

    @property
    def unit(self) -> str:
        """Of its resolutions: pixels of an image, samples of a signal."""
        return "px" if self.dims == 2 else "samples"


@dataclass(frozen=True)
class Leg:
    """A stretch of a run's search with one searcher and one set of goals.

    Its searcher is told of the first `known` candidates of the run, then `start` is evaluated, then it is asked.
    """

    known: int = 0  # candidates when it began; no two legs of a run have as many
    start: tuple[str, ...] = ()  # architectures, as JSON
    settings: str = "{}"  # searcher, seed, start_from, objectives, constraints and focus, as JSON
    seconds: float = 0.0  # of wall clock, all sittings together
    created: str = field(default_factory=now)


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
