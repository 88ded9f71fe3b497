"""What `nas pick` found: as a small table beside what the search found, and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.devices import is_latency
from nas.profile_view import quantity
from nas.report import candidate_as_json, cell, console, heading, limit_in_words, outline, plain_table
from nas.storage.records import Run

if TYPE_CHECKING:
    from nas.pick import Picked

COUNTED = ("macs", "parameters", "bytes")


def print_pick(run: Run, picked: Picked) -> None:
    out = console()
    key, limit = picked.budget.key, picked.budget.max
    unit = " ms" if picked.is_predicted else ""
    what = "predicted" if picked.is_predicted else "counted"
    cost = f"{picked.cost:.3g}" if picked.is_predicted else quantity(picked.cost)
    budget = f"{limit:g}" if picked.is_predicted else quantity(limit)
    out.print(f"{run.name}: picked for {key} of at most {budget}{unit}; {what} {cost}{unit}", soft_wrap=True)
    table = plain_table("", "candidate")
    known = dict.fromkeys([*(one.key for one in run.objectives), *picked.candidate.values])
    keys = ["accuracy", *filter(is_latency, known), *COUNTED]
    for name in keys:
        table.add_column(heading(name, run.objectives), justify="right")
    table.add_column("architecture")
    rows = [("pick", picked.candidate)]
    rows += [("search", picked.searched)] if picked.searched else []
    for what, one in rows:
        table.add_row(what, one.key, *(cell(one, name) for name in keys), outline(one, run.unit))
    out.print(table)
    for line in notes(run, picked):
        out.print(line, soft_wrap=True)


def notes(run: Run, picked: Picked) -> list[str]:
    """What must be known beside the table."""
    lines = ["accuracy on the search-validation images; latency: measured, median [95 % interval]"]
    if picked.searched is None:
        lines.append(f"search: no candidate of {run.name} is known to keep the budget")
    else:
        lines.append("search: the most accurate candidate that keeps the budget")
        if picked.searched.values["accuracy"] > picked.candidate.values["accuracy"]:
            lines.append(
                f"the search's is more accurate: nas export {run.name} --candidate {picked.searched.key}"
            )
    lines.append(f"the generator was {picked.generator}")
    lines += [picked.prediction] if picked.prediction else []
    broken = [
        limit_in_words(one)
        for one in run.constraints
        if one.key in picked.candidate.values and not picked.candidate.feasible((one,))
    ]
    lines += [f"the pick breaks constraints of the run: {', '.join(broken)}"] if broken else []
    return lines


def pick_as_json(run: Run, picked: Picked) -> dict[str, Any]:
    """Everything that `print_pick` says, for scripts."""
    return {
        "run": run.name,
        "budget": {"key": picked.budget.key, "max": picked.budget.max},
        "cost": {"value": picked.cost, "predicted": picked.is_predicted},
        "generator": picked.generator,
        "prediction": picked.prediction,
        "pick": candidate_as_json(picked.candidate),
        "search": candidate_as_json(picked.searched) if picked.searched else None,
    }
