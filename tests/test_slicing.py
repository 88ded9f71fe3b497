"""Slices that a training keeps give the gradients of those that autograd takes, bit for bit, and only while they are
asked to.
"""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from search_spaces import Architecture, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS
from supernets.slicing import Slices, first, leading
from supernets.supernet import make_supernet

Gradients = list[torch.Tensor | None]


@pytest.fixture(params=["tiny", "digits", "nasbench201"])
def supernet(request) -> nn.Module:
    return make_supernet(unroll(read_skeleton(request.param), OPERATORS, ATTENTIONS, (1, 8, 8), 10))


def gradients(supernet: nn.Module, steps: list[list[Architecture]], slices: Slices | None) -> list[Gradients]:
    """Of every weight after each step through several architectures; the weights move in between."""
    images, labels = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    seen = []
    for step in steps:
        supernet.zero_grad()
        for architecture in step:
            if slices is None:
                nn.functional.cross_entropy(supernet(images, architecture), labels).backward()
            else:
                with slices.gathered():
                    nn.functional.cross_entropy(supernet(images, architecture), labels).backward()
        seen.append([None if one.grad is None else one.grad.clone() for one in supernet.parameters()])
        torch.optim.SGD(supernet.parameters(), lr=0.1).step()
    return seen


def test_gradients_by_kept_slices_are_those_of_autograd_bit_for_bit(supernet):
    space, random = supernet.space, Random(0)
    steps = [[space.sample(random) for _ in range(number)] for number in (3, 1, 4, 2)]
    start = {name: one.clone() for name, one in supernet.state_dict().items()}

    autograd = gradients(supernet, steps, None)
    supernet.load_state_dict(start)
    kept = gradients(supernet, steps, Slices())

    for ours, theirs in zip(kept, autograd, strict=True):
        assert [one is None for one in ours] == [one is None for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one is None or torch.equal(one, other)


def test_a_weight_that_is_taken_whole_and_in_slices_adds_up_all_of_them():
    weight, slices = nn.Parameter(torch.ones(4, 3)), Slices()

    for out, into, factor in ((4, 3, 1), (2, 1, 10), (4, 3, 100), (2, 3, 1000), (2, 1, 10000)):
        with slices.gathered():
            (factor * leading(weight, out, into)).sum().backward()

    expected = torch.full((4, 3), 101.0)
    expected[:2] += 1000
    expected[:2, :1] += 10010
    assert torch.equal(weight.grad, expected)


def test_two_slices_of_a_weight_in_one_pass_add_up():
    values, slices = nn.Parameter(torch.ones(4)), Slices()

    with slices.gathered():
        (first(values, 2).sum() + 10 * first(values, 3).sum() + 100 * first(values, 3).sum()).backward()

    assert values.grad.tolist() == [111, 111, 110, 0]


def test_a_slice_that_the_loss_does_not_use_leaves_its_weight_without_gradient():
    used, unused, slices = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4)), Slices()

    with slices.gathered():
        first(unused, 2)
        first(used, 2).sum().backward()

    assert unused.grad is None and used.grad.tolist() == [1, 1, 0, 0]


def test_frozen_weights_get_no_gradient():
    frozen, slices = nn.Parameter(torch.ones(4), requires_grad=False), Slices()

    with slices.gathered():
        first(frozen, 2)
        assert not first(frozen, 2).requires_grad

    assert frozen.grad is None


def test_outside_and_after_an_error_slices_are_those_of_autograd():
    values, slices = nn.Parameter(torch.ones(4)), Slices()

    with pytest.raises(ZeroDivisionError), slices.gathered():
        assert first(values, 2).is_leaf
        1 / 0  # noqa: B018

    assert not first(values, 2).is_leaf
    first(values, 2).sum().backward()
    assert values.grad.tolist() == [1, 1, 0, 0]


def test_a_pass_that_fails_leaves_the_next_nothing_to_add():
    values, slices = nn.Parameter(torch.ones(4)), Slices()

    with pytest.raises(ZeroDivisionError), slices.gathered():
        first(values, 2).sum().backward()
        1 / 0  # noqa: B018
    values.grad = None
    with slices.gathered():
        first(values, 3).sum().backward()

    assert values.grad.tolist() == [1, 1, 1, 0]
