"""Landmarks correct what is inherited: every candidate of a run is predicted by the same ones, whenever it was found,
and a search that was stopped in any stage comes to where it would have come undisturbed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dashboard.words import quantities
from nas.cli import main
from nas.config import experiment as experiment_of
from nas.experiment import search_run
from nas.health import chosen
from nas.landmarks import FACT, KEY, Landmarks, landmarks_of
from nas.predictors.accuracy import FILE, AccuracyModel, fit_accuracies
from nas.storage.records import Trial
from nas.storage.store import Store
from search_spaces import architecture_from_json, space_from_json
from tests.conftest import TINY, TinyRun
from tests.own_search import evaluate, found_by
from tests.test_experiment_extended import copy_of, kept, never, open_with, trained_run

PREDICTED = (
    TINY.replace("[accuracy, latency]", "[predicted_accuracy, macs]").replace("budget: 20", "budget: 12")
    + "landmarks: {subnets: 10, epochs: 0.4}\n"
)


@pytest.fixture(scope="module")
def searched(tiny_run, tmp_path_factory) -> TinyRun:
    """Read only."""
    run = trained_run(tiny_run, tmp_path_factory.mktemp("landmarks"), PREDICTED)
    assert main(["run", *run.arguments]) == 0
    return run


def model_of(run: TinyRun) -> AccuracyModel:
    return AccuracyModel.load(run.folder / "runs/tiny" / FILE)


def without_times(candidates) -> list:
    return [replace(one, seconds=0.0, created="") for one in candidates]


def test_every_candidate_is_predicted_by_the_landmarks_that_the_store_has(searched):
    run, candidates = kept(searched)
    with Store(searched.store_url, create=False) as store:
        landmarks = landmarks_of(store.trials("tiny"))
        kinds = {one.kind for one in store.trials("tiny")}
    model = model_of(searched)

    assert len(candidates) == 12 and len(landmarks) == 10 and kinds == {"inherited", "alone", "sampled"}
    assert model == fit_accuracies(landmarks) and run.facts[FACT].startswith("10 trainings alone, ")
    for one in candidates:
        value, interval = model(
            architecture_from_json(one.architecture), one.values["accuracy"], one.values["macs"]
        )
        assert (one.values[KEY], one.interval(KEY)) == (value, interval)


@pytest.mark.parametrize("answers", [3, 14, 22])  # in a training alone, between two, in the search
def test_stopped_in_any_stage_it_comes_to_the_same(searched, tiny_run, tmp_path, answers):
    run = trained_run(tiny_run, tmp_path, PREDICTED)
    left = iter([False] * answers + [True] * 100)

    with Store(run.store_url) as store:
        assert open_with(run, store, lambda opened: search_run(opened, lambda: next(left))) is False
        assert store.run("tiny").status == "interrupted"
        assert open_with(run, store, lambda opened: search_run(opened, never)) is True

    assert without_times(kept(run)[1]) == without_times(kept(searched)[1])
    assert model_of(run) == model_of(searched)


def test_more_landmarks_predict_all_candidates_again_and_the_search_goes_on_from_them(
    searched, tmp_path, caplog
):
    run = copy_of(searched, tmp_path)
    more = ["-o", "landmarks.subnets=12", "-o", "search.budget=16"]
    before, first = kept(run)

    assert main(["search", *run.arguments, *more]) == 0
    after, candidates = kept(run)
    with Store(run.store_url, create=False) as store:
        legs = store.legs("tiny")
    model = model_of(run)

    assert len(model.landmarks) == 12 and len(candidates) == 16
    assert [one.key for one in candidates[:12]] == [one.key for one in first]
    assert any(one.values[KEY] != was.values[KEY] for one, was in zip(candidates, first, strict=False))
    for one in candidates:
        architecture = architecture_from_json(one.architecture)
        assert one.values[KEY] == model(architecture, one.values["accuracy"], one.values["macs"])[0]
    assert [leg.known for leg in legs] == [0, 12]
    [said] = [message for message in caplog.messages if "goes on from" in message]
    assert f"landmarks were {before.facts[FACT]}, are {after.facts[FACT]}" in said
    assert main(["search", *run.arguments, *more]) == 0
    assert kept(run) == (after, candidates)


def test_trainings_of_a_health_report_are_landmarks_and_the_reverse(tiny_run, tmp_path, capsys):
    run = trained_run(tiny_run, tmp_path, PREDICTED)
    where = ["--store", run.store_url]

    assert main(["health", "tiny", "--subnets", "10", "--epochs", "0.4", *where]) == 0
    with Store(run.store_url) as store:
        trained = store.trials("tiny")
        assert main(["search", *run.arguments]) == 0
        assert store.trials("tiny") == trained
    capsys.readouterr()
    assert main(["health", "tiny", "--subnets", "10", "--json", *where]) == 0
    corrected = json.loads(capsys.readouterr().out)["corrected"]

    assert corrected["others"] == 8 and set(corrected) >= {"tau", "without", "over_inherited", "over_macs"}


def test_another_seed_of_the_search_trains_no_other_landmarks(searched, tmp_path):
    run = copy_of(searched, tmp_path)
    with Store(run.store_url) as store:
        before = store.trials("tiny")
        assert main(["search", *run.arguments, "-o", "search.seed=5", "-o", "search.budget=14"]) == 0
        assert store.trials("tiny") == before
        assert len(store.candidates("tiny")) == 14


def test_what_cannot_be_trained_alone_is_replaced_by_another(tiny_run, tmp_path):
    run = trained_run(tiny_run, tmp_path, PREDICTED)
    with Store(run.store_url) as store:
        space = space_from_json(store.run("tiny").space)
        first = chosen(space, 1, 0)[0]
        store.add_trial(
            "tiny", Trial(first.key, first.to_json(), "alone", 0, {"epochs": 0.4}, error="no memory")
        )
        assert main(["search", *run.arguments]) == 0
        landmarks = landmarks_of(store.trials("tiny"))

    assert len(landmarks) == 10 and first.to_json() not in {one.architecture for one in landmarks}


def test_a_run_that_was_searched_for_accuracy_goes_on_with_what_is_predicted(tiny_run, tmp_path):
    run = trained_run(tiny_run, tmp_path, PREDICTED.replace("predicted_accuracy, macs", "accuracy, macs"))
    assert main(["run", *run.arguments]) == 0
    _, before = kept(run)

    assert main(["search", *run.arguments, "-o", "objectives=[predicted_accuracy, macs]"]) == 0
    _, after = kept(run)

    assert [one.key for one in after] == [one.key for one in before]
    assert all(one.values.items() >= was.values.items() for one, was in zip(after, before, strict=True))
    assert all(KEY in one.values and KEY in one.intervals for one in after)


def test_the_front_says_that_it_is_predicted_and_by_what(searched, capsys):
    assert main(["report", "tiny", "--store", searched.store_url]) == 0
    said = capsys.readouterr().out

    assert "predicted_accuracy: what a training alone would reach, predicted by 10 trainings alone" in said
    assert "predicted_accuracy (%)" in said and "  accuracy (%)" in said


def test_the_dashboard_says_so_too(searched):
    run, candidates = kept(searched)

    sources = {one.key: one.source for one in quantities(run, candidates)}

    assert sources[KEY] == "predicted by 10 trainings alone"
    assert sources["accuracy"].startswith("measured")


def test_a_person_s_own_objective_of_that_name_is_theirs(tmp_path, capsys):
    def own(architecture):
        measured = evaluate(architecture)
        value = measured["accuracy"]
        return {KEY: (value - 0.01, value, value + 0.01), "latency_ms": measured["latency_ms"]}

    store, goals = f"sqlite:///{tmp_path / 'nas.db'}", {KEY: "maximize", "latency_ms": "minimize"}
    found_by(function=own, goals=goals, store=store, name="own")
    assert main(["report", "own", "--store", store]) == 0
    said = capsys.readouterr().out
    with Store(store, create=False) as opened:
        [leg] = opened.legs("own")

    assert "predicted_accuracy" in said and "training alone" not in said
    assert FACT not in leg.settings


def test_trainings_of_another_length_are_refused_with_the_way_out(searched, tmp_path, capfd):
    run = copy_of(searched, tmp_path)

    assert main(["search", *run.arguments, "-o", "landmarks.epochs=2", "-o", "landmarks.subnets=11"]) == 2
    assert (
        "landmarks.epochs is 2, but the trainings alone that are there are of 0.4" in capfd.readouterr().err
    )
    assert kept(run)[0].status in ("finished", "failed")


def test_what_makes_no_sense_in_the_section_is_refused():
    for given, said in (
        ({"subnets": 7}, "landmarks.subnets is 7; it must be at least 8"),
        ({"seeds": 0}, "landmarks.seeds is 0; it must be at least 1"),
        ({"epochs": 0}, "landmarks.epochs is 0; it must be above 0"),
        ({"subnet": 9}, "landmarks.subnet"),
    ):
        with pytest.raises(ValueError, match=said):
            experiment_of({"data": "digits", "space": "tiny", "landmarks": given})
    assert experiment_of({"data": "digits", "space": "tiny"}).landmarks == Landmarks()


# -- exports that were trained alone -----------------------------------------------------------


def exported(run: TinyRun, *arguments: str) -> int:
    return main(["export", "tiny", "--store", run.store_url, *arguments])


def test_a_candidate_is_trained_alone_and_verified(searched, tmp_path, capsys):
    run = copy_of(searched, tmp_path)

    assert exported(run, "--best", KEY, "--alone", "--epochs", "1", "--seed", "3", "--json") == 0
    written = json.loads(capsys.readouterr().out)
    folder, card = Path(written["folder"]), written["card"]

    assert folder.name == f"{card['candidate']}-alone" and not (folder.parent / "alone").exists()
    assert card["weights"] == "trained alone from the start"
    assert (card["training"]["epochs"], card["training"]["seed"]) == (1.0, 3)
    assert "trained alone from the start: 1 epochs, seed 3" in (folder / "README.md").read_text()
    assert json.loads((folder / "architecture.json").read_text())["space"] == json.loads(kept(run)[0].space)
    assert main(["verify", str(folder)]) == 0
    capsys.readouterr()
    assert exported(run, "--best", KEY) == 0
    inherited = json.loads((folder.parent / card["candidate"] / "card.json").read_text())
    assert inherited["weights"] == "inherited from the supernet"
    assert inherited["metrics"] != card["metrics"]


def test_a_training_alone_that_was_stopped_goes_on_to_the_same_bits(searched, tmp_path):
    from nas.config import from_json
    from nas.data import load
    from nas.export.alone import trained_alone

    run = copy_of(searched, tmp_path)
    record, candidates = kept(run)
    experiment = from_json(record.experiment)
    splits = load(experiment.data)

    def trained(stop) -> dict | None:
        with trained_alone(record, candidates[0], experiment, splits, 1.0, 0, stop) as alone:
            return alone and tensors_of(alone.supernet)

    whole = trained(never)
    answers = iter([False] * 7 + [True])
    assert trained(lambda: next(answers)) is None
    again = trained(never)

    assert whole.keys() == again.keys()
    assert all((whole[name] == again[name]).all() for name in whole)


def tensors_of(path: Path) -> dict:
    from supernets import checkpoint

    return checkpoint.load(path)[0]


def test_what_is_about_a_training_alone_needs_one(searched, capfd):
    for arguments, said in (
        (["--epochs", "3"], "--epochs is about a training alone; give --alone too"),
        (["--seed", "3"], "--seed is about a training alone; give --alone too"),
        (["--alone", "--epochs", "0"], "--epochs is 0; it must be above 0"),
        (["--alone", "--seed", "-1"], "--seed is -1; it must be 0 or more"),
    ):
        assert exported(searched, *arguments) == 2
        assert said in capfd.readouterr().err
