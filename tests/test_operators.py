"""Whatever mixes space keeps one promise: (N, C, H, W) in, ceil(H/s) x ceil(W/s) out, at any width; what it exports
computes what it computes, merged or not, wherever it runs; and a narrow choice reads nothing but its own slice.
The same for signals, (N, C, L), where it says that it works on them.

Every operator and attention in its folder is tested here the moment its file exists, with each of its choices.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nas.export.onnx_graph import to_onnx
from search_spaces import SearchSpace, unroll
from supernets.attention import ATTENTIONS, make_attention
from supernets.calibration import recalibrate
from supernets.cost import CostTable, count
from supernets.elastic import start_near_identity
from supernets.merging import deployed, embedded, enlarged, fitted, fold, forms, merged, trimmed
from supernets.operators import OPERATORS, make_operator
from supernets.slicing import center, leading, same_padding
from supernets.spatial import BATCH_NORMS, convolution
from supernets.supernet import Supernet

WIDEST, NARROWEST = 22, 1  # 22: no other size of a weight is likely to be the same
SIZES = {"even": (12, 16), "odd": (13, 9)}
REGISTRY = OPERATORS | ATTENTIONS


@dataclass(frozen=True)
class Case:
    """An operator with one of its choices, or an attention, which has none."""

    name: str
    setting: tuple[tuple[str, object], ...] = ()
    stride: int = 1
    dims: int = 2

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.setting).replace(" ", "")
        return (
            f"{self.name}({settings})"
            + (f"/{self.stride}" if self.stride > 1 else "")
            + ("-signal" if self.dims == 1 else "")
        )

    def made(self, channels: int = WIDEST, seed: int = 0) -> nn.Module:
        """The whole operator, as the supernet holds it, with no weight left at 0 or 1."""
        torch.manual_seed(seed)
        if self.name in ATTENTIONS:
            module = make_attention(self.name, channels, self.dims)
        else:
            offered = OPERATORS[self.name].settings
            module = make_operator(self.name, channels, self.stride, offered, dims=self.dims)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return module.eval()

    def export(self, module: nn.Module, channels: int) -> nn.Module:
        return module.export(channels, **dict(self.setting)).eval()

    def run(self, module: nn.Module, images: Tensor) -> Tensor:
        return module(images, **dict(self.setting))

    def images(
        self, channels: int, size: tuple[int, int] = (12, 16), count: int = 2, seed: int = 1
    ) -> Tensor:
        """Images, or signals as long as the images are high."""
        return images(channels, size[: self.dims], count, seed)


def choices(name: str) -> list[tuple]:
    values = (
        [(setting, value) for value in offered] for setting, offered in OPERATORS[name].settings.items()
    )
    return list(itertools.product(*values))


def dims_of(name: str) -> tuple[int, ...]:
    return getattr(REGISTRY[name], "dims", (2,))


CASES = [
    Case(name, setting, stride, dims)
    for name in OPERATORS
    for dims in dims_of(name)
    for setting in choices(name)
    for stride in (1, 2)
] + [Case(name, dims=dims) for name in ATTENTIONS for dims in dims_of(name)]
LAST = [case for case in CASES if case.name in ATTENTIONS or case.setting == choices(case.name)[-1]]

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_width = pytest.mark.parametrize("channels", [WIDEST, 9, NARROWEST])
each_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def images(channels: int, size: tuple[int, ...] = (12, 16), count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def test_every_file_of_the_folders_is_registered():
    for registry, package in [(OPERATORS, "supernets.operators"), (ATTENTIONS, "supernets.attention")]:
        folder = Path(sys.modules[package].__file__).parent
        files = {path.stem for path in folder.glob("*.py") if not path.name.startswith("_")}

        assert files == set(registry)


@pytest.mark.parametrize("name", [*OPERATORS, *ATTENTIONS])
def test_every_file_says_what_it_is(name):
    module = sys.modules[REGISTRY[name].__module__]

    assert module.__doc__ and module.__doc__.strip()


@each_case
@each_size
@each_width
def test_the_stride_divides_the_size_and_rounds_up(case, size, channels):
    output = case.run(case.made(), case.images(channels, size))

    assert output.shape == (2, channels, *(-(-side // case.stride) for side in size[: case.dims]))


@each_case
@each_size
@each_width
def test_what_is_exported_computes_the_same(case, size, channels):
    module, x = case.made(), case.images(channels, size)

    exported = case.export(module, channels)

    torch.testing.assert_close(exported(x), case.run(module, x), rtol=1e-5, atol=1e-5)


@each_case
@each_width
def test_what_is_exported_has_weights_of_its_own(case, channels):
    module, x = case.made(), case.images(channels)
    exported, before = case.export(module, channels), case.run(module, x)

    with torch.no_grad():
        for parameter in exported.parameters():
            parameter.fill_(7)

    assert torch.equal(case.run(module, x), before), "export must copy the weights, it shares some"


@each_case
def test_every_weight_of_a_choice_learns(case):
    module, x = case.made(), case.images(WIDEST, count=8)
    exported = case.export(module, WIDEST)

    for output in (case.run(module, x), exported(x)):
        output.requires_grad_().square().sum().backward()  # a pooling has no weights that would require it

    for parameter in exported.parameters():
        assert parameter.grad is not None and parameter.grad.count_nonzero() > 0
    learning = [one for one in module.parameters() if one.grad is not None and one.grad.count_nonzero()]
    assert bool(learning) == any(True for _ in exported.parameters())


@cache
def learned_by(case: Case, channels: int) -> list[Tensor]:
    """For each weight, where a choice ever has a gradient at a width."""
    masks = [torch.zeros_like(parameter, dtype=torch.bool) for parameter in case.made().parameters()]
    for seed in range(8):  # one draw of weights may leave a unit dead that others use
        module = case.made(seed=seed)
        case.run(module, case.images(channels, count=8, seed=seed)).requires_grad_().square().sum().backward()
        for mask, parameter in zip(masks, module.parameters(), strict=True):
            mask |= False if parameter.grad is None else parameter.grad != 0
    return masks


@each_case
@each_width
def test_what_a_choice_never_learns_it_never_reads(case, channels):
    module, x = case.made(), case.images(channels, count=8)
    before, masks = case.run(module, x), learned_by(case, channels)

    with torch.no_grad():
        for mask, parameter in zip(masks, module.parameters(), strict=True):
            parameter[~mask] = 1e6

    torch.testing.assert_close(case.run(module, x), before)


@each_case
def test_a_narrow_choice_uses_the_low_indices_of_what_a_wide_one_uses(case):
    for wide, narrow in zip(learned_by(case, WIDEST), learned_by(case, 9), strict=True):
        for dimension in range(min(wide.ndim, 2)):  # output and input channels
            of_wide, of_narrow = (indices(mask, dimension) for mask in (wide, narrow))
            assert of_narrow == of_wide[: len(of_narrow)], "9 channels may use only the first of each weight"


def indices(mask: Tensor, dimension: int) -> list[int]:
    """Where along a dimension anything is true."""
    others = [one for one in range(mask.ndim) if one != dimension]
    return (mask.any(others) if others else mask).nonzero().flatten().tolist()


@each_case
def test_a_narrow_choice_reads_only_the_low_channels(case):
    module, x = case.made(), case.images(9)
    before = case.run(module, x)

    with torch.no_grad():
        for parameter in module.parameters():
            for dimension, size in enumerate(parameter.shape):
                if size == WIDEST:
                    parameter.narrow(dimension, 9, WIDEST - 9).fill_(float("nan"))

    assert torch.equal(case.run(module, x), before), "9 channels read more than the first 9 of a weight"


@each_case
def test_nothing_leaks_from_one_image_to_another(case):
    module, x = case.made(), case.images(9, count=3)

    alone = torch.cat([case.run(module, one) for one in x.split(1)])

    torch.testing.assert_close(case.run(module, x), alone, rtol=1e-5, atol=1e-5)


# -- branches that become one ------------------------------------------------------------------


@cache
def trained(case: Case, dtype: torch.dtype) -> nn.Module:
    """What a case exports after a hundred training steps, with batch-norm statistics of its own."""
    module = case.made().to(dtype).train()
    x = case.images(WIDEST, SIZES["odd"], count=4).to(dtype)
    target = torch.randn_like(case.run(module, x))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        (case.run(module, x) - target).square().mean().backward()
        optimizer.step()
        if hasattr(module, "constrain"):
            with torch.no_grad():
                module.constrain()
    return recalibrate(case.export(module, WIDEST), x)


MERGING = [case for case in CASES if merged(exported := case.export(case.made(), WIDEST)) is not exported]
EMBEDDING = [case for case in CASES if len(forms(merged(case.export(case.made(), WIDEST)))) > 1]


@pytest.mark.parametrize("case", MERGING, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_after_training_the_merged_branches_compute_the_same(case, dtype, tolerance):
    branched, x = trained(case, dtype), case.images(WIDEST, SIZES["odd"], count=4).to(dtype)
    norms = [module for module in branched.modules() if isinstance(module, BATCH_NORMS)]
    assert all((norm.running_mean.abs() > 1e-3).any() for norm in norms)

    expected, found = branched(x), merged(branched)(x)

    assert (found - expected).abs().max() < tolerance * expected.abs().max()
    assert not any(hasattr(module, "merge") for module in merged(branched).modules())


@pytest.mark.parametrize("case", EMBEDDING, ids=str)
@each_size
def test_embedded_it_computes_the_same_with_fewer_layers(case, size):
    plain, x = merged(case.export(case.made(), WIDEST)), case.images(WIDEST, size)

    whole = embedded(plain)

    torch.testing.assert_close(whole(x), plain(x), rtol=1e-5, atol=1e-5)
    assert len(list(whole.parameters())) < len(list(plain.parameters()))


@each_case
@pytest.mark.parametrize("channels", [WIDEST, NARROWEST])
def test_deployed_it_computes_the_same_and_costs_no_more(case, channels):
    exported, x = nn.Sequential(case.export(case.made(), channels)), case.images(channels, SIZES["odd"])

    plain = deployed(exported)

    torch.testing.assert_close(plain(x), exported(x), rtol=1e-5, atol=1e-5)
    assert (count(plain, x.shape[1:]) <= count(merged(exported), x.shape[1:])).all()
    again = fitted(merged(exported), plain.state_dict())
    assert [one.shape for one in again.parameters()] == [one.shape for one in plain.parameters()]


def around(weight: Tensor, *rings: int, padding: tuple[int, ...], **options) -> nn.Module:
    """A convolution whose kernel is an (O, I, k, ...) weight with so many rings of zeros along each dimension."""
    sides = [ring for ring in reversed(rings) for _ in range(2)]
    return convolution(torch.nn.functional.pad(weight, sides), padding=padding, **options).eval()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(
    ("rings", "padding", "left"),
    [
        ((2, 2), (3, 3), (3, 3)),
        ((1, 3), (2, 4), (3, 3)),
        ((2, 2), (1, 2), (5, 3)),  # no further than the padding goes
        ((2, 2), (0, 0), (7, 7)),
        ((0, 0), (1, 1), (3, 3)),
    ],
    ids=str,
)
def test_zeros_all_around_a_kernel_are_cut(rings, padding, left, dilation, stride):
    padding = tuple(dilation * pad for pad in padding)
    whole = around(
        torch.randn(4, 2, 3, 3), *rings, padding=padding, stride=stride, dilation=dilation, groups=2
    )
    whole.bias = nn.Parameter(torch.randn(4))
    x = images(4, (19, 18))

    small = trimmed(whole)

    assert small.kernel_size == left and (small is whole) == (left == whole.kernel_size)
    torch.testing.assert_close(small(x), whole(x))


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3), (5, 6), (1, 4)], ids=str)
def test_a_kernel_is_cut_by_as_much_on_either_side(sizes):
    weight = torch.zeros(1, 1, 7)
    weight[..., slice(*sizes)] = 1
    whole = convolution(weight, padding=3)

    assert trimmed(whole).kernel_size == (2 * max(3 - sizes[0], sizes[1] - 1 - 3) + 1,)


def test_trimming_leaves_alone_what_is_no_plain_convolution_with_zeros_around():
    inner = torch.randn(3, 1, 3, 3)
    circular = around(inner, 1, 1, padding=(2, 2), groups=3)
    circular.padding_mode = "circular"
    embeddable = OPERATORS["mixed"](6, 1, ((3, 5),), ("equal",)).export(6, (3, 5))
    with torch.no_grad():
        for one in embeddable.layers:
            one.weight[..., 0, :] = one.weight[..., -1, :] = 0
    network = nn.Sequential(circular, nn.Conv2d(3, 6, 3, padding="same"), embeddable, nn.BatchNorm2d(6))
    nn.init.zeros_(network[1].weight)

    assert trimmed(network) is network
    assert embedded(network)[2].kernel_size == (5, 5)


def test_a_trimmed_network_is_another_in_which_what_stands_twice_still_does():
    twice = around(torch.randn(3, 3, 3, 3), 1, 1, padding=(2, 2))
    network = nn.Sequential(twice, nn.Sequential(nn.ReLU(), twice), nn.Conv2d(3, 3, 3, padding=1)).eval()
    x = images(3)

    small = trimmed(network)

    assert network[0] is twice and twice.kernel_size == (5, 5)
    assert small[0] is small[1][1] and small[0].kernel_size == (3, 3)
    assert not any(one.training for one in small.modules())
    assert not {id(one) for one in small.parameters()} & {id(one) for one in network.parameters()}
    torch.testing.assert_close(small(x), network(x))
    assert trimmed(small) is small and fitted(network, network.state_dict()) is network
    blank = fitted(network, small.state_dict())
    blank.load_state_dict(small.state_dict())
    torch.testing.assert_close(blank(x), network(x))


def test_merging_leaves_the_network_as_it_was():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

        def merge(self):
            return nn.Conv2d(1, 1, 1)

    network = nn.Sequential(nn.Sequential(Twice(), nn.ReLU()), Twice())

    plain = merged(network)

    assert isinstance(network[0][0], Twice) and isinstance(network[1], Twice)
    assert isinstance(plain[0][0], nn.Conv2d) and isinstance(plain[1], nn.Conv2d)
    assert merged(plain) is plain and isinstance(merged(Twice()), nn.Conv2d)


@pytest.mark.parametrize("dilation", [1, 2])
def test_an_enlarged_kernel_computes_what_the_small_one_does(dilation):
    x, weight = torch.randn(2, 4, 9, 7), torch.randn(4, 1, 3, 3)

    small = torch.nn.functional.conv2d(x, weight, None, 2, same_padding(3, dilation), dilation, groups=4)
    large = torch.nn.functional.conv2d(x, enlarged(weight, 7, dilation), None, 2, 3, groups=4)

    torch.testing.assert_close(large, small)


def test_a_folded_norm_computes_what_both_did():
    convolution, norm = nn.Conv2d(3, 5, 3).double(), nn.BatchNorm2d(5).double()
    norm(3 * torch.randn(8, 5, 4, 4, dtype=torch.float64) + 1)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)

    weight, bias = fold(convolution.weight, convolution.bias, norm)

    folded = torch.nn.functional.conv2d(x, weight, bias)
    torch.testing.assert_close(folded, norm.eval()(convolution(x)), rtol=1e-12, atol=1e-12)


def test_slices_are_views_of_the_middle_and_of_the_low_channels():
    weight = torch.arange(6 * 4 * 7 * 7.0).view(6, 4, 7, 7)

    assert torch.equal(center(weight, 3), weight[:, :, 2:5, 2:5])
    assert torch.equal(center(weight, 7), weight)
    assert torch.equal(leading(weight, 5, 2), weight[:5, :2])
    for cut in (center(weight, 3), leading(weight, 5, 2)):
        assert cut.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "padding"), [(1, 1, 0), (3, 1, 1), (5, 2, 4), (9, 3, 12)]
)
def test_the_padding_that_keeps_the_size_grows_with_the_dilation(kernel_size, dilation, padding):
    assert same_padding(kernel_size, dilation) == padding


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if case.name in OPERATORS and case.stride == 1 and list(case.made().parameters())
        if not getattr(OPERATORS[case.name], "experimental", False)
    ],
    ids=str,
)
def test_where_operators_take_turns_each_starts_near_the_identity(case):
    torch.manual_seed(0)
    module = make_operator(case.name, WIDEST, 1, OPERATORS[case.name].settings, dims=case.dims)
    x = case.images(WIDEST, SIZES["odd"], count=8)

    start_near_identity(module, WIDEST)

    both = torch.stack([x.flatten(), case.run(module.train(), x).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.4


# -- in an architecture, and elsewhere ---------------------------------------------------------


EACH = [
    pytest.param(name, dims, id=name if dims == 2 else f"{name}-signal")
    for name in REGISTRY
    for dims in dims_of(name)
]


def all_of(name: str) -> list[tuple]:
    return list(OPERATORS[name].settings.items())


def plain(value):
    """As YAML has it."""
    return list(value) if isinstance(value, tuple) else value


def space_of(name: str, dims: int) -> SearchSpace:
    """A space of one operator with all its choices, or of one attention."""
    skeleton = {
        "resolution": [9, 12],
        "stem": {"width": 6},
        "stages": [{"width": [6, 10], "depth": [1, 2]}, {"width": [8, 11], "stride": 2}],
        "operators": [
            {name: {setting: [plain(value) for value in values] for setting, values in all_of(name)}}
            if name in OPERATORS
            else "identity"
        ],
        "expansion": [0.5, 2],
        "attention": name if name in ATTENTIONS else "none",
    }
    return unroll(skeleton, OPERATORS, ATTENTIONS, (3, 12, 12)[: dims + 1], 5)


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_its_cost_is_tabled_as_it_is_counted(name, dims):
    space = space_of(name, dims)
    supernet, random = Supernet(space), Random(0)
    architectures = [space.sample(random) for _ in range(12)]

    counted = [
        count(merged(supernet.export(one)), space.input_shape(one.resolution)) for one in architectures
    ]

    np.testing.assert_array_equal(CostTable(space).of(architectures), counted)


@pytest.mark.parametrize(("name", "dims"), EACH)
def test_a_network_of_it_computes_the_same_sliced_and_exported(name, dims):
    space = space_of(name, dims)
    supernet, random = Supernet(space).eval(), Random(0)

    for architecture in [space.sample(random) for _ in range(12)]:
        x = images(3, space.input_shape(architecture.resolution)[1:])
        torch.testing.assert_close(
            supernet.export(architecture)(x), supernet(x, architecture), rtol=1e-5, atol=1e-5
        )


@each_case
@pytest.mark.parametrize("channels", [WIDEST, NARROWEST])
def test_onnx_runtime_computes_the_same_from_the_direct_graph(case, channels):
    exported, x = merged(case.export(case.made(), channels)), case.images(channels, SIZES["odd"], count=3)

    model = to_onnx(exported, x.shape[1:])  # raises, rather than fall back, where a layer is not known

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [output] = session.run(["logits"], {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), exported(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", LAST, ids=str)
def test_torch_export_computes_the_same_for_any_batch(case):
    exported, x = merged(case.export(case.made(), 9)), case.images(9, SIZES["odd"], count=3)

    program = torch.export.export(exported, (x,), dynamic_shapes=({0: torch.export.Dim("N")},))

    for batch in (x, x[:2]):
        torch.testing.assert_close(program.module()(batch), exported(batch))
