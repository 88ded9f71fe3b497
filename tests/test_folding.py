"""A folded network computes what the network computes, with nothing left of the norms after convolutions."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
import torch
from torch import Tensor, nn

from search_spaces import SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.folding import CACHED, MaxPool, ScaleAndShift, folded
from supernets.merging import deployed
from supernets.operators import OPERATORS
from supernets.spatial import BATCH_NORMS, channels_last
from supernets.supernet import make_supernet

PRESETS = ["digits", "mobile", "resnet", "convnext", "large_kernel", "signal", "nasnet", "nasbench201"]


def space_of(preset: str) -> SearchSpace:
    shape = (2, 64) if preset == "signal" else (1, 16, 16)
    return unroll(read_skeleton(preset), OPERATORS, ATTENTIONS, shape, 10)


def drawn(preset: str, seed: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A network with statistics, as it is deployed, and images."""
    space = space_of(preset)
    architecture = space.sample(Random(seed))
    shape = space.input_shape(architecture.resolution)
    images = torch.randn(64, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    network = make_supernet(space).export(architecture).to(dtype)
    return channels_last(deployed(recalibrate(network, images))), images


def norms_after_convolutions(network: nn.Module) -> int:
    rows = [one for one in network.modules() if isinstance(one, nn.Sequential)]
    pairs = [pair for row in rows for pair in pairwise(row)]
    return sum(isinstance(a, nn.Conv1d | nn.Conv2d) and isinstance(b, BATCH_NORMS) for a, b in pairs)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("preset", PRESETS)
def test_it_computes_the_same_in_double_precision(preset, seed):
    network, images = drawn(preset, seed, torch.float64)
    before = images.clone()

    expected, found = network(images), folded(network)(images)

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert torch.equal(images, before)


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_no_norm_is_left_after_a_convolution_and_the_network_is_not_changed(preset):
    network, images = drawn(preset, seed=0)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    expected = network(images)

    small = folded(network)

    assert norms_after_convolutions(network) > 0 == norms_after_convolutions(small)
    torch.testing.assert_close(small(images), expected, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    assert torch.equal(network(images), expected)


@torch.no_grad()
def test_only_what_is_made_for_an_activation_alone_is_overwritten():
    images = torch.randn(4, 3, 8, 8)
    row = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Hardswish()).eval()
    before = images.clone()

    made = folded(row)

    assert not made[1].inplace and made[3].inplace and not row[3].inplace
    torch.testing.assert_close(made(images), row(images))
    assert torch.equal(images, before)


@torch.no_grad()
def test_a_convolution_that_pads_with_other_than_zeros_stays_as_it_is():
    row = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(2))
    images = torch.randn(8, 1, 8, 8)
    recalibrate(row, images)

    assert folded(row)[0] is row[0] and type(folded(row)[1]) is ScaleAndShift
    torch.testing.assert_close(folded(row)(images), row(images))


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("side", [1, 2, 7, 12])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_a_max_pooling_gives_what_torch_gives_bit_for_bit(kernel_size, side, layout):
    images = torch.randn(100, 16, side, side).contiguous(memory_format=layout)
    images[0, 0, 0, 0], images[1] = float("nan"), -float("inf")
    before = images.clone()
    plain = nn.Sequential(nn.MaxPool2d(kernel_size, 1, kernel_size // 2))

    [own] = folded(plain)

    assert type(own) is MaxPool and (side < 12 or images.numel() > CACHED)
    assert torch.equal(own(images).nan_to_num(7), plain(images).nan_to_num(7))
    assert torch.equal(images.nan_to_num(7), before.nan_to_num(7))


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1), nn.MaxPool2d(3, 1, 1, dilation=2), nn.MaxPool1d(3, 1, 1)],
)
def test_any_other_max_pooling_stays_as_it_is(pool):
    assert folded(nn.Sequential(pool))[0] is pool


@torch.no_grad()
def test_a_norm_works_in_place_only_on_what_was_made_for_it():
    kept = nn.Sequential(nn.Identity(), nn.BatchNorm2d(3), nn.ReLU()).eval()
    own = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    images = torch.randn(4, 3, 8, 8)
    before = images.clone()

    for row, kind in ((kept, nn.BatchNorm2d), (own, ScaleAndShift)):
        recalibrate(row, images)
        nn.init.normal_(row[1].weight)
        assert type(folded(row)[1]) is kind
        torch.testing.assert_close(folded(row)(images), row(images))
        assert torch.equal(images, before)


def test_images_of_one_channel_are_computed_in_the_fast_layout():
    network, images = drawn("mobile", seed=0)
    layouts = []
    for one in network.modules():
        if isinstance(one, nn.Conv2d):
            one.register_forward_hook(
                lambda layer, inputs, output: layouts.append(
                    output.shape[2:] == (1, 1) or output.stride()[1] == 1
                )
            )

    with torch.no_grad():
        network(images)

    assert len(layouts) > 5 and all(layouts)
