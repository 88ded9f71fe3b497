"""Many architectures at once get the very numbers that each gets by itself, whatever they have in common; what they
have in common is there once; and one that fails, fails alone.
"""

from __future__ import annotations

import ctypes
import resource
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from nas import config
from nas.data import load
from nas.evaluation import BATCH, Bench, evaluate, space_of
from nas.memory import keep_freed_memory
from nas.pool import HerePool, TogetherPool, shared_out
from nas.prefix_tree import (
    Exported,
    Part,
    PrefixTree,
    depth_first,
    grouped,
    most_waiting,
    path,
    portions,
    stored,
)
from nas.search import Search, make_searcher
from nas.storage.records import Candidate
from nas.together import PORTION, accuracies_of, beginning, evaluate_together
from search_spaces import Architecture, SearchSpace, read_skeleton, unroll
from search_spaces.parts import StageChoice
from supernets import checkpoint
from supernets.attention import ATTENTIONS
from supernets.calibration import recalibrate
from supernets.elastic import Norm
from supernets.folding import folded
from supernets.merging import deployed
from supernets.operators import OPERATORS
from supernets.spatial import channels_last
from supernets.supernet import make_supernet

EVERYTHING = {  # every operator with its first settings, every attention, sharing, a head, two resolutions
    "resolution": [7, 8],
    "stem": {"width": 6},
    "stages": [
        {"width": [4, 6], "depth": [1, 2], "activation": "hardswish"},
        {
            "width": 8,
            "depth": 3,
            "stride": 2,
            "share_kernels": [False, True],
            "operators": ["dense", "mixed"],
        },
        {"width": [6, 8], "depth": [1, 2]},
    ],
    "operators": list(OPERATORS),
    "expansion": [1, 2],
    "attention": list(ATTENTIONS),
    "head": {"width": 12},
}
SHARED = {  # few choices in many places, and norms that go by the choice before
    "stem": {"width": 6},
    "stages": [
        {"width": [4, 6], "depth": [1, 2]},
        {
            "width": 8,
            "depth": 3,
            "stride": 2,
            "share_kernels": [False, True],
            "operators": [{"depthwise": {"kernel_size": [3, 5], "dilation": [1]}}],
        },
        {"width": [6, 8], "depth": [1, 2]},
    ],
    "operators": [
        {"multi_path": {"paths": [[3], [3, 5]], "linear": [False, True]}},
        {"depthwise": {"kernel_size": [3, 5], "dilation": [1]}},
        "max_pool",
    ],
    "expansion": [1, 2],
    "attention": ["none", "se"],
}
CELLS = {"cells": {"blocks": 2, "repeats": 1, "filters": 4, "operators": ["identity", "conv_3x3"]}}


@pytest.fixture(scope="module")
def bench_for(tmp_path_factory) -> Callable[..., Bench]:
    """A bench on digits with an untrained supernet, whose accuracies are as hard to tell apart as any."""

    def make(space: str | dict) -> Bench:
        data = {"name": "digits", "calibration": 60, "validation": 100}
        given = {"data": data, "space": space, "objectives": ["accuracy", "macs"]}
        experiment = config.experiment(given | {"training": {"device": "cpu"}})
        splits = load(experiment.data)
        space = space_of(experiment, splits)
        file = tmp_path_factory.mktemp("bench") / "supernet.safetensors"
        save(make_supernet(space), file)
        return Bench(experiment, splits, space, file)

    return make


def save(supernet: nn.Module, file: Path) -> None:
    checkpoint.save(file, {f"supernet.{name}": one for name, one in supernet.state_dict().items()}, {})


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    """Different architectures, half of them children of others, so that many begin alike."""
    random, found = Random(seed), {}
    while len(found) < count:
        parents = list(found.values())
        one = space.mutate(random.choice(parents), random) if len(found) % 2 else space.sample(random)
        found.setdefault(one.key, one)
    return list(found.values())


def population(space: SearchSpace, size: int, generations: int) -> list[Architecture]:
    """The last generation of NSGA-II that wants many channels in the last stage and few blocks."""
    searcher = make_searcher(Search(searcher={"name": "nsga2", "population": size}), space, 2)
    for _ in range(generations):
        asked = searcher.ask(size)
        for one in asked:
            rows = [row for stage in one.stages for row in stage.blocks]
            searcher.tell(one, (-one.stages[-1].width * rows[0].expansion, len(rows)))
    return asked


def different(candidates: Iterator[Candidate]) -> dict[str, tuple[dict, str | None]]:
    return {one.key: (dict(one.values), one.error) for one in candidates}


def tree_of(bench: Bench, architectures: list[Architecture]) -> PrefixTree:
    """Deployed with statistics, as `nas.together` does."""
    images = bench.calibration_images(bench.space.input_shape(architectures[0].resolution))
    tree = PrefixTree([path(bench.supernet, one) for one in architectures], bench.exported)
    return channels_last(deployed(recalibrate(tree, images)))


@pytest.mark.parametrize("preset", ["digits", "mobile"])
def test_a_population_gets_together_what_each_gets_alone(preset, bench_for, caplog):
    bench = bench_for(preset)
    asked = population(bench.space, 16, generations=4)

    together = different(evaluate_together(bench, asked))

    assert together == different(evaluate(bench, one) for one in asked)
    assert not caplog.records  # they were evaluated together indeed
    assert len(together) == 16 and len({values["accuracy"] for values, _ in together.values()}) > 4


@pytest.mark.parametrize("space", ["digits", "mobile", EVERYTHING], ids=["digits", "mobile", "all"])
def test_logits_are_those_of_each_subnet_bit_for_bit(space, bench_for):
    bench = bench_for(space)
    asked = [one for one in drawn(bench.space, 16) if one.resolution == bench.space.resolutions[0]]
    images = bench.validation_images(bench.space.input_shape(asked[0].resolution))

    with torch.inference_mode():
        logits = tree_of(bench, asked)(images[:64])

        for mine, one in zip(logits, asked, strict=True):
            assert torch.isfinite(mine).all()
            assert torch.equal(mine, bench.subnet(one)(images[:64]))


@pytest.mark.parametrize("space", ["digits", "mobile", EVERYTHING], ids=["digits", "mobile", "all"])
def test_what_is_scored_predicts_what_the_subnet_predicts_but_where_classes_tie(space, bench_for):
    bench = bench_for(space)

    for one in drawn(bench.space, 6):
        images = bench.validation_images(bench.space.input_shape(one.resolution))
        subnet = bench.subnet(one)
        with torch.inference_mode():
            plain, scored = subnet(images), folded(subnet)(images)

        predicted, own = (logits.argmax(1, keepdim=True) for logits in (plain, scored))
        between = plain.gather(1, predicted) - plain.gather(1, own)
        assert (between <= 1e-5 * plain.abs().max()).all()
        right = int((own.flatten() == bench.validation_labels).sum())
        assert evaluate(bench, one).values["accuracy"] == 100 * right / len(images)


def test_every_operator_attention_resolution_and_shared_kernel_is_measured_as_alone(bench_for, caplog):
    bench = bench_for(EVERYTHING)
    asked = drawn(bench.space, 30)

    together = different(evaluate_together(bench, asked))

    assert together == different(evaluate(bench, one) for one in asked)
    assert not caplog.records
    assert any(stage.share_kernels for one in asked for stage in one.stages)
    assert {one.resolution for one in asked} == {7, 8}


def test_cells_are_measured_as_alone(bench_for):
    bench = bench_for(CELLS)
    asked = drawn(bench.space, 3)

    assert different(evaluate_together(bench, asked)) == different(evaluate(bench, one) for one in asked)


def test_a_searcher_that_is_told_of_them_asks_the_same(bench_for):
    bench = bench_for("tiny")

    def found(pool) -> list[str]:
        searcher = make_searcher(Search(seed=3, searcher={"name": "nsga2", "population": 8}), bench.space, 2)
        keys = []
        for _ in range(3):
            asked = searcher.ask(8)
            known = {one.key: one.values for one in pool.map(asked)}
            for one in asked:
                searcher.tell(one, (-known[one.key]["accuracy"], known[one.key]["macs"]))
            keys += [one.key for one in asked]
        return keys

    together = found(TogetherPool(partial(evaluate_together, bench)))

    assert together == found(HerePool(partial(evaluate, bench)))
    assert len(set(together)) == 24


def test_a_subnet_that_fails_fails_alone_with_its_own_reason(bench_for):
    bench = bench_for("digits")
    asked = drawn(bench.space, 12)
    with torch.no_grad():
        bench.supernet.blocks[0].operators["mixed"].weight.fill_(float("nan"))

    together = different(evaluate_together(bench, asked))

    errors = [error for _, error in together.values() if error]
    assert together == different(evaluate(bench, one) for one in asked)
    assert 0 < len(errors) < 12 and all("not a number" in error for error in errors)


def test_an_operator_that_breaks_down_fails_only_those_who_have_it(bench_for, caplog):
    bench = bench_for("digits")
    asked = drawn(bench.space, 12)
    bench.supernet.blocks[0].operators["max_pool"] = Broken()

    together = different(evaluate_together(bench, asked))

    errors = [error for _, error in together.values() if error]
    assert together == different(evaluate(bench, one) for one in asked)
    assert 0 < len(errors) < 12 and set(errors) == {"RuntimeError: out of order"}
    assert "12 architectures are evaluated one by one" in caplog.text


class Broken(nn.Module):
    def export(self, channels: int, **settings) -> nn.Module:
        raise RuntimeError("out of order")


def test_what_is_of_another_space_is_refused(bench_for):
    bench = bench_for("tiny")
    foreign = bench_for("digits").space.ends[1]

    with pytest.raises(ValueError, match="stages"):
        list(evaluate_together(bench, [*drawn(bench.space, 2), foreign]))


def test_what_begins_alike_is_there_once(bench_for):
    bench = bench_for("digits")
    one = max(drawn(bench.space, 20), key=lambda one: sum(len(stage.blocks) for stage in one.stages))
    *before, last = one.stages
    other_attention = {"none": "se", "se": "none"}[last.blocks[-1].attention]
    changed = [*last.blocks[:-1], replace(last.blocks[-1], attention=other_attention)]
    sister = Architecture(one.resolution, (*before, StageChoice(last.width, tuple(changed))))

    paths = [path(bench.supernet, each) for each in (one, sister)]

    assert len(grouped(paths)) == len(paths[0]) + 3  # attention, projection, classifier
    assert len(grouped(paths[:1])) == len(paths[0])


def test_paths_amount_to_the_export(bench_for):
    bench = bench_for(EVERYTHING)

    for one in drawn(bench.space, 10, seed=1):
        layers = [layer for part in path(bench.supernet, one) for layer in part.make().values()]
        exported = bench.supernet.export(one)
        assert sum(map(parameters, layers)) >= parameters(exported)  # less where kernels are shared
        leaves = [type(leaf) for leaf in exported.modules() if not list(leaf.children())]
        kept = [type(leaf) for layer in layers for leaf in layer.modules() if not list(leaf.children())]
        assert kept == leaves or any(stage.share_kernels for stage in one.stages)


@pytest.mark.parametrize("most", [10**9, 20_000], ids=["all", "few"])
@pytest.mark.parametrize("space", [SHARED, "signal"], ids=["images", "signals"])
def test_parts_that_trees_have_in_common_give_each_the_bits_of_its_own(space, most):
    shape = (2, 32) if space == "signal" else (1, 8, 8)
    skeleton = read_skeleton(space) if isinstance(space, str) else space
    space = unroll(skeleton, OPERATORS, ATTENTIONS, shape, 5)
    supernet = channels_last(make_supernet(space).eval())
    torch.manual_seed(0)
    with torch.no_grad():
        for one in supernet.modules():
            if isinstance(one, Norm):  # whoever takes that of another is seen
                one.weight.normal_(1, 0.3), one.bias.normal_(0, 0.3)
    asked = [one for one in drawn(space, 16) if one.resolution == space.resolutions[0]]
    sharing = [one for one in asked if any(stage.share_kernels for stage in one.stages)]
    asked += [
        replace(one, stages=tuple(replace(stage, share_kernels=False) for stage in one.stages))
        for one in sharing
    ]
    images, exported = torch.randn(40, *space.input_shape(asked[0].resolution)), Exported(most=most)
    paths = [path(supernet, one) for one in asked]

    for start in range(0, len(asked), 4):
        tree = PrefixTree(paths[start : start + 4], exported)
        with torch.inference_mode():
            logits = folded(deployed(recalibrate(tree, images)))(images)
            for mine, one in zip(logits, asked[start:], strict=False):
                alone = channels_last(deployed(recalibrate(channels_last(supernet.export(one)), images)))
                assert torch.equal(mine, folded(alone)(images))
        assert exported.held <= most

    beginnings = {
        tuple(part.key for part in parts[: end + 1]) for parts in paths for end in range(len(parts))
    }
    assert len({part.layers for parts in paths for part in parts}) < 0.8 * len(beginnings)


def test_a_part_is_exported_once_and_goes_when_others_need_its_place(bench_for):
    bench = bench_for("digits")
    first, second, third = path(bench.supernet, bench.space.ends[1])[:3]
    made = []

    def noted(part: Part) -> Part:
        return replace(part, make=lambda: made.append(part.key) or part.make())

    exported = Exported(most=10**9)
    sizes = [stored(exported(part)) for part in (first, second, third)]
    few = Exported(most=max(sizes) + sizes[0])
    for part in (first, second, first, third, first):
        few(noted(part))

    assert made == [first.key, second.key, third.key]
    few(noted(second))
    assert made[3:] == [second.key] and few.held <= max(sizes) + sizes[0]


def test_portions_hold_every_architecture_once_and_keep_the_bounds(bench_for):
    bench = bench_for("digits")
    paths = [path(bench.supernet, one) for one in drawn(bench.space, 100)]
    whole = most_waiting(grouped(paths))

    for size, values in [(PORTION, 10**9), (100, whole // 2), (7, whole), (100, 0)]:
        cut = portions(paths, size, values)
        assert sorted(number for numbers in cut for number in numbers) == list(range(100))
        assert max(map(len, cut)) <= size and all(numbers == sorted(numbers) for numbers in cut)
        for numbers in cut:
            assert len(numbers) == 1 or most_waiting(grouped([paths[number] for number in numbers])) <= values
    assert max(map(len, portions(paths, 100, 0))) == 1
    assert portions([], 5, 0) == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_get_each_architecture_once_and_most_that_begin_alike_together(workers, bench_for):
    bench = bench_for("tiny")
    asked = drawn(bench.space, 64)

    cut = shared_out(sorted(asked, key=beginning), workers)

    assert sorted(one.key for some in cut for one in some) == sorted(one.key for one in asked)
    sizes = [len(some) for some in cut]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < 64 / workers and sizes[-1] <= 2

    def parts(portions: Sequence[Sequence[Architecture]]) -> int:
        return sum(len(grouped([path(bench.supernet, one) for one in some])) for some in portions)

    alone, together = parts([[one] for one in asked]), parts([asked])
    assert alone - parts(cut) > 0.5 * (alone - together)  # of what one process saves, this much is saved
    assert shared_out([], workers) == []


def test_next_to_each_other_are_those_that_begin_alike(bench_for):
    bench = bench_for("digits")
    paths = [path(bench.supernet, one) for one in drawn(bench.space, 40)]

    order = depth_first(grouped(paths))

    for depth in range(1, 8):
        seen = [tuple(part.key for part in paths[number][:depth]) for number in order]
        runs = sum(a != b for a, b in pairwise(seen)) + 1
        assert runs == len(set(seen))


def test_no_more_waits_than_is_said(bench_for):
    bench = bench_for("digits")
    asked = drawn(bench.space, 30)
    paths = [path(bench.supernet, one) for one in asked]
    tree = PrefixTree(paths)
    images = bench.validation_images(bench.space.input_shape(asked[0].resolution))[:4]
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def note(layers: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal most
        others = [one() for one in alive if one() is not None and one() is not inputs[0]]
        most = max(most, sum({one.data_ptr(): one.numel() for one in others}.values()))
        if output.ndim > 2:  # logits are kept to the end
            alive.append(weakref.ref(output))

    for layers in tree.layers:
        layers.register_forward_hook(note)
    with torch.no_grad():
        tree(images)

    block = max(part.waiting for parts in paths for part in parts)  # what the path at hand itself needs
    assert 0 < most <= len(images) * (most_waiting(grouped(paths)) + block)


def test_accuracies_are_those_of_whole_batches_and_the_rest(bench_for):
    bench = bench_for("tiny")
    tree = tree_of(bench, drawn(bench.space, 6))
    images, labels = bench.validation_images(bench.space.input_shape(8)), bench.validation_labels

    many = accuracies_of(tree, images.repeat(6, 1, 1, 1), labels.repeat(6))

    assert 6 * len(labels) > BATCH and 6 * len(labels) % BATCH
    assert many == pytest.approx(accuracies_of(tree, images, labels))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_large_tensors_come_to_stand_where_others_stood():
    keep_freed_memory()

    def new_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10 * 2**20)  # 40 MB are 10,240 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages = [new_pages() for _ in range(16)]

    assert sum(pages[8:]) < 2 * 10_240


def parameters(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())
