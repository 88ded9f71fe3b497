"""What landmarks say of the others: what a supernet gets wrong is learned, and where nothing is to be learned, the
comparison says so.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from nas.predictors.accuracy import FEWEST, AccuracyModel, Landmark, block_shares, compared, fit_accuracies
from nas.rank_statistics import mean_tau, resamples, tau
from search_spaces import NetworkArchitecture
from tests.test_predictors import space_named

SPACE = space_named("digits")
BIAS = {
    "max_pool": 0.5,
    "identity": -0.3,
}  # by how much the logarithm of an error alone is above what is inherited


def drawn(count: int, seed: int = 0) -> list[NetworkArchitecture]:
    random = Random(seed)
    return [SPACE.sample(random) for _ in range(count)]


def made(architectures: list[NetworkArchitecture], noise: float = 0.02, seed: int = 0) -> list[Landmark]:
    """Landmarks whose errors follow from inherited accuracy, MACs and operators, and some noise."""
    random = np.random.default_rng(seed)
    return [landmark(one, random, noise) for one in architectures]


def landmark(architecture: NetworkArchitecture, random: np.random.Generator, noise: float) -> Landmark:
    macs, inherited = float(random.uniform(1e5, 2e6)), float(random.uniform(70, 95))
    shares = block_shares(architecture)
    bias = sum(share * BIAS.get(name, 0.0) for name, share in shares.items())
    log_error = 0.5 * np.log((100 - inherited) / inherited) - 0.2 * np.log(macs / 1e6) + bias + 3
    alone = 100 - float(np.exp(log_error + noise * random.standard_normal()))
    return Landmark(architecture.to_json(), macs, inherited, alone)


def of(landmarks: list[Landmark], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in landmarks])


def predicted(model: AccuracyModel, landmarks: list[Landmark], architectures) -> np.ndarray:
    return np.array(
        [
            model(one, known.inherited, known.macs)[0]
            for one, known in zip(architectures, landmarks, strict=True)
        ]
    )


def test_what_a_supernet_gets_wrong_is_learned_from_few():
    some, others = drawn(24), drawn(100, seed=1)
    model, unseen = fit_accuracies(made(some)), made(others, seed=1)

    found = predicted(model, unseen, others)

    assert tau(found, of(unseen, "alone")) > 0.85
    assert tau(of(unseen, "inherited"), of(unseen, "alone")) < 0.75
    assert np.median(np.abs(found - of(unseen, "alone"))) < 0.5


def test_nineteen_of_twenty_are_in_their_interval():
    others = drawn(300, seed=2)
    model, unseen = fit_accuracies(made(drawn(48), noise=0.1)), made(others, noise=0.1, seed=3)
    found = [model(one, known.inherited, known.macs) for one, known in zip(others, unseen, strict=True)]

    inside = [low <= known.alone <= high for (_, (low, high)), known in zip(found, unseen, strict=True)]

    assert all(low <= value <= high for value, (low, high) in found)
    assert 0.88 <= np.mean(inside) <= 0.99


def test_architectures_are_compared_by_models_that_saw_neither():
    landmarks = made(drawn(40))
    signs = compared(landmarks)
    better = np.sign(of(landmarks, "alone")[:, None] - of(landmarks, "alone")[None, :])

    assert np.array_equal(signs, -signs.T) and np.abs(signs).max() <= 1
    assert mean_tau([(signs, of(landmarks, "alone"))], resamples(40)).low > 0.6
    assert np.mean(signs * better) > np.mean(compared(landmarks, supernet=False) * better) + 0.2


def test_where_nothing_is_to_be_learned_the_comparison_is_worth_nothing_and_not_less():
    """Predictions of each by all others are worth less than nothing there: what is high leaves a low mean."""
    architectures, taus = drawn(24), []
    for seed in range(12):
        random = np.random.default_rng(seed)
        alone = random.uniform(80, 95, 24)
        landmarks = [
            Landmark(one.to_json(), float(random.uniform(1e5, 2e6)), float(random.uniform(70, 95)), float(y))
            for one, y in zip(architectures, alone, strict=True)
        ]
        taus.append(mean_tau([(compared(landmarks), alone)], resamples(24, several=0)).value)

    assert abs(np.mean(taus)) < 3 * np.std(taus) / np.sqrt(len(taus)) + 0.02


def test_what_was_saved_predicts_the_same_to_the_last_bit(tmp_path):
    some = drawn(12)
    landmarks = made(some)
    model = fit_accuracies(landmarks)
    model.save(tmp_path / "model.json")

    again = AccuracyModel.load(tmp_path / "model.json")

    assert again == model and fit_accuracies(landmarks) == model
    assert [again(one, 80.0, 1e6) for one in some] == [model(one, 80.0, 1e6) for one in some]


def test_a_damaged_file_and_too_few_landmarks_are_refused_with_the_way_out(tmp_path):
    path = tmp_path / "model.json"
    with pytest.raises(FileNotFoundError, match="`nas search` fits it"):
        AccuracyModel.load(path)
    for text in ("{", "[]", '{"format": 1}', '{"format": 9}'):
        path.write_text(text)
        with pytest.raises(
            ValueError, match=r"model\.json is damaged .*; remove it, and the next `nas search`"
        ):
            AccuracyModel.load(path)
    with pytest.raises(
        ValueError, match=f"7 trainings alone are too few to predict others; {FEWEST} or more do"
    ):
        fit_accuracies(made(drawn(7)))


def test_a_perfect_or_a_hopeless_accuracy_is_no_trouble():
    some = drawn(10)
    ends = [
        Landmark(one.to_json(), 1e6, inherited, alone)
        for one, inherited, alone in zip(some, [0.0, 100.0] * 5, [100.0, 0.0] * 5, strict=True)
    ]

    value, (low, high) = fit_accuracies(ends)(some[0], 100.0, 1e6)

    assert 0 <= low <= value <= high <= 100
