"""The architecture generator hits the cost that it is asked for, in every bin and with many architectures; its
gradient is the derivative of the cost of soft choices, exactly, for any cost; and what it learned is its state.
"""

from __future__ import annotations

import json
import random as global_random
from functools import cache
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from search_spaces import read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.cost import Costs, cost_table
from supernets.operators import OPERATORS
from supernets.samplers.cost_bins import cost_bins
from supernets.samplers.generator import (
    GOOD,
    LATELY,
    NEAR,
    ExactCost,
    Generator,
    kind_of,
    single_changes,
)

SHAPES = {
    "tiny": (1, 8, 8),
    "digits": (1, 8, 8),
    "mobile": (1, 28, 28),
    "resnet": (1, 28, 28),
    "nasnet": (1, 28, 28),
    "wide": (1, 28, 28),
}
WIDE = {  # ten options of each width, and few architectures at the ends of the range
    "stem": {"width": 8},
    "stages": [
        {"width": list(range(8, 28, 2)), "depth": 1},
        {"width": list(range(16, 56, 4)), "depth": [1, 2], "stride": 2},
    ],
    "operators": [{"depthwise": {"kernel_size": [3, 5]}}],
    "expansion": [2],
}
BINS = 8
DRAWS = 200
STEPS = 100


@cache
def costs_of(preset: str) -> Costs:
    skeleton = read_skeleton(WIDE if preset == "wide" else preset)
    return Costs(cost_table(unroll(skeleton, OPERATORS, ATTENTIONS, SHAPES[preset], 10)))


def made(preset: str, seed: int = 0) -> Generator:
    costs = costs_of(preset)
    low, high = costs.table.of([costs.table.smallest, costs.table.largest])[:, 0]
    return Generator(costs.table.space, costs.of("macs"), low, high, seed)


@cache
def fitted(preset: str, steps: int) -> Generator:
    generator = made(preset)
    generator.fit(steps)
    return generator


def macs(preset: str, architectures: list) -> np.ndarray:
    return costs_of(preset).table.of(architectures)[:, 0]


# -- the cost of soft choices ------------------------------------------------------------------


def multilinear(probabilities: np.ndarray, cost) -> float:
    """The expected cost of independent decisions, (D, O), by summing over all architectures."""
    decisions, options = probabilities.shape
    vectors = np.array(list(product(range(1, options + 1), repeat=decisions)))
    weights = probabilities[np.arange(decisions), vectors - 1].prod(axis=1)
    return float(weights @ cost(vectors))


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_multilinear_extension(seed):
    dice = np.random.default_rng(seed)
    values = dice.normal(size=(3, 3, 3, 3))  # any function: nothing adds up

    def cost(vectors: np.ndarray) -> np.ndarray:
        return values[tuple(vectors.T - 1)]

    point = np.eye(3)[dice.integers(0, 3, 4)]
    one_hot = torch.tensor(point[None], requires_grad=True)

    out = ExactCost.apply(one_hot, cost, np.full(4, 3))
    out.backward(torch.tensor([2.5], dtype=torch.float64))

    assert out.item() == pytest.approx(multilinear(point, cost), abs=1e-12)
    for place, option in product(range(4), range(3)):
        step = np.zeros((4, 3))
        step[place, option] = 1e-3  # it is linear in each, so this is no approximation
        numeric = (multilinear(point + step, cost) - multilinear(point - step, cost)) / 2e-3
        assert one_hot.grad[0, place, option].item() == pytest.approx(2.5 * numeric, abs=1e-9)


def test_the_gradient_of_macs_is_what_each_change_costs():
    space, generator = costs_of("tiny").table.space, made("tiny")
    vectors = np.array([space.encode(space.sample(Random(seed))) for seed in range(5)])
    one_hot = F.one_hot(torch.tensor(np.maximum(vectors, 1) - 1), 2).double().requires_grad_()

    ExactCost.apply(one_hot, generator.cost, generator.options).sum().backward()

    for row, place, option in product(range(5), range(len(generator.options)), (1, 2)):
        changed = np.maximum(vectors[row], 1)
        changed[place] = option
        assert (
            one_hot.grad[row, place, option - 1].item() == macs("tiny", [space.decode(changed.tolist())])[0]
        )


def test_a_decision_that_does_not_arise_has_no_say():
    space, generator = costs_of("digits").table.space, made("digits")
    vectors = np.array([space.encode(space.sample(Random(seed))) for seed in range(20)])

    table = single_changes(np.maximum(vectors, 1), generator.cost, generator.options)

    for place, options in enumerate(generator.options):
        absent = table[vectors[:, place] == 0, place, :options]
        assert (absent == absent[:, :1]).all()
    assert (vectors == 0).sum() > 50


def test_a_cost_sees_only_what_encode_gives():
    """A predicted latency knows no vector that says something of a decision that does not arise."""
    costs, seen = costs_of("digits"), []
    generator = Generator(costs.table.space, lambda v: seen.append(v.copy()) or costs.of("macs")(v), 6e4, 2e6)

    generator.fit(1)

    rows = np.concatenate(seen)
    some = rows[:: len(rows) // 500]
    assert [tuple(row) for row in some] == [
        costs.table.space.encode(costs.table.space.decode(row)) for row in some.tolist()
    ]


# -- what it hits ------------------------------------------------------------------------------


def in_every_bin(generator: Generator, preset: str) -> list[tuple[float, float, int]]:
    """Per bin of equal width: median and 95th percentile of the relative error, and how many differ."""
    edges, dice = np.linspace(generator.low, generator.high, BINS + 1), Random(0)
    rows = []
    for low, high in pairwise(edges):
        targets = [dice.uniform(low, high) for _ in range(DRAWS)]
        drawn = generator.samples(targets, dice)
        errors = np.abs(macs(preset, drawn) / targets - 1)
        rows.append((np.median(errors), np.quantile(errors, 0.95), len(set(drawn))))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["digits", "mobile", "resnet", "wide"])
def test_it_hits_what_it_is_asked_for_in_every_bin(preset):
    for median, most, different in in_every_bin(fitted(preset, STEPS), preset):
        assert median <= 0.02
        assert most <= 0.05
        assert different >= 50


@pytest.mark.slow
def test_cells_hit_what_cells_can_cost_in_every_bin():
    """Near the cheapest few costs exist, so what is asked for is what some architecture costs."""
    generator, dice = fitted("nasnet", 40), Random(0)
    space, cost = generator.space, costs_of("nasnet").of("macs")
    bins = cost_bins(space, cost, BINS, (costs_of("nasnet").table.smallest, costs_of("nasnet").table.largest))
    for number in range(len(bins)):
        targets = macs("nasnet", [bins.sample(number, dice) for _ in range(50)])
        drawn = generator.samples(targets, dice)
        errors = np.abs(macs("nasnet", drawn) / targets - 1)

        assert np.median(errors) <= 0.02
        assert np.quantile(errors, 0.95) <= 0.05
        assert len(set(drawn)) >= 25


def test_near_the_cheapest_where_few_costs_exist_the_answer_is_one_of_these():
    generator = fitted("nasnet", 40)
    ways = [
        (place, option) for place, count in enumerate(generator.options) for option in range(1, count + 1)
    ]
    changed = np.tile(generator.cheapest, (len(ways), 1))
    for vector, (place, option) in zip(changed, ways, strict=True):
        vector[place] = option
    table = single_changes(changed, generator.cost, generator.options)
    known = np.unique(table[:, ~generator._beyond()])  # two changes away from the cheapest
    targets = generator.low * np.array([1.0, 1.15, 2.3, 3.0])

    answers = macs("nasnet", generator.samples(targets, Random(0)))

    assert known[2] / known[1] > 1.5  # there is a gap to speak of
    nearest = np.abs(known / targets[:, None] - 1).min(axis=1)
    assert (np.abs(answers / targets - 1) <= nearest + 1e-12).all()


def test_cells_are_generated_as_well():
    generator, dice = made("nasnet"), Random(0)
    generator.fit(2)
    targets = np.linspace(generator.low, generator.high, 5)

    drawn = generator.samples(targets, dice)

    for one in drawn:
        generator.space.check(one)
    assert len(set(drawn)) == 5
    assert (macs("nasnet", [generator.best(target) for target in targets[:2]]) <= targets[:2]).all()


def test_fitting_is_what_makes_it_hit():
    errors = []
    generator = made("digits")

    generator.fit(60, lambda step, error: errors.append((step, error)))

    assert [step for step, _ in errors] == list(range(1, 61))
    assert np.mean([error for _, error in errors[-10:]]) < 0.25 * errors[0][1]


def test_one_request_has_many_answers():
    generator, dice = fitted("tiny", 60), Random(0)
    target = (generator.low + generator.high) / 2

    drawn = {generator.sample(target, dice) for _ in range(100)}

    assert len(drawn) > 40


def test_an_answer_that_is_off_is_mended_by_single_changes():
    generator, dice = made("digits"), Random(0)  # not fitted, so that most are off
    targets = np.linspace(1.1 * generator.low, 0.9 * generator.high, 60)
    drawn = generator.draw(targets, dice)

    mended = generator._mended(drawn, targets, dice)

    before, after = (np.abs(generator.cost(vectors) / targets - 1) for vectors in (drawn, mended))
    assert (after <= before).all()
    assert np.median(before) > 0.3 and np.median(after) <= NEAR
    near = before <= NEAR
    assert (mended[near] == drawn[near]).all()
    assert ((mended >= 1) & (mended <= generator.options)).all()


def test_what_nothing_costs_is_answered_by_the_nearest_there_is():
    generator = fitted("tiny", 60)

    most, least = generator.samples([10 * generator.high, 0.1 * generator.low], Random(0))

    assert macs("tiny", [most, least]).tolist() == [generator.high, generator.low]


def test_fitting_ends_when_it_hits():
    generator, errors = made("tiny"), []

    generator.fit(1000, lambda step, error: errors.append(error))

    assert LATELY < len(errors) < 1000
    assert np.mean(errors[-LATELY:]) <= GOOD < np.mean(errors[-LATELY - 1 : -1])


def test_a_softer_draw_is_nearer_to_an_even_choice():
    generator = fitted("tiny", 60)
    targets = np.full(400, generator.low)

    def differing(softness: float) -> int:
        return len(np.unique(generator.draw(targets, Random(0), np.full(400, softness)), axis=0))

    assert differing(1) < differing(4) < differing(1000)
    assert np.array_equal(
        generator.draw(targets, Random(0)), generator.draw(targets, Random(0), np.ones(400))
    )
    evenly = generator.draw(targets, Random(0), np.full(400, 1e6))
    assert np.abs((evenly == 1).mean(axis=0) - 1 / generator.options).max() < 0.1


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_the_best_is_never_above_the_target(preset):
    generator = fitted(preset, 60)

    for target in np.linspace(generator.low, 1.2 * generator.high, 25):
        best = generator.best(target)
        assert macs(preset, [best])[0] <= target
        assert generator.best(target) == best
    assert macs(preset, [generator.best(generator.low)])[0] == generator.low
    assert macs(preset, [generator.best(0.5 * generator.low)])[0] == generator.low  # nothing is cheaper
    assert macs(preset, [generator.best(1.2 * generator.high)])[0] > 0.8 * generator.high


def test_even_an_unfitted_one_keeps_the_ceiling():
    generator = made("digits")

    for target in np.linspace(generator.low, generator.high, 10):
        assert macs("digits", [generator.best(target)])[0] <= target


@pytest.mark.parametrize("preset", ["tiny", "digits", "mobile", "nasnet"])
def test_its_ends_are_the_cheapest_and_the_dearest(preset):
    generator, table = made(preset), costs_of(preset).table

    ends = generator.cost(np.stack([generator.cheapest, generator.dearest]))

    assert ends.tolist() == table.of([table.smallest, table.largest])[:, 0].tolist()


def test_there_is_one_head_for_each_kind_of_decision():
    generator = made("digits")
    kinds = {kind_of(decision.name) for decision in generator.space.decisions}

    assert len(generator.network.heads) == len(kinds)
    assert kinds == {"width", "depth", "operator", "depthwise.kernel_size", "max_pool.kernel_size", "expansion",
                     "attention"}  # fmt: skip
    assert kind_of("normal 3 input a") == "input a" and kind_of("resolution") == "resolution"


# -- what it learns together with a supernet ---------------------------------------------------


def test_it_learns_to_prefer_what_does_better_at_the_same_cost():
    """A loss that is less with one attention, which costs next to nothing."""
    generator, dice = made("tiny"), Random(0)
    generator.fit(60)
    place = next(
        n for n, one in enumerate(generator.space.decisions) if one.name == "stage 1 block 0 attention"
    )
    targets = np.linspace(generator.low, generator.high, 64)

    def share() -> float:
        return float(np.mean(generator.draw(np.repeat(targets, 4), Random(1))[:, place] == 2))

    before, errors = share(), []
    for _ in range(60):
        vectors = generator.draw(targets, dice)
        losses = np.where(vectors[:, place] == 2, 1.0, 2.0)
        errors.append(generator.learn(vectors, targets, 0.02 * (losses - losses.mean()), dice))

    assert share() > before + 0.1
    assert np.mean(errors[-10:]) < max(0.05, 1.5 * np.mean(errors[:10]))  # and still hits its costs


def test_while_it_misses_costs_it_learns_nothing_else():
    one, other = made("tiny"), made("tiny")
    targets = np.linspace(one.low, one.high, 8)
    vectors = one.draw(targets, Random(0))

    errors = [
        each.learn(vectors, targets, advantages, Random(1))
        for each, advantages in ((one, np.zeros(8)), (other, np.linspace(-9, 9, 8)))
    ]

    assert errors[0] == errors[1] > 0.03
    assert one.state_dict() == other.state_dict()


def test_ranks_that_average_their_gradients_stay_alike():
    ranks = [made("tiny") for _ in range(2)]
    targets = np.linspace(ranks[0].low, ranks[0].high, 8)

    for number, one in enumerate(ranks):
        one.learn(
            one.draw(targets, Random(number)),
            targets,
            np.zeros(8),
            Random(number),
            lambda v: np.full(v.shape, 0.01),
        )

    assert ranks[0].state_dict() == ranks[1].state_dict()


# -- what is its state -------------------------------------------------------------------------


def test_the_same_seed_learns_the_same():
    states = [json.dumps(g.state_dict()) for g in (made("tiny"), made("tiny"), made("tiny", seed=1))]
    assert states[0] == states[1] != states[2]

    one, other = made("tiny"), made("tiny")
    one.fit(5)
    other.fit(5)
    assert one.state_dict() == other.state_dict()
    assert json.dumps(one.state_dict()) != states[0]


def test_it_goes_on_from_its_state_as_json():
    whole, again = made("tiny"), made("tiny", seed=7)
    whole.fit(5)
    again.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    targets = np.linspace(whole.low, whole.high, 8)

    for one in (whole, again):
        vectors = one.draw(targets, Random(0))
        one.learn(vectors, targets, np.zeros(8), Random(1))

    assert whole.state_dict() == again.state_dict()
    assert whole.best(whole.high) == again.best(whole.high)
    assert whole.sample(whole.high, Random(3)) == again.sample(whole.high, Random(3))


def test_an_unfitted_one_goes_on_too():
    one, other = made("tiny"), made("tiny", seed=1)

    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for each in (one, other):
        each.learn(np.ones((4, 18), int), np.full(4, 9e4), np.zeros(4), Random(0))

    assert one.state_dict() == other.state_dict()


def test_the_state_of_another_space_is_refused():
    with pytest.raises(
        ValueError, match=r"\Aa generator for digits has \d+ weights, not \d+; .*fit a new one\Z"
    ):
        made("digits").load_state_dict(made("tiny").state_dict())


def test_nothing_is_drawn_from_the_global_generators():
    before = global_random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())

    generator = made("tiny")
    generator.fit(2)
    generator.sample(generator.high, Random(0))
    generator.best(generator.high)

    assert (global_random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())) == before
