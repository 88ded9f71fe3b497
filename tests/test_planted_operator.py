"""An operator that no count sees, and that takes long: searched by counts it is everywhere, and a limit on the measured
latency keeps it out.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import Tensor, nn

from nas import pareto
from nas.cli import main
from nas.config import read_experiment
from nas.evaluation import evaluate, prepare
from nas.experiment import SUPERNET
from nas.objectives import OBJECTIVES
from nas.storage.records import Candidate, Constraint
from nas.storage.store import Store
from search_spaces import architecture_from_json
from supernets.operators import OPERATORS
from tests.conftest import TinyRun, write_experiment

GOALS = (OBJECTIVES["accuracy"].objective, OBJECTIVES["macs"].objective)
FIRST = 8  # of a search, before it predicts
TIMES = 600  # a hundredth of a millisecond is all that a plain network takes
SPACE = """{stem: {width: 8}, expansion: [1, 2], attention: none,
  stages: [{width: [8, 12], depth: [1, 2], stride: 1}, {width: [12, 16], depth: 1, stride: 2}],
  operators: [{depthwise: {kernel_size: [5, 7]}}, planted]}"""
BY_COUNTS = f"""
name: tiny
data: {{name: digits}}
space: {SPACE}
training: {{epochs: 3, batch_size: 64}}
search: {{budget: 20, searcher: {{name: linas, first: {FIRST}}}}}
objectives: [accuracy, macs]
device: {{name: onnxruntime-cpu, min_runs: 20, max_runs: 40, seconds: 0.02}}
"""


class Planted(nn.Module):
    """Leaves everything as it is, many times over: no parameters, nothing to multiply."""

    settings = {}

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride, :: self.stride]

    def export(self, channels: int) -> nn.Module:
        return nn.Sequential(*(nn.MaxPool2d(1) for _ in range(TIMES)), nn.MaxPool2d(1, self.stride))


def planted(candidate: Candidate) -> int:
    """In how many blocks it is."""
    return candidate.architecture.count('"planted"')


def share(candidates: list[Candidate]) -> float:
    """Of which it is in any block."""
    return float(np.mean([planted(one) > 0 for one in candidates]))


def searched(run: TinyRun, name: str, *overrides: str) -> list[Candidate]:
    """The candidates of a search, in order."""
    settings = [part for one in (f"name={name}", *overrides) for part in ("-o", one)]
    assert main(["run", *run.arguments, *settings]) == 0
    with Store(run.store_url, create=False) as store:
        return store.candidates(name)


def milliseconds(run: TinyRun, candidates: list[Candidate]) -> list[float]:
    """The median latency of each, measured now."""
    experiment = read_experiment(run.file, ["objectives=[latency, macs]"])
    bench = prepare(experiment.to_json(), str(run.folder / "runs" / "free" / SUPERNET))
    found = [evaluate(bench, architecture_from_json(one.architecture)) for one in candidates]
    return [one.values["latency_ms"] for one in found]


@pytest.mark.slow
def test_a_planted_slow_operator_is_avoided_under_a_latency_constraint_and_not_without_it(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(OPERATORS, "planted", Planted)
    run = write_experiment(tmp_path, BY_COUNTS)

    free = searched(run, "free")
    plain = max((one for one in free if not planted(one)), key=lambda one: one.values["macs"])
    fast, slow = milliseconds(run, [plain, min(filter(planted, free), key=planted)])
    assert slow > 5 * fast
    limit = math.sqrt(fast * slow)
    limited = searched(run, "limited", f"constraints={{latency_ms: {{max: {limit}}}}}")

    by_counts = pareto.front(free, GOALS)
    by_the_clock = pareto.front(limited, GOALS, [Constraint("latency_ms", max=limit)])
    assert planted(by_counts[0]) and share(by_counts) >= 0.5
    assert by_the_clock and share(by_the_clock) == 0
    assert share(limited[FIRST:]) < 0.5 * share(limited[:FIRST])
