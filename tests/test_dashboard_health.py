"""The page of a supernet's health shows what its trials tell, says what is missing, and draws only what is new."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from dashboard import health_figures as figures
from dashboard import routes
from dashboard.app import create_app, page
from dashboard.reader import Reader
from nas import health_reports
from nas.health_table import Source, Table
from nas.health_view import verdict
from nas.ranking import health_of
from nas.storage.store import Store
from tests.test_dashboard import RUN, callback, texts
from tests.trials import SAMPLED, noisy, trials_of

TRIALS = [SAMPLED, *noisy(32, noise=0.3)]
HEALTH = health_of(TRIALS)
NONE = health_of([])


def against_table(trials, **read):
    """The report on them against a table of as many errors as there are architectures."""
    keys = list(dict.fromkeys(one.key for one in trials if one.key))
    columns = ("seed0", "seed1")
    source = Source("tables/planted.csv", columns, True, len(keys), len(keys), 0, 0, "")
    errors = {key: (-99.0 + place, -98.5 + place) for place, key in enumerate(keys)}
    return health_of(trials, Table(replace(source, **read), (), errors))


AGAINST = against_table(TRIALS)


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        store.add_run(replace(RUN, folder=str(tmp_path / "run")))
        yield store


@pytest.fixture
def examined(store):
    for one in TRIALS:
        store.add_trial(RUN.name, one)
    return store


def why_empty(figure):
    assert not figure.data
    return figure.layout.annotations[0].text


# -- figures -----------------------------------------------------------------------------------


def test_every_architecture_is_a_point_in_the_colour_of_its_bin():
    traces = figures.agreement(HEALTH).data

    assert [len(trace.x) for trace in traces] == [8, 8, 8, 8]
    assert len({trace.marker.color for trace in traces}) == 4
    drawn = {
        key: (x, y) for trace in traces for key, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    assert drawn == {one.key: (one.inherited, one.alone) for one in HEALTH.compared}
    assert "alone: " in traces[0].text[0] and "(mean of 2)" in traces[0].text[0]


def test_the_line_of_equality_is_drawn_as_far_as_it_is_within_what_is_shown():
    near = figures.agreement(health_of(trials_of(70 + np.arange(8.0), 71 + np.arange(8.0))))
    far = figures.agreement(health_of(trials_of(30 + np.arange(8.0), 80 + np.arange(8.0))))

    [line] = near.layout.shapes
    assert (line.x0, line.x1) == (line.y0, line.y1) == (71, 77)
    assert not far.layout.shapes
    assert [note.text for note in far.layout.annotations] == ["equal accuracies lie below"]


def test_biases_are_bars_with_intervals_blue_where_they_are_shown():
    health = health_of(trials_of(np.arange(32.0)[::-1], np.arange(32.0)))

    [bars] = figures.bin_bias(health).data

    assert list(bars.x) == [one.difference.value for one in health.bins]
    assert bars.x[0] < 0 < bars.x[-1]
    assert bars.marker.color[0] == bars.marker.color[-1] == figures.FRONT
    np.testing.assert_allclose(bars.x + bars.error_x.array, [one.difference.high for one in health.bins])
    np.testing.assert_allclose(bars.x - bars.error_x.arrayminus, [one.difference.low for one in health.bins])


def test_operators_are_listed_the_most_underestimated_above_and_without_bars_where_there_is_no_interval():
    health = health_of(noisy(5, noise=1))

    [bars] = figures.usage_bias(health).data

    assert list(bars.y) == [one.name for one in health.usages][::-1]  # drawn from below
    missing = [one.difference.low is None for one in health.usages][::-1]
    assert [math.isnan(length) for length in bars.error_x.array] == missing and any(missing)


def test_sampled_costs_are_shares_as_wide_as_their_bins():
    figure = figures.sampled(HEALTH)

    [bars] = figure.data
    assert (list(bars.x), list(bars.width), list(bars.y)) == ([1.5e6, 2.5e6], [1e6, 1e6], [75, 25])
    assert figure.layout.shapes[0].y0 == 50


def test_accuracy_is_drawn_over_cost_with_and_without_recalibration():
    traces = {trace.name: trace for trace in figures.accuracy_over_cost(HEALTH).data}

    own, shared = traces["inherited"], traces["inherited, one set of statistics for all"]
    np.testing.assert_allclose(np.subtract(own.y, shared.y), 5)
    assert own.customdata == traces["alone"].customdata


@pytest.mark.parametrize(
    ("draw", "why"),
    [
        (figures.agreement, "nothing was measured both ways yet"),
        (figures.bin_bias, "cost bins need 16 architectures"),
        (figures.usage_bias, "nothing was measured both ways yet"),
        (figures.sampled, "the training did not record what it sampled"),
        (figures.accuracy_over_cost, "nothing was measured both ways yet"),
    ],
)
def test_a_figure_of_nothing_says_why(draw, why):
    assert why_empty(draw(NONE)) == why


def test_architectures_of_unknown_cost_are_drawn_in_a_group_of_their_own():
    trials = [replace(one, values={"accuracy": one.values["accuracy"]}) for one in noisy(6, noise=1)]

    [trace] = figures.agreement(health_of(trials)).data

    assert (trace.name, len(trace.x)) == ("not known", 6)


def test_a_table_is_drawn_in_its_own_unit():
    """So there is no line of equality, and nothing of it stands among accuracies."""
    traces = figures.agreement(AGAINST).data
    ways = [trace.name for trace in figures.accuracy_over_cost(AGAINST).data]

    drawn = {key: y for trace in traces for key, y in zip(trace.customdata, trace.y, strict=True)}
    assert drawn == {one.key: one.alone for one in AGAINST.compared} and min(drawn.values()) < -70
    assert not figures.agreement(AGAINST).layout.shapes
    assert figures.agreement(AGAINST).layout.yaxis.title.text == "seed0, seed1 of planted.csv, with a minus"
    assert ways == ["inherited", "inherited, one set of statistics for all"]


def test_more_points_than_a_browser_draws_one_by_one_are_drawn_by_webgl():
    many = replace(AGAINST, compared=AGAINST.compared * 100)

    assert {trace.type for trace in figures.agreement(many).data} == {"scattergl"}
    assert {trace.type for trace in figures.accuracy_over_cost(many).data} == {"scattergl"}


def parts_here(component):
    """The tabs that are marked as the one that is shown."""
    tabs = [one for one in component._traverse() if getattr(one, "className", "") == "run-tab here"]
    return [one.children for one in tabs]


# -- the page ----------------------------------------------------------------------------------


def test_the_page_has_an_address_a_title_and_a_tab_on_the_run_s_other_pages(examined):
    shown, title = page(Reader(examined), routes.health(RUN.name))
    others = [
        texts(page(Reader(examined), address)[0]) for address in ("/run/digits", "/run/digits/training")
    ]

    assert routes.parts(routes.health("a run/with slashes?")) == ("run", "a run/with slashes?", "health")
    assert title == "digits health · ParetoShift"
    assert parts_here(shown) == ["health"]
    assert all("/run/digits/health" in text for text in others)


def test_the_page_begins_with_the_answer_and_has_all_numbers(examined):
    shown = texts(page(Reader(examined), routes.health(RUN.name))[0])

    said = verdict(HEALTH)
    for text in (
        said.word,
        said.why,
        f"What to do: {said.next}.",
        "baseline: MACs",
        "ceiling: one seed against another",
        "Rank bias by operator",
    ):
        assert json.dumps(text, ensure_ascii=False)[1:-1] in shown, text


def test_a_run_that_nobody_examined_says_which_command_does(store):
    shown = texts(page(Reader(store), routes.health(RUN.name))[0])

    assert f"nas health digits --store {store.url}" in shown


def test_reports_against_tables_are_shown_like_that_on_trainings_alone(examined):
    run = examined.run(RUN.name)
    before = texts(page(Reader(examined), routes.health(RUN.name))[0])
    health_reports.keep(run, AGAINST)
    [name] = health_reports.names(run)

    own, against = (
        texts(page(Reader(examined), routes.health(RUN.name, report))[0]) for report in ("", name)
    )

    assert "health-choice" not in before
    for shown in (own, against):
        assert "trainings alone" in shown and "seed0, seed1 of planted.csv, with a minus" in shown
        assert json.dumps(routes.health(RUN.name, name)) in shown
    assert verdict(HEALTH).why in own and verdict(HEALTH).why not in against
    assert verdict(AGAINST).why in against and "Against the table: 1 is the same order" in against


def test_without_trainings_alone_the_page_begins_with_the_latest_table(store):
    for one in TRIALS:
        if one.kind != "alone":
            store.add_trial(RUN.name, one)
    run, later = store.run(RUN.name), against_table(TRIALS[:40], file="later.csv")
    health_reports.keep(run, AGAINST)
    kept = health_reports.keep(run, later)
    os.utime(kept, ns=(time.time_ns(), time.time_ns() + 10**9))

    shown = texts(page(Reader(store), routes.health(RUN.name))[0])

    assert verdict(later).why in shown and "trainings alone" not in shown


def test_a_damaged_report_is_said_to_be_and_hides_no_other(examined):
    run = examined.run(RUN.name)
    kept = health_reports.keep(run, AGAINST)
    kept.write_text('{"table": {}}', encoding="utf-8")

    own, damaged, missing = (
        texts(page(Reader(examined), routes.health(RUN.name, name))[0]) for name in ("", kept.stem, "no")
    )

    assert verdict(HEALTH).why in own and kept.stem in own
    assert "is damaged, or of another version" in damaged and "nas health with --table again" in damaged
    assert "no report of digits is called no" in missing and "trainings alone" in missing


def test_it_is_drawn_again_only_when_there_are_new_trials(examined):
    refresh = callback(create_app(examined), "health-panels")
    seen = [
        f"{examined.run(RUN.name).status} {examined.run(RUN.name).updated}",
        len(TRIALS),
        TRIALS[-1].created,
        "",
    ]

    same = refresh(1, RUN.name, [""], seen)
    examined.update_run(RUN.name, status="finished")
    ended = refresh(2, RUN.name, [""], seen)
    examined.add_trial(RUN.name, replace(TRIALS[1], key="new"))
    grown = refresh(3, RUN.name, [""], ended[2])

    assert len({id(one) for one in same}) == 1  # nothing but no_update
    assert ended[0] is same[0] and "finished" in texts(ended[1])
    assert "1 architecture not yet trained alone." in texts(grown[0])
