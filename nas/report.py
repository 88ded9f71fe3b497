"""Plain-text views of a run: its front as a table, its profile, its exports. Records in, rich tables out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from rich.console import Console
from rich.table import Table

from nas.devices import TIMED, DeviceFront, device_of, fronts, is_latency, on
from nas.landmarks import FACT
from nas.landmarks import KEY as PREDICTED
from nas.pareto import front, hypervolume, knee_candidate, losses, reference_point
from nas.profile_view import of_any_size, quantity, significant
from nas.stopping import course
from nas.storage.records import Candidate, Constraint, Export, Leg, Objective, Run
from search_spaces import Architecture, CategoricalArchitecture, architecture_from_json

DECIMALS = {"accuracy": 2, PREDICTED: 1}  # of percentages that are uncertain


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read our output is gone; the command line knows what to do, rich would end with exit code 1."""
        raise


def console() -> Console:
    """Where results go: stdout, wide enough for a table when nobody looks; brackets are brackets."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    return _Console(width=width, highlight=False, markup=False, emoji=False)


def plain_table(*headings: str) -> Table:
    """Columns without lines, which a person and a script read alike."""
    return Table(*headings, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")


def print_front(run: Run, candidates: Sequence[Candidate]) -> None:
    """The Pareto front with units, in ascending order of the last objective; of several devices also that of
    each."""
    out = console()
    best, by_device = front(candidates, run.objectives, run.constraints), fronts(run, candidates)
    out.print(summary(run, candidates, best))
    if best:
        out.print(_table(run, best, knee_candidate(best, run.objectives), _columns(run, best)))
    else:
        out.print(why_empty(run, candidates))
    for one in by_device if len(by_device) > 1 else ():
        out.print(f"on {one.device}: {len(one.candidates)} on the front of {_about(one)}", soft_wrap=True)
        if one.candidates:
            columns = [key for key in _columns(run, one.candidates) if device_of(key) in ("", one.device)]
            out.print(_table(run, one.candidates, one.knee, columns))
    if best or any(one.candidates for one in by_device):
        out.print("; ".join(["* knee point: the best compromise", *_notes(run, candidates)]), soft_wrap=True)
    if verdict := kept_again(run, best):
        out.print(verdict, soft_wrap=True)
    failed = [one for one in candidates if one.error is not None]
    if best and failed:
        out.print(f"last failure: {failed[-1].key}: {failed[-1].error}")


def limits_again(run: Run) -> tuple[Constraint, ...]:
    """The constraints that a second measurement can break."""
    return tuple(limit for limit in run.constraints if is_latency(limit.key))


def kept_again(run: Run, best: Sequence[Candidate]) -> str:
    """Which of a front keep the limits on latency on the second measurement as well, in words; nothing where none was
    measured twice, or there is no such limit."""
    limits = limits_again(run)
    twice = [one for one in best if any(limit.key in one.again for limit in limits)]
    if not twice:
        return ""
    broken = [one for one in twice if not one.second.feasible(limits)]
    count = f"measured again, {len(twice) - len(broken)} of {len(twice)} keep every constraint"
    if not broken:
        return count
    misses = [
        f"{one.key} ({limit.key} {cell(one.second, limit.key)}, limit {limit_in_words(limit)})"
        for one in broken
        for limit in limits
        if limit.violation(*one.second.interval(limit.key)) > 0
    ]
    return f"{count}; not: {', '.join(misses)}"


def _about(one: DeviceFront) -> str:
    """What a device's front weighs up, and what limits it there."""
    limits = [limit_in_words(limit) for limit in one.goals.constraints]
    under = f", with {', '.join(limits)}" if limits else ""
    return " and ".join(objective.name for objective in one.goals.objectives) + under


def _table(run: Run, best: Sequence[Candidate], knee: Candidate, columns: Sequence[str]) -> Table:
    """A front; its knee is marked."""
    table = plain_table()
    table.add_column("candidate")
    twice = {key for one in best for key in one.again}
    for key in columns:
        table.add_column(heading(key, run.objectives), justify="right")
        if key in twice:
            table.add_column("again", justify="right")
    table.add_column("architecture")
    several = len({operator for one in best for operator in operators_of(one)}) > 1
    for one in best:
        name = f"{one.key} *" if one is knee else one.key
        cells = []
        for key in columns:
            cells.append(cell(one, key, run.evaluator is not None))
            if key in twice:
                cells.append(cell(one.second, key) if key in one.again else "-")
        drawn = outline(one, run.unit) + (f" ({', '.join(operators_of(one))})" if several else "")
        table.add_row(name, *cells, drawn, style="bold" if one is knee else None)
    return table


def print_exports(exports: Sequence[Export]) -> None:
    """Where the exports of a run are, one line each."""
    for one in exports:
        console().print(
            f"exported {one.candidate}: {one.folder}, test accuracy {one.test_accuracy:.2f} %", soft_wrap=True
        )


def print_legs(legs: Sequence[Leg], candidates: int) -> None:
    """By whom candidates were found, if a run was extended."""
    legs = [leg for leg in legs if leg.known < candidates]
    if len(legs) < 2:
        return
    ends = [*(leg.known for leg in legs[1:]), candidates]
    stretches = [f"{leg.known + 1}-{end} by {_searcher_of(leg)}" for leg, end in zip(legs, ends, strict=True)]
    console().print(f"candidates {', '.join(stretches)}", soft_wrap=True)


def legs_as_json(legs: Sequence[Leg]) -> list[dict[str, Any]]:
    """The legs of a search without the architectures that they started from."""
    return [
        {"known": leg.known, "seconds": leg.seconds, "created": leg.created, **json.loads(leg.settings)}
        for leg in legs
    ]


def _searcher_of(leg: Leg) -> str:
    settings = json.loads(leg.settings)
    searcher = settings["searcher"]
    name = searcher if isinstance(searcher, str) else searcher["name"]
    goals = ", ".join(one["key"] for one in settings["objectives"])
    turns = " for each device" if settings.get("per_device") else ""
    return f"{name}{turns} (seed {settings['seed']}; {goals})"


def print_runs(rows: Sequence[tuple[Run, int]]) -> None:
    """The runs of a store, with how many candidates each has."""
    if not rows:
        console().print("no runs yet; `nas run examples/digits.yaml` makes one")
        return
    table = plain_table("run", "status", "candidates", "started", "objectives", "message")
    for run, count in rows:
        names = ", ".join(one.name for one in run.objectives)
        table.add_row(run.name, run.status, str(count), run.created, names, run.message)
    console().print(table)


def runs_as_json(rows: Sequence[tuple[Run, int]]) -> list[dict[str, Any]]:
    return [
        {
            "run": run.name,
            "status": run.status,
            "message": run.message,
            "candidates": count,
            "created": run.created,
            "objectives": [one.key for one in run.objectives],
        }
        for run, count in rows
    ]


def summary(run: Run, candidates: Sequence[Candidate], best: Sequence[Candidate]) -> str:
    failed = sum(one.error is not None for one in candidates)
    infeasible = sum(one.error is None and not one.feasible(run.constraints) for one in candidates)
    parts = [f"{len(candidates)} candidates", f"{len(best)} on the Pareto front"]
    parts += [f"{infeasible} infeasible"] if infeasible else []
    parts += [f"{failed} failed"] if failed else []
    beaten = [one for one in candidates if not one.whole]
    parts += [f"{len(beaten)} beaten on a part of the images"] if beaten else []
    limits = [limit_in_words(limit) for limit in run.constraints]
    parts += [f"constraints: {', '.join(limits)}"] if limits else []
    region = [limit_in_words(limit) for limit in run.focus]
    parts += [f"focus: {', '.join(region)}"] if region else []
    status = f"{run.status} ({run.message})" if run.message else run.status
    return f"{run.name}: {status}; " + ", ".join(parts)


def why_empty(run: Run, candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return "No candidates yet." if run.evaluator else "No candidates yet: `nas search` evaluates them."
    if all(one.error for one in candidates):
        return f"Every candidate failed; the last one with: {candidates[-1].error}"
    nearest = min(
        (one for one in candidates if one.error is None), key=lambda one: one.violation(run.constraints)
    )
    broken = [
        f"{limit.key} {cell(nearest, limit.key, run.evaluator is not None)} (limit {limit_in_words(limit)})"
        for limit in run.constraints
        if limit.violation(*nearest.interval(limit.key)) > 0
    ]
    return f"No candidate keeps the constraints; the nearest is {nearest.key}: {', '.join(broken)}"


def front_as_json(run: Run, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Everything that `print_front` says, for scripts."""
    best = front(candidates, run.objectives, run.constraints)
    points = losses(best, run.objectives)
    return {
        "run": run.name,
        "status": run.status,
        "message": run.message,
        "candidates": len(candidates),
        "failed": sum(one.error is not None for one in candidates),
        "objectives": [asdict(one) for one in run.objectives],
        "constraints": [asdict(one) for one in run.constraints],
        "focus": [asdict(one) for one in run.focus],
        "knee": knee_candidate(best, run.objectives).key if best else None,
        "hypervolume": hypervolume(points, reference_point(points)) if best else 0.0,
        "front": [_twice_as_json(one, run.constraints) for one in best],
        "course": course_as_json(run, candidates),
        "devices": {one.device: _device_as_json(one) for one in fronts(run, candidates)},
    }


def _device_as_json(one: DeviceFront) -> dict[str, Any]:
    """The front of one device, of several with names."""
    return {
        "objectives": [objective.key for objective in one.goals.objectives],
        "constraints": [asdict(limit) for limit in one.goals.constraints],
        "knee": one.knee and one.knee.key,
        "front": [_twice_as_json(candidate, one.goals.constraints) for candidate in one.candidates],
    }


def course_as_json(run: Run, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """How the front grew: after each candidate the share of the last hypervolume, and the seconds of evaluating."""
    seconds = accumulate(one.seconds for one in candidates)
    shares = course(candidates, run.objectives, run.constraints)
    return [
        {"candidate": one.key, "number": one.number, "seconds": so_far, "hypervolume_share": share}
        for one, so_far, share in zip(candidates, seconds, shares, strict=True)
    ]


def exports_as_json(exports: Sequence[Export]) -> list[dict[str, Any]]:
    """The exports without their cards, which lie in their folders."""
    return [{key: value for key, value in asdict(one).items() if key != "card"} for one in exports]


def _twice_as_json(one: Candidate, constraints: tuple[Constraint, ...]) -> dict[str, Any]:
    """A candidate of the front, with its second measurement and whether it keeps the constraints by that, if there is
    one."""
    if not one.again:
        return candidate_as_json(one) | {"again": None}
    values = {key: {"value": value, "interval": [low, high]} for key, (value, low, high) in one.again.items()}
    keeps = one.second.feasible(constraints)
    return candidate_as_json(one) | {"again": values | {"keeps_constraints": keeps}}


def candidate_as_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "candidate": candidate.key,
        "number": candidate.number,
        "values": dict(candidate.values),
        "intervals": {key: list(interval) for key, interval in candidate.intervals.items()},
        "error": candidate.error,
        "architecture": json.loads(candidate.architecture),
    }


def heading(key: str, objectives: Sequence[Objective]) -> str:
    """`latency_ms` as `latency (ms)`."""
    units = {one.key: (one.name, one.unit) for one in objectives}
    device = device_of(key)
    known = {
        TIMED: (on("latency", device) if device else "latency", "ms"),
        "bytes": ("bytes", "B"),
        "accuracy": ("accuracy", "%"),
    }
    name, unit = units.get(key, known.get(TIMED if device else key, (key, "")))
    return f"{name} ({unit})" if unit and unit.lower() != name.lower() else name


def cell(candidate: Candidate, key: str, own: bool = False) -> str:
    """A value in a table; `own` ones, of a person's own evaluator, may be of any size and no percentage."""
    value = candidate.values.get(key)
    if value is None:
        return "-"
    if key in candidate.intervals:
        low, high = candidate.intervals[key]
        decimals = None if own else DECIMALS.get(key)
        text = significant if decimals is None else f"{{:.{decimals}f}}".format
        return f"{text(value)} [{text(low)}-{text(high)}]"
    if own:
        return of_any_size(value)
    return f"{value:.2f}" if key in ("accuracy", "label_cosine") else quantity(value)


def outline(candidate: Candidate, unit: str = "px") -> str:
    """An architecture in one short line: resolution, then width×depth of each stage, or the operators of
    each cell; or all its decisions."""
    architecture = architecture_from_json(candidate.architecture)
    if isinstance(architecture, CategoricalArchitecture):
        return str(architecture)
    if not isinstance(architecture, Architecture):
        return f"{architecture.resolution} {unit}, {architecture.outline}"
    stages = " ".join(f"{stage.width}×{len(stage.blocks)}" for stage in architecture.stages)
    return f"{architecture.resolution} {unit}, {stages}"


def operators_of(candidate: Candidate) -> list[str]:
    """The operators of an architecture's blocks, each once; of others the outline says them."""
    architecture = architecture_from_json(candidate.architecture)
    if not isinstance(architecture, Architecture):
        return []
    return list(dict.fromkeys(block.operator for stage in architecture.stages for block in stage.blocks))


def limit_in_words(limit: Constraint) -> str:
    parts = [f"at least {limit.min:g}"] if limit.min is not None else []
    parts += [f"at most {limit.max:g}"] if limit.max is not None else []
    return f"{limit.key} {' and '.join(parts)}"


def _columns(run: Run, best: Sequence[Candidate]) -> list[str]:
    keys = [one.key for one in run.objectives] + [limit.key for limit in run.constraints]
    keys += ["accuracy"] if PREDICTED in keys and FACT in run.facts else []  # what an export has
    known = {key for one in best for key in one.values}
    return [key for key in dict.fromkeys([*keys, "macs", "parameters", "bytes"]) if key in known]


def _notes(run: Run, candidates: Sequence[Candidate]) -> Iterator[str]:
    """What kind of numbers those with an interval are."""
    keys = {key for one in candidates for key in one.intervals}
    if any(key.startswith(TIMED) for key in keys):
        yield "latency: measured, median [95 % interval]"
    if any(one.again for one in candidates):
        yield "again: measured once more after the search, which did not know it"
    if PREDICTED in keys and FACT in run.facts:  # else it is a person's own
        by = run.facts[FACT].partition(",")[0]
        yield f"{PREDICTED}: what a training alone would reach, predicted by {by} [95 % interval]"
