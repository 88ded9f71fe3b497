"""Operators against their papers, each written here once more from the definition: sums over the taps of a kernel, and
plain torch layers.
"""

from __future__ import annotations

import itertools
from random import Random

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from search_spaces import SearchSpace, unroll
from supernets.attention import ATTENTIONS
from supernets.branches import Reparameterized
from supernets.cost import count
from supernets.elastic import Norm
from supernets.merging import embedded, forms, merged
from supernets.operators import OPERATORS, make_operator, paths
from supernets.supernet import Supernet

SIZES = [(8, 10), (9, 7)]
each_place = pytest.mark.parametrize(("size", "stride"), list(itertools.product(SIZES, [1, 2])))


def images(channels: int, size: tuple[int, ...], count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(
        count, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def made(name: str, channels: int, stride: int, **settings) -> nn.Module:
    """An operator that offers these values, in double precision."""
    torch.manual_seed(0)
    return make_operator(name, channels, stride, settings).double()


def depthwise(x: Tensor, kernels: list[Tensor], stride: int, dilation: int = 1) -> Tensor:
    """Each channel with a square kernel of its own: y[p] = Σ_t w[t] x[s·p + r·t], zeros around the image."""
    (count, _, height, width), outputs = x.shape, []
    rows, columns = -(-height // stride), -(-width // stride)
    for channel, kernel in enumerate(kernels):
        reach = dilation * (len(kernel) // 2)
        framed = x.new_zeros(count, height + 2 * reach, width + 2 * reach)
        framed[:, reach : reach + height, reach : reach + width] = x[:, channel]
        total = x.new_zeros(count, rows, columns)
        for i, j in itertools.product(range(len(kernel)), repeat=2):
            seen = framed[:, i * dilation :, j * dilation :][:, ::stride, ::stride]
            total += kernel[i, j] * seen[:, :rows, :columns]
        outputs.append(total)
    return torch.stack(outputs, dim=1)


def middle(kernel: Tensor, size: int) -> Tensor:
    edge = (len(kernel) - size) // 2
    return kernel[edge : edge + size, edge : edge + size]


def test_the_sum_over_taps_is_what_torch_convolves():
    x, weight = images(3, (9, 8)), images(3, (5, 5), count=1).transpose(0, 1)

    found = depthwise(x, list(weight[:, 0]), stride=2, dilation=2)

    torch.testing.assert_close(found, nn.functional.conv2d(x, weight, None, 2, 4, 2, groups=3))


# -- MixConv -----------------------------------------------------------------------------------

GROUPS = [  # (channels, kernels, split, the kernel sizes' numbers of channels)
    (22, (3, 5), "equal", (11, 11)),
    (22, (3, 5, 7), "equal", (8, 7, 7)),
    (23, (3, 5, 7, 9), "equal", (8, 5, 5, 5)),
    (1, (3, 5), "equal", (1, 0)),
    (32, (3, 5, 7, 9), "exponential", (16, 8, 4, 4)),  # the paper's example
    (22, (3, 5, 7), "exponential", (11, 5, 6)),
    (9, (3, 5), "exponential", (4, 5)),
    (1, (3, 5, 7), "exponential", (0, 0, 1)),
]
each_group = pytest.mark.parametrize(("channels", "kernels", "split", "groups"), GROUPS)


def mixed(channels: int, kernels: tuple[int, ...], split: str, stride: int = 1) -> nn.Module:
    return made("mixed", 32, stride, kernels=((3, 5, 7, 9), kernels), split=(split,))


@each_group
@each_place
def test_mixconv_has_a_kernel_size_for_each_group_of_channels(channels, kernels, split, groups, size, stride):
    operator, x = mixed(channels, kernels, split, stride), images(channels, size)
    of_channel = [kernel for kernel, share in zip(kernels, groups, strict=True) for _ in range(share)]

    expected = depthwise(
        x, [middle(operator.weight[c, 0], kernel) for c, kernel in enumerate(of_channel)], stride
    )

    for found in (operator(x, kernels, split), operator.export(channels, kernels, split)(x)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@each_group
@each_place
def test_mixconv_embedded_is_one_convolution(channels, kernels, split, groups, size, stride):
    plain = mixed(channels, kernels, split, stride).float().export(channels, kernels, split)
    x = images(channels, size).float()

    whole = embedded(plain)

    assert isinstance(whole, nn.Conv2d) and whole.in_channels == whole.groups == channels
    assert (whole(x) - plain(x)).abs().max() < 1e-6
    assert set(forms(plain)) == ({"plain", "embedded"} if sum(map(bool, groups)) > 1 else {"plain"})


@each_group
def test_mixconv_costs_the_sum_of_its_groups(channels, kernels, split, groups):
    plain, (height, width) = mixed(channels, kernels, split).export(channels, kernels, split), SIZES[1]
    used = [(kernel, share) for kernel, share in zip(kernels, groups, strict=True) if share]

    macs = [count(network, (channels, height, width))[0] for network in forms(plain.float()).values()]

    assert macs[0] == height * width * sum(share * kernel**2 for kernel, share in used)
    assert macs[-1] == height * width * channels * max(kernel for kernel, _ in used) ** 2


def test_a_mixconv_that_was_stored_without_a_split_is_split_equally():
    operator, x = made("mixed", 9, 1, kernels=((3, 5),)), images(9, (8, 8))

    assert torch.equal(operator(x, (3, 5)), operator(x, (3, 5), "equal"))
    assert torch.equal(operator.export(9, (3, 5))(x), operator(x, (3, 5), "equal"))


# -- RepLKNet and UniRepLKNet ------------------------------------------------------------------

# K: branches (kernel size, dilation) and the size of the plain kernel that each amounts to
TABLE = {
    17: ([(5, 1), (9, 2), (3, 4), (3, 5), (3, 7)], [5, 17, 9, 11, 15]),
    15: ([(5, 1), (7, 2), (3, 3), (3, 5), (3, 7)], [5, 13, 7, 11, 15]),
    13: ([(5, 1), (7, 2), (3, 3), (3, 4), (3, 5)], [5, 13, 7, 9, 11]),
    11: ([(5, 1), (5, 2), (3, 3), (3, 4), (3, 5)], [5, 9, 7, 9, 11]),
    9: ([(5, 1), (5, 2), (3, 3), (3, 4)], [5, 9, 7, 9]),
    7: ([(5, 1), (3, 2), (3, 3)], [5, 5, 7]),
    5: ([(3, 1), (3, 2)], [3, 5]),
}
OFFERED = OPERATORS["dilated_reparam"].settings["kernel_size"]


class Parallel(nn.Module):
    """Σ BN(convolution(x)) of plain layers: the K×K one and its branches."""

    def __init__(self, channels: int, stride: int, branches: list[tuple[int, int]]):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, k, stride, r * (k // 2), r, groups=channels, bias=False)
            for k, r in branches
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in branches)

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.convolutions, self.norms, strict=True)
        return sum(norm(convolution(x)) for convolution, norm in pairs)


def trained(channels: int, stride: int, branches: list[tuple[int, int]]) -> Parallel:
    """After some steps, so that no scale, shift or statistic is at its 0 or 1."""
    torch.manual_seed(0)
    plain = Parallel(channels, stride, branches).double()
    x = 2 * images(channels, (9, 8), count=8) + 1
    target = torch.randn_like(plain(x))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        (plain(x) - target).square().mean().backward()
        optimizer.step()
    return plain.eval()


@torch.no_grad()
def fill(weight: Tensor, norm: Norm, convolution: nn.Module, plain: nn.Module) -> None:
    """One branch of an operator gets the middle of its weight and its norm from plain layers; the rest is nan."""
    size, nothing = convolution.kernel_size[0], float("nan")
    weight.fill_(nothing)
    for row, kernel in zip(weight[:, 0], convolution.weight[:, 0], strict=False):
        middle(row, size).copy_(kernel)
    width = plain.num_features
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).fill_(nothing)[:width].copy_(getattr(plain, name))


def same_in_every_form(operator: nn.Module, plain: Parallel, x: Tensor, **settings) -> None:
    """In training, in evaluation, exported, and merged into one convolution, it is what the plain layers compute."""
    expected, exported = plain(x), operator.eval().export(x.shape[1], **settings).eval()
    whole, size = merged(exported), settings["kernel_size"]

    for found in (operator(x, **settings), exported(x), whole(x)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert isinstance(whole, nn.Conv2d) and whole.kernel_size == (size, size)
    assert whole.groups == x.shape[1] and whole.bias is not None
    torch.testing.assert_close(operator.train()(x, **settings), plain.train()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel_size", "small_kernel"), [(7, 3), (7, 5), (13, 5), (31, 5)])
@each_place
def test_replknet_adds_a_small_kernel_to_a_large_one(kernel_size, small_kernel, size, stride):
    operator = made("large_kernel", 6, stride, kernel_size=(7, 13, 31), small_kernel=(3, 5))
    plain = trained(4, stride, [(kernel_size, 1), (small_kernel, 1)])
    fill(operator.large, operator.large_norm, plain.convolutions[0], plain.norms[0])
    fill(operator.small, operator.small_norm, plain.convolutions[1], plain.norms[1])

    x = images(4, size)

    same_in_every_form(operator, plain, x, kernel_size=kernel_size, small_kernel=small_kernel)


@pytest.mark.parametrize("offered", ["all", "alone"])
@pytest.mark.parametrize("kernel_size", OFFERED)
@each_place
def test_unireplknet_adds_the_branches_of_its_table(kernel_size, offered, size, stride):
    offered = OFFERED if offered == "all" else (kernel_size,)
    operator, branches = made("dilated_reparam", 6, stride, kernel_size=offered), TABLE[kernel_size][0]
    plain = trained(4, stride, [(kernel_size, 1), *branches])
    with torch.no_grad():  # what this size does not use must not matter
        for parameter in operator.parameters():
            parameter.fill_(float("nan"))
    fill(operator.weight, operator.norm, plain.convolutions[0], plain.norms[0])
    for number, (_, dilation) in enumerate(branches, start=1):
        weight, norm = operator.dilated[str(dilation)], operator.dilated_norms[str(dilation)]
        fill(weight, norm, plain.convolutions[number], plain.norms[number])

    same_in_every_form(operator, plain, images(4, size), kernel_size=kernel_size)


@pytest.mark.parametrize("kernel_size", TABLE)
@each_place
def test_dilated_branches_merge_into_kernels_of_their_equivalent_size(kernel_size, size, stride):
    branches, equivalent = TABLE[kernel_size]
    plain, x = trained(4, stride, [(kernel_size, 1), *branches]), images(4, size)
    layers = [nn.Sequential(*pair) for pair in zip(plain.convolutions, plain.norms, strict=True)]

    whole = merged(Reparameterized(layers))
    alone = [merged(Reparameterized([layer])) for layer in layers[1:]]

    assert [one.kernel_size for one in alone] == [(each, each) for each in equivalent]
    assert whole.kernel_size == (kernel_size, kernel_size) and max(equivalent) <= kernel_size
    expected = plain(x)
    torch.testing.assert_close(whole(x), expected, rtol=1e-12, atol=1e-12)
    by_taps = depthwise(x, list(whole.weight[:, 0]), stride) + whole.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(by_taps, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum(one(x) for one in alone) + layers[0](x), expected, rtol=1e-12, atol=1e-12)


# -- MixPath -----------------------------------------------------------------------------------

PATHS = OPERATORS["multi_path"].settings["paths"]


def mixpath(**skeleton) -> tuple[SearchSpace, Supernet]:
    """A supernet of blocks that sum up to three paths, of which no weight is at its 0 or 1."""
    space = unroll(
        {
            "stem": {"width": 8},
            "stages": [{"width": 8, "depth": 2}],
            "operators": ["multi_path"],
            "expansion": 2,
        }
        | skeleton,
        OPERATORS,
        ATTENTIONS,
        (1, 8, 8),
        10,
    )
    return space, Supernet(space)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("chosen", PATHS)
@each_place
def test_mixpath_sums_a_convolution_norm_and_activation_for_each_path(chosen, linear, size, stride):
    operator = made("multi_path", 6, stride, paths=PATHS, linear=(False, True))
    x, relu = images(4, size), nn.ReLU()
    normed = []
    for kernel_size in chosen:
        norm = nn.BatchNorm2d(4).double()
        weight = operator.weights[str(kernel_size)][:4, 0]
        normed.append(norm(depthwise(x, list(weight), stride)))

    expected = relu(sum(normed)) if linear else sum(relu(one) for one in normed)

    torch.testing.assert_close(operator.train()(x, chosen, linear), expected, rtol=1e-10, atol=1e-10)
    exported = operator.export(4, chosen, linear).train()
    torch.testing.assert_close(exported(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chosen", PATHS)
def test_linear_paths_merge_into_the_largest_of_their_kernels(chosen):
    operator = made("multi_path", 6, 1, paths=PATHS, linear=(False, True))

    linear, other = (merged(operator.export(4, chosen, linear)) for linear in (True, False))

    convolutions = [one for one in linear.modules() if isinstance(one, nn.Conv2d)]
    assert [one.kernel_size[0] for one in convolutions] == [max(chosen)]
    assert sum(isinstance(one, nn.Conv2d) for one in other.modules()) == len(chosen)


def test_the_last_norm_of_a_block_is_that_of_its_number_of_paths():
    space, supernet = mixpath(operators=["multi_path", "identity"])
    block = supernet.blocks[0]
    for number, norm in block.project_norms.items():
        nn.init.constant_(norm.bias, int(number))

    assert set(block.project_norms) == {"1", "2", "3"}
    for choice in space.stages[0].blocks[0].choices:
        number = len(dict(choice.settings).get("paths", "1"))
        assert paths(choice.operator, choice.settings) == number
        assert block.project_norm(choice) is block.project_norms[str(number)]
        assert (block.export(choice, 8, 8).project_norm.bias == number).all()


def test_an_optimiser_step_moves_only_the_paths_and_the_last_norm_that_were_chosen():
    space, supernet = mixpath()
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x, random, learnable = torch.randn(8, 1, 8, 8), Random(0), dict(supernet.train().named_parameters())
    for _ in range(20):
        architecture = space.sample(random)
        before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
        optimizer.zero_grad()
        supernet(x, architecture).square().mean().backward()
        optimizer.step()

        for position, choice, _ in supernet.rows(architecture):
            operator, last = f"blocks.{position}.operators.multi_path.", f"blocks.{position}.project_norms."
            chosen = dict(choice.settings)["paths"]
            used = [
                f"{operator}{kind}.{kernel_size}" for kernel_size in chosen for kind in ("weights", "norms")
            ]
            used = (f"{last}{len(chosen)}", *used)
            for name, tensor in supernet.state_dict().items():
                if name.startswith((operator, last)):
                    moves = name in learnable and name.startswith(used)
                    assert torch.equal(tensor, before[name]) != moves


class Last(nn.BatchNorm2d):
    """A batch norm with the plain average of statistics, that keeps what it puts out."""

    def __init__(self, channels: int):
        super().__init__(channels, momentum=None, affine=False)
        self.outputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.outputs.append(super().forward(x))
        return self.outputs[-1]


@torch.no_grad()
def normalized(supernet: Supernet, norms: dict[str, Last], x: Tensor, held_out: Tensor) -> dict[int, Tensor]:
    """By number of paths: what leaves a block's last norms, after they have seen every choice equally often."""
    block, found = supernet.blocks[0].train(), {}
    block.project_norms = nn.ModuleDict(norms)
    choices = supernet.space.stages[0].blocks[0].choices
    by_number = [[one for one in choices if paths(one.operator, one.settings) == n] for n in (1, 2, 3)]
    for turn, equally in itertools.product(range(3), by_number):
        block(supernet.stem(x), equally[turn % len(equally)], 8)
    block.project_norms.eval()
    for number, equally in enumerate(by_number, start=1):
        norm = norms[str(number)]
        norm.outputs.clear()
        for choice in equally:
            block(supernet.stem(held_out), choice, 8)
        found[number] = torch.cat(norm.outputs).transpose(0, 1).flatten(1)
    return found


def test_one_norm_for_each_number_of_paths_normalises_where_one_for_all_does_not():
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels, random = torch.tensor(digits.target), Random(0)
    space, supernet = mixpath()
    optimizer = torch.optim.SGD(supernet.train().parameters(), lr=0.05, momentum=0.9)
    for step in range(200):
        batch = slice(64 * step % 1280, 64 * step % 1280 + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(supernet(x[batch], space.sample(random)), labels[batch]).backward()
        optimizer.step()

    one = Last(8)
    shadow = normalized(supernet, {number: Last(8) for number in "123"}, x[:1280], x[1280:])
    vanilla = normalized(supernet, dict.fromkeys("123", one), x[:1280], x[1280:])

    for found in shadow.values():
        assert found.mean(1).abs().max() < 0.05
        assert (found.var(1) - 1).abs().max() < 0.15
    assert vanilla[1].var(1).max() < 0.6 and vanilla[3].var(1).min() > 1.4
    assert min(vanilla[number].mean(1).abs().max() for number in (1, 3)) > 0.25
