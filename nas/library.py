"""The search as a library: any space, any function of an architecture.

    from nas.library import CategoricalSpace, search

    space = CategoricalSpace({"kernel": [3, 5, 7], "width": [16, 32, 64]})
    found = search(space, evaluate, {"accuracy": "maximize", "latency_ms": "minimize"}, budget=50)

Beside the command line the only module that may import every layer, and each function only its own: importing it
loads neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.asking import AskTell
from nas.found import Found
from nas.goals import constraints_of, keys_of, objectives_of
from nas.own_evaluator import OwnEvaluator
from nas.pool import HerePool, Pool
from nas.progress import in_words, track
from nas.search import Memory, Search, SearchFailed, make_searcher
from nas.search import search as carry_out
from nas.storage.records import Candidate, Constraint, Objective, Run
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


def search(
    space: Any,
    evaluate: Callable[[Any], Mapping[str, float]],
    objectives: Mapping[str, str] | Sequence[Objective],
    searcher: str | Mapping[str, Any] = Search.searcher,
    budget: int = 250,
    seed: int = 0,
    constraints: Mapping[str, Mapping[str, float]] | Sequence[Constraint] = (),
    *,
    store: str | os.PathLike | Store | None = None,
    name: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    ray: str | None = None,
    timeout: float | None = None,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
    quiet: bool = False,
) -> Found:
    """Evaluate architectures until `budget` different ones are known, or none are left.

    What `evaluate` raises, returns wrongly or (on workers) takes too long for is a candidate with an error.

    Args:
        space: a CategoricalSpace, or any space of search_spaces.
        evaluate: from an architecture, which of a CategoricalSpace is read like a dictionary, to a number for every
            objective and for whatever else is limited.
        objectives: `{"accuracy": "maximize", "latency_ms": "minimize"}`, one or more.
        searcher: a name, or `{"name": "nsga2", "population": 32}`.
        constraints: `{"latency_ms": {"max": 2.0}}`.
        store: a file or a database URL. There the run is kept, and the same call goes on where it was stopped.
            Without one, candidates are in memory only.
        name: of the run in the store; by default that of the space.
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
    _check(space, evaluate, workers, gpus_per_worker, ray, timeout)
    settings = Search(budget=budget, searcher=searcher, seed=seed)
    goals, limits = objectives_of(objectives), constraints_of(constraints)
    strategy = make_searcher(settings, space, len(goals))
    run = Run(
        name=name or space.name,
        experiment=json.dumps({"evaluator": _name(evaluate), "search": asdict(settings)}),
        space=space.to_json(),
        objectives=goals,
        constraints=limits,
        folder="",
        status="searching",
        facts=_facts(seed),
    )
    evaluator = OwnEvaluator(evaluate, keys_of(goals, limits))
    with _memory(store, run) as memory:
        known = len(memory.candidates(run.name))
        if known < min(budget, space.size):
            with (
                _pool(evaluator, workers, gpus_per_worker, ray, timeout) as pool,
                nullcontext() if quiet else track("searching", min(budget, space.size), known) as shown,
            ):

                def note(candidate: Candidate) -> None:
                    if shown is not None:
                        shown.to(candidate.number, in_words(candidate, goals, limits))
                    on_candidate(candidate)

                carry_out(run.name, strategy, pool, memory, goals, limits, budget, note)
        return Found(space, goals, limits, memory.candidates(run.name))


# -- what is asked -----------------------------------------------------------------------------


def _check(
    space: Any,
    evaluate: Any,
    workers: int | None,
    gpus_per_worker: float,
    ray: str | None,
    timeout: float | None,
) -> None:
    if not hasattr(space, "decisions") or not hasattr(space, "to_json"):
        raise ValueError(f'space is {space!r}; make one with CategoricalSpace({{"kernel": [3, 5, 7]}})')
    if not callable(evaluate):
        raise ValueError(f"evaluate is {evaluate!r}; it must be a function of an architecture")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; it must be above 0 seconds")
    if workers is None and (gpus_per_worker or ray is not None):
        raise ValueError("gpus_per_worker and ray say where workers are; give workers=N as well")
    if workers is None and timeout is not None:
        raise ValueError(
            "timeout ends the process that evaluates, so it needs workers; give workers=1 or more as well"
        )


def _name(evaluate: Callable) -> str:
    named = evaluate if hasattr(evaluate, "__qualname__") else type(evaluate)
    return f"{named.__module__}.{named.__qualname__}"


def _facts(seed: int) -> dict[str, str]:
    return {
        "machine": f"{platform.node()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "search seed": str(seed),
        **{name: version(name) for name in ("paretoshift", "numpy", "pymoo")},
    }


# -- where candidates are kept -----------------------------------------------------------------


class _InMemory:
    def __init__(self):
        self.kept: list[Candidate] = []

    def candidates(self, run: str) -> list[Candidate]:
        return list(self.kept)

    def add_candidate(self, run: str, candidate: Candidate) -> Candidate:
        self.kept.append(replace(candidate, number=len(self.kept) + 1))
        return self.kept[-1]


@contextmanager
def _memory(store: str | os.PathLike | Store | None, run: Run) -> Iterator[Memory]:
    """Where the candidates of the run are and come to; in a store the run says how it ended."""
    if store is None:
        yield _InMemory()
        return
    from nas.config import run_name
    from nas.experiment import lock
    from nas.storage.store import Store

    run_name(run.name)
    with (
        nullcontext(store) if isinstance(store, Store) else Store(_url(os.fspath(store))) as kept,
        lock(_folder(kept.url), run.name, "wait for it, or give this one another name"),
    ):
        _open(kept, run)
        try:
            yield kept
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            kept.update_run(run.name, status=status, message=" ".join(str(error).split())[:500])
            raise
        kept.update_run(run.name, status="finished", message="")


def _url(place: str) -> str:
    return place if "://" in place else f"sqlite:///{place}"


def _folder(url: str) -> Path:
    """Where the lock of a run is: beside the store's file, or one of this machine for this database."""
    file = url.removeprefix("sqlite:///")
    if file != url:
        return Path(file).parent
    return Path(tempfile.gettempdir()) / f"paretoshift-{sha256(url.encode()).hexdigest()[:12]}"


def _open(store: Store, run: Run) -> None:
    """Make the run, or go on with it if it is the same.

    Raises:
        ValueError: the name is in use by another one; the message says what differs.
    """
    was = next((one for one in store.runs() if one.name == run.name), None)
    if was is None:
        store.add_run(run)
        return
    if differ := _differences(was, run):
        raise ValueError(
            f"the run {run.name} in {store.url} has {differ}; give this one another name, with name=..."
        )
    store.update_run(run.name, status="searching", message="", facts=run.facts)


def _differences(was: Run, run: Run) -> str:
    """In what two runs differ that cannot be one; the budget may grow."""
    if was.evaluator is None:
        return "a supernet, and is of an experiment file"
    searches = [json.loads(one.experiment)["search"] | {"budget": None} for one in (was, run)]
    different = {
        "another space": was.space != run.space,
        "other objectives": was.objectives != run.objectives,
        "other constraints": was.constraints != run.constraints,
        "another searcher or seed": searches[0] != searches[1],
    }
    return " and ".join(what for what, differ in different.items() if differ)


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

    with redirect_stdout(RayTalk()):  # Ray prints what happens to it
        cluster = connect(ray, workers, gpus_per_worker)
    with cluster:
        from workers.pool import pool_of  # now: what imports Ray fixes its settings

        pool = pool_of(cluster, evaluator, timeout)
        try:
            yield pool
        finally:
            pool.close()
