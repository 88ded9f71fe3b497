"""The batch-norm statistics of a subnet are the plain mean over batches of its own, whatever was before; without
them it knows next to nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.data import Data, load
from nas.data.batches import Batches, normalize
from nas.evaluation import accuracy_of
from search_spaces import Architecture, SearchSpace, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate, share_statistics, with_own_statistics
from supernets.elastic import Norm
from supernets.folding import CACHED
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.samplers.uniform import Uniform
from supernets.spatial import channels_last
from supernets.supernet import Residual, Supernet, make_supernet
from supernets.training import train


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return unroll(read_skeleton("tiny"), OPERATORS, ATTENTIONS, (1, 8, 8), 10)


@pytest.fixture
def subnet(space) -> nn.Module:
    return Supernet(space).export(largest(space))


def largest(space: SearchSpace) -> Architecture:
    return space.decode([len(decision.options) for decision in space.decisions])


def images(count: int, seed: int = 0) -> Tensor:
    return 3 * torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) - 1


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]


def by_hand(network: nn.Module, batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of what each norm sees, averaged over the batches, with every norm by its batch."""
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms(network)}
    hooks = [
        norm.register_forward_pre_hook(
            lambda norm, inputs: seen[norm].append((inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))))
        )
        for norm in seen
    ]
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for hook in hooks:
        hook.remove()
    return [
        tuple(torch.stack(parts).mean(0) for parts in zip(*pairs, strict=True)) for pairs in seen.values()
    ]


def test_the_statistics_are_the_mean_over_the_batches(space, subnet):
    data = images(96)
    expected = by_hand(Supernet(space).export(largest(space)), list(data.split(32)))

    recalibrate(subnet, data, batch_size=32)

    assert len(expected) == len(norms(subnet)) > 5
    for norm, (mean, variance) in zip(norms(subnet), expected, strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)


SPACES = ["digits", "mobile", "resnet", "signal", "nasnet"]


def unrolled(preset: str) -> SearchSpace:
    shape = (2, 64) if preset == "signal" else (1, 16, 16)
    return unroll(read_skeleton(preset), OPERATORS, ATTENTIONS, shape, 10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("preset", SPACES)
def test_statistics_are_those_of_norms_in_training_mode(preset, seed):
    space = unrolled(preset)
    architecture = space.sample(Random(seed))
    batch = torch.randn(24, *space.input_shape(architecture.resolution)).double()
    plain, own = (channels_last(make_supernet(space).export(architecture).double()) for _ in range(2))
    before = batch.clone()

    with torch.no_grad():
        plain.eval()
        for norm in norms(plain):
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for part in batch.split(8):
            plain(part)
    recalibrate(own, batch, batch_size=8)

    assert torch.equal(batch, before)
    assert len(norms(own)) > 3
    for mine, theirs in zip(norms(own), norms(plain), strict=True):
        assert mine.num_batches_tracked == theirs.num_batches_tracked == 3
        torch.testing.assert_close(mine.running_mean, theirs.running_mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_of_many_values_six_digits_are_right(layout):
    network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8))
    data = (2 * torch.randn(200, 1, 32, 32) + 3).contiguous(memory_format=layout)

    recalibrate(channels_last(network), data)

    with torch.no_grad():
        expected = network[0].double()(data.double())
    mean, variance = expected.mean((0, 2, 3)), expected.var((0, 2, 3))
    torch.testing.assert_close(network[1].running_mean.double(), mean, rtol=3e-6, atol=3e-6)
    torch.testing.assert_close(network[1].running_var.double(), variance, rtol=3e-6, atol=1e-9)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardswish, nn.SiLU])
def test_an_activation_sees_every_image_normalised_and_once(activation):
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        rows = [[nn.Conv2d(wide, 8, 1), nn.BatchNorm2d(8), activation()] for wide in (1, 8)]
        return nn.Sequential(*rows[0], *rows[1], nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(8), nn.Identity())

    own, plain = network().double(), network().double()
    data = torch.randn(70, 1, 16, 16).double()
    for norm in norms(plain):
        norm.momentum = None

    recalibrate(own, data)
    with torch.no_grad():
        plain.train()(data)

    assert data[:, :1].numel() * 8 > CACHED
    for mine, theirs in zip(norms(own), norms(plain), strict=True):
        torch.testing.assert_close(mine.running_mean, theirs.running_mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=1e-9, atol=1e-12)


def test_networks_with_statistics_of_their_own_share_their_weights_alone(space):
    network = make_supernet(space).export(space.sample(Random(0))).eval()
    first, second = with_own_statistics(network), with_own_statistics(network)
    before = [norm.running_mean.clone() for norm in norms(network)]

    recalibrate(first, images(64))
    recalibrate(second, 3 * images(64) + 1)

    shared = [one for one in first.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert shared == [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    for one, other in zip(norms(first), norms(second), strict=True):
        assert not torch.equal(one.running_mean, other.running_mean)
    assert all(
        torch.equal(norm.running_mean, mean) for norm, mean in zip(norms(network), before, strict=True)
    )


def test_what_comes_before_a_norm_stays_as_it_is_where_somebody_else_sees_it():
    row = nn.Sequential(nn.Identity(), nn.BatchNorm2d(1), nn.ReLU())
    shared = Residual(OrderedDict(identity=nn.Identity(), relu=nn.ReLU(), norm=nn.BatchNorm2d(1)))
    data = images(64)
    before = data.clone()

    for network in (row, shared):
        recalibrate(network, data)
        assert torch.equal(data, before)
    torch.testing.assert_close(shared[2].running_mean, data.relu().mean((0, 2, 3)))


def test_one_value_of_a_channel_has_no_variance():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))

    with pytest.raises(ValueError, match="more than one value of each channel, and the batch has 1"):
        recalibrate(network, torch.ones(1, 1, 1, 1))


def test_what_was_there_before_does_not_matter(space, subnet):
    recalibrate(subnet, images(64), batch_size=32)
    expected = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}

    recalibrate(subnet, 50 + images(128, seed=1), batch_size=32)
    recalibrate(subnet, images(64), batch_size=32)

    assert all(torch.equal(tensor, expected[name]) for name, tensor in subnet.state_dict().items())


def test_another_subnet_in_between_does_not_matter(space):
    supernet = Supernet(space).eval()
    one, other = (space.sample(Random(seed)) for seed in (0, 1))

    def scored(architecture: Architecture) -> Tensor:
        return recalibrate(supernet.export(architecture), images(64), batch_size=32)(images(8, seed=2))

    before, _, after = scored(one), scored(other), scored(one)

    assert torch.equal(before, after)


def test_the_supernet_is_left_as_it_was(space):
    supernet = Supernet(space)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    recalibrate(supernet.export(largest(space)), images(64))

    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_only_the_statistics_change_and_the_subnet_is_ready_for_use(subnet):
    weights = {name: one.detach().clone() for name, one in subnet.named_parameters()}

    ready = recalibrate(subnet.train(), images(64))

    assert ready is subnet and not any(module.training for module in subnet.modules())
    assert all(torch.equal(one, weights[name]) for name, one in subnet.named_parameters())
    assert not any(one.requires_grad for one in subnet.buffers())


@pytest.mark.parametrize(("count", "batches"), [(64, 2), (79, 2), (80, 3), (10, 1), (1, 1)])
def test_a_last_batch_counts_if_it_is_half_full_or_the_only_one(subnet, count, batches):
    recalibrate(subnet, images(count), batch_size=32)

    assert {int(norm.num_batches_tracked) for norm in norms(subnet)} == {batches}


def test_dropout_is_off_while_statistics_are_taken():
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1))
    data = images(64)

    recalibrate(network, data, batch_size=64)

    torch.testing.assert_close(network[1].running_mean, data.mean((0, 2, 3)))


def test_without_statistics_of_its_own_a_subnet_scores_far_worse(space, tmp_path):
    splits = load(Data("digits"))
    batches = Batches(splits.train, splits.mean, splits.std, batch_size=64, seed=0)
    supernet = Supernet(space)
    recipe = Training(epochs=8, batch_size=64, device="cpu")
    train(supernet, batches, lambda number: batches(number), Uniform(space, None, 0), recipe, tmp_path / "x")
    calibration, validation = (
        normalize(part.images, splits.mean, splits.std) for part in (splits.calibration, splits.validation)
    )
    labels = torch.from_numpy(splits.validation.labels)

    def score(calibrated: bool) -> list[float]:
        subnets = [supernet.export(space.sample(Random(seed))).eval() for seed in range(8)]
        if calibrated:
            subnets = [recalibrate(subnet, calibration) for subnet in subnets]
        return [accuracy_of(subnet, validation, labels) for subnet in subnets]

    with_statistics, without = np.mean(score(True)), np.mean(score(False))

    assert with_statistics > 60
    assert without < with_statistics - 25


# -- one set for a whole supernet --------------------------------------------------------------


def test_shared_statistics_of_one_architecture_are_its_own(space):
    supernet, architecture = Supernet(space), largest(space)

    share_statistics(supernet, [architecture] * 2, images(512))

    own = recalibrate(supernet.export(architecture), images(512))
    for shared, mine in zip(norms(supernet.export(architecture)), norms(own), strict=True):
        torch.testing.assert_close(shared.running_mean, mine.running_mean)
        torch.testing.assert_close(shared.running_var, mine.running_var)


def test_shared_statistics_are_the_mean_over_the_architectures_that_used_a_channel(space):
    supernet = Supernet(space)
    narrow, wide = (space.ends[0], largest(space))
    share_statistics(supernet, [narrow], images(256))
    [(name, norm), *_] = [
        (name, one) for name, one in supernet.blocks[0].named_modules() if isinstance(one, Norm)
    ]
    of_narrow = norm.running_mean.clone()
    share_statistics(supernet, [wide], images(256))
    of_wide = norm.running_mean.clone()

    share_statistics(supernet, [narrow, wide, narrow], images(256))

    assert name == "expand_norm" and not torch.equal(of_narrow, of_wide)
    used = len(norms(supernet.export(narrow))[1].running_mean)
    assert used < len(of_wide)
    torch.testing.assert_close(
        norm.running_mean[:used], ((2 * of_narrow + of_wide) / 3)[:used], rtol=1e-5, atol=1e-6
    )
    assert torch.equal(norm.running_mean[used:], of_wide[used:])
    assert torch.equal(of_narrow[used:], torch.zeros_like(of_narrow[used:]))


def test_shared_statistics_change_no_weight_and_leave_evaluation_mode(space):
    supernet = Supernet(space)
    before = {name: weight.detach().clone() for name, weight in supernet.named_parameters()}

    share_statistics(supernet, [space.sample(Random(seed)) for seed in range(5)], images(100))

    assert not any(module.training for module in supernet.modules())
    assert all(torch.equal(weight, before[name]) for name, weight in supernet.named_parameters())
