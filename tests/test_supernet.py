"""A subnet must not depend on how we got it: sliced in place or exported, it is one network; and what one
architecture does to the supernet, in a forward or a backward pass, no other can notice.
"""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor, nn

from search_spaces import Architecture, SearchSpace, read_skeleton, unroll
from search_spaces.skeleton import ACTIVATIONS
from supernets.attention import ATTENTIONS
from supernets.elastic import Norm
from supernets.operators import OPERATORS, paths
from supernets.supernet import Supernet

SHAPES = {"tiny": (1, 8, 8), "digits": (2, 8, 10), "mobile": (3, 16, 16)}


SKELETON = {"stem": {"width": 16}, "stages": [{"width": 16}], "expansion": 4}


def space_like(preset: str) -> SearchSpace:
    """A preset with every operator, attention and activation, several resolutions, a head and a stem stride."""
    skeleton = read_skeleton(preset)
    height = SHAPES[preset][1]
    stages = [
        {**stage, "activation": activation}
        for stage, activation in zip(skeleton["stages"], ACTIVATIONS, strict=False)
    ]
    skeleton |= {
        "stages": stages,
        "operators": list(OPERATORS),
        "attention": list(ATTENTIONS),
        "resolution": [height - 3, height],
        "expansion": [0.5, 1, 3],
        "head": {"width": 0 if preset == "tiny" else 20},
        "stem": {**skeleton["stem"], "stride": 2 if preset == "mobile" else 1, "kernel_size": 5},
    }
    return unroll(skeleton, OPERATORS, ATTENTIONS, SHAPES[preset], 7)


def trained_a_little(space: SearchSpace, seed: int = 0) -> Supernet:
    """A supernet of which no weight or statistic is at its initial 0 or 1."""
    supernet = Supernet(space, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for module in supernet.modules():
            if isinstance(module, Norm):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return supernet


@pytest.fixture(scope="module", params=SHAPES)
def supernet(request) -> Supernet:
    return trained_a_little(space_like(request.param))


@pytest.fixture
def small() -> Supernet:
    return trained_a_little(space_like("tiny"))


def extremes(space: SearchSpace) -> list[Architecture]:
    """The architectures of all first and of all last options."""
    last = [len(decision.options) for decision in space.decisions]
    return [space.decode([1] * len(last)), space.decode(last)]


def images_for(space: SearchSpace, resolution: int, count: int = 4, seed: int = 0) -> Tensor:
    shape = space.input_shape(resolution)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def close(one: Tensor, other: Tensor) -> None:
    scale = other.abs().max().item()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize("training", [False, True], ids=["running statistics", "batch statistics"])
def test_an_exported_subnet_computes_what_the_supernet_computes(supernet, training):
    space, random = supernet.space, Random(0)
    supernet.train(training)

    for architecture in [space.sample(random) for _ in range(50)]:
        images = images_for(space, architecture.resolution)
        with torch.no_grad():
            sliced = supernet(images, architecture)
            exported = supernet.export(architecture)(images)
        assert sliced.shape == (4, space.classes)
        close(exported, sliced)


def test_an_exported_subnet_has_the_gradients_of_the_supernet(supernet):
    space = supernet.space
    supernet.train()

    for seed in range(5):
        architecture = space.sample(Random(seed))
        images = images_for(space, architecture.resolution)
        subnet = supernet.export(architecture)
        supernet.zero_grad()
        for output in (supernet(images, architecture), subnet(images)):
            output.square().sum().backward()
        # around the operators an exported weight is one slice: both hold the same numbers, here added up
        mine, theirs = (
            sum(
                one.grad.double().square().sum()
                for name, one in network.named_parameters()
                if one.grad is not None and ".operator" not in name
            )
            for network in (supernet, subnet)
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=0)


def test_images_are_brought_to_the_resolution_of_the_architecture(supernet):
    space = supernet.space
    supernet.eval()
    low, high = space.resolutions
    architecture = space.sample(Random(0))
    architecture = Architecture(low, architecture.stages)
    full = images_for(space, high)
    shrunk = nn.functional.interpolate(full, space.input_shape(low)[1:], mode="bilinear", antialias=True)

    close(supernet(full, architecture), supernet(shrunk, architecture))


def test_evaluating_another_architecture_in_between_changes_nothing(supernet):
    space, random = supernet.space, Random(0)
    first, second = space.sample(random), space.sample(random)
    images = images_for(space, max(space.resolutions))
    state = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    for training in (False, True):
        supernet.train(training)
        with torch.no_grad():
            before, _, after = (supernet(images, one) for one in (first, second, first))
        assert torch.equal(before, after)

    assert all(torch.equal(tensor, state[name]) for name, tensor in supernet.state_dict().items())


def test_a_block_adds_to_its_input_where_shapes_allow(small):
    block, choice = small.blocks[1], small.space.stages[0].blocks[1].choices[-1]
    x = torch.randn(2, 8, 6, 6)
    torch.nn.init.zeros_(block.project_norm(choice).weight)
    torch.nn.init.zeros_(block.project_norm(choice).bias)

    assert torch.equal(block.train()(x, choice, 8), x)
    assert not block(x, choice, 12).any()  # another width: nothing to add to


def test_what_an_architecture_does_not_use_gets_no_gradient(supernet):
    space = supernet.space
    supernet.train()
    for seed in range(8):
        architecture = space.sample(Random(seed))
        supernet.zero_grad(set_to_none=True)
        supernet(images_for(space, architecture.resolution), architecture).square().sum().backward()

        with_gradient = {name for name, one in supernet.named_parameters() if one.grad is not None}
        # which of an operator's own weights a choice uses, the suite of operators knows
        inside = tuple(
            f"blocks.{position}.operators.{choice.operator}."
            for position, choice, _ in supernet.rows(architecture)
        )
        different = with_gradient ^ used_by(supernet, architecture)
        assert not {name for name in different if not name.startswith(inside)}


def used_by(supernet: Supernet, architecture: Architecture) -> set[str]:
    """The names of the weights of the blocks, operators, attentions and last norms that are there."""
    names = {name for name, _ in supernet.named_parameters() if not name.startswith("blocks.")}
    for position, choice, _ in supernet.rows(architecture):
        others = [
            f"blocks.{position}.{kind}.{name}."
            for kind, chosen, offered in [
                ("operators", choice.operator, OPERATORS),
                ("norms", choice.operator, OPERATORS),
                ("attentions", choice.attention, ATTENTIONS),
                (
                    "project_norms",
                    str(paths(choice.operator, choice.settings)),
                    supernet.blocks[position].project_norms,
                ),
            ]
            for name in offered
            if name != chosen
        ]
        names |= {
            name
            for name, _ in supernet.named_parameters()
            if name.startswith(f"blocks.{position}.") and not name.startswith(tuple(others))
        }
    return names


def test_the_gradient_of_a_narrow_architecture_stays_in_its_slice(small):
    smallest, _ = extremes(small.space)
    small.train()

    small(images_for(small.space, smallest.resolution), smallest).square().sum().backward()

    block, stage = small.blocks[0], smallest.stages[0]
    assert block.project.weight.grad[: stage.width].count_nonzero() > 0
    assert block.project.weight.grad[stage.width :].count_nonzero() == 0


def test_training_an_exported_subnet_leaves_the_supernet_as_it_was(small):
    architecture = small.space.sample(Random(0))
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    subnet = small.train().export(architecture)
    optimizer = torch.optim.SGD(subnet.parameters(), 0.5)

    for seed in range(3):
        optimizer.zero_grad()
        subnet(images_for(small.space, architecture.resolution, seed=seed)).square().sum().backward()
        optimizer.step()

    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_training_the_supernet_leaves_an_exported_subnet_as_it_was(small):
    architecture = small.space.sample(Random(0))
    images = images_for(small.space, architecture.resolution)
    subnet = small.eval().export(architecture)
    before = subnet(images)

    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(1)

    assert torch.equal(subnet(images), before)


def test_a_subnet_holds_plain_modules_and_only_its_own_weights(small):
    smallest, largest = (small.export(one) for one in extremes(small.space))

    sizes = [sum(one.numel() for one in network.parameters()) for network in (smallest, largest, small)]

    assert sizes[0] < sizes[1] < sizes[2]
    assert not any(isinstance(module, Norm | Supernet) for module in largest.modules())


def test_the_seed_decides_the_weights_and_nothing_else_does():
    space = space_like("tiny")
    torch.manual_seed(1)
    one = Supernet(space, seed=3).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    same, other = Supernet(space, seed=3).state_dict(), Supernet(space, seed=4).state_dict()

    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert torch.equal(torch.rand(1), drawn)  # making a supernet draws nothing from the global generator


def test_where_operators_take_turns_their_kernels_start_near_the_identity_and_alone_they_do_not():
    several, alone = (
        Supernet(unroll({**SKELETON, "operators": names}, OPERATORS, ATTENTIONS, (1, 8, 8), 10)).blocks[0]
        for names in (["depthwise", "dense", "max_pool"], ["depthwise"])
    )
    channels = range(several.operators["depthwise"].weight.shape[0])

    depthwise = several.operators["depthwise"].weight
    dense = several.operators["dense"].weight
    first = alone.operators["depthwise"].weight

    middle = depthwise.shape[-1] // 2
    assert depthwise[:, 0, middle, middle].mean() > 0.7
    assert dense[channels, channels, dense.shape[2] // 2, dense.shape[3] // 2].mean() > 0.7
    assert first[:, 0, middle, middle].mean().abs() < 0.3
    depthwise.data[:, 0, middle, middle] -= 1
    torch.testing.assert_close(depthwise / 0.3, first)  # but for that, the very draw of the same seed


def test_an_architecture_of_another_space_cannot_be_exported(small):
    other = space_like("digits").sample(Random(0))

    with pytest.raises(ValueError, match=r"\Athe architecture has 3 stages, the space tiny 2\Z"):
        small.export(other)
