"""Every objective gives a number in its unit for any architecture, the same one again where nothing is timed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from nas.evaluation import evaluate, prepare
from nas.objectives import KEYS, OBJECTIVES
from nas.predictors.accuracy import FILE, Landmark, fit_accuracies
from nas.storage.store import Store


@pytest.fixture(scope="module")
def bench(tiny_run, tmp_path_factory):
    """The tiny run's, in a folder with an accuracy model: of landmarks that are as good alone."""
    with Store(tiny_run.store_url, create=False) as store:
        run, candidates = store.run(tiny_run.name), store.candidates(tiny_run.name)
    folder = tmp_path_factory.mktemp("objectives")
    supernet = shutil.copy(Path(run.folder) / "supernet.safetensors", folder)
    of = ("macs", "accuracy", "accuracy")
    landmarks = [Landmark(one.architecture, *(one.values[key] for key in of)) for one in candidates]
    fit_accuracies(landmarks).save(folder / FILE)
    return prepare(run.experiment, supernet)


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
