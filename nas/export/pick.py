"""Which candidate of a run a person means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.config import amount
from nas.devices import TIMED, device_of, devices_in, goals_of, goals_on, on
from nas.pareto import front, knee_candidate
from nas.profile import Infeasible
from nas.storage.records import Candidate, Constraint, Run
from search_spaces.strict import unknown


def pick(
    store, run: Run, key: str | None, best: str | None, limits: Sequence[str], device: str | None = None
) -> Candidate:
    """The candidate of a key, the best in an objective, or the knee point; with its latency record.

    Args:
        limits: `latency_ms=2.0`: only candidates that are not above it count.
        device: of several with names, the one whose front is meant; only its latency record comes with the candidate.

    Raises:
        Infeasible: no candidate is left.
        ValueError, LookupError: there is no such candidate or objective.
    """
    if key is not None and limits:
        raise ValueError("--candidate names one candidate, so --max can choose none; leave one of them out")
    device = device or _named_by(best, run)
    if device is not None:
        candidate = _picked(store, _on(run, device), key, best, limits)
        own = on(TIMED, device)
        return replace(candidate, latencies={k: v for k, v in candidate.latencies.items() if k == own})
    return _picked(store, run, key, best, limits)


def _named_by(best: str | None, run: Run) -> str | None:
    """The device of the objective that a candidate is to be best in, if it is of one."""
    keys = {one.name: one.key for one in run.objectives} | {one.key: one.key for one in run.objectives}
    return device_of(keys.get(best, "")) or None


def _on(run: Run, device: str) -> Run:
    """The run as it is about one of its devices."""
    known = devices_in(one.key for one in (*run.objectives, *run.constraints))
    if not known:
        raise ValueError(f"--device is {device}, but the devices of {run.name} have no names; leave it out")
    if device not in known:
        raise unknown(f"--device {device!r}", device, known)
    goals = goals_on(device, goals_of(run))
    return replace(run, objectives=goals.objectives, constraints=goals.constraints)


def _picked(store, run: Run, key: str | None, best: str | None, limits: Sequence[str]) -> Candidate:
    if key is not None:
        candidate = store.candidate(run.name, key)
        if candidate.error:
            raise ValueError(
                f"the candidate {candidate.key} failed and cannot be exported: {candidate.error}"
            )
        return candidate
    constraints = (*run.constraints, *(_limit(text, run) for text in limits))
    candidates = front(store.candidates(run.name), run.objectives, constraints)
    if not store.count_candidates(run.name):
        raise ValueError(f"{run.name} has no candidates yet; search it first: nas run, or nas search")
    if not candidates:
        limited = f" and --max {', '.join(limits)}" if limits else ""
        raise Infeasible(
            f"no candidate of {run.name} keeps its constraints{limited}; `nas report {run.name}` shows what there is"
        )
    chosen = knee_candidate(candidates, run.objectives)
    if best is not None:
        objectives = {one.name: one for one in run.objectives} | {one.key: one for one in run.objectives}
        if best not in objectives:
            raise unknown(f"--best {best!r}", best, [one.name for one in run.objectives])
        objective = objectives[best]
        chosen = min(candidates, key=lambda one: objective.loss(one.values[objective.key]))
    return store.candidate(run.name, chosen.key)


def _limit(text: str, run: Run) -> Constraint:
    key, equals, value = text.partition("=")
    known = [*(one.key for one in run.objectives), "macs", "parameters", "bytes"]
    if key not in known:
        raise unknown(f"--max {key!r}", key, dict.fromkeys(known))
    if not equals:
        raise ValueError(f"--max {text}: write it with a limit, such as {key}=2.5 or {key}=300k")
    return Constraint(key, max=amount(value, f"--max {key}"))
