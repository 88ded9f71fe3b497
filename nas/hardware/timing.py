"""How a network is timed on a machine that others use too: the one loop, and what makes its numbers believable.

With one thread the clock is the processor time of the thread that runs the network: where the wall clock
doubles under load, that stays within a few percent. What load does to it all the same, through caches and
interruptions, is watched: a disturbed measurement is done again, and flagged if it stays so. Never are two
measurements running at once on one host.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nas.hardware.settings import Settings
from nas.storage.records import Latency

if TYPE_CHECKING:
    from torch import nn

Clock = Literal["thread-cpu", "wall", "cuda-event"]

PATIENCE = 20  # seconds of waiting for another measurement until that is said
REPEATS = 2  # how often a disturbed measurement is done again
WAITING = 1.1  # a thread that others do not hold up spends this much more wall than processor time at most
SWITCHED = 0.05  # share of the runs that may be interrupted; more cool the caches of the others
SWITCHES_PER_SECOND = 20  # a quiet kernel interrupts so often too, which long runs cannot avoid

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runs:
    """The times of the runs of one network, in order, and how often others took the processor."""

    clock: Clock
    samples_ms: tuple[float, ...]  # on that clock
    wall_ms: tuple[float, ...]
    switches: int

    @property
    def disturbance(self) -> float:
        """What others did to the measurement, as a multiple of what is tolerated."""
        runs, seconds = len(self.wall_ms), sum(self.wall_ms) / 1e3
        switched = self.switches / max(SWITCHED * runs, SWITCHES_PER_SECOND * seconds, 1)
        if self.clock != "thread-cpu":
            return switched
        return max(switched, np.median(self.wall_ms) / np.median(self.samples_ms) / WAITING)


def time_runs(run: Callable[[], float | None], settings: Settings, clock: Clock) -> Runs:
    """Warm up, then time runs until the settings say that it is enough.

    Args:
        run: runs the network once and returns when it is done. On another clock than `thread-cpu` and
            `wall`, it returns its time on that, in milliseconds.
    """
    for _ in range(settings.warmup):
        run()
    wall, cpu, own = [], [], []
    switches = _switches(clock)
    end = time.perf_counter_ns() + settings.seconds * 1e9
    while len(wall) < settings.min_runs or (len(wall) < settings.max_runs and time.perf_counter_ns() < end):
        wall_start, cpu_start = time.perf_counter_ns(), time.thread_time_ns()
        own.append(run())
        cpu.append((time.thread_time_ns() - cpu_start) / 1e6)
        wall.append((time.perf_counter_ns() - wall_start) / 1e6)
    switches = _switches(clock) - switches
    samples = {"thread-cpu": cpu, "wall": wall}.get(clock, own)
    return Runs(clock, tuple(samples), tuple(wall), switches)


def _switches(clock: Clock) -> int:
    """How often a thread had to give the processor away: this one if it does the work, else any of ours."""
    whose = resource.RUSAGE_SELF
    if clock == "thread-cpu":
        whose = getattr(resource, "RUSAGE_THREAD", whose)  # Linux only
    return resource.getrusage(whose).ru_nivcsw


def time_alone(run: Callable[[], float | None], settings: Settings, clock: Clock) -> Runs:
    """Time runs while no one else on this host does, again if disturbed; the least disturbed are kept."""
    with alone_on_this_host(), _no_garbage_collection():
        best = time_runs(run, settings, clock)
        for _ in range(REPEATS):
            if best.disturbance <= 1:
                break
            best = min(best, time_runs(run, settings, clock), key=lambda runs: runs.disturbance)
    return best


def measure(
    device: Settings,
    run: Callable[[], float | None],
    input_shape: tuple[int, ...],
    clock: Clock,
    versions: Mapping[str, str],
    processor: str | None = None,
    **facts: str,
) -> Latency:
    """The record of one measurement; `facts` are stored beside the settings."""
    load = os.getloadavg()[0]
    runs = time_alone(run, device, clock)
    if runs.disturbance > 1:
        logger.info("others disturbed this measurement (%.1f × what is tolerated)", runs.disturbance)
    return Latency(
        device=device.name,
        settings={**asdict(device), **facts},
        input_shape=tuple(input_shape),
        clock=clock,
        samples_ms=runs.samples_ms,
        wall_ms=runs.wall_ms,
        versions=dict(versions),
        processor=processor or processor_name(),
        load=load,
        involuntary_switches=runs.switches,
        contended=bool(runs.disturbance > 1),
    )


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
