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
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.asking import AskTell
from nas.found import Found
from nas.goals import constraints_of, focus_of, keys_of, objectives_of
from nas.own_evaluator import OwnEvaluator
from nas.pool import HerePool, Pool
from nas.progress import in_words, track
from nas.search import PoolWhenNeeded, Search, SearchFailed, make_searcher
from nas.search import search as carry_out
from nas.stopping import Clock
from nas.storage.records import Candidate, Constraint, Leg, Objective, Run
from search_spaces import CategoricalSpace

if TYPE_CHECKING:
    from nas.legs import Sitting
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
    focus: Mapping[str, Sequence[float | None]] | Sequence[Constraint] = (),
    seconds: float | None = None,
    plateau: int | None = None,
    start_from: Sequence[Any] = (),
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
            objective and for whatever else is limited.
        objectives: `{"accuracy": "maximize", "latency_ms": "minimize"}`, one or more.
        searcher: a name, or `{"name": "nsga2", "population": 32}`.
        constraints: `{"latency_ms": {"max": 2.0}}`.
        focus: `{"latency_ms": [0.5, 1.5]}`: where the search shall look; None is an open end.
        seconds: of wall clock, all sittings together, after which it ends; what is being evaluated is ended first.
        plateau: so many candidates that raise the hypervolume by less than 0.1 % end it.
        start_from: architectures that are evaluated first, best ones of a search before.
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
    _check(space, evaluate, workers, gpus_per_worker, ray, timeout)
    settings = Search(budget=budget, searcher=searcher, seed=seed, seconds=seconds, plateau=plateau)
    goals, limits = objectives_of(objectives), constraints_of(constraints)
    region, start = focus_of(focus, goals), _architectures(space, start_from)
    strategy = make_searcher(settings, space, len(goals))
    asked = {
        "evaluator": _name(evaluate),
        "search": {**asdict(settings), "start_from": [one.key for one in start] or None},
        "focus": [asdict(one) for one in region],
    }
    run = Run(
        name=name or space.name,
        experiment=json.dumps(asked),
        space=space.to_json(),
        objectives=goals,
        constraints=limits,
        folder="",
        status="searching",
        facts=_facts(seed),
    )
    evaluator = OwnEvaluator(evaluate, keys_of(goals, limits))
    with ExitStack() as used:
        pool = PoolWhenNeeded(
            lambda: used.enter_context(_pool(evaluator, workers, gpus_per_worker, ray, timeout))
        )
        memory = used.enter_context(_memory(store, run, start, extend, pool))
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
        )
        return Found(space, goals, limits, memory.candidates(run.name), memory.ended)


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


def _facts(seed: int) -> dict[str, str]:
    return {
        "machine": f"{platform.node()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "search seed": str(seed),
        **{name: version(name) for name in ("paretoshift", "numpy", "pymoo")},
    }


# -- where candidates are kept -----------------------------------------------------------------


class _InMemory:
    def __init__(self, start: Sequence[Any]):
        self.kept: list[Candidate] = []
        self.leg = Leg(start=tuple(one.to_json() for one in start))
        self.clock = Clock()
        self.ended = ""

    def candidates(self, run: str) -> list[Candidate]:
        return list(self.kept)

    def add_candidate(self, run: str, candidate: Candidate) -> Candidate:
        self.kept.append(replace(candidate, number=len(self.kept) + 1))
        return self.kept[-1]


@contextmanager
def _memory(
    store: str | os.PathLike | Store | None, run: Run, start: Sequence[Any], extend: bool, pool: Pool
) -> Iterator[_InMemory | Sitting]:
    """Where the candidates of the run are and come to, measured in all that is now asked for; in a store the run says
    how it ended."""
    if store is None:
        yield _InMemory(start)
        return
    from nas.config import run_name
    from nas.experiment import lock
    from nas.legs import Sitting, begin, complete
    from nas.storage.store import Store

    run_name(run.name)
    with (
        nullcontext(store) if isinstance(store, Store) else Store(_url(os.fspath(store))) as kept,
        lock(_folder(kept.url), run.name, "wait for it, or give this one another name"),
    ):
        _open(kept, run, extend)
        try:
            complete(run.name, keys_of(run.objectives, run.constraints), pool, kept)
            sitting = Sitting(kept, run.name, begin(kept, run, lambda: [one.to_json() for one in start]))
            yield sitting
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            kept.update_run(run.name, status=status, message=" ".join(str(error).split())[:500])
            raise
        kept.update_run(run.name, status="finished", message=sitting.ended)


def _url(place: str) -> str:
    return place if "://" in place else f"sqlite:///{place}"


def _folder(url: str) -> Path:
    """Where the lock of a run is: beside the store's file, or one of this machine for this database."""
    file = url.removeprefix("sqlite:///")
    if file != url:
        return Path(file).parent
    return Path(tempfile.gettempdir()) / f"paretoshift-{sha256(url.encode()).hexdigest()[:12]}"


def _open(store: Store, run: Run, extend: bool) -> None:
    """Make the run, or go on with it if it is the same, or may be extended.

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
    if not extend and (differ := _other_goals(was, run)):
        raise ValueError(
            f"the run {run.name} in {store.url} has {differ}; give this one another name, with name=..., or go on "
            "from its candidates, with extend=True"
        )
    store.update_run(run.name, status="searching", message="", facts=run.facts)


def _differences(was: Run, run: Run) -> str:
    """In what two runs differ that cannot be one."""
    if was.evaluator is None:
        return "a supernet, and is of an experiment file"
    return "another space" if was.space != run.space else ""


def _other_goals(was: Run, run: Run) -> str:
    """In what a run differs from what it was, beside the rules that end it."""
    from nas.legs import settings_of

    before, now = (json.loads(settings_of(one)) for one in (was, run))
    different = {
        "other objectives": before["objectives"] != now["objectives"],
        "other constraints": before["constraints"] != now["constraints"],
        "another focus": before["focus"] != now["focus"],
        "another searcher or seed": any(before[key] != now[key] for key in ("searcher", "seed")),
        "another start": before["start_from"] != now["start_from"],
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
