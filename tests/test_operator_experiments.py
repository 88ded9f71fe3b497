"""The experimental operators keep what their papers promise: the formulas, the limits in which they are plain
layers, and what is learned in ways of their own.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.cost import macs
from supernets.merging import embedded, merged
from supernets.operators import OPERATORS, make_operator
from supernets.operators.dilated_learned import shared
from supernets.operators.large_small import gathered


def made(name: str, channels: int, stride: int = 1, dims: int = 2, seed: int = 0, **settings):
    torch.manual_seed(seed)
    return make_operator(name, channels, stride, OPERATORS[name].settings | settings, dims=dims).eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- recursive ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_recursive_convolution_costs_what_the_series_says(levels, dims):
    exported = made("recursive", 4, dims=dims).export(4, kernel_size=5, levels=levels)

    one = 4 * 32**dims * 5**dims
    ratio = 1 + 2 * sum(2.0 ** (-dims * level) for level in range(1, levels + 1))

    assert macs(exported, (4, *[32] * dims)) == one * ratio


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 7), (28, 28), (3, 2)])
def test_a_recursive_convolution_works_at_any_size(size):
    operator, x = made("recursive", 3), images(2, 3, *size)
    smaller = F.conv2d(x, operator.weight[:, :1], None, 2, 2, groups=3)
    mixed = F.conv2d(smaller, operator.weight[:, 2:3], None, 1, 2, groups=3)
    back = F.interpolate(mixed, size, mode="bilinear")

    expected = F.conv2d(x + back, operator.weight[:, 1:2], None, 1, 2, groups=3)

    torch.testing.assert_close(operator(x, kernel_size=5, levels=1), expected)
    assert operator(x, kernel_size=5, levels=3).shape == x.shape


def test_each_level_doubles_what_a_recursive_convolution_sees():
    operator, x = made("recursive", 1), torch.zeros(1, 1, 129, 129)
    with torch.no_grad():
        operator.weight.fill_(1)
    x[..., 64, 64] = 1

    seen = [int(operator(x, 5, levels)[0, 0, 64].count_nonzero()) for levels in (1, 2, 3)]

    assert seen[0] >= 5 * 2 and all(2 <= more / less < 3 for less, more in pairwise(seen))


# -- dilated_learned ---------------------------------------------------------------------------


def test_positions_have_the_gradient_of_finite_differences():
    operator = made("dilated_learned", 3).double()
    with torch.no_grad():
        operator.positions.mul_(3).clamp_(-3.9, 3.9)
    x = images(2, 3, 10, 11).double()
    weight, positions = operator.weight.detach(), operator.positions.detach()

    def output(weight: Tensor, positions: Tensor) -> Tensor:
        replaced = {"weight": weight, "positions": positions}
        return torch.func.functional_call(operator, replaced, (x,), {"extent": 9, "count": 9})

    inputs = (weight.requires_grad_(), positions.requires_grad_())
    assert torch.autograd.gradcheck(output, inputs, eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_on_the_grid_learned_positions_are_a_dilated_convolution(dilation, stride):
    operator, x = made("dilated_learned", 3, stride), images(2, 3, 13, 8)
    steps = dilation * torch.arange(-1.0, 2)
    with torch.no_grad():
        operator.positions.copy_(torch.cartesian_prod(steps, steps).expand(3, 9, 2))

    expected = F.conv2d(x, operator.weight.view(3, 1, 3, 3), None, stride, dilation, dilation, groups=3)

    torch.testing.assert_close(operator(x, extent=9, count=9), expected)


def test_a_tap_is_shared_wholly_and_stands_still_nowhere():
    positions = torch.tensor([-4, -3.3, -1, 0, 0.25, 3, 3.9, 4]).requires_grad_()

    shares = shared(positions, 9)
    (shares * torch.arange(-4.0, 5) ** 3).sum().backward()

    torch.testing.assert_close(shares.sum(-1), torch.ones(8))
    torch.testing.assert_close((shares * torch.arange(-4.0, 5)).sum(-1), positions)
    assert positions.grad.abs().min() >= 1


def test_a_position_beyond_a_small_extent_stands_at_its_edge():
    operator = made("dilated_learned", 2, count=(1,))
    with torch.no_grad():
        operator.positions.copy_(torch.tensor([[[7.3, -1.0]], [[-20.0, 0.5]]]))
        operator.constrain()

    small, large = operator.kernel(2, 9, 1), operator.kernel(2, 17, 1)

    assert operator.positions[1, 0].tolist() == [-8, 0.5]
    assert small[0, 0].nonzero().tolist() == [[8, 3]]
    assert large[0, 0].nonzero().tolist() == [[15, 7], [16, 7]]
    assert small[1, 0].nonzero().tolist() == [[0, 4], [0, 5]]


@pytest.mark.parametrize("offset", [(5, -3), (-2.4, 1.7)])
def test_a_position_finds_where_the_pixel_to_predict_is(offset):
    operator = made("dilated_learned", 1, extent=(17,), count=(1,))
    target = made("dilated_learned", 1, extent=(17,), count=(1,))
    with torch.no_grad():
        operator.positions.zero_()
        target.weight.fill_(1)
        target.positions.copy_(torch.tensor(offset))
    optimizer = torch.optim.SGD(
        [{"params": [operator.weight]}, {"params": [operator.positions], "lr": 5 * 0.2}], 0.2
    )

    batches = [smooth(images(8, 1, 24, 24, seed=seed)) for seed in range(10)]
    for step in range(120):
        x = batches[step % 10]
        error = operator(x, extent=17, count=1) - target(x, extent=17, count=1)
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            operator.constrain()

    assert (operator.positions - target.positions).abs().max() < 0.3


def smooth(x: Tensor) -> Tensor:
    """Noise without detail, so that a pixel says something of those some pixels away; of variance 1."""
    reach = torch.arange(-10.0, 11)
    bell = torch.exp(-((reach / 4) ** 2) / 2)
    x = F.conv2d(
        F.conv2d(x, bell.view(1, 1, 21, 1), padding=(10, 0)), bell.view(1, 1, 1, 21), padding=(0, 10)
    )
    return x / x.std()


# -- shiftwise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [15, 21])
@pytest.mark.parametrize("size", [(24, 31), (5, 2)])
def test_bands_compute_what_shifted_maps_sum_to(kernel_size, stride, size):
    operator, x = made("shiftwise", 3, stride).double(), images(2, 3, *size).double()
    row, column, _ = operator.kernels(3, kernel_size)

    by_row, by_column = shifted(x, operator, kernel_size, stride)

    half = kernel_size // 2
    torch.testing.assert_close(F.conv2d(x, row, None, stride, (1, half), groups=3), by_row)
    torch.testing.assert_close(F.conv2d(x, column, None, stride, (half, 1), groups=3), by_column)


def shifted(x: Tensor, operator, kernel_size: int, stride: int) -> tuple[Tensor, Tensor]:
    """The paper's way: maps of 3×3 kernels, each shifted by 3 pixels from the one before, summed."""
    count, (height, width) = kernel_size // 3, x.shape[2:]
    start = (operator.weight.shape[1] - count) // 2
    reach = 3 * (count // 2)
    by_row, by_column = 0, 0
    for number in range(count):
        weight = operator.weight[:, start + number].unsqueeze(1)
        # as far beyond the border as a map is not zero, then with zeros
        y = F.pad(F.conv2d(x, weight, padding=2, groups=3), [max(0, reach - 1)] * 4)
        at = 3 * number
        by_row += y[:, :, reach : reach + height : stride, at : at + width : stride]
        by_column += y[:, :, at : at + height : stride, reach : reach + width : stride]
    return by_row, by_column


def test_a_shiftwise_convolution_is_one_with_a_cross_in_its_kernel():
    operator, x = made("shiftwise", 3).double(), images(2, 3, 24, 31).double()
    plain = merged(operator.export(3, kernel_size=15).eval())

    whole = embedded(plain)

    cross = whole.weight[:, 0] != 0
    assert cross.sum((1, 2)).tolist() == [2 * 3 * 15 - 9] * 3
    assert cross[:, 6:9].all() and cross[:, :, 6:9].all()
    expected = F.conv2d(x, whole.weight, whole.bias, padding=7, groups=3)
    torch.testing.assert_close(operator(x, kernel_size=15), expected)
    assert macs(plain.float(), (3, 24, 31)) == 3 * 24 * 31 * 2 * 3 * 15


# -- conditional -------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [2, 4])
def test_each_image_is_convolved_with_its_own_mix_of_kernels(experts):
    operator, x = made("conditional", 5), images(4, 5, 9, 7)
    shares = torch.sigmoid(
        x.mean((2, 3)) @ operator.routing[:experts].view(experts, 5).T + operator.routing_bias[:experts]
    )
    kernels = torch.einsum("ne,cehw->nchw", shares, operator.weight[:, :experts])

    expected = torch.cat(
        [F.conv2d(x[n : n + 1], kernels[n].unsqueeze(1), padding=1, groups=5) for n in range(4)]
    )

    torch.testing.assert_close(operator(x, experts=experts, kernel_size=3), expected)
    assert shares.std(0).min() > 1e-3  # no two images alike


@pytest.mark.parametrize("chosen", [0, 2])
def test_routed_to_one_expert_it_is_a_plain_convolution(chosen):
    operator, x = made("conditional", 5), images(4, 5, 9, 7)
    with torch.no_grad():
        operator.routing.zero_()
        operator.routing_bias.fill_(-100)[chosen] = 100

    expected = F.conv2d(x, operator.weight[:, chosen : chosen + 1], padding=1, groups=5)

    torch.testing.assert_close(operator(x, experts=4, kernel_size=3), expected)


def test_a_conditional_convolution_costs_one_convolution_for_each_expert():
    operator = made("conditional", 5)

    costs = [macs(operator.export(5, experts, 3), (5, 8, 8)) for experts in (2, 4)]

    assert costs == [experts * (5 * 64 * 9 + 5) for experts in (2, 4)]


# -- flex --------------------------------------------------------------------------------------


def test_the_mask_falls_below_a_tenth_at_the_formulas_boundary():
    operator = made("flex", 3, dims=1)
    with torch.no_grad():
        operator.center.fill_(-0.25)
        operator.width.fill_(0.15)
    far = 0.15 * (-2 * torch.tensor(0.1).log()).sqrt()

    at = operator.mask(-0.25 + far * torch.tensor([[-1.01], [-0.99], [0.0], [0.99], [1.01]]))

    assert (at < 0.1).tolist() == [True, False, False, False, True] and at[2] == 1
    assert far / 0.15 == pytest.approx(2.146, abs=1e-4)


@pytest.mark.parametrize("max_size", [9, 13])
def test_a_flexible_convolution_is_frozen_into_a_plain_one(max_size):
    operator, x = made("flex", 3), images(2, 3, 17, 12)

    exported = operator.export(3, max_size)

    assert type(exported) is torch.nn.Conv2d and exported.kernel_size == (max_size, max_size)
    torch.testing.assert_close(exported(x), operator(x, max_size), rtol=0, atol=1e-6)


def test_a_small_flexible_kernel_is_the_middle_of_a_large_one():
    operator = made("flex", 3)
    with torch.no_grad():
        operator.width.fill_(0.4)

    torch.testing.assert_close(operator.kernel(3, 9), operator.kernel(3, 13)[..., 2:11, 2:11])


def test_a_flexible_kernel_starts_small_and_with_the_usual_norm():
    kernel = made("flex", 3).kernel(3, 13)

    energy = kernel.square()
    torch.testing.assert_close(energy.sum((1, 2, 3)), torch.full((3,), 2.0))
    assert (energy[..., 3:10, 3:10].sum((1, 2, 3)) > 0.99 * 2).all()


def test_the_mask_has_the_gradient_of_finite_differences():
    operator, x = made("flex", 2).double(), images(2, 2, 8, 7).double()

    def output(center: Tensor, width: Tensor) -> Tensor:
        return torch.func.functional_call(operator, {"center": center, "width": width}, (x, 9))

    inputs = tuple(one.detach().requires_grad_() for one in (operator.center, operator.width))
    assert torch.autograd.gradcheck(output, inputs, eps=1e-6, atol=1e-5, rtol=1e-5)
    output(*inputs).square().sum().backward()
    assert all(one.grad.abs().min() > 1e-3 for one in inputs)


def test_the_mask_never_leaves_nothing_of_a_kernel():
    operator = made("flex", 3)
    for center, width in [(-3.0, -1.0), (0.25, 0.0), (9.0, 1e-9)]:
        with torch.no_grad():
            operator.center.fill_(center)
            operator.width.fill_(width)
        before = operator.kernel(3, 9)
        with torch.no_grad():
            operator.constrain()

        assert before.abs().max() > 0.01 and before.isfinite().all()
        torch.testing.assert_close(operator.kernel(3, 9), before)


def test_the_mask_grows_as_far_as_the_task_needs():
    widths = [learned_width(far) for far in (1, 3, 6)]

    assert widths[0] < 0.19 < 0.2 < widths[1] < 0.25 < widths[2]


def learned_width(far: int) -> float:
    """Of the mask of a kernel that learned the sum of all samples up to so far away; it starts at 0.2."""
    operator = made("flex", 1, dims=1)
    others = [one for name, one in operator.named_parameters() if name not in ("center", "width")]
    mask = {"params": [operator.center, operator.width], "lr": 0.002}
    optimizer = torch.optim.Adam([{"params": others}, mask], 0.01)
    for step in range(200):
        x = images(16, 1, 64, seed=step)
        target = F.conv1d(x, torch.ones(1, 1, 2 * far + 1), padding=far)
        optimizer.zero_grad()
        (operator(x, 13) - target).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            operator.constrain()
    return operator.width.item()


# -- large_small -------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 7, 8, 20])
@pytest.mark.parametrize("stride", [1, 2])
def test_with_the_same_kernels_everywhere_gathering_is_a_grouped_convolution(channels, stride):
    x, groups = images(2, channels, 9, 6), -(-channels // 8)
    small = images(groups, 9, seed=1)
    kernels = small.flatten().view(1, -1, 1, 1).expand(2, -1, -(-9 // stride), 6 // stride)

    weight = torch.stack([small[channel % groups].view(1, 3, 3) for channel in range(channels)])
    expected = F.conv2d(x, weight, None, stride, 1, groups=channels)

    torch.testing.assert_close(gathered(x, kernels, stride, channels), expected)


def test_the_kernels_of_a_pixel_come_from_what_the_large_kernel_sees():
    exported, x = made("large_small", 8).export(8).eval(), images(1, 8, 15, 15)
    other = x.clone()
    other[..., 7, 10] += 1
    look = exported.look[:-1]  # the group norm looks at the whole image

    changed = (look(x) - look(other)).abs().sum(1)[0, 7] > 1e-6

    assert changed.nonzero().flatten().tolist() == list(range(7, 14))
