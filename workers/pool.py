"""Evaluation on workers: Ray actors that are shells around plain functions.

What the work raises is its outcome. A worker that dies is nobody's outcome: its work is done again by
another. A worker that cannot start ends the search.

Latency is measured by one worker of each host, and only while no other of ours does anything: architectures
go in rounds, first everything else is measured of a round, by all, then its latency. Where nothing is measured
so, outcomes may come as they are ready: the trials of a health report do.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from nas.own_evaluator import OwnEvaluator
from nas.pool import Item, Outcome, Pool
from nas.storage.records import Candidate
from search_spaces import Architecture
from workers.cluster import PATIENCE, Cluster, WorkersFailed, node_name, reason_of, sendable

log = logging.getLogger(__name__)

ROUND = 4  # architectures per worker between two recordings: what a killed search has to do again, at most
MOST_DEATHS = 3
POLL = 0.5  # seconds between two questions whether to stop

Work = Callable[[Any, Item], Outcome]  # the first argument is what `prepare` made


def pool_on_workers(cluster: Cluster) -> Callable[..., Pool]:
    """What `nas.experiment.search_run` makes its pool with."""

    def make_pool(opened) -> Pool:
        from nas.evaluation import evaluate_part, measures_of

        prepare = partial(
            prepare_bench, sendable(opened.experiment), str(opened.supernet_file), opened.splits.fingerprint
        )
        quiet = any(measure.quiet for measure in measures_of(opened.experiment))
        works = [partial(evaluate_part, quiet=False)] + quiet * [partial(evaluate_part, quiet=True)]
        return WorkerPool(cluster, prepare, *works)

    return make_pool


def trials_on_workers(cluster: Cluster) -> Callable[..., Pool]:
    """What `nas.health.measure` makes its pool with."""

    def make_pool(bench, stop: Callable[[], bool]) -> Pool:
        from nas.trials import carry_out, failed

        experiment, space = sendable(bench.experiment), bench.space.to_json()
        prepare = partial(prepare_trials, experiment, space, str(bench.folder), bench.fingerprint)
        return WorkerPool(cluster, prepare, carry_out, failed=failed, in_order=False, stop=stop)

    return make_pool


def pool_of(cluster: Cluster, evaluator: OwnEvaluator, timeout: float | None = None) -> Pool:
    """A pool that evaluates with a person's own function, a copy of it on each worker.

    Args:
        timeout: seconds after which an evaluation fails, and the process it runs in is ended.

    Raises:
        ValueError: the function cannot be sent to another process.
    """
    try:
        ray.cloudpickle.dumps(evaluator)
    except Exception as error:  # whatever it refers to may refuse in its own way
        raise ValueError(
            f"evaluate cannot be sent to workers: {reason_of(error)}; open files, locks and connections inside it, or "
            "leave workers out"
        ) from error
    prepare = partial(_itself, evaluator)
    return WorkerPool(cluster, prepare, _evaluate, in_order=False, timeout=timeout, kind=Actor)


def _itself(evaluator: OwnEvaluator) -> OwnEvaluator:
    return evaluator


def _evaluate(evaluator: OwnEvaluator, architecture: Architecture) -> Candidate:
    return evaluator(architecture)


def prepare_bench(experiment: str, supernet_file: str, fingerprint: str):
    """On a worker: the bench, on the very images of the driver."""
    from nas.evaluation import prepare

    return _on_the_same_images(prepare(experiment, supernet_file), fingerprint)


def prepare_trials(experiment: str, space: str, folder: str, fingerprint: str):
    """On a worker: what trials need, on the very images of the driver."""
    from nas.trials import prepare_trials as prepare

    return _on_the_same_images(prepare(experiment, space, folder), fingerprint)


def _on_the_same_images(bench, fingerprint: str):
    if bench.fingerprint != fingerprint:
        raise ValueError("the images there are not those of this run; put the same files at the same path")
    return bench


def failed_candidate(architecture: Architecture, why: str) -> Candidate:
    return Candidate(architecture.key, architecture.to_json(), error=why)


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    host: str
    process: int
    processor: str  # what a latency depends on; empty where none is measured


class Actor:
    """Prepares once, then works."""

    def __init__(self):
        self.bench = None

    def place(self) -> Place:
        return Place(node_name(), os.getpid(), "")

    def prepare(self, prepare: Callable[[], Any]) -> None:
        self.bench = prepare()

    def work(self, work: Work[Item, Outcome], item: Item) -> Outcome:
        return work(self.bench, item)


class Evaluator(Actor):
    """Works with networks."""

    def __init__(self):
        import torch

        super().__init__()
        torch.set_num_threads(1)  # it has one CPU, whatever the environment says

    def place(self) -> Place:
        from nas.hardware.timing import processor_name

        processor = processor_name()
        if ray.get_gpu_ids():
            import torch

            processor += f", {torch.cuda.get_device_name()}"
        return Place(node_name(), os.getpid(), processor)


@dataclass
class Worker:
    """An evaluator that is ready, and where it runs."""

    evaluator: ray.actor.ActorHandle
    place: Place


class WorkerPool(Generic[Item, Outcome]):
    """See nas.pool.Pool. At most one item per worker is in flight.

    Args:
        prepare: makes what an evaluation needs, once on each worker. An importable function over text and
            paths, never over a network.
        loud: measures what does not mind company.
        quiet: measures the rest, on a host where nothing else of ours runs; not asked for what failed before.
        failed: the outcome of an item that kills whoever works at it, and why.
        in_order: outcomes come in the order of asking, some time after they are ready, which `quiet` needs.
        stop: asked all the while; when it says so, no more outcomes come.
        timeout: seconds after which an item fails, and the worker that has it in hand is ended; not with `quiet`.
        kind: the class of the actors.

    Raises:
        WorkersFailed: a worker cannot start; the message says where and why.
    """

    def __init__(
        self,
        cluster: Cluster,
        prepare: Callable[[], Any],
        loud: Work[Item, Outcome],
        quiet: Work[Item, Outcome] | None = None,
        failed: Callable[[Item, str], Outcome] = failed_candidate,
        in_order: bool = True,
        stop: Callable[[], bool] = lambda: False,
        timeout: float | None = None,
        kind: type[Actor] = Evaluator,
    ):
        assert in_order or quiet is None
        assert timeout is None or quiet is None
        self.timeout, self.kind = timeout, kind
        self.cluster, self.prepare, self.loud, self.quiet = cluster, prepare, loud, quiet
        self.failed, self.in_order, self.stop = failed, in_order, stop
        self.workers: list[Worker] = []
        self.deaths: Counter[str] = Counter()  # by key of the item
        try:
            self._start(cluster.workers)
        except BaseException:
            self.close()
            raise
        if quiet is not None:
            _say_where_latency_is_measured(self.workers)

    def map(self, items: Iterable[Item]) -> Iterator[Outcome]:
        if self.in_order:
            yield from self._in_rounds(list(items))
        else:
            yield from self._each(list(items), self.loud, self._all)

    def _in_rounds(self, waiting: list[Item]) -> Iterator[Outcome]:
        from nas.evaluation import merge

        while waiting:
            size = ROUND * len(self.workers)
            together, waiting = waiting[:size], waiting[size:]
            found = {one.key: one for one in self._each(together, self.loud, self._all)}
            if len(found) < len(together):
                return  # it was stopped
            if self.quiet is not None:
                measurable = [one for one in together if found[one.key].error is None]
                for candidate in self._each(measurable, self.quiet, self._meters):
                    found[candidate.key] = merge(found[candidate.key], candidate)
            yield from (found[one.key] for one in together)

    def close(self) -> None:
        for worker in self.workers:
            ray.kill(worker.evaluator)
        self.workers = []

    # -- who works -----------------------------------------------------------------------------

    def _all(self) -> Sequence[Worker]:
        return self.workers

    def _meters(self) -> Sequence[Worker]:
        """One worker of each host with the processor that most have: other latencies do not compare."""
        processor = commonest(worker.place.processor for worker in self.workers)
        hosts = {
            worker.place.host: worker
            for worker in reversed(self.workers)
            if worker.place.processor == processor
        }
        return list(hosts.values())

    def _start(self, count: int) -> None:
        """Add so many workers, all at once; those that die meanwhile are replaced.

        Raises:
            WorkersFailed: there is no room for any, one cannot prepare, or they keep dying.
        """
        for _ in range(MOST_DEATHS):
            hired = self._hire(count)
            born = [_ready(*one) for one in hired]
            self.workers += [worker for worker in born if worker is not None]
            count = born.count(None)
            if not count:
                return
        raise WorkersFailed(
            f"workers died {MOST_DEATHS} times while they prepared, before any evaluation; they may need more "
            "memory than there is"
        )

    def _hire(self, count: int) -> list[tuple[ray.actor.ActorHandle, ray.ObjectRef, ray.ObjectRef]]:
        """Evaluators that found room, each with its place and the end of its preparation to wait for."""
        make = ray.remote(self.kind).options(
            num_cpus=1,
            num_gpus=self.cluster.gpus_per_worker,
            runtime_env={"env_vars": self.cluster.environment},
        )
        evaluators = [make.remote() for _ in range(count)]
        asked = [(one, one.place.remote(), one.prepare.remote(self.prepare)) for one in evaluators]
        placed, missing = self._wait_for_room([place for _, place, _ in asked])
        for evaluator, place, _ in asked:
            if place in missing:
                ray.kill(evaluator)
        if missing:
            said = f"{len(missing)} of {count} workers found no room"
            if not placed and not self.workers:
                raise WorkersFailed(f"{said}: others use the cluster, or its nodes are gone; try again later")
            log.warning("%s; going on with %d", said, len(placed) + len(self.workers))
        return [one for one in asked if one[1] in placed]

    def _wait_for_room(self, places: list[ray.ObjectRef]) -> tuple[list[ray.ObjectRef], list[ray.ObjectRef]]:
        """Which of the places are known, and which will not be: nobody leaves in time, or a node is lost."""
        end = time.monotonic() + PATIENCE
        while True:
            placed, missing = ray.wait(places, num_returns=len(places), timeout=1)
            if not missing or time.monotonic() > end:
                return placed, missing
            if self.cluster.room < len(self.workers) + len(places):
                return placed, missing

    # -- the work ------------------------------------------------------------------------------

    def _each(
        self, items: Sequence[Item], work: Work[Item, Outcome], members: Callable[[], Sequence[Worker]]
    ) -> Iterator[Outcome]:
        """The outcomes, as they come; `members` says who works, which changes when one dies.

        Raises:
            WorkersFailed: a worker cannot read or write a file.
        """
        waiting = deque(items)
        running: dict[ray.ObjectRef, tuple[Worker, Item, float]] = {}  # and since when
        while waiting or running:
            busy = [worker for worker, *_ in running.values()]
            for worker in members():
                if waiting and worker not in busy:
                    item = waiting.popleft()
                    running[worker.evaluator.work.remote(work, item)] = worker, item, time.monotonic()
            ready, _ = ray.wait(list(running), timeout=POLL)
            late = [one for one, (*_, begun) in running.items() if one not in ready and self._is_late(begun)]
            for worker, item, _ in map(running.pop, late):
                self._replace(worker)
                yield self.failed(item, f"TimedOut: it took longer than {self.timeout:g} seconds")
            if not ready:
                if self.stop():
                    return
                continue
            worker, item, _ = running.pop(ready[0])
            try:
                yield ray.get(ready[0])
            except RayTaskError as error:
                if isinstance(error, OSError):
                    where = worker.place.host
                    raise WorkersFailed(f"the worker on {where} cannot go on: {reason_of(error)}") from error
                raise  # works return what else goes wrong with an item, so this is our mistake
            except RayError as error:
                log.warning("the worker on %s died with %s in hand", worker.place.host, item.key)
                log.info("because: %s", error)
                self._replace(worker)
                if (outcome := self._given_up(item)) is None:
                    waiting.appendleft(item)
                else:
                    yield outcome

    def _is_late(self, begun: float) -> bool:
        return self.timeout is not None and time.monotonic() - begun > self.timeout

    def _replace(self, dead: Worker) -> None:
        self.workers.remove(dead)
        ray.kill(dead.evaluator)  # if it is only out of reach, it must not come back and measure
        self._start(1)

    def _given_up(self, item: Item) -> Outcome | None:
        """The outcome of an item that kills whoever works at it; None for others."""
        self.deaths[item.key] += 1
        if self.deaths[item.key] < MOST_DEATHS:
            return None
        why = f"WorkerDied: {MOST_DEATHS} workers died while they evaluated it; it may need more memory than they have"
        return self.failed(item, why)


def _ready(evaluator: ray.actor.ActorHandle, place: ray.ObjectRef, prepared: ray.ObjectRef) -> Worker | None:
    """The worker once it is prepared; None if it died.

    Raises:
        WorkersFailed: what it prepares with raises; the message says where and why.
    """
    where = "a worker"
    try:
        worker = Worker(evaluator, ray.get(place))
        where = f"the worker on {worker.place.host}"
        ray.get(prepared)
    except RayTaskError as error:
        raise WorkersFailed(f"{where} cannot start: {reason_of(error)}") from error
    except RayError as error:
        log.info("%s died while it started: %s", where, error)
        return None
    return worker


def commonest(names: Iterable[str]) -> str:
    """The name that occurs most; of several, the first in the alphabet."""
    return max(sorted(Counter(names).items()), key=lambda pair: pair[1])[0]


def _say_where_latency_is_measured(workers: Sequence[Worker]) -> None:
    processors = {worker.place.processor for worker in workers}
    if len(processors) > 1:
        chosen = commonest(worker.place.processor for worker in workers)
        others = ", ".join(sorted(processors - {chosen}))
        log.warning("latency is measured on hosts with %s only, not on those with %s", chosen, others)
