"""How a network is timed on a machine that others use too: the one loop, and what makes its numbers believable.

With one thread the clock is the processor time of the thread that runs the network: where the wall clock
doubles under load, that stays within a few percent. What load does to it all the same, through caches and
interruptions, is watched: a disturbed measurement is done again, and flagged if it stays so. Never are two
measurements running at once on one host. A small reference network is timed before and after each: if that
has become slower, the machine has. Of the other guests of a shared machine, which take a core's second thread
or its cache, nothing tells but the runs themselves: where the middle one is much above the fastest tenth, the
median is not that of the network alone, and is flagged. Doing it again would not help, the guests stay.

A machine is faster or slower for tenths of a second at a time, without a sign of it, and a network that runs all
its time in one such moment tells of that alone. So the runs are made in rounds with untimed runs between them, the
interval of the median is that of moments as well as of runs, and where it is wide the record is flagged. So is one of
a longer moment in which the reference network took more or less than it usually does on this machine.

Where the settings say so, runs end early once their median is known well enough, by the very interval that the
record will tell, but only while nothing disturbs them: what is disturbed gets all of its time, and is judged as if
nothing ended early.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import platform
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.hardware.loaded import Clock, Loaded
from nas.hardware.machine import during, state
from nas.hardware.settings import Settings
from nas.hardware.usual import usual_ms
from nas.storage.records import Latency, median_interval

if TYPE_CHECKING:
    from torch import nn

PATIENCE = 20  # seconds of waiting for another measurement until that is said
REPEATS = 2  # how often a disturbed measurement is done again
WAITING = 1.1  # a thread that others do not hold up spends this much more wall than processor time at most
SWITCHED = 0.05  # share of the runs that may be interrupted; more cool the caches of the others
SWITCHES_PER_SECOND = 20  # a quiet kernel interrupts so often too, which long runs cannot avoid
DRIFT = 0.05  # by which share the reference network may change from before to after
UNSTEADY = 0.05  # by which share the median may be above the fastest tenth of the runs
UNUSUAL = 0.03  # by which share the reference network may differ from what is usual here
UNSURE = 0.05  # by which share the interval of the median may reach from it
REFERENCE = Settings(warmup=5, min_runs=30, seconds=0.01, interval=0)  # how that is timed, in one round
ROUNDS = 9  # in which the runs are made
LEAST_ROUNDS = 6  # fewer have no 95 % interval of their median: all lie on one side of it with 2 × 0.5⁵
BETWEEN = 0.04  # seconds between two rounds at most, where a round is long enough
WAKING = 0.01  # seconds that a processor that has slept takes to be as fast as it is
TIMES = 4  # and as many times what a round is given, so that short measurements stay short

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runs:
    """The times of the runs of one network, in order, and what others did to the machine meanwhile."""

    clock: Clock
    samples_ms: tuple[float, ...]  # on that clock
    wall_ms: tuple[float, ...]
    switches: int  # how often others took the processor
    cpu_ms: tuple[float, ...] = ()  # processor time of the process, where that is not the clock
    reference_ms: tuple[float, ...] = ()  # of the reference network, before and after
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
            before, after = self.reference_ms
            apart = max(before, after) / min(before, after) - 1
            word = "more" if after > before else "less"
            found[f"drifted: the reference network took {apart:.0%} {word} after than before"] = apart / DRIFT
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


def time_runs(
    run: Callable[[], float | None], settings: Settings, clock: Clock, rounds: int = ROUNDS
) -> Runs:
    """Warm up, then time runs until the settings say that it is enough.

    A round has its part of the runs and of the seconds. Between two rounds the network runs on and is not timed: a
    processor that sleeps meanwhile is slower when it wakes, and not the same each time.

    Args:
        run: runs the network once and returns when it is done. On another clock than `thread-cpu` and
            `wall`, it returns its time on that, in milliseconds.
        rounds: 1 for what is timed in one moment.
    """
    processor_time = time.thread_time_ns if clock == "thread-cpu" else time.process_time_ns
    rounds = min(rounds, settings.max_runs)
    seconds = settings.seconds / rounds
    wall, cpu, own, ends, switches = [], [], [], [0], 0

    def so_far() -> Runs:
        samples = {"thread-cpu": cpu, "wall": wall}.get(clock, own)
        beside = () if clock == "thread-cpu" else tuple(cpu)
        lengths = tuple(end - start for start, end in pairwise(ends))
        return Runs(clock, tuple(samples), tuple(wall), switches, beside, rounds=lengths)

    def enough() -> bool:
        done = len(ends) > LEAST_ROUNDS and len(wall) >= settings.min_runs
        return bool(settings.interval) and done and so_far().suffices(settings.interval)

    _warm_up(run, settings.warmup, min(WAKING, TIMES * seconds) if rounds > 1 else 0.0)
    for number in range(1, rounds + 1):
        if number > 1:
            if enough():
                break
            _warm_up(run, ceil(settings.warmup / rounds), min(BETWEEN, TIMES * seconds))
        end = time.perf_counter_ns() + seconds * 1e9
        least, most = ceil(settings.min_runs * number / rounds), settings.max_runs * number // rounds
        before = _switches(clock)
        while len(wall) < least or (len(wall) < most and time.perf_counter_ns() < end):
            wall_start, cpu_start = time.perf_counter_ns(), processor_time()
            own.append(run())
            cpu.append((processor_time() - cpu_start) / 1e6)
            wall.append((time.perf_counter_ns() - wall_start) / 1e6)
        switches += _switches(clock) - before
        ends.append(len(wall))
    return so_far()


def _warm_up(run: Callable[[], float | None], runs: int, seconds: float) -> None:
    """Run at least so often without counting, and if at all then for so many seconds."""
    end, done = time.perf_counter_ns() + seconds * 1e9, 0
    while runs and (done < runs or time.perf_counter_ns() < end):
        run()
        done += 1


def _switches(clock: Clock) -> int:
    """How often a thread had to give the processor away: this one if it does the work, else any of ours."""
    whose = resource.RUSAGE_SELF
    if clock == "thread-cpu":
        whose = getattr(resource, "RUSAGE_THREAD", whose)  # Linux only
    return resource.getrusage(whose).ru_nivcsw


def time_alone(
    run: Callable[[], float | None],
    settings: Settings,
    clock: Clock,
    reference: Callable[[], float | None] | None = None,
    of_device: Callable[[], Mapping[str, float | str]] = dict,
) -> tuple[Runs, int]:
    """Time runs while no one else on this host does, again if disturbed.

    Args:
        of_device: what it says of its state, beside what the machine says.

    Returns:
        The least disturbed runs, and how many attempts were made.
    """

    def reference_ms() -> tuple[float, ...]:
        return (_reference_ms(reference, clock),) if reference else ()

    def attempt() -> Runs:
        told, before = state(), reference_ms()
        runs = time_runs(run, settings, clock)
        afterwards = state() | of_device()  # before the GPU has become idle
        return replace(runs, machine=during(told, afterwards), reference_ms=before + reference_ms())

    with alone_on_this_host(), _no_garbage_collection():
        attempts = [attempt()]
        while attempts[-1].disturbance > 1 and len(attempts) <= REPEATS:
            attempts.append(attempt())
    return min(attempts, key=lambda runs: runs.disturbance), len(attempts)


def reference_alone(reference: Loaded) -> float:
    """Milliseconds of the reference network by itself, as before and after a measurement."""
    with alone_on_this_host(), _no_garbage_collection():
        return _reference_ms(reference.run, reference.clock)


def _reference_ms(run: Callable[[], float | None], clock: Clock) -> float:
    return float(np.median(time_runs(run, REFERENCE, clock, rounds=1).samples_ms))


def measure(
    device: Settings, network: Loaded, input_shape: tuple[int, ...], reference: Loaded, kernels: bool = False
) -> Latency:
    """The record of one measurement, with the runtime's own profile if `kernels` are asked for."""
    load = os.getloadavg()[0]
    runs, attempts = time_alone(network.run, device, network.clock, reference.run, network.state)
    processor = network.processor or processor_name()
    of = {
        "device": device.name,
        "precision": device.precision,
        "threads": device.threads,
        "versions": dict(network.versions),
        "processor": processor,
    }
    runs = replace(runs, usual_ms=usual_ms(of, float(np.mean(runs.reference_ms))))
    if troubles := runs.troubles:
        logger.info("others disturbed this measurement: %s", "; ".join(troubles))
    return Latency(
        device=device.name,
        settings={**asdict(device), **network.facts},
        input_shape=tuple(input_shape),
        clock=network.clock,
        samples_ms=runs.samples_ms,
        wall_ms=runs.wall_ms,
        versions=dict(network.versions),
        processor=processor,
        load=load,
        involuntary_switches=runs.switches,
        contended=bool(troubles),
        cpu_ms=runs.cpu_ms,
        reference_ms=runs.reference_ms,
        machine=runs.machine,
        attempts=attempts,
        disturbed_by=troubles,
        kernels=network.kernels() if kernels and network.kernels else (),
        rounds=runs.rounds,
    )


def middle_mean(times: Sequence[float]) -> float:
    """Of the times of one step in a profile, without the first: the mean of the middle half, nearly as robust as the
    median, and finer than the whole microseconds that some runtimes tell."""
    ordered = np.sort(times[1:] or times)
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


@contextmanager
def alone_on_this_host() -> Iterator[None]:
    """Waits until no other thread or process of this host is in here."""
    file = Path(tempfile.gettempdir()) / "paretoshift-measurement.lock"
    descriptor = _lock_file(file)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.debug("waiting for another measurement on this host")
            reminder = threading.Timer(
                PATIENCE, logger.warning, ["still waiting for whoever measures on this host (holds %s)", file]
            )
            reminder.daemon = True
            reminder.start()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            reminder.cancel()
        yield
    finally:
        os.close(descriptor)  # which unlocks it, as the end of the process does


def _lock_file(path: Path) -> int:
    """A descriptor of its own for everyone. Reading suffices to lock, so a file of another user does too."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o644)
        os.fchmod(descriptor, 0o644)  # whatever the umask
        return descriptor


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def clock_of(threads: int) -> Clock:
    """One thread does the work in the thread that asks for it; more of them have no processor time in common."""
    return "thread-cpu" if threads == 1 else "wall"


def fixed_images(batch: int, input_shape: tuple[int, ...]) -> np.ndarray:
    """The (N, C, H, W) or (N, C, L) float32 input of all that is timed: the same standard normal numbers each time."""
    return np.random.default_rng(0).standard_normal((batch, *input_shape), dtype=np.float32)


def check_ready(subnet: nn.Module) -> None:
    """Raise ValueError unless the network is in evaluation mode, as it will be used."""
    for path, module in subnet.named_modules():
        if module.training:
            raise ValueError(f"{path or 'the network'} is in training mode; call .eval() before timing it")


@cache
def processor_name() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
