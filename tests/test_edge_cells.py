"""A cell of edges is what the public tables hold: one architecture per line of theirs, with the layers, parameters
and multiply-accumulates of theirs; and a space like the others, from sampling to the verified export.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.cli import main
from nas.config import experiment
from nas.export.onnx_graph import to_onnx
from nas.predictors.terms import features_of, terms_of
from nas.storage.store import Store
from search_spaces import (
    EdgeCellArchitecture,
    EdgeCellSpace,
    architecture_from_json,
    architecture_from_text,
    only,
    read_skeleton,
    space_from_json,
    unroll,
)
from search_spaces.edge_cells import OPERATORS
from supernets.calibration import recalibrate
from supernets.cost import Costs, cost_table, count
from supernets.merging import deployed
from supernets.samplers import SAMPLERS, make_sampler
from supernets.samplers.generator import Generator
from supernets.supernet import make_supernet
from supernets.training import batch_statistics
from tests.conftest import write_experiment

TINY = """
name: edges
data: {name: digits}
space: {edge_cells: {filters: 4, repeats: 1}}
training: {epochs: 2, batch_size: 64, sampler: {name: shift, every: 10, warmup: 0.3}, checkpoint_every: 10}
search: {searcher: {name: nsga2, population: 4}, budget: 6}
objectives: [accuracy, latency]
device: {name: onnxruntime-cpu, min_runs: 20, max_runs: 40, seconds: 0.02}
"""
LINE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
NONE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def space_of(image_shape=(1, 8, 8), classes=10, **given) -> EdgeCellSpace:
    skeleton = {key: given.pop(key) for key in ("resolution", "stem", "activation") if key in given}
    cells = {"filters": 4, "repeats": 1, **given}
    return unroll({**skeleton, "edge_cells": cells}, {}, {}, image_shape, classes)


def table_space(image_shape: tuple[int, ...], classes: int) -> EdgeCellSpace:
    return unroll(read_skeleton("nasbench201"), {}, {}, image_shape, classes)


SPACES = {
    "digits": space_of(),
    "uneven": space_of((3, 12, 15), resolution=9, repeats=2, activation="silu"),
    "signals": space_of((2, 21), nodes=3, stem={"kernel_size": 5, "stride": 2}),
    "one operator": space_of(nodes=3, operators=["nor_conv_1x1"], reductions=0),
    "written": space_of(cell=LINE),
}


@pytest.fixture(params=SPACES)
def space(request) -> EdgeCellSpace:
    return SPACES[request.param]


@pytest.fixture
def samples(space) -> list[EdgeCellArchitecture]:
    return [space.sample(Random(seed)) for seed in range(20)]


def images_of(space: EdgeCellSpace, number: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, *space.input_shape(space.resolution), generator=generator)


# -- the public tables -------------------------------------------------------------------------


FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
SECOND = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
OTHER = "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
DEAREST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def as_published(space: EdgeCellSpace, cell: str, megaflops: float, millions: float | None) -> bool:
    """Whether the costs are those, to as many digits; the tables' FLOPs count the bias of the classifier."""
    [[macs, parameters, _]] = cost_table(space).of([architecture_from_text(space, cell)])
    pairs = [((macs + space.classes) / 1e6, megaflops), (parameters / 1e6, millions)]
    return all(
        round(ours, len(str(theirs).partition(".")[2])) == theirs
        for ours, theirs in pairs
        if theirs is not None
    )


@pytest.mark.parametrize(
    ("cell", "image_shape", "classes", "megaflops", "millions"),
    [
        (FIRST, (3, 32, 32), 10, 15.64737, None),
        (FIRST, (3, 32, 32), 100, 15.65322, None),
        (FIRST, (3, 16, 16), 120, 3.91948, None),
        (SECOND, (3, 32, 32), 10, 113.95, 0.802),
        (SECOND, (3, 32, 32), 100, 113.96, 0.808),
        (OTHER, (3, 32, 32), 10, 113.95137, 0.802426),
        (NONE, (3, 32, 32), 10, 7.78305, 0.073306),  # the cheapest of all and, below, the dearest
        (NONE, (3, 32, 32), 100, 7.7889, 0.079156),
        (DEAREST, (3, 32, 32), 10, 220.11969, 1.531546),
        (DEAREST, (3, 32, 32), 100, 220.12554, 1.537396),
    ],
)
def test_costs_are_those_of_the_public_tables(cell, image_shape, classes, megaflops, millions):
    assert as_published(table_space(image_shape, classes), cell, megaflops, millions)


def test_the_preset_has_an_architecture_for_every_line_of_the_table():
    space = table_space((3, 32, 32), 10)
    names = (
        "none",
        "skip_connect",
        "nor_conv_1x1",
        "nor_conv_3x3",
        "avg_pool_3x3",
    )  # in the order of its code

    lines = {
        f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
        for a, b, c, d, e, f in itertools.product(names, repeat=6)
    }
    vectors = itertools.product(range(1, 6), repeat=6)

    assert (space.size, len(space.decisions), space.operators) == (15_625, 6, names)
    assert {str(space.decode(vector)) for vector in vectors} == lines


def by_the_paper(weights: dict[str, Tensor], space: EdgeCellSpace, architecture, x: Tensor) -> Tensor:
    """The network of the paper in plain functions, for batches as in training, with an export's weights."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(x, None, None, weights[f"{name}.weight"], weights[f"{name}.bias"], training=True)

    def relu_conv_norm(x: Tensor, name: str, first: int, padding: int, stride: int = 1) -> Tensor:
        x = F.conv2d(F.relu(x), weights[f"{name}.{first + 1}.weight"], None, stride, padding)
        return norm(x, f"{name}.{first + 2}")

    def cell(x: Tensor, block: str) -> Tensor:
        nodes, edge = [x], 0
        for row in architecture.edges:
            node = torch.zeros_like(x)
            for source, name in enumerate(row):
                if name == "none":
                    continue
                y = nodes[source]
                if name.startswith("nor_conv"):
                    y = relu_conv_norm(y, f"{block}.edges.{edge}", 0, int(name == "nor_conv_3x3"))
                elif name == "avg_pool_3x3":
                    y = F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
                node, edge = node + y, edge + 1
            nodes.append(node)
        return nodes[-1]

    def residual(x: Tensor, block: str) -> Tensor:
        y = relu_conv_norm(relu_conv_norm(x, f"{block}.body", 0, 1, stride=2), f"{block}.body", 3, 1)
        return y + F.conv2d(F.avg_pool2d(x, 2), weights[f"{block}.shortcut.1.weight"])

    x = norm(F.conv2d(x, weights["stem.0.weight"], padding=1), "stem.1")
    for number in range(3 * space.repeats + 2):
        reduces = number % (space.repeats + 1) == space.repeats
        x = (residual if reduces else cell)(x, f"block{number}")
    x = F.relu(norm(x, "head.0")).mean((2, 3))
    return F.linear(x, weights["classifier.2.weight"], weights["classifier.2.bias"])


def test_the_network_is_that_of_the_paper():
    space = space_of((3, 8, 8), repeats=2)
    supernet, random = make_supernet(space).train(), Random(0)
    for line in (LINE, NONE, *(str(space.sample(random)) for _ in range(6))):
        architecture, images = architecture_from_text(space, line), images_of(space)
        weights = dict(supernet.export(architecture).named_parameters())

        with torch.no_grad():
            expected = by_the_paper(weights, space, architecture, images)
            found = supernet(images, architecture)

        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# -- architectures -----------------------------------------------------------------------------


def test_every_vector_is_an_architecture_and_every_architecture_has_one(space, samples):
    random = Random(0)
    vectors = [[random.randint(0, len(one.options)) for one in space.decisions] for _ in range(30)]

    for vector, canonical in zip(vectors, space.canonical(np.array(vectors)).tolist(), strict=True):
        assert list(space.encode(space.decode(vector))) == canonical
    for one in (*samples, *space.ends):
        assert space.decode(space.encode(one)) == one
        assert architecture_from_json(one.to_json()) == architecture_from_text(space, one.to_json()) == one
        assert architecture_from_text(space, f" {one} ") == one


def test_what_is_drawn_changed_and_crossed_stays_in_its_space_and_a_mutant_differs(space, samples):
    random = Random(1)
    for mother, father in itertools.pairwise(samples):
        space.check(space.crossover(mother, father, random))
        assert space.crossover(mother, mother, random) == mother
        mutant = space.mutate(mother, random)
        space.check(mutant)
        assert (mutant != mother) == (space.size > 1)


def test_the_size_is_what_enumeration_counts():
    space = space_of(nodes=3)
    everything = {space.decode(one) for one in itertools.product(range(1, 6), repeat=3)}

    assert len(everything) == len({one.key for one in everything}) == space.size == 125
    assert SPACES["written"].size == SPACES["one operator"].size == 1


def test_spaces_come_back_from_json_the_same(space, samples):
    back = space_from_json(space.to_json())

    assert back == space and back.to_json() == space.to_json() and back.resolutions == space.resolutions
    assert np.array_equal(back.features(samples), space.features(samples))
    assert (space.features(samples).sum(axis=1) == len(space.decisions)).all()


def test_a_key_never_changes():
    # stores, checkpoints and exports of every version hold keys; do not mend this by another literal
    one = EdgeCellArchitecture.from_string(LINE, 32)

    assert (str(one), one.key) == (LINE, "bd6e9cf80cba")
    assert one.outline == "2 nor_conv_3x3, 2 skip_connect, 1 avg_pool_3x3, 1 nor_conv_1x1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the cell '' is not written as"),
        (LINE.replace("~1", "~0"), "is not written as"),
        (LINE.replace("+", ""), "is not written as"),
        ("|none~0|", "the cell has 2 nodes, those of the space custom 4"),
        (
            LINE.replace("nor_conv_1x1", "conv_1x1"),
            "node 3 input 1 operator is conv_1x1; the space offers none,",
        ),
        ("{}", "'{}' is no architecture of the space custom; write its JSON"),
        ('{"resolution": 8, "stages": []}', "is no architecture of the space custom; write its JSON"),
        (EdgeCellArchitecture.from_string(LINE, 9).to_json(), "resolution is 9; the space offers 8"),
    ],
)
def test_a_line_that_is_no_architecture_of_the_space_is_told_so(text, said):
    with pytest.raises(ValueError, match=rf"\A[^\n]*{re.escape(said)}"):
        architecture_from_text(SPACES["digits"], text)


def test_an_architecture_of_other_spaces_is_read_from_its_json_alone():
    space = unroll(read_skeleton("nasnet"), {}, {}, (1, 8, 8), 10)
    one = space.sample(Random(0))

    assert architecture_from_text(space, one.to_json()) == one
    with pytest.raises(ValueError, match="is no architecture of the space nasnet; write its JSON"):
        architecture_from_text(space, LINE)


# -- skeletons ---------------------------------------------------------------------------------


def test_what_a_skeleton_leaves_out_is_as_in_the_tables():
    preset, short = table_space((3, 32, 32), 10), space_of((3, 32, 32), filters=16, repeats=5)

    assert replace(short, name=preset.name, operators=preset.operators) == preset
    assert set(short.operators) == set(OPERATORS) == set(preset.operators)
    assert preset.depth_range == (17, 17)


@pytest.mark.parametrize(
    ("skeleton", "said"),
    [
        (
            {"edge_cells": {"operators": ["nor_conv_5x5"]}},
            "'nor_conv_5x5' is not known; did you mean nor_conv_",
        ),
        ({"edge_cells": {"node": 4}}, "space.edge_cells.node is not known; did you mean nodes?"),
        ({"edge_cells": {"nodes": 1}}, "space.edge_cells.nodes is 1; it must be an integer of at least 2"),
        ({"edge_cells": {"reductions": 4}}, "the strides multiply to 16, too many for images of 8 pixels"),
        ({"edge_cells": {"cell": "x"}}, "space.edge_cells.cell: the cell 'x' is not written as"),
        ({"edge_cells": {"cell": "|x~0|"}}, "space.edge_cells.cell 'x' is not known"),
        ({"edge_cells": {"cell": LINE, "nodes": 4}}, "space.edge_cells.nodes is not known"),
        ({"edge_cells": {}, "resolution": [8, 16]}, "space.resolution is [8, 16]; it is one number"),
        ({"edge_cells": {}, "stem": {"width": 8}}, "space.stem.width is not known"),
        ({"edge_cells": {}, "cells": {}}, "space has both cells and edge_cells; it is made of one of them"),
        ({"edge_cells": {}, "attention": "se"}, "space.attention is not known"),
    ],
)
def test_a_mistake_in_a_skeleton_is_told_in_one_line(skeleton, said):
    with pytest.raises(ValueError, match=rf"\A[^\n]*{re.escape(said)}[^\n]*\Z"):
        unroll(skeleton, {}, {}, (1, 8, 8), 10)


def test_a_drop_path_of_stages_is_refused():
    file = {"data": "digits", "space": "nasbench201", "training": {"drop_path": 0.2}}

    with pytest.raises(
        ValueError, match=r"\Atraining\.drop_path is 0\.2, [^\n]* of edge cells; leave it out\Z"
    ):
        experiment(file)


# -- the network -------------------------------------------------------------------------------


def drawn(space: EdgeCellSpace, number: int) -> list[EdgeCellArchitecture]:
    """Some architectures, the one without any path among them where the space has it."""
    nothing = [space.of(["none"] * len(space.edges))] if "none" in space.operators else []
    return [*nothing, *space.ends, *(space.sample(Random(seed)) for seed in range(number))]


def test_the_slice_is_the_export_and_the_table_its_count(space):
    supernet, images = make_supernet(space).train(), images_of(space)
    architectures = drawn(space, 6)

    for one, tabled in zip(architectures, cost_table(space).of(architectures), strict=True):
        exported = supernet.export(one)
        with torch.no_grad():
            torch.testing.assert_close(exported(images), supernet(images, one), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(tabled, count(exported, images.shape[1:]))


@pytest.mark.parametrize("name", ["digits", "uneven", "signals"])
def test_onnx_and_torch_export_are_the_module_for_any_batch(name):
    space = SPACES[name]
    supernet, images = make_supernet(space).train(), images_of(space, 16)
    torch.nn.init.normal_(supernet.classifier.bias)
    for number, one in enumerate(drawn(space, 5)):
        exported = deployed(recalibrate(supernet.export(one), images))
        with torch.no_grad():
            expected = exported(images)

        session = onnxruntime.InferenceSession(to_onnx(exported, images.shape[1:]))
        found = [torch.from_numpy(session.run(None, {"images": images.numpy()})[0])]
        if number < 2:  # it takes a second each
            batch = {0: torch.export.Dim("N", min=1)}
            found.append(
                torch.export.export(exported, (images[:2],), dynamic_shapes=(batch,)).module()(images)
            )

        for one_form in found:
            torch.testing.assert_close(one_form, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_a_step_reaches_the_weights_that_lead_to_the_output_and_no_others():
    space = SPACES["digits"]
    supernet = make_supernet(space).train()
    node_2_is_not_read = "|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|none~0|nor_conv_1x1~1|none~2|"
    architecture = architecture_from_text(space, node_2_is_not_read)

    supernet(images_of(space), architecture).square().sum().backward()

    own = sum(one.numel() for one in supernet.export(architecture).parameters())
    unread = 2 * sum(9 * filters**2 + 2 * filters for filters in (4, 8, 16))
    assert sum(one.numel() for one in supernet.parameters() if one.grad is not None) == own - unread


def test_a_network_without_a_path_is_a_constant_and_can_be_trained():
    space = SPACES["digits"]
    supernet, nothing = make_supernet(space), architecture_from_text(SPACES["digits"], NONE)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    with batch_statistics(supernet):
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(
                supernet.train()(images_of(space), nothing), torch.zeros(6, dtype=torch.long)
            )
            loss.backward()
            optimizer.step()

    subnet = recalibrate(supernet.export(nothing), images_of(space))

    assert loss < 2.3 and all(torch.isfinite(one).all() for one in supernet.parameters())
    with torch.no_grad():
        logits = subnet(torch.randn(5, 1, 8, 8))
    assert torch.isfinite(logits).all() and torch.equal(logits, logits[:1].expand(5, -1))
    assert logits.argmax(1).tolist() == [0] * 5


def test_the_seed_makes_the_weights_and_leaves_the_caller_his_randomness():
    torch.manual_seed(7)
    before = torch.get_rng_state()

    one, same, other = (make_supernet(SPACES["digits"], seed).state_dict() for seed in (1, 1, 2))
    cost_table(SPACES["digits"]).of(list(SPACES["digits"].ends))

    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_alone_it_is_a_network_of_its_own_weights():
    space = SPACES["digits"]
    architecture = architecture_from_text(space, LINE)

    alone = only(space, architecture)

    assert alone.size == 1 and alone.sample(Random(0)) == architecture
    assert np.array_equal(cost_table(alone).of([architecture]), cost_table(space).of([architecture]))
    numbers = [sum(one.numel() for one in make_supernet(each).parameters()) for each in (alone, space)]
    assert numbers[0] == cost_table(space).of([architecture])[0, 1] < numbers[1]


# -- costs and samplers ------------------------------------------------------------------------


def test_nothing_is_smaller_than_the_smallest_or_larger_than_the_largest():
    space = space_of(nodes=3)
    table = cost_table(space)

    every = table(np.array([*itertools.product(range(1, 6), repeat=3)]))

    np.testing.assert_array_equal(table.of([table.smallest, table.largest]), [every.min(0), every.max(0)])
    assert str(table.smallest) == "|skip_connect~0|+|skip_connect~0|skip_connect~1|"  # none is as cheap
    assert (table.smallest, table.largest) == space.ends


def look(architecture: EdgeCellArchitecture) -> float:
    return Random(architecture.key).random()


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "progressive"])
def test_every_sampler_plans_architectures_of_the_space(name):
    space = SPACES["digits"]
    sampler = make_sampler(name, space, Costs(cost_table(space)), 100)
    sampler.prepare(lambda *_: None)

    plans = [sampler.plan(step, Random(step), look).architectures for step in range(10)]

    for one in itertools.chain(*plans):
        space.check(one)
    assert len({one for plan in plans for one in plan}) > 5


def test_the_fair_sampler_deals_out_every_operator_of_every_edge_once():
    space = SPACES["digits"]
    sampler = make_sampler("fair", space, Costs(cost_table(space)), 100)

    plan = sampler.plan(0, Random(0), look).architectures

    for node, source in space.edges:
        assert sorted(one.edges[node - 1][source] for one in plan) == sorted(space.operators)


def test_there_is_nothing_to_shrink():
    space = SPACES["digits"]
    with pytest.raises(ValueError, match=r"training\.sampler: the space custom is one of cells[^\n]*\Z"):
        make_sampler("progressive", space, Costs(cost_table(space)), 100)


def test_the_generator_has_one_head_for_all_edges_and_generates_architectures_of_the_space():
    space, table = SPACES["digits"], cost_table(SPACES["digits"])
    low, high = table.of([table.smallest, table.largest])[:, 0]
    generator = Generator(space, Costs(table).of("macs"), low, high)

    assert len(generator.network.heads) == 1
    space.check(generator.best(high))


def test_a_latency_has_terms_for_operators_and_pairs_of_them_and_for_what_is_counted():
    space = SPACES["digits"]
    vectors = np.array([space.encode(space.sample(Random(seed))) for seed in range(8)])

    features = features_of(terms_of(space), vectors)

    assert features.groups[0] == "shared" and features.groups[-1] == "counted"
    assert features.columns[0].shape[1] == 5  # an operator's is the same on every edge
    assert np.array_equal(np.asarray(features.columns[0].sum(axis=1)).ravel(), [6] * 8)


# -- a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edge_run(tmp_path_factory):
    run = write_experiment(tmp_path_factory.mktemp("edges"), TINY)
    assert main(["run", *run.arguments]) == 0
    return run


def test_a_space_of_edge_cells_is_trained_searched_reported_exported_and_verified(edge_run, tmp_path, capsys):
    with Store(edge_run.store_url, create=False) as store:
        candidates = store.candidates("edges")
    assert len(candidates) == 6 and not any(one.error for one in candidates)
    capsys.readouterr()

    assert main(["report", "edges", "--store", edge_run.store_url]) == 0
    assert "6 skip_connect" in capsys.readouterr().out
    folder = tmp_path / "export"
    export = ["export", "edges", "--candidate", candidates[-1].key, "--store", edge_run.store_url]
    assert main([*export, "--output", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 0
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["verification"]["max_relative_difference"] < 1e-4


def test_a_space_of_edge_cells_is_counted_before_it_is_trained(edge_run, capsys):
    assert main(["profile", str(edge_run.file), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["size"], found["decisions"], found["blocks"]) == (15_625, 6, [5, 5])


def test_its_health_is_examined_by_trainings_alone_and_by_operators(edge_run, capsys):
    arguments = ["health", "edges", "--subnets", "4", "--epochs", "0.5", "--store", edge_run.store_url]

    assert main([*arguments, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in found["usages"]} <= set(OPERATORS) and found["usages"]


def test_its_health_is_held_against_lines_of_a_public_table(edge_run, tmp_path, capsys):
    space, table = SPACES["digits"], tmp_path / "table.csv"
    rows = {str(space.sample(Random(seed))): seed for seed in range(6)}
    lines = ["arch_str,accuracy", *(f"{line},{80 + number}" for line, number in rows.items())]
    table.write_text("\n".join(lines), encoding="utf-8")

    arguments = ["health", "edges", "--subnets", "6", "--table", str(table), "--store", edge_run.store_url]
    assert main([*arguments, "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["architectures"] == len(rows)


def test_a_found_cell_is_carried_over_with_more_repeats_and_filters(edge_run, tmp_path):
    with Store(edge_run.store_url, create=False) as store:
        found = store.candidates("edges")[-1]
    where = ["--store", edge_run.store_url, "--runs", str(tmp_path), "-o", "training.epochs=0.2"]
    size = ["--repeats", "2", "--filters", "6", "--to", str(edge_run.file), "--candidate", found.key]

    assert main(["transfer", "edges", *size, *where]) == 0

    with Store(edge_run.store_url, create=False) as store:
        space = space_from_json(store.run(f"edges-{found.key}").space)
        [made] = store.candidates(f"edges-{found.key}")
    assert (space.size, space.repeats, space.filters, space.stem.width) == (1, 2, 6, 6)
    assert str(architecture_from_json(made.architecture)) == str(architecture_from_json(found.architecture))


def test_the_dashboard_draws_every_node_and_says_what_comes_in():
    from dashboard.drawing import network
    from dashboard.words import architecture_lines

    space = SPACES["digits"]
    one = architecture_from_text(space, LINE)
    shown = str(network(one, space))

    assert all(f"'node {node}'" in shown for node in (1, 2, 3)) and shown.count("residual block") == 2
    assert "16 × 2 × 2" in shown and "avg pool 3x3 of node 1" in shown
    assert architecture_lines(one.to_json()) == (
        "8 px",
        "node 1: nor conv 3x3 of input",
        "node 2: nor conv 3x3 of input + avg pool 3x3 of node 1",
        "node 3: skip connect of input + nor conv 1x1 of node 1 + skip connect of node 2",
    )
    assert architecture_lines(architecture_from_text(space, NONE).to_json())[1] == "node 1: nothing of input"


def test_the_page_on_cells_names_every_setting_and_operator():
    text = (Path(__file__).parents[1] / "docs" / "cells.md").read_text(encoding="utf-8")

    for name in (*OPERATORS, "nodes", "repeats", "filters", "reductions", "operators", LINE):
        assert name in text
