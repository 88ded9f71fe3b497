"""An experiment, from its file to its front: read this first.

    open_run       the run of that name in the store, new or continued
    train_run      its supernet, from the last checkpoint
    search_run     its candidates, from the store
    nas.export     a candidate as a folder, verified

Each stage starts from what the one before left on disk, so each can be carried out alone, again, or
after a crash.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas import config, landmarks, legs
from nas.again import measure_again
from nas.data import Splits, load
from nas.devices import TIMED, device_of, devices_in, on
from nas.goals import keys_of
from nas.objectives import measure_of
from nas.progress import in_words, track
from nas.racing import unsettled
from nas.screen import screen_by_latency
from nas.search import PoolWhenNeeded, search, searcher_for
from nas.storage.records import Candidate, Leg, Run, TrainingPoint
from nas.storage.store import Store
from nas.turns import Turns
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from nas.pool import Pool
    from nas.search import Searcher
    from supernets.samplers.plan import Sampler

log = logging.getLogger(__name__)

SUPERNET = "supernet.safetensors"
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]*@")  # of a store's URL
PROBE_IMAGES = 256  # of the validation images, for samplers that look at the loss
EXTENDABLE = ("search", "objectives", "constraints", "focus", "landmarks")  # what a continued run may change
PREDICTION = "latency prediction"  # the fact of what a sampler goes by
LENGTH = ("interval", "reuse_days")  # of a device: how long is measured, not what


class Busy(RuntimeError):
    """Another process is carrying out this run."""


@dataclass(frozen=True)
class Opened:
    """A run that is being carried out, with what all stages need."""

    experiment: config.Experiment
    run: Run
    store: Store
    splits: Splits
    space: SearchSpace

    @property
    def supernet_file(self) -> Path:
        return Path(self.run.folder) / SUPERNET


@contextmanager
def open_run(
    experiment: config.Experiment, store: Store, runs: Path, fresh: bool = False, text: str = ""
) -> Iterator[Opened]:
    """The run of the experiment's name, made if it is new, continued if it is the same experiment.

    Args:
        runs: the folder in which each run has a folder of its name.
        fresh: start over; what was there is kept under another name.
        text: the experiment file as written, kept with the run.

    Raises:
        ValueError: the name is in use by another experiment; the message says what differs.
        Busy: another process has it open.
    """
    from nas.evaluation import check_race, space_of
    from nas.profile import check_possible

    splits = load(experiment.data)
    space = space_of(experiment, splits)
    check_possible(experiment, space)
    check_race(experiment, splits, space)
    _check_start(experiment, store, space, fresh)
    folder = (runs / experiment.name).absolute()
    with lock(runs, experiment.name):
        if fresh:
            _set_aside(store, runs, experiment.name)
        run = _find(store, experiment.name)
        if run is None:
            if (folder / SUPERNET).exists():
                raise ValueError(
                    f"the folder {folder} holds a supernet, but the store {store.url} knows no run "
                    f"{experiment.name}; give --store the store it belongs to, or another --name"
                )
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "experiment.yaml").write_text(text or experiment.to_json(), encoding="utf-8")
            run = Run(
                name=experiment.name,
                experiment=experiment.to_json(),
                space=space.to_json(),
                objectives=experiment.objectives,
                constraints=experiment.constraints,
                folder=str(folder),
                facts=_facts(experiment, splits),
            )
            store.add_run(run)
        else:
            _check_same(run, experiment, splits, space, timed=_timed(store, run))
            _check_place(run, folder, store)
        try:
            yield Opened(experiment, store.run(run.name), store, splits, space)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            if store.run(run.name).status in ("training", "searching"):  # else nothing was going on
                store.update_run(run.name, status=status, message=" ".join(str(error).split())[:500])
            raise


def train_run(opened: Opened, stop: Callable[[], bool], trainer: Callable | None = None) -> bool:
    """Train the supernet of a run from its last checkpoint to its last step.

    Args:
        trainer: trains on workers instead of here: `workers.training.Trainer`.

    Returns:
        Whether it came to the end; False if `stop` said so.
    """
    from supernets.training import progress

    store, name = opened.store, opened.run.name
    done, steps = progress(opened.supernet_file)
    if steps and done == steps:
        return True
    if known := store.count_candidates(name):
        raise ValueError(
            f"the run {name} has {known} candidates, but the supernet that they are of is not in "
            f"{opened.supernet_file}; put it back there, or start over with --fresh (the old run is kept)"
        )
    store.forget_training_after(name, done)  # steps after the checkpoint are trained again
    store.update_run(name, status="training", message="")
    ended = _can_predict(opened, stop, begun=steps > 0) and (trainer or train_here)(opened, stop)
    store.update_run(name, status="trained" if ended else "interrupted")
    return ended


def _can_predict(opened: Opened, stop: Callable[[], bool], begun: bool) -> bool:
    """Measure what a sampler that goes by latency needs, unless it is known; False if `stop` said so before."""
    from nas.predictors.latency import latency_of, predictor_for

    key = latency_of(opened.experiment.training.sampler)
    if key is None:
        return True
    predictor = predictor_for(Path(opened.run.folder), opened.experiment, opened.space, key, stop, begun)
    if predictor is not None:
        opened.store.update_run(opened.run.name, facts={on(PREDICTION, device_of(key)): str(predictor)})
    return predictor is not None


def train_here(opened: Opened, stop: Callable[[], bool]) -> bool:
    """Train in this process."""
    from supernets.training import Watcher, progress

    folder = Path(opened.run.folder)
    parts = training_parts(opened.experiment, opened.splits, opened.space, folder=folder)
    done, _ = progress(opened.supernet_file)
    with track("training", parts.steps, done) as shown:
        watcher = Watcher(
            point=partial(note_training, opened.store, opened.run.name, shown),
            preparing=shown.prepare,
            warn=shown.say,
            stop=stop,
        )
        return parts.train(opened.supernet_file, watcher)


def note_training(store: Store, run: str, shown, step: int, values: dict[str, float]) -> None:
    """Record what was seen of the training at a step, and show it."""
    store.add_training_points(run, [TrainingPoint(step, values)])
    shown.to(step, f"loss {values['loss']:.3f}, {values['images_per_second']:.0f} images/s")


@dataclass(frozen=True)
class TrainingParts:
    """What a training is made of, on one rank."""

    train: Callable
    steps: int


def training_parts(
    experiment: config.Experiment,
    splits: Splits,
    space: SearchSpace,
    rank: int = 0,
    ranks: int = 1,
    sampler: Sampler | None = None,
    folder: Path | None = None,
) -> TrainingParts:
    """Supernet, sampler and batches of an experiment, made but not begun; the same on every rank.

    Args:
        sampler: plans the steps, and what they cost is not counted; by default the one that the experiment names.
        folder: of the run, where a sampler that goes by latency finds what predicts it.

    Raises:
        ValueError, FileNotFoundError: it finds none there, or one of another space or device.
    """
    import torch

    from nas.data.batches import Batches, normalize
    from nas.memory import keep_freed_memory
    from nas.predictors.latency import costs_for
    from supernets.samplers import make_sampler
    from supernets.spatial import channels_last
    from supernets.supernet import make_supernet
    from supernets.training import train, training_device

    keep_freed_memory()
    settings, data = experiment.training, experiment.data
    device = training_device(settings)
    batches = Batches(
        splits.train,
        splits.mean,
        splits.std,
        settings.batch_size,
        settings.seed,
        data.crop,
        data.flip,
        data.cutout,
        device,
    )
    steps = settings.steps(batches.steps_per_epoch(ranks))
    supernet = channels_last(make_supernet(space, settings.seed).to(device))
    costs = None
    if sampler is None:
        costs = costs_for(experiment, space, folder)
        sampler = make_sampler(settings.sampler, space, costs, steps)

    def probe_batch(number: int):
        """The same validation images whenever that number is asked for."""
        random = np.random.default_rng([settings.seed, number, rank])
        chosen = random.choice(
            len(splits.validation), min(PROBE_IMAGES, len(splits.validation)), replace=False
        )
        images = normalize(splits.validation.images[chosen], splits.mean, splits.std, device)
        return images, torch.from_numpy(splits.validation.labels[chosen]).to(device)

    run = partial(
        train, supernet, batches, probe_batch, sampler, settings, rank=rank, ranks=ranks, costs=costs
    )
    return TrainingParts(run, steps)


def search_run(
    opened: Opened,
    stop: Callable[[], bool],
    make_pool: Callable | None = None,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    trials: tuple[Callable, int] | None = None,
) -> bool:
    """Search the trained supernet of a run until one of its rules ends it, which the run keeps in words.

    At its end the latencies of its front are measured once more (nas.again).

    Where searcher, objectives, constraints or focus are not those of before, what the candidates lack is measured
    first, and the search goes on from them. Where accuracy alone is to be predicted, landmarks are trained before.

    Args:
        make_pool: makes the pool that evaluates, from the opened run; in this process by default.
        trials: `make_pool` and `workers` of `nas.landmarks.prepare`; in this process by default.

    Returns:
        Whether it came to an end; False if it was stopped.

    Raises:
        ValueError: the supernet is not trained to the end.
    """
    from supernets.training import progress

    experiment, store, name = opened.experiment, opened.store, opened.run.name
    done, steps = progress(opened.supernet_file)
    if not steps:
        raise ValueError(
            f"the supernet of {name} is not trained yet; train it with `nas train`, or `nas run` to do both"
        )
    if done < steps:
        raise ValueError(
            f"the supernet of {name} is trained for {done} of {steps} steps; finish it with `nas train`"
        )
    searcher = searcher_for(experiment.search, opened.space, experiment.goals)
    was = store.run(name)
    if landmarks.are_needed(experiment) and not landmarks.prepare(opened, stop, *(trials or ())):
        return False
    asked = _asked(opened)
    if was.status == "finished" and was.experiment == asked.experiment and was.facts == asked.facts:
        return True
    store.update_run(name, status="searching", message="")
    if not (
        _complete(opened, make_pool or pool_here, stop) and _settle(opened, was, make_pool or pool_here, stop)
    ):
        store.update_run(name, status="interrupted")
        return False
    leg = legs.begin(store, asked, partial(_start, opened))
    store.update_run(name, facts={"search seed": str(experiment.search.seed)})
    screen_by_latency(opened, searcher, leg)
    if leg.known and leg.known == store.count_candidates(name):
        changed = config.differences(config.from_json(was.experiment), config.from_json(asked.experiment))
        by, now = (one.facts.get(landmarks.FACT) for one in (was, asked))
        changed += [f"landmarks were {by or 'none'}, are {now}"] if by != now else []
        log.warning(
            "the run %s goes on from its %d candidates with other settings: %s",
            name,
            leg.known,
            "; ".join(changed),
        )
    ended = _search(opened, searcher, leg, make_pool or pool_here, on_candidate, stop)
    if ended:
        again = _pool_for(opened, make_pool or pool_here)
        ended = ended if measure_again(store, name, experiment, again, stop) else None
    store.update_run(name, status="finished" if ended else "interrupted", message=ended or "")
    return ended is not None


def _pool_for(opened: Opened, make_pool: Callable) -> Callable[[config.Experiment], Pool]:
    """Makes the pool that evaluates what another experiment asks of the same supernet."""
    return lambda asked: make_pool(replace(opened, experiment=asked))


def _search(
    opened: Opened,
    searcher: Searcher | Turns,
    leg: Leg,
    make_pool: Callable,
    on_candidate: Callable[[Candidate], None],
    stop: Callable[[], bool],
) -> str | None:
    """The search of a leg; what ended it, in words, None if it was stopped."""
    experiment, store, name = opened.experiment, opened.store, opened.run.name
    budget, known = min(experiment.search.budget, opened.space.size), store.count_candidates(name)
    sitting = legs.Sitting(store, name, leg)
    pool = PoolWhenNeeded(partial(make_pool, opened))
    try:
        with track("searching", budget, known) as shown:

            def note(candidate: Candidate) -> None:
                shown.to(candidate.number, in_words(candidate, experiment.objectives, experiment.constraints))
                on_candidate(candidate)

            return search(
                name,
                searcher,
                pool,
                sitting,
                experiment.objectives,
                experiment.constraints,
                experiment.search,
                note,
                stop,
                focus=experiment.focus,
                leg=leg,
                clock=sitting.clock,
                size=opened.space.size,
                on_again=shown.again,
            )
    finally:
        pool.close()


def _complete(opened: Opened, make_pool: Callable, stop: Callable[[], bool]) -> bool:
    """Measure what the candidates lack of the objectives and constraints; False if `stop` said so before."""
    keys = keys_of(opened.experiment.objectives, opened.experiment.constraints)
    lacking = legs.incomplete(opened.store.candidates(opened.run.name), keys)
    return not lacking or _measure(opened, lacking, legs.missing(lacking, keys), make_pool, stop)


def _settle(opened: Opened, was: Run, make_pool: Callable, stop: Callable[[], bool]) -> bool:
    """Score whole those that were beaten on a part of the images, but may matter for other objectives or constraints
    than those of before; False if `stop` said so before."""
    experiment = opened.experiment
    if (was.objectives, was.constraints) == (experiment.objectives, experiment.constraints):
        return True
    lacking = unsettled(opened.store.candidates(was.name), experiment.goals)
    return not lacking or _measure(opened, lacking, ["accuracy"], make_pool, stop)


def _measure(
    opened: Opened,
    lacking: Sequence[Candidate],
    keys: Sequence[str],
    make_pool: Callable,
    stop: Callable[[], bool],
) -> bool:
    """Measure the values of these keys of some candidates, on all images; False if `stop` said so before."""
    experiment, store, name = opened.experiment, opened.store, opened.run.name
    missing = tuple(measure_of(key).objective for key in keys)
    whole = replace(experiment.search, first_images=None)
    asked = replace(experiment, objectives=missing, constraints=(), search=whole)
    pool = _pool_for(opened, make_pool)(asked)
    try:
        with track(f"measuring {' and '.join(one.name for one in missing)}", len(lacking)) as shown:
            done = iter(range(1, len(lacking) + 1))

            def note(candidate: Candidate) -> None:
                shown.to(next(done), in_words(candidate, missing, ()))

            return legs.complete(name, keys, pool, store, note, stop, lacking)
    finally:
        pool.close()


def _asked(opened: Opened) -> Run:
    """The run as the experiment now asks for it; its images stay where they were."""
    run = opened.store.run(opened.run.name)
    experiment = replace(opened.experiment, data=config.from_json(run.experiment).data)
    return replace(
        run,
        experiment=experiment.to_json(),
        objectives=experiment.objectives,
        constraints=experiment.constraints,
    )


def _start(opened: Opened) -> list[str]:
    """The architectures of another run that the search begins with, as JSON."""
    source = opened.experiment.search.source
    return [] if source is None else legs.best_of(opened.store, source[0], opened.space.to_json(), source[1])


def pool_here(opened: Opened):
    """Evaluate in this process.

    Raises:
        ValueError: a device is on another node, where no network can be sent from here.
    """
    from nas.evaluation import Bench
    from nas.pool import TogetherPool
    from nas.together import evaluate_together, race_together

    check_near(opened.experiment)
    bench = Bench(opened.experiment, opened.splits, opened.space, opened.supernet_file)
    races = opened.experiment.search.first_images is not None
    return TogetherPool(partial(race_together if races else evaluate_together, bench))


def check_near(experiment: config.Experiment) -> None:
    """Refuse an experiment that needs another node, before anything is trained in vain.

    Raises:
        ValueError: names the device and the way out.
    """
    for key, section in experiment.far.items():
        name = device_of(key)
        where = f"devices.{name}" if name else "device"
        needs = ", ".join(f"{what}: {number:g}" for what, number in section["resources"].items())
        raise ValueError(
            f"{where} is on a node with {{{needs}}}, and this process is on no cluster; give --workers N and "
            f"--ray HOST:PORT of a cluster with such a node, or leave {where}.resources out to measure here"
        )


# -- opening -----------------------------------------------------------------------------------


def _check_same(
    run: Run, experiment: config.Experiment, splits: Splits, space: SearchSpace, timed: Collection[str]
) -> None:
    """
    Args:
        timed: the sections of the devices that something was measured on, `device` or `devices.tablet`.
    """
    way_out = "give this one another --name, or start over with --fresh (the old run is kept)"
    if run.evaluator is not None:
        raise ValueError(f"the run {run.name} exists, its candidates measured by {run.evaluator}; {way_out}")
    was = config.from_json(run.experiment)
    directory_free = replace(was, data=replace(was.data, directory=experiment.data.directory))
    changes = [
        change
        for change in config.differences(directory_free, experiment)
        if not _may_change(change.split(" ")[0], timed)
    ]
    if changes:
        raise ValueError(f"the run {run.name} exists with other settings: {'; '.join(changes)}; {way_out}")
    if run.space != space.to_json():
        raise ValueError(f"the run {run.name} exists with another search space; {way_out}")
    if run.facts.get("data") != splits.fingerprint:
        raise ValueError(f"the run {run.name} was made with other images; {way_out}")


def _may_change(setting: str, timed: Collection[str]) -> bool:
    """Whether a run goes on with another value; `setting` is with its sections, `devices.tablet.threads`."""
    section, _, rest = setting.partition(".")
    if section in ("device", "devices") and rest.rpartition(".")[2] in LENGTH:
        return True
    if section == "devices":
        return f"devices.{rest.partition('.')[0]}" not in timed
    return section in EXTENDABLE or (section == "device" and "device" not in timed)


def _timed(store: Store, run: Run) -> set[str]:
    """The sections of the devices that something of the run was measured on."""
    keys = {key for one in store.candidates(run.name) for key in one.values}
    keys |= {fact.replace(PREDICTION, TIMED) for fact in run.facts}
    sections = {f"devices.{name}" for name in devices_in(sorted(keys))}
    return sections | ({"device"} if TIMED in keys else set())


def _check_start(experiment: config.Experiment, store: Store, space: SearchSpace, fresh: bool) -> None:
    """The run that a new one starts from can be started from: to be known before hours of training."""
    source = experiment.search.source
    if source is not None and source[0] == experiment.name:
        raise ValueError(f"search.start_from is {source[0]}, this run itself; name another run of the store")
    if source is not None and (fresh or _find(store, experiment.name) is None):
        legs.best_of(store, source[0], space.to_json(), 1)


def _check_place(run: Run, folder: Path, store: Store) -> None:
    """The run lies where it is looked for; if its old place is gone, the runs were moved here."""
    if Path(run.folder) == folder:
        return
    if Path(run.folder).exists():
        raise ValueError(
            f"the run {run.name} lies in {run.folder}; go on with --runs {Path(run.folder).parent}, or give "
            "this one another --name"
        )
    store.rename_run(run.name, run.name, str(folder))


def _find(store: Store, name: str) -> Run | None:
    return next((run for run in store.runs() if run.name == name), None)


def _set_aside(store: Store, runs: Path, name: str) -> None:
    """Rename a run and its folder after the time, so that starting over deletes nothing."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    kept = f"{name}-{stamp}"
    folder, aside = (runs / name).absolute(), (runs / kept).absolute()
    if (run := _find(store, name)) is not None:
        # first the store: a folder that it knows nothing of is refused, never mixed with another run
        store.rename_run(name, kept, str(aside) if Path(run.folder) == folder else None)
        log.warning("the run %s is kept as %s", name, kept)
    if folder.exists():
        shutil.move(folder, aside)


@contextmanager
def lock(
    runs: Path, name: str, way_out: str = "wait for it, or give this one another --name"
) -> Iterator[None]:
    """Hold the name against other processes; released by the system when this one dies.

    Raises:
        Busy: another process holds it.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        file = open(runs / f".{name}.lock", "a+")  # noqa: SIM115 -- closed by the `with` below
    except OSError as error:
        raise ValueError(
            f"cannot write to the folder {runs}: {error.strerror}; make it writable, or give another (--runs)"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Busy(
                f"the run {name} is being carried out by process {file.read().strip() or '?'}; {way_out}"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _facts(experiment: config.Experiment, splits: Splits) -> dict[str, str]:
    packages = ("paretoshift", "torch", "numpy", "onnxruntime", "pymoo")
    return {
        "data": splits.fingerprint,
        "images": str(splits),
        "machine": f"{platform.node()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "command": _PASSWORD.sub(r"\1***@", shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "training seed": str(experiment.training.seed),
        "search seed": str(experiment.search.seed),
        **{name: version(name) for name in packages},
    }
