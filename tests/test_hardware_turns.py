"""Networks that are measured in turns get what each gets by itself, at moments that lie apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from nas import config
from nas.data import load
from nas.evaluation import Bench, evaluate, space_of
from nas.export.onnx_graph import onnx_of
from nas.hardware import DEVICES, device
from nas.hardware import runtime as of_devices
from nas.hardware.reuse import structure
from nas.hardware.rounds import ROUNDS, halves, time_in_turns, time_runs
from nas.hardware.runs import Runs
from nas.hardware.settings import Settings
from nas.hardware.timing import TURNS, time_alone
from nas.objectives.latency import fastest
from nas.storage.records import Candidate
from nas.together import evaluate_quiet, evaluate_together
from supernets import checkpoint
from supernets.supernet import make_supernet

SHAPE = (3, 16, 16)
QUICK = {"warmup": 2, "min_runs": 18, "max_runs": 18, "seconds": 0.01}
SETTINGS = Settings(warmup=0, min_runs=18, max_runs=18, seconds=0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOSHIFT_CACHE", str(tmp_path / "cache"))


def noting(calls: list[str], name: str, milliseconds: float = 1.0):
    """A network that notes its runs and says that each took so long."""

    def run() -> float:
        calls.append(name)
        return milliseconds

    return run


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)).eval()


# -- the loop ----------------------------------------------------------------------------------


def test_a_round_of_each_comes_after_the_other_and_the_reference_before_between_and_after_them():
    calls: list[str] = []

    first, second = time_in_turns(
        [noting(calls, "first"), noting(calls, "second", 2.0)],
        SETTINGS,
        "cuda-event",
        reference=noting(calls, "reference", 3.0),
    )

    order = [name for name, _ in groupby(calls)]
    assert order == ["reference"] + ["first", "second", "reference"] * ROUNDS
    assert first.samples_ms == (1.0,) * 18 and second.samples_ms == (2.0,) * 18
    assert first.rounds == second.rounds == (2,) * ROUNDS
    assert first.reference_ms == second.reference_ms == (3.0, 3.0)


@pytest.mark.parametrize("settings", [SETTINGS, Settings(warmup=3, min_runs=5, max_runs=5, seconds=0)])
@pytest.mark.parametrize("others", [1, 3])
def test_each_gets_the_runs_that_it_gets_by_itself(settings, others):
    runs = [noting([], "", float(number)) for number in range(1 + others)]

    found = time_in_turns(runs, settings, "cuda-event")

    assert [set(one.samples_ms) for one in found] == [{float(number)} for number in range(1 + others)]
    assert {one.rounds for one in found} == {time_runs(runs[0], settings, "cuda-event").rounds}


def test_what_is_known_well_enough_ends_and_the_others_go_on():
    noise = iter(1 + 0.2 * np.random.default_rng(0).standard_normal(4000))
    settings = Settings(warmup=0, min_runs=9, max_runs=90, seconds=60, interval=0.01)

    steady, noisy = time_in_turns([lambda: 1.0, lambda: next(noise)], settings, "cuda-event")

    assert len(steady.rounds) < len(noisy.rounds) == ROUNDS
    assert sum(noisy.rounds) == 90


def test_the_reference_of_what_ended_early_is_that_of_its_own_time():
    slower = iter(range(1, 10_000))
    noise = iter(1 + 0.2 * np.random.default_rng(0).standard_normal(4000))
    settings = Settings(warmup=0, min_runs=9, max_runs=90, seconds=60, interval=0.01)

    def reference() -> float:
        return 100 + next(slower) / 1000  # too little to be drift

    steady, noisy = time_in_turns(
        [lambda: 1.0, lambda: next(noise)], settings, "cuda-event", ROUNDS, reference
    )

    assert len(steady.rounds) < ROUNDS
    assert steady.reference_ms[1] < noisy.reference_ms[1]
    assert steady.reference_ms[0] < noisy.reference_ms[0]


def test_halves_leave_the_middle_out():
    assert halves([]) == ()
    assert halves([1.0, 2.0]) == (1.0, 2.0)
    assert halves([1.0, 9.0, 2.0]) == (1.0, 2.0)
    assert halves([1.0, 1.0, 5.0, 2.0, 2.0, 2.0]) == (1.0, 2.0)  # one odd moment is no drift


def test_only_what_is_disturbed_is_measured_again():
    def waits() -> None:
        time.sleep(0.001)

    def works() -> None:
        sum(range(20_000))

    settings = Settings(warmup=0, min_runs=9, max_runs=9, seconds=0)
    for _ in range(5):  # whatever others do to this machine
        (_, once), (waited, thrice) = time_alone([works, waits], settings, "thread-cpu")
        if once == 1:
            break

    assert (once, thrice) == (1, 3)
    assert isinstance(waited, Runs) and waited.disturbance > 1


# -- devices -----------------------------------------------------------------------------------


def test_records_come_in_the_order_of_the_networks_and_say_all_that_one_by_itself_says():
    there = device({**QUICK, "name": "onnxruntime-cpu"})
    widths = [24, 4, 64]

    records = list(there.measure_all((network(width), SHAPE) for width in widths))

    alone = there.measure(network(4), SHAPE)
    small, smallest, large = (record.median_ms for record in records)
    assert smallest < small < large
    for record in records:
        assert record.rounds == alone.rounds == (2,) * ROUNDS
        assert len(record.reference_ms) == 2 and record.settings == alone.settings


@pytest.mark.parametrize("name", [name for name, kind in DEVICES.items() if kind.available() is None])
def test_every_device_measures_in_turns(name):
    records = list(device({**QUICK, "name": name}).measure_all([(network(4), SHAPE), (network(8), SHAPE)]))

    assert [record.device for record in records] == [name, name]
    assert all(len(record.samples_ms) == 18 for record in records)


def test_no_more_are_in_memory_than_take_turns(monkeypatch):
    made: list[int] = []

    def networks() -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
        for width in range(1, TURNS + 4):
            made.append(width)
            yield network(width), SHAPE

    there = device({**QUICK, "name": "onnxruntime-cpu"})
    records = there.measure_all(networks())

    next(records)
    assert len(made) == TURNS
    assert len(list(records)) == TURNS + 2 and len(made) == TURNS + 3


@pytest.mark.slow
def test_networks_that_are_compiled_stay_so_until_they_are_timed():
    """To compile a network is to forget the others, so these take no turns."""
    section = {"name": "torch-cpu", "execution": "compiled", "warmup": 0, "min_runs": 9, "max_runs": 9}
    there = device({**section, "seconds": 0.0})
    if reason := there.unusable():
        pytest.skip(reason)

    records = list(there.measure_all([(network(width), SHAPE) for width in (4, 6, 8)]))

    assert there.turns() == 1
    assert max(max(record.wall_ms) for record in records) < 300  # to compile takes seconds


def test_of_every_subnet_the_form_that_ran_fastest_counts(monkeypatch):
    times = {"plain": 3.0, "split": 2.0}
    some = [nn.Linear(size, 1) for size in (2, 3, 4)]
    monkeypatch.setattr(
        "supernets.merging.forms",
        lambda subnet: dict.fromkeys(["plain"] if subnet is some[1] else times, subnet),
    )
    there = device({**QUICK, "name": "onnxruntime-cpu"})
    record = there.measure(network(4), SHAPE)
    order = iter(["plain", "split", "plain", "plain", "split"])
    timed = (replace(record, samples_ms=(times[name],)) for name in order)
    monkeypatch.setattr(type(there), "measure_all", lambda self, networks: (next(timed) for _ in networks))

    found = list(fastest(there, [(subnet, (1,)) for subnet in some]))

    assert [one.form for one in found] == ["split", "plain", "split"]
    assert [one.median_ms for one in found] == [2.0, 3.0, 2.0]


# -- candidates --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    experiment = config.experiment(
        {
            "data": {"name": "digits", "calibration": 30, "validation": 50},
            "space": "tiny",
            "objectives": ["accuracy", "latency"],
            "training": {"device": "cpu"},
            "device": {"name": "onnxruntime-cpu", **QUICK},
        }
    )
    splits = load(experiment.data)
    space = space_of(experiment, splits)
    file: Path = tmp_path_factory.mktemp("bench") / "supernet.safetensors"
    weights = make_supernet(space).state_dict()
    checkpoint.save(file, {f"supernet.{name}": one for name, one in weights.items()}, {})
    return Bench(experiment, splits, space, file)


@pytest.fixture
def asked(bench) -> list:
    random = Random(0)
    return list({one.key: one for one in (bench.space.sample(random) for _ in range(12))}.values())


@pytest.fixture
def turns(monkeypatch) -> list[int]:
    """How many networks took turns, each time."""
    seen: list[int] = []
    real = of_devices.measure

    def measure(device, networks, *others):
        seen.append(len(networks))
        return real(device, networks, *others)

    monkeypatch.setattr(of_devices, "measure", measure)
    return seen


def test_candidates_that_are_asked_for_together_are_measured_in_turns(bench, asked, turns):
    found = list(evaluate_together(bench, asked))

    assert sum(turns) == len(asked) and max(turns) == TURNS
    assert {one.key for one in found} == {one.key for one in asked}
    for candidate in found:
        record = candidate.latencies["latency_ms"]
        assert candidate.error is None and candidate.values["latency_ms"] == record.median_ms
        assert candidate.intervals["latency_ms"] == record.interval_ms


def test_what_needs_a_quiet_machine_is_measured_in_turns_and_nothing_else_with_it(bench, asked, turns):
    found = evaluate_quiet(bench, asked[:3])

    assert turns == [3]
    assert [set(one.values) for one in found] == [{"latency_ms"}] * 3


def test_one_that_the_device_refuses_fails_alone(bench, asked, monkeypatch):
    bad, real = bench.subnet(asked[1], statistics=False), type(bench.devices[""]).load_onnx
    refused = structure(onnx_of(bad, bench.space.input_shape(asked[1].resolution)))

    def load_onnx(self, model, input_shape):
        if structure(model) == refused:
            raise ValueError("it refuses")
        return real(self, model, input_shape)

    monkeypatch.setattr(type(bench.devices[""]), "load_onnx", load_onnx)

    found = {one.key: one for one in evaluate_together(bench, asked[:4])}

    assert [found[one.key].error for one in asked[:4]] == [None, "ValueError: it refuses", None, None]
    alone: Candidate = evaluate(bench, asked[1])
    assert alone.error == "ValueError: it refuses"
