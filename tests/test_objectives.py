"""Every objective gives a number in its unit for any architecture, the same one again where nothing is timed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nas.evaluation import evaluate, prepare
from nas.objectives import KEYS, OBJECTIVES
from nas.storage.store import Store


@pytest.fixture(scope="module")
def bench(tiny_run):
    with Store(tiny_run.store_url, create=False) as store:
        run = store.run(tiny_run.name)
    return prepare(run.experiment, str(Path(run.folder) / "supernet.safetensors"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_keeps_its_promise(name, bench):
    measure = OBJECTIVES[name]
    key = measure.objective.key

    for architecture in bench.space.ends:
        first, again = (evaluate(bench, architecture, [measure]) for _ in range(2))
        low, high = first.interval(key)

        assert first.error is None and again.error is None
        assert math.isfinite(first.values[key]) and first.values[key] > 0
        assert low <= first.values[key] <= high
        assert measure.quiet or first.values == again.values
        assert (first.latency is not None) == (key == "latency_ms")


def test_names_and_keys_are_those_of_the_registry():
    assert {measure.objective.name for measure in KEYS.values()} == set(OBJECTIVES)
    assert all(measure.objective.goal in ("minimize", "maximize") for measure in KEYS.values())
