"""The page of a run's latencies shows how certain they are, what disturbed them, and how the machine drifted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dashboard import hardware_figures as figures
from dashboard.app import create_app, page
from dashboard.reader import Reader
from dashboard.timings import by_conditions, timing, troubles
from nas.storage.store import Store
from tests.test_dashboard import LIMITED, RUN, TIMED, callback, candidate, texts

STEADY = replace(TIMED, contended=False, samples_ms=(1.0, 1.0, 1.01, 1.0), reference_ms=(0.10, 0.101))
SHAKEN = replace(
    TIMED,
    samples_ms=(2.0, 2.2, 2.4, 2.2),
    reference_ms=(0.10, 0.12),
    disturbed_by=(
        "drifted: the reference network took 20% more in the second half",
        "unsteady: the median is 8% above",
    ),
)
INTERRUPTED = replace(TIMED, disturbed_by=("interrupted 48 times in 400 runs",))
KEPT = [
    replace(candidate(key, 80, record.median_ms), latencies={"latency_ms": record})
    for key, record in zip("abc", (SHAKEN, STEADY, INTERRUPTED), strict=True)
]
TIMINGS = [timing(replace(one, number=number), "latency_ms") for number, one in enumerate(KEPT, 1)]


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        store.add_run(LIMITED)
        yield store


@pytest.fixture
def timed(store):
    for one in KEPT:
        store.add_candidate(RUN.name, one)
    store.add_candidate(RUN.name, candidate("d", 70, 1.0))  # without a record
    return store


def test_every_latency_is_drawn_with_its_interval_the_disturbed_in_another_colour():
    band, points = figures.certainty(TIMINGS).data

    rising = [STEADY, INTERRUPTED, SHAKEN]
    assert list(points.y) == [one.median_ms for one in rising]
    ends = np.array([one.interval_ms for one in rising])
    np.testing.assert_allclose(points.y + points.error_y.array, ends[:, 1])
    np.testing.assert_allclose(points.y - points.error_y.arrayminus, ends[:, 0])
    assert points.marker.color == (figures.FRONT, figures.INFEASIBLE, figures.INFEASIBLE)
    assert "interrupted 48 times" in points.text[1]
    highest = [np.percentile(one.samples_ms, 90) for one in rising]
    np.testing.assert_allclose(band.y[:3], highest)


def test_drift_is_what_the_reference_network_took_above_its_fastest():
    first, second = figures.drift(TIMINGS).data

    assert [one.name for one in (first, second)] == [
        f"{half} half of the measurement" for half in ("first", "second")
    ]
    assert list(first.x) == list(second.x) == [1, 2]  # the third has none
    np.testing.assert_allclose(first.y, [0, 0], atol=1e-9)
    np.testing.assert_allclose(second.y, [20, 1])


def test_records_of_an_earlier_version_have_no_drift_and_say_so():
    figure = figures.drift([timing(replace(KEPT[0], latencies={"latency_ms": TIMED}), "latency_ms")])

    assert not figure.data
    assert figure.layout.annotations[0].text == "no reference network was timed"


def test_troubles_are_counted_by_their_kind():
    assert troubles(TIMINGS) == [("drifted", 1), ("unsteady", 1), ("interrupted", 1)]
    unreasoned = replace(KEPT[0], latencies={"latency_ms": TIMED})  # flagged before reasons were kept
    [unnamed] = timing(unreasoned, "latency_ms").troubles
    assert "no reason" in unnamed


def test_only_what_was_measured_alike_is_one_group():
    other = replace(KEPT[0], latencies={"latency_ms": replace(STEADY, processor="another processor")})
    elsewhere = timing(other, "latency_ms")

    assert [len(some) for some in by_conditions([*TIMINGS, elsewhere]).values()] == [3, 1]


def test_the_page_says_how_certain_the_latencies_are(timed):
    component, title = page(Reader(timed), f"/run/{RUN.name}/hardware")

    assert title == "digits hardware · ParetoShift"
    shown = texts(component)
    for text in ("3 candidates", "2 of 3 were disturbed", "a processor", "onnxruntime 1.31.1", "thread-cpu"):
        assert text in shown
    assert "different conditions" not in shown


def test_latencies_of_two_machines_are_not_shown_as_if_they_were_of_one(timed):
    other = replace(
        candidate("e", 70, 1.0), latencies={"latency_ms": replace(STEADY, processor="another processor")}
    )
    timed.add_candidate(RUN.name, other)

    shown = texts(page(Reader(timed), f"/run/{RUN.name}/hardware")[0])

    assert "different conditions" in shown and "another processor" in shown


def test_a_run_without_latencies_has_the_page_too(store):
    assert "No latency has been measured yet" in texts(page(Reader(store), f"/run/{RUN.name}/hardware")[0])


def test_the_page_is_drawn_again_only_when_something_was_measured(timed):
    refresh = callback(create_app(timed), "hardware-panels")
    run = timed.run(RUN.name)
    seen = [f"{run.status} {run.updated}", 3, ""]

    same = refresh(1, RUN.name, [], seen)
    timed.add_candidate(RUN.name, replace(candidate("e", 70, 1.0), latencies={"latency_ms": STEADY}))
    grown = refresh(2, RUN.name, [], seen)

    assert len({id(one) for one in same}) == 1
    assert "4 candidates" in texts(grown[0]) and grown[2][1:] == [5, ""]


def test_only_new_records_are_read(timed):
    reader = Reader(timed)
    before = reader.timings(RUN)
    timed.add_candidate(RUN.name, replace(candidate("e", 70, 1.0), latencies={"latency_ms": STEADY}))

    after = reader.timings(RUN)

    assert [one.key for one in after] == ["a", "b", "c", "e"]
    assert all(old is same for old, same in zip(before, after[:3], strict=True))
