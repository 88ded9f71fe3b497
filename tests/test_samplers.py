"""What a step trains is a valid architecture that depends on the seed, the step and what was learned, on nothing
else. Uniform per decision crowds the middle of the cost range; the shift sampler covers it evenly and moves to
where the loss still falls; the sandwich is exactly the sum of its layers, and only the largest sees the labels.
"""

from __future__ import annotations

import json
import random as global_random
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor

from search_spaces import SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.cost import Costs, CostTable
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.samplers import SAMPLERS, check_sampler, make_sampler
from supernets.samplers.cost_bins import cost_bins
from supernets.samplers.plan import Look, Plan, Probe, Sampler
from supernets.samplers.shift import Shift
from supernets.supernet import Supernet
from supernets.training import train

STEPS = 1000


def no_look(architecture) -> float:
    raise AssertionError("it must not look at the loss")


@cache
def table_of(preset: str) -> CostTable:
    skeleton = {"stages": [{"width": 8}], "operators": ["identity"]} if preset == "one" else preset
    return CostTable(unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (1, 8, 8), 10))


@cache
def first_made(name: str, preset: str) -> tuple[Sampler, str]:
    costs = table_of(preset)
    sampler = make_sampler(name, costs.space, Costs(costs), STEPS)
    return sampler, json.dumps(sampler.state_dict())


def made(name: str, preset: str = "tiny") -> Sampler:
    """A sampler that has learned nothing; what is costly to make, its tables, is made once."""
    sampler, state = first_made(name, preset)
    sampler = copy(sampler)
    sampler.load_state_dict(json.loads(state))
    return sampler


def falling(sampler: Sampler, loss: float = 2.0) -> Probe:
    """A supernet whose loss falls by a thousandth with each number, three times as fast for dear ones."""

    def at(architecture, number: int) -> float:
        macs = table_of("tiny").of([architecture])[0, 0]
        return loss - number * (0.003 if macs > 90_000 else 0.001)

    return Probe(at, lambda values: values)


def carried_out(sampler: Sampler, steps: range) -> list[Plan]:
    """The plans of some steps, with all that the sampler learns between them."""
    plans = []
    for step in steps:
        plans.append(sampler.plan(step, Random(f"{step} plan"), no_look))
        sampler.update(step + 1, Random(f"{step} update"), falling(sampler))
    return plans


# -- what all keep -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("preset", ["tiny", "digits", "one"])
def test_every_plan_is_of_architectures_of_the_space(name, preset):
    sampler, space = made(name, preset), table_of(preset).space

    for step in range(20):
        plan = sampler.plan(step, Random(step), no_look)
        assert plan.architectures
        for architecture in plan.architectures:
            space.check(architecture)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_step_and_seed_have_the_same_plan(name):
    assert carried_out(made(name), range(700)) == carried_out(made(name), range(700))
    assert len({made(name).plan(0, Random(seed), no_look) for seed in range(20)}) > 10


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("stop", [0, 100, 450, 601])
def test_a_sampler_goes_on_from_its_state_as_json(name, stop):
    whole = carried_out(made(name), range(800))

    stopped = made(name)
    carried_out(stopped, range(stop))
    again = made(name)
    again.load_state_dict(json.loads(json.dumps(stopped.state_dict())))

    assert carried_out(again, range(stop, 800)) == whole[stop:]


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_sampler_shows_are_finite_numbers(name):
    sampler = made(name)
    carried_out(sampler, range(600))

    shown = sampler.observables()

    assert all(isinstance(key, str) and np.isfinite(value) for key, value in shown.items())
    json.dumps(dict(shown))


@pytest.mark.parametrize("name", SAMPLERS)
def test_planning_draws_nothing_from_the_global_generators(name):
    sampler = made(name)
    before = global_random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())

    carried_out(sampler, range(20))

    assert (global_random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shfit", r"training\.sampler 'shfit' is not known; did you mean shift\? Allowed: uniform, sandwich"),
        ({}, r"training\.sampler None is not known; Allowed: uniform"),
        ({"name": ["shift"]}, r"training\.sampler \['shift'\] is not known"),
        ({"name": "shift", "bin": 8}, r"training\.sampler\.bin is not known; did you mean bins\? Allowed: bins"),
        ({"name": "uniform", "bins": 8}, r"training\.sampler\.bins is not known; Allowed: nothing"),
        ({"name": "shift", "space": 1}, r"training\.sampler\.space is not known"),
        ({"name": "shift", "bins": 0}, r"training\.sampler\.bins is 0; it must be a whole number between 1 and"),
        ({"name": "shift", "bins": 2.5}, r"training\.sampler\.bins is 2\.5; it must be a whole number"),
        ({"name": "shift", "every": 10.5}, r"training\.sampler\.every is 10\.5; it must be a whole number"),
        ({"name": "shift", "every": True}, r"training\.sampler\.every is True; it must be a whole number"),
        ({"name": "shift", "warmup": 1.5}, r"training\.sampler\.warmup is 1\.5; it must be a number between 0 and 1"),
        ({"name": "shift", "rate": float("nan")}, r"training\.sampler\.rate is nan; it must be a number between"),
        ({"name": "shift", "floor": "low"}, r"training\.sampler\.floor is 'low'; it must be a number between"),
        ({"name": "sandwich", "randoms": -1}, r"training\.sampler\.randoms is -1; it must be a whole number"),
        ({"name": "sandwich", "randoms": "two"}, r"training\.sampler\.randoms is 'two'; it must be a whole"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named_in_one_line(given, message):
    costs = table_of("tiny")

    with pytest.raises(ValueError, match=rf"\A{message}[^\n]*\Z"):
        make_sampler(given, costs.space, Costs(costs), STEPS)


def test_settings_are_told_apart_from_the_name():
    assert check_sampler("uniform") == ("uniform", {})
    assert check_sampler({"name": "shift", "bins": 4}) == ("shift", {"bins": 4})


# -- bins of cost ------------------------------------------------------------------------------


def test_uniform_per_decision_is_far_from_uniform_over_cost():
    costs, sampler, dice = table_of("digits"), made("uniform", "digits"), Random(0)
    drawn = costs.of([sampler.plan(step, dice, no_look).architectures[0] for step in range(1500)])[:, 0]
    low, high = costs.of([costs.smallest, costs.largest])[:, 0]

    counts, _ = np.histogram(drawn, np.linspace(low, high, 9))

    assert chisquare(counts).pvalue < 1e-6
    assert counts[-2:].sum() < 0.01 * counts.sum()  # the dear ones are almost never met


def test_shift_without_anything_learned_is_uniform_over_cost():
    costs, sampler, dice = table_of("digits"), made("shift", "digits"), Random(0)
    assert not sampler.logits.any()

    drawn = costs.of([sampler.plan(step, dice, no_look).architectures[0] for step in range(1500)])[:, 0]

    counts = np.bincount(sampler.bins.bin_of(drawn), minlength=len(sampler.bins))
    np.testing.assert_allclose(np.diff(sampler.bins.edges), np.diff(sampler.bins.edges)[0])
    assert len(counts) == 8 and chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_what_is_drawn_from_a_bin_costs_what_the_bin_says(preset):
    costs, bins, dice = table_of(preset), made("shift", preset).bins, Random(0)

    for number in range(len(bins)):
        drawn = costs.of([bins.sample(number, dice) for _ in range(40)])[:, 0]
        assert (bins.edges[number] <= drawn).all() and (drawn <= bins.edges[number + 1]).all()


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_the_bins_reach_from_the_cheapest_to_the_dearest(preset):
    costs, bins = table_of(preset), made("shift", preset).bins

    assert bins.edges[[0, -1]].tolist() == costs.of([costs.smallest, costs.largest])[:, 0].tolist()
    assert (np.diff(bins.edges) > 0).all()
    assert bins.bin_of(bins.edges[[0, -1]]).tolist() == [0, len(bins) - 1]


def test_one_bin_holds_more_than_one_architecture():
    bins, dice = made("shift", "digits").bins, Random(0)

    for number in range(len(bins)):
        assert len({bins.sample(number, dice) for _ in range(20)}) > 10


def test_bins_that_hold_too_few_are_merged_with_a_neighbour():
    costs = table_of("tiny")

    bins = cost_bins(costs.space, Costs(costs).of("macs"), 300)

    assert 8 < len(bins) < 300
    assert (np.diff(bins.edges) > 0).all() and np.isfinite(bins.marginals).all()
    everything = costs.of([costs.space.sample(Random(seed)) for seed in range(3000)])[:, 0]
    assert len(set(bins.bin_of(everything))) > 0.8 * len(bins)


# -- what shift learns -------------------------------------------------------------------------


def bare(**settings) -> Shift:
    """A shift sampler over the eight bins of the tiny space."""
    sampler = made("shift")
    for name, value in settings.items():
        setattr(sampler, name, value)
    assert len(sampler.bins) == 8
    return sampler


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_is_that_of_the_expected_change(seed):
    generator = np.random.default_rng(seed)
    logits, change = generator.normal(0, 0.7, (2, 8))
    visits = generator.integers(0, 30, 8).astype(float)
    per_visit = change / np.maximum(visits / visits.mean(), 0.25)

    def expected_change(logits: np.ndarray) -> float:
        weights = np.exp(logits)
        return float(weights @ per_visit / weights.sum())

    sampler = bare(logits=logits.copy())
    sampler.learn(change, visits)

    gradient = sampler.moments[0] / (1 - 0.9)  # the first moment after one step from nothing
    small = 1e-6 * np.eye(8)
    numeric = [(expected_change(logits + one) - expected_change(logits - one)) / 2e-6 for one in small]
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_probability_moves_to_the_bin_whose_loss_falls_most():
    sampler = bare()

    for _ in range(10):
        sampler.learn(-np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.1]), np.ones(8))

    assert sampler.probabilities.argmax() == 6
    assert sampler.probabilities[6] > 1.5 / 8


def test_progress_counts_per_visit():
    """Half of the loss from a tenth of the visits is more than the other half from the rest."""
    sampler = bare()

    sampler.learn(-np.array([0.5, 0.5, 0, 0, 0, 0, 0, 0]), np.array([1.0, 9, 5, 5, 5, 5, 5, 5]))

    assert sampler.moments[0].argmin() == 0


def test_no_bin_starves_and_no_logit_runs_away():
    sampler = bare()

    for _ in range(500):
        sampler.learn(-np.array([1.0, 0, 0, 0, 0, 0, 0, 0]), np.ones(8))
        assert np.abs(sampler.logits).max() <= sampler.clamp
        assert sampler.probabilities.min() >= sampler.floor / 8
        assert sampler.probabilities.sum() == pytest.approx(1)

    assert sampler.logits.max() == sampler.clamp  # it did press against the limit


def test_the_least_likely_bin_keeps_its_floor():
    logits = np.array([2.0, *[-2.0] * 7])

    assert bare(logits=logits, floor=0.0).probabilities.min() < 0.2 / 8
    assert bare(logits=logits, floor=0.2).probabilities.min() > 0.2 / 8
    np.testing.assert_allclose(bare(logits=logits, floor=1.0).probabilities, 1 / 8)


def test_logits_stay_centred_until_they_are_clamped():
    sampler, generator = bare(), np.random.default_rng(0)

    for _ in range(10):
        sampler.learn(generator.normal(size=8), np.ones(8))

    assert np.abs(sampler.logits).max() < sampler.clamp
    assert sampler.logits.mean() == pytest.approx(0, abs=1e-12)


def test_a_diverged_loss_teaches_nothing():
    sampler = bare()

    sampler.learn(np.array([float("nan"), *[0.1] * 7]), np.ones(8))

    assert not sampler.logits.any() and sampler.updates == 0


def test_the_distribution_stays_uniform_until_the_warmup_is_over():
    sampler = made("shift")
    carried_out(sampler, range(int(sampler.warmup) - 1))

    assert sampler.updates == 0 and not sampler.pending
    np.testing.assert_allclose(sampler.probabilities, 1 / 8)


def test_the_change_is_of_the_same_architectures_on_the_same_images():
    sampler, asked = bare(warmup=0, every=10), []

    def loss(architecture, number: int) -> float:
        asked.append((architecture, number))
        return 1.0

    for step in (10, 15, 20):
        sampler.update(step, Random(step), Probe(loss, lambda values: values))

    first, again = asked[:8], asked[8:16]
    assert first == again and {number for _, number in first} == {10}
    assert len(asked) == 24 and {number for _, number in asked[16:]} == {20}


def test_ranks_learn_from_the_mean_of_what_they_saw():
    sampler = bare(warmup=0, every=1)
    seen = []

    def mean_over_ranks(values: np.ndarray) -> np.ndarray:
        seen.append(values.copy())
        return np.zeros(8)

    for step in (1, 2):
        sampler.plan(step, Random(step), no_look)
        sampler.update(step, Random(step), Probe(lambda one, number: 1.0 / number, mean_over_ranks))

    changes, visits = seen
    np.testing.assert_allclose(changes, 1 / 1 - 1 / 1)  # the same images as in step 1
    assert visits.sum() == 1  # of the two plans, the one since the update before
    assert not sampler.logits.any()  # the mean said that nothing changed


# The simulator of a training: eight bins, each with a loss that falls at a pace of its own, a little also
# when a neighbour is trained.

PACES = {
    "rising": np.linspace(200, 800, 8),
    "falling": np.linspace(800, 200, 8),
    "equal": np.full(8, 500.0),
    "U": np.array([800, 600, 400, 200, 200, 400, 600, 800.0]),
}
SHARING = np.exp(-0.5 * np.subtract.outer(np.arange(8), np.arange(8)) ** 2)


def simulated(pace: np.ndarray, learns: bool, seed: int, noise: float = 0.002) -> tuple[float, float, float]:
    """Mean and worst excess loss after 8000 steps, and the largest probability a bin ever had."""
    sampler, generator = bare(warmup=800), np.random.default_rng(seed)
    effective, before, largest = np.zeros(8), None, 0.0
    for step in range(0, 8000, sampler.every):
        visits = np.bincount(generator.choice(8, sampler.every, p=sampler.probabilities), minlength=8)
        effective += visits @ SHARING
        loss = 2 * np.exp(-effective / pace)
        measured = loss + generator.normal(0, noise, 8)
        if learns and step >= sampler.warmup and before is not None:
            sampler.learn(measured - before, visits.astype(float))
        before, largest = measured, max(largest, sampler.probabilities.max())
    return loss.mean(), loss.max(), largest


def mean_of_seeds(pace: str, learns: bool, noise: float = 0.002) -> np.ndarray:
    return np.mean([simulated(PACES[pace], learns, seed, noise) for seed in range(5)], axis=0)


@pytest.mark.parametrize(
    ("pace", "at_most"), [("rising", 0.7), ("falling", 0.7), ("U", 0.8), ("equal", 1.05)]
)
def test_the_worst_bin_ends_better_than_with_uniform_bins(pace, at_most):
    uniform, shift = mean_of_seeds(pace, False), mean_of_seeds(pace, True)

    assert shift[1] < at_most * uniform[1]
    assert shift[0] < 1.02 * uniform[0]
    assert shift[2] < 0.45


def test_noise_alone_makes_the_distribution_little_worse_than_uniform():
    uniform, shift = (mean_of_seeds("equal", learns, noise=0.02) for learns in (False, True))

    assert shift[1] < 1.15 * uniform[1]
    assert shift[2] < 0.25


# -- the sandwich ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneBatch:
    """A source with the same batch in every step; an epoch is one step."""

    images: Tensor
    labels: Tensor

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        return self.images, self.labels

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return 1


def one_batch(space: SearchSpace, seed: int = 0) -> OneBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, *space.image_shape, generator=generator)
    return OneBatch(images, torch.randint(space.classes, (16,), generator=generator))


def step_of(sampler: Sampler, batch: OneBatch, path: Path) -> dict[str, Tensor]:
    """The gradient of one training step: what plain descent at a rate of 1 subtracted from each weight."""
    space = table_of("digits").space
    supernet = Supernet(space)
    before = {name: one.detach().clone() for name, one in supernet.named_parameters()}
    recipe = Training(epochs=1, learning_rate=1, momentum=0, weight_decay=0, warmup=0, clip=1e9, device="cpu")
    train(supernet, batch, lambda number: batch(number), sampler, recipe, path)
    return {name: before[name] - one.detach() for name, one in supernet.named_parameters()}


@dataclass
class Recorded:
    """A sampler that keeps its plans."""

    sampler: Sampler
    plans: list[Plan]

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        self.plans.append(self.sampler.plan(step, random, look))
        return self.plans[-1]

    def __getattr__(self, name: str):
        return getattr(self.sampler, name)


def test_the_sandwich_is_the_largest_then_the_smallest_then_random_ones():
    costs, sampler = table_of("digits"), made("sandwich", "digits")

    plan = sampler.plan(0, Random(0), no_look)

    assert plan.distil
    assert plan.architectures[:2] == (costs.largest, costs.smallest)
    assert len(set(plan.architectures)) == 4
    assert make_sampler({"name": "sandwich", "randoms": 0}, costs.space, Costs(costs), 1).plan(
        0, Random(0), no_look
    ) == Plan((costs.largest, costs.smallest), distil=True)


def test_the_gradient_of_a_sandwich_is_the_sum_of_its_layers(tmp_path):
    space = table_of("digits").space
    sampler, batch = Recorded(made("sandwich", "digits"), []), one_batch(space)

    step = step_of(sampler, batch, tmp_path / "supernet.safetensors")

    [plan] = sampler.plans
    alone, teacher = dict.fromkeys(step, 0.0), None
    for number, architecture in enumerate(plan.architectures):
        supernet = Supernet(space).train()
        logits = supernet(batch.images, architecture)
        if number == 0:
            F.cross_entropy(logits, batch.labels, label_smoothing=Training().label_smoothing).backward()
            teacher = logits.softmax(1).detach()  # the largest learns nothing from the others
        else:
            F.cross_entropy(logits, teacher).backward()
        for name, one in supernet.named_parameters():
            alone[name] = alone[name] + (0 if one.grad is None else one.grad)
    for name, gradient in step.items():
        expected = torch.as_tensor(alone[name]).expand_as(gradient)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6, msg=name)


def test_only_the_largest_learns_from_the_labels(tmp_path):
    space = table_of("digits").space
    batch = one_batch(space)
    others = OneBatch(batch.images, (batch.labels + 3) % space.classes)
    sampler = Recorded(made("sandwich", "digits"), [])

    step = step_of(sampler, batch, tmp_path / "one.safetensors")
    relabelled = step_of(sampler, others, tmp_path / "other.safetensors")

    supernet = Supernet(space).train()
    supernet(batch.images, sampler.plans[0].architectures[0]).square().sum().backward()
    of_largest = {name for name, one in supernet.named_parameters() if one.grad is not None}
    of_others = {name for name, gradient in step.items() if gradient.any()} - of_largest
    assert len(of_others) > 5
    assert all(torch.equal(step[name], relabelled[name]) for name in of_others)
    assert not torch.equal(step["classifier.bias"], relabelled["classifier.bias"])
