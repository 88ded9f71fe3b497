"""Depthwise convolutions whose gradients are computed our way compute what the library computes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.depthwise_gradient import SMALL
from supernets.slicing import same_padding
from supernets.spatial import conv

CASES = list(itertools.product((3, 5, 7, 9), (1, 2, 3), (1, 2), ((8, 8), (7, 13), (28, 28))))


def gradients(convolve, x: Tensor, weight: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What a convolution gives, and its gradients for an output gradient drawn from the seed."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = convolve(x, weight)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(seed)).to(y.dtype))
    return y.detach(), x.grad, weight.grad


def drawn(count: int, channels: int, size: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, channels, *shape, generator=generator)
    weight = torch.randn(channels, 1, size, size, generator=generator)
    return x.contiguous(memory_format=torch.channels_last), weight


@pytest.mark.parametrize(("size", "dilation", "stride", "shape"), CASES)
def test_output_and_gradients_are_those_of_the_library(size, dilation, stride, shape):
    x, weight = drawn(24, 24, size, shape)
    assert x.numel() > SMALL
    padding = same_padding(size, dilation)

    ours = gradients(lambda x, w: conv(x, w, stride, padding, dilation, groups=24), x, weight)
    exact = gradients(
        lambda x, w: F.conv2d(x, w, None, stride, padding, dilation, 24), x.double(), weight.double()
    )

    for one, other in zip(ours, exact, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_gradients_that_nobody_wants_are_not_computed():
    x, weight = drawn(24, 24, 5, (8, 8))

    conv(x, weight.requires_grad_(), 1, 4, 2, groups=24).sum().backward()
    assert weight.grad is not None and x.grad is None

    weight = weight.detach()
    conv(x.requires_grad_(), weight, 1, 4, 2, groups=24).sum().backward()
    assert x.grad is not None and weight.grad is None


def test_the_same_call_gives_the_same_bits():
    x, weight = drawn(24, 24, 7, (8, 8))

    first, again = (gradients(lambda x, w: conv(x, w, 1, 6, 2, groups=24), x, weight) for _ in range(2))

    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
