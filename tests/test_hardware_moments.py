"""A record tells of the moments of a machine, not of the one moment in which it happened to be made."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import numpy as np
import pytest

from nas.hardware import device, usual
from nas.hardware.loaded import Loaded
from nas.hardware.rounds import BETWEEN, LEAST_ROUNDS, ROUNDS, TIMES, time_runs
from nas.hardware.runs import Runs
from nas.hardware.settings import Settings
from nas.hardware.timing import measure
from nas.storage.records import Latency, median_interval

SHAPE = (3, 8, 8)
QUICK = {"warmup": 0, "min_runs": 20, "max_runs": 40, "seconds": 0.01}
CHANGE = 0.0002  # seconds between two values of the simulated machine


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOSHIFT_CACHE", str(tmp_path / "cache"))


# -- moments that differ -----------------------------------------------------------------------


def machine(seconds: float, spread: float, memory: float, random: np.random.Generator) -> np.ndarray:
    """How slow a machine is at each time: 1 at the median, 90 % within `spread`, correlated over `memory` seconds."""
    step = np.exp(-CHANGE / memory)
    noise = random.standard_normal(round(seconds / CHANGE)) * np.sqrt(1 - step**2)
    values = np.empty(len(noise))
    last = random.standard_normal()
    for place, one in enumerate(noise):
        values[place] = last = step * last + one
    return np.exp(spread / 3.29 * values)


def record_of(
    slow: np.ndarray, rounds: int, runs: int, pause: float, random
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The times of runs of 1.5 ms there, in rounds with pauses between them."""
    samples, time = [], 0.0
    for _ in range(rounds):
        for _ in range(runs):
            samples.append(slow[int(time / CHANGE)] * (1 + 0.005 * random.standard_normal()))
            time += 0.0015
        time += pause
    return np.array(samples), (runs,) * rounds


@pytest.mark.parametrize("memory", [0.05, 0.15])
def test_the_interval_covers_the_median_of_a_machine_whose_moments_differ_by_7_percent(memory):
    random, covered, before, times = np.random.default_rng(0), 0, 0, 150
    for _ in range(times):
        slow = machine(1.2, 0.07, memory, random)

        low, high = median_interval(*record_of(slow, ROUNDS, 25, BETWEEN, random))
        covered += low <= 1 <= high
        low, high = median_interval(record_of(slow, 1, ROUNDS * 25, 0, random)[0])
        before += low <= 1 <= high

    assert covered / times >= 0.9
    assert before / times < 0.75  # of as many runs in one moment


def test_where_moments_do_not_differ_rounds_cost_little():
    random = np.random.default_rng(1)
    widths = []
    for _ in range(50):
        samples, rounds = record_of(np.ones(10_000), ROUNDS, 25, BETWEEN, random)
        widths.append(np.ptp(median_interval(samples, rounds)) / np.ptp(median_interval(samples)))

    assert min(widths) >= 1 and np.median(widths) < 3


def test_the_interval_of_moments_goes_from_the_lowest_to_the_highest():
    def interval(medians):
        samples = np.repeat(medians, 5)
        return median_interval(samples, (5,) * len(medians))

    assert interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]) == (1, 6)  # of six, 2 × 0.5⁶ = 3 % are beyond
    assert interval(np.arange(9.0)) == (0, 8)
    assert interval(np.arange(9.0)[::-1]) == (0, 8)


def test_one_round_and_rounds_without_runs_say_nothing_of_moments():
    samples = np.random.default_rng(2).gamma(20, size=60)

    assert median_interval(samples, (60,)) == median_interval(samples)
    assert median_interval(samples, (30, 0, 30)) == median_interval(samples, (30, 30))


def test_a_record_with_its_fields_in_another_order_has_the_same_interval():
    [record] = device(QUICK).measure_onnx([an_onnx_model()])

    stored = json.loads(record.to_json())
    again = Latency.from_json(json.dumps({name: stored[name] for name in sorted(stored, reverse=True)}))

    assert again == record and again.interval_ms == record.interval_ms
    assert sum(record.rounds) == len(record.samples_ms) and len(record.rounds) == ROUNDS


def an_onnx_model() -> tuple[bytes, tuple[int, ...]]:
    from nas.far import reference_model
    from nas.hardware.runtime import REFERENCE_SHAPE

    return reference_model(), REFERENCE_SHAPE


# -- rounds ------------------------------------------------------------------------------------


def test_every_round_has_its_part_of_the_runs():
    for least, most, rounds in ((20, 20, 8), (3, 400, 8), (1, 5, 8), (50, 50, 3)):
        settings = Settings(warmup=0, min_runs=least, max_runs=most, seconds=0)

        runs = time_runs(lambda: 1.0, settings, "cuda-event", rounds)

        assert sum(runs.rounds) == len(runs.samples_ms) == least
        assert len(runs.rounds) == min(rounds, most)
        assert max(runs.rounds) - min(runs.rounds) <= 1


def test_rounds_are_apart_and_begin_with_runs_that_do_not_count():
    calls = []

    def run():
        calls.append(time.perf_counter())
        return float(len(calls))

    runs = time_runs(run, Settings(warmup=8, min_runs=40, max_runs=40, seconds=0.08), "cuda-event")

    counted = np.split(np.array(runs.samples_ms).astype(int), np.cumsum(runs.rounds[:-1]))
    assert len(counted) == ROUNDS and counted[0][0] > 8
    for before, after in pairwise(counted):
        assert calls[after[0] - 1] - calls[before[-1] - 1] >= min(BETWEEN, TIMES * 0.08 / ROUNDS)
        assert (np.diff(before) == 1).all() and after[0] > before[-1] + 1


# -- what is flagged ---------------------------------------------------------------------------


def test_a_median_that_is_known_badly_is_flagged_but_not_measured_again():
    def runs(slow):
        samples = (1.0,) * 40 + (slow,) * 10 + (1.0,) * 30
        return Runs("wall", samples, samples, 0, rounds=(10,) * 8)

    assert runs(1.04).troubles == ()
    assert runs(1.08).troubles == ("unsure: the median is known to ± 8%, from moments that differ",)
    assert runs(1.08).disturbance <= 1


def record_with(reference_ms: float, version: str = "1") -> Latency:
    """On a machine whose reference network takes so long, before and after."""
    network, reference = (
        Loaded(lambda ms=ms: ms, lambda: np.empty(0), "cuda-event", {"runtime": version})
        for ms in (2.0, reference_ms)
    )
    return measure(device(QUICK), [(network, SHAPE)], reference)[0]


@pytest.mark.parametrize(("reference_ms", "word"), [(1.08, "8% more"), (0.92, "9% less")])
def test_a_moment_that_is_odd_as_a_whole_is_flagged_by_others(reference_ms, word, monkeypatch):
    monkeypatch.setattr(usual, "APART", 0)
    said = f"unusual: the reference network took {word} than usual on this machine"

    assert said not in record_with(reference_ms).disturbed_by  # nothing else is known
    for _ in range(5):
        record_with(1.0)
    assert said not in record_with(1.0).disturbed_by + record_with(1.02).disturbed_by
    odd = record_with(reference_ms)
    assert said in odd.disturbed_by and odd.contended
    assert said not in record_with(reference_ms, version="2").disturbed_by


def test_what_lasts_becomes_usual_and_one_search_does_not(monkeypatch):
    monkeypatch.setattr(usual, "KEPT", 50)
    of, clock = {"device": "x", "precision": "float32", "threads": 1}, [0.0]
    monkeypatch.setattr(usual, "time", lambda: clock[0])

    def told(reference_ms: float, times: int, apart: float) -> float:
        for _ in range(times):
            clock[0] += apart
            found = usual.usual_ms(of, reference_ms)
        return found

    assert told(1.0, times=5, apart=3600) == 1.0
    assert told(1.2, times=50, apart=0.5) == 1.0  # half a minute of a slow moment
    assert told(1.2, times=5, apart=3600) == 1.2
    assert told(0.8, times=2 * usual.KEPT, apart=usual.APART) == 0.8
    assert len(json.loads(usual.file_of(of).read_text())["moments"]) == usual.KEPT


def test_a_damaged_file_of_moments_is_an_error_that_names_it():
    record_with(1.0)
    (path,) = usual.cache("moments").iterdir()
    for text in ("{", "{}", "[]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{path.name} is damaged \(.*\); remove it"):
            record_with(1.0)


def test_a_cache_that_cannot_be_written_stops_no_measurement(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PARETOSHIFT_CACHE", str(tmp_path / "file"))

    assert record_with(1.0).median_ms == 2.0


def test_as_many_rounds_as_an_interval_needs_are_made():
    assert 2 * 0.5**LEAST_ROUNDS <= 0.05 < 2 * 0.5 ** (LEAST_ROUNDS - 1)
    assert ROUNDS >= LEAST_ROUNDS
