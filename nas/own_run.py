"""A run whose candidates a person measures: in memory, or in a store, where it goes on after it was stopped."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.devices import Goals, devices_in
from nas.goals import keys_of
from nas.pool import Pool
from nas.search import Search, Searcher, searcher_for
from nas.stopping import Clock
from nas.storage.records import Candidate, Leg, Run
from nas.turns import Turns

if TYPE_CHECKING:
    from nas.legs import Sitting
    from nas.storage.store import Store


def own_run(
    name: str | None, space: Any, evaluator: str, settings: Search, goals: Goals, start: Sequence[Any] = ()
) -> Run:
    """The run as it is asked for now, by default of the space's name.

    Args:
        evaluator: what measures its candidates, in words.
        start: architectures that are evaluated first.
    """
    asked = {
        "evaluator": evaluator,
        "search": {**asdict(settings), "start_from": [one.key for one in start] or None},
        "focus": [asdict(one) for one in goals.focus],
    }
    return Run(
        name=name or space.name,
        experiment=json.dumps(asked),
        space=space.to_json(),
        objectives=goals.objectives,
        constraints=goals.constraints,
        folder="",
        status="searching",
        facts=_facts(settings.seed),
    )


def check_space(space: Any) -> None:
    """
    Raises:
        ValueError: it is none.
    """
    if isinstance(space, type) or not hasattr(space, "decisions") or not hasattr(space, "to_json"):
        raise ValueError(f'space is {space!r}; make one with CategoricalSpace({{"kernel": [3, 5, 7]}})')


def own_searcher(settings: Search, space: Any, goals: Goals) -> Searcher | Turns:
    """The searcher of these goals, or one for each device.

    Raises:
        ValueError: as `nas.search.make_searcher`; or there are no devices to tell apart.
    """
    if not isinstance(settings.per_device, bool):
        raise ValueError(f"per_device is {settings.per_device!r}; it must be True or False")
    if settings.per_device and len(devices_in(keys_of(goals.objectives, goals.constraints))) < 2:
        raise ValueError(
            "per_device is True, but fewer than two devices are named; give each a latency of its own, such as "
            '{"accuracy": "maximize", "latency_ms@server": "minimize", "latency_ms@phone": "minimize"}'
        )
    return searcher_for(settings, space, goals)


def _facts(seed: int) -> dict[str, str]:
    return {
        "machine": f"{platform.node()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "search seed": str(seed),
        **{name: version(name) for name in ("paretoshift", "numpy", "pymoo")},
    }


class InMemory:
    """What `Sitting` is in a store: candidates, and what the search begins with, for as long as they are held."""

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
def memory_of(
    store: str | os.PathLike | Store | None, run: Run, start: Sequence[Any], extend: bool, pool: Pool
) -> Iterator[InMemory | Sitting]:
    """Where the candidates of the run are and come to, measured in all that is now asked for; in a store the run says
    how it ended."""
    if store is None:
        yield InMemory(start)
        return
    from nas.config import run_name
    from nas.experiment import lock
    from nas.legs import Sitting, begin, complete
    from nas.storage.store import Store

    run_name(run.name)
    if not isinstance(store, str | os.PathLike | Store):
        raise ValueError(f'store is {store!r}; give a file such as "nas.db", or the URL of a database')
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
            # GeneratorExit: a loop that was left open until the process ended
            stopped = isinstance(error, KeyboardInterrupt | GeneratorExit)
            status = "interrupted" if stopped else "failed"
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
