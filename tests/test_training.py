"""A training is a function of its seed: stopped, killed or undisturbed, it ends with the same bytes. What a step
does not use it does not move; a training that diverges goes back to what was good, and says so.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors import safe_open
from torch import Tensor, nn

from nas.data import Data, Splits, load
from nas.data.batches import Batches, normalize
from search_spaces import Architecture, SearchSpace, read_skeleton, unroll
from supernets import checkpoint
from supernets.attention import ATTENTIONS
from supernets.cost import Costs, CostTable
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.samplers import SAMPLERS, check_sampler, make_sampler
from supernets.samplers.plan import Plan, Sampler, Stateless
from supernets.supernet import Supernet
from supernets.training import Diverged, Watcher, load_weights, progress, train, training_device

SHIFT = {"name": "shift", "every": 3, "warmup": 0.2}  # learns within the few steps of a test
each_sampler = pytest.mark.parametrize(
    "sampler", [{"shift": SHIFT}.get(one, one) for one in SAMPLERS], ids=SAMPLERS
)


@cache
def digits() -> Splits:
    return load(Data("digits"))


@cache
def space_of(preset: str = "tiny") -> SearchSpace:
    return unroll(read_skeleton(preset), OPERATORS, ATTENTIONS, (1, 8, 8), 10)


@cache
def costs_of(preset: str = "tiny") -> CostTable:
    return CostTable(space_of(preset))


class Source:
    """Batches of digits; `spoil(step, images, labels)` may change them, in place."""

    def __init__(self, batch_size: int = 32, spoil: Callable[[int, Tensor, Tensor], None] | None = None):
        splits = digits()
        self.batches = Batches(splits.train, splits.mean, splits.std, batch_size, seed=0)
        self.spoil = spoil

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        images, labels = self.batches(step, rank, ranks)
        if self.spoil is not None:
            images, labels = images.clone(), labels.clone()
            self.spoil(step, images, labels)
        return images, labels

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return 10


def probe_batch(number: int) -> tuple[Tensor, Tensor]:
    splits, random = digits(), np.random.default_rng(number)
    rows = random.choice(len(splits.validation), 64, replace=False)
    images = normalize(splits.validation.images[rows], splits.mean, splits.std)
    return images, torch.from_numpy(splits.validation.labels[rows])


def recipe(steps: int, **changes) -> Training:
    defaults = {"sampler": "uniform", "batch_size": 32, "checkpoint_every": 7, "device": "cpu"}
    return Training(epochs=steps / 10, **(defaults | changes))


GENERATED = {"name": "shift", "architectures": "generator"}


@dataclass
class Heard(Watcher):
    """A watcher that keeps what it hears, and stops before the given steps."""

    stops: frozenset[int] = frozenset()
    points: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    asked: int = 0

    def __post_init__(self) -> None:
        self.point = lambda step, values: self.points.append((step, dict(values)))
        self.warn = self.warnings.append
        self.stop = self._stop

    def _stop(self) -> bool:
        self.asked += 1
        return self.asked in self.stops


@cache
def first_made(name: str, settings: str, steps: int) -> tuple[Sampler, str]:
    sampler = make_sampler({"name": name, **json.loads(settings)}, space_of(), Costs(costs_of()), steps)
    return sampler, json.dumps(sampler.state_dict())


def made(given: str | Mapping, steps: int) -> Sampler:
    """A sampler that has learned nothing; what is costly to make, its tables, is made once."""
    name, settings = check_sampler(given)
    sampler, state = first_made(name, json.dumps(settings), steps)
    sampler = copy(sampler)
    sampler.load_state_dict(json.loads(state))
    return sampler


def trained(
    path: Path,
    settings: Training,
    source: Source | None = None,
    watcher: Watcher | None = None,
    sampler=None,
    supernet: Supernet | None = None,
    costs: Costs | None = None,
) -> bool:
    """Train a new supernet of the tiny space, or go on from `path`."""
    source = source or Source(settings.batch_size)
    steps = settings.steps(source.steps_per_epoch())
    sampler = sampler or made(settings.sampler, steps)
    supernet = supernet or Supernet(space_of(), settings.seed)
    return train(supernet, source, probe_batch, sampler, settings, path, watcher, costs=costs)


def facts_of(path: Path) -> dict:
    return checkpoint.load(path)[1]


# -- the rate ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 55, 400])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.9])
def test_the_rate_rises_then_falls_to_0_and_never_exceeds_its_peak(steps, warmup):
    settings = Training(warmup=warmup, learning_rate=0.4)

    rates = [settings.rate(step, steps) for step in range(steps)]

    top = int(np.argmax(rates))
    assert 0.2 < max(rates) <= 0.4 and all(rate > 0 for rate in rates)
    assert (np.diff(rates[: top + 1]) >= 0).all() and (np.diff(rates[top:]) <= 0).all()
    assert settings.rate(steps, steps) == pytest.approx(0)


def test_the_rate_is_linear_then_half_a_cosine():
    settings = Training(warmup=0.1, learning_rate=1.0)

    assert [settings.rate(step, 100) for step in range(10)] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert settings.rate(10, 100) == pytest.approx(1)
    assert settings.rate(55, 100) == pytest.approx(0.5)
    assert settings.rate(40, 100) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("accumulate", 0),
        ("learning_rate", 0),
        ("momentum", 1),
        ("weight_decay", -1),
        ("warmup", 1),
        ("label_smoothing", 1),
        ("clip", 0),
        ("average", 1),
        ("checkpoint_every", 0),
        ("device", "gpu"),
        ("precision", "half"),
    ],
)
def test_a_recipe_that_cannot_be_is_named_in_one_line(name, value):
    with pytest.raises(ValueError, match=rf"\Atraining\.{name} is {value!r}; it must be [^\n]+\Z"):
        Training(**{name: value})


# -- the same bytes ----------------------------------------------------------------------------


def test_of_several_ranks_the_first_fits_the_generator_and_the_others_take_it(tmp_path):
    torch.multiprocessing.spawn(as_rank, (str(tmp_path),), nprocs=2)

    prepared = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert prepared == [3, 0]
    first, second = facts_of(tmp_path / "x.safetensors")["samplers"]
    assert first["generator"]["steps"] == 3 and first["generator"] == second["generator"]


def as_rank(rank: int, folder: str) -> None:
    """One step of two ranks; how many steps of preparation it showed goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    settings, told = recipe(1, sampler=GENERATED), []
    sampler, supernet = made(GENERATED | {"fit": 3}, 1), Supernet(space_of())
    watcher = Watcher(preparing=lambda *where: told.append(where))
    path = Path(folder) / "x.safetensors"
    assert train(supernet, Source(), probe_batch, sampler, settings, path, watcher, rank=rank, ranks=2)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(len(told)))
    dist.destroy_process_group()


@pytest.mark.parametrize("drop_path", [0.0, 0.2])
def test_a_training_that_will_hardly_drop_a_path_says_so(tmp_path, drop_path):
    heard, sampler = Heard(), make_sampler("uniform", space_of("digits"), Costs(costs_of("digits")), 1)

    settings, supernet = recipe(1, drop_path=drop_path), Supernet(space_of("digits"))
    assert trained(tmp_path / "x", settings, watcher=heard, sampler=sampler, supernet=supernet)

    said = [one for one in heard.warnings if "training.drop_path is 0.2, but only the largest" in one]
    assert len(said) == (drop_path > 0)


@each_sampler
def test_a_training_that_was_stopped_ends_with_the_same_bytes(tmp_path, sampler):
    settings = recipe(24, sampler=sampler)
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    assert trained(whole, settings)

    ends = []
    for steps in (1, 4, 2, 6, 8):  # the second is between checkpoints, the third at one
        ends.append(trained(stopped, settings, watcher=Heard(stops=frozenset([steps]))))
    assert not any(ends) and facts_of(stopped)["step"] == 21
    assert trained(stopped, settings)

    assert stopped.read_bytes() == whole.read_bytes()


def test_what_is_prepared_is_shown_and_can_be_stopped_and_the_bytes_are_the_same(tmp_path):
    settings = recipe(4, sampler={"name": "sandwich", "of": {**GENERATED, "fit": 5}})
    heard, told = Heard(), []
    heard.preparing = lambda *where: told.append(where)
    assert trained(tmp_path / "whole.safetensors", settings, watcher=heard)
    assert told == [("fitting the generator", step, 5) for step in range(1, 6)]

    path = tmp_path / "stopped.safetensors"
    assert not trained(path, settings, watcher=Heard(stops=frozenset([3])))  # in the middle of the fit
    assert facts_of(path)["step"] == 0
    assert not trained(path, settings, watcher=Heard(stops=frozenset([7])))  # after the second step
    again = Heard()
    again.preparing = lambda *where: pytest.fail("what was prepared is in the checkpoint")
    assert trained(path, settings, watcher=again)

    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_training_that_was_stopped_shows_the_same_curves(tmp_path):
    settings, whole, parts = recipe(24), Heard(), [Heard(stops=frozenset([5])), Heard()]
    trained(tmp_path / "whole.safetensors", settings, watcher=whole)

    for heard in parts:
        trained(tmp_path / "stopped.safetensors", settings, watcher=heard)

    shown = [(step, values["loss"]) for heard in parts for step, values in heard.points]
    assert shown == [(step, values["loss"]) for step, values in whole.points]


@each_sampler
@pytest.mark.parametrize("step", [0, 13, 21])
def test_a_training_that_was_killed_ends_with_the_same_bytes(tmp_path, sampler, step):
    settings = recipe(24, sampler=sampler)
    path = tmp_path / "supernet.safetensors"

    def power_cut(at: int, images: Tensor, labels: Tensor) -> None:
        if at == step:
            raise SystemExit

    with pytest.raises(SystemExit):
        trained(path, settings, Source(spoil=power_cut))
    assert facts_of(path)["step"] == step // 7 * 7
    trained(path, settings)

    assert path.read_bytes() == undisturbed(tmp_path, settings)


def undisturbed(folder: Path, settings: Training) -> bytes:
    trained(folder / "whole.safetensors", settings)
    return (folder / "whole.safetensors").read_bytes()


def test_the_seed_decides_the_training_and_nothing_else_does(tmp_path):
    settings = recipe(24, sampler=SHIFT)
    first = undisturbed(tmp_path / "first", settings)
    torch.manual_seed(99)

    assert undisturbed(tmp_path / "again", settings) == first
    assert weights_of(undisturbed(tmp_path / "other", replace(settings, seed=1))) != weights_of(first)


def weights_of(content: bytes) -> bytes:
    header = int.from_bytes(content[:8], "little")
    return content[8 + header :]


def test_a_finished_training_is_left_as_it_is(tmp_path):
    settings, path = recipe(7), tmp_path / "supernet.safetensors"
    trained(path, settings)
    before = path.read_bytes()

    def no_more(step: int, images: Tensor, labels: Tensor) -> None:
        raise AssertionError("a step too many")

    assert trained(path, settings, Source(spoil=no_more))
    assert path.read_bytes() == before
    assert progress(path) == (7, 7)


def test_there_is_no_progress_without_a_checkpoint(tmp_path):
    assert progress(tmp_path / "none.safetensors") == (0, 0)


# -- several batches per step ------------------------------------------------------------------


def test_steps_become_fewer_as_they_take_more_batches():
    assert [Training(epochs=3, accumulate=n).steps(10) for n in (1, 2, 4, 100)] == [30, 15, 8, 1]


@dataclass
class Fixed:
    """Batches that are given, in turn."""

    batches: list[tuple[Tensor, Tensor]]

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        return self.batches[step]

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return len(self.batches)


def moved(folder: Path, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """By how much one step of all these batches moves each weight, at a rate of 1 and without clipping."""
    supernet, path = Supernet(space_of()), folder / "x.safetensors"
    before = {name: one.detach().clone() for name, one in supernet.named_parameters()}
    changes = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9, "learning_rate": 1.0, "warmup": 0.0}
    settings = Training(epochs=1, batch_size=32, accumulate=len(batches), device="cpu", **changes)
    sampler = Listed([choosing("depthwise", "se")])
    train(supernet, Fixed(batches), probe_batch, sampler, settings, path)
    path.unlink()
    return {name: before[name] - one.detach() for name, one in supernet.named_parameters()}


def test_a_step_of_two_batches_moves_by_the_mean_of_their_gradients(tmp_path):
    batches = [Source()(step) for step in range(2)]

    first, second = (moved(tmp_path, [one]) for one in batches)
    both = moved(tmp_path, batches)

    for name, one in both.items():
        torch.testing.assert_close(one, (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-6)
    assert any(not torch.allclose(first[name], second[name], rtol=0.1) for name in both)


def test_the_batches_of_a_step_follow_each_other_and_share_one_plan(tmp_path):
    seen, planned = [], []

    class Planning(Listed):
        def plan(self, step: int, random: Random, look) -> Plan:
            planned.append(len(seen))
            return super().plan(step, random, look)

    source = Source(spoil=lambda step, images, labels: seen.append(step))
    heard, sampler = Heard(), Planning([choosing("depthwise", "se")])
    trained(tmp_path / "x.safetensors", recipe(9, accumulate=3), source, heard, sampler)

    assert seen == list(range(9)) and planned == [1, 4, 7]
    assert facts_of(tmp_path / "x.safetensors")["steps"] == 3


# -- the average of the weights ----------------------------------------------------------------


def test_what_is_kept_for_use_is_the_moving_average_of_the_weights(tmp_path):
    supernet, path, seen = Supernet(space_of()), tmp_path / "x.safetensors", []

    def look(step: int, images: Tensor, labels: Tensor) -> None:
        seen.append({name: one.detach().clone() for name, one in supernet.named_parameters()})

    settings = recipe(40, average=0.6, checkpoint_every=50)
    trained(path, settings, Source(spoil=look), supernet=supernet)

    tensors, _ = checkpoint.load(path)
    raw = dict(supernet.named_parameters())
    expected = {name: one.double() for name, one in seen[0].items()}
    for step, weights in enumerate([*seen[1:], raw]):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {name: decay * one + (1 - decay) * weights[name] for name, one in expected.items()}
    for name, one in expected.items():
        torch.testing.assert_close(tensors[f"supernet.{name}"], one.float(), rtol=1e-5, atol=1e-6)
        assert torch.equal(tensors[f"raw.{name}"], raw[name])
    assert not torch.equal(tensors["supernet.stem.convolution.weight"], raw["stem.convolution.weight"])


def test_averaging_does_not_change_what_is_trained(tmp_path):
    plain, averaged = tmp_path / "plain.safetensors", tmp_path / "averaged.safetensors"
    trained(plain, recipe(12))
    trained(averaged, recipe(12, average=0.9))

    weights, other = checkpoint.load(plain)[0], checkpoint.load(averaged)[0]
    for name, _ in Supernet(space_of()).named_parameters():
        assert torch.equal(weights[f"supernet.{name}"], other[f"raw.{name}"])
        assert torch.equal(weights[f"momentum.{name}"], other[f"momentum.{name}"])


# -- everything at once ------------------------------------------------------------------------

ALL = {"average": 0.9, "accumulate": 2, "mixup": 0.2, "cutmix": 1.0, "drop_path": 0.2, "loss": "bias"}


@pytest.mark.parametrize("step", [5, 18])
@pytest.mark.parametrize("sampler", ["sandwich", SHIFT], ids=["sandwich", "shift"])
def test_with_all_options_a_training_that_was_killed_ends_with_the_same_bytes(tmp_path, sampler, step):
    settings, costs = recipe(40, sampler=sampler, **ALL), Costs(costs_of())
    path, whole = tmp_path / "supernet.safetensors", tmp_path / "whole.safetensors"

    def power_cut(at: int, images: Tensor, labels: Tensor) -> None:
        if at == 2 * step + 1:  # between the two batches of the step
            raise SystemExit

    with pytest.raises(SystemExit):
        trained(path, settings, Source(spoil=power_cut), costs=costs)
    trained(
        path, settings, watcher=Heard(stops=frozenset([1])), costs=costs
    )  # and stopped between checkpoints
    trained(path, settings, costs=costs)
    trained(whole, settings, costs=costs)

    assert path.read_bytes() == whole.read_bytes()


def test_a_rollback_takes_the_average_and_the_counts_back_too(tmp_path):
    settings = recipe(24, checkpoint_every=10, average=0.9)
    path, heard = tmp_path / "x.safetensors", Heard()
    poisoned = Source(spoil=Poison(range(12, 13), no_numbers, times=1))

    trained(path, settings, poisoned, heard, costs=Costs(costs_of()))

    assert len(heard.warnings) == 1 and all_finite(path)
    assert sum(facts_of(path)["sampled"]["counts"]) == 24


# -- what was sampled --------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "each"), [("uniform", 1), ("sandwich", 4)])
def test_the_counts_of_what_was_sampled_add_up_to_the_architectures_trained(tmp_path, sampler, each):
    path, heard, costs = tmp_path / "x.safetensors", Heard(), costs_of()
    settings = recipe(25, sampler=sampler)
    trained(path, settings, watcher=Heard(stops=frozenset([5])), costs=Costs(costs))
    trained(path, settings, watcher=heard, costs=Costs(costs))

    sampled = facts_of(path)["sampled"]
    low, high = costs.of([costs.smallest, costs.largest])[:, 0]
    assert len(sampled["edges"]) == 21 and len(sampled["counts"]) == 20
    assert (sampled["edges"][0], sampled["edges"][-1]) == (low, high)
    assert sum(sampled["counts"]) == 25 * each
    assert all(each * low < values["macs"] < each * high for _, values in heard.points)


def test_the_curves_show_the_macs_of_all_architectures_of_a_step(tmp_path):
    class Pair(Listed):
        def plan(self, step: int, random: Random, look) -> Plan:
            return Plan(tuple(self.architectures))

    heard, pair = Heard(), [choosing("depthwise", "se"), choosing("max_pool", "none")]
    costs = costs_of()
    trained(tmp_path / "x.safetensors", recipe(14), None, heard, Pair(pair), costs=Costs(costs))

    assert [values["macs"] for _, values in heard.points] == [costs.of(pair)[:, 0].sum()] * 2


# -- statistics --------------------------------------------------------------------------------


def test_no_running_statistics_are_touched_by_a_training_and_the_norms_are_left_as_they_were(tmp_path):
    supernet = Supernet(space_of())
    supernet.stem.norm = nn.Sequential(supernet.stem.norm, nn.BatchNorm2d(space_of().stem.width))
    buffers = {name: one.clone() for name, one in supernet.named_buffers()}

    trained(tmp_path / "x.safetensors", recipe(5, sampler=SHIFT), supernet=supernet)

    assert all(torch.equal(buffers[name], one) for name, one in supernet.named_buffers())
    norms = [one for one in supernet.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 5 and all(norm.track_running_stats for norm in norms)
    images, _ = Source()(0)
    supernet.train()(images, choosing("depthwise", "se"))
    assert supernet.stem.norm[1].num_batches_tracked == 1  # as any such norm, now


# -- what a step moves -------------------------------------------------------------------------


@dataclass
class Listed(Stateless):
    """A sampler that trains given architectures in turn, and then the last one."""

    architectures: list[Architecture]

    def plan(self, step: int, random: Random, look) -> Plan:
        return Plan((self.architectures[min(step, len(self.architectures) - 1)],))


def choosing(operator: str, attention: str) -> Architecture:
    """The deepest architecture of the tiny space with one operator and attention everywhere."""
    random, space = Random(0), space_of()
    while True:
        one = space.sample(random)
        blocks = [block for stage in one.stages for block in stage.blocks]
        if len(blocks) == 3 and all((b.operator, b.attention) == (operator, attention) for b in blocks):
            return one


def test_what_a_step_does_not_use_does_not_move_at_all(tmp_path):
    first, then = choosing("depthwise", "se"), choosing("max_pool", "none")
    supernet = Supernet(space_of())
    seen = []  # the weights before each step

    def look(step: int, images: Tensor, labels: Tensor) -> None:
        seen.append({name: one.detach().clone() for name, one in supernet.named_parameters()})

    settings = recipe(3, warmup=0.0, weight_decay=0.1)
    trained(tmp_path / "x.safetensors", settings, Source(spoil=look), None, Listed([first, then]), supernet)

    moved = [
        {name for name, one in before.items() if not torch.equal(one, after[name])}
        for before, after in itertools.pairwise(seen)
    ]
    only_first = {name for name in seen[0] if ".depthwise" in name or ".se." in name}
    only_then = {name for name in seen[0] if "norms.max_pool" in name}
    assert only_first <= moved[0] and not only_then & moved[0]
    assert only_then <= moved[1]
    assert not only_first & moved[1]  # in spite of their momentum and their decay
    assert "stem.convolution.weight" in moved[0] & moved[1]


def test_gradients_from_before_a_training_do_not_count(tmp_path):
    def ended(supernet: Supernet) -> list[Tensor]:
        path = tmp_path / "x.safetensors"
        trained(path, recipe(2), None, None, Listed([choosing("max_pool", "none")]), supernet)
        path.unlink()
        return [one.detach() for one in supernet.parameters()]

    fresh, used = Supernet(space_of()), Supernet(space_of())
    for parameter in used.parameters():
        parameter.grad = torch.ones_like(parameter)

    assert all(torch.equal(one, other) for one, other in zip(ended(fresh), ended(used), strict=True))


def test_norms_and_biases_do_not_decay(tmp_path):
    moved = []
    for decay in (0.0, 0.5):
        supernet = Supernet(space_of())
        with torch.no_grad():
            for one in supernet.parameters():
                one.add_(0.5)  # nothing that would decay is 0
        settings = recipe(1, weight_decay=decay, momentum=0.0, learning_rate=0.1)
        sampler = Listed([choosing("depthwise", "se")])
        trained(tmp_path / f"{decay}.safetensors", settings, None, None, sampler, supernet)
        moved.append(dict(supernet.named_parameters()))

    without, decayed = moved
    used = [name for name in without if "max_pool" not in name and "attentions.none" not in name]
    for name in used:
        assert torch.equal(without[name], decayed[name]) == (without[name].ndim == 1), name
    assert {one.ndim for one in without.values()} == {1, 2, 4}


def test_the_gradient_is_clipped(tmp_path):
    settings = recipe(1, clip=1e-3, momentum=0.0, weight_decay=0.0, learning_rate=1.0, warmup=0.0)
    supernet = Supernet(space_of())
    before = torch.cat([one.detach().flatten() for one in supernet.parameters()])

    trained(tmp_path / "x.safetensors", settings, supernet=supernet)

    after = torch.cat([one.detach().flatten() for one in supernet.parameters()])
    assert torch.linalg.vector_norm(after - before).item() == pytest.approx(1e-3, rel=1e-3)


def test_the_loss_of_digits_falls_within_seconds(tmp_path):
    heard, sampler = Heard(), Listed([choosing("depthwise", "se")])

    trained(tmp_path / "x.safetensors", recipe(80), watcher=heard, sampler=sampler)

    losses = [values["loss"] for _, values in heard.points]
    assert losses[0] > 2 and losses[-1] < 1


def test_the_curves_name_loss_rate_speed_and_what_the_sampler_shows(tmp_path):
    heard, settings = Heard(), recipe(24, sampler=SHIFT, checkpoint_every=10)

    trained(tmp_path / "x.safetensors", settings, watcher=heard)

    assert [step for step, _ in heard.points] == [10, 20, 24]
    for step, values in heard.points:
        assert values["learning_rate"] == settings.rate(step, 24)
        assert sum(values[f"probability/{k}"] for k in range(8)) == pytest.approx(1)
        assert values["images_per_second"] > 0


# -- divergence --------------------------------------------------------------------------------


@dataclass
class Poison:
    """Spoils the batches of some steps, for the first `times` that each is asked for."""

    steps: range
    how: Callable[[Tensor, Tensor], None]
    times: float = math.inf
    asked: Counter = field(default_factory=Counter)

    def __call__(self, step: int, images: Tensor, labels: Tensor) -> None:
        self.asked[step] += 1
        if step in self.steps and self.asked[step] <= self.times:
            self.how(images, labels)


def no_numbers(images: Tensor, labels: Tensor) -> None:
    images.fill_(math.nan)


def no_sense(images: Tensor, labels: Tensor) -> None:
    """Labels that have nothing to do with the images: what can be learned of them is chance."""
    labels.random_(10, generator=torch.Generator().manual_seed(int(labels.sum())))


@each_sampler
def test_a_loss_that_is_not_a_number_goes_back_at_half_the_rate(tmp_path, sampler):
    settings, path, heard = (
        recipe(24, sampler=sampler, checkpoint_every=10),
        tmp_path / "x.safetensors",
        Heard(),
    )

    assert trained(path, settings, Source(spoil=Poison(range(12, 13), no_numbers, times=1)), heard)

    [warning] = heard.warnings
    assert warning == (
        "at step 20 the loss is not a number; back to step 10 at half the learning rate (rollback 1 of at most 3)"
    )
    assert [step for step, _ in heard.points] == [10, 20, 24]
    assert [values["learning_rate"] for _, values in heard.points] == [
        settings.rate(10, 24),
        settings.rate(20, 24) / 2,
        settings.rate(24, 24) / 2,
    ]
    assert facts_of(path)["rollbacks"] == 1
    assert all_finite(path)


def all_finite(path: Path) -> bool:
    return all(bool(torch.isfinite(tensor.float()).all()) for tensor in checkpoint.load(path)[0].values())


def test_a_training_gives_up_after_three_rollbacks_and_keeps_what_was_good(tmp_path):
    settings, path, heard = recipe(25, checkpoint_every=10), tmp_path / "x.safetensors", Heard()

    with pytest.raises(Diverged) as gave_up:
        trained(path, settings, Source(spoil=Poison(range(13, 14), no_numbers)), heard)

    message = str(gave_up.value)
    assert "\n" not in message
    assert "at step 20 the loss is not a number, after 3 rollbacks" in message
    assert "training.learning_rate (0.3)" in message and "--fresh" in message
    assert [f"rollback {n} of" in text for n, text in enumerate(heard.warnings, 1)] == [True] * 3
    assert facts_of(path)["step"] == 10 and all_finite(path)


def test_a_rate_that_was_halved_stays_so_when_the_training_is_killed(tmp_path):
    settings, path = recipe(25, checkpoint_every=10), tmp_path / "x.safetensors"
    poison = Poison(range(13, 14), no_numbers, times=1)

    def spoil(step: int, images: Tensor, labels: Tensor) -> None:
        poison(step, images, labels)
        if poison.asked[step] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        trained(path, settings, Source(spoil=spoil))
    heard = Heard()
    trained(path, settings, watcher=heard)

    assert heard.points[0][1]["learning_rate"] == settings.rate(20, 25) / 2


def test_a_loss_back_at_chance_goes_back_and_then_gives_up(tmp_path):
    settings, heard = recipe(100, checkpoint_every=20), Heard()
    sampler = Listed([choosing("depthwise", "se")])

    poisoned = Source(spoil=Poison(range(60, 80), no_sense, times=1))
    trained(tmp_path / "x.safetensors", settings, poisoned, heard, sampler)

    [warning] = heard.warnings
    assert "at step 80 the loss is back at chance (" in warning
    assert "back to step 60 at half the learning rate" in warning
    assert heard.points[-1][0] == 100 and heard.points[-1][1]["loss"] < 1

    poisoned = Source(spoil=Poison(range(60, 80), no_sense))
    with pytest.raises(Diverged, match=r"at step 80 the loss is back at chance \(.*\), after 3 rollbacks"):
        trained(tmp_path / "y.safetensors", settings, poisoned, Heard(), sampler)


@pytest.mark.parametrize("rate", [4.0, 1000.0])
def test_a_rate_far_too_large_is_halved_from_the_first_steps_on(tmp_path, rate):
    settings, path, heard = recipe(40, learning_rate=rate, checkpoint_every=20), tmp_path / "x", Heard()
    sampler = Listed([choosing("depthwise", "se")])

    if rate < 10:
        assert trained(path, settings, watcher=heard, sampler=sampler)
        assert heard.points[-1][1]["loss"] < 0.9 * math.log(10)
    else:
        with pytest.raises(
            Diverged, match=r"the loss is far above chance \(.* against 2\.30\), after 3 rollbacks"
        ):
            trained(path, settings, watcher=heard, sampler=sampler)
        assert facts_of(path)["step"] == 0

    assert all("the loss is far above chance (" in text for text in heard.warnings)
    assert 1 <= len(heard.warnings) <= 3 and facts_of(path)["rollbacks"] == len(heard.warnings)


def test_a_wild_training_that_is_stopped_leaves_the_checkpoint_of_before(tmp_path):
    settings, path = recipe(60, learning_rate=1000.0, checkpoint_every=50), tmp_path / "x.safetensors"

    assert not trained(path, settings, watcher=Heard(stops=frozenset([10])))

    assert facts_of(path)["step"] == 0


def test_a_training_that_never_fell_below_chance_says_so_at_its_end(tmp_path):
    settings, path, heard = recipe(30, learning_rate=0.05), tmp_path / "x.safetensors", Heard()

    assert trained(path, settings, Source(spoil=Poison(range(30), no_sense)), heard)

    [warning] = heard.warnings
    lowest = min(values["loss"] for _, values in heard.points)
    assert warning.startswith(f"the loss never fell below chance (2.30), the lowest was {lowest:.2f}: ")
    assert "training.learning_rate (0.05)" in warning and "training.epochs (3)" in warning


@pytest.mark.parametrize("warmup", [0.0, 0.05])
@pytest.mark.parametrize(
    "changes", [{}, {"mixup": 0.5, "loss": "bias"}, {"sampler": "sandwich", "clip": 5.0}]
)
def test_a_training_that_is_well_is_never_taken_back_at_any_of_its_steps(tmp_path, warmup, changes):
    settings, heard = recipe(30, warmup=warmup, checkpoint_every=1, **changes), Heard()

    assert trained(tmp_path / "x.safetensors", settings, watcher=heard)

    assert heard.warnings == [] and len(heard.points) == 30


def test_a_gradient_that_is_not_a_number_never_reaches_a_checkpoint(tmp_path):
    """The loss of the step is still well, only the weights after it are not."""
    settings, path, heard = recipe(25, checkpoint_every=10), tmp_path / "x.safetensors", Heard()
    supernet, calls = Supernet(space_of()), Counter()

    def spoil(gradient: Tensor) -> Tensor:
        calls["steps"] += 1
        return gradient * math.nan if calls["steps"] == 20 else gradient

    supernet.stem.convolution.weight.register_hook(spoil)
    trained(path, settings, watcher=heard, supernet=supernet)

    assert len(heard.warnings) == 1 and "back to step 10" in heard.warnings[0]
    assert all_finite(path)


def test_who_stops_a_diverging_training_keeps_the_last_good_checkpoint(tmp_path):
    settings, path = recipe(25, checkpoint_every=10), tmp_path / "x.safetensors"
    poisoned = Source(spoil=Poison(range(13, 14), no_numbers))

    assert not trained(path, settings, poisoned, Heard(stops=frozenset([15])))

    assert facts_of(path)["step"] == 10 and all_finite(path)


# -- checkpoints of something else -------------------------------------------------------------


@pytest.fixture
def begun(tmp_path) -> Path:
    """The checkpoint of a training that was stopped."""
    path = tmp_path / "supernet.safetensors"
    trained(path, recipe(14), watcher=Heard(stops=frozenset([8])))
    return path


def refused(path: Path, message: str, settings: Training, supernet: Supernet | None = None) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        trained(path, settings, supernet=supernet)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_cut_in_half_is_refused_and_left_as_it_was(begun):
    begun.write_bytes(begun.read_bytes()[: begun.stat().st_size // 2])

    refused(begun, "is damaged .*; nothing was overwritten: restore it, or start over", recipe(14))


@pytest.mark.parametrize(
    "change", [{"learning_rate": 0.1}, {"epochs": 3}, {"sampler": "sandwich"}, {"seed": 1}]
)
def test_a_checkpoint_of_other_settings_is_refused_and_left_as_it_was(begun, change):
    message = "is of a training with other settings; give the run another --name, or start over with --fresh"

    refused(begun, message, replace(recipe(14), **change))


def test_a_checkpoint_from_before_a_setting_existed_goes_on(begun, tmp_path):
    tensors, facts = checkpoint.load(begun)
    older = {name: one for name, one in facts["training"].items() if name not in ("average", "accumulate")}
    used = {name: one for name, one in tensors.items() if not name.startswith("momentum.") or bool(one.any())}
    checkpoint.save(begun, used, facts | {"training": older})

    trained(begun, recipe(14))
    trained(tmp_path / "whole.safetensors", recipe(14))

    assert weights_of(begun.read_bytes()) == weights_of((tmp_path / "whole.safetensors").read_bytes())


def test_a_checkpoint_from_before_a_setting_existed_is_refused_with_another_value_of_it(begun):
    tensors, facts = checkpoint.load(begun)
    checkpoint.save(begun, tensors, facts | {"training": facts["training"] | {"average": 0.0}})
    refused(begun, "is of a training with other settings", recipe(14, average=0.9))


def test_a_checkpoint_of_another_space_is_refused_and_left_as_it_was(begun):
    refused(
        begun, r"is of another search space \(\d+ tensors differ", recipe(14), Supernet(space_of("digits"))
    )


def test_a_checkpoint_of_more_workers_is_refused_and_left_as_it_was(begun):
    tensors, facts = checkpoint.load(begun)
    checkpoint.save(begun, tensors, facts | {"samplers": facts["samplers"] * 2})

    refused(begun, "ran on 2 workers, now there are 1; go on with as many", recipe(14))


def test_a_checkpoint_holds_weights_momentum_and_facts_and_no_code(begun):
    with safe_open(begun, framework="pt") as file:
        names, facts = set(file.keys()), json.loads(file.metadata()["facts"])

    weights = {name for name in names if name.startswith("supernet.")}
    assert names - weights == {name for name in names if name.startswith("momentum.")}
    assert weights == {f"supernet.{name}" for name in Supernet(space_of()).state_dict()}
    assert facts["training"]["learning_rate"] == 0.3 and (facts["step"], facts["steps"]) == (8, 14)


def test_the_weights_of_a_checkpoint_go_into_any_supernet_of_its_space(begun):
    tensors, _ = checkpoint.load(begun)
    supernet = Supernet(space_of(), seed=5)

    load_weights(supernet, tensors, begun)

    assert all(torch.equal(tensors[f"supernet.{name}"], one) for name, one in supernet.state_dict().items())


# -- the device --------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_an_error_and_not_a_slow_training():
    with pytest.raises(ValueError, match=r"\Atraining\.device is cuda, but torch sees no GPU here; allowed"):
        training_device(Training(device="cuda"))
    assert training_device(Training(device="auto")) == torch.device("cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_the_loss_falls_too(tmp_path):
    supernet, heard = Supernet(space_of()).to("cuda", memory_format=torch.channels_last), Heard()
    source = Source()
    source.batches.images, source.batches.labels = source.batches.images.cuda(), source.batches.labels.cuda()

    sampler = Listed([choosing("depthwise", "se")])
    trained(tmp_path / "x.safetensors", recipe(80, device="cuda"), source, heard, sampler, supernet)

    losses = [values["loss"] for _, values in heard.points]
    assert losses[0] > 2 and losses[-1] < 1
