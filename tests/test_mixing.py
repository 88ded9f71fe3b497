"""A mixed batch says of each image what it is made of, and is a function of the generator that it is given."""

from __future__ import annotations

import random as global_random
from random import Random

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from supernets.mixing import cut_and_paste, mix

CLASSES = 10
METHODS = {
    "mixup": {"mixup": 1.0, "cutmix": 0.0},
    "cutmix": {"mixup": 0.0, "cutmix": 1.0},
    "both": {"mixup": 0.4, "cutmix": 1.0},
}
each_method = pytest.mark.parametrize("method", METHODS)
each_shape = pytest.mark.parametrize("shape", [(12, 9), (40,)], ids=["images", "signals"])


def telling(shape: tuple[int, ...], count: int = 16) -> tuple[Tensor, Tensor]:
    """Images whose channel c is 1 everywhere if c is their class and 0 if not; so their means are their labels."""
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.one_hot(labels, CLASSES).float()
    return images.view(count, CLASSES, *[1] * len(shape)).repeat(1, 1, *shape), labels


def distinct(shape: tuple[int, ...], count: int = 16) -> tuple[Tensor, Tensor]:
    """Image n is n everywhere, in one channel, and of class n modulo 10."""
    numbers = torch.arange(count)
    images = numbers.float().view(count, 1, *[1] * len(shape)).repeat(1, 1, *shape)
    return images, numbers % CLASSES


@each_method
@each_shape
def test_labels_are_what_images_are_made_of(method, shape):
    images, labels = telling(shape)

    for seed in range(50):
        mixed, shares = mix(images, labels, CLASSES, **METHODS[method], random=Random(seed))

        assert mixed.shape == images.shape and shares.shape == (16, CLASSES)
        torch.testing.assert_close(shares, mixed.flatten(2).mean(2), rtol=0, atol=1e-5)
        torch.testing.assert_close(shares.sum(1), torch.ones(16))
        assert (shares >= 0).all()


@each_shape
def test_mixup_is_the_same_blend_in_every_pixel_and_image(shape):
    images, labels = distinct(shape)

    mixed, shares = mix(images, labels, CLASSES, 1.0, 0.0, Random(3))

    blends = mixed.flatten(1)
    torch.testing.assert_close(blends, blends[:, :1].expand_as(blends), rtol=0, atol=1e-5)
    share = shares[0, 0].item()
    partners = (blends[:, 0] - share * torch.arange(16)) / (1 - share)
    assert sorted(partners.round().tolist()) == list(range(16))  # everyone is somebody's partner, once
    torch.testing.assert_close(partners, partners.round(), rtol=0, atol=1e-3)


@each_shape
def test_cutmix_pastes_one_box_of_another_image(shape):
    images, labels = distinct(shape)
    areas = []

    for seed in range(100):
        mixed, _ = mix(images, labels, CLASSES, 0.0, 1.0, Random(seed))
        pasted = (mixed != images)[:, 0]
        areas.append(pasted[0].float().mean().item())
        assert (pasted == pasted[0]).all()  # the same place in all
        if areas[-1]:
            box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in pasted[0].nonzero(as_tuple=True))
            assert pasted[0][box].all()
            assert len({float(one) for one in mixed[(0, 0, *box)].flatten()}) == 1

    assert 0.1 < np.mean(areas) < 0.5 and max(areas) > 0.6


@each_shape
def test_a_box_has_the_area_that_was_drawn_and_less_only_at_the_edge(shape):
    images, _ = distinct(shape)
    sides = [round(side * 0.25 ** (1 / len(shape))) for side in shape]
    areas = []

    for seed in range(200):
        mixed, left = cut_and_paste(images, images.roll(1, 0), 0.75, Random(seed))
        areas.append((mixed != images)[0].sum().item())
        assert left == pytest.approx(1 - areas[-1] / np.prod(shape))

    assert max(areas) == np.prod(sides) and np.prod(sides) == pytest.approx(0.25 * np.prod(shape), rel=0.2)
    assert min(areas) < max(areas)


@each_method
def test_nobody_is_mixed_with_himself(method):
    images, labels = distinct((8, 8))

    for seed in range(100):
        mixed, shares = mix(images, labels, 16, **METHODS[method], random=Random(seed))
        made = (shares.max(1).values < 0.999).nonzero()[:, 0]
        assert (mixed != images)[made].flatten(1).any(1).all()


def test_the_shares_of_mixup_are_those_of_a_beta_distribution():
    images, labels = distinct((1, 1), 2)
    drawn = [mix(images, labels, 2, 0.3, 0.0, Random(seed))[1][0, 0].item() for seed in range(2000)]

    assert kstest(drawn, "beta", (0.3, 0.3)).pvalue > 0.001
    assert kstest(drawn, "beta", (1, 1)).pvalue < 1e-6


def test_of_two_methods_each_has_half_of_the_steps():
    images, labels = distinct((8, 8))
    whole = 0
    for seed in range(400):
        mixed, _ = mix(images, labels, CLASSES, 1.0, 1.0, Random(seed))
        whole += bool((mixed == mixed.round()).all())  # pasted, not blended

    assert 150 < whole < 250


def test_without_a_method_images_and_labels_are_what_they_were():
    images, labels = distinct((8, 8))
    random = Random(0)

    mixed, same = mix(images, labels, CLASSES, 0.0, 0.0, random)

    assert mixed is images and same is labels
    assert random.getstate() == Random(0).getstate()


@each_method
def test_the_generator_decides_and_nothing_else_does_and_the_batch_is_left_alone(method):
    images, labels = distinct((8, 8))
    before, states = images.clone(), (torch.get_rng_state(), global_random.getstate())

    first = mix(images, labels, CLASSES, **METHODS[method], random=Random(5))
    torch.manual_seed(99)
    again = mix(images, labels, CLASSES, **METHODS[method], random=Random(5))
    other = mix(images, labels, CLASSES, **METHODS[method], random=Random(6))
    torch.set_rng_state(states[0])

    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(images, before) and global_random.getstate() == states[1]


@each_method
def test_the_layout_of_images_is_kept(method):
    images, labels = telling((8, 8))
    images = images.contiguous(memory_format=torch.channels_last)

    mixed, _ = mix(images, labels, CLASSES, **METHODS[method], random=Random(0))

    assert mixed.is_contiguous(memory_format=torch.channels_last)


@each_method
def test_an_image_alone_stays_what_it_is(method):
    images, labels = telling((8, 8), 1)

    for seed in range(20):
        mixed, shares = mix(images, labels, CLASSES, **METHODS[method], random=Random(seed))
        torch.testing.assert_close(mixed, images)
        torch.testing.assert_close(shares[0, labels[0]].item(), 1.0)
