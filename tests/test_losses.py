"""What an architecture learns from: losses are what their papers say, to the last digit of their gradients; a teacher
learns nothing from its students; and a training with any of them goes on as if it had never stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.config import experiment
from nas.data import Data, load
from nas.data.batches import Batches
from search_spaces import Architecture, CellSpace, SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.cost import Costs, CostTable
from supernets.drop_path import StochasticDepth, is_largest
from supernets.losses import (
    DISTILLATIONS,
    RATIO_CLAMP,
    adaptive_alpha_divergence,
    alpha_divergence,
    bias_weights,
    label_loss,
    soft_cross_entropy,
)
from supernets.mixing import mix
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.samplers import make_sampler
from supernets.samplers.plan import Plan, Stateless
from supernets.supernet import Supernet, make_supernet
from supernets.training import Watcher, train, trains_the_largest

NO_CLAMP = math.inf
CELLS = {
    "stem": {"width": 4},
    "cells": {
        "blocks": 2,
        "repeats": 1,
        "filters": 4,
        "reductions": 1,
        "operators": ["identity", "conv_1x1"],
        "combiners": ["add"],
    },
    "activation": "silu",
}


@cache
def space_of(preset: str = "tiny") -> SearchSpace | CellSpace:
    skeleton = CELLS if preset == "cells" else read_skeleton(preset)
    return unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (1, 8, 8), 10)


def pairs(count: int = 64, classes: int = 7, scale: float = 1.5) -> tuple[Tensor, Tensor]:
    """Logits of a student, which learns, and of a teacher, which would if one let it; float64."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, count, classes, generator=generator, dtype=torch.float64) * scale
    return student.requires_grad_(), teacher.requires_grad_()


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


# -- α-divergence ------------------------------------------------------------------------------


def by_definition(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """(N,), as in the paper, to be differentiated by torch."""
    p, q = teacher.detach().softmax(1), student.softmax(1)
    if alpha == 1:
        return (p * (p / q).log()).sum(1)
    if alpha == 0:
        return (q * (q / p).log()).sum(1)
    return (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", [-1, 0, 0.5, 1, 2])
def test_value_and_gradient_are_those_of_the_divergence(alpha):
    student, teacher = pairs()

    made, defined = (
        alpha_divergence(student, teacher, alpha, NO_CLAMP),
        by_definition(student, teacher, alpha),
    )

    torch.testing.assert_close(made, defined, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        gradient(made.sum(), student), gradient(defined.sum(), student), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("alpha", [-1, 0, 0.5, 1, 2])
def test_the_gradient_is_that_of_finite_differences(alpha):
    student, teacher = pairs(4, 5)
    numeric, step = torch.zeros_like(student), 1e-5
    with torch.no_grad():
        for place in np.ndindex(*student.shape):
            moved = torch.zeros_like(student)
            moved[place] = step
            up, down = (by_definition(student + side * moved, teacher, alpha).sum() for side in (1, -1))
            numeric[place] = (up - down) / (2 * step)

    made = gradient(alpha_divergence(student, teacher, alpha, NO_CLAMP).sum(), student)

    torch.testing.assert_close(made, numeric, rtol=0, atol=1e-8)


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_limits_at_0_and_1_are_what_their_neighbours_come_to(alpha):
    student, teacher = pairs()
    limit = alpha_divergence(student, teacher, alpha, NO_CLAMP)
    slope = gradient(limit.sum(), student)

    for side in (-1e-6, 1e-6):
        near = alpha_divergence(student, teacher, alpha + side, NO_CLAMP)
        torch.testing.assert_close(near, limit, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient(near.sum(), student), slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [-1, 0, 0.5, 1, 2])
def test_the_divergence_is_0_where_they_agree_and_nowhere_below(alpha):
    student, teacher = pairs()

    assert (alpha_divergence(student, teacher, alpha, NO_CLAMP) > 0).all()
    same = alpha_divergence(student, student + 3, alpha)  # logits say the same after a shift
    torch.testing.assert_close(same, torch.zeros_like(same), rtol=0, atol=1e-12)
    slope = gradient(same.sum(), student)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_the_clamp_bounds_what_one_class_can_pull_and_still_lets_it_pull():
    """A student that gives much to what the teacher excludes."""
    student = torch.tensor([[2.0, 0, 0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-9.0, 0, 0]], dtype=torch.float64)

    free = gradient(alpha_divergence(student, teacher, -1, NO_CLAMP).sum(), student)
    clamped = gradient(alpha_divergence(student, teacher, -1).sum(), student)

    assert free.abs().max() > 1000
    assert clamped.abs().max() <= RATIO_CLAMP
    assert clamped[0, 0] > 0.1  # still away from the class that it is too sure of


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_certainty_beyond_float32_gives_numbers(name):
    student = torch.tensor([[300.0, -300, 0], [-300, 0, 300]], requires_grad=True)
    teacher = torch.tensor([[-300.0, 300, 0], [-300, 0, 300]])

    loss = DISTILLATIONS[name](student, teacher)

    assert loss.isfinite() and gradient(loss, student).isfinite().all()


# -- a teacher ---------------------------------------------------------------------------------


def test_of_each_image_the_larger_divergence_counts():
    student, teacher = pairs()
    low, high = (alpha_divergence(student, teacher, alpha) for alpha in (-1, 1))
    higher = high > low
    assert 10 < higher.sum() < 54  # both kinds are there

    loss = adaptive_alpha_divergence(student, teacher)

    assert loss.item() == pytest.approx(torch.where(higher, high, low).mean().item())
    slopes = [gradient(one.mean(), student) for one in (high, low)]
    expected = torch.where(higher[:, None], *slopes)
    torch.testing.assert_close(gradient(loss, student), expected, rtol=0, atol=1e-12)


def test_kl_is_the_divergence_from_the_teacher_and_a_constant():
    student, teacher = pairs()
    divergence = F.kl_div(student.log_softmax(1), teacher.detach().softmax(1), reduction="batchmean")
    p = teacher.detach().softmax(1)
    entropy = -(p * p.log()).sum(1).mean()

    loss = soft_cross_entropy(student, teacher)

    assert loss.item() == pytest.approx((divergence + entropy).item())
    torch.testing.assert_close(gradient(loss, student), gradient(divergence, student), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_a_teacher_gets_no_gradient(name):
    student, teacher = pairs()

    DISTILLATIONS[name](student, teacher).backward()

    assert student.grad.any() and teacher.grad is None


# -- labels ------------------------------------------------------------------------------------


def batch_of(count: int = 32, classes: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, features."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(count, classes, generator=generator)
    features = torch.randn(count, 6, 4, 4, generator=generator)
    features *= torch.rand(count, 1, 1, 1, generator=generator) * 3
    return logits, torch.randint(classes, (count,), generator=generator), features


def test_cross_entropy_is_torchs_and_needs_no_features():
    logits, labels, features = batch_of()

    loss, shown = label_loss("cross_entropy", logits, labels, features * math.nan, 0.1)

    assert loss == shown == F.cross_entropy(logits, labels, label_smoothing=0.1)


def test_bias_loss_is_the_formula_of_the_paper():
    logits, labels, features = batch_of()
    variances = features.numpy().reshape(32, -1).var(axis=1, ddof=1)
    scaled = (variances - variances.min()) / (variances.max() - variances.min())
    weights = np.exp(0.3 * scaled) - 0.3
    entropies = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1).numpy()

    loss, shown = label_loss("bias", logits, labels, features, 0.1)

    assert loss.item() == pytest.approx((weights * entropies).mean(), rel=1e-5)
    assert shown.item() == pytest.approx(entropies.mean(), rel=1e-5)


def test_images_of_more_varied_features_count_for_more():
    _, _, features = batch_of()
    order = features.flatten(1).var(1).argsort()

    weights = bias_weights(features)[order]

    assert (weights.diff() >= 0).all()
    assert weights[0].item() == pytest.approx(0.7) and weights[-1].item() == pytest.approx(
        math.exp(0.3) - 0.3
    )
    assert torch.allclose(bias_weights(features), bias_weights(5 * features - 2))  # neither scale nor level


def test_images_that_are_all_alike_count_alike():
    weights = bias_weights(torch.randn(1, 3, 4, 4).expand(8, 3, 4, 4))

    torch.testing.assert_close(weights, torch.full((8,), 0.7))


def test_the_weights_of_bias_loss_are_no_way_to_lower_it():
    logits, labels, features = batch_of()

    loss, shown = label_loss("bias", logits.requires_grad_(), labels, features.requires_grad_(), 0.1)
    loss.backward()

    assert logits.grad.any() and features.grad is None and not shown.requires_grad


@pytest.mark.parametrize("name", ["cross_entropy", "bias"])
def test_who_knows_nothing_is_shown_at_chance_under_any_loss(name):
    """So that a training back at chance is told from one that learns."""
    _, labels, features = batch_of()
    images, shares = mix(features, labels, 10, 0.5, 0.0, Random(0))

    for given in (labels, shares):
        _, shown = label_loss(name, torch.zeros(32, 10), given, images, 0.1)
        assert shown.item() == pytest.approx(math.log(10), rel=1e-5)


@pytest.mark.parametrize("preset", ["digits", "cells"])
def test_features_are_what_the_classifier_pools(preset):
    space, random = space_of(preset), Random(0)
    supernet, images = make_supernet(space).train(), torch.randn(8, 1, 8, 8)

    for _ in range(10):
        architecture = space.sample(random)
        features = supernet.features(images, architecture)
        *_, linear = supernet.export(architecture).classifier
        assert torch.equal(supernet.classify(features, architecture), supernet(images, architecture))
        pooled = linear(features.mean((2, 3)))
        torch.testing.assert_close(pooled, supernet(images, architecture), rtol=1e-5, atol=1e-5)


# -- dropping paths ----------------------------------------------------------------------------


def test_paths_are_dropped_more_often_the_deeper_they_are():
    x = torch.ones(4000, 2, 3, 3)

    for depth, chance in ((1.0, 0.4), (0.5, 0.2), (0.1, 0.04)):
        made = StochasticDepth(0.4, 7, x.device)(x, depth)
        values, counts = made[:, 0, 0, 0].unique(return_counts=True)
        torch.testing.assert_close(values, torch.tensor([0.0, 1 / (1 - chance)]))
        assert abs(counts[0] / 4000 - chance) < 4 * math.sqrt(chance * (1 - chance) / 4000)
        assert (made.flatten(1).std(dim=1) == 0).all()  # a whole image or nothing of it


def test_only_residual_blocks_are_dropped_each_by_its_depth():
    supernet, images = Supernet(space_of("digits")).train(), torch.randn(8, 1, 8, 8)
    _, most = space_of("digits").ends
    depths = []

    def look(x: Tensor, depth: float) -> Tensor:
        depths.append(depth)
        return x

    made = supernet.features(images, most, look)

    assert torch.equal(made, supernet.features(images, most))
    assert depths == [n / 7 for n in (2, 4, 5, 7)]  # the first of each stage is strided or widens


def test_a_block_that_is_dropped_passes_on_what_it_got():
    supernet, images = Supernet(space_of("digits")).train(), torch.randn(8, 1, 8, 8)
    _, most = space_of("digits").ends

    without = supernet.features(images, most, lambda x, depth: 0 * x)

    x = supernet.stem(images)
    for (position, choice, width), operator in zip(
        supernet.rows(most), supernet.operators(most), strict=True
    ):
        block = supernet.blocks[position]
        if not block.residual(x.shape[1], width):
            x = block(x, choice, width, operator)
    torch.testing.assert_close(without, x)


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_the_largest_is_told_from_the_others(preset):
    space, random = space_of(preset), Random(0)
    costs = CostTable(space)

    assert is_largest(space, costs.largest) and is_largest(space, space.ends[1])
    assert not is_largest(space, costs.smallest)
    for _ in range(50):
        one = space.sample(random)
        stages = zip(space.stages, one.stages, strict=True)
        full = all((s.widths[-1], s.depths[-1]) == (c.width, len(c.blocks)) for s, c in stages)
        widest = all(block.expansion == max(space.stages[0].blocks[0].expansions) for block in blocks_of(one))
        assert is_largest(space, one) == (full and widest)


def blocks_of(architecture: Architecture) -> list:
    return [block for stage in architecture.stages for block in stage.blocks]


# -- in a training -----------------------------------------------------------------------------


class Source:
    """Batches of digits, or always the same one."""

    def __init__(self, one: bool = False):
        splits = load(Data("digits"))
        self.batches = Batches(splits.train, splits.mean, splits.std, 16, seed=0)
        self.one = one

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        return self.batches(0 if self.one else step, rank, ranks)

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return 10


@dataclass
class Planned(Stateless):
    """A sampler that trains the largest and two others in every step; what it saw when it looked."""

    space: SearchSpace | CellSpace
    distil: bool = True
    largest: bool = True
    looks: list[float] = field(default_factory=list)

    def plan(self, step: int, random: Random, look) -> Plan:
        least, most = self.space.ends
        self.looks.append(look(most))
        others = (least, self.space.mutate(least, random))
        return Plan((most, *others) if self.largest else others, self.distil)


class Spied(Supernet):
    """A supernet that remembers which architectures had paths dropped, step by step."""

    def __init__(self, space: SearchSpace):
        super().__init__(space)
        self.dropped: list[tuple[Architecture, bool]] = []

    def features(self, images: Tensor, architecture: Architecture, drop=None) -> Tensor:
        if torch.is_grad_enabled():
            self.dropped.append((architecture, drop is not None))
        return super().features(images, architecture, drop)


def trained(
    path: Path, preset: str = "tiny", stop_at: int = 0, supernet=None, sampler=None, one=False, **changes
) -> dict[str, Tensor]:
    """The weights after six steps, interrupted once if asked; they go on in a new supernet."""
    space = space_of(preset)
    settings = Training(**{"epochs": 0.6, "batch_size": 16, "device": "cpu", "learning_rate": 0.1, **changes})
    for stop in (stop_at, 0) if stop_at else (0,):
        network, seen = supernet or make_supernet(space), []
        watcher = Watcher(stop=lambda seen=seen, stop=stop: seen.append(0) or len(seen) == stop)
        train(network, Source(one), Source(), sampler or Planned(space), settings, path, watcher)
    return network.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("tiny", {"loss": "bias"}),
        ("tiny", {"mixup": 0.2}),
        ("tiny", {"cutmix": 1.0}),
        ("tiny", {"drop_path": 0.5}),
        ("tiny", {"distillation": "alpha"}),
        (
            "tiny",
            {
                "loss": "bias",
                "mixup": 0.5,
                "cutmix": 0.5,
                "drop_path": 0.3,
                "distillation": "alpha",
                "precision": "bfloat16",
                "accumulate": 2,
                "epochs": 1.2,
            },
        ),
        ("cells", {"loss": "bias", "cutmix": 1.0, "distillation": "alpha"}),
    ],
    ids=str,
)
def test_a_training_with_it_is_another_one_and_goes_on_bit_for_bit(tmp_path, preset, changes):
    whole = trained(tmp_path / "whole", preset, **changes)
    resumed = trained(tmp_path / "resumed", preset, stop_at=3, **changes)
    plain = trained(tmp_path / "plain", preset)

    assert all(one.isfinite().all() for one in whole.values())
    assert same(whole, resumed) and (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()
    assert not same(whole, plain)


@pytest.mark.parametrize("changes", [{"mixup": 0.2}, {"cutmix": 1.0}, {"drop_path": 0.5}], ids=str)
def test_the_seed_decides_what_is_mixed_and_dropped_and_nothing_else_does(tmp_path, changes):
    first = trained(tmp_path / "first", **changes)
    torch.manual_seed(99)

    assert same(first, trained(tmp_path / "again", **changes))


def test_paths_are_dropped_in_the_teacher_of_a_step_and_in_no_student(tmp_path):
    supernet = Spied(space_of())

    trained(tmp_path / "x", supernet=supernet, drop_path=0.5)

    most = space_of().ends[1]
    assert supernet.dropped == [(one, one == most) for one, _ in supernet.dropped]
    assert [drops for _, drops in supernet.dropped] == [True, False, False] * 6


@pytest.mark.parametrize(
    ("changes", "alike"),
    [({"distillation": "alpha"}, True), ({"loss": "bias"}, True), ({"mixup": 1.0}, False), ({"drop_path": 0.5}, False)],
    ids=str,
)  # fmt: skip
def test_parts_of_a_step_count_alike_and_are_mixed_and_dropped_each_in_its_way(tmp_path, changes, alike):
    """The same batch as both parts of a step is that batch once, unless the parts are changed."""
    changes = {**changes, "one": True, "momentum": 0.0}

    once = trained(tmp_path / "once", **changes, epochs=0.2)
    twice = trained(tmp_path / "twice", **changes, epochs=0.4, accumulate=2)

    near = all(torch.allclose(once[name], twice[name], rtol=0, atol=1e-5) for name in once)
    assert near == alike


@pytest.mark.parametrize("largest", [True, False])
def test_where_nobody_teaches_paths_are_dropped_in_the_largest(tmp_path, largest):
    supernet, sampler = Spied(space_of()), Planned(space_of(), distil=False, largest=largest)

    dropped = trained(tmp_path / "x", supernet=supernet, sampler=sampler, drop_path=0.5)
    plain = trained(tmp_path / "plain", sampler=sampler)

    assert [drops for _, drops in supernet.dropped] == ([True, False, False] if largest else [False] * 2) * 6
    assert same(dropped, plain) != largest


@pytest.mark.parametrize(
    ("sampler", "preset", "warns"),
    [("uniform", "digits", True), ("shift", "digits", True), ("sandwich", "digits", False), ("uniform", "one", False),
     ({"name": "progressive", "of": {"name": "sandwich", "distil": False}}, "digits", False)],
    ids=str,
)  # fmt: skip
def test_a_sampler_that_hardly_ever_trains_the_largest_is_told_that_no_path_is_dropped(
    sampler, preset, warns
):
    """Of a space of one architecture, that is the largest."""
    one = {"stages": [{"width": 8}], "operators": ["identity", "max_pool"]}
    space = unroll(read_skeleton(one if preset == "one" else preset), OPERATORS, ATTENTIONS, (1, 8, 8), 10)

    assert trains_the_largest(make_sampler(sampler, space, Costs(CostTable(space)), 10), space) != warns


def test_who_looks_between_steps_sees_all_of_the_network(tmp_path):
    """The batch of a step as it is, unmixed, through every block."""
    sampler = Planned(space_of())

    trained(tmp_path / "x", sampler=sampler, drop_path=0.9, mixup=1.0, loss="bias", epochs=0.1)

    supernet, (images, labels) = make_supernet(space_of()).train(), Source()(0)
    assert sampler.looks == [F.cross_entropy(supernet(images, space_of().ends[1]), labels).item()]


def test_without_a_teacher_every_architecture_learns_from_the_labels_and_gradients_add(tmp_path):
    settings = {"epochs": 0.1, "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip": 1e9}
    sampler, before = Planned(space_of(), distil=False), make_supernet(space_of())
    images, labels = Source()(0)
    plan = sampler.plan(0, Random("0/0/0/plan"), lambda one: 0.0)

    after = trained(tmp_path / "x", sampler=sampler, warmup=0.0, **settings)

    for one in plan.architectures:
        F.cross_entropy(before.train()(images, one), labels, label_smoothing=0.1).backward()
    for name, weight in before.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight - after[name], weight.grad, rtol=0, atol=1e-5)


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "focal"),
        ("mixup", -0.1),
        ("mixup", math.nan),
        ("cutmix", 101),
        ("drop_path", 1),
        ("drop_path", -0.1),
        ("distillation", "kll"),
    ],
)
def test_a_setting_that_cannot_be_is_named_in_one_line(name, value):
    with pytest.raises(ValueError, match=rf"\Atraining\.{name} is {value!r}; it must be [^\n]+\Z"):
        replace(Training(), **{name: value})


def test_cells_are_told_where_their_drop_path_is_set():
    file = {"data": "digits", "space": "nasnet", "training": {"drop_path": 0.2}}

    with pytest.raises(ValueError, match=r"\Atraining\.drop_path is 0\.2, .*set space\.cells\.drop_path\Z"):
        experiment(file)
    assert experiment({**file, "space": "tiny"}).training.drop_path == 0.2


# -- without waiting ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_nothing_of_it_asks_for_a_number_so_no_gpu_is_waited_for(method):
    """On a device without numbers, asking for one is an error."""
    space, device = space_of(), torch.device("meta")
    supernet, (images, labels) = make_supernet(space).to(device).train(), Source()(0)
    images, labels, (least, most) = images.to(device), labels.to(device), space.ends
    rates = {"mixup": 0.0, "cutmix": 0.0, method: 1.0}

    mixed, shares = mix(images, labels, 10, **rates, random=Random(0))
    features = supernet.features(mixed, most, StochasticDepth(0.5, 3, torch.device("cpu")))
    logits = supernet.classify(features, most)
    label_loss("bias", logits, shares, features, 0.1)[0].backward()
    for distil in DISTILLATIONS.values():
        distil(supernet(mixed, least), logits).backward()

    with pytest.raises(RuntimeError, match="meta"):
        logits.sum().item()
