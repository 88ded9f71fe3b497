"""What the shift sampler learns: every equation of its update rule, what keeps the distribution from starving a bin or
following noise, and a simulated training in which the worst bin must end far better than under uniform bins.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from random import Random

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from search_spaces import Architecture, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.cost import Costs, CostTable
from supernets.operators import OPERATORS
from supernets.samplers import make_sampler
from supernets.samplers.plan import Plan, Probe
from supernets.samplers.shift import AHEAD, Shift
from supernets.samplers.shift_rule import (
    LEAST,
    adam,
    chance,
    deviation,
    exact_gradient,
    pathwise_gradient,
    per_cost,
    per_visit,
    softmax,
    step_costs,
    within,
)

STEPS = 1000
EVENLY = np.ones(8)
TRAINED = np.ones((2, 8))


@cache
def table() -> CostTable:
    return CostTable(unroll(read_skeleton("tiny"), OPERATORS, ATTENTIONS, (1, 8, 8), 10))


@cache
def first_made(settings: str) -> Shift:
    return Shift(table().space, Costs(table(), {"latency_ms": latency}), STEPS, **json.loads(settings))


def made(**settings) -> Shift:
    """A shift sampler over bins of the tiny space, eight in MACs, that has learned nothing."""
    shared = {id(one): one for one in (table(), table().space)}
    return deepcopy(first_made(json.dumps(settings)), shared)


def latency(vectors: np.ndarray) -> np.ndarray:
    """A device on which the MACs count little: (n, decisions) to (n,) milliseconds."""
    macs, parameters, _ = table()(vectors).T
    return 0.1 + macs / 1e7 + parameters / 1e4


def pairs(change: np.ndarray, spread: float = 1e-3) -> np.ndarray:
    """(K, 2) measured changes of a mean change, (K,)."""
    return np.asarray(change, float)[:, None] + spread * np.array([-1, 1])


def learn(
    sampler: Shift, change: np.ndarray, visits: np.ndarray = EVENLY, trained: np.ndarray = TRAINED
) -> None:
    sampler.learn(pairs(change), np.asarray(visits, float), trained, Random(0))


def no_look(architecture) -> float:
    raise AssertionError("it must not look at the loss")


def numeric_gradient(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    small = 1e-5 * np.eye(len(at))
    return np.array([(function(at + one) - function(at - one)) / 2e-5 for one in small])


# -- the gradient ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_gradient_is_that_of_the_expected_change(seed):
    logits, change = np.random.default_rng(seed).normal(0, 0.7, (2, 8))

    numeric = numeric_gradient(lambda one: float(softmax(one) @ change), logits)

    np.testing.assert_allclose(exact_gradient(logits, change), numeric, rtol=0, atol=1e-9)


def test_where_the_change_is_linear_in_the_cost_the_pathwise_gradient_is_the_exact_one_on_average():
    logits, costs = np.random.default_rng(0).normal(0, 0.5, 4), np.array([1.0, 2, 4, 5])
    change, dice = -0.3 * costs + 2, np.random.default_rng(1)

    drawn = np.array([pathwise_gradient(logits, change, costs, dice, temperature=0.2) for _ in range(8000)])

    error = drawn.std(axis=0) / math.sqrt(len(drawn))
    np.testing.assert_allclose(
        drawn.mean(axis=0), exact_gradient(logits, change), atol=(4 * error + 0.003).max()
    )
    assert (drawn.std(axis=0) > 1.5 * np.abs(drawn.mean(axis=0))).all()  # one draw is mostly noise


def test_the_pathwise_gradient_knows_only_which_way_the_cost_should_go():
    """All progress is at the ends: the exact gradient wants both, the pathwise one wants out of each half."""
    logits, costs, dice = np.zeros(5), np.arange(1.0, 6), np.random.default_rng(0)
    change = -np.array([4.0, 1, 0, 1, 4])

    drawn = np.array([pathwise_gradient(logits, change, costs, dice) for _ in range(4000)])

    assert exact_gradient(logits, change)[[0, 4]].max() < 0
    assert 0.3 < (drawn[:, 4] < 0).mean() < 0.7  # up or down, by the bin that was drawn
    assert (
        np.abs(drawn.mean(axis=0)).max() < 0.25 * np.abs(drawn).mean(axis=0).max()
    )  # together next to nothing


def test_probability_moves_to_the_bin_whose_loss_falls_most():
    sampler = made()

    for _ in range(10):
        learn(sampler, -np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.1]))

    assert sampler.probabilities.argmax() == 6
    assert sampler.probabilities[6] > 1.5 / 8


def test_probability_moves_up_the_slope_of_progress_by_the_pathwise_gradient_too():
    sampler, dice = made(gradient="pathwise"), Random(0)

    for _ in range(40):
        sampler.learn(pairs(np.linspace(-0.1, -0.8, 8)), EVENLY, TRAINED, dice)

    assert sampler.probabilities[4:].sum() > 0.7


def test_a_sampler_descends_by_adam():
    sampler, change, moments = made(), np.random.default_rng(0).normal(size=8), np.zeros((2, 8))

    learn(sampler, change)

    first = adam(moments, 1, exact_gradient(np.zeros(8), change), sampler.rate)
    np.testing.assert_allclose(sampler.logits, first - first.mean(), atol=1e-15)
    np.testing.assert_allclose(np.abs(first), sampler.rate, rtol=1e-6)  # whatever the gradient's size


# -- what progress is divided by ---------------------------------------------------------------


def test_progress_counts_per_visit():
    visits = np.array([1.0, 9, 5, 5, 5, 5, 5, 5])

    np.testing.assert_allclose(
        per_visit(visits), [LEAST, 1.8, *[1] * 6]
    )  # the first: 0.2, and that is mostly noise
    np.testing.assert_allclose(per_visit(np.zeros(3)), LEAST)

    sampler = made()
    learn(sampler, [-0.5, -0.5, 0, 0, 0, 0, 0, 0], visits)
    assert sampler.moments[0].argmin() == 0  # half of the loss from a tenth of the visits


def test_progress_counts_per_cost_of_what_was_trained():
    steps, macs = np.array([10.0, 10, 20, 0]), np.array([10.0, 30, 100, 0])

    costs = step_costs(steps, macs, overhead=0.5)

    np.testing.assert_allclose(costs, np.array([1, 3, 5, 3]) + 0.5 * 3)  # the last was not trained yet
    np.testing.assert_allclose(per_cost(np.ones(4), costs), costs / 4.5)
    np.testing.assert_allclose(per_cost(np.array([1.0, 3, 2, 2]), costs), [0.5, 1.5, 1, 1] * costs / 4.5)
    np.testing.assert_allclose(step_costs(np.zeros(3), np.zeros(3), 0.1), 1.1)


def test_what_shift_divides_by_is_a_setting():
    change, visits = -np.array([1.0, 1, 1, 1, 1, 1, 1, 1.1]), np.array([9.0, 1, 5, 5, 5, 5, 5, 5])
    trained = np.stack([np.full(8, 10.0), 10.0 * np.arange(1, 9)])

    def preferred(normalise: str) -> int:
        sampler = made(normalise=normalise)
        learn(sampler, change, visits, trained)
        return int(sampler.moments[0].argmin())

    assert [preferred(one) for one in ("none", "visits")] == [7, 1]
    sampler = made(normalise="cost")
    learn(sampler, change, EVENLY, trained)
    assert sampler.moments[0].argmin() == 0  # as much progress for an eighth of the cost


def test_what_was_trained_is_counted_in_macs_whatever_the_bins_are_cut_in():
    sampler, dice = made(cost="latency_ms", normalise="cost"), Random(0)

    plans = [sampler.plan(step, dice, no_look).architectures[0] for step in range(200)]

    numbers = sampler.bins.bin_of(latency(np.array([table().space.encode(one) for one in plans])))
    macs = table().of(plans)[:, 0]
    np.testing.assert_array_equal(sampler.trained[0], np.bincount(numbers, minlength=len(sampler.bins)))
    np.testing.assert_array_equal(sampler.trained[1], np.bincount(numbers, macs, minlength=len(sampler.bins)))


# -- the gate ----------------------------------------------------------------------------------


def test_the_deviation_is_a_paired_t_against_the_mean_of_all_bins():
    changes = np.random.default_rng(0).normal(size=(2, 50))

    both = deviation(changes[None], np.ones((1, 2)))

    halves = changes[0] - changes[1]  # of two bins, each is as far from the mean as half their difference
    assert both == pytest.approx(abs(ttest_1samp(halves, 0).statistic), rel=0.2)
    assert deviation(changes[None], np.full((1, 2), 3.0)) == pytest.approx(both)  # it has no scale


@pytest.mark.parametrize("updates", [1, 4])
@pytest.mark.parametrize("divisors", [np.ones(8), np.linspace(0.25, 2, 8)])
def test_noise_passes_the_gate_as_often_as_it_says(divisors, updates):
    dice, parts = np.random.default_rng(0), np.tile(divisors, (updates, 1))

    drawn = [deviation(dice.normal(size=(updates, 8, 2)), parts) for _ in range(4000)]

    passed = np.mean([chance(one, 8, updates * 8 * (2 - 1)) <= 0.05 for one in drawn])
    assert 0.03 < passed < 0.06


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 8, 33])
def test_students_t_is_within_a_bound_as_often_as_scipy_says(degrees):
    for bound in (0.0, 0.5, 2.5, 1e6):
        assert within(bound, degrees) == pytest.approx(1 - 2 * student.sf(bound, degrees), abs=1e-12)


def test_the_chance_is_that_of_the_largest_of_several_t():
    one = 2 * student.sf(2.5, 8)

    assert chance(2.5, 1, 8) == pytest.approx(one)
    assert chance(2.5, 8, 8) == pytest.approx(1 - (1 - one) ** 8)
    assert chance(0.0, 8, 8) == 1 and chance(1e6, 8, 8) < 1e-9


def test_what_one_update_cannot_show_four_of_them_do():
    dice, falls = np.random.default_rng(0), np.array([0, 0, 0, -1.8, 0, 0, 0, 0])[:, None]

    def passes(updates: int) -> float:
        drawn = falls + dice.normal(size=(1000, updates, 8, 2))
        found = [deviation(one, np.ones((updates, 8))) for one in drawn]
        return float(np.mean([chance(one, 8, updates * 8) <= 0.05 for one in found]))

    assert passes(1) < 0.4 < 0.9 < passes(4)


def test_bins_that_are_alike_do_not_deviate_and_those_that_differ_without_spread_do():
    once = np.ones((1, 8))

    assert deviation(np.full((1, 8, 2), 0.3), once) == 0
    assert deviation(np.repeat(np.arange(8.0)[None, :, None], 2, axis=2), once) == math.inf


def test_what_does_not_stand_out_of_the_spread_moves_nothing_and_lets_go():
    sampler = made()
    for _ in range(5):
        learn(sampler, np.linspace(0, -1, 8))
    followed = sampler.logits.copy()

    sampler.learn(pairs(np.linspace(0, -1, 8), spread=10), EVENLY, TRAINED, Random(0))

    assert sampler.updates == 5 and sampler.deviation < 2
    np.testing.assert_allclose(
        sampler.logits, np.sign(followed) * np.maximum(np.abs(followed) - sampler.rate, 0)
    )


def test_without_the_gate_everything_is_followed():
    sampler = made(gate=1, measured=1)

    sampler.learn(np.linspace(0, -1e-9, 8)[:, None], EVENLY, TRAINED, Random(0))

    assert sampler.updates == 1 and sampler.logits.any()


# -- the guards --------------------------------------------------------------------------------


def ceiling(sampler: Shift) -> float:
    """The largest probability a bin may have: its logit at the clamp, all others at the opposite one."""
    others, top = len(sampler.bins) - 1, math.exp(2 * sampler.clamp)
    return sampler.floor / len(sampler.bins) + (1 - sampler.floor) * top / (top + others)


def test_no_bin_starves_and_none_takes_all():
    sampler = made()

    for _ in range(500):
        learn(sampler, -np.array([1.0, 0, 0, 0, 0, 0, 0, 0]))
        assert np.abs(sampler.logits).max() <= sampler.clamp
        assert sampler.probabilities.min() >= sampler.floor / 8
        assert sampler.probabilities.max() <= ceiling(sampler)
        assert sampler.probabilities.sum() == pytest.approx(1)

    assert sampler.logits.max() == sampler.clamp  # it did press against the limit
    assert ceiling(sampler) == pytest.approx(0.734, abs=1e-3)


def test_the_least_likely_bin_keeps_its_floor():
    def least(floor: float) -> float:
        sampler = made(floor=floor)
        sampler.logits = np.array([2.0, *[-2.0] * 7])
        return sampler.probabilities.min()

    assert least(0.0) < 0.2 / 8 < least(0.2)
    assert least(1.0) == pytest.approx(1 / 8)


def test_logits_stay_centred_until_they_are_clamped():
    sampler, dice = made(), np.random.default_rng(0)

    for _ in range(10):
        learn(sampler, dice.normal(size=8))

    assert 0 < np.abs(sampler.logits).max() < sampler.clamp
    assert sampler.logits.mean() == pytest.approx(0, abs=1e-12)


def test_a_diverged_loss_teaches_nothing():
    sampler = made()

    learn(sampler, [float("nan"), *[0.1] * 7])

    assert not sampler.logits.any() and sampler.updates == 0


# -- what is measured --------------------------------------------------------------------------


def falling(architecture: Architecture, step: int) -> float:
    """A loss that falls the faster the dearer an architecture is, and differs among those of one cost."""
    macs = table().of([architecture])[0, 0]
    return 2.0 + 0.01 * Random(architecture.key).random() - 1e-8 * step * macs


def carried_out(sampler: Shift, steps: range) -> list[Plan]:
    """The plans of some steps, with all that the sampler learns between them."""
    plans = []
    for step in steps:
        plans.append(sampler.plan(step, Random(f"{step} plan"), no_look))
        now = Probe(lambda one, number, step=step: falling(one, step), lambda values: values)
        sampler.update(step + 1, Random(f"{step} update"), now)
    return plans


def test_the_distribution_stays_uniform_until_the_warmup_is_over():
    sampler = made()
    assert sampler.warmup == 0.4 * STEPS

    carried_out(sampler, range(399))
    assert sampler.updates == 0 and not sampler.pending
    np.testing.assert_allclose(sampler.probabilities, 1 / 8)

    carried_out(sampler, range(399, 600))
    assert sampler.updates == 2 and sampler.probabilities.argmax() > 3


@pytest.mark.parametrize("measured", [2, 3])
def test_the_change_is_of_the_same_architectures_on_the_same_images(measured):
    sampler, asked = made(warmup=0, every=10, measured=measured), []

    def loss(architecture, number: int) -> float:
        asked.append((architecture, number))
        return 1.0

    for step in (10, 15, 20):
        sampler.update(step, Random(step), Probe(loss, lambda values: values))

    each = 8 * measured
    first, again = asked[:each], asked[each : 2 * each]
    assert first == again and {number for _, number in first} == {10}
    assert len(asked) == 3 * each and {number for _, number in asked[2 * each :]} == {20}
    costs = table().of([one for one, _ in first])[:, 0]
    assert sampler.bins.bin_of(costs).tolist() == np.repeat(np.arange(8), measured).tolist()


def test_ranks_learn_from_the_mean_of_what_they_saw():
    sampler, seen = made(warmup=0, every=1), []

    def mean_over_ranks(values: np.ndarray) -> np.ndarray:
        seen.append(values.copy())
        return np.zeros_like(values)

    for step in (1, 2):
        sampler.plan(step, Random(step), no_look)
        sampler.update(step, Random(step), Probe(lambda one, number: 1.0 / number, mean_over_ranks))

    changes, visits, trained = seen
    np.testing.assert_allclose(changes, 1 / 1 - 1 / 1)  # the same images as in step 1
    assert visits.sum() == 1 and trained[0].sum() == 2  # of the two plans, one since the update before
    assert not sampler.logits.any()  # the mean said that nothing changed


def test_ranks_that_draw_differently_keep_one_distribution():
    """The pathwise gradient is noise of each rank's own; what is averaged is the same for all."""
    shared = np.linspace(-1, 1, 8)
    samplers = [made(gradient="pathwise") for _ in range(2)]

    for rank, sampler in enumerate(samplers):
        sampler.learn(pairs(-np.arange(8)), EVENLY, TRAINED, Random(rank), lambda values: shared)

    assert samplers[0].logits.any()
    np.testing.assert_array_equal(samplers[0].logits, samplers[1].logits)


@pytest.mark.parametrize("cost", ["macs", "parameters", "bytes", "latency_ms"])
def test_bins_may_be_cut_in_any_cost(cost):
    sampler, dice = made(cost=cost), Random(0)

    drawn = [sampler.plan(step, dice, no_look).architectures[0] for step in range(400)]

    values = Costs(table(), {"latency_ms": latency}).of(cost)(
        np.array([table().space.encode(one) for one in drawn])
    )
    counts = np.bincount(sampler.bins.bin_of(values), minlength=len(sampler.bins))
    np.testing.assert_array_equal(counts, sampler.visits)
    assert counts.min() > 20


# -- the generator within ----------------------------------------------------------------------

GENERATED = {"architectures": "generator", "fit": 10, "every": 10, "warmup": 0.02}


def test_with_a_generator_the_architectures_are_its():
    sampler, dice = made(**GENERATED), Random(0)

    drawn = [sampler.plan(step, dice, no_look).architectures[0] for step in range(20)]

    assert sampler.generator is not None and len(set(drawn)) > 10
    table().space.check(drawn[0])


def test_a_generator_draws_for_many_steps_at_once_and_anew_when_it_has_learned(monkeypatch):
    sampler, passes = made(**GENERATED), []
    carried_out(sampler, range(1))  # which fits it
    samples_of = sampler.generator.samples
    monkeypatch.setattr(
        sampler.generator, "samples", lambda *given: passes.append(len(given[0])) or samples_of(*given)
    )

    plans = [sampler.plan(step, Random(step), no_look) for step in range(1, 2 * AHEAD)]
    assert passes == [AHEAD] and len(set(plans)) > AHEAD

    sampler.plan(2 * AHEAD, Random(0), no_look)
    assert sampler.ahead
    sampler.update(70, Random(0), Probe(falling, lambda values: values))
    assert not sampler.ahead


@cache
def never_stopped(gradient: str) -> tuple[list[Plan], dict]:
    sampler = made(**GENERATED, gradient=gradient, gate=1)
    return carried_out(sampler, range(36)), sampler.state_dict()


@pytest.mark.parametrize(("gradient", "stop"), [("exact", 0), ("exact", 31), ("pathwise", 25)])
def test_killed_and_continued_is_as_never_stopped_with_a_generator_too(gradient, stop):
    settings, (plans, state) = {**GENERATED, "gradient": gradient, "gate": 1}, never_stopped(gradient)

    stopped, again = made(**settings), made(**settings)
    carried_out(stopped, range(stop))
    again.load_state_dict(json.loads(json.dumps(stopped.state_dict())))

    assert carried_out(again, range(stop, 36)) == plans[stop:]
    assert again.state_dict() == state and state["updates"] == 1 and state["generator"]["steps"] > 10


def test_the_generator_learns_from_the_losses_that_are_measured(monkeypatch):
    sampler, told = made(**GENERATED, measured=3), []
    carried_out(sampler, range(1))  # which fits it
    learn_of = sampler.generator.learn
    monkeypatch.setattr(sampler.generator, "learn", lambda *given: told.append(given) or learn_of(*given))
    before = sampler.generator.state_dict()["weights"]

    sampler.update(20, Random(0), Probe(falling, lambda values: values))

    [(vectors, targets, advantages, *_)] = told
    drawn = [table().space.decode(vector) for vector in vectors.tolist()]
    assert drawn == [one for one, _, _ in sampler.pending]
    assert sampler.bins.bin_of(targets).tolist() == np.repeat(np.arange(8), 3).tolist()
    losses = np.array([falling(one, 20) for one in drawn]).reshape(8, 3)
    order = np.argsort(losses, axis=1)
    np.testing.assert_array_equal(np.argsort(advantages.reshape(8, 3), axis=1), order)
    np.testing.assert_allclose(
        advantages.reshape(8, 3).sum(axis=1), 0, atol=1e-12
    )  # the mean is the baseline
    assert sampler.generator.state_dict()["weights"] != before


def test_a_loss_that_diverged_on_any_rank_teaches_the_generator_nothing():
    sampler = made(**GENERATED)
    carried_out(sampler, range(1))
    before = sampler.generator.state_dict()

    sampler.update(20, Random(0), Probe(falling, lambda values: np.full_like(values, np.nan)))

    assert sampler.pending and sampler.generator.state_dict() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient": "exakt"}, r"training\.sampler\.gradient 'exakt' is not known; did you mean exact\?"),
        ({"normalise": "cots"}, r"training\.sampler\.normalise 'cots' is not known; did you mean cost\?"),
        (
            {"architectures": "generater"},
            r"training\.sampler\.architectures 'generater' .* did you mean generator\?",
        ),
        ({"cost": "mac"}, r"training\.sampler\.cost 'mac' is not known; did you mean macs\?"),
        ({"measured": 0}, r"training\.sampler\.measured is 0; it must be a whole number between 1 and"),
        ({"measured": 1}, r"training\.sampler\.measured is 1, but gate .* needs 2 or more; or set gate to 1"),
        ({"gate": 0}, r"training\.sampler\.gate is 0; it must be a number between 1e-09 and 1"),
        ({"overhead": -1}, r"training\.sampler\.overhead is -1; it must be a number between 0 and"),
        ({"fit": 2.5}, r"training\.sampler\.fit is 2\.5; it must be a whole number"),
        ({"cost": "latency_ms"}, r"training\.sampler: .*latency_ms.*"),
    ],
)
def test_a_setting_that_cannot_be_is_named_in_one_line(settings, message):
    with pytest.raises(ValueError, match=rf"\A{message}[^\n]*\Z"):
        make_sampler({"name": "shift", **settings}, table().space, Costs(table()), STEPS)


def test_a_space_of_one_architecture_has_nothing_to_generate():
    space = unroll(
        {"stages": [{"width": 8}], "operators": ["identity"]}, OPERATORS, ATTENTIONS, (1, 8, 8), 10
    )
    sampler = Shift(space, Costs(CostTable(space)), STEPS, architectures="generator")

    with pytest.raises(ValueError, match="single architecture: there is nothing to generate"):
        sampler.plan(0, Random(0), no_look)


# -- a simulated training ----------------------------------------------------------------------

# Eight bins, each with a loss that falls at a pace of its own, a little also when a neighbour is trained.
PACES = {
    "rising": np.linspace(200, 800, 8),
    "falling": np.linspace(800, 200, 8),
    "equal": np.full(8, 500.0),
    "U": np.array([800, 600, 400, 200, 200, 400, 600, 800.0]),
}
SHARING = np.exp(-0.5 * np.subtract.outer(np.arange(8), np.arange(8)) ** 2)


def simulated(pace: np.ndarray, learns: bool, seed: int, noise: float = 0.002) -> tuple[float, float, float]:
    """Mean and worst excess loss after 8000 steps, and the largest probability a bin ever had."""
    sampler, dice = made(), np.random.default_rng(seed)
    effective, before, largest = np.zeros(8), None, 0.0
    for step in range(0, 8000, sampler.every):
        visits = np.bincount(dice.choice(8, sampler.every, p=sampler.probabilities), minlength=8).astype(
            float
        )
        effective += visits @ SHARING
        loss = 2 * np.exp(-effective / pace)
        now, fresh = loss[:, None] + dice.normal(0, noise, (2, 8, 2))
        if learns and step >= 800 and before is not None:
            sampler.learn(now - before, visits, TRAINED, Random(step))
        before, largest = fresh, max(largest, sampler.probabilities.max())
    assert largest <= ceiling(sampler)
    return loss.mean(), loss.max(), largest


def mean_of_seeds(pace: str, learns: bool, noise: float = 0.002) -> np.ndarray:
    return np.mean([simulated(PACES[pace], learns, seed, noise) for seed in range(8)], axis=0)


@pytest.mark.parametrize(
    ("pace", "at_most"), [("rising", 0.7), ("falling", 0.7), ("U", 0.7), ("equal", 1.02)]
)
def test_the_worst_bin_ends_far_better_than_with_uniform_bins(pace, at_most):
    uniform, shift = mean_of_seeds(pace, False), mean_of_seeds(pace, True)

    assert shift[1] < at_most * uniform[1]
    assert shift[0] < 1.02 * uniform[0]
    assert shift[2] < 0.4  # of a ceiling of 0.734


@pytest.mark.parametrize("pace", ["rising", "falling", "U"])
def test_the_worst_bin_still_ends_better_where_one_update_shows_little(pace):
    """Two and a half times as much noise: by each update alone, the gate at 5 % lets almost none pass."""
    uniform, shift = (mean_of_seeds(pace, learns, noise=0.005) for learns in (False, True))

    assert shift[1] < 0.88 * uniform[1]
    assert shift[0] < 0.85 * uniform[0]


@pytest.mark.parametrize("pace", PACES)
def test_where_noise_drowns_the_progress_the_distribution_stays_near_uniform(pace):
    uniform, shift = (mean_of_seeds(pace, learns, noise=0.02) for learns in (False, True))

    assert shift[0] < 1.03 * uniform[0] and shift[1] < 1.05 * uniform[1]
    assert shift[2] < 0.18


def test_the_gate_is_what_keeps_noise_out():
    def largest(gate: float) -> float:
        sampler, dice, seen = made(gate=gate), np.random.default_rng(0), []
        for _ in range(300):
            sampler.learn(dice.normal(0, 0.01, (8, 2)), EVENLY, TRAINED, Random(0))
            seen.append(sampler.probabilities.max())
        return float(np.mean(seen))

    assert largest(0.05) < 0.15 < 0.2 < largest(1)
