"""How networks are timed on a machine that others use too, and what makes the numbers believable.

With one thread the clock is the processor time of the thread that runs the network: where the wall clock
doubles under load, that stays within a few percent. What load does to it all the same, through caches and
interruptions, is watched: a disturbed measurement is done again, and flagged if it stays so. Never are two
measurements running at once on one host; several networks are measured in turns, a round of each after the
other (nas.hardware.rounds). A small reference network takes turns with them: if that has become slower, the
machine has. Of the other guests of a shared machine, which take a core's second thread
or its cache, nothing tells but the runs themselves: where the middle one is much above the fastest tenth, the
median is not that of the network alone, and is flagged. Doing it again would not help, the guests stay.

The interval of the median is that of moments as well as of runs, and where it is wide the record is flagged. So is
one of a longer moment in which the reference network took more or less than it usually does on this machine.

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
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.hardware.loaded import Clock, Loaded
from nas.hardware.machine import during, state
from nas.hardware.rounds import Run, reference_ms, time_in_turns
from nas.hardware.runs import Runs
from nas.hardware.settings import Settings
from nas.hardware.usual import usual_ms
from nas.storage.records import Latency

if TYPE_CHECKING:
    from torch import nn

PATIENCE = 20  # seconds of waiting for another measurement until that is said
REPEATS = 2  # how often a disturbed measurement is done again
TURNS = 8  # networks that are measured in turns, at most: all of them are in memory

logger = logging.getLogger(__name__)


def time_alone(
    networks: Sequence[Run],
    settings: Settings,
    clock: Clock,
    reference: Run | None = None,
    of_device: Callable[[], Mapping[str, float | str]] = dict,
) -> list[tuple[Runs, int]]:
    """Time networks in turns while no one else on this host does, those again that are disturbed.

    Args:
        networks: as `run` of `nas.hardware.rounds.time_runs`.
        of_device: what it says of its state, beside what the machine says.

    Returns:
        Of each network its least disturbed runs, and how many attempts were made.
    """
    attempts: list[list[Runs]] = [[] for _ in networks]
    with alone_on_this_host(), _no_garbage_collection():
        for _ in range(1 + REPEATS):
            again = [place for place, made in enumerate(attempts) if not made or made[-1].disturbance > 1]
            told = state()
            timed = time_in_turns([networks[place] for place in again], settings, clock, reference=reference)
            machine = during(told, state() | of_device())  # before the GPU has become idle
            for place, runs in zip(again, timed, strict=True):
                attempts[place].append(replace(runs, machine=machine))
            if not any(made[-1].disturbance > 1 for made in attempts):
                break
    return [(min(made, key=lambda runs: runs.disturbance), len(made)) for made in attempts]


def reference_alone(reference: Loaded) -> float:
    """Milliseconds of the reference network by itself, as between the rounds of a measurement."""
    with alone_on_this_host(), _no_garbage_collection():
        return reference_ms(reference.run, reference.clock)


def measure(
    device: Settings,
    networks: Sequence[tuple[Loaded, tuple[int, ...]]],
    reference: Loaded,
    kernels: bool = False,
) -> list[Latency]:
    """The records of networks that are measured in turns, TURNS of them at most.

    Args:
        networks: on the device, with the shapes of their inputs: (C, H, W) or (C, L).
        kernels: keep the runtime's own profile, too.
    """
    if not networks:
        return []
    load, (first, _) = os.getloadavg()[0], networks[0]
    timed = time_alone(
        [network.run for network, _ in networks], device, first.clock, reference.run, first.state
    )
    return [
        _record(device, *network, *found, load, kernels)
        for network, found in zip(networks, timed, strict=True)
    ]


def _record(
    device: Settings,
    network: Loaded,
    input_shape: tuple[int, ...],
    runs: Runs,
    attempts: int,
    load: float,
    kernels: bool,
) -> Latency:
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
