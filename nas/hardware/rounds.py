"""The one loop that times networks: runs in rounds, in which networks take turns.

A machine is faster or slower for tenths of a second at a time, without a sign of it, and a network that runs all
its time in one such moment tells of that alone. So its runs are made in rounds that lie apart. What lies between two
rounds of a network are the rounds of the others that are measured with it, and of the reference network; where they are
too few, the network runs on and is not timed, since a processor that sleeps is slower when it wakes.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np

from nas.hardware.loaded import Clock
from nas.hardware.runs import Runs
from nas.hardware.settings import Settings

Run = Callable[[], float | None]

REFERENCE = Settings(warmup=5, min_runs=30, seconds=0.01, interval=0)  # how that network is timed, each time
ROUNDS = 9  # in which the runs are made
LEAST_ROUNDS = 6  # fewer have no 95 % interval of their median: all lie on one side of it with 2 × 0.5⁵
BETWEEN = 0.04  # seconds between two rounds of a network at least, where a round is long enough
WAKING = 0.01  # seconds that a processor that has slept takes to be as fast as it is
SETTLING = 0.004  # seconds in which a network fills the caches again that others have used
TIMES = 4  # and each at most so many times what a round is given, so that short measurements stay short


def time_runs(run: Run, settings: Settings, clock: Clock, rounds: int = ROUNDS) -> Runs:
    """One network by itself: warm up, then time runs until the settings say that it is enough.

    Args:
        run: runs the network once and returns when it is done. On another clock than `thread-cpu` and
            `wall`, it returns its time on that, in milliseconds.
        rounds: 1 for what is timed in one moment.
    """
    return time_in_turns([run], settings, clock, rounds)[0]


def time_in_turns(
    networks: Sequence[Run],
    settings: Settings,
    clock: Clock,
    rounds: int = ROUNDS,
    reference: Run | None = None,
) -> list[Runs]:
    """Several networks, a round of each after the other; each with all the runs that it would have by itself.

    Args:
        networks: as `run` of `time_runs`.
        reference: the reference network, timed before, between and after the rounds of all.
    """
    rounds = min(rounds, settings.max_runs)
    timed = [_Timed(run, settings, clock, rounds) for run in networks]
    references = [reference_ms(reference, clock)] if reference else []
    going = timed
    for number in range(1, rounds + 1):
        for one in going:
            one.warm_up(others=len(going) > 1 or reference is not None)
            one.round(number)
        references += [reference_ms(reference, clock)] if reference else []
        for one in going:
            one.reference_ms = halves(references)
        if not (going := [one for one in going if not one.suffices()]):
            break
    return [one.so_far() for one in timed]


def reference_ms(run: Run, clock: Clock) -> float:
    """Milliseconds of the reference network at this moment."""
    return float(np.median(time_runs(run, REFERENCE, clock, rounds=1).samples_ms))


def halves(times: Sequence[float]) -> tuple[float, ...]:
    """The medians of the first and of the second half, the one in the middle being in neither; none of none."""
    half = len(times) // 2
    return (float(np.median(times[:half])), float(np.median(times[-half:]))) if half else ()


@dataclass
class _Timed:
    """A network and its runs so far."""

    run: Run
    settings: Settings
    clock: Clock
    rounds: int
    own: list[float | None] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    reference_ms: tuple[float, ...] = ()
    switches: int = 0
    ended: float = 0.0  # when its last round did

    @property
    def seconds(self) -> float:
        """Of a round."""
        return self.settings.seconds / self.rounds

    def warm_up(self, others: bool) -> None:
        """Run without counting: some runs, and until the last round is long enough ago, and until it is as fast as
        it is again if others ran meanwhile."""
        warmup, now = self.settings.warmup, time.perf_counter()
        if not warmup:
            return
        if self.lengths:
            runs, apart = ceil(warmup / self.rounds), BETWEEN - (now - self.ended)
            seconds = max(apart, SETTLING if others else 0.0)
        else:
            runs, seconds = warmup, WAKING if self.rounds > 1 else 0.0
        end, done = now + min(seconds, TIMES * self.seconds), 0
        while done < runs or time.perf_counter() < end:
            self.run()
            done += 1

    def round(self, number: int) -> None:
        """Time the runs of one round, which has its part of the runs and of the seconds."""
        processor_time = time.thread_time_ns if self.clock == "thread-cpu" else time.process_time_ns
        least = ceil(self.settings.min_runs * number / self.rounds)
        most = self.settings.max_runs * number // self.rounds
        own, cpu, wall, before = self.own, self.cpu, self.wall, len(self.wall)
        end, switches = time.perf_counter_ns() + self.seconds * 1e9, _switches(self.clock)
        while len(wall) < least or (len(wall) < most and time.perf_counter_ns() < end):
            wall_start, cpu_start = time.perf_counter_ns(), processor_time()
            own.append(self.run())
            cpu.append((processor_time() - cpu_start) / 1e6)
            wall.append((time.perf_counter_ns() - wall_start) / 1e6)
        self.switches += _switches(self.clock) - switches
        self.lengths.append(len(wall) - before)
        self.ended = time.perf_counter()

    def suffices(self) -> bool:
        """Whether its runs end early: enough of them, undisturbed, known well enough."""
        settings = self.settings
        if not settings.interval or len(self.lengths) < LEAST_ROUNDS or len(self.wall) < settings.min_runs:
            return False
        return self.so_far().suffices(settings.interval)

    def so_far(self) -> Runs:
        samples = {"thread-cpu": self.cpu, "wall": self.wall}.get(self.clock, self.own)
        beside = () if self.clock == "thread-cpu" else tuple(self.cpu)
        runs = Runs(self.clock, tuple(samples), tuple(self.wall), self.switches, beside, self.reference_ms)
        return replace(runs, rounds=tuple(self.lengths))


def _switches(clock: Clock) -> int:
    """How often a thread had to give the processor away: this one if it does the work, else any of ours."""
    whose = resource.RUSAGE_SELF
    if clock == "thread-cpu":
        whose = getattr(resource, "RUSAGE_THREAD", whose)  # Linux only
    return resource.getrusage(whose).ru_nivcsw
