"""Several devices in one run: each has its latency, its front and, if asked for, its search; nothing is evaluated
twice, and one device with a name is a device like any other.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from nas import config, far, library
from nas.cli import main
from nas.devices import Goals, anything_found, device_of, fronts, goals_of, goals_on, on
from nas.goals import objectives_of
from nas.objectives import measure_of
from nas.pareto import front
from nas.pool import HerePool
from nas.report import print_front
from nas.search import Search, make_searcher, search
from nas.storage.records import Candidate, Constraint, Objective, Run
from nas.storage.store import Store
from nas.turns import Turns
from search_spaces import Architecture
from tests.conftest import TINY
from tests.synthetic import space, values
from tests.test_experiment_extended import kept, open_with, trained_run
from tests.test_search import Memory, stop_after

SERVER, PHONE = "latency_ms@server", "latency_ms@phone"
FAST = "min_runs: 5, max_runs: 10, seconds: 0.005"
NAMED = f"""devices:
  server: {{name: onnxruntime-cpu, {FAST}}}
  phone: {{name: torch-cpu, {FAST}}}
"""
TWO = TINY[: TINY.index("device:")].replace("budget: 20", "budget: 10") + NAMED
DIGITS = {"data": "digits", "space": "tiny"}
BOTH = {"server": "onnxruntime-cpu", "phone": {"name": "torch-cpu", "threads": 2}}

ACCURACY = Objective("accuracy", "accuracy", "%", "maximize")
ON_SERVER, ON_PHONE = (measure_of(key).objective for key in (SERVER, PHONE))
GOALS = Goals((ACCURACY, ON_SERVER, ON_PHONE), (Constraint(PHONE, max=96.0), Constraint("macs", max=40_000)))


# -- the file ----------------------------------------------------------------------------------


def experiment(**more) -> config.Experiment:
    return config.experiment(DIGITS | {"devices": BOTH} | more)


def test_the_latency_of_an_experiment_with_several_devices_is_one_for_each():
    asked = experiment(constraints={"latency_ms": {"max": 2}}, focus={"latency_ms": [1, 3]})

    assert [one.key for one in asked.objectives] == ["accuracy", SERVER, PHONE]
    assert [one.name for one in asked.objectives] == ["accuracy", "latency@server", "latency@phone"]
    assert asked.constraints == (Constraint(SERVER, max=2.0), Constraint(PHONE, max=2.0))
    assert asked.focus == (Constraint(SERVER, 1.0, 3.0), Constraint(PHONE, 1.0, 3.0))
    assert asked.devices["phone"]["threads"] == 2 and asked.device == asked.devices["server"]


def test_a_single_one_of_the_devices_may_be_meant():
    asked = experiment(objectives=["accuracy", "latency@phone"], constraints={SERVER: {"max": 2}})

    assert [one.key for one in asked.objectives] == ["accuracy", PHONE]
    assert asked.constraints == (Constraint(SERVER, max=2.0),)


def test_an_experiment_with_devices_survives_json_and_one_of_before_is_read():
    asked = experiment(devices={"board": {"name": "openvino-cpu", "resources": {"jetson": 1}}})
    old = json.loads(config.experiment(DIGITS).to_json())
    del old["devices"]
    del old["search"]["per_device"]

    assert config.from_json(asked.to_json()) == asked
    assert asked.far.keys() == {"latency_ms@board"} and asked.near == {}
    assert config.from_json(json.dumps(old)) == config.experiment(DIGITS)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"device": "torch-cpu"},
            "device is one and devices are several with names; leave one of the sections",
        ),
        ({"devices": []}, "devices is []; give each a name, such as devices: {server: onnxruntime-cpu, "),
        (
            {"devices": {"a@b": "torch-cpu"}},
            "devices.a@b: the name of a device is of letters, digits, dashes",
        ),
        ({"devices": {"a": {"thread": 1}}}, "devices.a: device.thread is not known; did you mean threads?"),
        (
            {"objectives": ["accuracy", "latency@fone"]},
            "objectives: 'latency@fone' is not known; did you mean latency@phone?",
        ),
        (
            {"constraints": {"latency_ms@fone": {"max": 1}}},
            "constraints.latency_ms@fone is not known; did you mean latency_ms@phone?",
        ),
        (
            {"constraints": {"latency_ms": {"max": 1}, PHONE: {"max": 2}}},
            "constraints has latency_ms, which is of every device, and latency_ms@phone; leave one of them out",
        ),
        ({"objectives": ["accuracy", "latency", "latency@phone"]}, "objectives lists latency@phone twice"),
        (
            {"search": {"per_device": True}, "objectives": ["accuracy", "latency@phone"]},
            "search.per_device is true, but fewer than two devices are measured: name them in devices",
        ),
        (
            {"devices": {"a": {"name": "torch-cpu", "resources": {"jetson": 1}}}},
            "devices.a.resources: torch-cpu cannot be on another node, since networks are sent as ONNX",
        ),
        (
            {"devices": {"a": {"resources": 1}}},
            "devices.a.resources is 1; write what its Ray node has, such as",
        ),
        (
            {"devices": {"a": {"resources": {"jetson": 0}}}},
            "devices.a.resources.jetson is 0; it must be a number",
        ),
    ],
)
def test_devices_that_make_no_sense_are_refused_in_one_line(more, said):
    with pytest.raises(ValueError) as refused:
        experiment(**more)
    assert said in str(refused.value) and "\n" not in str(refused.value)


# -- fronts ------------------------------------------------------------------------------------


def evaluated(architecture: Architecture) -> Candidate:
    """MACs and width stand for two devices of which each likes other networks."""
    known = values(architecture)
    times = {SERVER: known["macs"] / 1e3, PHONE: known["memory"]}
    return Candidate(architecture.key, architecture.to_json(), known | times)


def candidates(count: int, seed: int = 0) -> list[Candidate]:
    random = Random(seed)
    drawn = {one.key: one for one in (space().sample(random) for _ in range(count))}
    return [replace(evaluated(one), number=place) for place, one in enumerate(drawn.values(), 1)]


RUN = Run("both", "{}", "{}", GOALS.objectives, GOALS.constraints, "runs/both")


def test_the_front_of_a_device_is_by_its_own_latency_and_limits_alone():
    found = candidates(300)

    server, phone = fronts(RUN, found)

    assert (server.device, phone.device) == ("server", "phone")
    everyones = (Constraint("macs", max=40_000),)
    assert list(server.candidates) == front(found, [ACCURACY, ON_SERVER], everyones)
    assert list(phone.candidates) == front(found, [ACCURACY, ON_PHONE], GOALS.constraints)
    assert any(one.values[PHONE] > 96 for one in server.candidates)  # which only the other limits
    assert server.knee in server.candidates
    together = {one.key for one in front(found, GOALS.objectives, GOALS.constraints)}
    assert {one.key for one in phone.candidates} < together


def test_a_run_whose_devices_have_no_names_has_no_fronts_of_its_own():
    plain = replace(RUN, objectives=(ACCURACY, measure_of("latency_ms").objective), constraints=())
    recall = replace(plain, objectives=objectives_of({"recall@10": "maximize", "loss": "minimize"}))

    assert fronts(plain, candidates(20)) == fronts(recall, []) == []


def test_a_single_device_with_a_name_has_one_front(capsys):
    one = replace(RUN, objectives=(ACCURACY, ON_SERVER), constraints=())
    found = candidates(30)

    print_front(one, found)

    assert list(fronts(one, found)[0].candidates) == front(found, one.objectives)
    said = capsys.readouterr().out
    assert said.count("latency@server (ms)") == 1 and "on server:" not in said


def test_limits_that_only_one_device_keeps_are_kept_where_each_has_a_search_of_its_own():
    hard = replace(RUN, constraints=(Constraint(PHONE, max=1e-6),))
    apart, found = replace(hard, experiment='{"search": {"per_device": true}}'), candidates(50)

    assert front(found, hard.objectives, hard.constraints) == []
    assert anything_found(apart, found) and not anything_found(hard, found)
    assert not anything_found(replace(apart, constraints=(Constraint("macs", max=1),)), found)


def test_a_person_with_an_evaluator_names_devices_in_the_same_way():
    [accuracy, latency, power] = objectives_of(
        {"accuracy": "maximize", PHONE: "minimize", "power_W": "minimize"}
    )

    assert (
        latency == ON_PHONE and device_of(latency.key) == "phone" and on("latency", "phone") == latency.name
    )
    assert (accuracy.unit, power.unit) == ("", "W")


# -- a search for each device ------------------------------------------------------------------


def taking_turns(searcher: str, seed: int = 0) -> Turns:
    settings = Search(searcher=searcher, seed=seed)
    parts = [goals_on(device, GOALS) for device in ("server", "phone")]
    made = [
        make_searcher(replace(settings, seed=seed + place), space(), len(one.objectives))
        for place, one in enumerate(parts)
    ]
    return Turns(list(zip(made, parts, strict=True)))


def carry_out(memory: Memory, searcher: str = "nsga2", budget: int = 70, stop=lambda: False) -> str | None:
    turns, pool = taking_turns(searcher), HerePool(evaluated)
    settings = Search(budget=budget, searcher=searcher)
    return search("run", turns, pool, memory, GOALS.objectives, GOALS.constraints, settings, stop=stop)


@pytest.mark.parametrize(("searcher", "budget"), [("nsga2", 70), ("linas", 30)])
def test_searches_that_take_turns_evaluate_nothing_twice_and_go_on_where_they_were_stopped(searcher, budget):
    whole, stopped, random = Memory(), Memory(), Random(0)

    carry_out(whole, searcher, budget)
    while not carry_out(stopped, searcher, budget, stop=stop_after(random.randint(1, 25))):
        pass

    assert stopped.keys == whole.keys and len(set(whole.keys)) == budget


def test_each_search_hears_of_every_candidate_in_terms_of_its_own_goals(monkeypatch):
    heard: dict[str, list] = {"server": [], "phone": []}
    turns, memory = taking_turns("random"), Memory()
    for (one, goals), device in zip(turns.parts, heard, strict=True):
        own = measure_of(on("latency_ms", device)).objective
        assert goals.objectives == (ACCURACY, own)
        monkeypatch.setattr(one, "tell", partial(note, heard[device], one.tell))

    search("run", turns, HerePool(evaluated), memory, GOALS.objectives, GOALS.constraints, Search(budget=40))

    for device, losses in heard.items():
        key = on("latency_ms", device)
        assert losses == [
            (one.key, [-one.values["accuracy"], one.values[key]], one.violation(limits_on(device)))
            for one in memory.kept
        ]
    assert any(violation for *_, violation in heard["phone"])


def limits_on(device: str) -> tuple[Constraint, ...]:
    return goals_on(device, goals_of(RUN)).constraints


def note(heard: list, tell, architecture, losses, violation=0.0) -> None:
    heard.append((architecture.key, losses, violation))
    tell(architecture, losses, violation)


def test_a_person_with_an_evaluator_gets_a_search_and_a_front_for_each_device(tmp_path):
    menu = library.CategoricalSpace({f"block {place}": [1, 2, 3] for place in range(6)})

    def evaluate(architecture) -> dict[str, float]:
        first, *rest = architecture.values()
        return {"accuracy": float(first + sum(rest)), SERVER: float(first), PHONE: 1.0 + sum(rest)}

    goals = {"accuracy": "maximize", SERVER: "minimize", PHONE: "minimize"}
    more = {"searcher": "nsga2", "constraints": {PHONE: {"max": 12.0}}, "quiet": True}
    together = library.search(menu, evaluate, goals, budget=40, **more)
    apart = library.search(menu, evaluate, goals, budget=40, per_device=True, **more)
    stopped = {"store": tmp_path / "nas.db", "per_device": True}
    library.search(menu, evaluate, goals, budget=23, **stopped, **more)
    again = library.search(menu, evaluate, goals, budget=40, **stopped, **more)

    proposed = [[one.key for one in found.candidates] for found in (together, apart, again)]
    assert proposed[0] != proposed[1] == proposed[2]
    assert apart.fronts.keys() == together.fronts.keys() == {"server", "phone"}
    on_server = [one for one in apart.objectives if one.key != PHONE]
    assert list(apart.fronts["server"].candidates) == front(apart.candidates, on_server, ())
    assert apart.fronts["phone"].knee.values[PHONE] <= 12
    with pytest.raises(
        ValueError, match="per_device is True, but fewer than two devices are named; give each"
    ):
        library.search(menu, evaluate, {"accuracy": "maximize", PHONE: "minimize"}, per_device=True)


# -- a whole run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tiny_run, tmp_path_factory):
    """Ten candidates on two devices, by a search for each. Read only."""
    run = trained_run(tiny_run, tmp_path_factory.mktemp("two"), TWO)
    assert main(["search", *run.arguments, "-o", "search.per_device=true"]) == 0
    return run


def test_one_command_gives_a_front_for_each_device_over_one_supernet(two, capsys):
    run, found = kept(two)

    assert all(one.latencies.keys() == {SERVER, PHONE} <= one.values.keys() for one in found)
    for one in found:
        assert {key: latency.device for key, latency in one.latencies.items()} == {
            SERVER: "onnxruntime-cpu",
            PHONE: "torch-cpu",
        }
        assert all(one.values[key] == latency.median_ms for key, latency in one.latencies.items())
    assert main(["report", "tiny", "--store", two.store_url]) == 0
    said = capsys.readouterr().out
    assert main(["report", "tiny", "--store", two.store_url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for one in fronts(run, found):
        assert (
            f"on {one.device}: {len(one.candidates)} on the front of accuracy and latency@{one.device}"
            in said
        )
        as_json = told["devices"][one.device]
        assert [each["candidate"] for each in as_json["front"]] == [each.key for each in one.candidates]
        assert as_json["knee"] == one.knee.key


def test_an_export_for_a_device_is_the_knee_of_its_front_with_its_latency(two, tmp_path, capsys):
    run, found = kept(two)
    knees = {one.device: one.knee for one in fronts(run, found)}

    for device, more in (("phone", ["--device", "phone"]), ("server", ["--best", "latency@server"])):
        folder = tmp_path / device
        where = ["--store", two.store_url, "--output", str(folder)]
        assert main(["export", "tiny", *more, *where]) == 0
        card = json.loads((folder / "card.json").read_text())
        chosen = next(one for one in found if one.key == card["candidate"])
        assert card["device"] == device
        assert card["latency"]["device"] == chosen.latencies[on("latency_ms", device)].device
        assert f"| latency on {device}, measured |" in (folder / "README.md").read_text()
        if "--device" in more:
            assert chosen.key == knees[device].key
    capsys.readouterr()
    assert main(["export", "tiny", "--device", "fone", "--store", two.store_url]) == 2
    assert "--device 'fone' is not known; did you mean phone?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_device_is_added_to_a_run_and_accuracies_stay(two, tiny_run, tmp_path, capsys):
    run = trained_run(tiny_run, tmp_path, TWO)
    one = ["-o", "objectives=[accuracy, latency@server]"]
    assert main(["search", *run.arguments, *one]) == 0
    _, before = kept(run)
    assert main(["search", *run.arguments]) == 0
    _, after = kept(run)

    assert [one.key for one in after] == [one.key for one in before]
    for was, now in zip(before, after, strict=True):
        assert {key: now.values[key] for key in was.values} == was.values
        assert now.latencies[SERVER] == was.latencies[SERVER] and PHONE in now.latencies
    capsys.readouterr()
    assert main(["search", *run.arguments, "-o", "devices.phone.threads=2"]) == 2
    assert (
        "the run tiny exists with other settings: devices.phone.threads was 1, is 2"
        in capsys.readouterr().err
    )
    with Store(run.store_url) as store:
        tablet = "devices.tablet={name: openvino-cpu}"
        open_with(run, store, lambda opened: None, tablet)  # one more does no harm


# -- a device elsewhere ------------------------------------------------------------------------

WITHOUT_TORCH = """
import pickle, sys
sys.modules["torch"] = None
from nas import far
import workers.far
given = pickle.load(sys.stdin.buffer)
places = far.prepare(given["sections"], given["reference"])
found = far.measure(places, given["packed"])
sys.stdout.buffer.write(pickle.dumps(found))
"""


def test_networks_are_measured_elsewhere_without_torch_and_what_fails_says_why(two):
    from nas.experiment import pool_here

    sections = {
        f"latency_ms@{name}": {
            "name": name,
            "min_runs": 5,
            "max_runs": 9,
            "seconds": 0.0,
            "resources": {"x": 1},
        }
        for name in ("onnxruntime-cpu", "openvino-cpu")
    }
    with Store(two.store_url) as store:

        def pack(opened) -> list[far.Packed]:
            [bench] = pool_here(opened).evaluate.args
            drawn = opened.space.sample(Random(0))
            bad = far.pack(bench, replace(drawn, stages=()))
            assert bad.error and not bad.forms
            return [far.pack(bench, drawn)]

        [good] = open_with(two, store, pack)
    given = {
        "sections": sections,
        "reference": far.reference_model(),
        "packed": [good, replace(good, forms={"plain": b"no model"})],
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input=pickle.dumps(given), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()

    measured, failed = pickle.loads(done.stdout)

    assert good.error is None and good.key == measured.key
    for key, section in sections.items():
        record = measured.latencies[key]
        assert record.device == section["name"] and len(record.samples_ms) >= 5
        assert measured.values[key] == record.median_ms and record.reference_ms
    assert failed.error.startswith("ValueError: onnxruntime-cpu does not run this network")


def test_a_device_elsewhere_is_refused_at_once_where_nothing_can_be_sent(tiny_run, tmp_path, capsys):
    run = trained_run(tiny_run, tmp_path, TWO.replace("torch-cpu", "openvino-cpu, resources: {jetson: 1}"))

    assert main(["search", *run.arguments]) == 2

    assert capsys.readouterr().err.splitlines()[-1] == (
        "nas: devices.phone is on a node with {jetson: 1}, and this process is on no cluster; give --workers N and "
        "--ray HOST:PORT of a cluster with such a node, or leave devices.phone.resources out to measure here"
    )
