"""The search as a library: any space, any function of an architecture.

    from nas.library import CategoricalSpace, search

    space = CategoricalSpace({"kernel": [3, 5, 7], "width": [16, 32, 64]})
    found = search(space, evaluate, {"accuracy": "maximize", "latency_ms": "minimize"}, budget=50)

Beside the command line the only module that may import every layer, and each function only its own: importing it
loads neither torch nor Ray.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from nas.asking import AskTell
from nas.devices import Goals
from nas.found import Found
from nas.goals import constraints_of, focus_of, keys_of, objectives_of
from nas.own_evaluator import Given, OwnEvaluator
from nas.own_run import check_space, memory_of, own_run, own_searcher
from nas.pool import HerePool, Pool
from nas.progress import in_words, track
from nas.search import PoolWhenNeeded, Search, SearchFailed
from nas.search import search as carry_out
from nas.storage.records import Candidate, Constraint, Objective
from search_spaces import CategoricalSpace

if TYPE_CHECKING:
    from nas.storage.store import Store

__all__ = [
    "AskTell",
    "CategoricalSpace",
    "Constraint",
    "Found",
    "Objective",
    "SearchFailed",
    "ask_tell",
    "search",
]

ask_tell = AskTell

_OPTION = re.compile(r"--(workers|gpus-per-worker|ray)(?: (\d[\d.]*|HOST:PORT))?")  # of the command


def search(
    space: Any,
    evaluate: Callable[[Any], Mapping[str, Given]],
    objectives: Mapping[str, str] | Sequence[Objective],
    searcher: str | Mapping[str, Any] = Search.searcher,
    budget: int = 250,
    seed: int = 0,
    constraints: Mapping[str, Mapping[str, float]] | Sequence[Constraint] = (),
    *,
    focus: Mapping[str, Sequence[float | None]] | Sequence[Constraint] = (),
    seconds: float | None = None,
    plateau: int | None = None,
    start_from: Sequence[Any] = (),
    per_device: bool = False,
    store: str | os.PathLike | Store | None = None,
    name: str | None = None,
    extend: bool = False,
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    ray: str | None = None,
    timeout: float | None = None,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    quiet: bool = False,
) -> Found:
    """Evaluate architectures until `budget` different ones are known, another rule ends it, or none are left.

    What `evaluate` raises, returns wrongly or (on workers) takes too long for is a candidate with an error.

    Args:
        space: a CategoricalSpace, or any space of search_spaces.
        evaluate: from an architecture, which of a CategoricalSpace is read like a dictionary, to a number for every
            objective and for whatever else is limited; or to (low, value, high), the value within its 95 % interval,
            of which constraints take the worse end.
        objectives: `{"accuracy": "maximize", "latency_ms": "minimize"}`, one or more.
        searcher: a name, or `{"name": "nsga2", "population": 32}`.
        constraints: `{"latency_ms": {"max": 2.0}}`.
        focus: `{"latency_ms": [0.5, 1.5]}`: where the search shall look; None is an open end.
        seconds: of wall clock, all sittings together, after which it ends; what is being evaluated is ended first.
        plateau: so many candidates that raise the hypervolume by less than 0.1 % end it.
        start_from: architectures that are evaluated first, best ones of a search before.
        per_device: of latencies on several devices, `latency_ms@phone`, a search for each in turns, by its own
            objectives and limits and those of every device, instead of one for all. Each has a front, `Found.fronts`.
        store: a file or a database URL. There the run is kept, and the same call goes on where it was stopped.
            Without one, candidates are in memory only.
        name: of the run in the store; by default that of the space.
        extend: a run of that name may have other objectives, constraints, focus, searcher, seed or start: what its
            candidates lack is measured, and the search goes on from them.
        workers: evaluate on so many Ray workers of one CPU each, not in this process.
        gpus_per_worker: GPUs of each worker, or a share of one, like 0.5.
        ray: a Ray cluster to join, `HOST:PORT`; without it one is started here.
        timeout: seconds after which an evaluation is ended; only on workers, of which it ends the process.
        on_candidate: gets every new candidate as soon as it is recorded.
        quiet: show no progress on stderr.

    Raises:
        ValueError: what is asked makes no sense, or the store has another run of that name.
        SearchFailed: ten evaluations in a row failed.
        Busy: another process carries out this run.
        WorkersFailed: workers die or cannot start.
    """
    _check(space, evaluate, on_candidate, workers, gpus_per_worker, ray, timeout)
    settings = Search(budget, searcher, seed, seconds, plateau, per_device=per_device)
    goals, limits = objectives_of(objectives), constraints_of(constraints)
    region, start = focus_of(focus, goals), _architectures(space, start_from)
    asked = Goals(goals, limits, region)
    strategy = own_searcher(settings, space, asked)
    run = own_run(name, space, _name(evaluate), settings, asked, start)
    evaluator = OwnEvaluator(evaluate, keys_of(goals, limits))
    with ExitStack() as used:
        pool = PoolWhenNeeded(
            lambda: used.enter_context(_pool(evaluator, workers, gpus_per_worker, ray, timeout))
        )
        memory = used.enter_context(memory_of(store, run, start, extend, pool))
        known, most = len(memory.candidates(run.name)), min(budget, space.size)
        over = quiet or known >= most
        shown = None if over else used.enter_context(track("searching", most, known))

        def note(candidate: Candidate) -> None:
            if shown is not None:
                shown.to(candidate.number, in_words(candidate, goals, limits))
            on_candidate(candidate)

        memory.ended = carry_out(
            run.name,
            strategy,
            pool,
            memory,
            goals,
            limits,
            settings,
            note,
            focus=region,
            leg=memory.leg,
            clock=memory.clock,
            size=space.size,
            on_again=shown.again if shown is not None else lambda told: None,
        )
        return Found(space, goals, limits, memory.candidates(run.name), memory.ended)


# -- what is asked -----------------------------------------------------------------------------


def _check(
    space: Any,
    evaluate: Any,
    on_candidate: Any,
    workers: int | None,
    gpus_per_worker: float,
    ray: str | None,
    timeout: float | None,
) -> None:
    check_space(space)
    if not callable(evaluate):
        raise ValueError(f"evaluate is {evaluate!r}; it must be a function of an architecture")
    if not callable(on_candidate):
        raise ValueError(
            f"on_candidate is {on_candidate!r}; it must be a function of a candidate, or left out"
        )
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
        raise ValueError(f"workers is {workers!r}; it must be an integer of at least 1")
    for argument, value in (("timeout", timeout), ("gpus_per_worker", gpus_per_worker)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{argument} is {value!r}; it must be a number")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; it must be above 0 seconds")
    if workers is None and (gpus_per_worker or ray is not None):
        raise ValueError("gpus_per_worker and ray say where workers are; give workers=N as well")
    if workers is None and timeout is not None:
        raise ValueError(
            "timeout ends the process that evaluates, so it needs workers; give workers=1 or more as well"
        )


def _architectures(space: Any, given: Any) -> list[Any]:
    """Different architectures of the space, in the order in which they are given."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(
            f"start_from is {given!r}; give architectures, such as [found.architecture(one) for one in found.front]"
        )
    several = [space.architecture(one) if isinstance(one, Mapping) else one for one in given]
    for one in several:
        if not hasattr(one, "key"):
            raise ValueError(f"start_from holds {one!r}, which is no architecture of the space {space.name}")
        space.check(one)
    return list({one.key: one for one in several}.values())


def _name(evaluate: Callable) -> str:
    named = evaluate if hasattr(evaluate, "__qualname__") else type(evaluate)
    return f"{named.__module__}.{named.__qualname__}"


@contextmanager
def _in_python() -> Iterator[None]:
    """What is wrong with workers is said in the arguments of `search`, not in options of the command."""
    try:
        yield
    except ValueError as error:

        def argument(option: re.Match) -> str:
            name, value = option[1].replace("-", "_"), option[2]
            return name if value is None else f'{name}="{value}"' if ":" in value else f"{name}={value}"

        raise ValueError(_OPTION.sub(argument, str(error))) from error


# -- where evaluations run ---------------------------------------------------------------------


@contextmanager
def _pool(
    evaluator: OwnEvaluator,
    workers: int | None,
    gpus_per_worker: float,
    ray: str | None,
    timeout: float | None,
) -> Iterator[Pool]:
    if workers is None:
        yield HerePool(evaluator)
        return
    from workers.cluster import RayTalk, connect

    with redirect_stdout(RayTalk()), _in_python():  # Ray prints what happens to it
        cluster = connect(ray, workers, gpus_per_worker)
    with cluster:
        from workers.pool import pool_of  # now: what imports Ray fixes its settings

        pool = pool_of(cluster, evaluator, timeout)
        try:
            yield pool
        finally:
            pool.close()
