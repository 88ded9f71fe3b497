"""LINAS comes further with fewer evaluations, whatever noise there is in them; and the mathematics that it
stands on is right.
"""

from __future__ import annotations

import itertools
import math
import time
from random import Random

import numpy as np
import pytest

from nas.pareto import hypervolume
from nas.rank_statistics import tau
from nas.search import Search, make_searcher
from nas.searchers.age_moea import curvature, intercepts
from nas.searchers.linas import LINAS, Goal
from nas.searchers.moves import Moves
from nas.searchers.ranks import ranks
from nas.searchers.rounds import Told
from nas.searchers.surrogate import Features, RankScale, Scale, Surrogate, fit_pairs, fit_product
from search_spaces.categorical import CategoricalSpace
from tests.synthetic import space

NAMES = CategoricalSpace({f"edge {n}": ["none", "skip", "1x1", "3x3", "pool"] for n in range(6)})
WORTH = np.random.default_rng(0).normal(size=(30,))
TOGETHER = np.random.default_rng(1).normal(size=(30, 30)) / 6
COST = np.tile([0.0, 0.2, 0.5, 1.0, 0.4], 6) * np.repeat([1.0, 0.8, 0.6, 1.2, 0.5, 0.9], 5)


def true_losses(rows: np.ndarray) -> np.ndarray:
    """(n, 2): of single choices and pairs of them, and a cost that goes up with what is good."""
    chosen = np.eye(5)[rows - 1].reshape(len(rows), 30)
    worth = chosen @ WORTH + ((chosen @ TOGETHER) * chosen).sum(axis=1) + 1.5 * chosen @ COST
    return np.stack([-worth, 1 + chosen @ COST], axis=1)


def found_by(name: str, seed: int, budget: int, noise: float = 0.0, limit=None, fails=None) -> np.ndarray:
    """The rows that it measured, (budget, 6), in order; their cost is measured with relative noise."""
    searcher, luck = make_searcher(Search(searcher=name, seed=seed), NAMES, 2), np.random.default_rng(seed)
    found: list[tuple[int, ...]] = []
    while len(found) < budget:
        for one in searcher.ask(budget - len(found)):
            found.append(NAMES.encode(one))
            [[loss, cost]] = true_losses(np.array(found[-1:]))
            cost *= 1 + noise * luck.normal()
            failed = fails is not None and fails(found[-1])
            violation = max(0.0, cost / limit - 1) if limit else 0.0
            searcher.tell(one, None if failed else [loss, cost], violation)
    return np.array(found)


# -- what it is for ----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_it_comes_further_with_60_evaluations_than_nsga2_with_150(noise):
    reference = np.array([0.0, 6.5])

    def reached(name: str, budget: int) -> float:
        runs = [true_losses(found_by(name, seed, budget, noise)) for seed in range(2)]
        return float(np.mean([hypervolume(run, reference) for run in runs]))

    assert reached("linas", 60) > reached("nsga2", 150)


def test_it_finds_most_of_the_front_that_keeps_a_constraint():
    limit = 1.9  # kept by one of thirty architectures
    everything = true_losses(np.array(list(itertools.product(range(1, 6), repeat=6))))
    reference = np.array([3.0, 2.0])

    found = true_losses(found_by("linas", 0, 60, limit=limit))

    true, reached = (hypervolume(some[some[:, 1] <= limit], reference) for some in (everything, found))
    assert 0.02 < (everything[:, 1] <= limit).mean() < 0.05
    assert reached > 0.9 * true


def test_it_learns_what_fails():
    def fails(row: tuple[int, ...]) -> bool:
        return row[0] in (3, 4)

    found = found_by("linas", 0, 60, fails=fails)

    failed = np.array([fails(row) for row in found])
    assert failed[:16].mean() > 0.3
    assert failed[-24:].mean() < 0.15


def first_round(told: np.ndarray) -> np.ndarray:
    """What it asks for first after being told of rows."""
    searcher = make_searcher(Search(searcher="linas"), NAMES, 2)
    for row, losses in zip(told, true_losses(told), strict=True):
        searcher.tell(NAMES.decode(row.tolist()), losses)
    return np.array([NAMES.encode(one) for one in searcher.ask(1000)])


def test_what_is_told_before_the_first_question_stands_for_what_it_covers_of_the_first_design():
    moves, random = Moves(NAMES), np.random.default_rng(5)
    alike = np.unique(moves.mutate(np.repeat([[2, 3, 4, 2, 3, 4]], 30, axis=0), random), axis=0)
    various = moves.design(16, moves.rows([]), random)

    fresh, after_alike, after_various = (first_round(some) for some in (various[:0], alike, various))

    assert len(fresh) == 16
    assert 8 <= len(after_alike) < 16
    met = np.concatenate([alike, after_alike])
    assert all(set(column) == {1, 2, 3, 4, 5} for column in met.T)
    assert len(after_various) <= 4


def volume_after(budget: int, seed: int, **known) -> float:
    searcher = make_searcher(Search(searcher="linas", seed=seed), NAMES, 2)
    for name, losses in known.items():
        searcher.know(["loss", "cost"].index(name), losses)
    found: list[tuple[int, ...]] = []
    while len(found) < budget:
        for one in searcher.ask(budget - len(found)):
            found.append(NAMES.encode(one))
            searcher.tell(one, true_losses(np.array(found[-1:]))[0])
    return hypervolume(true_losses(np.array(found)), np.array([0.0, 6.5]))


def test_a_known_predictor_helps_even_where_it_is_off_and_a_wrong_one_does_no_harm():
    def off(rows: np.ndarray) -> np.ndarray:
        return 3 * true_losses(rows)[:, 0] + 20

    def wrong(rows: np.ndarray) -> np.ndarray:
        return np.random.default_rng(3).normal(size=(6, 6))[np.arange(6), rows].sum(axis=1)

    def reached(**known) -> float:
        return float(np.mean([volume_after(32, seed, **known) for seed in range(3)]))

    without = reached()

    assert reached(loss=off) > 1.03 * without
    assert reached(cost=wrong) > 0.97 * without


def test_what_is_known_is_asked_again_without_predicting_it_again(monkeypatch):
    luck, predicted, fit = Random(0), [], LINAS._fit
    monkeypatch.setattr(LINAS, "_fit", lambda self, *given: predicted.append(self) or fit(self, *given))
    settings = Search(searcher="linas", seed=3)
    searcher, again = (make_searcher(settings, NAMES, 2) for _ in range(2))

    def answer(one, asked) -> None:
        [[loss, cost]] = true_losses(np.array([NAMES.encode(one)]))
        asked.tell(one, [loss, cost], max(0.0, cost / 3 - 1))

    known = []
    for _ in range(14):
        together = searcher.ask(100)
        for one in together:
            answer(one, searcher)
        known += luck.sample(together, len(together))  # recorded as workers come to an end
    again.expect(known)
    told = 0
    while told < len(known):
        for one in again.ask(3):
            told += 1
            answer(one, again)

    assert len(known) == 16 + 13 * 4 and searcher.ask(100) == again.ask(100)
    assert predicted == [searcher] * 14 + [again]


def test_a_part_of_a_round_that_is_known_is_asked_for_with_the_rest():
    settings = Search(searcher="linas", seed=3)
    searcher, again = (make_searcher(settings, NAMES, 2) for _ in range(2))
    rounds = []
    for _ in range(4):
        rounds.append(searcher.ask(100))
        for one in rounds[-1]:
            searcher.tell(one, true_losses(np.array([NAMES.encode(one)]))[0])

    again.expect([one for together in rounds for one in together][:-2])

    for together in rounds:
        assert again.ask(100) == together
        for one in together:
            again.tell(one, true_losses(np.array([NAMES.encode(one)]))[0])


@pytest.mark.alone
@pytest.mark.parametrize(
    ("decisions", "objectives", "limited"),
    [(12, 2, False), (12, 2, True), (40, 4, True)],
    ids=["free", "limited", "four objectives"],
)
def test_a_proposal_takes_less_than_a_second_with_ten_thousand_known(decisions, objectives, limited):
    random = np.random.default_rng(0)
    large = CategoricalSpace({f"layer {n}": [1, 2, 3, 4, 5] for n in range(decisions)})
    searcher = make_searcher(Search(searcher="linas"), large, objectives)
    rows = np.unique(Moves(large).draw(10_000, random), axis=0)
    options = random.normal(size=(objectives, decisions, 6))
    losses = np.stack([one[np.arange(decisions), rows].sum(axis=1) for one in options], axis=1)
    beyond = losses[:, -1] - np.quantile(losses[:, -1], 0.3)
    for row, some, far in zip(rows, losses, beyond, strict=True):
        searcher.tell(large.decode(row.tolist()), some, max(float(far), 0.0) if limited else 0.0)
    searcher.ask(1)  # hears of all that

    def seconds() -> float:
        begun = time.process_time()
        searcher.propose()
        return time.process_time() - begun

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize(("setting", "value"), [("first", 1), ("batch", 0), ("batch", 2.5), ("first", True)])
def test_counts_that_are_none_are_refused(setting, value):
    with pytest.raises(ValueError, match=rf"search\.searcher\.{setting} is .* at least"):
        make_searcher(Search(searcher={"name": "linas", setting: value}), NAMES, 2)


# -- what it stands on -------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_mean_over_scalarisations_is_the_hypervolume(objectives):
    random = np.random.default_rng(0)
    points, reference = random.random((12, objectives)), np.full(objectives, 1.2)
    goal = Goal(np.zeros(objectives), reference, reference)
    unit = (
        math.pi ** (objectives / 2) / 2**objectives / math.gamma(objectives / 2 + 1)
    )  # of the ball, one orthant
    weights, _ = goal.directions(40_000, random)

    best = goal.values(points, (weights, np.zeros(len(weights), bool))).max(axis=1)

    box = np.prod(reference - goal.ideal)
    np.testing.assert_allclose(unit * best.mean() * box, hypervolume(points, reference), rtol=0.03)


def test_a_box_far_beyond_the_ends_of_the_front_counts_no_more_than_the_one_around_it():
    goal = Goal(np.zeros(2), near=np.ones(2), far=np.array([1.0, 50.0]))
    directions = np.array([[0.6, 0.8], [0.6, 0.8]]), np.array([False, True])

    [near], [far] = goal.values(np.zeros((1, 2)), directions)

    assert near == far > 0


def test_what_is_left_out_is_predicted_as_by_a_fit_without_it():
    random, features = np.random.default_rng(0), Features(NAMES)
    rows = Moves(NAMES).draw(40, random)
    x, y = features(rows), true_losses(rows)[:, 0]
    y = y - y.mean()
    process, _ = fit_product(x, y, features.groups)

    for one in (0, 17):
        rest = np.arange(40) != one
        without = type(process)(x[rest], y[rest], process.kernel, process.scale, process.noise)
        np.testing.assert_allclose(process.left_out[one], without.mean(x[[one]])[0], rtol=1e-6)


@pytest.mark.parametrize("which", ["product", "pairs"])
def test_predictions_are_right_within_their_deviations(which):
    random, features = np.random.default_rng(0), Features(NAMES)
    rows = np.unique(Moves(NAMES).draw(500, random), axis=0)
    random.shuffle(rows)
    y = true_losses(rows)[:, 0]
    y = (y - y.mean()) / y.std()
    x, noisy = features(rows), y + 0.2 * random.normal(size=len(y))
    if which == "product":
        process, _ = fit_product(x[:250], noisy[:250], features.groups)
    else:
        process = fit_pairs(x[:250], noisy[:250], features.decisions, features.spectrum(rows[:250]))

    mean, deviation = process.mean_and_deviation(x[250:])
    drawn = process.draws(x[250:], random.standard_normal((2000, len(x) - 250)))

    assert 0.5 < process.noise / 0.2**2 < 2
    assert np.corrcoef(mean, y[250:])[0, 1] > 0.95
    assert np.mean(np.abs(mean - y[250:]) < 1.96 * deviation) > 0.85
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=5 * deviation.max() / math.sqrt(2000))
    np.testing.assert_allclose(drawn.std(axis=0), deviation, rtol=0.15, atol=5e-3)


def test_losses_come_back_from_their_scale():
    for losses in (np.linspace(-5, 9, 30), np.geomspace(1, 1000, 30)):
        scale = Scale.of(losses)
        there = losses <= scale.most
        assert there.mean() > 0.7
        np.testing.assert_allclose(scale.back(scale.there(losses))[there], losses[there])
    assert Scale.of(np.geomspace(1, 1000, 30)).logarithm
    assert not Scale.of(np.linspace(1, 9, 30)).logarithm


@pytest.mark.parametrize("losses", [np.geomspace(1, 1000, 30), np.repeat([3.0, 1.0, 2.0], 5), np.ones(7)])
def test_losses_come_back_from_their_ranks_and_go_on_beyond_them(losses):
    scale = RankScale.of(losses)

    np.testing.assert_allclose(scale.back(scale.there(losses)), losses)
    assert (np.argsort(scale.there(np.unique(losses))) == np.arange(len(np.unique(losses)))).all()
    if np.ptp(losses):
        assert scale.back(np.array([-9.0])) < losses.min() and scale.back(np.array([9.0])) > losses.max()


def test_good_ones_are_told_apart_where_bad_ones_span_the_range():
    random = np.random.default_rng(0)
    rows = np.unique(Moves(NAMES).draw(400, random), axis=0)
    random.shuffle(rows)
    worth = -true_losses(rows)[:, 0]
    losses = (
        5 + np.exp(-worth / 2) + 80 * (rows[:, :2] == 1).all(axis=1)
    )  # some of them are not trained at all
    best = np.argsort(losses[200:])[:60]

    chosen, plain = Surrogate(Features(NAMES)), Surrogate(Features(NAMES))
    chosen.fit(rows[:200], losses[:200])
    plain.fit(rows[:200], losses[:200], Scale.of(losses[:200]))

    assert isinstance(chosen.scale, RankScale)
    reached, before = (tau(one.mean(rows[200:])[best], losses[200:][best]) for one in (chosen, plain))
    assert reached > before + 0.1


def test_what_is_not_predicted_is_an_architectures_own_or_noise():
    random, surrogate = np.random.default_rng(0), Surrogate(Features(NAMES))
    rows = np.unique(Moves(NAMES).draw(150, random), axis=0)
    losses = true_losses(rows)[:, 1] + random.normal(size=len(rows))
    surrogate.fit(rows, losses, Scale.plain(losses))
    some, nothing = rows[:20], np.zeros((2000, 20))

    normal, rest = random.standard_normal((2, 2000, 20))
    noise, own = (surrogate.draws(some, normal, one).std(axis=0) for one in (nothing, rest))

    np.testing.assert_allclose(
        own**2 - noise**2, surrogate.fitted.process.noise * losses.std() ** 2, rtol=0.3
    )


@pytest.mark.parametrize("among", [NAMES, space()], ids=["categorical", "stages"])
def test_moves_lead_to_other_architectures_of_the_space_in_their_only_spelling(among):
    moves, random = Moves(among), np.random.default_rng(0)
    rows = moves.draw(200, random)
    mutants, children = moves.mutate(rows, random), moves.cross(rows, rows[::-1], random)

    for some in (rows, mutants, children, moves.neighbours(rows[:3]), moves.stratified(50, random)):
        assert [among.encode(among.decode(row)) for row in some.tolist()] == [
            tuple(row) for row in some.tolist()
        ]
    assert (mutants != rows).any(axis=1).all()
    assert ((children == rows) | (children == rows[::-1]))[:, 0].all()
    assert (
        np.bincount(moves.stratified(50, random)[:, 0])[1:] >= 50 // len(among.decisions[0].options)
    ).all()


def test_feasible_comes_before_broken_and_broken_before_failed():
    told = Told(
        rows=np.zeros((6, 1), int),
        losses=np.array([[1, 1], [2, 2], [0, 3], [0, 0], [0, 0], [np.nan] * 2]),
        violations=np.array([0, 0, 0, 0.5, 0.1, np.inf]),
    )

    assert ranks(told).tolist() == [0, 1, 0, 3, 2, 4]


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 4.0])
def test_age_moea_finds_the_curvature_of_a_front(p):
    share = np.linspace(0, 1, 101)
    front = np.stack([share ** (1 / p), (1 - share) ** (1 / p)], axis=1)

    assert curvature(front, np.array([0, 100])) == pytest.approx(p)


def test_age_moea_scales_by_where_the_plane_of_the_corners_cuts_the_axes():
    np.testing.assert_allclose(intercepts(np.array([[4.0, 0.0], [0.0, 2.0]])), [4, 2])
    np.testing.assert_allclose(intercepts(np.array([[3.0, 3.0], [3.0, 3.0]])), [3, 3])  # there is no plane
