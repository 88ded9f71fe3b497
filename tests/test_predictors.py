"""A prediction says what was measured, as far as it can be told; what it says of itself is held out; and a training
goes by the very prediction that it began with.
"""

from __future__ import annotations

import json
import shutil
import time
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
from nas.experiment import open_run, search_run, train_run, training_parts
from nas.predictors import PREDICTORS, LatencyModel, LatencyPredictor, fit_latencies, fit_latency_model
from nas.predictors.latency import FILE, Measurement, fit, latency_of, measurer, predictor_for
from nas.predictors.learning import Learner, reading
from nas.predictors.model import FLOOR
from nas.predictors.regression import regress
from nas.storage.records import Latency
from nas.storage.store import Store
from search_spaces import CategoricalSpace, CellSpace, SearchSpace, read_skeleton, unroll
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


def milliseconds(number: float) -> Latency:
    """A latency that was not measured: of a device that is made up."""
    samples = (number,) * 5
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


@cache
def of_own_choice(name: str, count: int) -> LatencyModel:
    space, latency = space_named(name), additive(name)
    return fit_latency_model(
        space, lambda one: float(latency(np.array([space.encode(one)]))[0]), count, enough=0
    )


def off(model: Callable, latency: Callable, vectors: np.ndarray) -> float:
    """The median relative error."""
    return float(np.median(np.abs(model(vectors) / latency(vectors) - 1)))


# -- the regression ----------------------------------------------------------------------------


@pytest.fixture
def examples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernels of two groups of features, targets, and deviations."""
    random = np.random.default_rng(0)
    features = [random.normal(size=(14, 3)), random.normal(size=(14, 5))]
    targets = 5 + features[0][:, 0] + random.normal(scale=0.3, size=14)
    return np.stack([one @ one.T for one in features]), targets, random.uniform(0.01, 0.2, 14)


def test_what_is_left_out_is_what_a_fit_without_it_predicts(examples):
    kernels, targets, deviations = examples
    whole = regress(kernels, targets, deviations)

    for one in range(14):
        others = np.delete(np.arange(14), one)
        rows = kernels[:, others][:, :, others]
        # the unit is the median of the targets, which without one of them is another
        change = np.median(targets[others]) / np.median(targets)
        found = whole.variances / change**2, whole.noise
        rest = regress(rows, targets[others], deviations[others], found)
        predicted = rest.covariances(kernels[:, [one]][:, :, others]) @ rest.duals
        # of the intercept's wide prior a part remains, by the change of the unit
        assert 1 - predicted[0] / targets[one] == pytest.approx(whole.left_out[one], abs=2e-4)


def test_the_variances_make_the_measurements_more_likely_than_others_do(examples):
    kernels, targets, deviations = examples
    found = regress(kernels, targets, deviations)

    def likelihood(variances: np.ndarray, noise: float) -> float:
        scale = np.median(targets) / targets
        covariance = 100 + np.tensordot(variances, kernels, 1)
        covariance = covariance * np.outer(scale, scale) + np.diag(noise**2 + 1e-6 + deviations**2)
        _, logarithm = np.linalg.slogdet(covariance)
        prior = (np.log(variances / 0.1) ** 2).sum() / 4 + np.log(noise / 0.03) ** 2
        return -(np.ones(14) @ np.linalg.solve(covariance, np.ones(14)) + logarithm + prior) / 2

    best = likelihood(found.variances, found.noise)
    for change in (0.8, 1.25):
        assert best > likelihood(found.variances * (change, 1), found.noise)
        assert best > likelihood(found.variances * (1, change), found.noise)
        assert best > likelihood(found.variances, found.noise * change)


def test_a_measurement_of_a_wide_interval_says_less():
    space = CategoricalSpace({"kernel": [3, 5, 7]})
    vectors, times = np.array([[1], [1], [2], [3]]), [1.0, 2.0, 3.0, 4.0]

    low, high = (
        fit_latencies(space, vectors, times, sure) for sure in ([0.01, 0.5, 0, 0], [0.5, 0.01, 0, 0])
    )

    assert low(vectors)[0] == pytest.approx(1.0, rel=0.1)
    assert high(vectors)[0] == pytest.approx(2.0, rel=0.1)
    record = replace(milliseconds(1.0), samples_ms=(1.0, 1.1, 1.2, 1.3, 1.4))
    assert reading(record)[1] > reading(milliseconds(1.0))[1] == 0
    assert reading(replace(record, contended=True))[1] > reading(record)[1]


# -- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "error"), [("tiny", 60, 0.02), ("digits", 150, 0.03), ("nasnet", 150, 0.05)]
)
def test_an_additive_latency_is_recovered(name, count, error):
    latency, vectors = additive(name), vectors_of(space_named(name), 500)

    model = of_own_choice(name, count)

    assert off(model, latency, vectors) < error
    assert np.corrcoef(model(vectors), latency(vectors))[0, 1] > 0.95
    assert len(np.unique(model.known.vectors, axis=0)) == count
    assert off(model, latency, vectors) < 1.5 * model.quality.relative_error
    assert model.quality.relative_error < 2.5 * error


def boundaries(seed: int) -> tuple[CategoricalSpace, Callable[[np.ndarray], np.ndarray]]:
    """Ten blocks of four operators: a latency for each, and for each meeting of two neighbours."""
    space = CategoricalSpace({f"block {n}": ["3x3", "5x5", "pool", "skip"] for n in range(10)})
    random = np.random.default_rng(seed)
    own, meeting = random.gamma(1.0, 1.0, (10, 5)), 0.3 * random.gamma(1.0, 1.0, (9, 5, 5))

    def latency(vectors: np.ndarray) -> np.ndarray:
        met = sum(meeting[n, vectors[:, n], vectors[:, n + 1]] for n in range(9))
        return 0.5 + met + sum(own[n, vectors[:, n]] for n in range(10))

    return space, latency


@pytest.mark.parametrize("seed", range(2))
def test_a_table_with_boundary_terms_is_learned_from_few_measurements(seed):
    (space, latency), random = boundaries(seed), np.random.default_rng(seed)

    def measure(one) -> float:
        return float(latency(np.array([space.encode(one)]))[0] * np.exp(0.01 * random.normal()))

    model = fit_latency_model(space, measure, 110, enough=0)

    assert off(model, latency, vectors_of(space, 300, seed=10)) < 0.03


def test_its_own_choice_of_measurements_is_better_than_a_random_one_for_small_and_large_networks():
    space, own, drawn = space_named("digits"), [], []
    several = np.stack([vectors_of(space, 200, seed) for seed in (90, 91, 92)])
    unseen = np.concatenate([several.min(axis=0), several.max(axis=0)])
    for seed in range(3):
        latency = additive("digits", seed)
        vectors = space.canonical(vectors_of(space, 30, seed=50 + seed))

        def measure(one, latency=latency) -> float:
            return float(latency(np.array([space.encode(one)]))[0])

        own.append(off(fit_latency_model(space, measure, 30, enough=0, seed=seed), latency, unseen))
        drawn.append(off(fit_latencies(space, vectors, latency(vectors)), latency, unseen))

    assert np.mean(own) < 0.9 * np.mean(drawn)


def test_boundary_terms_are_what_a_plain_table_lacks():
    space, latency = boundaries(0)
    unseen, vectors = vectors_of(space, 300, seed=10), vectors_of(space, 400)
    columns = [vectors[:, [place]] == np.arange(1, 5) for place in range(10)]
    plain = np.concatenate([np.ones((400, 1)), *columns], axis=1)
    weights = np.linalg.lstsq(plain, latency(vectors))[0]
    columns = [unseen[:, [place]] == np.arange(1, 5) for place in range(10)]

    def table(_) -> np.ndarray:
        return np.concatenate([np.ones((300, 1)), *columns], axis=1) @ weights

    assert off(fit_latencies(space, vectors, latency(vectors)), latency, unseen) < 0.3 * off(
        table, latency, unseen
    )


def test_it_says_how_far_it_is_off():
    latency, vectors = additive("digits"), vectors_of(space_named("digits"), 400)
    model = of_own_choice("digits", 60)
    wrong = np.abs(model(vectors) / latency(vectors) - 1)

    deviation = model.deviation(vectors)

    assert np.mean(wrong < 2 * deviation) > 0.9
    assert np.median(deviation) < 5 * np.median(wrong)
    seen = model.deviation(model.known.vectors)
    assert np.median(seen) < np.median(deviation)


def test_measuring_ends_when_the_held_out_error_is_low_or_all_is_measured():
    space, asked = CategoricalSpace({"a": list(range(8)), "b": list(range(8)), "c": list(range(8))}), []

    def measure(one) -> float:
        asked.append(one)
        return 1.0 + one["a"] + one["b"]

    model = fit_latency_model(space, measure, enough=0.02)

    assert 40 <= len(asked) < 100
    assert model.quality.relative_error <= 0.02
    for several in ({"a": [1]}, {"a": [1, 2]}):
        tiniest = CategoricalSpace(several)
        assert len(fit_latency_model(tiniest, lambda one: one["a"], enough=0).known.vectors) == tiniest.size
    few = CategoricalSpace({"a": [1, 2], "b": [3, 4]})
    assert len(fit_latency_model(few, lambda one: one["a"] * one["b"], enough=0).known.vectors) == 4
    assert len(fit_latency_model(few, lambda one: one["a"] * one["b"], 3, enough=0).known.vectors) == 3


def test_the_choice_is_the_same_again_and_among_those_given():
    space, _ = boundaries(0)
    among = vectors_of(space, 60)

    first, again = (Learner(space, among, seed=1).ask() for _ in range(2))

    assert first == again
    assert len(set(first)) == len(first) == 10
    assert set(first) <= set(map(tuple, among.tolist()))
    assert Learner(space, seed=1).ask() != Learner(space, seed=2).ask()


def test_ten_thousand_architectures_are_priced_in_a_moment():
    model, vectors = of_own_choice("digits", 60), vectors_of(space_named("digits"), 10_000)
    model(vectors)

    def seconds() -> float:
        begun = time.process_time()
        model(vectors)
        return time.process_time() - begun

    assert min(seconds() for _ in range(5)) < 0.05


@pytest.mark.parametrize("name", ["digits", "nasnet"])
def test_what_does_not_arise_adds_nothing(name):
    space, model = space_named(name), of_own_choice(name, 60)
    vectors = vectors_of(space, 200)

    assert (model(vectors) == model(space.canonical(vectors))).all()


def test_equal_blocks_cost_equal_wherever_they_stand():
    """What is learned of a block says something about the next one."""
    skeleton = {
        "stages": [{"width": 16, "depth": 3}],
        "operators": ["identity", {"max_pool": {"kernel_size": [3]}}],
    }
    space = unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (1, 8, 8), 10)
    model = fit_latencies(space, np.array([[1, 1, 1], [1, 2, 1]]), [1.0, 2.0])

    second, third = model(np.array([[1, 2, 1], [1, 1, 2]]))

    assert 1.4 < third <= 1.02 * second  # what comes after it differs


def test_nothing_is_predicted_to_be_faster_than_half_of_the_fastest():
    vectors = vectors_of(space_named("tiny"), 3000)
    latency = additive("tiny")
    least = latency(vectors).min()
    some = vectors_of(space_named("tiny"), 20, seed=1)

    steep = fit_latencies(space_named("tiny"), some, latency(some) - 0.99 * least)

    assert steep(vectors).min() >= FLOOR * steep.range_ms[0]


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones((2, 9), int), r"architectures of own are integers of shape \(n, 10\), not int64 of shape"),
        (np.ones((2, 10)), r"not float64 of shape \(2, 10\); take what space.encode gives"),
        (np.full((2, 10), 5), r"block 0 has options 1 to 4, not 5: this is no architecture of own"),
    ],
)
def test_what_is_no_architecture_of_the_space_is_refused_in_one_line(vectors, said):
    space, latency = boundaries(0)
    seen = vectors_of(space, 30)
    model = fit_latencies(space, seen, latency(seen))

    for asked in (model, model.deviation, lambda some: fit_latencies(space, some, [1.0, 2.0])):
        with pytest.raises(ValueError, match=said) as refused:
            asked(vectors)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda space: fit_latencies(space, np.ones((2, 10), int), [1.0]), "2 architectures, 1 latencies"),
        (lambda space: fit_latencies(space, np.ones((0, 10), int), []), "give equally many, 1 to 4000"),
        (lambda space: fit_latencies(space, np.ones((1, 10), int), [0.0]), "a latency is 0; each must be"),
        (lambda space: fit_latencies(space, np.ones((1, 10), int), [1.0], [-1.0]), "a deviation is -1"),
        (
            lambda space: fit_latency_model(space, lambda one: -1.0),
            r"gave -1.0; it must give a number above 0",
        ),
        (lambda space: fit_latency_model(space, len, among=np.ones((0, 10), int)), "among holds no"),
        (lambda space: fit_latency_model(space, len, 0), "budget is 0; give 1 measurement or more"),
    ],
)
def test_measurements_that_make_no_sense_are_refused_in_one_line(call, said):
    with pytest.raises(ValueError, match=said) as refused:
        call(boundaries(0)[0])

    assert "\n" not in str(refused.value)


# -- a real device -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> LatencyPredictor:
    """The digits space on this machine, from few and short measurements."""
    space, learner, measurements = space_named("digits"), Learner(space_named("digits")), []
    measure_all = measurer(space, DEVICE)
    while chosen := learner.ask(40):
        for vector, measurement in zip(chosen, measure_all(map(space.decode, chosen)), strict=True):
            measurements.append(measurement)
            learner.tell(vector, *reading(measurement.latency))
    return LatencyPredictor(DEVICE, learner.model, measurements)


def test_few_measurements_rank_architectures_that_were_not_seen(measured):
    space, random = space_named("digits"), Random(7)
    unseen = [space.sample(random) for _ in range(12)]
    times = np.array([one.latency.median_ms for one in measurer(space, DEVICE)(unseen)])

    predicted = measured(np.array([space.encode(one) for one in unseen]))

    assert measured.quality.tau > 0.5
    assert measured.quality.relative_error < 0.25
    assert np.median(np.abs(predicted / times - 1)) < 0.25
    pairs = np.triu_indices(len(times), 1)
    agree = np.sign(predicted[pairs[0]] - predicted[pairs[1]]) == np.sign(times[pairs[0]] - times[pairs[1]])
    assert agree.mean() > 0.65


def test_it_says_that_it_predicts_from_what_and_how_far_it_is_off(measured):
    said, (low, high) = str(measured), measured.model.range_ms

    assert said.startswith("latency is predicted from 40 measurements on onnxruntime-cpu (")
    assert f", {low:.3g} to {high:.3g} ms" in said
    assert f"{100 * measured.quality.relative_error:.1f} % off (median), Kendall's tau 0." in said
    assert PREDICTORS["latency_ms"] is LatencyPredictor


# -- the file ----------------------------------------------------------------------------------


def test_it_comes_back_from_its_file_to_the_last_bit(measured, tmp_path):
    space, vectors = space_named("digits"), vectors_of(space_named("digits"), 300)
    measured.save(tmp_path / FILE)

    again = LatencyPredictor.load(tmp_path / FILE, space, DEVICE)

    assert (again(vectors) == measured(vectors)).all()
    assert (again.model.deviation(vectors) == measured.model.deviation(vectors)).all()
    assert (again.quality, again.measurements) == (measured.quality, measured.measurements)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("name", ["mobile", "signal", "nasnet"])
def test_predictions_of_every_topology_come_back_the_same(name, tmp_path):
    shape = (3, 64) if name == "signal" else (3, 32, 32)
    space = unroll(read_skeleton(name), OPERATORS, ATTENTIONS, shape, 10)
    random = Random(0)
    vectors = [space.encode(space.sample(random)) for _ in range(12)]
    measurements = [Measurement(one, milliseconds(1 + number / 7)) for number, one in enumerate(vectors)]
    predictor = fit(space, DEVICE, measurements)
    predictor.save(tmp_path / FILE)

    again = LatencyPredictor.load(tmp_path / FILE, space, DEVICE)

    assert (again(np.array(vectors)) == predictor(np.array(vectors))).all()


def damaged(path: Path) -> None:
    path.write_text(path.read_text()[:-100])


def without_table(path: Path) -> None:
    path.write_text(
        json.dumps({key: one for key, one in json.loads(path.read_text()).items() if key != "table"})
    )


def shortened(path: Path) -> None:
    content = json.loads(path.read_text())
    content["table"]["entries"].pop()
    path.write_text(json.dumps(content))


def of_an_earlier_version(path: Path) -> None:
    content = json.loads(path.read_text())
    model = {
        "intercept": 0.1,
        "options": {"stage 0 width": [0.1, 0.2]},
        "costs": {"macs": 1e-6},
        "penalty": 1.0,
    }
    path.write_text(
        json.dumps({key: content[key] for key in ("space", "device", "measurements")} | {"model": model})
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
        ("digits", {}, without_table, r"latency_model.json is damaged \('table'\); restore it"),
        (
            "digits",
            {},
            shortened,
            r"latency_model.json is damaged \(its table has \d+ entries, not \d+\); restore",
        ),
        ("digits", {}, of_an_earlier_version, r"was made by an earlier version, by another model; remove it"),
        ("digits", {}, Path.unlink, r"there is no latency_model.json in .*; put it back there"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(measured, tmp_path, name, changed, damage, said):
    measured.save(tmp_path / FILE)
    if damage is not None:
        damage(tmp_path / FILE)

    with pytest.raises((ValueError, FileNotFoundError), match=said) as refused:
        LatencyPredictor.load(tmp_path / FILE, space_named(name), DEVICE | changed)

    assert "\n" not in str(refused.value)


# -- training by it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "key"),
    [
        ("shift", None),
        ({"name": "shift", "cost": "macs"}, None),
        ({"name": "shift", "cost": "latency_ms"}, "latency_ms"),
        (
            {"name": "sandwich", "of": {"name": "uniform_cost", "cost": "latency_ms@phone"}, "randoms": 1},
            "latency_ms@phone",
        ),
        (
            {
                "name": "progressive",
                "of": {"name": "sandwich", "of": {"name": "shift", "cost": "latency_ms"}},
            },
            "latency_ms",
        ),
        ({"name": "progressive", "phases": [{"at": 0.2, "open": "kernel"}]}, None),
    ],
)
def test_a_sampler_at_any_depth_asks_for_latency(sampler, key):
    assert latency_of(sampler) == key


@pytest.fixture(scope="module")
def by_latency(tmp_path_factory) -> TinyRun:
    """A training by predicted latency, carried out by the command itself."""
    run = write_experiment(tmp_path_factory.mktemp("by-latency"), BY_LATENCY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.predictors.latency.BUDGET", 30)
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


def searched(run: TinyRun, stop: Callable[[], bool] = never) -> bool:
    experiment = config.read_experiment(run.file)
    with Store(run.store_url) as store, open_run(experiment, store, run.folder / "runs") as opened:
        return search_run(opened, stop)


def test_a_training_by_latency_measures_first_and_says_how_well_it_predicts(by_latency):
    with closing(Store(by_latency.store_url, create=False)) as store:
        said = store.run(by_latency.name).facts["latency prediction"]
        points = store.training_points(by_latency.name)

    assert said.startswith("latency is predicted from 30 measurements on onnxruntime-cpu")
    assert points[-1].step == 30
    assert len(json.loads(model_of(by_latency).read_text())["measurements"]) == 30


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
    assert cut.endswith("; restore it, or start over with `nas run --fresh`")
    assert "there is no latency_model.json in" in gone
    assert gone.endswith("put it back there, or start over with `nas run --fresh`, which measures")


def test_a_search_screens_by_the_model_of_its_folder_and_goes_on_by_it(by_latency, tmp_path, monkeypatch):
    run = write_experiment(
        tmp_path, BY_LATENCY.replace("{name: nsga2, population: 8}, budget: 20", "linas, budget: 22")
    )
    model_of(run).parent.mkdir(parents=True)
    shutil.copy(model_of(by_latency), model_of(run))
    assert carried_out(run)
    asked = []
    monkeypatch.setattr(
        LatencyPredictor, "__call__", lambda self, rows: asked.append(len(rows)) or self.model(rows)
    )

    stopping = iter([False] * 19 + [True])
    assert not searched(run, lambda: next(stopping))
    with closing(Store(run.store_url, create=False)) as store:
        facts = store.run(run.name).facts
    screened = len(asked)
    model_of(run).unlink()

    assert facts["latency screen"] == "from candidate 1 on"
    assert screened > 0
    with pytest.raises(FileNotFoundError, match="put it back there"):
        searched(run)
    shutil.copy(model_of(by_latency), model_of(run))
    assert searched(run)
    assert len(asked) > screened


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


def test_a_file_of_another_processor_or_version_is_not_used_anew(by_latency, tmp_path):
    experiment = config.read_experiment(by_latency.file)
    space = space_of(experiment, load(experiment.data))
    content = json.loads(model_of(by_latency).read_text())
    for one in content["measurements"]:
        one["latency"] |= {"processor": "Z80", "versions": {"onnxruntime": "0.1"}}
    (tmp_path / FILE).write_text(json.dumps(content))

    with pytest.raises(
        ValueError, match=r"measured with onnxruntime 0.1, not .*, processor Z80, not .*; remove"
    ):
        predictor_for(tmp_path, experiment, space)

    assert predictor_for(tmp_path, experiment, space, begun=True) is not None  # what trains by it goes on
    with pytest.raises(
        ValueError, match=r"Z80, not .*; go back to .* or start over with `nas run --fresh`\Z"
    ):
        predictor_for(
            tmp_path, experiment, space, trained=True
        )  # without the file the run could not be picked from
