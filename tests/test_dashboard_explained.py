"""Where the time goes: figures keep the identities of efficiency analysis, and pages say how to get what they lack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dashboard import explained_figures as figures
from dashboard.app import page
from dashboard.reader import Reader
from dashboard.words import quantity
from nas import explanations
from nas.efficiency import gap, timed
from nas.hardware.peaks import place_of
from nas.storage.store import Store
from tests.test_dashboard import RUN, candidate, texts
from tests.test_explain import PEAKS, as_if, inverted_bottleneck, record

FOUND = as_if(inverted_bottleneck(), {"Conv": 0.05, "Gemm": 0.01})
ALIKE = record([], 2.0)
HERE = replace(PEAKS, of=place_of(ALIKE), operations_per_ms=1e6)
A, B = (
    replace(candidate(key, accuracy, ms), latencies={"latency_ms": record([], ms)})
    for key, accuracy, ms in (("a", 80, 4.0), ("b", 70, 2.5))
)


def gaps_of(*candidates):
    return [gap(timed(one, one.latencies["latency_ms"]), [HERE]) for one in candidates]


@pytest.fixture
def run(tmp_path):
    return replace(RUN, folder=str(tmp_path / "digits"))


@pytest.fixture
def store(tmp_path, run):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        store.add_run(run)
        for one in (A, B):
            store.add_candidate(run.name, one)
        yield store


# -- the waterline -----------------------------------------------------------------------------


def test_the_area_of_the_bars_is_the_operations_of_the_network():
    """methods 5.4, 1."""
    above, below, *_ = figures.waterline(FOUND).data

    areas = [np.dot(trace.width, trace.y) for trace in (above, below)]
    assert sum(areas) == pytest.approx(2 * FOUND.macs)


def test_bars_follow_each_other_without_gaps_and_are_as_wide_as_all_bytes_together():
    bars = [
        bar for trace in figures.waterline(FOUND).data[:2] for bar in zip(trace.x, trace.width, strict=True)
    ]
    starts, ends = (np.sort([x + side * width / 2 for x, width in bars]) for side in (-1, 1))

    assert starts[0] == 0 and ends[-1] == sum(step.bytes for step in FOUND.steps)
    np.testing.assert_allclose(starts[1:], ends[:-1])


def test_bars_are_above_or_below_the_waterline_and_what_is_lost_reaches_up_to_it():
    figure = figures.waterline(FOUND)
    above, below, lost, line = figure.data
    ridge = FOUND.peaks.ridge(FOUND.footprint)

    assert line.y == (ridge, ridge) and f"{ridge:.3g} operations per byte" in line.name
    assert len(above.y) and len(below.y)
    assert min(above.y) >= ridge > max(below.y)
    np.testing.assert_allclose(np.add(lost.base, lost.y), ridge)
    assert lost.x == below.x and lost.base == below.y


def test_a_step_below_the_waterline_wastes_by_the_model_and_one_above_does_not():
    ridge = FOUND.peaks.ridge(FOUND.footprint)

    for step in FOUND.steps:
        assert (step.model_ms > 1e-12) is (step.bytes > 0 and step.intensity < ridge)


# -- where the time goes -----------------------------------------------------------------------


def test_the_parts_of_each_step_add_up_to_its_time_and_none_is_below_zero():
    fast = replace(FOUND, steps=tuple(replace(step, milliseconds=1e-6) for step in FOUND.steps))
    for found in (FOUND, fast):
        figure = figures.blocks(found, {})
        heights = np.array([trace.y for trace in figure.data])

        assert (heights >= 0).all()
        np.testing.assert_allclose(heights.sum(axis=0), [step.milliseconds for step in found.steps])
        assert len(set(figure.data[0].x)) == len(found.steps)


def test_the_parts_of_each_candidate_add_up_to_its_latency_the_fastest_first():
    slower = replace(as_if(inverted_bottleneck(), {"Conv": 0.2}), name="slower")
    figure = figures.candidates([slower, replace(FOUND, name="fast")])

    assert figure.data[0].x == ("fast", "slower")
    total = np.sum([trace.y for trace in figure.data], axis=0)
    np.testing.assert_allclose(total, [FOUND.measured_ms, slower.measured_ms])


def test_a_block_carries_the_name_of_its_operator():
    one = replace(FOUND.steps[0], nodes=("block0_expand",))
    found = replace(FOUND, steps=(one,))

    assert figures.blocks(found, {"block0": "max pool"}).data[0].x == ("block0<br>max pool",)


# -- the efficiency gap ------------------------------------------------------------------------


def test_what_joins_both_times_of_a_candidate_is_as_long_as_its_efficiency_says():
    gaps = gaps_of(A, B)
    joins, ideal, measured = figures.gap(gaps, {"a": A, "b": B}, quantity(RUN, "accuracy"), {"a"}).data

    assert ideal.customdata == measured.customdata == ("a", "b") and measured.y == (80, 70)
    lengths = np.log10(measured.x) - np.log10(ideal.x)
    np.testing.assert_allclose(lengths, [-np.log10(one.efficiency) for one in gaps])
    np.testing.assert_allclose(ideal.x, [2 * one.values["macs"] / HERE.operations_per_ms for one in (A, B)])
    assert joins.x[:2] == (ideal.x[0], measured.x[0]) and joins.x[2] is None
    assert measured.marker.color == (figures.FRONT, figures.DOMINATED)
    for words in ("measured", "counted", "% of the peak"):
        assert words in measured.text[0]


def test_measured_times_carry_their_interval():
    shaken = replace(A, latencies={"latency_ms": replace(ALIKE, samples_ms=(2.0, 2.2, 2.4, 2.2))})
    *_, measured = figures.gap(gaps_of(shaken), {"a": shaken}, quantity(RUN, "accuracy"), set()).data

    low, high = shaken.latencies["latency_ms"].interval_ms
    assert measured.x[0] + measured.error_x.array[0] == pytest.approx(high)
    assert measured.x[0] - measured.error_x.arrayminus[0] == pytest.approx(low)


# -- the pages ---------------------------------------------------------------------------------


def test_without_an_explanation_pages_say_how_to_get_one(store, run):
    reader = Reader(store)
    shown = texts(page(reader, f"/run/{run.name}/candidate/a")[0])
    hardware = texts(page(reader, f"/run/{run.name}/hardware")[0])

    assert f"nas explain {run.name} --candidate a --store {store.url}" in shown
    assert hardware.count(f"nas explain {run.name} --store {store.url}") == 4  # shown and to be copied, twice
    assert "Waterline" not in shown and "the counted operations" not in hardware


def test_a_candidate_that_was_taken_apart_shows_where_its_time_goes(store, run):
    explanations.keep(run, replace(FOUND, name="a"))
    shown = texts(page(Reader(store), f"/run/{run.name}/candidate/a")[0])

    for text in (
        "Waterline",
        "wastes the most",
        "operations at the machine's peak",
        "measured, by the profile",
    ):
        assert text in shown
    assert "nas explain" not in shown


def test_peaks_of_elsewhere_are_not_held_against_the_latencies(store, run):
    explanations.keep_peaks(
        run, replace(HERE, of={**HERE.of, "precision": "float32", "processor": "another"})
    )
    elsewhere = texts(page(Reader(store), f"/run/{run.name}/hardware")[0])
    explanations.keep_peaks(run, HERE)
    here = texts(page(Reader(store), f"/run/{run.name}/hardware")[0])

    assert "are of another machine, version or setting" in elsewhere
    assert "2 candidates of 2" in here and "the counted operations" in here


def test_a_damaged_file_is_said_on_the_page_and_does_not_hide_the_rest(store, run):
    explanations.keep(run, replace(FOUND, name="a"))
    explanations.keep_peaks(run, HERE)
    for path in explanations.folder_of(run).rglob("*.json"):
        path.write_text("{", encoding="utf-8")

    for address in ("candidate/a", "hardware"):
        shown = texts(page(Reader(store), f"/run/{run.name}/{address}")[0])
        assert "is damaged" in shown and "explain again" in shown and "Latenc" in shown


def test_the_page_of_latencies_is_drawn_again_when_something_was_explained(store, run):
    from dashboard.pages import hardware

    reader = Reader(store)
    before = hardware._signs(reader, run)
    explanations.keep(run, replace(FOUND, name="a"))

    assert hardware._signs(reader, run) != before
