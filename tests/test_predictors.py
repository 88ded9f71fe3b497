"""A prediction says what was measured, as far as it can be told; what it says of itself is held out; and a training
goes by the very prediction that it began with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from nas import config
from nas.cli import main
from nas.data import load
from nas.evaluation import space_of
from nas.experiment import open_run, train_run, training_parts
from nas.predictors import PREDICTORS, LatencyPredictor
from nas.predictors.latency import (
    FILE,
    FLOOR,
    Measurement,
    fit,
    goes_by_latency,
    measurer,
    predictor_for,
    stratified,
)
from nas.predictors.ridge import PENALTIES, held_out, ridge
from nas.storage.records import Latency
from nas.storage.store import Store
from search_spaces import CellSpace, SearchSpace, read_skeleton, unroll
from supernets import checkpoint
from supernets.attention import ATTENTIONS
from supernets.cost import COSTS, CostTable, cost_table
from supernets.operators import OPERATORS
from tests.conftest import TINY, TinyRun, write_experiment

DEVICE = {"name": "onnxruntime-cpu", "min_runs": 20, "max_runs": 40, "seconds": 0.02}
BY_LATENCY = TINY.replace(
    "{name: shift, every: 10, warmup: 0.3}", "{name: uniform_cost, cost: latency_ms}"
).replace("epochs: 6", "epochs: 2")


@cache
def space_named(name: str) -> SearchSpace | CellSpace:
    return unroll(read_skeleton(name), OPERATORS, ATTENTIONS, (1, 8, 8), 10)


@cache
def table_of(name: str) -> CostTable:
    return cost_table(space_named(name))


def vectors_of(space: SearchSpace | CellSpace, count: int, seed: int = 0) -> np.ndarray:
    """(count, decisions), from 1, drawn uniformly, places that do not arise included."""
    limits = [len(decision.options) + 1 for decision in space.decisions]
    return np.random.default_rng(seed).integers(1, limits, (count, len(limits)))


def record(milliseconds: float) -> Latency:
    """A latency that was not measured: of a device that is made up."""
    samples = (milliseconds,) * 5
    return Latency(
        "made-up", {"threads": 1}, (1, 8, 8), "wall", samples, samples, {}, "none", 0.0, 0, contended=False
    )


def additive(name: str, seed: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """A made-up latency: something for each option that arises, and for MACs."""
    space, table, random = space_named(name), table_of(name), np.random.default_rng(seed)
    options = [np.append(0.0, random.uniform(0, 0.1, len(one.options))) for one in space.decisions]

    def latency(vectors: np.ndarray) -> np.ndarray:
        vectors = space.canonical(vectors)
        added = sum(row[column] for row, column in zip(options, vectors.T, strict=True))
        return 0.2 + added + 1e-6 * table(vectors)[:, COSTS.index("macs")]

    return latency


def fitted(name: str, latency: Callable[[np.ndarray], np.ndarray], count: int) -> LatencyPredictor:
    space = space_named(name)
    vectors = np.array([space.encode(one) for one in stratified(space, table_of(name), count)])
    pairs = zip(vectors.tolist(), latency(vectors), strict=True)
    measurements = [Measurement(tuple(vector), record(float(one))) for vector, one in pairs]
    return fit(space, table_of(name), DEVICE, measurements)


# -- the fit -----------------------------------------------------------------------------------


def test_the_penalty_is_the_one_that_leaving_each_example_out_finds_best():
    random = np.random.default_rng(0)
    features = random.normal(size=(14, 6))
    targets = 3 + features[:, 0] + random.normal(scale=0.3, size=14)

    def solved(rows: np.ndarray, penalty: float) -> np.ndarray:
        """Intercept and weights of the rows, by the normal equations."""
        unit = np.median(targets)
        scaled = np.column_stack([np.ones(len(rows)), features[rows]]) * (unit / targets[rows])[:, None]
        penalties = penalty * np.diag([0.0, *[1.0] * 6])
        return unit * np.linalg.solve(scaled.T @ scaled + penalties, scaled.T @ np.ones(len(rows)))

    def error(penalty: float) -> float:
        wrong = []
        for one in range(14):
            others = np.delete(np.arange(14), one)
            intercept, *weights = solved(others, penalty)
            wrong.append((intercept + features[one] @ weights) / targets[one] - 1)
        return float(np.mean(np.square(wrong)))

    found = ridge(features, targets)

    assert found.penalty == min(PENALTIES, key=error)
    everything = solved(np.arange(14), found.penalty)
    np.testing.assert_allclose([found.intercept, *found.coefficients], everything, rtol=1e-8)


def test_what_is_held_out_is_predicted_without_having_been_seen():
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(40, 30)), random.uniform(1, 2, 40)  # nothing to be learned

    seen = ridge(features, targets)(features)
    unseen = held_out(features, targets)

    assert np.corrcoef(unseen, targets)[0, 1] < 0.4
    assert np.abs(unseen / targets - 1).mean() >= np.abs(seen / targets - 1).mean()


@pytest.mark.parametrize(
    ("name", "count", "error"), [("tiny", 60, 0.01), ("digits", 150, 0.03), ("nasnet", 150, 0.05)]
)
def test_an_additive_latency_is_recovered(name, count, error):
    latency, vectors = additive(name), vectors_of(space_named(name), 500)

    predictor = fitted(name, latency, count)

    off = np.abs(predictor(vectors) / latency(vectors) - 1)
    assert np.median(off) < error
    assert np.corrcoef(predictor(vectors), latency(vectors))[0, 1] > 0.95
    assert predictor.quality.tau > 0.9
    assert predictor.quality.relative_error < 2 * error


def test_what_does_not_arise_adds_nothing():
    space, predictor = space_named("digits"), fitted("digits", additive("digits"), 60)
    vectors = vectors_of(space, 200)

    assert (predictor(vectors) == predictor(space.canonical(vectors))).all()


def test_nothing_is_predicted_to_be_faster_than_half_of_the_fastest():
    vectors = vectors_of(space_named("tiny"), 3000)
    latency = additive("tiny")
    least = latency(vectors).min()
    steep = fitted("tiny", lambda some: latency(some) - 0.99 * least, 20)

    predicted = steep(vectors)

    assert predicted.min() == FLOOR * min(one.latency.median_ms for one in steep.measurements)


def test_the_measured_are_different_of_all_costs_and_the_same_again():
    space, table = space_named("digits"), table_of("digits")
    chosen = stratified(space, table)
    macs = table.of(chosen)[:, 0].astype(float)

    assert len({one.key for one in chosen}) == len(chosen) == 60
    assert chosen[:2] == [table.smallest, table.largest]
    assert np.histogram(macs, bins=4)[0].min() >= 5
    assert stratified(space, table) == chosen
    assert stratified(space, table, seed=1) != chosen


def test_a_space_with_fewer_architectures_than_are_measured_is_measured_whole():
    skeleton = {"stages": [{"width": [8, 12], "depth": 1}], "operators": ["max_pool"], "expansion": [1, 2]}
    space = unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (1, 8, 8), 10)

    chosen = stratified(space, cost_table(space))

    assert len(chosen) == space.size == 8


# -- a real device -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> LatencyPredictor:
    """The digits space on this machine, from few and short measurements."""
    space, table = space_named("digits"), table_of("digits")
    measure = measurer(space, DEVICE)
    return fit(space, table, DEVICE, [measure(one) for one in stratified(space, table, 32)])


def test_few_measurements_rank_architectures_that_were_not_seen(measured):
    space, random = space_named("digits"), Random(7)
    unseen = [space.sample(random) for _ in range(12)]
    measure = measurer(space, DEVICE)
    times = np.array([measure(one).latency.median_ms for one in unseen])

    predicted = measured(np.array([space.encode(one) for one in unseen]))

    assert measured.quality.tau > 0.5
    assert measured.quality.relative_error < 0.25
    assert np.median(np.abs(predicted / times - 1)) < 0.35
    pairs = np.triu_indices(len(times), 1)
    agree = np.sign(predicted[pairs[0]] - predicted[pairs[1]]) == np.sign(times[pairs[0]] - times[pairs[1]])
    assert agree.mean() > 0.65


def test_it_says_that_it_predicts_from_what_and_how_far_it_is_off(measured):
    said = str(measured)

    assert said.startswith("latency is predicted from 32 measurements on onnxruntime-cpu (")
    assert f"{100 * measured.quality.relative_error:.1f} % off (median), Kendall's tau 0." in said
    assert PREDICTORS["latency_ms"] is LatencyPredictor


# -- the file ----------------------------------------------------------------------------------


def test_it_comes_back_from_its_file_to_the_last_bit(measured, tmp_path):
    space, vectors = space_named("digits"), vectors_of(space_named("digits"), 300)
    measured.save(tmp_path / FILE)

    again = LatencyPredictor.load(tmp_path / FILE, space, table_of("digits"), DEVICE)

    assert (again(vectors) == measured(vectors)).all()
    assert (again.model, again.quality, again.measurements) == (
        measured.model,
        measured.quality,
        measured.measurements,
    )
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("name", ["mobile", "signal", "nasnet"])
def test_predictions_of_every_topology_come_back_the_same(name, tmp_path):
    shape = (3, 64) if name == "signal" else (3, 32, 32)
    space = unroll(read_skeleton(name), OPERATORS, ATTENTIONS, shape, 10)
    table, random = cost_table(space), Random(0)
    vectors = [space.encode(space.sample(random)) for _ in range(12)]
    measurements = [Measurement(one, record(1 + number / 7)) for number, one in enumerate(vectors)]
    predictor = fit(space, table, DEVICE, measurements)
    predictor.save(tmp_path / FILE)

    again = LatencyPredictor.load(tmp_path / FILE, space, table, DEVICE)

    assert (again(np.array(vectors)) == predictor(np.array(vectors))).all()


def damaged(path: Path) -> None:
    path.write_text(path.read_text()[:-100])


def without_model(path: Path) -> None:
    path.write_text(
        json.dumps({key: one for key, one in json.loads(path.read_text()).items() if key != "model"})
    )


@pytest.mark.parametrize(
    ("name", "changed", "damage", "said"),
    [
        (
            "digits",
            {"threads": 2},
            None,
            r"measured on a device with threads None, not 2; remove it to measure anew",
        ),
        ("digits", {"name": "torch-cpu"}, None, r"with name onnxruntime-cpu, not torch-cpu; remove it"),
        (
            "tiny",
            {},
            None,
            r"is of another search space than tiny; remove it to measure anew, or start over with",
        ),
        (
            "digits",
            {},
            damaged,
            r"latency_model.json is damaged \(.*\); restore it, or remove it to measure anew",
        ),
        ("digits", {}, without_model, r"latency_model.json is damaged \('model'\); restore it"),
        ("digits", {}, Path.unlink, r"there is no latency_model.json in .*; put it back there"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(measured, tmp_path, name, changed, damage, said):
    measured.save(tmp_path / FILE)
    if damage is not None:
        damage(tmp_path / FILE)

    with pytest.raises((ValueError, FileNotFoundError), match=said) as refused:
        LatencyPredictor.load(tmp_path / FILE, space_named(name), table_of(name), DEVICE | changed)

    assert "\n" not in str(refused.value)


# -- training by it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "needed"),
    [
        ("shift", False),
        ({"name": "shift", "cost": "macs"}, False),
        ({"name": "shift", "cost": "latency_ms"}, True),
        ({"name": "sandwich", "of": {"name": "uniform_cost", "cost": "latency_ms"}, "randoms": 1}, True),
        (
            {
                "name": "progressive",
                "of": {"name": "sandwich", "of": {"name": "shift", "cost": "latency_ms"}},
            },
            True,
        ),
        ({"name": "progressive", "phases": [{"at": 0.2, "open": "kernel"}]}, False),
    ],
)
def test_a_sampler_at_any_depth_asks_for_latency(sampler, needed):
    assert goes_by_latency(sampler) == needed


@pytest.fixture(scope="module")
def by_latency(tmp_path_factory) -> TinyRun:
    """A training by predicted latency, carried out by the command itself."""
    run = write_experiment(tmp_path_factory.mktemp("by-latency"), BY_LATENCY)
    assert main(["train", *run.arguments]) == 0
    return run


def model_of(run: TinyRun) -> Path:
    return run.folder / "runs" / run.name / FILE


def never() -> bool:
    return False


def carried_out(run: TinyRun, stop: Callable[[], bool] = never) -> bool:
    experiment = config.read_experiment(run.file)
    with Store(run.store_url) as store, open_run(experiment, store, run.folder / "runs") as opened:
        return train_run(opened, stop)


def test_a_training_by_latency_measures_first_and_says_how_well_it_predicts(by_latency):
    with closing(Store(by_latency.store_url, create=False)) as store:
        said = store.run(by_latency.name).facts["latency prediction"]
        points = store.training_points(by_latency.name)

    assert said.startswith("latency is predicted from 60 measurements on onnxruntime-cpu")
    assert points[-1].step == 30
    assert len(json.loads(model_of(by_latency).read_text())["measurements"]) == 60


def test_a_training_by_latency_that_is_stopped_goes_on_by_the_same_prediction(by_latency, tmp_path):
    run = write_experiment(tmp_path, BY_LATENCY)
    model_of(run).parent.mkdir(parents=True)
    shutil.copy(model_of(by_latency), model_of(run))
    before = model_of(run).read_bytes()

    assert not carried_out(run, stop=lambda: True)
    assert carried_out(run)

    assert model_of(run).read_bytes() == before
    (tensors, facts), (expected, expected_facts) = (
        checkpoint.load(model_of(one).with_name("supernet.safetensors")) for one in (run, by_latency)
    )
    assert facts == expected_facts
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_a_training_that_has_begun_does_not_go_on_by_another_prediction(by_latency, tmp_path, capsys):
    run = write_experiment(tmp_path, BY_LATENCY)
    model_of(run).parent.mkdir(parents=True)
    shutil.copy(model_of(by_latency), model_of(run))
    assert not carried_out(run, stop=lambda: True)
    damaged(model_of(run))
    assert main(["train", *run.arguments]) == 2
    model_of(run).unlink()
    assert main(["train", *run.arguments]) == 2

    cut, gone = capsys.readouterr().err.splitlines()
    assert cut.endswith("; restore it, or start over with --fresh")
    assert "there is no latency_model.json in" in gone
    assert gone.endswith("put it back there, or start over with --fresh, which measures")


def test_whoever_stops_the_measuring_stops_the_training_and_nothing_is_kept(tmp_path):
    run = write_experiment(tmp_path, BY_LATENCY)
    asked = iter([False, True])

    assert not carried_out(run, stop=lambda: next(asked))

    assert not model_of(run).exists()
    with closing(Store(run.store_url)) as store:
        assert store.run(run.name).status == "interrupted"


def test_every_rank_reads_the_prediction_from_the_folder_of_the_run(by_latency):
    experiment = config.read_experiment(by_latency.file)
    splits = load(experiment.data)
    space = space_of(experiment, splits)

    parts = training_parts(experiment, splits, space, rank=1, ranks=2, folder=model_of(by_latency).parent)
    known = predictor_for(model_of(by_latency).parent, experiment, space)

    assert parts.steps == 14
    vectors = vectors_of(space, 50)
    assert (parts.train.keywords["costs"].of("latency_ms")(vectors) == known(vectors)).all()
    with pytest.raises(ValueError, match=r"there is no prediction of latency_ms here"):
        training_parts(experiment, splits, space, rank=1, ranks=2)
    other = replace(experiment, device=experiment.device | {"threads": 2})
    with pytest.raises(ValueError, match=r"measured on a device with threads 1, not 2"):
        training_parts(other, splits, space, folder=model_of(by_latency).parent)
