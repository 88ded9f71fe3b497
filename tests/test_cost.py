"""A cost is what counting the exported network gives: the table says the same for any architecture, torch's own
counter agrees, and nothing of a space costs less than its smallest or more than its largest.
"""

from __future__ import annotations

import itertools
import time
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import Architecture, SearchSpace, StageChoice, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.cost import COSTS, CostTable, count, macs
from supernets.operators import OPERATORS
from supernets.supernet import Supernet

ELASTIC = {  # several resolutions, an image that is not square, a head, strides that do not divide
    "resolution": [7, 10, 12],
    "stem": {"width": 6, "stride": 2, "kernel_size": 5},
    "stages": [
        {"width": [4, 6], "depth": [1, 3], "stride": 1},
        {"width": [6, 8, 9], "depth": [2, 3], "stride": 2, "expansion": [0.5, 2], "attention": "se"},
    ],
    "operators": [{"depthwise": {"dilation": [2]}}, "dense", {"mixed": {"kernels": [3, 5]}}, "identity"],
    "expansion": [0.3, 1, 1.5],
    "head": {"width": 10},
}
SMALL = {
    "resolution": [6, 8],
    "stem": {"width": 4},
    "stages": [
        {"width": [4, 6], "depth": [1, 2], "operators": ["identity", {"dense": {"kernel_size": [3]}}]},
        {"width": [5, 8], "stride": 2, "attention": ["none", "se"], "expansion": [0.5, 2]},
    ],
    "operators": [{"depthwise": {"kernel_size": [3, 5], "dilation": 1}}, {"max_pool": {"kernel_size": 3}}],
}


def space_of(skeleton, image_shape=(1, 8, 8)) -> SearchSpace:
    return unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, image_shape, 10)


SHARING = {  # at 4 channels the expansions 0.4 and 0.5 are both 2 hidden channels
    "resolution": [7, 10],
    "stages": [
        {"width": [4, 6], "depth": [1, 3, 4], "share_kernels": [False, True]},
        {"width": 8, "depth": [2, 3], "stride": 2, "share_kernels": True},
        {"width": [6, 8], "depth": 4, "share_kernels": [False, True], "expansion": [0.25, 1]},
    ],
    "operators": [
        {"depthwise": {"kernel_size": [3, 5], "dilation": 1}},
        {"dense": {"kernel_size": 3}},
        {"mixed": {"kernels": [3, 5]}},
        "identity",
    ],
    "expansion": [0.4, 0.5, 1.5],
    "attention": ["none", "se"],
}
SPACES = {
    "sharing": space_of(SHARING, (3, 10, 13)),
    "tiny": space_of("tiny"),
    "digits": space_of("digits"),
    "mobile": space_of("mobile", (3, 28, 28)),
    "elastic": space_of(ELASTIC, (3, 12, 15)),
}


@cache
def table_of(name: str) -> CostTable:
    """The table of a space; its entries, once counted, serve all tests."""
    return CostTable(SPACES[name])


@pytest.fixture(params=SPACES)
def table(request) -> CostTable:
    return table_of(request.param)


def counted(space: SearchSpace, architectures: list[Architecture]) -> np.ndarray:
    supernet = Supernet(space)
    return np.stack([count(supernet.export(one), space.input_shape(one.resolution)) for one in architectures])


def test_the_table_says_what_counting_the_export_gives(table):
    random = Random(0)
    architectures = [table.space.sample(random) for _ in range(25)]

    np.testing.assert_array_equal(table.of(architectures), counted(table.space, architectures))


def test_the_table_needs_no_canonical_vectors():
    table, random = table_of("elastic"), Random(0)
    space = table.space
    loose = [[random.randint(0, len(one.options)) for one in space.decisions] for _ in range(30)]

    np.testing.assert_array_equal(
        table(np.array(loose)), table.of([space.decode(vector) for vector in loose])
    )


def test_macs_are_half_of_what_torch_counts_as_flops(table):
    space, supernet = table.space, Supernet(table.space).eval()
    random = Random(1)
    for architecture in [space.sample(random) for _ in range(5)]:
        subnet, shape = supernet.export(architecture), space.input_shape(architecture.resolution)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            subnet(torch.zeros(1, *shape))

        assert macs(subnet, shape) == counter.get_total_flops() // 2


def test_parameters_and_bytes_are_those_of_the_tensors():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))

    costs = dict(zip(COSTS, count(network, (3, 5, 5)).tolist(), strict=True))

    assert costs == {
        "macs": 3 * 3 * 3 * 4 * 3 * 3,
        "parameters": 3 * 4 * 9 + 2 * 4,
        "bytes": 4 * (3 * 4 * 9 + 4 * 4),  # weights and statistics in float32, but no count of batches
    }


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_as_it_was(training):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(training)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    count(network, (3, 5, 5))

    assert network.training == network[1].training == training
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_pricing_ten_thousand_takes_less_than_counting_fifty():
    table, random = table_of("digits"), Random(0)
    space, supernet = table.space, Supernet(table.space)
    vectors = np.array([space.encode(space.sample(random)) for _ in range(10_000)])
    table(vectors)  # its entries are counted when they are first needed

    begun = time.process_time()
    table(vectors)
    priced = time.process_time() - begun
    begun = time.process_time()
    for vector in vectors[:50].tolist():
        architecture = space.decode(vector)
        count(supernet.export(architecture), space.input_shape(architecture.resolution))
    counting = time.process_time() - begun

    assert priced < counting


def test_nothing_costs_less_than_the_smallest_or_more_than_the_largest():
    space = space_of(SMALL)
    table = CostTable(space)
    stages = [
        [
            StageChoice(width, row)
            for width in stage.widths
            for depth in stage.depths
            for row in itertools.product(*(block.choices for block in stage.blocks[:depth]))
        ]
        for stage in space.stages
    ]
    everything = [Architecture(r, row) for r in space.resolutions for row in itertools.product(*stages)]

    costs = table.of(everything)[:, 0]

    assert len(everything) == space.size
    assert table.of([table.smallest, table.largest])[:, 0].tolist() == [costs.min(), costs.max()]


def test_the_extremes_bound_whatever_is_drawn(table):
    random = Random(2)
    drawn = table.of([table.space.sample(random) for _ in range(500)])[:, 0]

    low, high = table.of([table.smallest, table.largest])[:, 0]

    assert low <= drawn.min() and drawn.max() <= high


def test_a_space_of_one_architecture_has_a_price():
    space = space_of({"stages": [{"width": 8}], "operators": ["identity"]})
    table, only = CostTable(space), space.sample(Random(0))

    np.testing.assert_array_equal(table.of([only]), counted(space, [only]))
    assert table.smallest == table.largest == only


def test_no_architectures_cost_nothing(table):
    assert table.of([]).shape == (0, len(COSTS))
