"""The health of a run's supernet: what its rankings are worth, measured by training some architectures alone, or
against a table of architectures that others trained.

    open_health    a run whose supernet is trained, held against other processes
    chosen         architectures of all costs, in a fixed order: more of them keep the earlier ones
    drawn          the same from a table
    wanted         the trials that are still to be carried out
    measure        carries them out, on a pool, and records each
    nas.ranking    the report

Stratified as in Ning et al., "Evaluating efficient performance estimators of neural architectures", NeurIPS 2021.
The store is the only memory: what was stopped goes on, and a larger number of architectures or seeds adds to
what is there.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from random import Random

import numpy as np
import torch

from nas import config, health_reports
from nas.data import Splits
from nas.experiment import SUPERNET, lock
from nas.health_table import Table
from nas.pool import HerePool, Pool
from nas.progress import duration, track
from nas.search import FAILURES, SearchFailed
from nas.storage.records import Run, Trial
from nas.storage.store import Store
from nas.trials import Request, Stopped, TrialBench, carry_out, forget_unfinished, parts_alone
from search_spaces import NetworkArchitecture, NetworkSpace, space_from_json
from supernets import checkpoint
from supernets.cost import Costs, cost_table
from supernets.samplers.cost_bins import cost_bins
from supernets.training import Watcher

log = logging.getLogger(__name__)

BINS = 8  # of equal width in MACs
TRIES = 20  # rounds over all bins without a new architecture, after which there are no more
TIMED_STEPS = 3  # of the cheapest and the dearest architecture, for the estimate
INHERITED = ("inherited", "uncalibrated")


@dataclass(frozen=True)
class OpenedHealth:
    """A run that is being examined, with what all trials need."""

    run: Run
    store: Store
    bench: TrialBench


@contextmanager
def open_health(
    run: Run, store: Store, experiment: config.Experiment, splits: Splits
) -> Iterator[OpenedHealth]:
    """A run whose supernet is trained, held against other processes.

    Raises:
        ValueError: it is not trained, or not to its end.
        Busy: another process has it open.
    """
    folder = Path(run.folder)
    if not (folder / SUPERNET).is_file():
        raise ValueError(
            f"the run {run.name} has no supernet at {folder / SUPERNET}; train it with `nas train`, or put it back "
            "there"
        )
    with lock(folder.parent, run.name, "wait for it"):
        _check_trained(run, folder / SUPERNET)
        yield examining(run, store, experiment, splits)


def examining(run: Run, store: Store, experiment: config.Experiment, splits: Splits) -> OpenedHealth:
    """A run that is held already, its supernet trained."""
    bench = TrialBench(_here(experiment), splits, space_from_json(run.space), Path(run.folder))
    return OpenedHealth(run, store, bench)


def _here(experiment: config.Experiment) -> config.Experiment:
    """Nothing is timed, and what the run was trained and timed on may not be here."""
    training = experiment.training
    device = "cpu" if training.device == "cpu" else "auto"
    return replace(experiment, device={}, training=replace(training, device=device))


def _check_trained(run: Run, supernet: Path) -> None:
    _, facts = checkpoint.load(supernet)
    if facts["step"] < facts["steps"]:
        raise ValueError(
            f"the supernet of {run.name} is trained for {facts['step']} of {facts['steps']} steps; finish it with "
            "`nas train`"
        )


# -- what is wanted ----------------------------------------------------------------------------


def chosen(space: NetworkSpace, number: int, seed: int) -> list[NetworkArchitecture]:
    """Different architectures from all of `BINS` bins of MACs, the bins taking turns.

    The first n are the same for every number of at least n. There are fewer only where the space has no more
    that are found, which is said.
    """
    table = cost_table(space)
    bins = cost_bins(space, Costs(table).of("macs"), BINS, (table.smallest, table.largest))
    random, found, idle = Random(f"{seed}/health"), {}, 0
    while len(found) < number and idle < TRIES * len(bins):
        for place in range(len(bins)):
            one = bins.sample(place, random)
            idle = idle + 1 if one.key in found else 0
            found.setdefault(one.key, one)
    if len(found) < number:
        log.warning(
            "no more than %d architectures of %s are found; all of them are taken", len(found), space.name
        )
    return list(found.values())[:number]


def drawn(table: Table, space: NetworkSpace, number: int | None, seed: int) -> list[NetworkArchitecture]:
    """Architectures of a table from all of `BINS` bins of its MACs, the bins taking turns; all of them for None.

    The first n are the same for every number of at least n. There are fewer only where the table has no more,
    which is said.
    """
    known = table.architectures
    macs = cost_table(space).of(known)[:, 0]
    bins = np.searchsorted(np.linspace(macs.min(), macs.max(), BINS + 1)[1:-1], macs, side="right")
    order = Random(f"{seed}/table").sample(range(len(known)), len(known))
    rows = zip_longest(*([known[one] for one in order if bins[one] == place] for place in range(BINS)))
    taking_turns = [one for row in rows for one in row if one is not None]
    if number is not None and number > len(known):
        log.warning("no more than %d architectures are in %s; all are taken", len(known), table.source.file)
    return taking_turns[:number]


def wanted(
    architectures: Sequence[NetworkArchitecture], seeds: int, epochs: float, trials: Sequence[Trial]
) -> list[Request]:
    """The trials of the architectures that are not among those known: first what is inherited, which is soon
    known of all, then the trainings alone, one seed after the other.

    Raises:
        ValueError: there are trainings of another length, which no ranking may mix.
    """
    known = {(one.key, one.kind, one.seed) for one in trials}
    others = {one.values["epochs"] for one in trials if one.kind == "alone"} - {epochs}
    if others:
        trained = ", ".join(f"{one:g}" for one in sorted(others))
        raise ValueError(
            f"--epochs is {epochs:g}, but the trainings alone that are there are of {trained}; give that, or start "
            "over with --fresh, which forgets them"
        )
    asked = [Request(one, kind) for one in architectures for kind in INHERITED]
    asked += [Request(one, "alone", seed, epochs) for seed in range(seeds) for one in architectures]
    return [one for one in asked if (one.architecture.key, one.kind, one.seed) not in known]


def epochs_of(trials: Sequence[Trial], experiment: config.Experiment) -> float:
    """How long a training alone is unless somebody says so: as those that are there, or as the supernet's."""
    alone = (one.values["epochs"] for one in trials if one.kind == "alone")
    return next(alone, experiment.training.epochs)


def forget(opened: OpenedHealth, failed: bool = False) -> None:
    """Start over: drop all trials of the run with what was made of them, and what is left of unfinished trainings;
    or those that failed alone."""
    opened.store.forget_trials(opened.run.name, failed)
    if not failed:
        health_reports.forget(opened.run)
        shutil.rmtree(opened.bench.folder / "alone", ignore_errors=True)


# -- measuring ---------------------------------------------------------------------------------


def measure(
    opened: OpenedHealth,
    requests: Sequence[Request],
    stop: Callable[[], bool],
    make_pool: Callable[[TrialBench, Callable[[], bool]], Pool] | None = None,
    workers: int | None = None,
) -> bool:
    """Carry out trials and record each as soon as it is known.

    Args:
        make_pool: makes what carries them out, from the bench and `stop`; in this process by default.
        workers: how many trainings it carries out at once, each on one core; None for one, on all of them.

    Returns:
        Whether all are there; False if it was stopped.

    Raises:
        SearchFailed: ten in a row failed.
    """
    note_sampled(opened)
    if not requests:
        return True
    alone = [one for one in requests if one.kind == "alone"]
    soon = [one for one in requests if one.kind != "alone"]
    pool = (make_pool or pool_here)(opened.bench, stop)
    try:
        with track("inherited", len(soon), brief=True) as shown:
            ended = _record(opened, soon, pool, stop, shown.to)
        if ended and alone:
            ended = not stop() and _train_alone(opened, alone, pool, stop, workers)
    finally:
        pool.close()
    return ended


def pool_here(bench: TrialBench, stop: Callable[[], bool]) -> HerePool:
    """Carry out trials in this process."""
    bench.stop = stop
    return HerePool(partial(carry_out, bench))


def note_sampled(opened: OpenedHealth) -> None:
    """Copy what the supernet's training sampled from its checkpoint, where it is told, into the store."""
    store, name = opened.store, opened.run.name
    _, facts = checkpoint.load(opened.bench.folder / SUPERNET)
    if "sampled" in facts and all(one.kind != "sampled" for one in store.trials(name)):
        rows = (("edge", facts["sampled"]["edges"]), ("count", facts["sampled"]["counts"]))
        values = {f"{what}/{number}": float(one) for what, row in rows for number, one in enumerate(row)}
        store.add_trial(name, Trial("", "", "sampled", values=values))


def _train_alone(
    opened: OpenedHealth,
    requests: Sequence[Request],
    pool: Pool,
    stop: Callable[[], bool],
    workers: int | None,
) -> bool:
    bench = opened.bench
    steps, done = parts_alone(bench, requests[0]).steps, 0
    with track("training alone", steps * len(requests)) as shown:
        shown.say(
            f"{len(requests)} training{'s' * (len(requests) > 1)} alone, {requests[0].epochs:g} epochs each: "
            f"{_estimated(bench, requests, workers)}; what is done is kept if you stop"
        )

        def note(number: int, text: str) -> None:
            nonlocal done
            done = number
            shown.to(number * steps, text)

        def note_step(step: int) -> None:
            shown.to(done * steps + min(step, steps - 1), f"{done} of {len(requests)} trained")

        bench.on_step = note_step
        ended = _record(opened, requests, pool, stop, note)
    if ended:
        shutil.rmtree(bench.folder / "alone", ignore_errors=True)
    return ended


def _record(
    opened: OpenedHealth,
    requests: Sequence[Request],
    pool: Pool,
    stop: Callable[[], bool],
    note: Callable[[int, str], None],
) -> bool:
    asked = {(one.architecture.key, one.kind, one.seed): one for one in requests}
    done = failures = 0
    try:
        for trial in pool.map(requests):
            opened.store.add_trial(opened.run.name, trial)
            request = asked[trial.key, trial.kind, trial.seed]
            if request.kind == "alone":
                forget_unfinished(opened.bench, request)
            done += 1
            note(done, in_words(trial))
            failures = failures + 1 if trial.error else 0
            if failures >= FAILURES:
                raise SearchFailed(
                    f"{FAILURES} trials in a row failed, the last one with: {trial.error}; when that is mended, "
                    "--retry carries them out again"
                )
            if stop():
                break
    except Stopped:
        pass
    return done == len(requests)


def in_words(trial: Trial) -> str:
    """A trial in a line."""
    if trial.error:
        return f"{trial.key} {trial.kind} failed: {trial.error[:120]}"
    return f"{trial.key} {trial.kind} {trial.values['accuracy']:.2f} %"


# -- how long ----------------------------------------------------------------------------------


def _estimated(bench: TrialBench, requests: Sequence[Request], workers: int | None) -> str:
    """How long the trainings will take, in words."""
    places = min(workers or 1, len(requests))
    where = "here" if workers is None else f"on {places} worker{'s' * (places > 1)} like this machine"
    try:
        seconds = time_alone(bench, requests, threads=None if workers is None else 1)
    except Exception as error:  # a trial will fail so too, and its record say why
        log.info("cannot estimate", exc_info=True)
        return f"how long cannot be told ({type(error).__name__} when it was tried)"
    return f"about {duration(seconds / places)} {where}"


def time_alone(bench: TrialBench, requests: Sequence[Request], threads: int | None = None) -> float:
    """Seconds of all trainings in a row, by a few steps of the cheapest and the dearest.

    Args:
        threads: to time with; by default as many as torch uses here.
    """
    macs = cost_table(bench.space).of([one.architecture for one in requests])[:, 0]
    ends = [int(macs.argmin()), int(macs.argmax())]
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        timed = [_seconds_per_step(bench, requests[end]) for end in ends]
    finally:
        torch.set_num_threads(before)
    steps = parts_alone(bench, requests[ends[0]]).steps
    return float(steps * np.interp(macs, macs[ends], timed).sum())


def _seconds_per_step(bench: TrialBench, request: Request) -> float:
    """The median over the first steps, by the very loop that trains."""
    seen = [time.perf_counter()]

    def stop() -> bool:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seen.append(time.perf_counter())
        return len(seen) > TIMED_STEPS

    with tempfile.TemporaryDirectory() as folder:
        parts_alone(bench, request).train(Path(folder) / SUPERNET, Watcher(stop=stop))
    return float(np.median(np.diff(seen)))
