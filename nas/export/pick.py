"""Which candidate of a run a person means."""

from __future__ import annotations

from collections.abc import Sequence

from nas.config import amount
from nas.pareto import front, knee_candidate
from nas.profile import Infeasible
from nas.storage.records import Candidate, Constraint, Run
from search_spaces.strict import unknown


def pick(store, run: Run, key: str | None, best: str | None, limits: Sequence[str]) -> Candidate:
    """The candidate of a key, the best in an objective, or the knee point; with its latency record.

    Args:
        limits: `latency_ms=2.0`: only candidates that are not above it count.

    Raises:
        Infeasible: no candidate is left.
        ValueError, LookupError: there is no such candidate or objective.
    """
    if key is not None and limits:
        raise ValueError("--candidate names one candidate, so --max can choose none; leave one of them out")
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
