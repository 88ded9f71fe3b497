"""Measurements are fast without saying less: the same graph, runs that end early only where that hides nothing, and
earlier measurements used again only where nothing differs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from nas.export.onnx_graph import _attribute, onnx_of
from nas.hardware import device, reuse, rounds
from nas.hardware.loaded import Loaded
from nas.hardware.rounds import LEAST_ROUNDS, ROUNDS, time_runs
from nas.hardware.runs import Runs
from nas.hardware.settings import Settings
from nas.measure import Measured, Network
from nas.measure_view import print_measured
from nas.storage.records import Latency, median_interval

SHAPE = (3, 8, 8)
QUICK = {"warmup": 2, "min_runs": 20, "max_runs": 40, "seconds": 0.02}


def network(width: int = 8, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.Hardswish()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)).eval()


def noisy(count: int, deviation: float, seed: int = 0) -> tuple[float, ...]:
    return tuple(1 + deviation * np.random.default_rng(seed).standard_normal(count))


def without_pauses(monkeypatch) -> None:
    monkeypatch.setattr(rounds, "BETWEEN", 0.0)


# -- the graph ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [3, True, 0.25, "half_pixel", (1, 2), [0, -1], range(2, 4), torch.Size([3, 3])]
)
def test_an_attribute_is_what_onnx_itself_makes_of_it(value):
    assert _attribute("name", value) == helper.make_attribute("name", value)


def test_a_graph_holds_the_very_weights_and_is_the_same_each_time():
    subnet = network()

    model = onnx_of(subnet, SHAPE)

    parsed = onnx.load_from_string(model)
    onnx.checker.check_model(parsed, full_check=True)
    tensors = {one.name: numpy_helper.to_array(one) for one in parsed.graph.initializer}
    np.testing.assert_array_equal(tensors["5.weight"], subnet[5].weight.detach().numpy())
    assert tensors["0.weight"].shape == (8, 3, 3, 3)
    assert onnx_of(subnet, SHAPE) == model


# -- runs that end early -----------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0.002, 0.01, 0.03])
def test_runs_end_early_only_once_their_interval_is_narrow(interval, monkeypatch):
    without_pauses(monkeypatch)
    ends = iter(noisy(400, 0.02))

    runs = time_runs(lambda: next(ends), Settings(warmup=0, seconds=60, interval=interval), "cuda-event")

    done = len(runs.samples_ms)
    assert done == sum(runs.rounds) and len(runs.rounds) >= LEAST_ROUNDS
    assert done == 400 or runs.beyond <= interval
    assert (done < 400) == (interval > 0.002)


def test_no_bound_gives_way_to_a_narrow_interval(monkeypatch):
    without_pauses(monkeypatch)

    def timed(**settings):
        return len(time_runs(lambda: 1.0, Settings(warmup=0, **settings), "cuda-event").samples_ms)

    assert (
        timed(min_runs=350, seconds=60, interval=0.5) == 400 * 8 // ROUNDS
    )  # the first whole round with so many
    assert timed(min_runs=1, max_runs=90, seconds=60, interval=0.5) == 90 * LEAST_ROUNDS // ROUNDS
    assert timed(min_runs=1, max_runs=4, seconds=60, interval=0.5) == 4
    assert timed(min_runs=1, max_runs=90, seconds=60, interval=0) == 90


def test_what_is_disturbed_does_not_end_early():
    steady = (2.0,) * 100
    quiet = Runs("thread-cpu", steady, steady, 0)
    assert quiet.suffices(0.01)

    waited = Runs("thread-cpu", steady, (2.3,) * 100, 0)
    interrupted = Runs("thread-cpu", steady, steady, 9)
    unsteady = Runs("wall", (1.0,) * 15 + (1.2,) * 85, (1.2,) * 100, 0)
    for runs in (waited, interrupted, unsteady):
        assert runs.beyond <= 0.01
        assert not runs.suffices(0.01)


def test_the_interval_covers_the_true_median_also_where_runs_end_early(monkeypatch):
    without_pauses(monkeypatch)
    covered, runs, times = 0, [], 40
    for seed in range(times):
        ends = iter(noisy(400, 0.03, seed))
        settings = Settings(warmup=0, seconds=60, interval=0.01)
        found = time_runs(lambda ends=ends: next(ends), settings, "cuda-event")
        low, high = median_interval(np.array(found.samples_ms), found.rounds)
        covered += low <= 1 <= high
        runs.append(len(found.samples_ms))

    assert covered / times > 0.9
    assert min(runs) == 400 * LEAST_ROUNDS // ROUNDS <= np.mean(runs) < 360


def test_a_record_that_ended_early_is_narrow_and_undisturbed():
    chosen = device({"min_runs": 20, "max_runs": 10_000, "seconds": 1.0, "interval": 0.05})

    record = chosen.measure(network(), SHAPE)

    assert len(record.samples_ms) >= 20
    unforeseen = ("drifted", "throttled", "unusual")  # of what is known only afterwards
    foreseen = [why for why in record.disturbed_by if not why.startswith(unforeseen)]
    low, high = record.interval_ms
    narrow = record.median_ms * 0.95 <= low and high <= record.median_ms * 1.05
    assert len(record.rounds) == ROUNDS or (narrow and not foreseen)


# -- measurements that are used again ----------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOSHIFT_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def record():
    """A measurement, as it is where nothing disturbs it."""
    found = device(QUICK).measure(network(), SHAPE)
    return replace(found, contended=False, disturbed_by=(), reference_ms=(1.0, 1.0))


def reference(milliseconds: float = 1.0) -> Loaded:
    """A machine on which the reference network takes so long."""
    return Loaded(lambda: milliseconds, lambda: np.empty(0), "cuda-event", {})


def described(section=QUICK, subnet=None, shape=SHAPE):
    chosen = device(section)
    return reuse.described(chosen, onnx_of(subnet or network(), shape), shape)


def test_a_kept_measurement_is_used_again_and_says_so(record):
    reuse.keep(described(), record)

    again = reuse.kept(described(), 1, reference())

    assert again.reused_at >= again.measured_at == record.measured_at
    assert replace(again, reused_at=None) == record


def test_other_weights_are_the_same_graph_and_other_widths_are_not():
    assert described(subnet=network(seed=1)) == described()
    assert described(subnet=network(width=9)) != described()


@pytest.mark.parametrize(
    "other",
    [
        {"section": QUICK | {"threads": 2}},
        {"section": QUICK | {"batch": 2}},
        {"section": QUICK | {"max_runs": 41}},
        {"section": QUICK | {"interval": 0.5}},
        {"subnet": network(width=9)},
        {"shape": (3, 8, 9)},
    ],
    ids=str,
)
def test_nothing_else_is_answered_by_it(record, other):
    reuse.keep(described(), record)

    assert reuse.kept(described(**other), 1, reference()) is None
    assert reuse.kept(described(), 1, reference())


@pytest.mark.parametrize(
    ("what", "value"), [("versions", {"onnxruntime": "0"}), ("processor", "another"), ("device", "x")]
)
def test_other_versions_processors_and_devices_are_measured_anew(record, what, value):
    reuse.keep(described(), record)

    assert reuse.kept(described() | {what: value}, 1, reference()) is None


def test_how_long_measurements_are_used_makes_no_other_device():
    assert described(QUICK | {"reuse_days": 3}) == described()


def test_an_old_one_and_one_of_a_machine_that_was_faster_are_measured_anew(record):
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    reuse.keep(described(), replace(record, measured_at=yesterday))

    assert reuse.kept(described(), 0.9, reference()) is None
    assert reuse.kept(described(), 1.1, reference())
    for milliseconds in (0.94, 1.06):
        assert reuse.kept(described(), 1.1, reference(milliseconds)) is None


def test_a_disturbed_one_is_not_kept(record):
    reuse.keep(described(), replace(record, contended=True))

    assert reuse.kept(described(), 1, reference()) is None


def test_a_device_measures_once_where_that_is_asked_for(monkeypatch, record):
    monkeypatch.setattr(reuse, "DRIFT", 1e9)  # whatever others do to this machine
    once, always = device(QUICK | {"reuse_days": 1}), device(QUICK)
    reuse.keep(described(), record)

    again, anew = once.measure(network(seed=2), SHAPE), always.measure(network(), SHAPE)

    assert again.samples_ms == record.samples_ms and again.reused_at
    assert anew.samples_ms != record.samples_ms and anew.reused_at is None
    kernels = once.measure(network(), SHAPE, kernels=True)
    assert kernels.kernels and kernels.reused_at is None  # the kept one has none


def test_a_damaged_file_is_an_error_that_names_it(record):
    reuse.keep(described(), record)
    path = reuse.file_of(described())
    for text in ("{", "{}", json.dumps({"of": {}, "record": asdict(record) | {"measured_at": "once"}})):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{path.name} is damaged \(.*\); remove it"):
            reuse.kept(described(), 1, reference())


def test_the_table_says_what_was_used_again(record, tmp_path, capsys):
    model = Network(tmp_path / "some.onnx", b"", SHAPE)

    print_measured(
        [Measured(model, replace(record, reused_at="2026-11-21T12:00:00+00:00")), Measured(model, record)]
    )

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("used again:")]
    assert len(lines) == 1 and lines[0].endswith(f"measured {record.measured_at}")


def test_a_record_of_before_is_read(record):
    stored = {key: value for key, value in json.loads(record.to_json()).items() if key != "reused_at"}

    assert Latency.from_json(json.dumps(stored)) == record
