"""A search with a function of a person's own, as the tests of it call it: six decisions of five options."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

from nas.library import CategoricalSpace, search

SIX = CategoricalSpace({name: [1, 2, 3, 4, 5] for name in ("a", "b", "c", "d", "e", "f")}, name="six")
GOALS = {"accuracy": "maximize", "latency_ms": "minimize"}
HOUSE = Path(__file__).parents[1]


def evaluate(architecture) -> dict[str, float]:
    """Accuracy that saturates with all decisions, and latency that some of them cost more."""
    options = list(architecture.values())
    work = sum(number * option for number, option in enumerate(options, start=1))
    return {"accuracy": 1 - math.exp(-sum(options) / 10), "latency_ms": work / 10}


def found_by(searcher="nsga2", budget=24, function=evaluate, space=SIX, goals=None, **more):
    return search(space, function, goals or GOALS, searcher, budget, quiet=True, **more)


def keys(found) -> list[str]:
    return [one.key for one in found.candidates]


def run_script(text: str, *arguments: str, **more) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    return subprocess.run(
        [sys.executable, "-c", text, *arguments], capture_output=True, text=True, env=environment, **more
    )


def raising(architecture):
    raise KeyError("kernel")
