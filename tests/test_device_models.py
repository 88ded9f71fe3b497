"""Each of several devices has a latency model of its own: samplers, picks, screens and advice go by that of the one
that is meant, and ask where none is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas import config
from nas.advice import advise_on
from nas.cli import main
from nas.data import load
from nas.experiment import Opened
from nas.hardware import declared
from nas.pick import latency_key, pick, write_pick
from nas.predictors.latency import LatencyPredictor, Measurement, fit, model_file
from nas.screen import screen_by_latency
from nas.search import searcher_for
from nas.storage.records import Constraint, Leg
from nas.storage.store import Store
from search_spaces import architecture_from_json
from supernets.cost import Costs
from supernets.samplers import make_sampler
from tests.conftest import TinyRun, write_experiment
from tests.test_devices import BOTH, DIGITS, PHONE, SERVER, TWO
from tests.test_experiment_extended import kept, open_with
from tests.test_predictors import additive, milliseconds, space_named, table_of, vectors_of

BY_PHONE = (
    TWO.replace("{name: shift, every: 10, warmup: 0.3}", "{name: uniform_cost, cost: latency_ms@phone}")
    .replace("epochs: 6", "epochs: 1")
    .replace("{name: nsga2, population: 8}", "linas")
)
PER_DEVICE = "search.per_device=true"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[TinyRun]:
    """Trained by the latency on the phone; models and generators are made as quickly as can be."""
    made = write_experiment(tmp_path_factory.mktemp("by-phone"), BY_PHONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.predictors.latency.BUDGET", 16)
        patch.setattr("nas.pick.STEPS", 20)
        assert main(["train", *made.arguments]) == 0
        yield made


def folder_of(run: TinyRun) -> Path:
    return run.folder / "runs" / run.name


def told(run: TinyRun, capsys, *arguments: str) -> tuple[int, str]:
    """The exit code, and the JSON or the error."""
    capsys.readouterr()
    code = main(["pick", run.name, "--store", run.store_url, *arguments])
    out, err = capsys.readouterr()
    return code, out if code == 0 else err.splitlines()[-1]


# -- the cost of a sampler ---------------------------------------------------------------------


def sampler_of(sampler, **more):
    return config.experiment(DIGITS | {"training": {"sampler": sampler}} | more).training.sampler


def test_a_sampler_names_the_device_whose_latency_it_goes_by():
    inner = {"name": "shift", "cost": PHONE}

    assert sampler_of(inner, devices=BOTH) == inner
    assert sampler_of({"name": "sandwich", "of": inner}, devices=BOTH)["of"] == inner
    assert sampler_of({"name": "shift", "cost": "latency_ms"}, device="torch-cpu")["cost"] == "latency_ms"


def test_of_a_single_device_with_a_name_the_latency_needs_none():
    one = {"phone": "torch-cpu"}

    assert sampler_of({"name": "shift", "cost": "latency_ms"}, devices=one)["cost"] == PHONE


@pytest.mark.parametrize(
    ("sampler", "devices", "said"),
    [
        (
            {"name": "shift", "cost": "latency_ms"},
            BOTH,
            "training.sampler.cost is latency_ms, but there are several devices; write latency_ms@server or latency_",
        ),
        (
            {"name": "sandwich", "of": {"name": "shift", "cost": "latency_ms@fone"}},
            BOTH,
            "training.sampler.of.cost 'latency_ms@fone' is not known; did you mean latency_ms@phone?",
        ),
        (
            {"name": "shift", "cost": PHONE},
            None,
            "training.sampler.cost 'latency_ms@phone' is not known; did you mean latency_ms? Allowed: latency_ms",
        ),
    ],
)
def test_a_latency_that_is_of_no_device_or_of_several_is_refused_as_a_cost(sampler, devices, said):
    with pytest.raises(ValueError) as refused:
        sampler_of(sampler, devices=devices)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_bins_are_cut_in_the_latency_of_the_device_that_is_named():
    table, latencies = table_of("tiny"), {SERVER: additive("tiny"), PHONE: additive("tiny", 2)}
    edges = {
        key: make_sampler(
            {"name": "uniform_cost", "cost": key}, table.space, Costs(table, latencies), 10
        ).bins.edges
        for key in latencies
    }

    for key, latency in latencies.items():
        costs = latency(vectors_of(table.space, 500))
        assert edges[key][0] <= costs.min() and costs.max() <= edges[key][-1] * 1.1
    assert not np.allclose(edges[SERVER][[0, -1]], edges[PHONE][[0, -1]])


# -- the files ---------------------------------------------------------------------------------


def test_a_training_by_one_device_measures_on_that_one_alone(run):
    stored, _ = kept(run)
    [file] = folder_of(run).glob("latency_model*.json")
    content = json.loads(file.read_text())

    assert file.name == "latency_model@phone.json" == model_file(Path(), PHONE).name
    assert model_file(Path(), "latency_ms").name == "latency_model.json"
    assert {one["latency"]["device"] for one in content["measurements"]} == {"torch-cpu"}
    assert stored.facts["latency prediction@phone"].startswith(
        "latency is predicted from 16 measurements on torch-cpu"
    )


def test_the_device_of_a_prediction_that_a_training_goes_by_stays_and_another_may_change(run, capsys):
    capsys.readouterr()
    assert main(["train", *run.arguments, "-o", "devices.phone.threads=2"]) == 2
    assert "other settings: devices.phone.threads was 1, is 2" in capsys.readouterr().err
    assert main(["train", *run.arguments, "-o", "devices.server.threads=2"]) == 0


# -- picks -------------------------------------------------------------------------------------


def test_a_pick_for_a_device_keeps_the_limit_there_by_a_model_of_its_own(run, capsys):
    before = model_file(folder_of(run), PHONE).read_bytes()

    for key, name, device in ((SERVER, "server", "onnxruntime-cpu"), (PHONE, "phone", "torch-cpu")):
        code, out = told(run, capsys, "--latency-ms", "5", "--device", name, "--json")
        found = json.loads(out)

        assert code == 0
        assert found["budget"] == {"key": key, "max": 5.0} and found["cost"]["predicted"]
        assert found["pick"]["intervals"][key][1] <= 5
        assert {SERVER, PHONE} <= found["pick"]["values"].keys()
        assert found["prediction"].startswith(f"latency is predicted from 16 measurements on {device}")
        assert (folder_of(run) / "generators" / f"{key}.json").is_file()
    assert model_file(folder_of(run), PHONE).read_bytes() == before


def test_a_pick_is_exported_for_its_device_even_where_the_others_are_not(run, tmp_path, monkeypatch):
    stored, _ = kept(run)
    experiment = config.from_json(stored.experiment)
    splits = load(experiment.data)
    picked = pick(stored, experiment, splits, [], Constraint(SERVER, max=5.0))
    monkeypatch.setattr("nas.hardware.torch_cpu.TorchCpu.available", classmethod(lambda kind: "is not here"))

    with Store(run.store_url) as store:
        card = write_pick(stored, picked, store, tmp_path / "out", experiment, splits)

    assert (card["device"], card["latency"]["device"]) == ("server", "onnxruntime-cpu")
    assert PHONE in card["searched"]["values"]


def test_every_latency_of_a_pick_stands_in_its_table_and_the_hint_names_the_device(run, capsys):
    capsys.readouterr()
    assert main(["pick", "tiny", "--latency-ms", "5", "--device", "phone", "--store", run.store_url]) == 0
    out, err = capsys.readouterr()

    first, heading, *_ = out.splitlines()
    assert first.startswith("tiny: picked for latency_ms@phone of at most 5 ms; predicted ")
    assert heading.index("latency@server (ms)") < heading.index("latency@phone (ms)")
    assert err.splitlines()[-1].startswith("export it:  nas pick tiny --latency-ms 5 --device phone --export")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--latency-ms", "1"),
            "nas: --latency-ms is of one device, and tiny has several; add --device phone or --device server",
        ),
        (
            ("--latency-ms", "1", "--device", "fone"),
            "nas: --device 'fone' is not known; did you mean phone? Allowed: phone, server",
        ),
        (
            ("--macs", "1M", "--device", "phone"),
            "nas: --device says whose latency is meant; give --latency-ms, or leave it out",
        ),
    ],
)
def test_a_pick_that_does_not_say_for_which_device_is_refused_in_one_line(run, capsys, arguments, said):
    assert told(run, capsys, *arguments) == (2, said)


def test_a_run_whose_device_has_no_name_takes_no_name_and_one_elsewhere_has_no_picks(run):
    found, _ = kept(run)
    board = {"name": "openvino-cpu", "resources": {"jetson": 1}}
    plain, far = (config.experiment(DIGITS | more) for more in ({}, {"devices": {"board": board}}))

    assert latency_key(found, plain, None) == "latency_ms"
    assert latency_key(found, replace(plain, devices={"phone": plain.device}), None) == PHONE
    with pytest.raises(
        ValueError, match=r"--device is phone, but the device of tiny has no name; leave it out"
    ):
        latency_key(found, plain, "phone")
    with pytest.raises(ValueError, match=r"the device board of tiny is on another node, .* such as --macs"):
        latency_key(found, far, None)


# -- screens and advice ------------------------------------------------------------------------


def models(opened: Opened) -> dict[str, LatencyPredictor]:
    """One of each device, of made-up latencies, in the run's folder."""
    found, space = {}, opened.space
    for seed, key in enumerate((SERVER, PHONE)):
        vectors = space.canonical(vectors_of(space, 30, seed=3))
        known = zip(vectors.tolist(), additive("tiny", seed)(vectors).tolist(), strict=True)
        section = opened.experiment.timed_on(key)
        found[key] = fit(space, section, [Measurement(tuple(row), milliseconds(ms)) for row, ms in known])
        found[key].save(model_file(Path(opened.run.folder), key))
    return found


def test_a_search_is_screened_by_the_model_of_each_device_in_its_own_place(tmp_path):
    run = write_experiment(tmp_path, BY_PHONE)
    with Store(run.store_url) as store:

        def screened(opened: Opened):
            found = models(opened)
            searcher = searcher_for(opened.experiment.search, opened.space, opened.experiment.goals)
            screen_by_latency(opened, searcher, Leg())
            return found, searcher, store.run("tiny").facts, vectors_of(opened.space, 40)

        found, joint, facts, rows = open_with(run, store, screened, "focus={latency_ms@phone: [0.9, 9]}")
        _, apart, *_ = open_with(run, store, screened, PER_DEVICE)

    assert [place.known is None for place in joint.surrogates] == [True, False, False]
    assert (joint.surrogates[1].known(rows) == found[SERVER](rows)).all()
    assert (joint.surrogates[2].known(rows) == np.maximum(found[PHONE](rows), 0.9)).all()
    assert (found[PHONE](rows) < 0.9).any()
    for (part, _), key in zip(apart.parts, (SERVER, PHONE), strict=True):
        of_accuracy, of_latency = part.surrogates
        assert of_accuracy.known is None and (of_latency.known(rows) == found[key](rows)).all()
    assert {"latency screen@server", "latency screen@phone"} <= facts.keys()


def test_a_search_without_a_model_of_a_device_is_screened_by_those_that_there_are(run):
    with Store(run.store_url) as store:

        def screened(opened: Opened):
            model_file(folder_of(run), SERVER).unlink(missing_ok=True)
            searcher = searcher_for(opened.experiment.search, opened.space, opened.experiment.goals)
            screen_by_latency(opened, searcher, Leg())
            return searcher

        searcher = open_with(run, store, screened)

    assert [place.known is None for place in searcher.surrogates] == [True, True, False]


def test_a_leg_that_began_with_the_model_of_a_device_needs_it_again(tmp_path, capsys):
    run = write_experiment(
        tmp_path, BY_PHONE.replace("{name: uniform_cost, cost: latency_ms@phone}", "uniform")
    )
    with Store(run.store_url) as store:
        open_with(run, store, models)
    assert main(["run", *run.arguments, "-o", "search.budget=4"]) == 0
    model_file(folder_of(run), SERVER).unlink()

    capsys.readouterr()
    assert main(["search", *run.arguments]) == 2

    assert "there is no latency_model@server.json in " in capsys.readouterr().err


def test_advice_is_of_the_device_that_is_like_the_one_that_is_explained(run, capsys):
    told(run, capsys, "--latency-ms", "5", "--device", "phone")
    found, _ = kept(run)
    space = space_named("tiny")
    experiment = config.from_json(found.experiment)
    architecture = space.ends[1]
    assert architecture_from_json(architecture.to_json()) == architecture

    advice = advise_on(architecture.to_json(), found, declared(experiment.devices["phone"]))

    assert "on torch-cpu" in advice.prediction
    model_file(folder_of(run), SERVER).unlink(missing_ok=True)
    with pytest.raises(
        FileNotFoundError, match=r"`nas pick tiny --latency-ms` with any limit --device server makes"
    ):
        advise_on(architecture.to_json(), found, declared(experiment.devices["server"]))
    with pytest.raises(
        ValueError, match=r"name torch-cpu, not .* \(phone\); of .* batch 1, not 2 \(server\)"
    ):
        advise_on(architecture.to_json(), found, declared({**experiment.devices["server"], "batch": 2}))
