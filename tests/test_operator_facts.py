"""What each operator and attention is by its paper: facts that no test of all of them can know."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.attention import make_attention
from supernets.attention.eca import kernel_size_of
from supernets.attention.ela import groups as groups_of
from supernets.cost import count
from supernets.operators import OPERATORS, make_operator
from supernets.operators.inception import split
from supernets.operators.shift import WAYS
from supernets.operators.weighted import rings
from supernets.slicing import center

CHANNELS, SIDE = 24, 12


def operator(name: str, channels: int = CHANNELS, stride: int = 1, dims: int = 2, **offered) -> nn.Module:
    """An operator that offers all values of its settings but those given; no weight is 0 or 1."""
    torch.manual_seed(0)
    made = make_operator(name, channels, stride, OPERATORS[name].settings | offered, dims=dims)
    return unlike_initial(made)


def attention(name: str, channels: int = CHANNELS, dims: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return unlike_initial(make_attention(name, channels, dims))


@torch.no_grad()
def unlike_initial(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module.eval()


def images(channels: int = CHANNELS, side: int = SIDE, dims: int = 2) -> Tensor:
    return torch.randn(2, channels, *[side] * dims, generator=torch.Generator().manual_seed(1))


def macs_and_weights(exported: nn.Module, channels: int = CHANNELS, side: int = SIDE) -> tuple[int, int]:
    macs, weights, _ = count(exported, (channels, side, side))
    return macs, weights


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


# -- depthwise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9])
def test_an_untrained_transform_is_the_plain_centre(kernel_size, dims):
    depthwise = make_operator("depthwise", CHANNELS, 1, OPERATORS["depthwise"].settings, dims=dims)

    transformed, plain = (depthwise.kernel(CHANNELS, kernel_size, transform) for transform in (True, False))

    assert torch.equal(transformed, plain)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_transforms_are_chained_from_the_largest_kernel_down(dims):
    depthwise = operator("depthwise", kernel_size=(3, 5, 7), dims=dims)
    to5, to3 = (torch.eye(size**dims) + depthwise.differences[str(size)] for size in (5, 3))
    [first, *_] = depthwise.weight  # (1, 7, 7) or (1, 7)

    five = to5 @ center(first[None], 5).flatten()
    three = to3 @ center(five.view(1, 1, *[5] * dims), 3).flatten()

    close(depthwise.kernel(CHANNELS, 7, True)[0], first)
    close(depthwise.kernel(CHANNELS, 5, True)[0].flatten(), five)
    close(depthwise.kernel(CHANNELS, 3, True)[0].flatten(), three)


def test_a_trained_transform_is_more_than_the_centre_and_exports_exactly():
    torch.manual_seed(0)
    depthwise = make_operator(
        "depthwise", CHANNELS, 1, {"kernel_size": (3, 7), "transform": (True,), "dilation": (1,)}
    )
    x, optimizer = images(), torch.optim.SGD(depthwise.parameters(), 0.1)
    chosen, goal = {"kernel_size": 3, "dilation": 1, "transform": True}, images().roll(1, 3)
    for _ in range(5):
        optimizer.zero_grad()
        (depthwise(x, **chosen) - goal).square().mean().backward()
        optimizer.step()

    exported = depthwise.export(CHANNELS, **chosen)

    assert (depthwise(x, **chosen) - depthwise(x, **chosen | {"transform": False})).abs().max() > 1e-3
    close(exported(x), depthwise(x, **chosen))
    assert macs_and_weights(exported) == (CHANNELS * 9 * SIDE**2, CHANNELS * 9)


def test_there_is_a_matrix_for_each_step_between_offered_sizes_where_a_transform_is_offered():
    sizes = {
        offered: sorted(
            int(name) for name in operator("depthwise", transform=offered, kernel_size=(3, 7, 9)).differences
        )
        for offered in [(False,), (True,), (False, True)]
    }

    assert sizes == {(False,): [], (True,): [3, 7], (False, True): [3, 7]}


# -- dense -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(
    ("channels", "groups", "sizes"), [(24, 4, [6, 6, 6, 6]), (23, 4, [8, 5, 5, 5]), (3, 4, [3])]
)
def test_groups_are_the_dense_weight_with_zeros_between_them(channels, groups, sizes, dims):
    dense, x = operator("dense", dims=dims), images(channels, dims=dims)
    whole = dense.export(channels, 3, 1)
    mask = torch.block_diag(*(torch.ones(size, size) for size in sizes))
    with torch.no_grad():
        whole.weight.mul_(mask.view(*mask.shape, *[1] * dims))

    exported = dense.export(channels, 3, groups)

    close(dense(x, 3, groups), whole(x))
    assert sum(one.numel() for one in exported.parameters()) == 3**dims * sum(size**2 for size in sizes)
    assert isinstance(exported, type(whole)) == (len(set(sizes)) == 1)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_divide_the_macs(groups):
    exported = operator("dense").export(CHANNELS, 3, groups)

    assert macs_and_weights(exported)[0] == CHANNELS**2 * 9 * SIDE**2 / groups


# -- shift -------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [4, 8])
@pytest.mark.parametrize("channels", [24, 9, 1])
def test_every_channel_is_rolled_by_one_pixel_with_zeros_coming_in(channels, directions):
    x = images(channels)

    y = operator("shift")(x, directions)

    for number in range(channels):
        down, right = WAYS[number % directions]
        rolled = x[:, number].roll((down, right), (1, 2))
        assert torch.equal(y[:, number, 1:-1, 1:-1], rolled[:, 1:-1, 1:-1])
        assert not y[:, number, 0 if down > 0 else -1].any() or down == 0
        assert not y[:, number, :, 0 if right > 0 else -1].any() or right == 0
        came_in = 1 - (1 - abs(down) / SIDE) * (1 - abs(right) / SIDE)
        assert y[:, number].eq(0).float().mean().item() == pytest.approx(came_in)


def test_the_directions_are_all_neighbours_the_nearest_first():
    neighbours = {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)} - {(0, 0)}

    assert set(WAYS) == neighbours
    assert {abs(down) + abs(right) for down, right in WAYS[:4]} == {1}


def test_a_strided_shift_keeps_pixels_of_the_shifted_image():
    x = images(side=13)

    assert torch.equal(operator("shift", stride=2)(x, 8), operator("shift")(x, 8)[:, :, ::2, ::2])


def test_a_shift_has_no_weights_and_no_arithmetic():
    assert macs_and_weights(operator("shift").export(CHANNELS, 8)) == (0, 0)


# -- haar --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
def test_the_bands_of_haar_are_orthonormal_and_a_half_each(dims):
    filters = operator("haar", 2**dims, dims=dims).wavelet.filters.flatten(1)

    close(filters @ filters.T, torch.eye(2**dims))
    close(filters.abs(), torch.full_like(filters, 2 ** (-dims / 2)))


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("side", [12, 13])
def test_decimated_bands_keep_the_energy_of_an_image(side, dims):
    x = images(1, side, dims)

    y = operator("haar", stride=2, dims=dims)(x.repeat(1, 2**dims, *[1] * dims))

    close(y.square().sum(), x.square().sum())


def test_only_the_first_band_of_a_flat_image_is_left():
    y = operator("haar", stride=2)(torch.ones(1, 8, SIDE, SIDE))

    close(y.mean((0, 2, 3)), torch.tensor([2.0, 0, 0, 0] * 2))
    close(y, y[..., :1, :1].expand_as(y))


def test_fixed_filters_are_no_parameters_but_are_counted_where_they_cost():
    exported = operator("haar", stride=2).export(CHANNELS)

    assert not list(exported.parameters())
    macs, weights, stored = count(exported, (CHANNELS, SIDE, SIDE))
    assert (macs, weights, stored) == (CHANNELS * 4 * (SIDE // 2) ** 2, 0, CHANNELS * 4 * 4)


# -- factorised convolutions -------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 11])
def test_a_row_and_a_column_are_a_square_kernel_of_rank_one(kernel_size, stride):
    separable, x = operator("separable_1d", stride=stride), images(side=13)
    (row, *_), (column, *_) = separable.kernels(CHANNELS, kernel_size)

    square = F.conv2d(x, column @ row, None, stride, kernel_size // 2, groups=CHANNELS)

    close(separable(x, kernel_size), square)


@pytest.mark.parametrize("kernel_size", [3, 11])
def test_separable_taps_grow_with_the_side_not_with_the_area(kernel_size):
    exported = operator("separable_1d").export(CHANNELS, kernel_size)

    assert macs_and_weights(exported) == (CHANNELS * 2 * kernel_size * SIDE**2, CHANNELS * 2 * kernel_size)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_of_that_rank_is_reconstructed_exactly(stride):
    """By the singular vectors of its outputs and of its inputs (Tucker-2)."""
    rank, x = CHANNELS // 4, images(side=13).double()
    low_rank = operator("low_rank", stride=stride, rank=(0.25,), kernel_size=(3,)).double()
    outputs, inputs = torch.randn(2, CHANNELS, rank, dtype=torch.float64)
    kernel = torch.einsum("or,rshw,is->oihw", outputs, torch.randn(rank, rank, 3, 3).double(), inputs)

    out, values, _ = torch.linalg.svd(kernel.flatten(1))
    into, _, _ = torch.linalg.svd(kernel.transpose(0, 1).flatten(1))
    out, into = out[:, :rank], into[:, :rank]
    with torch.no_grad():
        low_rank.reduce.copy_(into.T[..., None, None])
        low_rank.core.copy_(torch.einsum("or,oihw,is->rshw", out, kernel, into))
        low_rank.restore.copy_(out[..., None, None])

    assert values[rank - 1] > 1e-6 > values[rank]  # it has exactly that rank
    expected = F.conv2d(x, kernel, None, stride, 1)
    torch.testing.assert_close(low_rank(x, 3, 0.25), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [0.25, 0.5])
def test_low_rank_costs_two_pointwise_and_a_small_convolution(rank):
    middle = int(CHANNELS * rank)

    macs, weights = macs_and_weights(operator("low_rank").export(CHANNELS, 5, rank))

    assert weights == 2 * CHANNELS * middle + 25 * middle**2
    assert macs == weights * SIDE**2


# -- inception ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [24, 9, 3])
@pytest.mark.parametrize("ratio", [0.125, 0.25])
def test_untouched_channels_are_the_very_same(channels, ratio):
    inception, x = operator("inception"), images(channels)
    exported, (untouched, *_) = inception.export(channels, 11, ratio), split(channels, ratio)

    for y in (inception(x, 11, ratio), exported(x)):
        assert torch.equal(y[:, :untouched], x[:, :untouched])
        assert (y[:, untouched:] != x[:, untouched:]).flatten(2).any(2).all()


@pytest.mark.parametrize(
    ("channels", "ratio", "sizes"),
    [
        (64, 0.125, [40, 8, 8, 8]),
        (24, 0.25, [6, 6, 6, 6]),
        (7, 0.125, [4, 1, 1, 1]),
        (3, 0.25, [0, 1, 1, 1]),
        (2, 0.25, [0, 1, 1, 0]),
        (1, 0.125, [0, 1, 0, 0]),
    ],
)
def test_each_kernel_has_its_part_of_the_channels(channels, ratio, sizes):
    assert split(channels, ratio) == sizes


@pytest.mark.parametrize("band", [7, 11, 15])
@pytest.mark.parametrize("ratio", [0.125, 0.25])
def test_the_macs_of_inception_are_those_of_its_formula(band, ratio):
    exported, each = operator("inception").export(CHANNELS, band, ratio), int(CHANNELS * ratio)

    assert macs_and_weights(exported) == (SIDE**2 * each * (9 + 2 * band), each * (9 + 2 * band))


def test_a_row_kernel_sees_its_row_alone_and_a_column_kernel_its_column():
    x = torch.zeros(1, CHANNELS, SIDE, SIDE)
    x[..., 5, 6] = 1
    _, square, row, column = operator("inception")(x, 7, 0.25).split(split(CHANNELS, 0.25), dim=1)

    reached = [part.ne(0).any(1)[0].nonzero() for part in (square, row, column)]

    extent = [
        [(places[:, axis].min().item(), places[:, axis].max().item()) for axis in (0, 1)]
        for places in reached
    ]
    assert extent == [[(4, 6), (5, 7)], [(5, 5), (3, 9)], [(2, 8), (6, 6)]]


# -- hypercomplex ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4])
def test_a_hypercomplex_kernel_is_learned_from_one_nth_of_the_weights(n):
    hypercomplex = operator("hypercomplex", n=(n,))

    kernels, algebra = hypercomplex.kernels.numel(), hypercomplex.algebra.numel()

    assert (kernels, algebra) == (CHANNELS**2 * 9 // n, n**3)
    assert macs_and_weights(hypercomplex.export(CHANNELS, 3, n)) == (
        CHANNELS**2 * 9 * SIDE**2,
        CHANNELS**2 * 9,
    )


@pytest.mark.parametrize("n", [2, 4])
def test_a_hypercomplex_kernel_is_a_sum_of_kronecker_products(n):
    hypercomplex = operator("hypercomplex", n=(n,), dims=1)
    taps = [
        sum(
            torch.kron(kernel[..., tap], algebra)
            for kernel, algebra in zip(hypercomplex.kernels, hypercomplex.algebra, strict=True)
        )
        for tap in range(3)
    ]

    close(hypercomplex.kernel(CHANNELS, n), torch.stack(taps, dim=-1))


@pytest.mark.parametrize("n", [2, 4])
def test_a_narrow_hypercomplex_kernel_is_the_corner_of_a_wide_one(n):
    hypercomplex = operator("hypercomplex")
    wide = hypercomplex.kernel(CHANNELS, n)

    for channels in (1, 7, 22):
        close(hypercomplex.kernel(channels, n), wide[:channels, :channels])


def test_with_the_algebra_of_complex_numbers_it_is_a_complex_convolution():
    hypercomplex, x = operator("hypercomplex", n=(2,)), images()
    with torch.no_grad():
        hypercomplex.algebra.copy_(torch.tensor([[[1.0, 0], [0, 1]], [[0, -1], [1, 0]]]))
    numbers = torch.complex(x[:, 0::2], x[:, 1::2])  # a channel's real and imaginary parts are neighbours

    product = F.conv2d(numbers, torch.complex(*hypercomplex.kernels.unflatten(3, (3, 3))), padding=1)

    y = hypercomplex(x, 3, 2)
    close(y[:, 0::2], product.real)
    close(y[:, 1::2], product.imag)


# -- weighted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_before_its_density_is_learned_it_is_the_depthwise_convolution(kernel_size, dims):
    weighted, x = (
        make_operator("weighted", CHANNELS, 1, {"kernel_size": (3, 5)}, dims=dims),
        images(dims=dims),
    )
    depthwise = operator("depthwise", dims=dims, kernel_size=(3, 5))
    with torch.no_grad():
        weighted.weight.copy_(depthwise.weight)

    close(weighted(x, kernel_size), depthwise(x, kernel_size, dilation=1))


def test_a_density_weighs_the_ring_at_its_distance():
    weighted = operator("weighted")
    with torch.no_grad():
        weighted.weight.fill_(1)
        weighted.density.copy_(torch.tensor([0.5, 0.25]))
    b, c = 0.5, 0.25

    expected = torch.tensor(
        [[c, c, c, c, c], [c, b, b, b, c], [c, b, 1, b, c], [c, b, b, b, c], [c, c, c, c, c]]
    )

    assert torch.equal(weighted.kernel(3, 5), expected.expand(3, 1, 5, 5))
    assert torch.equal(weighted.kernel(3, 3), expected[1:4, 1:4].expand(3, 1, 3, 3))
    assert rings(5, 1, torch.device("cpu")).tolist() == [2, 1, 0, 1, 2]


def test_a_density_is_learned_and_costs_nothing_deployed():
    weighted = operator("weighted")

    weighted(images(), 5).square().sum().backward()

    assert weighted.density.grad.count_nonzero() == 2
    assert macs_and_weights(weighted.export(CHANNELS, 5)) == (CHANNELS * 25 * SIDE**2, CHANNELS * 25)


# -- attentions --------------------------------------------------------------------------------


def test_the_kernel_along_the_channels_grows_with_their_logarithm():
    sizes = {
        channels: kernel_size_of(channels) for channels in (1, 8, 64, 127, 128, 512, 1024, 2047, 2048, 4096)
    }

    assert sizes == {1: 3, 8: 3, 64: 3, 127: 3, 128: 5, 512: 5, 1024: 5, 2047: 5, 2048: 7, 4096: 7}
    assert attention("eca", 64).export(64).along.weight.numel() == 3
    assert attention("eca", 2048).export(200).along.weight.numel() == 5


def test_a_small_kernel_along_the_channels_is_the_centre_of_the_large_one():
    eca = attention("eca", 2048)

    close(eca.export(200).along.weight.flatten(), eca.weight.flatten()[1:-1])


@pytest.mark.parametrize("dims", [1, 2])
def test_a_gate_hears_its_neighbours_in_the_channel_order_alone(dims):
    eca, x = attention("eca", dims=dims), images(dims=dims)
    louder = x.clone()
    louder[:, 10] += 1

    changed = (eca(x) != eca(louder)).flatten(2).any(2).any(0)

    assert changed.nonzero().flatten().tolist() == [9, 10, 11]


@pytest.mark.parametrize(("channels", "groups"), [(64, 16), (24, 12), (22, 11), (17, 1), (9, 9), (1, 1)])
def test_the_groups_of_local_attention_divide_any_width(channels, groups):
    assert groups_of(channels) == groups


def test_rows_and_columns_go_through_the_same_local_attention():
    ela, x = attention("ela"), images()

    close(ela(x.transpose(2, 3)), ela(x).transpose(2, 3))


@pytest.mark.parametrize("name", ["ela", "coordinate"])
def test_the_gate_of_an_axial_attention_is_a_row_times_a_column(name):
    module, x = attention(name), images()

    gate = (module(x) / x).double()

    assert ((gate > 0) & (gate < 1)).all()
    rank_one = gate[:, :, :, :1] * gate[:, :, :1] / gate[:, :, :1, :1]
    torch.testing.assert_close(rank_one, gate, rtol=1e-4, atol=1e-6)
    assert gate.std(3).min() > 0 and gate.std(2).min() > 0


def test_a_gate_of_local_attention_hears_its_group_alone():
    ela, x = attention("ela", dims=1), images(side=20, dims=1)
    louder = x.clone()
    louder[:, 0, 10] += 1

    changed = (ela(x) / x != ela(louder) / louder).any(2).any(0)

    assert changed.nonzero().flatten().tolist() == [0, 1]  # 24 channels in 12 groups


def test_local_attention_works_on_a_single_pixel_of_a_single_image():
    ela, x = attention("ela", 16), torch.randn(1, 16, 1, 1)

    close(ela.export(16).eval()(x), x * ela.bias.sigmoid().square().view(1, 16, 1, 1))


def test_rows_and_columns_of_coordinate_attention_share_one_norm():
    coordinate = attention("coordinate").train()
    exported, x = coordinate.export(CHANNELS).train(), images(side=9)[..., :5]

    close(exported(x), coordinate(x))
    exported.norm.momentum = 1.0
    exported(x)
    middle = exported.squeeze(torch.cat([x.mean(3), x.mean(2)], dim=2)[..., None])
    assert middle.shape[2] == 9 + 5
    close(exported.norm.running_var, middle.var((0, 2, 3)))
