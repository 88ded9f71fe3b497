"""Evaluation on workers: Ray actors that are shells around plain functions.

What the work raises is its outcome. A worker that dies is nobody's outcome: its work is done again by
another. A worker that cannot start ends the search.

Latency is measured by one worker of each host, and only while no other of ours does anything: architectures
go in rounds, first everything else is measured of a round, by all, then its latency, of several in turns; in a race
(nas.racing) the other way round. Where nothing is measured so, outcomes may come as they are ready: the trials of a
health report do.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from nas.hardware.timing import TURNS
from nas.own_evaluator import OwnEvaluator
from nas.pool import Item, Outcome, Pool, shared_out
from nas.racing import Entrant
from nas.storage.records import Candidate
from search_spaces import Architecture
from workers.cluster import (
    PATIENCE,
    Cluster,
    WorkersFailed,
    has,
    living_nodes,
    node_name,
    reason_of,
    sendable,
    taken,
)

log = logging.getLogger(__name__)

ROUND = 16  # architectures per worker between two recordings: what a killed search has to do again, at most
MOST_DEATHS = 3
POLL = 0.5  # seconds between two questions whether to stop

Work = Callable[[Any, Item], Outcome]  # the first argument is what `prepare` made
WorkOnSome = Callable[[Any, list[Item]], Sequence[Outcome]]


def pool_on_workers(cluster: Cluster) -> Callable[..., Pool]:
    """What `nas.experiment.search_run` makes its pool with."""

    def make_pool(opened) -> Pool:
        from nas.evaluation import measures_of
        from nas.together import after_quiet, beginning, evaluate_loud, evaluate_quiet, race_loud, race_quiet

        prepare = partial(
            prepare_bench, sendable(opened.experiment), str(opened.supernet_file), opened.splits.fingerprint
        )
        quiet = any(measure.quiet for measure in measures_of(opened.experiment))
        if opened.experiment.search.first_images is not None:
            works = [race_loud] + quiet * [race_quiet]
            own = {
                "alike": _beginning,
                "failed": _failed_entrant,
                "after_quiet": after_quiet if quiet else None,
            }
            return WorkerPool(cluster, prepare, *works, **own)
        works = [evaluate_loud] + quiet * [evaluate_quiet]
        pool = WorkerPool(cluster, prepare, *works, alike=beginning)
        if not opened.experiment.far:
            return pool
        from workers.far import FarPool

        return FarPool(cluster, pool, opened.experiment.far)

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
    try:
        return evaluator(architecture)
    except KeyboardInterrupt:  # its own doing: a person's Ctrl-C ends the process that asks
        return failed_candidate(architecture, "KeyboardInterrupt: raised by evaluate")


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


def _failed_entrant(entrant: Entrant, why: str) -> Candidate:
    return failed_candidate(entrant.architecture, why)


def _beginning(entrant: Entrant) -> str:
    from nas.together import beginning

    return beginning(entrant.architecture)


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

    def work(self, work: WorkOnSome[Item, Outcome], items: list[Item]) -> Sequence[Outcome]:
        return work(self.bench, items)


def one_by_one(work: Work[Item, Outcome], bench: Any, items: list[Item]) -> list[Outcome]:
    return [work(bench, item) for item in items]


def _alone(items: Sequence[Item]) -> list[list[Item]]:
    return [[item] for item in items]


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
    """See nas.pool.Pool. What one worker has in hand at once is one item, or with `alike` several.

    Args:
        prepare: makes what an evaluation needs, once on each worker. An importable function over text and
            paths, never over a network.
        loud: measures what does not mind company; with `alike` of several items at once.
        quiet: measures the rest, of several items in turns, on a host where nothing else of ours runs; not asked for
            what failed before.
        failed: the outcome of an item that kills whoever works at it, and why.
        in_order: outcomes come in the order of asking, some time after they are ready, which `quiet` needs; with
            `alike` in that order within a round only.
        stop: asked all the while; when it says so, no more outcomes come.
        timeout: seconds after which an item fails, and the worker that has it in hand is ended; not with `quiet`.
        kind: the class of the actors.
        alike: what to sort items by so that those which share work are next to each other, and are handed out
            together; only `in_order`. If a worker dies with several in hand, they are done again one by one: nobody
            knows whose fault it was.
        resources: what a worker takes, and there is one alone; by default all workers of the cluster, with what it
            says.
        turns: `loud` measures several items at once, in turns; not `in_order`.
        after_quiet: what `quiet` measures comes first, and this makes of an item and that what `loud` gets, which then
            measures all else of it.

    Raises:
        WorkersFailed: a worker cannot start; the message says where and why.
    """

    def __init__(
        self,
        cluster: Cluster,
        prepare: Callable[[], Any],
        loud: Work[Item, Outcome] | WorkOnSome[Item, Outcome],
        quiet: WorkOnSome[Item, Outcome] | None = None,
        failed: Callable[[Item, str], Outcome] = failed_candidate,
        in_order: bool = True,
        stop: Callable[[], bool] = lambda: False,
        timeout: float | None = None,
        kind: type[Actor] = Evaluator,
        alike: Callable[[Item], str] | None = None,
        resources: Mapping[str, float] | None = None,
        turns: bool = False,
        after_quiet: Callable[[Item, Outcome], Item] | None = None,
    ):
        assert in_order or quiet is None
        assert quiet is not None or after_quiet is None
        assert not turns or (not in_order and timeout is None)
        assert timeout is None or (quiet is None and alike is None)
        assert in_order or alike is None
        self.timeout, self.kind = timeout, kind
        self.cluster, self.prepare, self.alike = cluster, prepare, alike
        self.loud = loud if alike or turns else partial(one_by_one, loud)
        self.quiet = quiet
        self.failed, self.in_order, self.stop = failed, in_order, stop
        self.resources, self.turns, self.after_quiet = resources, turns, after_quiet
        self.workers: list[Worker] = []
        self.deaths: Counter[str] = Counter()  # by key of the item
        try:
            self._start(cluster.workers if resources is None else 1)
        except BaseException:
            self.close()
            raise
        if quiet is not None:
            _say_where_latency_is_measured(self.workers)

    def map(self, items: Iterable[Item]) -> Iterator[Outcome]:
        if self.in_order:
            yield from self._in_rounds(list(items))
        else:
            items = list(items)
            yield from self._each(self._turns(items) if self.turns else _alone(items), self.loud, self._all)

    def _in_rounds(self, waiting: list[Item]) -> Iterator[Outcome]:
        places = {one.key: place for place, one in enumerate(waiting)}
        waiting = waiting if self.alike is None else sorted(waiting, key=self.alike)
        while waiting:
            size = ROUND * len(self.workers)
            together, waiting = waiting[:size], waiting[size:]
            found = self._loud_first(together) if self.after_quiet is None else self._quiet_first(together)
            if len(found) < len(together):
                return  # it was stopped
            yield from sorted(found.values(), key=lambda one: places[one.key])

    def _loud_first(self, together: list[Item]) -> dict[str, Outcome]:
        from nas.evaluation import merge

        found = {one.key: one for one in self._each(self._portions(together), self.loud, self._all)}
        if len(found) == len(together) and self.quiet is not None:
            measurable = [one for one in together if found[one.key].error is None]
            for candidate in self._each(self._turns(measurable), self.quiet, self._meters):
                found[candidate.key] = merge(found[candidate.key], candidate)
        return found

    def _quiet_first(self, together: list[Item]) -> dict[str, Outcome]:
        timed = {one.key: one for one in self._each(self._turns(together), self.quiet, self._meters)}
        failed = {key: one for key, one in timed.items() if one.error is not None}
        told = [self.after_quiet(one, timed[one.key]) for one in together if one.key in timed.keys() - failed]
        return failed | {one.key: one for one in self._each(self._portions(told), self.loud, self._all)}

    def _portions(self, items: list[Item]) -> list[list[Item]]:
        return _alone(items) if self.alike is None else shared_out(items, len(self.workers))

    def _turns(self, items: Sequence[Item]) -> list[list[Item]]:
        """So many together as are measured in turns, or fewer, so that every host has some."""
        size = max(1, min(TURNS, ceil(len(items) / len(self._meters()))))
        return [list(items[start : start + size]) for start in range(0, len(items), size)]

    def each(self, items: Sequence[Item], work: Work[Item, Any]) -> Iterator[Any]:
        """What any work makes of each of some items, as it comes."""
        yield from self._each(_alone(items), partial(one_by_one, work), self._all)

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
        make = ray.remote(self.kind).options(**self._options())
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

    def _options(self) -> dict[str, Any]:
        if self.resources is not None:
            return taken(self.resources)
        return {
            "num_cpus": 1,
            "num_gpus": self.cluster.gpus_per_worker,
            "runtime_env": {"env_vars": self.cluster.environment},
        }

    def _room(self) -> int:
        """How many workers there would be room for now, were the cluster all ours."""
        if self.resources is None:
            return self.cluster.room
        return sum(has(node["Resources"], self.resources) for node in living_nodes())

    def _wait_for_room(self, places: list[ray.ObjectRef]) -> tuple[list[ray.ObjectRef], list[ray.ObjectRef]]:
        """Which of the places are known, and which will not be: nobody leaves in time, or a node is lost."""
        end = time.monotonic() + PATIENCE
        while True:
            placed, missing = ray.wait(places, num_returns=len(places), timeout=1)
            if not missing or time.monotonic() > end:
                return placed, missing
            if self._room() < len(self.workers) + len(places):
                return placed, missing

    # -- the work ------------------------------------------------------------------------------

    def _each(
        self,
        portions: Sequence[list[Item]],
        work: WorkOnSome[Item, Outcome],
        members: Callable[[], Sequence[Worker]],
    ) -> Iterator[Outcome]:
        """The outcomes, as they come; `members` says who works, which changes when one dies.

        Raises:
            WorkersFailed: a worker cannot read or write a file.
        """
        waiting = deque(portions)
        running: dict[ray.ObjectRef, tuple[Worker, list[Item], float]] = {}  # and since when
        while waiting or running:
            busy = [worker for worker, *_ in running.values()]
            for worker in members():
                if waiting and worker not in busy:
                    items = waiting.popleft()
                    running[worker.evaluator.work.remote(work, items)] = worker, items, time.monotonic()
            ready, _ = ray.wait(list(running), timeout=POLL)
            late = [one for one, (*_, begun) in running.items() if one not in ready and self._is_late(begun)]
            for worker, [item], _ in map(running.pop, late):
                self._replace(worker)
                yield self.failed(item, f"TimedOut: it took longer than {self.timeout:g} seconds")
            if not ready:
                if self.stop():
                    return
                continue
            worker, items, _ = running.pop(ready[0])
            try:
                yield from ray.get(ready[0])
            except RayTaskError as error:
                if isinstance(error, OSError):
                    where = worker.place.host
                    raise WorkersFailed(f"the worker on {where} cannot go on: {reason_of(error)}") from error
                raise  # works return what else goes wrong with an item, so this is our mistake
            except RayError as error:
                in_hand = items[0].key if len(items) == 1 else f"{len(items)} architectures"
                log.warning("the worker on %s died with %s in hand", worker.place.host, in_hand)
                log.info("because: %s", error)
                self._replace(worker)
                if len(items) > 1:
                    waiting.extendleft([one] for one in reversed(items))
                elif (outcome := self._given_up(items[0])) is None:
                    waiting.appendleft(items)
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
