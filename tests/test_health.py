"""A trial depends on its architecture, its seed and its length alone: not on what else is measured, where, in
which order, or how often it was stopped. What was measured is kept, and nothing is measured twice.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from nas import config
from nas.cli import main
from nas.data import load
from nas.experiment import lock
from nas.health import BINS, chosen, epochs_of, measure, open_health, wanted
from nas.search import SearchFailed
from nas.storage.records import Trial
from nas.storage.store import Store
from nas.trials import (
    Request,
    Stopped,
    TrialBench,
    carry_out,
    checkpoint_of,
    forget_unfinished,
    recipe_alone,
    seconds_before,
)
from search_spaces import (
    CellSpace,
    SearchSpace,
    architecture_from_json,
    only,
    presets,
    read_skeleton,
    space_from_json,
    unroll,
)
from supernets import checkpoint
from supernets.attention import ATTENTIONS
from supernets.cost import cost_table
from supernets.operators import OPERATORS
from supernets.supernet import make_supernet
from tests.conftest import TinyRun

EPOCHS = 0.8  # of the digits: 12 steps of the tiny run's recipe
SHARING = {
    "stem": {"width": 8},
    "stages": [{"width": 8, "depth": 4, "stride": 1, "share_kernels": [True]}],
    "operators": [{"depthwise": {"kernel_size": [3, 5], "dilation": [1]}}, "max_pool"],
    "expansion": [1, 2],
}


@pytest.fixture(scope="module")
def trained(tiny_run) -> tuple[config.Experiment, object, SearchSpace, Path]:
    """The tiny run: its experiment, images, space and folder. Read only."""
    with Store(tiny_run.store_url, create=False) as store:
        run = store.run("tiny")
    experiment = config.from_json(run.experiment)
    return experiment, load(experiment.data), space_from_json(run.space), Path(run.folder)


@pytest.fixture
def copy(tiny_run, tmp_path) -> TinyRun:
    """The tiny run in a folder of this test's own."""
    shutil.copytree(tiny_run.folder, tmp_path, dirs_exist_ok=True)
    copied = TinyRun(tmp_path, tmp_path / "tiny.yaml", f"sqlite:///{tmp_path / 'nas.db'}")
    with Store(copied.store_url) as store:
        store.rename_run("tiny", "tiny", str(tmp_path / "runs" / "tiny"))
    return copied


@pytest.fixture
def bench(trained, tmp_path) -> TrialBench:
    """On the tiny run's supernet, with a folder of its own for trainings."""
    experiment, splits, space, folder = trained
    (tmp_path / "bench").mkdir()
    shutil.copy(folder / "supernet.safetensors", tmp_path / "bench")
    return TrialBench(replace(experiment, device={}), splits, space, tmp_path / "bench")


def examine(run: TinyRun, *arguments: str) -> int:
    return main(["health", "tiny", "--store", run.store_url, *arguments])


def trials_of(run: TinyRun) -> list[Trial]:
    """What of the trials must not depend on when and how fast they were carried out."""
    with Store(run.store_url, create=False) as store:
        found = [one for one in store.trials("tiny") if one.kind != "sampled"]
    return [replace(one, seconds=0.0, created="") for one in found]


def never() -> bool:
    return False


# -- which architectures -----------------------------------------------------------------------


def test_what_is_chosen_covers_all_costs_evenly_and_stays_when_more_is_asked_for(trained):
    _, _, space, _ = trained

    many = chosen(space, 48, seed=0)

    assert len({one.key for one in many}) == 48
    assert chosen(space, 9, seed=0) == many[:9]
    assert chosen(space, 9, seed=1) != many[:9]
    table = cost_table(space)
    ends = table.of([table.smallest, table.largest])[:, 0]
    counts, _ = np.histogram(table.of(many)[:, 0], BINS, ends)
    assert counts.min() >= 48 / BINS / 2 and counts.max() <= 48 / BINS * 2


def test_a_space_with_few_architectures_gives_all_of_them_and_says_so(trained, caplog):
    _, _, space, _ = trained
    few = only(space, space.ends[1])
    stage = replace(few.stages[0], widths=(4, 8, 12))
    few = replace(few, stages=(stage, *few.stages[1:]))

    assert len(chosen(few, 10, seed=0)) == few.size == 3
    [said] = [record.getMessage() for record in caplog.records]
    assert said == f"no more than 3 architectures of {few.name} are found; all of them are taken"


# -- an architecture as a space ----------------------------------------------------------------


@pytest.mark.parametrize("preset", presets())
def test_a_space_of_one_architecture_holds_nothing_else_and_its_supernet_hardly_more(preset):
    shape = (1, 128) if preset == "signal" else (3, 32, 32)
    space = unroll(read_skeleton(preset), OPERATORS, ATTENTIONS, shape, 10)
    for seed in range(3):
        architecture = space.sample(Random(seed))

        alone = only(space, architecture)

        assert (alone.size, alone.decisions) == (1, ())
        assert alone.decode(()) == architecture
        assert space_from_json(alone.to_json()) == alone
    if not preset.endswith("_224"):
        supernet = make_supernet(alone)
        needed = weights(supernet.export(architecture))
        # cells read what a cell gives in any parts, mixed kernels are as large as their largest
        assert needed <= weights(supernet) <= 1.15 * needed


def weights(network: torch.nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def test_a_cell_that_steps_over_every_reduction_is_trained_alone(tmp_path):
    space = unroll(read_skeleton("nasnet"), OPERATORS, ATTENTIONS, (1, 8, 8), 10)
    assert isinstance(space, CellSpace)
    samples = (space.sample(Random(seed)) for seed in range(10_000))
    architecture = next(one for one in samples if not one.reduction)
    experiment = config.experiment({"name": "cells", "data": "digits", "space": "nasnet"})
    bench = TrialBench(experiment, load(experiment.data), space, tmp_path)

    trial = carry_out(bench, Request(architecture, "alone", 0, epochs=0.2))

    assert only(space, architecture).decode(()) == architecture
    assert trial.error is None and trial.values["accuracy"] > 0


def test_blocks_that_share_kernels_keep_all_that_they_share_and_nothing_else():
    space = unroll(SHARING, OPERATORS, ATTENTIONS, (1, 8, 8), 10)
    samples = [space.sample(Random(seed)) for seed in range(20)]
    sharing = [one for one in samples if one.stages[0].share_kernels]
    assert sharing and len(sharing) < len(samples)

    for architecture in samples:
        alone = only(space, architecture)
        alone.check(architecture)
        choices = set(architecture.stages[0].blocks[1:])
        assert alone.size == 1 or (architecture in sharing and len(choices) > 1)
        images = torch.randn(4, 1, 8, 8)
        whole, own = make_supernet(space), make_supernet(alone)
        assert own(images, architecture).shape == whole(images, architecture).shape
        assert weights(own.export(architecture)) == weights(whole.export(architecture))


def test_an_architecture_of_another_space_is_refused_with_the_place(trained):
    _, _, space, _ = trained
    architecture = space.ends[0]

    with pytest.raises(ValueError, match=r"resolution is 99; the space offers"):
        only(space, replace(architecture, resolution=99))


# -- a trial -----------------------------------------------------------------------------------


def test_what_is_inherited_is_what_the_search_measured(tiny_run, bench):
    with Store(tiny_run.store_url, create=False) as store:
        candidates = store.candidates("tiny")

    for candidate in candidates[:6]:
        trial = carry_out(bench, Request(architecture_from_json(candidate.architecture), "inherited"))
        assert trial.key == candidate.key
        for name in ("accuracy", "macs", "parameters"):
            assert trial.values[name] == candidate.values[name]


def test_without_statistics_of_its_own_a_subnet_is_scored_with_those_of_the_supernet(bench):
    architecture = bench.space.ends[1]
    own, shared = (carry_out(bench, Request(architecture, kind)) for kind in ("inherited", "uncalibrated"))

    assert shared.values["loss"] > own.values["loss"]
    assert {name: shared.values[name] for name in ("macs", "parameters")} == {
        name: own.values[name] for name in ("macs", "parameters")
    }
    assert carry_out(bench, Request(architecture, "inherited")).values == own.values


def test_weights_trained_alone_do_not_depend_on_what_was_trained_before(bench):
    first, second = (Request(one, "alone", 0, EPOCHS) for one in chosen(bench.space, 2, seed=0))
    alone = carry_out(bench, second)
    weights = weights_of(bench, second)
    shutil.rmtree(bench.folder / "alone")

    carry_out(bench, first)
    again = carry_out(bench, second)

    assert again.values == alone.values and alone.error is None
    assert weights.keys() == weights_of(bench, second).keys()
    for name, weight in weights_of(bench, second).items():
        assert torch.equal(weight, weights[name]), name
    other = carry_out(bench, replace(second, seed=1))
    assert other.values["loss"] != alone.values["loss"]


def weights_of(bench: TrialBench, request: Request) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint_of(bench, request))[0]


def test_a_training_alone_has_the_recipe_of_the_run_but_drops_no_path_that_the_supernet_keeps(bench):
    recipe = replace(bench.experiment.training, drop_path=0.2, label_smoothing=0.05)
    bench.experiment = replace(bench.experiment, training=recipe)
    small, large = (recipe_alone(bench, Request(one, "alone", 3, 2.0)) for one in bench.space.ends)

    assert large == replace(recipe, sampler="uniform", seed=3, epochs=2.0)
    assert small == replace(large, drop_path=0.0)


def test_a_training_that_fails_is_a_trial_with_the_reason_and_a_disk_that_fails_is_none(bench):
    wild = replace(bench.experiment.training, learning_rate=1e30, clip=1e30)
    bench.experiment = replace(bench.experiment, training=wild)
    request = Request(bench.space.ends[0], "alone", 2, epochs=2.0)

    trial = carry_out(bench, request)

    assert trial.error.startswith("Diverged: training diverged")
    assert (trial.key, trial.kind, trial.seed) == (request.architecture.key, "alone", 2)
    assert trial.values == {"epochs": 2.0}
    shutil.rmtree(bench.folder / "alone")
    (bench.folder / "alone").touch()
    with pytest.raises(OSError, match="alone"):
        carry_out(bench, request)


# -- measuring ---------------------------------------------------------------------------------


def test_what_was_stopped_at_any_moment_goes_on_to_what_was_never_stopped(copy, trained):
    experiment, splits, space, _ = trained
    architectures = chosen(space, 2, experiment.search.seed)

    def go_on(store, fault) -> bool:
        """Until the fault; as a process that is started again."""
        with open_health(store.run("tiny"), store, experiment, splits) as opened:
            requests = wanted(architectures, 1, EPOCHS, store.trials("tiny"))
            checkpoints_often = replace(opened.bench.experiment.training, checkpoint_every=4)
            opened.bench.experiment = replace(opened.bench.experiment, training=checkpoints_often)
            return measure(opened, requests, fault)

    with Store(copy.store_url) as store:
        assert go_on(store, never)
        undisturbed = trials_of(copy)
        store.forget_trials("tiny")

        for count in (1, 3, 2, 7):
            assert not go_on(store, after(count))
        with pytest.raises(KeyboardInterrupt):
            go_on(store, dying_after(3))
        assert len(trials_of(copy)) == 4
        assert not go_on(store, after(6))  # of this training's 12 steps, 8 were saved
        assert len(trials_of(copy)) == 5
        assert go_on(store, never)

    assert len(undisturbed) == 6 and not any(one.error for one in undisturbed)
    assert trials_of(copy) == undisturbed
    assert not (copy.folder / "runs" / "tiny" / "alone").exists()


def test_the_seconds_of_a_training_alone_are_those_of_all_its_parts(bench):
    request = Request(bench.space.ends[0], "alone", 0, EPOCHS)
    bench.stop = after(5)
    with pytest.raises(Stopped):
        carry_out(bench, request)
    before, file = seconds_before(bench, request), checkpoint_of(bench, request).with_suffix(".seconds.json")
    assert 0 < before == json.loads(file.read_text())

    file.write_text("1000")  # as if those five steps had taken so long
    bench.stop = never
    assert 1000 < carry_out(bench, request).seconds < 1100
    assert carry_out(bench, replace(request, seed=1)).seconds < 100  # another training

    file.write_text("10")
    forget_unfinished(bench, request)
    assert seconds_before(bench, request) == 0 and not checkpoint_of(bench, request).exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_stopped_report_shows_what_is_known_and_that_it_was_stopped(copy, capsys, monkeypatch, as_json):
    def stopped(opened, requests, stop, *more) -> bool:
        return measure(opened, requests, after(4), *more)  # two inherited both ways

    monkeypatch.setattr("nas.health.measure", stopped)
    arguments = ("--epochs", str(EPOCHS), "--subnets", "2", *["--json"] * as_json)
    assert examine(copy, *arguments) == 130

    out, err = capsys.readouterr()
    assert "nas: stopped; everything is saved" in err
    if as_json:
        assert json.loads(out)["waiting"] == 2
    else:
        assert out.startswith("Can its ranking be trusted? Too early to say")


def after(count: int):
    """A question whether to stop that says yes from the given time on."""
    asked = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) >= count

    return stop


def dying_after(count: int):
    stop = after(count)

    def die() -> bool:
        if stop():
            raise KeyboardInterrupt
        return False

    return die


def test_a_report_is_enlarged_by_what_is_new_and_repeats_nothing(copy, capsys):
    arguments = ("--epochs", str(EPOCHS), "--subnets")
    assert examine(copy, *arguments, "1") == 0
    before = trials_of(copy)

    assert examine(copy, "--subnets", "2", "--seeds", "2", "--json") == 0

    after_all = trials_of(copy)
    assert after_all[: len(before)] == before
    assert [(one.kind, one.seed) for one in after_all[3:]] == [
        *(("inherited", 0), ("uncalibrated", 0)),
        *(("alone", 0), ("alone", 1), ("alone", 1)),
    ]
    assert {one.values["epochs"] for one in after_all if one.kind == "alone"} == {EPOCHS}
    out, err = capsys.readouterr()
    assert '"architectures": 2' in out
    assert "3 trainings alone, 0.8 epochs each: about" in err
    assert examine(copy, "--subnets", "2") == 0
    assert trials_of(copy) == after_all
    assert capsys.readouterr().err == ""

    assert examine(copy, "--subnets", "1", "--epochs", "0.5") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("nas: --epochs is 0.5, but the trainings alone that are there are of 0.8")
    assert examine(copy, "--subnets", "1", "--epochs", "0.5", "--fresh") == 0
    assert [one.values.get("epochs") for one in trials_of(copy)] == [None, None, 0.5]


def test_what_is_known_is_reported_and_written_without_measuring_more(copy, trained, tmp_path, capsys):
    assert examine(copy, "--subnets", "2", "--epochs", str(EPOCHS), "--json") == 0
    report, before = json.loads(capsys.readouterr().out), trials_of(copy)
    (copy.folder / "runs" / "tiny" / "supernet.safetensors").unlink()  # nothing could be measured any more
    table = tmp_path / "alone.csv"

    for arguments in (["--known"], ["--write-table", str(table)]):
        assert examine(copy, *arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out) == report
    assert examine(copy, "--subnets", "2", "--write-table", str(table)) == 2

    assert "has no supernet" in capsys.readouterr().err
    assert trials_of(copy) == before
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + 2


def test_a_training_alone_is_as_long_as_those_that_are_there_or_as_the_supernets(trained):
    experiment, _, _, _ = trained

    assert epochs_of([], experiment) == experiment.training.epochs
    assert epochs_of([Trial("k", "{}", "alone", values={"epochs": 2.5})], experiment) == 2.5


def test_what_the_supernets_training_sampled_is_copied_once(copy, trained):
    experiment, splits, _, _ = trained
    file = copy.folder / "runs" / "tiny" / "supernet.safetensors"
    tensors, facts = checkpoint.load(file)
    sampled = {"edges": [1e5, 2e5, 3e5], "counts": [7, 0], "macs": [1.5e5]}
    checkpoint.save(file, tensors, facts | {"sampled": sampled})

    with Store(copy.store_url) as store:
        for _ in range(2):
            with open_health(store.run("tiny"), store, experiment, splits) as opened:
                measure(opened, [], never)
        [trial] = store.trials("tiny")

    assert (trial.key, trial.kind) == ("", "sampled")
    assert trial.values == {"edge/0": 1e5, "edge/1": 2e5, "edge/2": 3e5, "count/0": 7.0, "count/1": 0.0}


def test_what_failed_stays_failed_until_it_is_carried_out_again(copy, trained, capsys):
    experiment, splits, space, _ = trained
    [architecture] = chosen(space, 1, experiment.search.seed)
    with Store(copy.store_url) as store, open_health(store.run("tiny"), store, experiment, splits) as opened:
        wild = replace(experiment.training, learning_rate=1e30, clip=1e30, checkpoint_every=1)
        opened.bench.experiment = replace(experiment, training=wild)
        assert measure(opened, wanted([architecture], 1, EPOCHS, []), never)
    arguments = ("--subnets", "1", "--json")
    err = capsys.readouterr().err

    assert examine(copy, *arguments) == 0
    before = json.loads(capsys.readouterr().out)
    assert examine(copy, *arguments, "--retry") == 0
    after = json.loads(capsys.readouterr().out)

    assert "how long cannot be told (Diverged when it was tried); what is done is kept if you stop" in err
    assert (before["failed"], before["architectures"]) == (1, 0)
    assert before["reasons"][0].startswith("Diverged: training diverged")
    assert (after["failed"], after["architectures"], after["epochs"]) == (0, 1, EPOCHS)
    assert [one.kind for one in trials_of(copy)] == ["inherited", "uncalibrated", "alone"]


def test_when_all_trainings_fail_it_gives_up_with_the_reason_and_the_way_to_try_again(copy, trained):
    experiment, splits, space, _ = trained
    requests = [Request(one, "alone", 0, EPOCHS) for one in chosen(space, 11, seed=0)]

    with Store(copy.store_url) as store, open_health(store.run("tiny"), store, experiment, splits) as opened:
        wild = replace(experiment.training, learning_rate=1e30, clip=1e30, checkpoint_every=1)
        opened.bench.experiment = replace(experiment, training=wild)
        with pytest.raises(SearchFailed, match=r"10 trials in a row failed, .* Diverged: .* --retry carries"):
            measure(opened, requests, never)

    assert [bool(one.error) for one in trials_of(copy)] == [True] * 10


def test_a_mistake_beside_fresh_forgets_nothing(copy, capsys):
    with Store(copy.store_url) as store:
        store.add_trial("tiny", Trial("k", "{}", "alone", values={"accuracy": 50.0, "epochs": 1.0}))
    before = trials_of(copy)

    assert examine(copy, "--fresh", "--ray", "localhost:1") == 2
    assert examine(copy, "--fresh", "--workers", "0") == 2

    assert trials_of(copy) == before
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_workers_find_what_one_process_finds(copy, tmp_path):
    arguments = ("--store", copy.store_url, "--subnets", "2", "--epochs", str(EPOCHS), "--json")
    command = [sys.executable, "-m", "nas.cli", "health", "tiny", *arguments]

    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["architectures"] == 2
    there = trials_of(copy)
    assert examine(copy, "--subnets", "2", "--epochs", str(EPOCHS), "--fresh") == 0
    assert sorted(there, key=str) == sorted(trials_of(copy), key=str)


# -- what cannot be asked ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--subnets", "0"], "--subnets is 0; it must be at least 1"),
        (["--seeds", "-1"], "--seeds is -1; it must be at least 1"),
        (["--epochs", "0"], "--epochs is 0; it must be above 0 and at most a million"),
        (["--gpus-per-worker", "1"], "give --workers N as well"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(arguments, message, tiny_run, capsys):
    assert examine(tiny_run, *arguments) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("nas: ") and message in line
    assert trials_of(tiny_run) == []


def test_a_run_that_is_not_there_makes_no_store(tmp_path, tiny_run, capsys):
    assert main(["health", "tiny", "--store", f"sqlite:///{tmp_path}/none.db"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert main(["health", "tini", "--store", tiny_run.store_url]) == 2

    first, second = capsys.readouterr().err.splitlines()
    assert "there is no store" in first
    assert "no run named 'tini' in this store; did you mean tiny" in second


def test_a_supernet_that_is_untrained_or_gone_is_one_line_and_exit_code_2(copy, capsys):
    file = copy.folder / "runs" / "tiny" / "supernet.safetensors"
    tensors, facts = checkpoint.load(file)
    checkpoint.save(file, tensors, facts | {"step": 5})
    assert examine(copy) == 2
    file.unlink()
    assert examine(copy) == 2

    untrained, gone = capsys.readouterr().err.splitlines()
    assert f"is trained for 5 of {facts['steps']} steps; finish it with `nas train`" in untrained
    assert f"the run tiny has no supernet at {file}" in gone


def test_other_images_and_a_run_in_use_are_one_line_and_exit_code_2(copy, capsys):
    file = copy.folder / "runs" / "tiny" / "supernet.safetensors"
    tensors, facts = checkpoint.load(file)
    with lock(copy.folder / "runs", "tiny"):
        assert examine(copy) == 2
        checkpoint.save(file, tensors, facts | {"step": 5})  # while the other process trains it
        assert examine(copy) == 2
    with Store(copy.store_url) as store:
        store.update_run("tiny", facts={"data": "others"})
    assert examine(copy) == 2

    busy, training, others = capsys.readouterr().err.splitlines()
    assert (
        busy == training
        and "the run tiny is being carried out by process" in busy
        and busy.endswith("; wait for it")
    )
    assert "these are not the images that tiny was made with; give --data-dir their folder" in others
