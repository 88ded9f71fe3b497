"""A race saves images and nothing else: who comes through has the very numbers, who does not could be on no front, and
nothing that is reported was looked at in part.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from nas import config, pareto
from nas.cli import main
from nas.data import load
from nas.devices import Goals
from nas.evaluation import Bench, accuracy_of, evaluate, space_of
from nas.experiment import pool_here, search_run, train_run
from nas.export.checkpoint import export
from nas.pick import _searched
from nas.racing import KEY, SHOWN, SURE, Entrant, as_seen, interval, race_against, unsettled
from nas.storage.records import Candidate, Constraint, Objective
from nas.storage.store import Store
from nas.together import evaluate_together, race_together
from search_spaces import architecture_from_json, read_skeleton
from supernets import checkpoint
from supernets.supernet import make_supernet
from tests.conftest import TinyRun, write_experiment
from tests.test_experiment_extended import copy_of, kept, never, open_with

ACCURACY = Objective("accuracy", KEY, "%", "maximize")
MACS = Objective("macs", "macs", "MACs", "minimize")
PHONE = Objective("latency@phone", "latency_ms@phone", "ms", "minimize")
SERVER = Objective("latency@server", "latency_ms@server", "ms", "minimize")
CELLS = {"cells": {"blocks": 2, "repeats": 1, "filters": 4, "operators": ["identity", "conv_3x3"]}}
SHARING = {
    "resolution": 16,
    "stem": {"width": 4},
    "stages": [{"width": [4, 6], "depth": 3, "share_kernels": [False, True]}, {"width": 6, "depth": [1, 2]}],
    "operators": [{"depthwise": {"kernel_size": [3, 5], "dilation": [1]}}],
}
RACED = f"""
name: tiny
data: {{name: digits, validation: 800}}
space: {json.dumps({**read_skeleton("tiny"), "resolution": 16})}
training: {{epochs: 8, batch_size: 64, sampler: uniform}}
search: {{searcher: {{name: nsga2, population: 8}}, budget: 32, first_images: 150}}
objectives: [accuracy, macs]
"""


# -- what a part of the images says ------------------------------------------------------------


def test_an_interval_holds_what_was_seen_and_never_what_cannot_be():
    for images in (7, 900):
        for seen in range(1, images + 1, max(1, images // 40)):
            for right in {0, seen // 3, seen}:
                low, high = interval(right, seen, images, SURE)

                least, most = 100 * right / images, 100 * (right + images - seen) / images
                ends = [least, low, 100 * right / seen, high, most]
                assert (np.diff(ends) > -1e-9).all()
                assert seen < images or low == high == least


@pytest.mark.parametrize("accuracy", [30, 90, 97])
def test_hardly_any_accuracy_is_above_what_is_taken_for_sure(accuracy):
    random, images, seen, times = np.random.default_rng(accuracy), 5000, 500, 40_000
    right = random.hypergeometric(50 * accuracy, images - 50 * accuracy, seen, times)

    above = np.mean([interval(int(one), seen, images, SURE)[1] < accuracy for one in right])
    between = np.mean(
        [low <= accuracy <= high for low, high in (interval(int(one), seen, images, SHOWN) for one in right)]
    )

    assert above < 0.002
    assert between > 0.94


# -- who is beaten -----------------------------------------------------------------------------


def measured(accuracy: float, **values: float) -> Candidate:
    return Candidate(f"{accuracy} {values}", "{}", {KEY: accuracy, **values})


def seen(right: int, **values: float) -> Candidate:
    """Of 500 of 5000 images so many right."""
    return as_seen(Candidate(f"{right} {values}", "{}", values), right, 500, 5000)


def test_beaten_is_who_is_dominated_even_at_the_best_that_the_images_leave_open():
    race = race_against(500, Goals((ACCURACY, MACS)), [measured(90, macs=10), measured(85, macs=5)])

    assert race.beaten(seen(420, macs=10)) and race.beaten(seen(390, macs=5))
    assert not race.beaten(seen(430, macs=10))  # 86 % may be 90 %
    assert not race.beaten(seen(420, macs=9)) and not race.beaten(seen(100, macs=4))
    assert not race_against(500, Goals((ACCURACY, MACS)), []).beaten(seen(0, macs=99))


def test_what_breaks_a_limit_goes_no_further_once_something_keeps_it():
    goals = Goals((ACCURACY, MACS), (Constraint("macs", max=10), Constraint(KEY, min=80)))
    keeps, breaks = measured(81, macs=9), measured(95, macs=11)

    race, nobody = race_against(500, goals, [keeps]), race_against(500, goals, [breaks])

    assert race.beaten(seen(499, macs=11)) and race.beaten(seen(370, macs=8))
    assert not race.beaten(seen(380, macs=8))  # 76 % may be 80 %
    assert not nobody.beaten(seen(10, macs=11))


def test_rivals_are_whole_and_a_front_of_one_device_keeps_who_is_beaten_on_all_together():
    partly = seen(499, macs=1)
    assert not race_against(500, Goals((ACCURACY, MACS)), [partly]).beaten(seen(1, macs=9))

    limits = (Constraint("latency_ms@phone", max=2),)
    told = [measured(90, **{"latency_ms@phone": 1, "latency_ms@server": 5})]
    race = race_against(500, Goals((ACCURACY, PHONE, SERVER), limits), told)

    assert race.beaten(seen(400, **{"latency_ms@phone": 3, "latency_ms@server": 6}))
    assert not race.beaten(seen(400, **{"latency_ms@phone": 3, "latency_ms@server": 4}))  # good for a server


def test_what_is_unsettled_does_not_depend_on_what_was_scored_whole_afterwards():
    goals = Goals((ACCURACY, MACS))
    whole, beaten, open_, other = (
        measured(90, macs=10),
        seen(400, macs=11),
        seen(440, macs=5),
        seen(430, macs=6),
    )
    before = [whole, beaten, open_, other]

    assert unsettled(before, goals) == [open_, other]
    settled = replace(open_, values={KEY: 89.0, "macs": 5}, intervals={}, scored=(5000, 5000))
    assert settled.whole and unsettled([whole, beaten, settled, other], goals) == [other]
    assert pareto.front([whole, beaten, settled, other], goals.objectives) == [settled, whole]


# -- scoring -----------------------------------------------------------------------------------


def bench_of(folder: Path, space: dict) -> Bench:
    """A bench on digits with an untrained supernet; images of 16 pixels are scored 195 at once."""
    data = {"name": "digits", "calibration": 60, "validation": 600}
    given = {"data": data, "space": space, "objectives": ["accuracy", "macs"], "training": {"device": "cpu"}}
    experiment = config.experiment(given)
    splits = load(experiment.data)
    space = space_of(experiment, splits)
    tensors = make_supernet(space).state_dict().items()
    checkpoint.save(folder / "supernet.safetensors", {f"supernet.{name}": one for name, one in tensors}, {})
    return Bench(experiment, splits, space, folder / "supernet.safetensors")


@pytest.mark.parametrize(
    "space", [{**read_skeleton("tiny"), "resolution": 16}, SHARING, CELLS], ids=["tiny", "sharing", "cells"]
)
def test_who_comes_through_has_the_very_accuracy_and_who_does_not_that_on_the_first_images(
    space, tmp_path, monkeypatch
):
    monkeypatch.setattr("nas.evaluation.PIXELS", 195 * (64 if space is CELLS else 256))
    bench = bench_of(tmp_path, space)
    random, several = Random(1), {}
    while len(several) < 14:
        several.setdefault((one := bench.space.sample(random)).key, one)
    whole = {one.key: one for one in evaluate_together(bench, several.values())}
    told = list(whole.values())[:6]
    race = race_against(100, bench_goals(bench), told)
    rest = [one for one in several.values() if one.key not in {known.key for known in told}]

    raced = {one.key: one for one in race_together(bench, [Entrant(one, race) for one in rest])}

    assert [one.key for one in raced.values() if one.error] == []
    looked = {one.scored for one in raced.values()}
    assert None in looked and len(looked) >= 2 and looked <= {None, (195, 600), (390, 600)}
    labels = bench.validation_labels
    for architecture in rest:
        one, alone = raced[architecture.key], evaluate(bench, architecture, race=race)
        assert (one.values, one.intervals, one.scored) == (alone.values, alone.intervals, alone.scored)
        images = bench.validation_images(bench.space.input_shape(architecture.resolution))
        count, _ = one.scored or (600, 600)
        assert one.values[KEY] == accuracy_of(bench.subnet(architecture), images[:count], labels[:count])
        assert {**whole[one.key].values, KEY: 0} == {**one.values, KEY: 0}


def bench_goals(bench: Bench) -> Goals:
    return Goals(
        tuple(measure.objective for measure in bench.measures if measure.objective.key in (KEY, "macs"))
    )


def test_a_subnet_that_fails_in_a_race_fails_alone_with_its_own_reason(tmp_path):
    bench = bench_of(tmp_path, {**read_skeleton("tiny"), "resolution": 16})
    random, several = Random(1), {}
    while len(several) < 8:
        several.setdefault((one := bench.space.sample(random)).key, one)
    wide = [one for one in several.values() if one.stages[0].width == 12]
    race = race_against(100, bench_goals(bench), [])
    with torch.no_grad():
        bench.supernet.blocks[0].project.weight[8:] = torch.nan

    found = {one.key: one for one in race_together(bench, [Entrant(one, race) for one in several.values()])}

    assert 0 < len(wide) < 8
    failed = {key for key, one in found.items() if one.error}
    assert failed == {one.key for one in wide}
    assert {found[key].error for key in failed} == {"FloatingPointError: the subnet's output is not a number"}


# -- searching ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TinyRun:
    run = write_experiment(tmp_path_factory.mktemp("trained"), RACED)
    with Store(run.store_url) as store:
        assert open_with(run, store, lambda opened: train_run(opened, never))
    return run


@pytest.fixture(scope="module")
def raced(trained, tmp_path_factory) -> TinyRun:
    """A race that was run to its end. Copied before it is written to."""
    run = copy_of(trained, tmp_path_factory.mktemp("raced"))
    with Store(run.store_url) as store:
        assert open_with(run, store, lambda opened: search_run(opened, never))
    return run


def told_of(candidates: list[Candidate]) -> list[tuple]:
    return [(one.number, one.key, one.values, one.intervals, one.scored, one.error) for one in candidates]


def test_a_race_looks_at_fewer_images_and_reports_what_was_scored_whole(raced, trained, tmp_path, capsys):
    run, candidates = kept(raced)
    beaten = [one for one in candidates if not one.whole]
    other = copy_of(trained, tmp_path)
    with Store(other.store_url) as store:
        bench = open_with(other, store, lambda opened: pool_here(opened).evaluate.args[0])
    whole = {
        one.key: one
        for one in evaluate_together(bench, [architecture_from_json(one.architecture) for one in candidates])
    }

    assert len(candidates) == 32 and len(beaten) >= 5
    assert all(one.whole for one in candidates[:8])  # nobody was known to beat them
    assert all(one.values == whole[one.key].values for one in candidates if one.whole)
    report = json.loads(said(capsys, "report", raced, "--json"))
    assert {one["candidate"] for one in report["front"]} == {
        one.key for one in pareto.front(candidates, run.objectives)
    }
    assert {one["candidate"] for one in report["front"]}.isdisjoint(one.key for one in beaten)
    assert f"{len(beaten)} beaten on a part of the images" in said(capsys, "report", raced)


def said(capsys, command: str, run: TinyRun, *more: str) -> str:
    capsys.readouterr()
    assert main([command, "tiny", "--store", run.store_url, *more]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_race_killed_at_random_and_continued_is_an_undisturbed_one(seed, trained, raced, tmp_path):
    class Killed(Exception):
        pass

    run, random = copy_of(trained, tmp_path), Random(seed)

    def kill(candidate: Candidate) -> None:
        if random.random() < 0.15:
            raise Killed

    with Store(run.store_url) as store:
        for _ in range(100):
            try:
                ended = open_with(run, store, lambda opened: search_run(opened, never, on_candidate=kill))
                break
            except Killed:
                continue

    assert ended
    assert told_of(kept(run)[1]) == told_of(kept(raced)[1])


def test_for_other_goals_those_are_scored_whole_that_may_matter_however_often_that_is_stopped(
    raced, tmp_path
):
    _, before = kept(raced)
    goals = Goals((ACCURACY, Objective("parameters", "parameters", "parameters", "minimize")))
    matter = {one.key for one in unsettled(before, goals)}

    after, stopped = (extended(raced, tmp_path / str(stops), stops) for stops in (0, 2))

    assert 0 < len(matter) < sum(not one.whole for one in before)
    assert told_of(stopped) == told_of(after) and len(after) == 36
    for one, was in zip(after, before, strict=False):
        if one.key in matter:
            assert one.scored == (800, 800) and KEY not in one.intervals
            assert one.values == {**was.values, KEY: one.values[KEY]}
        else:
            assert (one.values, one.scored, one.intervals) == (was.values, was.scored, was.intervals)
    assert all(one.whole for one in pareto.front(after, goals.objectives))


def extended(raced: TinyRun, folder: Path, stops: int) -> list[Candidate]:
    """The candidates of a run that went on with other objectives, stopped so often before it began."""
    folder.mkdir()
    run, others = copy_of(raced, folder), ["objectives=[accuracy, parameters]", "search.budget=36"]
    with Store(run.store_url) as store:
        for _ in range(stops):
            stop = iter([False, True]).__next__
            assert open_with(run, store, lambda opened, stop=stop: search_run(opened, stop), *others) is False
        assert open_with(run, store, lambda opened: search_run(opened, never), *others)
        after = store.candidates("tiny")
        assert open_with(run, store, lambda opened: search_run(opened, never), *others)
        assert store.candidates("tiny") == after
    return after


def test_who_was_beaten_is_exported_whole_and_no_pick_is_compared_with_it(raced, tmp_path, capsys):
    run = copy_of(raced, tmp_path)
    record, candidates = kept(run)
    beaten = max((one for one in candidates if not one.whole), key=lambda one: one.values[KEY])

    with Store(run.store_url) as store:
        _, card = open_with(
            run,
            store,
            lambda opened: export(record, beaten, store, tmp_path / "out", opened.experiment, opened.splits),
        )
        wrong = replace(beaten, values={**beaten.values, KEY: beaten.values[KEY] - 20})
        with pytest.raises(Exception, match="is not the one that was searched"):
            open_with(
                run,
                store,
                lambda opened: export(
                    record, wrong, store, tmp_path / "no", opened.experiment, opened.splits
                ),
            )

    assert card["searched"]["accuracy_on"] == beaten.part == f"on the first {beaten.scored[0]} of 800"
    accuracy = card["metrics"]["search-validation"]["accuracy"]
    low, high = interval(round(beaten.values[KEY] * beaten.scored[0] / 100), *beaten.scored, 4)
    assert low <= accuracy <= high and round(accuracy * 8) == pytest.approx(accuracy * 8)
    limit = Constraint("parameters", max=max(one.values["parameters"] for one in candidates))
    assert _searched([beaten], limit) is None and _searched(candidates, limit).whole


REFUSED = {
    "no images": (["search.first_images=0"], "search.first_images is 0; it must be at least 1 image"),
    "as many as there are": (
        ["search.first_images=800"],
        "there are 800 search-validation images; give fewer",
    ),
    "a last batch": (
        ["search.first_images=790"],
        "images are scored 195 at once, so the first part would be all",
    ),
    "no accuracy": (["objectives=[macs, bytes]"], "accuracy is not among the objectives"),
    "what follows from it": (
        ["objectives=[accuracy, predicted_accuracy]"],
        "predicted_accuracy needs all of the images",
    ),
    "another node": (
        ["objectives=[accuracy, latency]", "device={name: onnxruntime-cpu, resources: {jetson: 1}}"],
        "latency_ms is measured on another node, after accuracy",
    ),
}


@pytest.mark.parametrize(("changed", "why"), REFUSED.values(), ids=REFUSED)
def test_where_there_can_be_no_race_one_line_says_why(changed, why, trained, tmp_path, capsys):
    run = copy_of(trained, tmp_path)
    overrides = [part for one in changed for part in ("-o", one)]

    assert main(["search", *run.arguments, *overrides]) == 2

    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("nas: search.first_images is ") and why in line


@pytest.mark.parametrize("validation", [200, 800])
def test_the_first_images_are_a_sample_of_all_classes(validation):
    labels = load(config.Data("digits", validation=validation)).validation.labels
    first = labels[: validation // 4]

    counts = np.bincount(first, minlength=10)
    expected = np.bincount(labels, minlength=10) / 4
    assert ((counts - expected) ** 2 / expected).sum() < 21.7  # χ² of 9 degrees of freedom, 1 %
    assert (np.diff(first) != 0).mean() > 0.8
