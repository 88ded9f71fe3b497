"""Before anything is trained, an experiment says how large its space is and what it costs, and is refused if
it can never succeed.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from random import Random

import pytest

from nas.cli import main
from nas.config import read_experiment
from nas.data import load
from nas.evaluation import space_of
from nas.profile import Infeasible, profile
from nas.profile_view import print_profile, quantity
from nas.storage.records import Constraint
from search_spaces import read_skeleton
from supernets.cost import COSTS, count
from supernets.supernet import Supernet
from tests.conftest import write_experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return read_experiment(write_experiment(tmp_path_factory.mktemp("profile")).file)


@pytest.fixture(scope="module")
def tiny(experiment):
    return profile(experiment)


def test_its_numbers_are_those_of_the_space_and_the_data(tiny, experiment):
    splits = load(experiment.data)
    space = space_of(experiment, splits)

    assert tiny.size == space.size == 17408
    assert tiny.decisions == len(space.decisions)
    assert tiny.blocks == (2, 3)
    assert tiny.images == str(splits)
    assert tiny.steps == 6 * (len(splits.train) // 64)
    assert tiny.supernet_parameters == sum(one.numel() for one in Supernet(space).parameters())


@pytest.mark.parametrize("cost", COSTS)
def test_least_median_and_most_are_in_order_and_kept_by_real_networks(tiny, experiment, cost):
    space = space_of(experiment, load(experiment.data))
    supernet, random = Supernet(space).eval(), Random(5)
    least, median, most = (tiny.costs[cost][one] for one in ("min", "median", "max"))

    counted = [
        count(supernet.export(one), space.input_shape(one.resolution))[COSTS.index(cost)]
        for one in (space.sample(random) for _ in range(20))
    ]

    assert 0 < least < median < most
    assert least <= min(counted) <= max(counted) <= most


def test_a_constraint_comes_with_the_share_of_architectures_that_keep_it(experiment):
    limits = (Constraint("bytes", max=7000), Constraint("macs", min=1), Constraint("latency_ms", max=1))

    found = profile(replace(experiment, constraints=limits))

    assert 0.3 < found.shares["bytes"] < 0.7  # the median is 6.9 kB
    assert found.shares["macs"] == 1
    assert found.measured_later == ("latency_ms",)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Constraint("bytes", max=100), "constraints.bytes.max is 100, but the smallest architecture of the"),
        (
            Constraint("macs", min=1e9),
            "constraints.macs.min is 1e+09, but the largest architecture of the sp",
        ),
    ],
)
def test_a_constraint_that_nothing_keeps_is_infeasible(experiment, limit, said):
    with pytest.raises(Infeasible, match=re.escape(said)):
        profile(replace(experiment, constraints=(limit,)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (950, "950"),
        (9999, "9,999"),
        (10_000, "10.0 k"),
        (999_600, "1.00 M"),
        (1.61e8, "161 M"),
        (3e14, "3.00e+14"),
    ],
)
def test_quantities_keep_three_digits(value, said):
    assert quantity(value) == said


# -- the command -------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_makes_nothing(tmp_path, capsys):
    run = write_experiment(tmp_path)

    assert main(["profile", str(run.file)]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert (
        "tiny: 1008 train, 287 validation, 143 calibration, 359 test images of 1 x 8 x 8, 10 classes" in out
    )
    assert "17.4 k architectures, 18 decisions, 2 to 3 blocks" in out
    assert "MACs of one image" in out
    assert "constraint on bytes: can be met; 99.1 % of random architectures keep it" in out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_limits_that_only_exclude_each_other_are_not_said_to_be_met(tmp_path, capsys):
    run = write_experiment(tmp_path)

    main(["profile", str(run.file), "-o", "constraints={macs: {max: 19k}, parameters: {min: 4000}}"])

    out = capsys.readouterr().out
    assert "constraint on macs: can be met" in out
    assert "those constraints together: none of the architectures drawn keeps it" in out


def test_it_says_which_operators_take_turns(experiment, tiny, capsys):
    one = profile(replace(experiment, space=read_skeleton({**experiment.space, "operators": ["shift"]})))

    assert sum(tiny.operators.values()) == pytest.approx(1) and len(tiny.operators) > 1
    assert all(abs(share - 1 / len(tiny.operators)) < 0.05 for share in tiny.operators.values())
    assert one.operators == {"shift": pytest.approx(1)}
    for found, said in ((tiny, 1), (one, 0)):
        print_profile(found)
        assert capsys.readouterr().out.count("operators take turns in a block: ") == said


def test_as_json_it_is_the_same_for_scripts(tmp_path, capsys, tiny):
    run = write_experiment(tmp_path)

    assert main(["profile", str(run.file), "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(tiny.to_dict()))


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ("constraints={bytes: {max: 100}}", 3, "raise the limit or choose a smaller space"),
        ("search.searcher=nsga22", 2, "did you mean nsga2?"),
        ("training.sampler=shft", 2, "did you mean shift?"),
        ("data.crop=8", 2, "data.crop is 8, but the images are 8 x 8"),
    ],
)
def test_what_would_fail_later_fails_here(tmp_path, capsys, changed, code, said):
    run = write_experiment(tmp_path)

    assert main(["profile", str(run.file), "-o", changed]) == code

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nas: ")
    assert said in line
