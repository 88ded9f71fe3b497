"""A kernel that blocks of a stage share is one tensor: in the supernet, in the gradient, in the count, in every file of
the export; and sharing is a decision only where there is something to share.
"""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dashboard.drawing import network
from dashboard.words import architecture_lines
from nas.cli import main
from nas.export.checkpoint import load_subnet
from nas.export.onnx_graph import to_onnx
from nas.storage.store import Store
from search_spaces import Architecture, Choice, SearchSpace, StageChoice, read_skeleton, unroll
from search_spaces.parts import Block, Option, Stage
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.cost import CostTable, count
from supernets.merging import merged
from supernets.operators import OPERATORS
from supernets.spatial import BATCH_NORMS
from supernets.supernet import Supernet
from tests.conftest import TinyRun, write_experiment
from tests.test_supernet import close, images_for, trained_a_little

DEPTHWISE, DENSE = {"depthwise": {"kernel_size": [3, 5], "dilation": 1}}, {"dense": {"kernel_size": 3}}
SMALL = {  # one stage that may share, one that must where it can, one that cannot
    "stem": {"width": 4},
    "stages": [
        {"width": [4, 6], "depth": [1, 2, 4], "share_kernels": [False, True]},
        {"width": 8, "stride": 2, "depth": 3, "share_kernels": True, "operators": [DENSE, "identity"]},
        {"width": 8, "operators": ["identity"]},
    ],
    "operators": [DEPTHWISE, DENSE, {"max_pool": {"kernel_size": 3}}],
}
ELASTIC = SMALL | {
    "resolution": [7, 10],
    "expansion": [0.4, 0.5, 1.5],  # at 4 channels the first two are 2 hidden channels
    "attention": ["none", "se"],
    "head": {"width": 10},
}


def space_of(skeleton, image_shape=(1, 8, 8)) -> SearchSpace:
    return unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, image_shape, 10)


def sharing(space: SearchSpace, number: int, seed: int = 0) -> list[Architecture]:
    """Drawn architectures of which each shares kernels by choice."""
    random = Random(seed)
    drawn = (space.sample(random) for _ in itertools.count())
    return list(itertools.islice((one for one in drawn if one.stages[0].share_kernels), number))


def rows_of(stage: Stage) -> list[StageChoice]:
    """All that a stage may become, from what sharing means, without the methods that are tested."""
    found = []
    for width, depth in itertools.product(stage.widths, stage.depths):
        for row in itertools.product(*(block.choices for block in stage.blocks[:depth])):
            chosen = Counter(choice.operator for choice in row[1:])
            can = any(chosen[name] > 1 for name in ("depthwise", "dense"))
            found += [StageChoice(width, row, share) for share in (stage.share_kernels if can else (False,))]
    return found


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return space_of(ELASTIC, (2, 10, 12))


@pytest.fixture
def supernet(space) -> Supernet:
    return trained_a_little(space)


SHAREABLE = [name for name in OPERATORS if getattr(OPERATORS[name], "shareable", False)]
ONE = {
    "stem": {"width": 6},
    "stages": [
        {"width": 6, "depth": 4, "share_kernels": [False, True], "operators": [DEPTHWISE]},
        {"width": 8, "operators": [{"max_pool": {"kernel_size": 3}}]},
    ],
}


@pytest.fixture
def one() -> Architecture:
    """Blocks 2 and 4 share one slice, block 3 has another of the same weight; then a pooling."""
    first, second = space_of(ONE).stages
    small, large = first.blocks[0].choices  # kernels 3 and 5
    return Architecture(
        8, (StageChoice(6, (small, small, large, small), True), StageChoice(8, second.blocks[0].choices))
    )


# -- the decision ------------------------------------------------------------------------------


def test_every_architecture_has_one_spelling_and_the_size_counts_them_all():
    space = space_of(SMALL)

    everything = [Architecture(8, row) for row in itertools.product(*map(rows_of, space.stages))]

    assert len(everything) == len(set(everything)) == space.size
    vectors = [space.encode(one) for one in everything]
    assert len(set(vectors)) == len({one.key for one in everything}) == space.size
    assert [space.decode(vector) for vector in vectors] == everything
    shared = space.sharing(np.array(vectors)).tolist()
    for one, row in zip(everything, shared, strict=True):
        for stage, chosen, share in zip(space.stages, one.stages, row, strict=True):
            assert chosen.share_kernels == (share and stage.can_share(chosen.blocks))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shareable", [("a",), ("a", "b"), ("a", "b", "d")])
def test_a_stage_counts_the_rows_of_any_depth(depth, shareable):
    options = (Option("a", (("k", (1, 2)),)), Option("b"), Option("c", (("k", (1, 2)),)), Option("d"))
    stage = Stage((8,), (depth,), 1, (Block(options),) * max(depth, 3), "relu", (True, False), shareable)

    rows = list(itertools.product(*(block.choices for block in stage.blocks[:depth])))

    assert stage.rows(depth) == sum(2 if stage.can_share(row) else 1 for row in rows)


def test_what_does_not_share_keeps_the_name_it_had():
    pool, dense = Choice("max_pool", (("kernel_size", 3),)), Choice("dense", (("kernel_size", 5),), 0.5, "se")
    stages = StageChoice(12, (dense, pool, dense, dense)), StageChoice(16, (pool,))

    # computed before stages could share
    assert Architecture(8, stages).key == "246142543ff2"
    shared = Architecture(8, (replace(stages[0], share_kernels=True), stages[1]))
    assert "share_kernels" not in Architecture(8, stages).to_json()
    assert shared.key != Architecture(8, stages).key
    assert Architecture.from_json(shared.to_json()) == shared
    assert str(shared).startswith("8 px; width 12, shared kernels: dense(kernel_size=5) ×0.5 se | max_pool")


def test_a_space_in_which_nothing_is_shared_is_stored_as_it_was():
    stored = json.loads(space_of({"stages": [{"width": 8}], "operators": ["identity"]}).to_json())

    assert set(stored["stages"][0]) == {"widths", "depths", "stride", "blocks", "activation"}
    assert SearchSpace.from_json(space_of(SMALL).to_json()) == space_of(SMALL)


def test_another_spelling_is_refused_with_its_place():
    space = space_of(SMALL)
    pair = next(
        one for one in sharing(space, 50) if len({block.operator for block in one.stages[0].blocks[1:]}) > 1
    )
    first, must, last = pair.stages
    single = replace(first, blocks=first.blocks[:2])
    cannot = replace(last, share_kernels=True)

    for stages, message in [
        ((single, must, last), r"stage 0 share_kernels is True, but no two blocks .*\(depthwise, dense\)"),
        (
            (first, must, cannot),
            r"stage 2 share_kernels is True, but no two blocks .*\(none\); it must be False",
        ),
        ((first, replace(must, share_kernels=not must.share_kernels), last), r"stage 1 share_kernels is "),
    ]:
        with pytest.raises(ValueError, match=rf"\A{message}[^\n]*\Z"):
            space.check(replace(pair, stages=stages))


def test_the_least_of_a_space_shares_and_the_most_does_not():
    space = space_of(
        {"stages": [{"width": 8, "depth": 3, "share_kernels": [False, True]}], "operators": ["dense"]}
    )
    table = CostTable(space)

    for least, most in (space.ends, (table.smallest, table.largest)):
        assert (least.stages[0].share_kernels, most.stages[0].share_kernels) == (True, False)


# -- the weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_shared_only_if_it_has_weights_and_no_norms_inside(name):
    settings = json.loads(json.dumps(OPERATORS[name].settings))
    space = space_of({"stages": [{"width": 8}], "operators": [{name: settings}]})
    operator = Supernet(space).blocks[0].operators[name]
    exported = [operator.export(8, **dict(one.settings)) for one in space.stages[0].blocks[0].choices]

    weights = all(list(module.parameters()) for module in (operator, *exported))
    norms = any(
        isinstance(part, nn.modules.batchnorm._BatchNorm)
        for module in (operator, *exported)
        for part in module.modules()
    )
    assert not getattr(OPERATORS[name], "shareable", False) or (weights and not norms)


@pytest.mark.parametrize("training", [False, True], ids=["running statistics", "batch statistics"])
def test_an_export_that_shares_computes_what_the_supernet_computes(supernet, training):
    supernet.train(training)
    for one in sharing(supernet.space, 30):
        images = images_for(supernet.space, one.resolution)
        with torch.no_grad():
            close(supernet.export(one)(images), supernet(images, one))


def test_blocks_that_share_read_the_second_blocks_weights_alone(one):
    supernet = trained_a_little(space_of(ONE)).eval()
    images = images_for(supernet.space, 8)
    before = supernet(images, one)
    alone = replace(one, stages=(replace(one.stages[0], share_kernels=False), one.stages[1]))
    with torch.no_grad():
        for block in supernet.blocks[2:4]:
            block.operators["depthwise"].weight.fill_(torch.nan)

    assert torch.equal(supernet(images, one), before)
    assert supernet(images, alone).isnan().all()


def test_one_weight_turned_over_changes_every_block_that_uses_it(one):
    supernet = trained_a_little(space_of(ONE)).eval()
    subnet = supernet.export(one)
    kernels = [block.operator for block in (subnet.block0, subnet.block1, subnet.block2, subnet.block3)]
    x = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    before = [kernel(x) for kernel in kernels]

    assert kernels[1] is kernels[3] and kernels[0].weight is not kernels[1].weight is not kernels[2].weight
    with torch.no_grad():
        subnet.block1.operator.weight.neg_()

    assert [torch.equal(kernel(x), -was) for kernel, was in zip(kernels, before, strict=True)] == [
        False,
        True,
        False,
        True,
    ]


def test_the_gradient_of_a_shared_kernel_is_the_sum_over_its_places(one):
    supernet = trained_a_little(space_of(ONE)).train()
    images = images_for(supernet.space, 8)
    shared, apart = supernet.export(one), supernet.export(one)
    apart.block3.operator = apart.block3.operator.__class__(6, 6, 3, padding=1, groups=6, bias=False)
    apart.block3.load_state_dict(shared.block3.state_dict())

    for subnet in (shared, apart):
        subnet(images).square().sum().backward()
    supernet(images, one).square().sum().backward()

    places = [block.operator.weight.grad for block in (apart.block1, apart.block3, apart.block2)]
    assert min(grad.abs().max() for grad in places) > 0
    close(shared.block1.operator.weight.grad, places[0] + places[1])
    whole = places[2].clone()
    whole[:, :, 1:4, 1:4] += places[0] + places[1]
    close(supernet.blocks[1].operators["depthwise"].weight.grad, whole)
    assert supernet.blocks[3].operators["depthwise"].weight.grad is None


def test_what_a_stage_always_shares_is_built_once_and_used_by_every_block():
    space = space_of(
        {"stages": [{"width": 8, "depth": [2, 4], "share_kernels": True}], "operators": ["dense", "identity"]}
    )
    supernet = trained_a_little(space).train()
    dense = [position for position, block in enumerate(supernet.blocks) if "dense" in block.operators]

    assert dense == [0, 1]
    for one in [space.sample(Random(seed)) for seed in range(20)]:
        images = images_for(space, 8)
        close(supernet.export(one)(images), supernet(images, one))


# -- the cost ----------------------------------------------------------------------------------


def test_sharing_saves_the_repeated_kernels_and_nothing_else(one):
    space = space_of(ONE)
    alone = replace(one, stages=(replace(one.stages[0], share_kernels=False), one.stages[1]))

    saved = np.diff(CostTable(space).of([one, alone]), axis=0)[0]

    assert saved.tolist() == [0, 6 * 9, 4 * 6 * 9]  # one 3×3 kernel of six channels
    exports = [Supernet(space).export(architecture) for architecture in (one, alone)]
    assert saved.tolist() == np.diff([count(subnet, (1, 8, 8)) for subnet in exports], axis=0)[0].tolist()


# -- the files ---------------------------------------------------------------------------------


def calibrated(supernet: Supernet, one: Architecture) -> nn.Module:
    images = images_for(supernet.space, one.resolution, count=32)
    return merged(recalibrate(supernet.eval().export(one), images))


def test_the_onnx_graph_holds_a_shared_kernel_once_and_its_norms_apart(one):
    subnet = calibrated(trained_a_little(space_of(ONE)), one)

    model = onnx.load_from_string(to_onnx(subnet, (1, 8, 8)))

    names = [tensor.name for tensor in model.graph.initializer]
    kernels = [name for name in names if name.endswith(".operator.weight")]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    held = next(one for one in model.graph.initializer if one.name == "block1.operator.weight")
    assert kernels == ["block0.operator.weight", "block1.operator.weight", "block2.operator.weight"]
    assert [node.input[1] for node in convolutions].count(held.name) == 2
    assert np.array_equal(onnx.numpy_helper.to_array(held), subnet.block1.operator.weight.detach().numpy())
    assert [node.op_type for node in model.graph.node].count(
        "BatchNormalization"
    ) == 3  # one after the pooling
    assert len(set(names)) == len(names)


def test_onnx_runtime_computes_what_a_network_that_shares_computes(supernet):
    for one in sharing(supernet.space, 12, seed=3):
        subnet, images = calibrated(supernet, one), images_for(supernet.space, one.resolution, seed=5)
        session = onnxruntime.InferenceSession(to_onnx(subnet, tuple(images.shape[1:])))
        [found] = session.run(None, {"images": images.numpy()})

        with torch.no_grad():
            close(torch.from_numpy(found), subnet(images))


def test_torch_export_holds_a_shared_kernel_once():
    wide = {
        "width": 64,
        "depth": 3,
        "share_kernels": [False, True],
        "operators": [{"dense": {"kernel_size": 3}}],
    }
    supernet, sizes = Supernet(space_of({"stages": [wide]})).eval(), []
    for one in [supernet.space.decode((value,)) for value in (1, 2)]:
        program, content = torch.export.export(supernet.export(one), (torch.zeros(2, 1, 8, 8),)), io.BytesIO()
        torch.export.save(program, content)
        sizes.append(len(content.getvalue()))

    assert sizes[1] - sizes[0] > 0.9 * 4 * 64 * 64 * 9


@pytest.mark.parametrize("name", SHAREABLE)
def test_every_operator_that_can_be_shared_is_in_the_supernet_the_count_and_the_files(name):
    stage = {"width": 6, "depth": 4, "share_kernels": True, "expansion": [0.5, 1]}
    settings = json.loads(json.dumps(OPERATORS[name].settings))
    space = space_of({"stages": [stage], "operators": [{name: settings}]})
    supernet, table = trained_a_little(space).eval(), CostTable(space)
    for one in [space.sample(Random(seed)) for seed in range(6)]:
        images = images_for(space, 8)
        with torch.no_grad():
            expected, subnet = supernet(images, one), merged(supernet.export(one))
            close(subnet(images), expected)
        assert table.of([one])[0].tolist() == count(subnet, (1, 8, 8)).tolist()
        model = to_onnx(subnet, (1, 8, 8))
        [found] = onnxruntime.InferenceSession(model).run(None, {"images": images.numpy()})
        close(torch.from_numpy(found), expected)


def test_the_dashboard_says_which_stages_share(one):
    assert architecture_lines(one.to_json())[1].startswith("6 channels, shared kernels: depthwise 3×3")
    assert "width 6, depth 4 of 4, shared kernels" in str(network(one, space_of(ONE)))


# -- end to end --------------------------------------------------------------------------------

RUN = """
name: sharing
data: {name: digits}
space:
  stages:
    - {width: 8, depth: [3, 4], stride: 2, share_kernels: [false, true], expansion: [1, 2]}
    - {width: [8, 12], stride: 2}
  operators: [{depthwise: {kernel_size: [3, 5], dilation: 1}}, {dense: {kernel_size: 3}}]
training: {epochs: 2, batch_size: 64, sampler: sandwich}
search: {searcher: {name: nsga2, population: 8}, budget: 12}
objectives: [accuracy, bytes]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> TinyRun:
    run = write_experiment(tmp_path_factory.mktemp("sharing"), RUN)
    assert main(["run", *run.arguments]) == 0
    return run


def test_a_candidate_that_shares_is_searched_exported_and_verified(run, tmp_path):
    with Store(run.store_url, create=False) as store:
        candidates = store.candidates("sharing", with_latency=True)
        space = SearchSpace.from_json(store.run("sharing").space)
    table = CostTable(space)
    assert [one.error for one in candidates if one.error] == []
    for one in candidates:
        costs = table.of([Architecture.from_json(one.architecture)])[0]
        assert [one.values["macs"], one.values["parameters"], one.values["bytes"]] == costs.tolist()

    chosen = next(one for one in candidates if held_once(Architecture.from_json(one.architecture)))
    folder = tmp_path / "shared"
    arguments = ["--store", run.store_url, "--output", str(folder), "--candidate", chosen.key]
    assert main(["export", "sharing", *arguments]) == 0
    assert main(["verify", str(folder)]) == 0

    subnet, tensors = load_subnet(folder), load_file(folder / "model.safetensors")
    assert len(list(subnet.parameters())) < len(list(subnet.named_parameters(remove_duplicate=False)))
    statistics = sum(4 * len(one.running_mean) for one in subnet.modules() if isinstance(one, BATCH_NORMS))
    stored = sum(tensor.numel() * 4 for tensor in tensors.values() if tensor.is_floating_point())
    assert stored == chosen.values["bytes"] and statistics > 0
    assert "shared kernels" in (folder / "README.md").read_text()


def held_once(architecture: Architecture) -> bool:
    """Whether two blocks after the first hold the same kernel."""
    stage = architecture.stages[0]
    slices = [(choice.operator, choice.settings, choice.expansion) for choice in stage.blocks[1:]]
    return stage.share_kernels and len(set(slices)) < len(slices)
