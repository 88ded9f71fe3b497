"""Two cells are one network, whatever the network's size: every pair has one spelling, the supernet's slice is
its export, the cost table its count, and what is left out at random in training is never left out elsewhere.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path as Folder
from random import Random

import numpy as np
import onnxruntime
import pytest
import torch

from nas.cli import main
from nas.export.onnx_graph import to_onnx
from nas.storage.store import Store
from search_spaces import (
    CellArchitecture,
    CellSpace,
    architecture_from_json,
    read_skeleton,
    space_from_json,
    unroll,
)
from search_spaces.cells import COMBINERS, INPUTS, KINDS, OPERATORS, CellBlock, Path, unused
from search_spaces.strict import parse_yaml
from supernets.calibration import recalibrate
from supernets.cells import CellSupernet, DropPath, identity_convolution, make_path
from supernets.cost import Costs, cost_table, count
from supernets.recipe import Training
from supernets.samplers import make_sampler
from supernets.supernet import make_supernet
from supernets.training import Watcher, train
from tests.conftest import write_experiment

ALL = {  # every operator of images, strides that do not divide, images that are not square
    "resolution": [9, 12],
    "stem": {"width": 5},
    "cells": {"blocks": 3, "repeats": 2, "filters": 5, "operators": list(OPERATORS)},
}
SIGNALS = {
    "cells": {
        "blocks": 2,
        "repeats": 1,
        "filters": 4,
        "operators": [name for name, dims in OPERATORS.items() if 1 in dims],
    }
}
SMALL = {  # (1 resolution, blocks of 3 and 6 pairs and of one combiner)
    "stem": {"width": 4},
    "cells": {
        "blocks": 2,
        "repeats": 1,
        "filters": 4,
        "reductions": 1,
        "operators": ["max_pool_3x3"],
        "combiners": ["add"],
    },
}
TINY = """
name: cells
data: {name: digits}
space:
  stem: {width: 8}
  cells:
    blocks: 2
    repeats: 1
    filters: 6
    reductions: 1
    operators: [identity, max_pool_3x3, separable_3x3, conv_3x3]
    drop_path: 0.1
training: {epochs: 2, batch_size: 64, sampler: {name: shift, every: 10, warmup: 0.3}, checkpoint_every: 10}
search: {searcher: {name: nsga2, population: 4}, budget: 8}
objectives: [accuracy, latency]
device: {name: onnxruntime-cpu, min_runs: 20, max_runs: 40, seconds: 0.02}
"""


def space_of(skeleton, image_shape=(1, 8, 8), **cells) -> CellSpace:
    skeleton = read_skeleton(skeleton)
    return unroll({**skeleton, "cells": {**skeleton["cells"], **cells}}, {}, {}, image_shape, 10)


SPACES = {
    "nasnet": space_of("nasnet"),
    "all": space_of(ALL, (3, 12, 15)),
    "signals": space_of(SIGNALS, (2, 21)),
    "small": space_of(SMALL),
    "small even": space_of(SMALL, repeats=2, combiners=list(COMBINERS)),
}


@pytest.fixture(params=SPACES)
def space(request) -> CellSpace:
    return SPACES[request.param]


@pytest.fixture
def samples(space) -> list[CellArchitecture]:
    return [space.sample(Random(seed)) for seed in range(40)]


def enumerated(space: CellSpace) -> set[CellArchitecture]:
    """Every architecture, from all spellings, without encode or decode."""
    rows = []
    for number in range(space.blocks):
        paths = [Path(*pair) for pair in itertools.product(range(number + INPUTS), space.operators)]
        rows.append(
            [CellBlock(pair, c) for pair in itertools.product(paths, repeat=2) for c in space.combiners]
        )
    cells = list(itertools.product(*rows))
    return {
        CellArchitecture(resolution, normal, reduction if space.is_reduced(normal) else ())
        for resolution in space.resolutions
        for normal, reduction in itertools.product(cells, repeat=2)
    }


def images_of(space: CellSpace, architecture: CellArchitecture, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *space.input_shape(architecture.resolution), generator=generator)


# -- architectures -----------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_there_are_five_decisions_for_each_block_of_two_cells(blocks):
    space = space_of("nasnet", blocks=blocks)

    assert len(space.decisions) == 2 * 5 * blocks
    assert sum("combiner" in decision.name for decision in space.decisions) == 2 * blocks


def test_the_preset_has_fifty_decisions():
    assert len(SPACES["nasnet"].decisions) == 50


def test_a_block_reads_only_what_comes_before_it(space, samples):
    for cell in (one.cell(kind) for one in samples for kind in KINDS):
        for number, block in enumerate(cell):
            assert all(0 <= path.input < number + INPUTS for path in block.paths)


def test_what_goes_out_of_a_cell_is_every_block_that_no_other_reads(space, samples):
    for cell in (one.cell(kind) for one in samples for kind in KINDS):
        for number in range(len(cell)):
            read = any(number + INPUTS == path.input for block in cell for path in block.paths)
            assert (number in unused(cell)) != read


def test_a_block_with_its_paths_swapped_is_the_same_block():
    first, second = Path(1, "conv_3x3"), Path(0, "identity")

    assert CellBlock((first, second)) == CellBlock((second, first))
    assert CellBlock((first, second), "concat").row == [0, "identity", 1, "conv_3x3", "concat"]


@pytest.mark.parametrize("name", ["small", "small even"])
def test_the_size_is_what_enumeration_counts_and_every_one_has_a_vector_and_key_of_its_own(name):
    space = SPACES[name]

    everything = enumerated(space)

    assert len(everything) == space.size
    assert len({space.encode(one) for one in everything}) == space.size
    assert len({one.key for one in everything}) == space.size
    assert {space.decode(space.encode(one)) for one in everything} == everything


def test_every_vector_within_the_options_is_an_architecture(space):
    random = Random(0)
    for _ in range(60):
        architecture = space.decode([random.randint(0, len(one.options)) for one in space.decisions])

        assert space.decode(space.encode(architecture)) == architecture


def test_what_is_drawn_changed_and_crossed_stays_in_its_space_and_a_mutant_differs(space, samples):
    random = Random(1)
    for mother, father in itertools.pairwise(samples):
        space.check(space.crossover(mother, father, random))
        assert space.crossover(mother, mother, random) == mother
        for rate in (None, 0.0, 1.0):
            mutant = space.mutate(mother, random, rate)
            space.check(mutant)
            assert mutant != mother
    for end in space.ends:
        space.check(end)


def test_the_same_seed_draws_the_same(space, samples):
    def drawn(seed: int) -> list[CellArchitecture]:
        random = Random(seed)
        return [space.sample(random), space.mutate(samples[0], random), space.crossover(*samples[:2], random)]

    assert drawn(3) == drawn(3)
    assert any(drawn(3) != drawn(seed) for seed in range(4, 8))


def test_mutation_reaches_every_architecture():
    space, random = SPACES["small"], Random(0)
    one, seen = space.sample(random), set()

    for _ in range(40 * space.size):
        one = space.mutate(one, random)
        seen.add(one)

    assert len(seen) == space.size


def test_features_are_one_hot_and_zero_where_there_is_no_reduction_cell():
    space = SPACES["small"]
    stepping = next(one for one in enumerated(space) if not one.reduction)

    features = space.features([stepping, space.ends[1]])

    assert features.sum(axis=1).tolist() == [
        sum(value > 0 for value in space.encode(stepping)),
        len(space.decisions),
    ]
    assert features.sum(axis=1)[0] == len(space.decisions) / 2


def test_spaces_and_architectures_come_back_from_json_the_same(space, samples):
    back = space_from_json(space.to_json())

    assert back == space and back.to_json() == space.to_json() and back.size == space.size
    for one in samples:
        assert architecture_from_json(one.to_json()) == one
        assert back.encode(one) == space.encode(one)


def test_json_of_stages_is_read_as_stages():
    space = unroll(read_skeleton("tiny"), *_plugins(), (1, 8, 8), 10)
    one = space.sample(Random(0))

    assert space_from_json(space.to_json()) == space
    assert architecture_from_json(one.to_json()) == one


def test_a_key_never_changes():
    cell = (CellBlock((Path(0, "identity"), Path(1, "separable_3x3")), "concat"),)

    # stores, checkpoints and exports of every version hold keys; do not mend this by another literal
    assert CellArchitecture(8, cell, cell).key == "60b88625bdf6"
    assert (
        str(CellArchitecture(8, cell, ())) == "8 px; normal: identity(0) & separable_3x3(1); reduction: none"
    )


def test_an_architecture_of_another_space_is_refused_with_its_place():
    space = SPACES["small even"]
    one = space.ends[1]
    foreign = CellBlock((Path(0, "conv_3x3"), Path(1, "max_pool_3x3")))
    later = CellBlock((Path(2, "max_pool_3x3"), Path(1, "max_pool_3x3")))
    for other, message in [
        (replace(one, resolution=9), "resolution is 9; the space offers 8"),
        (replace(one, normal=one.normal[:1]), "the normal cell has 1 blocks, the space custom 2"),
        (
            replace(one, reduction=(foreign, one.reduction[1])),
            "reduction 0 operator a is conv_3x3; the space offers max_pool_3x3",
        ),
        (
            replace(one, normal=(later, one.normal[1])),
            "normal 0 input b is 2; the space offers 0, 1",
        ),
    ]:
        with pytest.raises(ValueError, match=rf"\A{message}\Z"):
            space.check(other)


# -- skeletons ---------------------------------------------------------------------------------


def test_cells_may_be_written_out_and_are_then_the_only_ones():
    written = """
    name: mine
    cells:
      repeats: 3
      filters: 8
      normal: [[1, separable_3x3, 0, identity, add], [2, avg_pool_3x3, 1, conv_3x3, concat]]
      reduction: [[0, max_pool_3x3, 1, separable_5x5, add], [2, identity, 0, identity, add]]
    """

    space = unroll(read_skeleton(parse_yaml(written, "x.yaml")), {}, {}, (3, 32, 32), 10)
    only = space.sample(Random(0))

    assert (space.size, space.decisions, space.blocks, len(space.places)) == (1, (), 2, 11)
    assert [block.row for block in only.normal] == [
        [0, "identity", 1, "separable_3x3", "add"],
        [1, "conv_3x3", 2, "avg_pool_3x3", "concat"],
    ]
    assert space.mutate(only, Random(1)) == space.crossover(only, only, Random(0)) == only
    assert space_from_json(space.to_json()) == space


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            {"operators": ["conv_3x4"]},
            "space.cells.operators 'conv_3x4' is not known; did you mean conv_3x3?",
        ),
        ({"operators": []}, "space.cells.operators is an empty list"),
        ({}, "space.cells.operators is missing"),
        ({"operators": ["identity"], "combiners": ["mul"]}, "space.cells.combiners 'mul' is not known"),
        ({"operators": ["identity"], "blokcs": 3}, "space.cells.blokcs is not known; did you mean blocks?"),
        (
            {"operators": ["identity"], "drop_path": 1},
            "space.cells.drop_path is 1; it must be a number from 0",
        ),
        ({"operators": ["identity"], "reductions": 5}, "the strides multiply to 32, too many"),
        ({"operators": ["identity"], "reductions": 0}, "space.cells.reductions is 0; it must be an integer"),
        (
            {"normal": [[0, "identity", 1, "identity", "add"]]},
            "space.cells.reduction must be a row of blocks",
        ),
        (
            {"normal": [[0, "identity", 2, "identity", "add"]], "reduction": [[]]},
            r"normal\[0\] reads 2; block 0 can",
        ),
        (
            {"normal": [[0, "identity"]], "reduction": [[]]},
            r"normal\[0\] is \[0, 'identity'\]; write \[input,",
        ),
        (
            {
                "normal": [[0, "identity", 0, "identity", "add"]],
                "reduction": [[0, "identity", 1, "identity", "add"]],
                "repeats": 1,
            },
            "with repeats 1 steps over every reduction; let a block read 1, or make repeats even",
        ),
        ({"normal": [[0, "id", 1, "identity", "add"]], "reduction": [[]]}, r"normal\[0\] 'id' is not known"),
    ],
)
def test_a_mistake_in_a_skeleton_is_told_in_one_line(cells, said):
    with pytest.raises(ValueError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
        unroll({"cells": cells}, {}, {}, (1, 8, 8), 10)


def test_cells_and_stages_exclude_each_other_and_signals_have_no_rows_of_images():
    with pytest.raises(ValueError, match="has both stages and cells"):
        unroll({**SMALL, "stages": []}, {}, {}, (1, 8, 8), 10)
    with pytest.raises(ValueError, match="'conv_1x7_7x1' is not known"):
        space_of(SIGNALS, (1, 40), operators=["conv_1x7_7x1"])


# -- the network -------------------------------------------------------------------------------


def test_there_is_a_layer_for_every_operator():
    for name, dims in OPERATORS.items():
        for one, stride, size in itertools.product(dims, (1, 2), (2, 5, 8)):
            path = make_path(name, 3, stride, "relu", one).train()
            sides = [size, size + 1][:one]

            made = path(torch.randn(4, 3, *sides))

            assert made.shape == (4, 3, *(-(-side // stride) for side in sides)), (name, stride, size)


def test_a_separable_convolution_is_applied_twice_with_nothing_between_its_halves():
    names = [type(layer).__name__ for layer in make_path("separable_5x5", 4, 2, "relu", 2)]

    assert names == ["ReLU", "Conv2d", "Conv2d", "Norm"] * 2


def test_convolutions_start_near_the_identity_whatever_their_widths():
    torch.manual_seed(0)
    for ins, outs, kernel in ((4, 4, 3), (8, 4, 1), (4, 8, 1), (4, 4, (1, 7))):
        weight = identity_convolution(torch.nn.Conv2d(ins, outs, kernel)).weight.detach()

        middle = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
        same = (torch.arange(outs)[:, None] - torch.arange(ins)) % 4 == 0
        assert (middle[same] - 1).abs().max() < 0.8 and middle[same].mean() > 0.7
        middle[same] -= 1  # a view: what is left is noise
        assert 0 < weight.std() < 0.4 and weight.abs().max() < 0.8


@pytest.mark.parametrize("name", ["nasnet", "all", "signals"])
def test_the_slice_is_the_export(name):
    space = SPACES[name]
    supernet, random = make_supernet(space).train(), Random(0)
    for architecture in (*space.ends, *(space.sample(random) for _ in range(3))):
        images = images_of(space, architecture)

        exported = supernet.export(architecture)

        with torch.no_grad():
            torch.testing.assert_close(exported(images), supernet(images, architecture), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["all", "signals"])
def test_onnx_is_the_module(name):
    space = SPACES[name]
    supernet, random = make_supernet(space).train(), Random(1)
    for architecture in (space.ends[1], *(space.sample(random) for _ in range(3))):
        images = images_of(space, architecture, 16)
        exported = recalibrate(supernet.export(architecture), images)

        session = onnxruntime.InferenceSession(to_onnx(exported, images.shape[1:]))

        [found] = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = exported(images).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_torch_export_takes_any_batch_size():
    space = SPACES["small even"]
    exported = make_supernet(space).eval().export(space.sample(Random(3)))

    program = torch.export.export(
        exported, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("N", min=1)},)
    )

    images = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(program.module()(images), exported(images), rtol=1e-5, atol=1e-5)


def test_a_step_reaches_the_weights_of_its_architecture_and_no_others():
    space = SPACES["nasnet"]
    supernet = make_supernet(space).train()
    architecture = space.sample(Random(5))

    supernet(images_of(space, architecture), architecture).square().sum().backward()

    trained = sum(one.numel() for one in supernet.parameters() if one.grad is not None)
    assert trained == sum(one.numel() for one in supernet.export(architecture).parameters())
    assert trained < sum(one.numel() for one in supernet.parameters()) / 5


def test_a_cell_that_nothing_reads_is_not_exported():
    space = space_of(SMALL, repeats=3)
    stepping = CellBlock((Path(0, "max_pool_3x3"),) * 2)
    architecture = CellArchitecture(8, (stepping, stepping), ())

    exported = make_supernet(space).export(architecture)

    assert len(space.places) == 7
    assert len(exported.cells) == 4  # every other one, the reduction not among them
    with pytest.raises(ValueError, match="steps over every reduction; there must be no reduction cell"):
        space.check(replace(architecture, reduction=architecture.normal))


def test_the_seed_makes_the_weights_and_leaves_the_caller_his_randomness():
    torch.manual_seed(7)
    before = torch.get_rng_state()

    one, same, other = (make_supernet(SPACES["small even"], seed).state_dict() for seed in (1, 1, 2))

    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


# -- cost --------------------------------------------------------------------------------------


def test_the_table_says_what_counting_the_export_gives(space, samples):
    supernet = make_supernet(space).eval()
    drawn = [*space.ends, *samples[:8]]

    counted = [count(supernet.export(one), space.input_shape(one.resolution)) for one in drawn]

    np.testing.assert_array_equal(cost_table(space).of(drawn), counted)


@pytest.mark.parametrize(
    "operators", [["max_pool_3x3"], ["identity", "conv_1x1"], ["dilated_3x3", "separable_7x7"]]
)
@pytest.mark.parametrize("repeats", [1, 2])
def test_nothing_is_smaller_than_the_smallest_or_larger_than_the_largest(operators, repeats):
    space = space_of(SMALL, operators=operators, repeats=repeats, combiners=list(COMBINERS))
    table = cost_table(space)
    every = [(number, *row) for number, row in enumerate(itertools.islice(_vectors(space), 60_000))]

    macs = table(np.array([row[1:] for row in every]))[:, 0]

    ends = table.of([table.smallest, table.largest])[:, 0]
    assert ends.tolist() == [macs.min(), macs.max()]


def _vectors(space: CellSpace):
    options = [range(1, len(one.options) + 1) for one in space.decisions]
    whole = np.prod([len(one) for one in options])
    if whole <= 60_000:
        yield from itertools.product(*options)
        return
    random = Random(0)
    table = cost_table(space)
    for one in (table.smallest, table.largest):  # too many for all: the ends and their neighbours
        yield space.encode(one)
        for _ in range(3000):
            yield space.encode(space.mutate(one, random))
    for _ in range(3000):
        yield tuple(random.choice(one) for one in options)


# -- ScheduledDropPath -------------------------------------------------------------------------


def test_the_chance_of_dropping_rises_linearly_to_its_last_value():
    drop = DropPath(0.4)
    for step in range(0, 101, 20):
        drop.schedule(step / 100, seed=1)
        assert drop.probability == pytest.approx(0.4 * step / 100)


def test_a_path_is_dropped_for_some_images_and_scaled_for_the_others():
    drop = DropPath(0.5).train()
    drop.schedule(0.5, seed=3)

    made = drop(torch.ones(4000, 2, 3, 3))

    values, counts = made[:, 0, 0, 0].unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / 0.75]))
    assert 0.22 < counts[0] / 4000 < 0.28
    assert (made.flatten(1).std(dim=1) == 0).all()
    drop.schedule(0.5, seed=3)
    assert torch.equal(made, drop(torch.ones(4000, 2, 3, 3)))


def test_nothing_is_dropped_in_evaluation_or_between_the_steps():
    drop, x = DropPath(0.9).train(), torch.ones(50, 1, 2, 2)
    drop.schedule(1.0, seed=0)
    assert torch.equal(drop.eval()(x), x)
    assert not torch.equal(drop.train()(x), x)
    drop.schedule(0.0, 0)
    assert torch.equal(drop(x), x)


class Digits:
    """A few batches of random images; a function of the step."""

    def __call__(self, step: int, rank: int = 0, ranks: int = 1):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(0, 10, (16,), generator=generator)
        return torch.randn(16, 1, 8, 8, generator=generator), labels

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return 6


def trained(path, drop_path: float, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    """The weights after a training, interrupted once if asked."""
    space = space_of(SMALL, operators=["identity", "conv_1x1"], drop_path=drop_path)
    settings = Training(epochs=2, batch_size=16, sampler="uniform", learning_rate=0.05)
    for stop in ([stop_at] if stop_at else []) + [None]:
        supernet = CellSupernet(space)
        seen = []
        watcher = Watcher(stop=lambda seen=seen, stop=stop: seen.append(0) or len(seen) == stop)
        sampler = make_sampler(
            {"name": "shift", "every": 2, "warmup": 0.0}, space, Costs(cost_table(space)), 12
        )
        train(supernet, Digits(), lambda number: Digits()(number), sampler, settings, path, watcher)
    return supernet.state_dict()


def test_a_training_with_dropped_paths_goes_on_bit_for_bit(tmp_path):
    whole = trained(tmp_path / "whole", 0.5)
    resumed = trained(tmp_path / "resumed", 0.5, stop_at=5)
    undropped = trained(tmp_path / "undropped", 0.0)

    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], undropped[name]) for name in whole)


# -- a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell_run(tmp_path_factory):
    run = write_experiment(tmp_path_factory.mktemp("cells"), TINY)
    assert main(["run", *run.arguments]) == 0
    return run


def test_a_space_of_cells_is_trained_searched_exported_and_verified(cell_run, tmp_path, capsys):
    capsys.readouterr()
    with Store(cell_run.store_url, create=False) as store:
        candidates = store.candidates("cells")
    assert len(candidates) == 8 and not any(one.error for one in candidates)

    for one in (candidates[-1].key, candidates[0].key):
        folder = tmp_path / one
        export = [
            "export",
            "cells",
            "--candidate",
            one,
            "--store",
            cell_run.store_url,
            "--output",
            str(folder),
        ]
        assert main(export) == 0
        assert main(["verify", str(folder)]) == 0
    assert "verified" in capsys.readouterr().out
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["verification"]["max_relative_difference"] < 1e-4


def test_a_space_of_cells_is_counted_before_it_is_trained(cell_run, capsys):
    assert main(["profile", str(cell_run.file), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["decisions"], found["blocks"]) == (20, [6, 6])


def test_a_report_tells_the_operators_of_the_cells(cell_run, capsys):
    assert main(["report", "cells", "--store", cell_run.store_url]) == 0

    assert "normal:" in capsys.readouterr().out


def test_the_dashboard_draws_both_cells_and_says_what_each_block_reads():
    from dashboard.drawing import network
    from dashboard.words import architecture_lines

    space = SPACES["small even"]
    chained = CellBlock((Path(2, "max_pool_3x3"), Path(1, "max_pool_3x3")), "concat")
    one = replace(space.ends[1], normal=(space.ends[1].normal[0], chained))
    drawn = str(network(one, space))

    space.check(one)
    assert all(f"{kind} cell" in drawn for kind in KINDS)
    assert "max pool 3x3 of block 1" in drawn and "concatenated" in drawn
    assert architecture_lines(one.to_json())[1].endswith(
        " | max pool 3x3 of last cell & max pool 3x3 of block 1"
    )


def test_the_files_and_commands_of_the_page_are_understood():
    from nas.cli import parser
    from nas.config import experiment

    text = (Folder(__file__).parents[1] / "docs" / "cells.md").read_text(encoding="utf-8")
    whole, written, edges = (
        parse_yaml(block, "cells.md") for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    )
    commands = re.findall(r"^\$ nas (.*)$", text, re.MULTILINE)

    space = unroll(experiment(whole).space, {}, {}, (1, 8, 8), 10)
    assert len(space.decisions) == 2 * 5 * 3
    assert unroll(written, {}, {}, (3, 32, 32), 10).size == 1
    assert unroll(experiment(edges).space, {}, {}, (1, 8, 8), 10).size == 5**6
    assert all(name in text for name in (*OPERATORS, *whole["space"]["cells"]))
    assert [parser().parse_args(command.split()).command for command in commands] == [
        "run",
        "export",
        "transfer",
        "export",
        "train",
        "health",
    ]


def _plugins():
    from supernets.attention import ATTENTIONS
    from supernets.operators import OPERATORS as STAGE_OPERATORS

    return STAGE_OPERATORS, ATTENTIONS
