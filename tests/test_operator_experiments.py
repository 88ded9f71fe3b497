"""The experimental operators keep what their papers promise: the formulas, the limits in which they are plain
layers, and what is learned in ways of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.cli import main
from nas.export.checkpoint import load_subnet
from nas.storage.store import Store
from search_spaces import architecture_from_json, space_from_json
from supernets.cost import COSTS, CostTable, count, macs
from supernets.merging import embedded, merged, trimmed
from supernets.operators import OPERATORS, make_operator
from supernets.operators.dilated_learned import shared
from supernets.operators.flex import WIDTH
from supernets.operators.large_small import gathered
from tests.conftest import write_experiment


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


def flexible(channels: int, center: Sequence[float] = (0, 0), width: Sequence[float] = (0.2, 0.2)):
    """With a mask of this centre and width, in halves of the largest kernel: 6 pixels."""
    operator = made("flex", channels, dims=len(center))
    with torch.no_grad():
        operator.center.copy_(torch.tensor(center))
        operator.width.copy_(torch.tensor(width))
    return operator


def test_the_mask_is_a_tenth_at_the_formulas_boundary_and_ends_a_pixel_further():
    operator, far, pixel = flexible(3, [-0.25], [0.15]), 0.15 * 2.146, 1 / 6
    places = torch.tensor([-far - 1.01 * pixel, -far - 0.99 * pixel, -1.01 * far, -0.99 * far])

    beyond, within, below, above = operator.mask(-0.25 + places.unsqueeze(1)).tolist()

    assert beyond == 0 < within < below < 0.1 < above
    torch.testing.assert_close(
        operator.mask(-0.25 - places.unsqueeze(1))[1:], torch.tensor([within, below, above])
    )


@pytest.mark.parametrize("max_size", [9, 13])
def test_a_flexible_convolution_is_frozen_into_a_plain_one(max_size):
    operator, x = made("flex", 3), images(2, 3, 17, 12)

    exported = operator.export(3, max_size)

    assert type(exported) is torch.nn.Conv2d and exported.kernel_size == (max_size, max_size)
    torch.testing.assert_close(exported(x), operator(x, max_size), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("max_size", [9, 13])
@pytest.mark.parametrize(
    ("center", "width"), [((0, 0), (0.1, 0.3)), ((-0.3, 0.1), (0.05, 0.2)), ((0, 0.4), (2.0, 0.01))], ids=str
)
def test_deployed_it_has_the_size_of_its_mask(center, width, max_size, stride):
    operator, x = flexible(3, center, width), images(2, 3, 17, 12)
    operator.stride = stride

    plain = trimmed(operator.export(3, max_size))

    reaches = [6 * (abs(c) + 2.146 * max(w, 0.25 / 6)) + 1 for c, w in zip(center, width, strict=True)]
    assert plain.kernel_size == tuple(min(max_size, 2 * int(reach) + 1) for reach in reaches)
    assert plain.kernel_size != (max_size, max_size)
    torch.testing.assert_close(plain(x), operator(x, max_size), rtol=0, atol=1e-6)


def test_a_small_flexible_kernel_is_the_middle_of_a_large_one():
    operator = flexible(3, width=(0.4, 0.4))

    torch.testing.assert_close(operator.kernel(3, 9), operator.kernel(3, 13)[..., 2:11, 2:11])


@pytest.mark.parametrize("offered", [(9,), (13,), (9, 13)])
def test_a_flexible_kernel_starts_with_five_taps_and_the_usual_norm(offered):
    operator = made("flex", 3, max_size=offered)

    kernel = trimmed(operator.export(3, max(offered))).weight

    assert kernel.shape == (3, 1, 5, 5)
    torch.testing.assert_close(kernel.square().sum((1, 2, 3)), torch.full((3,), 2.0))


def test_the_mask_has_the_gradient_that_it_would_have_uncut():
    operator = flexible(2, width=(0.1, 0.15)).double()
    places = torch.cartesian_prod(*[torch.arange(-6.0, 7).double() / 6] * 2)

    def whole(center: Tensor, width: Tensor) -> Tensor:
        return torch.exp(-(((places - center) / width) ** 2).sum(1) / 2)

    parameters = (operator.center, operator.width)
    cut, uncut = operator.mask(places), whole(*parameters)
    weights = images(len(places)).double()

    found, expected = (torch.autograd.grad((one * weights).sum(), parameters) for one in (cut, uncut))

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(cut[cut > 0], uncut[cut > 0])
    assert (cut == 0).sum() > 100


def test_the_mask_never_leaves_nothing_of_a_kernel():
    for center, width in [(-3.0, -1.0), (0.25, 0.0), (9.0, 1e-9)]:
        operator = flexible(3, [center] * 2, [width] * 2)
        before = operator.kernel(3, 9)
        with torch.no_grad():
            operator.constrain()

        assert before.abs().max() > 0.01 and before.isfinite().all()
        torch.testing.assert_close(operator.kernel(3, 9), before)


@pytest.mark.parametrize("needed", [(3, 3), (7, 7), (3, 13)], ids=str)
def test_a_kernel_grows_as_far_as_the_task_needs_and_no_further(needed):
    operator, error = learned_to_sum(*needed)

    sizes = trimmed(operator.export(1, 13)).kernel_size

    assert error < 0.02
    assert all(need <= size <= need + 4 for need, size in zip(needed, sizes, strict=True)), sizes
    if needed == (3, 3):  # it starts at 5×5
        assert sizes == (5, 5) and operator.width.max() < WIDTH


def learned_to_sum(rows: int, columns: int) -> tuple[torch.nn.Module, float]:
    """A kernel that learned the sum of so many pixels around each one, and the share that is still wrong."""
    operator = made("flex", 1)
    others = [one for name, one in operator.named_parameters() if name not in ("center", "width")]
    mask = {"params": [operator.center, operator.width], "lr": 0.002}
    optimizer = torch.optim.Adam([{"params": others}, mask], 0.01)
    for step in range(200):
        x = images(4, 1, 24, 24, seed=step)
        target = F.conv2d(x, torch.ones(1, 1, rows, columns), padding=(rows // 2, columns // 2))
        error = (operator(x, 13) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        with torch.no_grad():
            operator.constrain()
    return operator, (error / target.square().mean()).item()


LEARNED_SIZES = """
name: sizes
data: {name: digits}
space:
  stem: {width: 8}
  stages: [{width: 8, depth: 3, share_kernels: true}, {width: 8, stride: 2}]
  operators: [flex: {max_size: [9, 13]}, dilated_learned: {extent: [17]}]
  expansion: 1
training: {epochs: 1, batch_size: 64, sampler: uniform}
search: {searcher: {name: nsga2, population: 4}, budget: 4}
objectives: [accuracy, macs]
"""


def test_what_is_searched_and_exported_has_the_sizes_that_were_learned(tmp_path):
    run = write_experiment(tmp_path, LEARNED_SIZES)
    assert main(["run", *run.arguments]) == 0
    with Store(run.store_url, create=False) as store:
        candidates, space = store.candidates("sizes"), space_from_json(store.run("sizes").space)

    table = CostTable(space).of([architecture_from_json(one.architecture) for one in candidates])
    found = np.array([[one.values[cost] for cost in COSTS] for one in candidates])
    assert (found <= table).all()
    at = int((found[:, 0] / table[:, 0]).argmin())
    assert (found[at] < table[at]).all()

    folder = tmp_path / "exported"
    chosen = ["--candidate", candidates[at].key, "--store", run.store_url, "--output", str(folder)]
    assert main(["export", "sizes", *chosen]) == 0
    assert main(["verify", str(folder)]) == 0
    shape = space.input_shape(architecture_from_json(candidates[at].architecture).resolution)
    assert count(load_subnet(folder), shape).tolist() == found[at].tolist()


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
