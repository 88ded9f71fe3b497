"""What a step trains is a valid architecture that depends on the seed, the step and what was learned, on nothing
else, for every sampler, alone and within another. Uniform per decision crowds the middle of the cost range,
uniform over cost covers it evenly, for whatever cost; fair gives every option its turn; attentive trains the best
or the worst of some; the sandwich is exactly the sum of its layers, and only the largest sees the labels; nothing
that is closed is trained before its phase.
"""

from __future__ import annotations

import json
import random as global_random
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor

from search_spaces import SearchSpace, read_skeleton, unroll
from search_spaces.strict import parse_yaml
from supernets.attention import ATTENTIONS
from supernets.cost import COSTS, Costs, CostTable, cost_table
from supernets.operators import OPERATORS
from supernets.recipe import Training
from supernets.registry import BadPart
from supernets.samplers import SAMPLERS, WRAPPERS, check_sampler, make_sampler
from supernets.samplers.cost_bins import CostBins, cost_bins
from supernets.samplers.plan import Look, Plan, Probe, Sampler, Stateless
from supernets.samplers.progressive import KINDS, PHASES, Progressive
from supernets.supernet import Supernet
from supernets.training import train

STEPS = 1000
QUICK = {  # settings by which something happens within 80 of the 1000 steps
    "attentive": {"bins": 8},
    "shift": {"every": 10, "warmup": 0.02, "gate": 1},
    "sandwich": {"randoms": 1},
    "progressive": {"phases": [{"at": 0.02, "open": "kernel"}, {"at": 0.05, "open": ["depth", "expansion"]}]},
}
SPACES = {
    "one": {"stages": [{"width": 8}], "operators": ["identity"]},
    "tiny": "tiny",
    "digits": "digits",
    "mobile": "mobile",  # kernels and dilations
    "cells": {
        "stem": {"width": 4},
        "cells": {
            "blocks": 2,
            "repeats": 1,
            "filters": 4,
            "reductions": 1,
            "operators": ["identity", "max_pool_3x3", "conv_3x3"],
        },
    },
    "threes": {  # the paper's case: as many options everywhere, and all decisions arise
        "stages": [{"width": [8, 12, 16], "depth": 2, "expansion": [1, 2, 3]}],
        "operators": ["identity", "haar", {"max_pool": {"kernel_size": [3]}}],
    },
}  # fmt: skip


def quick(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, **QUICK.get(name, {}), **settings}


def inside(wrapper: str) -> list[str]:
    """The samplers that may stand in a wrapper."""
    return [name for name in SAMPLERS if name not in WRAPPERS[: WRAPPERS.index(wrapper) + 1]]


EVERY = [
    *map(quick, SAMPLERS),
    *(quick(wrapper, of=quick(name)) for wrapper in WRAPPERS for name in inside(wrapper)),
    quick("progressive", of=quick("sandwich", of=quick("shift"))),
]


def words(given: Mapping[str, Any]) -> str:
    return given["name"] + (f" of {words(given['of'])}" if "of" in given else "")


every_sampler = pytest.mark.parametrize("given", EVERY, ids=words)


def no_look(architecture) -> float:
    raise AssertionError("it must not look at the loss")


def some_look(architecture) -> float:
    return Random(architecture.key).random()


@cache
def table_of(preset: str) -> CostTable:
    skeleton = read_skeleton(SPACES[preset])
    return cost_table(unroll(skeleton, OPERATORS, ATTENTIONS, (1, 8, 8), 10))


@cache
def first_made(given: str, preset: str) -> Sampler:
    name, settings = check_sampler(json.loads(given))
    if name in WRAPPERS:
        settings["of"] = first_made(json.dumps(settings.get("of", "uniform")), preset)
    table = table_of(preset)
    return SAMPLERS[name](table.space, Costs(table), STEPS, **settings)


def made(given: str | Mapping[str, Any], preset: str = "tiny") -> Sampler:
    """A sampler that has learned nothing; what is costly to make, its tables, is made once."""
    table = table_of(preset)
    shared = {id(one): one for one in (table, table.space)}
    return deepcopy(first_made(json.dumps(given), preset), shared)


def falling(sampler: Sampler, loss: float = 2.0) -> Probe:
    """A supernet whose loss falls by a thousandth with each number, three times as fast for dear ones."""

    def at(architecture, number: int) -> float:
        macs = table_of("tiny").of([architecture])[0, 0]
        return loss - number * (0.003 if macs > 90_000 else 0.001)

    return Probe(at, lambda values: values)


def carried_out(sampler: Sampler, steps: range) -> list[Plan]:
    """The plans of some steps, with all that the sampler learns between them."""
    plans = []
    for step in steps:
        plans.append(sampler.plan(step, Random(f"{step} plan"), some_look))
        sampler.update(step + 1, Random(f"{step} update"), falling(sampler))
    return plans


def drawn_by(sampler: Sampler, steps: int) -> list:
    """All architectures of so many plans."""
    dice = Random(0)
    return [one for step in range(steps) for one in sampler.plan(step, dice, some_look).architectures]


# -- what all keep -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "preset"),
    [
        pytest.param(given, preset, id=f"{words(given)}-{preset}")
        for given in EVERY
        for preset in ["tiny", "digits", "one", "cells"]
        if (given["name"], preset) != ("progressive", "cells")  # refused, as another test says
    ],
)
def test_every_plan_is_of_architectures_of_the_space(given, preset):
    sampler, space = made(given, preset), table_of(preset).space

    for step in range(0, 80, 5):
        plan = sampler.plan(step, Random(step), some_look)
        assert plan.architectures
        for architecture in plan.architectures:
            space.check(architecture)


@every_sampler
def test_the_same_step_and_seed_have_the_same_plan(given):
    assert carried_out(made(given), range(80)) == carried_out(made(given), range(80))
    sampler = made(given)
    assert len({sampler.plan(0, Random(seed), some_look) for seed in range(20)}) > 10


@every_sampler
@pytest.mark.parametrize("stop", [0, 10, 45, 61])
def test_a_sampler_goes_on_from_its_state_as_json(given, stop):
    whole = carried_out(made(given), range(80))

    stopped = made(given)
    carried_out(stopped, range(stop))
    again = made(given)
    again.load_state_dict(json.loads(json.dumps(stopped.state_dict())))

    assert carried_out(again, range(stop, 80)) == whole[stop:]


@every_sampler
def test_what_a_sampler_shows_are_finite_numbers(given):
    sampler = made(given)
    carried_out(sampler, range(60))

    shown = sampler.observables()

    assert all(isinstance(key, str) and np.isfinite(value) for key, value in shown.items())
    json.dumps(dict(shown))
    assert bool(shown) == ("shift" in words(given))


@every_sampler
def test_planning_draws_nothing_from_the_global_generators(given):
    sampler = made(given)
    before = global_random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())

    carried_out(sampler, range(20))

    assert (global_random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())) == before


@every_sampler
def test_only_attentive_pays_for_looks(given):
    looks = []

    made(given).plan(0, Random(0), lambda one: looks.append(one) or 1.0)

    assert bool(looks) == ("attentive" in words(given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shfit", r"training\.sampler 'shfit' is not known; did you mean shift\? Allowed: uniform, uniform_cost"),
        ({}, r"training\.sampler is \{\}, without a name; write for example \{name: shift, bins: 8\}"),
        (["shift"], r"training\.sampler is \['shift'\]; it must be a name or a mapping"),
        ({"name": ["shift"]}, r"training\.sampler \['shift'\] is not known"),
        ({"name": "shift", "bin": 8}, r"training\.sampler\.bin is not known; did you mean bins\? Allowed: "),
        ({"name": "uniform", "bins": 8}, r"training\.sampler\.bins is not known; Allowed: nothing"),
        ({"name": "shift", "space": 1}, r"training\.sampler\.space is not known"),
        ({"name": "shift", "bins": 0}, r"training\.sampler\.bins is 0; it must be a whole number between 1 and"),
        ({"name": "shift", "bins": 2.5}, r"training\.sampler\.bins is 2\.5; it must be a whole number"),
        ({"name": "shift", "every": 10.5}, r"training\.sampler\.every is 10\.5; it must be a whole number"),
        ({"name": "shift", "every": True}, r"training\.sampler\.every is True; it must be a whole number"),
        ({"name": "shift", "warmup": 1.5}, r"training\.sampler\.warmup is 1\.5; it must be a number between 0 and 1"),
        ({"name": "shift", "rate": float("nan")}, r"training\.sampler\.rate is nan; it must be a number between"),
        ({"name": "shift", "floor": "low"}, r"training\.sampler\.floor is 'low'; it must be a number between"),
        ({"name": "uniform_cost", "cost": "mac"}, r"training\.sampler\.cost 'mac' is not known; did you mean macs\?"),
        ({"name": "uniform_cost", "cost": ["macs"]}, r"training\.sampler\.cost \['macs'\] is not known; "),
        ({"name": "uniform_cost", "cost": "latency_ms"}, r"training\.sampler: there is no prediction of latency_ms"),
        ({"name": "shift", "cost": "latency_ms@pad"}, r"training\.sampler: there is no prediction of latency_ms@pad"),
        ({"name": "uniform_cost", "bins": 0}, r"training\.sampler\.bins is 0; it must be a whole number"),
        ({"name": "fair", "turns": 2}, r"training\.sampler\.turns is not known; Allowed: nothing"),
        ({"name": "attentive", "pick": "bestup"}, r"training\.sampler\.pick 'bestup' is not known; did you mean best"),
        ({"name": "attentive", "candidates": 0}, r"training\.sampler\.candidates is 0; it must be a whole number"),
        ({"name": "sandwich", "randoms": -1}, r"training\.sampler\.randoms is -1; it must be a whole number"),
        ({"name": "sandwich", "randoms": "two"}, r"training\.sampler\.randoms is 'two'; it must be a whole"),
        ({"name": "sandwich", "smallest": 1}, r"training\.sampler\.smallest is 1; it must be true or false"),
        ({"name": "sandwich", "distil": "kl"}, r"training\.sampler\.distil is 'kl'; it must be true or false"),
        ({"name": "sandwich", "of": "shfit"}, r"training\.sampler\.of 'shfit' is not known; did you mean shift\?"),
        ({"name": "sandwich", "of": None}, r"training\.sampler\.of is None; it must be a name or a mapping"),
        ({"name": "sandwich", "of": {"name": "shift", "bin": 8}}, r"training\.sampler\.of\.bin is not known; did you"),
        ({"name": "sandwich", "of": {"name": "shift", "bins": 0}}, r"training\.sampler\.of\.bins is 0; it must be"),
        ({"name": "sandwich", "of": "sandwich"}, r"training\.sampler\.of is sandwich, which cannot stand inside sandw"),
        ({"name": "sandwich", "of": "progressive"}, r"training\.sampler\.of is progressive, which cannot stand inside"),
        ({"name": "progressive", "of": {"name": "sandwich", "of": {"name": "uniform_cost", "cost": "latency_ms"}}},
         r"training\.sampler\.of\.of: there is no prediction of latency_ms"),
        ({"name": "progressive", "of": {"name": "sandwich", "of": "progressive"}},
         r"training\.sampler\.of\.of is progressive, which cannot stand inside sandwich; allowed: uniform, "),
        ({"name": "uniform", "of": "uniform"}, r"training\.sampler\.of is not known; Allowed: nothing"),
        ({"name": "progressive", "phases": "kernel"}, r"training\.sampler\.phases is 'kernel'; it must be a list such"),
        ({"name": "progressive", "phases": []}, r"training\.sampler\.phases is \[\]; it must be a list such as"),
        ({"name": "progressive", "phases": ["kernel"]}, r"training\.sampler\.phases\[0\] is 'kernel'; it must be"),
        ({"name": "progressive", "phases": [{"at": 0.5}]}, r"training\.sampler\.phases\[0\] is \{'at': 0\.5\}; it"),
        ({"name": "progressive", "phases": [{"at": 0.5, "open": "kernel", "opn": 1}]},
         r"training\.sampler\.phases\[0\]\.opn is not known; did you mean open\?"),
        ({"name": "progressive", "phases": [{"at": 1, "open": "width"}]}, r"training\.sampler\.phases\[0\]\.at is 1;"),
        ({"name": "progressive", "phases": [{"at": 20, "open": "width"}]}, r"training\.sampler\.phases\[0\]\.at is 20"),
        ({"name": "progressive", "phases": [{"at": 0.5, "open": "kernels"}]},
         r"training\.sampler\.phases\[0\]\.open 'kernels' is not known; did you mean kernel\?"),
        ({"name": "progressive", "phases": [{"at": 0.1, "open": "depth"}, {"at": 0.5, "open": ["width", "depth"]}]},
         r"training\.sampler\.phases\[1\]\.open is depth, which opens twice; keep one"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named_in_one_line(given, message):
    costs = table_of("tiny")

    with pytest.raises(ValueError, match=rf"\A{message}[^\n]*\Z"):
        make_sampler(given, costs.space, Costs(costs), STEPS)


def test_a_sampler_that_stands_in_itself_is_refused():
    ring: dict[str, Any] = {"name": "sandwich"}
    ring["of"] = ring

    with pytest.raises(ValueError, match=r"\Atraining\.sampler\.of is sandwich, which cannot stand inside"):
        check_sampler(ring)


def test_a_sampler_without_all_methods_is_named_with_what_it_lacks(monkeypatch):
    monkeypatch.setitem(
        SAMPLERS, "careless", type("Careless", (Stateless,), {"__module__": "somewhere.careless"})
    )

    with pytest.raises(BadPart, match=r"\Asomewhere/careless\.py has no check, plan; plan\.py says [^\n]*\Z"):
        check_sampler("careless")


def test_settings_are_told_apart_from_the_name():
    assert check_sampler("uniform") == ("uniform", {})
    assert check_sampler({"name": "shift", "bins": 4}) == ("shift", {"bins": 4})


def test_the_page_of_samplers_has_each_with_its_settings_and_an_example_that_is_read():
    page = (Path(__file__).parents[1] / "docs" / "experiment.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}

    for name in set(SAMPLERS) - {"shift"}:  # its own file has the many that it has
        own = signature(SAMPLERS[name]).parameters.values()
        settings = {one.name: one.default for one in own if one.kind is one.POSITIONAL_OR_KEYWORD}
        for setting in settings.keys() - {"space", "costs", "steps", "of", "phases"}:
            shown = (
                str(settings[setting]).lower() if settings[setting] in (True, False) else settings[setting]
            )
            assert f"{setting}: {shown}" in rows[name]
    example = parse_yaml(page.split("```yaml\n")[1].split("```")[0], "the page")["training"]["sampler"]
    check_sampler(example)
    assert "These phases are the default" in page
    assert example["phases"] == [{**one, "open": opened(one)} for one in PHASES]


def opened(phase: Mapping[str, Any]) -> str | list[str]:
    return phase["open"] if isinstance(phase["open"], str) else list(phase["open"])


def test_samplers_nest_as_they_are_written():
    table = table_of("tiny")
    given = {
        "name": "progressive",
        "of": {"name": "sandwich", "of": {"name": "attentive", "bins": 4}, "randoms": 1},
    }

    sampler = make_sampler(given, table.space, Costs(table), STEPS)

    assert [type(one) for one in (sampler, sampler.of, sampler.of.of)] == [
        SAMPLERS[name] for name in ("progressive", "sandwich", "attentive")
    ]
    assert (sampler.of.randoms, len(sampler.of.of.bins)) == (1, 4)


# -- bins of cost ------------------------------------------------------------------------------


def latency(vectors: np.ndarray) -> np.ndarray:
    """A predicted latency, (n,) ms as 32-bit floats, that is no monotone function of MACs and knows only vectors
    as `encode` gives them."""
    table = table_of("tiny")
    for vector in vectors.tolist():
        assert tuple(vector) == table.space.encode(table.space.decode(vector))
    share = table(vectors)[:, 0] / table.of([table.largest])[0, 0]
    return (0.1 + share**0.5 + 0.05 * np.sin(40 * share) + 0.003 * (vectors > 0).sum(axis=1)).astype(
        np.float32
    )


def three_values(vectors: np.ndarray) -> np.ndarray:
    """A predictor of three values, as a small tree is."""
    return np.digitize(latency(vectors), [0.6, 0.9]).astype(float)


def share_of_bins(bins: CostBins, architectures: list) -> np.ndarray:
    """How many of the architectures cost what each bin says, (K,)."""
    vectors = np.array([bins.space.encode(one) for one in architectures])
    return np.bincount(bins.bin_of(bins.cost(vectors)), minlength=len(bins))


@pytest.mark.parametrize("name", ["uniform", "fair"])
def test_fair_or_uniform_per_decision_is_far_from_uniform_over_cost(name):
    costs = table_of("digits")
    drawn = costs.of(drawn_by(made(name, "digits"), 1500))[:, 0]
    low, high = costs.of([costs.smallest, costs.largest])[:, 0]

    counts, _ = np.histogram(drawn, np.linspace(low, high, 9))

    assert chisquare(counts).pvalue < 1e-6
    assert 0 < counts.argmax() < 4 and (np.diff(counts[counts.argmax() :]) <= 0).all()  # a bell
    assert counts[-2:].sum() < 0.01 * counts.sum()  # the dear ones are almost never met


@pytest.mark.parametrize("cost", [*COSTS, "latency_ms"])
def test_uniform_over_cost_is_uniform_over_its_bins(cost):
    table = table_of("tiny")
    given = {"name": "uniform_cost", "cost": cost}
    sampler = make_sampler(given, table.space, Costs(table, {"latency_ms": latency}), STEPS)

    counts = share_of_bins(sampler.bins, drawn_by(sampler, 1000))

    assert len(counts) >= 6 and chisquare(counts).pvalue > 0.05


def test_shift_without_anything_learned_is_uniform_over_cost():
    costs, sampler, dice = table_of("digits"), made("shift", "digits"), Random(0)
    assert not sampler.logits.any()

    drawn = costs.of([sampler.plan(step, dice, no_look).architectures[0] for step in range(1500)])[:, 0]

    counts = np.bincount(sampler.bins.bin_of(drawn), minlength=len(sampler.bins))
    np.testing.assert_allclose(np.diff(sampler.bins.edges), np.diff(sampler.bins.edges)[0])
    assert len(counts) == 8 and chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_what_is_drawn_from_a_bin_costs_what_the_bin_says(preset):
    costs, bins, dice = table_of(preset), made("uniform_cost", preset).bins, Random(0)

    for number in range(len(bins)):
        drawn = costs.of([bins.sample(number, dice) for _ in range(40)])[:, 0]
        assert (bins.edges[number] <= drawn).all() and (drawn <= bins.edges[number + 1]).all()


def test_a_bin_of_a_predictor_with_few_values_holds_one_of_them():
    table, dice = table_of("tiny"), Random(0)

    bins = cost_bins(table.space, three_values, 2, (table.smallest, table.largest))

    assert bins.edges.tolist() == [0, 1, 2]
    drawn = [table.space.encode(bins.sample(0, dice)) for _ in range(40)]
    assert set(three_values(np.array(drawn))) == {0}  # a cost of 1, the edge, is of the other bin


def test_one_cost_for_all_is_one_bin():
    space = table_of("tiny").space

    bins = cost_bins(space, lambda vectors: np.full(len(vectors), 1.5), 8)

    assert len(bins) == 1
    assert len({bins.sample(0, Random(seed)) for seed in range(20)}) > 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_cost_that_is_no_number_is_refused_in_one_line(value):
    table = table_of("tiny")
    costs = Costs(table, {"latency_ms": lambda vectors: np.where(vectors[:, 0] > 1, value, 1.0)})

    with pytest.raises(
        ValueError, match=r"\Atraining\.sampler: some architectures have a cost that is not[^\n]*\Z"
    ):
        make_sampler({"name": "uniform_cost", "cost": "latency_ms"}, table.space, costs, STEPS)


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_the_bins_reach_from_the_cheapest_to_the_dearest(preset):
    costs, bins = table_of(preset), made("uniform_cost", preset).bins

    assert bins.edges[[0, -1]].tolist() == costs.of([costs.smallest, costs.largest])[:, 0].tolist()
    assert (np.diff(bins.edges) > 0).all()
    assert bins.bin_of(bins.edges[[0, -1]]).tolist() == [0, len(bins) - 1]


def test_one_bin_holds_more_than_one_architecture():
    bins, dice = made("uniform_cost", "digits").bins, Random(0)

    for number in range(len(bins)):
        assert len({bins.sample(number, dice) for _ in range(20)}) > 10


def test_bins_that_hold_too_few_are_merged_with_a_neighbour():
    costs = table_of("tiny")

    bins = cost_bins(costs.space, Costs(costs).of("macs"), 300)

    assert 8 < len(bins) < 300
    assert (np.diff(bins.edges) > 0).all() and np.isfinite(bins.marginals).all()
    everything = costs.of([costs.space.sample(Random(seed)) for seed in range(3000)])[:, 0]
    assert len(set(bins.bin_of(everything))) > 0.8 * len(bins)


# -- fair --------------------------------------------------------------------------------------


def turns_of(plan: Plan, preset: str) -> list[list[int]]:
    """For each decision how often each of its options was chosen in a plan."""
    space = table_of(preset).space
    codes = np.array([space.encode(one) for one in plan.architectures])
    return [
        np.bincount(codes[:, place], minlength=len(decision.options) + 1)[1:].tolist()
        for place, decision in enumerate(space.decisions)
    ]


def test_where_all_decisions_have_as_many_options_each_has_exactly_one_turn_in_every_step():
    sampler = made("fair", "threes")

    for step in range(100):
        plan = sampler.plan(step, Random(step), no_look)
        assert len(plan.architectures) == 3 and not plan.distil
        assert (
            turns_of(plan, "threes") == [[1, 1, 1]] * 5
        )  # a width, and of two blocks operator and expansion


def test_the_orders_of_two_decisions_are_drawn_apart():
    """Or some pairs of options would never meet."""
    sampler, space = made("fair", "threes"), table_of("threes").space
    vectors = [space.encode(one) for one in drawn_by(sampler, 600)]

    pairs = Counter((vector[0], vector[2]) for vector in vectors)

    assert len(pairs) == 9 and chisquare(list(pairs.values())).pvalue > 0.05


@pytest.mark.parametrize("preset", ["tiny", "digits", "mobile"])
def test_the_turns_of_two_options_differ_by_at_most_one_wherever_the_decision_arises(preset):
    sampler, decisions = made("fair", preset), table_of(preset).space.decisions
    most = max(len(decision.options) for decision in decisions)

    for step in range(100):
        plan = sampler.plan(step, Random(step), no_look)
        assert len(plan.architectures) == most  # repeated ones too
        for decision, turns in zip(decisions, turns_of(plan, preset), strict=True):
            assert max(turns) - min(turns) <= 1
            if decision.name.endswith((" width", " depth", " block 0 operator", " block 0 expansion")):
                assert sum(turns) == most  # it arises always
                assert min(turns) == most // len(decision.options)


def test_which_option_gets_the_turn_that_is_left_over_is_drawn():
    sampler, decisions = made("fair", "digits"), table_of("digits").space.decisions
    plans = [sampler.plan(step, Random(step), no_look) for step in range(500)]
    turns = np.array([turns_of(plan, "digits")[0] for plan in plans])

    assert len(decisions[0].options) == 3 and set(turns.sum(axis=1)) == {4}
    assert chisquare((turns == 2).sum(axis=0)).pvalue > 0.05


def test_the_last_blocks_have_fewer_turns_than_the_first():
    """Which is what fairness within a step cannot mend."""
    sampler, decisions = made("fair", "digits"), table_of("digits").space.decisions
    plans = [sampler.plan(step, Random(step), no_look) for step in range(300)]
    totals = np.array([[sum(turns) for turns in turns_of(plan, "digits")] for plan in plans]).mean(axis=0)
    operators = {
        decision.name: place for place, decision in enumerate(decisions) if "operator" in decision.name
    }

    of_blocks = [totals[operators[f"stage 1 block {number} operator"]] for number in range(3)]

    np.testing.assert_allclose(of_blocks, [4, 4 * 2 / 3, 4 / 3], rtol=0.05)


def test_both_paths_of_a_cell_s_block_together_are_fair_to_its_operators():
    sampler, space = made("fair", "cells"), table_of("cells").space

    for step in range(100):
        plan = sampler.plan(step, Random(step), no_look)
        assert len(plan.architectures) == 3
        for kind in ("normal", "reduction"):
            cells = [one.cell(kind) for one in plan.architectures if one.cell(kind)]
            for number in range(len(cells and cells[0])):
                uses = Counter(path.operator for cell in cells for path in cell[number].paths)
                counts = [uses[operator] for operator in space.operators]
                assert sum(counts) == 2 * len(cells) and max(counts) - min(counts) <= 2


# -- attentive ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("pick", "wanted"), [("best", min), ("worst", max)])
def test_attentive_trains_the_best_or_the_worst_of_its_candidates(pick, wanted):
    given = {"name": "attentive", "bins": 8, "candidates": 5, "pick": pick}
    sampler = made(given, "digits")

    for step in range(30):
        looks: list = []
        [trained] = sampler.plan(
            step, Random(step), lambda one, looks=looks: looks.append(one) or some_look(one)
        ).architectures
        seen = {one: some_look(one) for one in looks}

        assert 1 < len(seen) <= 5
        assert seen[trained] == wanted(seen.values())
        assert sorted(share_of_bins(sampler.bins, list(seen)))[:-1] == [0] * (len(sampler.bins) - 1)


def test_the_target_cost_of_attentive_is_met_as_often_as_by_uniform_sampling():
    sampler = made({"name": "attentive", "bins": 8, "candidates": 1}, "digits")
    uniform = share_of_bins(sampler.bins, drawn_by(made("uniform", "digits"), 4000))

    attentive = share_of_bins(sampler.bins, drawn_by(sampler, 1000))

    met = uniform >= 40
    expected = uniform[met] / uniform[met].sum() * attentive[met].sum()
    assert chisquare(attentive[met], expected).pvalue > 0.01
    assert attentive[~met].sum() < 0.03 * attentive.sum()


def test_attentive_ranks_candidates_of_any_cost():
    table = table_of("tiny")
    given = {"name": "attentive", "cost": "latency_ms", "bins": 6}

    sampler = make_sampler(given, table.space, Costs(table, {"latency_ms": latency}), STEPS)

    assert len(set(drawn_by(sampler, 50))) > 40
    assert sampler.prior.sum() == pytest.approx(1)


# -- progressive shrinking ---------------------------------------------------------------------


def open_kinds(preset: str, plans: list[Plan], sampler: Progressive) -> set[str]:
    """The kinds of decisions of which something else than the largest option was planned."""
    space = table_of(preset).space
    codes = np.array([space.encode(one) for plan in plans for one in plan.architectures])
    return {
        kind for place, (kind, largest) in sampler.largest.items() if not set(codes[:, place]) <= {0, largest}
    }


def test_kernels_then_depths_then_expansions_and_widths_open():
    sampler = made("progressive", "mobile")

    opened = [
        open_kinds(
            "mobile", [sampler.plan(step, Random(step * 100 + n), no_look) for n in range(40)], sampler
        )
        for step in (0, 199, 200, 349, 350, 499, 500, 999)
    ]

    nothing, kernel, depth = set(), {"kernel"}, {"kernel", "depth"}
    everything = depth | {"expansion", "width"}
    assert opened == [nothing, nothing, kernel, kernel, depth, depth, everything, everything]


def test_phases_open_what_they_name_and_all_else_is_open_from_the_start():
    phases = [{"at": 0.5, "open": ["width"]}, {"at": 0.25, "open": "kernel"}]
    sampler = made({"name": "progressive", "phases": phases}, "mobile")

    opened = [
        open_kinds(
            "mobile", [sampler.plan(step, Random(step * 100 + n), no_look) for n in range(40)], sampler
        )
        for step in (0, 250, 500)
    ]

    assert opened == [{"depth", "expansion"}, {"depth", "expansion", "kernel"}, set(KINDS) - {"resolution"}]


def test_the_default_phases_open_every_kind_but_the_resolution():
    opened = [phase["open"] for phase in PHASES]

    assert opened == ["kernel", "depth", ("expansion", "width")]
    assert set(KINDS) == {"resolution", "kernel", "depth", "expansion", "width"}
    assert all(one["at"] < other["at"] for one, other in pairwise(PHASES))


def test_a_resolution_can_wait_too():
    table = cost_table(
        unroll({**read_skeleton("tiny"), "resolution": [6, 8]}, OPERATORS, ATTENTIONS, (1, 8, 8), 10)
    )
    given = {"name": "progressive", "phases": [{"at": 0.5, "open": "resolution"}]}
    sampler = make_sampler(given, table.space, Costs(table), STEPS)

    drawn = [
        {sampler.plan(step, Random(n), no_look).architectures[0].resolution for n in range(20)}
        for step in (499, 500)
    ]

    assert drawn == [{8}, {6, 8}]


def test_once_all_is_open_a_plan_is_that_of_the_sampler_inside():
    space = table_of("mobile").space
    alone, progressive = made("uniform", "mobile"), made("progressive", "mobile")

    for step in (500, 700, 999):
        assert progressive.plan(step, Random(step), no_look) == alone.plan(step, Random(step), no_look)
    assert progressive.plan(0, Random(0), no_look) != alone.plan(0, Random(0), no_look)
    space.check(progressive.plan(0, Random(0), no_look).architectures[0])


def test_what_has_no_order_is_never_closed():
    """Operators, attention, and settings that change no weight: a dilation, the window of a pooling."""
    for preset in ("mobile", "digits"):
        sampler, decisions = made("progressive", preset), table_of(preset).space.decisions
        never = {d.name.split()[-1] for place, d in enumerate(decisions) if place not in sampler.largest}
        closed = {d.name.split()[-1] for place, d in enumerate(decisions) if place in sampler.largest}
        wanted = {
            "mobile": {"attention", "depthwise.dilation"},
            "digits": {"attention", "operator", "max_pool.kernel_size"},
        }
        assert never == wanted[preset]
        assert closed == {"width", "depth", "expansion", "depthwise.kernel_size"}


@pytest.mark.parametrize(
    ("operator", "settings", "largest"),
    [
        ("depthwise", {"kernel_size": [3, 5, 7], "dilation": [1]}, 7),
        ("multi_path", {"paths": [[3], [7], [3, 5, 7]], "linear": [False]}, (3, 5, 7)),
        ("mixed", {"kernels": [[3, 5], [3, 5, 7]], "split": ["equal"]}, (3, 5, 7)),
        (
            "dense",
            {"kernel_size": [3], "groups": [1, 2, 4], "dilation": [1]},
            1,
        ),  # fewer groups, more weights
        ("low_rank", {"kernel_size": [3], "rank": [0.25, 0.5]}, 0.5),
        ("depthwise", {"kernel_size": [3], "dilation": [1], "transform": [False, True]}, None),
    ],
)
def test_the_largest_of_an_operator_s_settings_is_that_of_most_weights(operator, settings, largest):
    skeleton = {"stages": [{"width": 8}], "operators": [{operator: settings}]}
    table = cost_table(unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (1, 8, 8), 10))

    sampler = make_sampler("progressive", table.space, Costs(table), STEPS)

    options = [
        table.space.decisions[place].options[option - 1] for place, (_, option) in sampler.largest.items()
    ]
    assert options == ([] if largest is None else [largest])


def test_the_largest_kernel_is_so_where_blocks_share_it_too():
    """Of blocks that share, those that are alike hold fewer weights."""
    skeleton = {
        "stages": [{"width": 8, "depth": 4, "share_kernels": True}],
        "operators": [{"depthwise": {"kernel_size": [3, 5, 7], "dilation": [1, 2]}}],
    }
    table = cost_table(unroll(read_skeleton(skeleton), OPERATORS, ATTENTIONS, (1, 8, 8), 10))

    sampler = make_sampler("progressive", table.space, Costs(table), STEPS)

    closed = [(table.space.decisions[place], option) for place, (_, option) in sampler.largest.items()]
    assert [(one.name.split()[-1], one.options[option - 1]) for one, option in closed] == [
        ("depthwise.kernel_size", 7)
    ] * 4


def test_a_sandwich_shrinks_with_what_is_open():
    table, sampler = table_of("mobile"), made({"name": "progressive", "of": "sandwich"}, "mobile")

    first, second = (sampler.plan(step, Random(step), no_look) for step in (0, 500))

    assert first.distil and first.architectures[0] == table.largest
    assert first.architectures.count(table.largest) == 1  # it would learn nothing from itself
    assert second.architectures[:2] == (table.largest, table.smallest)
    smallest = made({"name": "progressive", "of": {"name": "sandwich", "randoms": 0}}, "mobile")
    [_, closed] = smallest.plan(349, Random(0), no_look).architectures
    assert [stage.width for stage in closed.stages] == [stage.width for stage in table.largest.stages]
    assert [len(stage.blocks) for stage in closed.stages] == [
        len(stage.blocks) for stage in table.largest.stages
    ]
    assert closed.stages[0].blocks[0].settings == table.smallest.stages[0].blocks[0].settings


def test_where_all_is_decided_the_largest_is_trained_alone_at_first():
    skeleton = {**read_skeleton("tiny"), "attention": ["none"]}
    skeleton["operators"] = [{"depthwise": {"kernel_size": [3, 5], "dilation": [1]}}]
    table = cost_table(unroll(skeleton, OPERATORS, ATTENTIONS, (1, 8, 8), 10))
    sampler = make_sampler({"name": "progressive", "of": "sandwich"}, table.space, Costs(table), STEPS)

    assert sampler.plan(0, Random(0), no_look) == Plan((table.largest,), distil=True)


def test_cells_have_nothing_to_shrink():
    table = table_of("cells")

    with pytest.raises(ValueError, match=r"\Atraining\.sampler: the space custom is one of cells[^\n]*\Z"):
        make_sampler("progressive", table.space, Costs(table), STEPS)


# -- the sandwich ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneBatch:
    """A source with the same batch in every step; an epoch is one step."""

    images: Tensor
    labels: Tensor

    def __call__(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        return self.images, self.labels

    def steps_per_epoch(self, ranks: int = 1) -> int:
        return 1


def one_batch(space: SearchSpace, seed: int = 0) -> OneBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, *space.image_shape, generator=generator)
    return OneBatch(images, torch.randint(space.classes, (16,), generator=generator))


def step_of(sampler: Sampler, batch: OneBatch, path: Path) -> dict[str, Tensor]:
    """The gradient of one training step: what plain descent at a rate of 1 subtracted from each weight."""
    space = table_of("digits").space
    supernet = Supernet(space)
    before = {name: one.detach().clone() for name, one in supernet.named_parameters()}
    recipe = Training(epochs=1, learning_rate=1, momentum=0, weight_decay=0, warmup=0, clip=1e9, device="cpu")
    train(supernet, batch, lambda number: batch(number), sampler, recipe, path)
    return {name: before[name] - one.detach() for name, one in supernet.named_parameters()}


@dataclass
class Recorded:
    """A sampler that keeps its plans."""

    sampler: Sampler
    plans: list[Plan]

    def plan(self, step: int, random: Random, look: Look) -> Plan:
        self.plans.append(self.sampler.plan(step, random, look))
        return self.plans[-1]

    def __getattr__(self, name: str):
        return getattr(self.sampler, name)


def test_the_sandwich_is_the_largest_then_the_smallest_then_random_ones():
    costs, sampler = table_of("digits"), made("sandwich", "digits")

    plan = sampler.plan(0, Random(0), no_look)

    dice = Random(0)
    drawn = (costs.space.sample(dice), costs.space.sample(dice))
    assert plan == Plan((costs.largest, costs.smallest, *drawn), distil=True)
    assert len(set(plan.architectures)) == 4
    assert made({"name": "sandwich", "randoms": 0}, "digits").plan(0, Random(0), no_look) == Plan(
        (costs.largest, costs.smallest), distil=True
    )


@pytest.mark.parametrize("name", inside("sandwich"))
@pytest.mark.parametrize("randoms", [1, 3])
def test_between_the_ends_is_what_the_sampler_inside_plans(name, randoms):
    costs, alone = table_of("tiny"), made(quick(name))
    sampler = made({"name": "sandwich", "of": quick(name), "randoms": randoms})

    for step in range(5):
        dice = Random(step)
        between = [one for _ in range(randoms) for one in alone.plan(step, dice, some_look).architectures]
        plan = sampler.plan(step, Random(step), some_look)
        assert plan == Plan((costs.largest, costs.smallest, *between), distil=True)


def test_a_sandwich_may_have_no_bottom_and_no_teacher():
    costs = table_of("tiny")
    given = {"name": "sandwich", "randoms": 1, "smallest": False, "distil": False}

    plan = made(given).plan(0, Random(0), no_look)

    assert plan == Plan((costs.largest, costs.space.sample(Random(0))), distil=False)


def test_the_sampler_inside_learns_as_it_would_alone():
    alone, sampler = made(quick("shift")), made(quick("sandwich", of=quick("shift")))
    for one in (alone, sampler):
        carried_out(one, range(80))

    assert alone.updates > 0
    assert sampler.state_dict() == alone.state_dict()
    assert sampler.observables() == alone.observables()


@pytest.mark.parametrize("given", ["fair", {"name": "sandwich", "distil": False}], ids=["fair", "sandwich"])
def test_the_gradient_of_several_architectures_is_the_sum_of_separate_passes(given, tmp_path):
    space = table_of("digits").space
    sampler, batch = Recorded(made(given, "digits"), []), one_batch(space)

    step = step_of(sampler, batch, tmp_path / "supernet.safetensors")

    [plan] = sampler.plans
    assert len(plan.architectures) == 4
    alone = dict.fromkeys(step, 0.0)
    for architecture in plan.architectures:
        supernet = Supernet(space).train()
        logits = supernet(batch.images, architecture)
        F.cross_entropy(logits, batch.labels, label_smoothing=Training().label_smoothing).backward()
        for name, one in supernet.named_parameters():
            alone[name] = alone[name] + (0 if one.grad is None else one.grad)
    for name, gradient in step.items():
        expected = torch.as_tensor(alone[name]).expand_as(gradient)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6, msg=name)


def test_the_gradient_of_a_sandwich_is_the_sum_of_its_layers(tmp_path):
    space = table_of("digits").space
    sampler, batch = Recorded(made("sandwich", "digits"), []), one_batch(space)

    step = step_of(sampler, batch, tmp_path / "supernet.safetensors")

    [plan] = sampler.plans
    alone, teacher = dict.fromkeys(step, 0.0), None
    for number, architecture in enumerate(plan.architectures):
        supernet = Supernet(space).train()
        logits = supernet(batch.images, architecture)
        if number == 0:
            F.cross_entropy(logits, batch.labels, label_smoothing=Training().label_smoothing).backward()
            teacher = logits.softmax(1).detach()  # the largest learns nothing from the others
        else:
            F.cross_entropy(logits, teacher).backward()
        for name, one in supernet.named_parameters():
            alone[name] = alone[name] + (0 if one.grad is None else one.grad)
    for name, gradient in step.items():
        expected = torch.as_tensor(alone[name]).expand_as(gradient)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6, msg=name)


def test_only_the_largest_learns_from_the_labels(tmp_path):
    space = table_of("digits").space
    batch = one_batch(space)
    others = OneBatch(batch.images, (batch.labels + 3) % space.classes)
    sampler = Recorded(made("sandwich", "digits"), [])

    step = step_of(sampler, batch, tmp_path / "one.safetensors")
    relabelled = step_of(sampler, others, tmp_path / "other.safetensors")

    supernet = Supernet(space).train()
    supernet(batch.images, sampler.plans[0].architectures[0]).square().sum().backward()
    of_largest = {name for name, one in supernet.named_parameters() if one.grad is not None}
    of_others = {name for name, gradient in step.items() if gradient.any()} - of_largest
    assert len(of_others) > 5
    assert all(torch.equal(step[name], relabelled[name]) for name in of_others)
    assert not torch.equal(step["classifier.bias"], relabelled["classifier.bias"])
