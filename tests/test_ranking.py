"""Rankings are compared as defined: against scipy, against counting by hand, and against what is true in law."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from nas.landmarks import landmarks_of
from nas.rank_statistics import (
    best_rank,
    mean_interval,
    mean_tau,
    null_error,
    precision_at,
    rank_difference,
    ranks,
    resamples,
    tau,
    tau_difference,
    worst_rank,
)
from nas.ranking import block_shares, health_of
from search_spaces import CellArchitecture
from search_spaces.cells import CellBlock
from tests.trials import SAMPLED, architectures, noisy, trials_of


def scores(number, seed, ties=False):
    drawn = np.random.default_rng(seed).normal(size=(2, number))
    return np.round(drawn) if ties else drawn


# -- tau ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("number", [2, 5, 40])
def test_tau_is_scipy_s_tau_b(number, ties):
    for seed in range(5):
        x, y = scores(number, seed, ties)
        expected = stats.kendalltau(x, y).statistic

        assert tau(x, y) == (None if math.isnan(expected) else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize(
    ("estimated", "true", "counted"),
    [
        ([1, 2, 3, 4], [1, 3, 2, 4], 4 / 6),  # five pairs in order, one not
        ([1, 1, 2], [1, 2, 3], 2 / math.sqrt(2 * 3)),  # one pair tied in one
        ([1, 2, 3], [10, 20, 30], 1),
        ([1, 2, 3], [3, 2, 1], -1),
        ([1, math.nan, 2, 3], [1, 9, math.nan, 2], 1),  # two were measured both ways
        ([5, 5, 5], [1, 2, 3], None),
        ([1], [1], None),
        ([], [], None),
    ],
)
def test_tau_is_what_one_counts(estimated, true, counted):
    found = tau(np.array(estimated, float), np.array(true, float))

    assert found == (None if counted is None else pytest.approx(counted))


def test_the_null_error_is_the_spread_of_tau_over_all_orders():
    taus = [tau(np.arange(5), np.array(order)) for order in itertools.permutations(range(5))]

    assert null_error(5) == pytest.approx(np.std(taus))
    assert [round(null_error(n), 3) for n in (25, 50, 100)] == [0.143, 0.098, 0.068]
    assert null_error(1) is None


# -- intervals ---------------------------------------------------------------------------------


def test_a_resample_counts_as_the_architectures_that_are_in_it():
    x, y = scores(12, seed=3)
    weights = resamples(12, several=20)

    for row in weights:
        repeated = np.repeat(np.arange(12), row.astype(int))
        estimate = mean_tau([(x, y)], row[None])
        assert estimate.value == pytest.approx(stats.kendalltau(x[repeated], y[repeated]).statistic)


def test_resamples_begin_with_what_was_measured_and_follow_from_the_seed():
    np.testing.assert_array_equal(resamples(4)[0], 1)
    np.testing.assert_array_equal(resamples(4, seed=1), resamples(4, seed=1))
    assert (resamples(4, seed=1) != resamples(4, seed=2)).any()
    assert (resamples(4).sum(axis=1) == 4).all()


def test_the_interval_holds_the_true_tau_about_as_often_as_it_says():
    """Of two normal variables with correlation r, tau is 2/π arcsin r (Kendall 1945)."""
    random, correlation = np.random.default_rng(0), 0.7
    true, weights = 2 / math.pi * math.asin(correlation), resamples(40, several=400)
    held = 0
    for _ in range(200):
        x, noise = random.normal(size=(2, 40))
        y = correlation * x + math.sqrt(1 - correlation**2) * noise
        estimate = mean_tau([(x, y)], weights)
        held += estimate.low <= true <= estimate.high

    assert 0.90 <= held / 200 <= 0.99


def test_a_difference_of_taus_is_paired():
    x, y = scores(30, seed=0)
    weights = resamples(30)

    same = tau_difference([(x, y)], [(2 * x + 1, y)], weights)
    reverse = tau_difference([(y, y)], [(-y, y)], weights)

    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert (reverse.value, reverse.low, reverse.high) == pytest.approx((2, 2, 2))


def test_too_few_have_no_interval():
    estimate = mean_tau([(np.arange(3.0), np.arange(3.0))], resamples(3))

    assert (estimate.value, estimate.low, estimate.high) == (1, None, None)
    assert mean_tau([(np.ones(9), np.arange(9.0))], resamples(9)) is None
    assert mean_tau([], resamples(9)) is None


def test_a_mean_has_student_s_interval():
    values = np.random.default_rng(0).normal(size=8)
    expected = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))

    found = mean_interval(values)
    doubled = mean_interval(np.append(values, 99.0), np.append(np.full(8, 2.0), 0.0))

    assert (found.low, found.high) == pytest.approx(expected)
    assert asdict(doubled) == pytest.approx(asdict(found))
    assert mean_interval(values[:2]).low is None
    assert mean_interval(np.zeros(0)) is None


# -- ranks and the top -------------------------------------------------------------------------


def test_the_best_has_rank_one_and_equals_share_theirs():
    assert list(ranks([70, 90, 80, 80])) == [4, 1, 2.5, 2.5]


def test_precision_of_the_top_is_the_share_of_it_that_belongs_there():
    true = np.arange(10.0)
    estimated = true.copy()
    estimated[[8, 3]] = estimated[[3, 8]]  # one of the best two is taken for a bad one

    assert precision_at(true, true) == 1
    assert precision_at(estimated, true) == 0.5
    assert precision_at(-true, true) == 0
    assert precision_at(true, np.ones(10)) == pytest.approx(0.2)  # all are as good: chance


def test_best_and_worst_true_rank_of_those_that_are_estimated_best():
    true = np.array([50, 60, 70, 80, 90, 95])
    estimated = np.array([9, 1, 8, 2, 7, 3])  # the best three are truly sixth, fourth and second

    assert (best_rank(estimated, true, 3), worst_rank(estimated, true, 3)) == (2, 6)
    assert (best_rank(true, true, 1), worst_rank(true, true, 1)) == (1, 1)


def test_a_rank_difference_is_positive_for_the_underestimated():
    true, estimated = np.array([4.0, 3, 2, 1]), np.array([1.0, 4, 3, 2])

    assert list(rank_difference(estimated, true)) == [0.75, -0.25, -0.25, -0.25]


# -- the report --------------------------------------------------------------------------------


def test_a_perfect_ranking_has_tau_one_and_no_bias():
    accuracies = [60 + n + 0.01 * n**2 for n in range(32)]

    health = health_of(trials_of(inherited=accuracies, alone=[one + 10 for one in accuracies]))

    taus = health.taus
    assert [one.value for one in (taus.inherited, taus.loss, taus.sparse, taus.within)] == [1, 1, 1, 1]
    assert (health.top.precision, health.top.best_rank, health.top.worst_rank) == (1, 1, 5)
    assert {one.difference for one in health.compared} == {0}
    assert {one.difference.value for one in (*health.bins, *health.usages)} == {0}
    assert health.gap.value == pytest.approx(-10)


def test_a_reversed_ranking_has_tau_minus_one():
    accuracies = np.arange(32.0)

    health = health_of(trials_of(inherited=accuracies[::-1], alone=accuracies))

    assert (health.taus.inherited.value, health.taus.within.value) == (-1, -1)
    assert (health.top.precision, health.top.best_rank, health.top.worst_rank) == (0, 28, 32)
    assert (
        health.bins[0].difference.value < 0 < health.bins[-1].difference.value
    )  # the dear are underestimated


def test_macs_and_parameters_are_baselines_of_the_same_tau():
    accuracies = np.random.default_rng(0).permutation(40).astype(float)

    health = health_of(trials_of(inherited=accuracies, alone=accuracies))

    expected = stats.kendalltau(np.arange(40), accuracies).statistic
    assert health.taus.macs.value == health.taus.parameters.value == pytest.approx(expected)
    assert health.taus.over_macs.value == pytest.approx(1 - expected)
    assert health.taus.over_macs.above_zero and health.taus.over_macs_within.above_zero


def test_where_cost_is_all_counting_macs_is_as_good():
    health = health_of(noisy(48, noise=0.3, of_macs=1.0))

    assert health.taus.macs.value > health.taus.inherited.value > 0.5
    assert not health.taus.over_macs.above_zero


def test_within_bins_what_cost_explains_is_gone():
    """Inherited accuracy that knows the bin and nothing else ranks overall, but not within."""
    step = np.repeat(np.arange(6.0), 8)
    chance = np.random.default_rng(0).normal(size=(2, 48)) / 10

    health = health_of(trials_of(inherited=60 + step + chance[0], alone=70 + step + chance[1]))

    assert len(health.bins) == 6
    assert health.taus.inherited.value > 0.75
    assert health.taus.within.low < 0 < health.taus.within.high
    assert health.taus.within.value == pytest.approx(np.mean([one.tau for one in health.bins]))


def test_bins_are_equally_full_cheap_to_dear_and_keep_equals_together():
    costs = [1e6] * 12 + [2e6] * 12 + [3e6 + n for n in range(16)]

    health = health_of(trials_of(np.arange(40.0), np.arange(40.0), costs))
    even = health_of(trials_of(np.arange(40.0), np.arange(40.0)))

    assert [one.count for one in even.bins] == [8] * 5
    assert all(cheap.high < dear.low for cheap, dear in itertools.pairwise(health.bins))
    assert sum(one.count for one in health.bins) == 40
    assert (health.bins[0].low, health.bins[0].high, health.bins[0].count) == (1e6, 1e6, 12)


def test_two_seeds_give_the_ceiling_and_one_gives_none():
    first, second = np.arange(20.0), np.random.default_rng(0).permutation(20).astype(float)
    both = np.array([first, second]).T

    two = health_of(trials_of(first, both)).taus
    one = health_of(trials_of(first, first)).taus

    between = stats.kendalltau(first, second).statistic
    assert two.seeds.value == pytest.approx(between)
    assert two.one_seed.value == pytest.approx((1 + between) / 2)
    assert one.seeds is None and one.one_seed == one.inherited


def test_architectures_with_fewer_seeds_count_in_the_seeds_that_they_have():
    trials = trials_of(np.arange(12.0), np.arange(24.0).reshape(12, 2))
    lacking = [one for one in trials if one.seed == 0 or one.values["macs"] > 4e6]

    health = health_of(lacking)

    assert (health.architectures, health.seeds) == (12, 2)
    assert sorted({one.seeds for one in health.compared}) == [1, 2]
    assert health.taus.seeds.value == 1


def test_the_operator_that_the_supernet_overestimates_is_found():
    several = architectures(60)
    shares = np.array([block_shares(one).get("max_pool", 0) for one in several])
    quality = np.random.default_rng(0).normal(size=60)

    health = health_of(trials_of(70 + quality + 4 * shares, 80 + quality, several=several))

    usages = {one.name: one for one in health.usages}
    assert usages["max_pool"].difference.high < 0
    assert health.usages[-1].name.startswith("max_pool")
    assert usages["max_pool"].count == (shares > 0).sum()
    differences = {one.key: one.difference for one in health.compared}
    weighted = np.average([differences[one.key] for one in several], weights=shares)
    assert usages["max_pool"].difference.value == pytest.approx(weighted)


def test_blocks_and_paths_are_shares_of_their_network():
    [one] = architectures(1)
    cell = (
        CellBlock.of([0, "identity", 1, "conv_3x3", "add"]),
        CellBlock.of([0, "conv_3x3", 1, "conv_3x3", "add"]),
    )

    shares = block_shares(one)

    operators = {block.operator for stage in one.stages for block in stage.blocks}
    assert sum(shares[name] for name in operators) == pytest.approx(1)
    assert sum(share for name, share in shares.items() if name.startswith("expansion")) == pytest.approx(1)
    assert block_shares(CellArchitecture(8, cell, ())) == {"identity": 0.25, "conv_3x3": 0.75}


def test_recalibration_is_told_with_and_without():
    health = health_of(trials_of([70, 71, 72, 73], [80, 81, 82, 83]))

    told = health.calibration
    assert (told.count, told.inherited, told.uncalibrated) == (4, 71.5, 66.5)
    assert (told.gain.value, told.gain.low, told.gain.high) == (5, 5, 5)


def test_landmarks_are_what_is_compared():
    """One place says what was measured both ways: what failed, is no number or waits counts for neither."""
    good = noisy(12, noise=0.3)
    first, second, third = (replace(one, key=f"k{n}") for n, one in enumerate((good[0], good[0], good[2])))
    lacking = [
        first,  # waits for its training alone
        replace(second, error="RuntimeError: it broke"),
        replace(second, kind="alone"),
        replace(third, values=third.values | {"accuracy": math.nan}),
    ]

    compared = health_of([SAMPLED, *lacking, *good]).compared

    landmarks = landmarks_of([SAMPLED, *lacking, *good])
    assert [(one.macs, one.inherited, one.alone) for one in compared] == sorted(
        (one.macs, one.inherited, one.alone) for one in landmarks
    )
    assert len(landmarks) == 12


def test_what_was_sampled_is_a_histogram():
    health = health_of([SAMPLED, *trials_of([70, 71], [80, 81])])

    assert (health.sampled.edges, health.sampled.counts) == ((1e6, 2e6, 3e6), (30, 10))
    assert health_of(trials_of([70], [80])).sampled is None


def test_failures_are_counted_and_left_out():
    trials = trials_of(np.arange(12.0), np.arange(12.0))
    alone = [one for one in trials if one.kind == "alone"]
    broken = replace(alone[0], values={}, error="RuntimeError: out of memory")
    no_number = replace(alone[1], values={**alone[1].values, "accuracy": math.nan})
    lost = {id(one) for one in alone[:3]}  # the third is not there yet

    health = health_of([one for one in trials if id(one) not in lost] + [broken, no_number])

    assert (health.architectures, health.waiting, health.failed) == (9, 3, 2)
    assert health.taus.inherited.value == 1


def test_in_the_top_equal_accuracies_are_told_apart_by_their_loss():
    trials = trials_of([80.0] * 20, np.arange(20.0))
    losses = {key: 20.0 - place for place, key in enumerate(dict.fromkeys(one.key for one in trials))}
    trials = [replace(one, values={**one.values, "loss": losses[one.key]}) for one in trials]

    assert (health_of(trials).top.precision, health_of(trials).top.worst_rank) == (1, 5)


@pytest.mark.parametrize("number", range(7))
def test_few_trials_make_a_report_without_nonsense(number):
    report = health_of([SAMPLED, *noisy(number, noise=1)])

    json.dumps(asdict(report), allow_nan=False)
    assert report.architectures == number and report.top is None


def test_equal_accuracies_rank_nothing():
    health = health_of(trials_of([10.0] * 20, np.arange(20.0)))

    json.dumps(asdict(health), allow_nan=False)
    assert health.taus.inherited is None and health.taus.over_macs is None
    assert health.taus.macs.value == 1


def test_unknown_costs_are_no_obstacle():
    trials = [
        replace(
            one, values={key: value for key, value in one.values.items() if key in ("accuracy", "epochs")}
        )
        for one in trials_of(np.arange(20.0), np.arange(20.0))
    ]

    health = health_of(trials)

    json.dumps(asdict(health), allow_nan=False)
    assert health.taus.inherited.value == 1
    assert health.taus.macs is None and health.taus.loss is None and health.bins == ()


def test_the_order_of_the_trials_does_not_matter():
    trials = noisy(30, noise=1)

    assert health_of(trials[::-1]) == health_of(trials)


# -- corrected by trainings alone --------------------------------------------------------------


def test_there_is_nothing_to_correct_with_few_or_without_macs_or_differences():
    assert health_of(noisy(9, noise=0.2)).corrected is None
    assert health_of(noisy(10, noise=0.2)).corrected is not None
    without = [
        replace(one, values={key: value for key, value in one.values.items() if key != "macs"})
        for one in noisy(12, noise=0.2)
    ]
    assert health_of(without).corrected is None
    assert health_of(trials_of(np.arange(12.0), [50.0] * 12)).corrected is None
