"""A latency is a record that can be believed: every sample, undisturbed or flagged, one measurement at a time."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, fields
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from nas.hardware import DEFAULT, DEVICES, device
from nas.hardware.settings import Settings
from nas.hardware.timing import Runs, alone_on_this_host, time_alone, time_runs
from nas.storage.records import Latency

QUICK = {"warmup": 2, "min_runs": 20, "max_runs": 40, "seconds": 0.02}
SHAPE = (3, 16, 16)


def offered(name):
    """A device of the registry, skipped with the reason where this machine lacks it."""
    reason = DEVICES[name].available()
    marks = [pytest.mark.skipif(reason is not None, reason=f"{name}: {reason}")]
    return pytest.param(name, marks=marks + [pytest.mark.cuda] * ("cuda" in name))


every_device = pytest.mark.parametrize("name", [offered(name) for name in DEVICES])
needs_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason=f"torch-cuda: {DEVICES['torch-cuda'].available()}"
    ),
]


def network(layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(layers - 1):
        body += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()


# -- every device ------------------------------------------------------------------------------


@every_device
def test_a_measurement_is_a_complete_record(name):
    chosen = device({"name": name, "batch": 2, **QUICK})

    record = chosen.measure(network(), SHAPE)

    low, high = record.interval_ms
    assert record.device == name
    assert record.input_shape == SHAPE
    assert asdict(chosen).items() <= record.settings.items()
    assert QUICK["min_runs"] <= len(record.samples_ms) == len(record.wall_ms) <= QUICK["max_runs"]
    assert min(record.samples_ms) > 0
    assert low <= record.median_ms <= high
    assert all(record.versions.values()) and record.processor
    assert Latency.from_json(record.to_json()) == record


@every_device
def test_eight_times_the_work_takes_longer(name):
    chosen, small, large = device({"name": name, **QUICK}), network(4), network(32)

    pairs = [[chosen.measure(one, SHAPE).median_ms for one in (small, large)] for _ in range(3)]

    assert np.median([large_ms / small_ms for small_ms, large_ms in pairs]) > 2


@every_device
def test_the_network_is_left_as_it_was(name):
    subnet = network()
    before = deepcopy(subnet.state_dict())

    device({"name": name, **QUICK}).measure(subnet, SHAPE)

    assert all(torch.equal(tensor, before[key]) for key, tensor in subnet.state_dict().items())


@every_device
def test_a_network_in_training_mode_is_refused(name):
    with pytest.raises(ValueError, match=r"training mode; call \.eval\(\)"):
        device({"name": name}).measure(network().train(), SHAPE)


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "torch-cpu"])
def test_one_thread_is_timed_by_its_processor_time_and_two_by_the_wall(name):
    one, two = (
        device({"name": name, "threads": threads, **QUICK}).measure(network(), SHAPE) for threads in (1, 2)
    )

    assert (one.clock, two.clock) == ("thread-cpu", "wall")
    assert two.samples_ms == two.wall_ms


@pytest.mark.parametrize("name", ["onnxruntime-cpu", "torch-cpu"])
def test_with_one_thread_the_measuring_thread_does_all_the_work(name):
    record = device({"name": name}).measure(network(4), SHAPE)

    busy = [cpu / wall for cpu, wall in zip(record.samples_ms, record.wall_ms, strict=True)]
    assert 0.9 < max(busy) <= 1  # in the run that others disturbed least; runs are short, so there is one


def test_torch_gets_its_threads_back():
    class Asks(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        device({"name": "torch-cpu", "threads": 1, **QUICK}).measure(
            nn.Sequential(network(), Asks()).eval(), SHAPE
        )

        assert torch.get_num_threads() == 2
        assert set(seen) == {1}
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "execution", [pytest.param(one, marks=needs_cuda) for one in ("cuda-graph", "eager")]
)
def test_a_gpu_replays_a_graph_where_it_can_and_says_which(execution):
    class Synchronises(nn.Module):
        def forward(self, x):
            return x * float(x.sum() > 0)  # the host asks the GPU, which a captured graph cannot hold

    subnet = nn.Sequential(network(8), *[Synchronises()] * (execution == "eager")).eval()

    record = device({"name": "torch-cuda", **QUICK}).measure(subnet, SHAPE)

    assert record.clock == "cuda-event"
    assert record.settings["execution"] == execution
    assert record.median_ms < 1.5 * np.median(record.wall_ms)


# -- the loop ----------------------------------------------------------------------------------


def test_runs_stop_when_time_and_least_number_are_reached_or_the_greatest_number_is():
    for settings, expected in (
        (Settings(warmup=3, min_runs=7, seconds=0), 7),
        (Settings(warmup=3, min_runs=1, max_runs=9, seconds=60), 9),
    ):
        calls = []

        runs = time_runs(lambda calls=calls: calls.append(None), settings, "wall")

        assert len(runs.samples_ms) == expected
        assert len(calls) == expected + settings.warmup


def test_a_run_may_bring_a_clock_of_its_own():
    runs = time_runs(lambda: 42.0, Settings(**QUICK), "cuda-event")

    assert set(runs.samples_ms) == {42.0}


def test_waiting_and_interruptions_are_disturbances():
    def disturbance(clock="thread-cpu", wall=2.0, switches=0, runs=100):
        return Runs(clock, (2.0,) * runs, (wall,) * runs, switches).disturbance

    assert disturbance() < 1
    assert disturbance(wall=2.3) > 1
    assert disturbance(switches=5) <= 1
    assert disturbance(switches=6) > 1
    assert disturbance(clock="wall", wall=9.9) < 1
    assert disturbance(wall=2.0, switches=1, runs=3) <= 1


def test_a_disturbed_measurement_is_repeated_and_the_least_disturbed_is_kept():
    settings, calls = Settings(warmup=0, min_runs=10, max_runs=10), []

    def waits_at_first():
        calls.append(None)
        if len(calls) <= 10:
            time.sleep(0.005)  # what a thread does that others hold up
        sum(range(5000))

    runs = time_alone(waits_at_first, settings, "thread-cpu")

    assert len(calls) in (20, 30)
    assert np.median(runs.wall_ms) < 5


def test_what_stays_disturbed_is_flagged_after_two_repeats():
    settings, calls = Settings(warmup=0, min_runs=5, max_runs=5), []

    def waits():
        calls.append(None)
        time.sleep(0.002)

    runs = time_alone(waits, settings, "thread-cpu")

    assert len(calls) == 15
    assert len(runs.samples_ms) == 5  # one attempt, not a mixture of them
    assert runs.disturbance > 1


def test_garbage_collection_rests_while_timing_and_comes_back():
    seen = []

    time_alone(lambda: seen.append(gc.isenabled()), Settings(**QUICK), "wall")
    with pytest.raises(ZeroDivisionError):
        time_alone(lambda: 1 // 0, Settings(**QUICK), "wall")

    assert set(seen) == {False}
    assert gc.isenabled()


# -- other processes ---------------------------------------------------------------------------

MEASURE = """
import sys, time
from nas.hardware.settings import Settings
from nas.hardware.timing import time_alone
times = []
print("ready", flush=True)
sys.stdin.readline()
time_alone(lambda: times.append(time.monotonic_ns()), Settings(max_runs=10**6, seconds=0.1), "wall")
print(times[0], times[-1])
"""
SPIN = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
end = time.monotonic() + 30
print("ready", flush=True)
while time.monotonic() < end:
    pass
"""


@contextmanager
def started(script, *arguments):
    """A process of its own that has said that it is ready."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def disjoint(intervals):
    ordered = sorted(intervals)
    return all(end < start for (_, end), (start, _) in pairwise(ordered))


def test_two_processes_never_measure_at_the_same_time():
    with started(MEASURE) as one, started(MEASURE) as other:
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        intervals = [tuple(map(int, process.stdout.readline().split())) for process in (one, other)]

    assert disjoint(intervals)


def test_two_threads_never_measure_at_the_same_time():
    def interval(_):
        times = []
        time_alone(lambda: times.append(time.monotonic_ns()), Settings(seconds=0.02), "wall")
        return times[0], times[-1]

    with ThreadPoolExecutor(4) as pool:
        intervals = list(pool.map(interval, range(4)))

    assert disjoint(intervals)


def test_the_lock_is_free_again_after_an_error():
    for _ in range(2):
        with pytest.raises(KeyError), alone_on_this_host():
            raise KeyError


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process to a core")
def test_load_on_the_same_core_is_flagged_and_hardly_changes_the_thread_clock():
    cores, subnet = os.sched_getaffinity(0), network(32)
    core = min(cores)
    chosen = device({"name": "onnxruntime-cpu", "min_runs": 100})
    os.sched_setaffinity(0, {core})
    try:
        alone = chosen.measure(subnet, SHAPE)
        with started(SPIN, str(core)):
            loaded = chosen.measure(subnet, SHAPE)
    finally:
        os.sched_setaffinity(0, cores)

    assert loaded.contended
    assert np.mean(loaded.wall_ms) > 1.3 * np.mean(loaded.samples_ms)
    assert loaded.median_ms < 1.5 * alone.median_ms


# -- the experiment file -----------------------------------------------------------------------


def test_a_section_without_a_name_is_the_default_device():
    chosen = device({"threads": 2})

    assert chosen.name == DEFAULT == "onnxruntime-cpu"
    assert chosen == DEVICES[DEFAULT](threads=2)


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_the_same_settings_and_its_own_name(name):
    assert [field.name for field in fields(DEVICES[name])] == [field.name for field in fields(Settings)]
    assert DEVICES[name].name == name


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"name": "onnxruntime"},
            r"device\.name 'onnxruntime' is not known; did you mean onnxruntime-cpu\? Allowed: ",
        ),
        ({"name": ["torch-cpu"]}, r"device\.name \['torch-cpu'\] is not known"),
        ({"thread": 1}, r"device\.thread is not known; did you mean threads\? Allowed: name, threads, batch"),
        ({"threads": 0}, r"device\.threads is 0; it must be a whole number, at least 1"),
        ({"threads": True}, r"device\.threads is True; "),
        ({"batch": 1.5}, r"device\.batch is 1\.5; "),
        ({"warmup": -1}, r"device\.warmup is -1; .* at least 0"),
        ({"min_runs": "many"}, r"device\.min_runs is 'many'; "),
        ({"min_runs": 500}, r"device\.max_runs is 400; it must be at least min_runs, 500"),
        ({"seconds": -1}, r"device\.seconds is -1; it must be a number of seconds"),
        ({"seconds": float("nan")}, r"device\.seconds is nan; "),
        ({"precision": "float23"}, r"device\.precision 'float23' is not known; did you mean float32\? "),
        ("torch-cpu", r"device is 'torch-cpu'; it must be a section with a name and settings"),
    ],
)
def test_a_wrong_section_says_what_is_allowed(section, message):
    with pytest.raises(ValueError, match=message) as error:
        device(section)

    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_here_says_why_and_how_to_get_it():
    with pytest.raises(ValueError, match=r"device\.name 'torch-cuda' cannot be used here: torch .*; .+"):
        device({"name": "torch-cuda"})


def test_knowing_the_devices_loads_no_runtime():
    script = "import sys, json, nas.hardware; print(json.dumps(sorted(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert not {"torch", "onnxruntime", "onnx", "ray"} & set(json.loads(done.stdout))
