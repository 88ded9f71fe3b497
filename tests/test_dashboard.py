"""The dashboard shows what the store holds, with units, and draws again only what has changed."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
from plotly.utils import PlotlyJSONEncoder

from dashboard import figures, routes, tables, words
from dashboard.app import create_app, page, serve
from dashboard.pages import front, parts, runs, training
from dashboard.reader import Reader
from dashboard.standing import on_device, standing
from dashboard.words import quantity
from nas.report import front_as_json
from nas.storage.records import Candidate, Constraint, Export, Latency, Objective, Run, TrainingPoint
from nas.storage.store import Store
from search_spaces import Choice, read_skeleton, unroll
from supernets.attention import ATTENTIONS
from supernets.operators import OPERATORS

SKELETON = {
    "stages": [{"width": [8, 16], "depth": [1, 2], "stride": 2}],
    "operators": ["depthwise", {"mixed": {"kernels": [3, 5]}}],
    "expansion": [1, 4],
    "attention": ["none", "se"],
}
SPACE = unroll(read_skeleton(SKELETON), OPERATORS, ATTENTIONS, (1, 28, 28), 10)
ACCURACY = Objective("accuracy", "accuracy", "%", "maximize")
LATENCY = Objective("latency", "latency_ms", "ms", "minimize")
RUN = Run(
    "digits",
    experiment='{"seed": 0}',
    space=SPACE.to_json(),
    objectives=(ACCURACY, LATENCY),
    constraints=(),
    folder="runs/digits",
    status="searching",
)
LIMITED = replace(RUN, constraints=(Constraint("latency_ms", max=2.5),))
TIMED = Latency(
    device="onnxruntime-cpu",
    settings={"threads": 1, "batch": 1},
    input_shape=(1, 28, 28),
    clock="thread-cpu",
    samples_ms=(1.0, 1.1, 1.2, 1.1, 1.0, 1.1),
    wall_ms=(1.1, 1.2, 1.3, 1.2, 1.1, 90.0),
    versions={"onnxruntime": "1.31.1"},
    processor="a processor",
    load=0.5,
    involuntary_switches=3,
    contended=True,
)
POINTS = [
    TrainingPoint(
        10, {"loss": 2.3, "probability/0": 0.5, "probability/1": 0.5, "edge/0": 1e6, "edge/1": 2e6}
    ),
    TrainingPoint(
        20, {"loss": math.nan, "probability/0": 0.7, "probability/1": 0.3, "edge/0": 1e6, "edge/1": 2e6}
    ),
]


def candidate(key, accuracy, latency, **fields):
    values = {"accuracy": accuracy, "latency_ms": latency, "macs": 1e6 * latency}
    architecture = SPACE.sample(Random(key)).to_json()
    return Candidate(key, architecture, **{"values": values, **fields})


A, B, C = candidate("a", 80, 3.0), candidate("b", 70, 1.0), candidate("c", 60, 2.0)
FAILED = candidate("f", 0, 0, values={}, error="Traceback\nRuntimeError: out of memory")


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path}/nas.db") as store:
        yield store


@pytest.fixture
def digits(store):
    """A store with one run, of everything something."""
    store.add_run(LIMITED)
    for one in (
        A,
        replace(B, latencies={"latency_ms": TIMED}, intervals={"latency_ms": (0.9, 1.1)}),
        C,
        FAILED,
    ):
        store.add_candidate("digits", one)
    store.add_training_points("digits", POINTS)
    store.add_export("digits", Export("b", "exports/b", True, 1e-6, 1.0, 69.5, "{}"))
    return store


def drawn(run, candidates, x="latency_ms", y="accuracy"):
    """The figure of a front, and its traces by name."""
    figure = figures.front(run, standing(run, candidates), quantity(run, x), quantity(run, y))
    return figure, {trace.name: trace for trace in figure.data}


def texts(component):
    return json.dumps(component, cls=PlotlyJSONEncoder, ensure_ascii=False)


# -- the front figure --------------------------------------------------------------------------


def test_the_front_is_drawn_left_to_right_and_the_dominated_apart():
    _, traces = drawn(RUN, [A, B, C])

    assert traces["front"].customdata == ("b", "a")
    assert traces["dominated"].customdata == ("c",)
    assert traces["dominated"].marker.opacity < 0.5


def test_axes_are_titled_with_units():
    figure, _ = drawn(RUN, [A])

    assert figure.layout.xaxis.title.text == "latency (ms)"
    assert figure.layout.yaxis.title.text == "accuracy (%)"


def test_the_edge_of_the_front_is_a_staircase_of_what_is_attainable():
    _, traces = drawn(RUN, [A, B, C])
    _, mirrored = drawn(RUN, [A, B, C], x="accuracy", y="latency_ms")

    assert (tuple(traces["edge of the front"].x), traces["edge of the front"].line.shape) == ((1, 3), "hv")
    assert mirrored["edge of the front"].line.shape == "vh"


def test_the_infeasible_are_crossed_and_the_limit_is_drawn():
    figure, traces = drawn(LIMITED, [A, B, C])

    assert traces["infeasible"].customdata == ("a",)
    assert traces["infeasible"].marker.symbol == "x"
    assert figure.layout.shapes[0].x0 == 2.5
    assert [note.text for note in figure.layout.annotations] == ["≤ 2.5 ms"]


def test_a_limit_far_from_everything_does_not_squeeze_the_rest():
    figure, _ = drawn(replace(RUN, constraints=(Constraint("latency_ms", max=900.0),)), [A, B, C])

    assert not figure.layout.shapes
    assert [note.text for note in figure.layout.annotations] == ["limit ≤ 900 ms →"]


def test_uncertain_values_have_bars_from_end_to_end():
    _, traces = drawn(RUN, [replace(A, intervals={"latency_ms": (2.5, 4.0)})])

    bar = traces["front"].error_x
    assert (bar.arrayminus[0], bar.array[0]) == (0.5, 1.0)
    assert traces["front"].error_y.array is None


def uncertain(key, accuracy, latency_ms, length):
    """A candidate whose accuracy is the middle of an interval."""
    ends = (accuracy - length / 2, accuracy + length / 2)
    return replace(candidate(key, accuracy, latency_ms), intervals={"accuracy": ends})


def test_of_the_dominated_no_intervals_are_drawn():
    several = [uncertain("a", 80, 3.0, 4), uncertain("b", 70, 1.0, 4), uncertain("c", 60, 2.0, 4)]

    figure, traces = drawn(RUN, several)

    low, high = figure.layout.yaxis.range
    assert list(traces["front"].error_y.array) == [2, 2] and traces["dominated"].error_y.array is None
    assert low < 60 and high > 82 and high - low < 30


def test_intervals_wider_than_the_points_are_apart_do_not_hide_these():
    several = [uncertain("a", 80, 3.0, 40), uncertain("b", 79, 1.0, 40), uncertain("c", 78, 2.0, 40)]
    accuracy, latency = quantity(RUN, "accuracy"), quantity(RUN, "latency_ms")

    figure, traces = drawn(RUN, several)

    low, high = figure.layout.yaxis.range
    assert traces["front"].error_y.array is None and low < 78 and high > 80 and high - low < 3
    assert figures.too_wide(standing(RUN, several), latency, accuracy) == [accuracy]
    assert figures.too_wide(standing(RUN, several[:1]), latency, accuracy) == []  # nothing to be hidden


def test_a_value_that_is_no_number_spoils_no_axis():
    broken = candidate("n", math.nan, 2.0)

    figure, _ = drawn(RUN, [A, B, broken])

    assert all(math.isfinite(end) for end in figure.layout.yaxis.range)
    assert drawn(RUN, [broken])[0].layout.yaxis.range is None


def test_the_intervals_of_a_point_are_drawn_while_it_is_pointed_at():
    dominated = uncertain("c", 60, 2.0, 40)
    latency, accuracy = quantity(RUN, "latency_ms"), quantity(RUN, "accuracy")

    shown, nothing = (figures.pointed_at(one, latency, accuracy) for one in (dominated, None))
    pointer = drawn(RUN, [A, B, dominated])[0].data[0]

    assert (shown["x"], shown["y"], shown["error_x"]) == ([2.0], [60], None)
    assert (shown["error_y"]["arrayminus"], shown["error_y"]["array"]) == ([20], [20])
    assert nothing == {"x": [], "y": [], "error_x": None, "error_y": None}
    assert pointer.name == "pointed at" and not len(pointer.x) and pointer.hoverinfo == "skip"


def test_the_knee_is_ringed():
    bend = candidate("k", 79, 1.2)

    _, traces = drawn(RUN, [A, B, bend])

    assert traces["knee"].customdata == ("k",)


def test_hovering_tells_values_with_units_and_the_architecture():
    _, traces = drawn(RUN, [replace(B, intervals={"latency_ms": (0.9, 1.1)})])

    text = traces["front"].text[0]
    assert "accuracy: 70.00 %, measured on validation images" in text
    assert "latency: 1 ms (95 %: 0.9000 to 1.100 ms), measured" in text
    assert "MACs: 1.00 M, counted" in text
    assert "28 px" in text and "channels: " in text


def test_any_value_can_be_an_axis_and_who_lacks_it_is_left_out():
    less = candidate("d", 90, 4.0, values={"accuracy": 90.0, "latency_ms": 4.0})

    _, traces = drawn(RUN, [A, B, less], x="macs")

    assert set(traces["front"].customdata) == {"a", "b"}


def test_ten_thousand_candidates_are_drawn_by_webgl():
    several = [candidate(str(i), i % 97, 1 + i % 89) for i in range(3000)]

    figure, traces = drawn(RUN, several)

    assert {trace.type for trace in figure.data} == {"scattergl"}
    assert len(traces["dominated"].x) + len(traces["front"].x) == 3000


@pytest.mark.parametrize(
    ("run", "candidates", "why"),
    [
        (RUN, [], "no candidates yet"),
        (replace(RUN, status="training"), [], "no candidates yet: the supernet is being trained"),
        (RUN, [FAILED], "1 candidate, all failed: see why below"),
        (RUN, [candidate("d", 0, 0, values={"accuracy": 90.0})], "no candidate has both values"),
    ],
)
def test_a_front_without_points_says_why(run, candidates, why):
    figure, _ = drawn(run, candidates)

    assert not figure.data
    assert figure.layout.annotations[0].text == why


# -- other figures -----------------------------------------------------------------------------


def test_a_curve_has_a_gap_where_the_loss_was_no_number():
    [line] = figures.curve(POINTS, "loss").data

    assert line.x == (10, 20)
    assert line.y[0] == 2.3 and math.isnan(line.y[1])


def test_the_bins_share_all_draws_and_are_named_by_their_costs():
    traces = figures.bins(POINTS).data

    assert [trace.name for trace in traces] == ["up to 1.00 M MACs", "1.00 M to 2.00 M MACs"]
    assert [sum(shares) for shares in zip(*(trace.y for trace in traces), strict=True)] == [100, 100]


@pytest.mark.parametrize(
    ("sampler", "unit"),
    [
        ("shift", "MACs"),
        ({"name": "shift", "cost": "bytes"}, "B"),
        ({"name": "sandwich", "of": {"name": "shift", "cost": "latency_ms"}}, "predicted ms"),
        ({"name": "shift", "cost": "latency_ms@phone"}, "predicted ms"),
    ],
)
def test_bins_are_in_the_unit_of_the_cost_that_the_sampler_goes_by(sampler, unit):
    run = replace(RUN, experiment=json.dumps({"training": {"sampler": sampler}}))

    drawn = training.figure(POINTS, training.BINS, training._unit(run))

    assert drawn.data[0].name == f"up to 1.00 M {unit}"


def test_what_another_sampler_saw_is_drawn_too():
    points = [TrainingPoint(10, {"loss": 2.0, "gradient_norm": 1.0})]

    assert training.drawn(points) == ["loss", "learning_rate", "images_per_second", "gradient_norm"]
    assert training.drawn(POINTS)[:2] == ["loss", "cost bins"]
    assert training.drawn([]) == []


def test_every_sample_of_a_latency_is_in_its_histogram_outliers_in_the_last_bar():
    clock, wall = figures.latency(TIMED).data

    assert (len(clock.x), len(wall.x)) == (6, 6)
    assert max(wall.x) < 2
    assert "1 run beyond" in figures.latency(TIMED).layout.xaxis.title.text


# -- tables and words --------------------------------------------------------------------------


def test_the_list_of_runs_has_the_best_of_each_front():
    columns, [row] = tables.run_table([(RUN, standing(RUN, [A, B, C, FAILED]))])

    assert (row["candidates"], row["front"]) == (4, 2)
    assert (row["accuracy"], row["latency_ms"]) == (80, 1.0)
    assert {"best accuracy (%)", "best latency (ms)"} <= {column["headerName"] for column in columns}


def test_the_front_table_is_ordered_as_the_front_and_links_to_the_candidates():
    columns, rows = tables.front_table(RUN, standing(RUN, [A, B, C]))

    assert [row["href"] for row in rows] == ["/run/digits/candidate/b", "/run/digits/candidate/a"]
    assert [column["headerName"] for column in columns] == [
        "candidate",
        "accuracy (%)",
        "latency (ms)",
        "MACs",
    ]


def test_measurements_carry_unit_interval_and_origin():
    timed = replace(B, latencies={"latency_ms": TIMED}, intervals={"latency_ms": (0.9, 1.1)})

    assert tables.measurement_rows(RUN, timed) == [
        ("accuracy", "70.00 %", "", "measured on validation images"),
        ("latency", "1 ms", "0.9000 to 1.100 ms", "measured: onnxruntime-cpu, 1 thread, batch 1"),
        ("MACs", "1.00 M", "", "counted on the exported subnet"),
    ]
    assert tables.measurement_rows(RUN, FAILED)[0][:2] == ("accuracy", "not measured")


def test_a_second_measurement_stands_beside_the_first():
    twice = replace(B, intervals={"latency_ms": (0.9, 1.1)}, again={"latency_ms": (1.4, 1.3, 2.6)})

    columns, [row] = tables.front_table(LIMITED, standing(LIMITED, [twice]))
    names = [one["headerName"] for one in columns]

    assert names[names.index("latency (ms)") + 1] == "again (ms)" and row["again/latency_ms"] == 1.4
    assert tables.measurement_rows(LIMITED, twice)[2][:3] == (
        "latency, again",
        "1.400 ms",
        "1.300 to 2.600 ms",
    )
    assert tables.limit_rows(LIMITED, twice)[0][2] == "kept; measured again, broken"
    assert "latency, again: 1.400 ms (95 %: 1.300 to 2.600 ms)" in figures.hover(LIMITED, twice)
    assert "again (ms)" not in [one["headerName"] for one in tables.front_table(RUN, standing(RUN, [B]))[0]]


def test_an_accuracy_on_a_part_of_the_images_says_so_and_stands_on_no_front():
    partly = replace(candidate("p", 99.0, 0.1), intervals={"accuracy": (97.0, 99.9)}, scored=(504, 5000))

    rows = tables.measurement_rows(RUN, partly)
    found = standing(RUN, [A, partly])

    how = "measured on validation images, on the first 504 of 5,000: beaten for certain"
    assert rows[0] == ("accuracy", "99.00 %", "97.00 to 99.90 %", how)
    assert how in figures.hover(RUN, partly)
    assert (found.front, found.dominated) == ([A], [partly])


def test_limits_are_kept_or_broken_by_the_worse_end():
    close = replace(C, intervals={"latency_ms": (1.9, 2.6)})

    assert tables.limit_rows(LIMITED, C) == [("latency", "≤ 2.5 ms", "kept")]
    assert tables.limit_rows(LIMITED, close)[0][2] == "broken"
    assert tables.limit_rows(LIMITED, FAILED)[0][2] == "not measured"


def test_a_failure_is_listed_by_the_last_line_of_its_reason():
    _, [row] = tables.failed_table(RUN, standing(RUN, [FAILED, A]))

    assert row["error"] == "RuntimeError: out of memory"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (91.256, "%", "91.26"),
        (0.064123, "ms", "0.06412"),
        (1234.5, "ms", "1,234"),
        (12_345_678, "MACs", "12.3 M"),
        (999_900, "B", "1.00 M"),
        (0, "B", "0"),
        (9_876, "B", "9,876"),
        (math.nan, "ms", "not a number"),
        (math.inf, "ms", "∞"),
    ],
)
def test_a_number_is_as_long_as_it_is_of_use(value, unit, text):
    assert words.number(value, unit) == text


def test_a_value_that_is_no_objective_of_the_run_has_its_unit_too():
    assert quantity(RUN, "bytes").text(12_300) == "12.3 kB"
    assert quantity(RUN, "macs").text(12_300) == "12.3 k"
    assert quantity(RUN, "macs").label == "MACs"
    assert quantity(RUN, "some_score").label == "some score"


def test_a_block_is_told_in_short_words():
    block = Choice("depthwise", (("dilation", 2), ("kernel_size", 5)), 4, "se", 8, 8)

    assert words.block_words(block) == ["depthwise", "5×5", "dilation 2", "×4", "se", "8/8 bit"]
    assert words.block_words(Choice("mixed", (("kernels", (3, 5)),))) == ["mixed", "3×3 + 5×5"]


def test_every_candidate_stands_in_one_place():
    lacking = candidate("d", 0, 0, values={"accuracy": 90.0})

    all_ = standing(LIMITED, [A, B, C, FAILED, lacking])

    groups = (all_.front, all_.dominated, all_.infeasible, all_.incomplete, all_.failed)
    assert [[one.key for one in group] for group in groups] == [["b"], ["c"], ["a"], ["d"], ["f"]]
    assert all_.word(B) == "knee of the front" and all_.word(A) == "infeasible"


def test_how_the_front_grew_is_drawn_over_the_candidates_and_told_with_seconds():
    several = [replace(one, number=n, seconds=2.0) for n, one in enumerate((B, FAILED, C, A), start=1)]

    [line] = figures.growth(RUN, several).data
    told = front_as_json(RUN, several)["course"]

    assert list(line.x) == [1, 2, 3, 4] and [one["number"] for one in told] == [1, 2, 3, 4]
    assert 0 < line.y[0] == line.y[1] == line.y[2] < line.y[3] == 100
    assert [100 * one["hypervolume_share"] for one in told] == list(line.y)
    assert [one["seconds"] for one in told] == [2, 4, 6, 8] and line.text[3] == "8 s of evaluating"
    assert line.customdata[3][0] == "a"
    assert "nothing is on the front yet" in texts(figures.growth(LIMITED, [A]))


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "a run/with slashes?", "ünï%20"])
def test_an_address_leads_back_to_its_run(name):
    assert routes.parts(routes.run(name)) == ("run", name)
    assert routes.parts(routes.training(name)) == ("run", name, "training")
    assert routes.parts(routes.candidate(name, "k1")) == ("run", name, "candidate", "k1")


def test_the_address_says_what_is_drawn_over_what():
    assert routes.chosen_axes(routes.axes("macs", "latency_ms")) == ("macs", "latency_ms")
    assert routes.chosen_axes(None) == (None, None)


def test_axes_that_an_address_does_not_name_or_names_wrongly_are_the_objectives():
    shown = words.quantities(RUN, [A])

    assert front.axes(RUN, shown, None, None) == ("latency_ms", "accuracy")
    assert front.axes(RUN, shown, "macs", "nonsense") == ("macs", "accuracy")
    assert (
        front.axes(replace(RUN, objectives=(ACCURACY,)), words.quantities(RUN, [A]), None, None)[1]
        == "accuracy"
    )


def test_a_click_on_a_point_knows_its_candidate():
    assert parts.clicked_key({"points": [{"customdata": "b"}]}) == "b"
    assert parts.clicked_key({"points": [{"customdata": ["b"]}]}) == "b"
    assert parts.clicked_key({"points": [{"curveNumber": 0}]}) is None
    assert parts.clicked_key(None) is None


# -- pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "title", "shown"),
    [
        ("/", "runs · ParetoShift", ["1 run, 1 of them going on", "best accuracy (%)"]),
        ("/run/digits", "digits · ParetoShift", ["1 on the front, 1 dominated, 1 infeasible, 1 failed"]),
        (
            "/run/digits/training",
            "digits training · ParetoShift",
            ["training loss (nats)", "1.00 M to 2.00 M MACs"],
        ),
        (
            "/run/digits/candidate/b",
            "b · digits · ParetoShift",
            [
                "knee of the front",
                "nas export digits --candidate b",
                "nas export digits --candidate b --alone",
                "stage 1",
                "exports/b",
                "69.50 %",
                "disturbed",
            ],
        ),
        (
            "/run/digits/candidate/f",
            "f · digits · ParetoShift",
            ["RuntimeError: out of memory", "not measured"],
        ),
        (
            "/run/digit",
            "not found · ParetoShift",
            ["no run named 'digit' in this store; did you mean digits?"],
        ),
        ("/run/digits/candidate/zzz", "not found · ParetoShift", ["run 'digits' has no candidate zzz"]),
        ("/nowhere", "not found · ParetoShift", ["there is no page /nowhere"]),
    ],
)
def test_each_address_has_its_page(digits, address, title, shown):
    component, given = page(Reader(digits), address)

    assert given == title
    assert [text for text in shown if text not in texts(component)] == []


def test_an_empty_store_says_what_to_do(store):
    component, _ = page(Reader(store), "/")

    assert "There are no runs in" in texts(component) and "nas run examples/digits.yaml" in texts(component)


@pytest.mark.parametrize("address", ["/run/digits", "/run/digits/training"])
def test_a_run_of_which_nothing_is_recorded_has_its_pages(store, address):
    store.add_run(replace(RUN, status="created"))

    component, _ = page(Reader(store), address)

    assert "no candidates yet: it has not begun" in texts(component) or "Nothing has been recorded" in texts(
        component
    )


# -- live --------------------------------------------------------------------------------------


def test_only_new_candidates_are_read(digits):
    reader = Reader(digits)
    before = reader.candidates(LIMITED)
    digits.add_candidate("digits", candidate("new", 50, 1.5))

    after = reader.candidates(LIMITED)

    assert [one.key for one in after] == ["a", "b", "c", "f", "new"]
    assert all(old is same for old, same in zip(before, after[:4], strict=True))


def test_a_run_that_took_over_a_name_does_not_take_over_candidates(digits):
    reader = Reader(digits)
    reader.candidates(LIMITED)
    digits.rename_run("digits", "old")
    another = replace(RUN, created="2000-01-01T00:00:00+00:00")
    digits.add_run(another)

    assert reader.candidates(another) == []


def test_values_that_candidates_got_when_the_run_was_extended_are_read(digits):
    reader = Reader(digits)
    reader.candidates(LIMITED)
    digits.complete_candidate("digits", replace(C, values={"bytes": 5.0}))
    extended = replace(
        LIMITED, objectives=(*LIMITED.objectives, Objective("bytes", "bytes", "B", "minimize"))
    )

    assert reader.candidates(extended)[2].values["bytes"] == 5.0


def callback(app, output):
    """The function behind a callback, by one of its outputs."""
    [found] = [entry["callback"] for name, entry in app.callback_map.items() if output in name]
    return found.__wrapped__


def test_the_front_is_drawn_again_only_when_something_has_changed(digits):
    refresh = callback(create_app(digits), "front-summary")
    seen = [Reader(digits).signs(LIMITED), "latency_ms", "accuracy", 1]

    same = refresh(1, "latency_ms", "accuracy", "digits", seen)
    turned = refresh(1, "accuracy", "latency_ms", "digits", seen)
    digits.add_candidate("digits", candidate("new", 95, 0.5))
    grown = refresh(2, "latency_ms", "accuracy", "digits", seen)

    assert len({id(one) for one in same}) == 1  # nothing but no_update
    assert turned[0].layout.xaxis.title.text == "accuracy (%)" and turned[2] is same[0]
    assert grown[0].data[-1].customdata == ("new",) and "5 candidates" in grown[1]
    assert grown[-1] != seen


def test_the_list_of_runs_is_drawn_again_only_when_something_has_changed(digits):
    refresh = callback(create_app(digits), "runs-table.rowData")
    seen = runs.signs(Reader(digits))

    same = refresh(1, seen)
    digits.update_run("digits", status="finished")
    changed = refresh(2, seen)

    assert len({id(one) for one in same}) == 1
    assert changed[1][0]["status"] == "finished"


# -- the server --------------------------------------------------------------------------------


def test_the_page_is_served_and_asks_nothing_of_other_hosts(digits):
    html = create_app(digits).server.test_client().get("/run/digits").text

    assert "<title>ParetoShift</title>" in html and "_dash-component-suites" in html
    assert "http://" not in html and "https://" not in html


def test_a_busy_port_is_an_error_of_one_line(digits):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(OSError, match=rf"port {port} is in use; give another with --port"):
            serve(digits.url, port=port)


def test_a_store_that_is_not_there_is_not_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no store"):
        serve(f"sqlite:///{tmp_path}/nas.db")


def test_the_dashboard_needs_neither_torch_nor_ray():
    code = "import dashboard.app, sys; print([name for name in ('torch', 'ray') if name in sys.modules])"

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def test_what_an_own_evaluator_measured_on_another_device_is_still_its_own():
    keys = ("accuracy", "latency_ms@gpu", "latency_ms@pi")
    objectives = tuple(Objective(key, key, "", "minimize") for key in keys)
    run = replace(RUN, objectives=objectives, experiment='{"evaluator": "own"}')

    narrowed = on_device(run, "accuracy", "latency_ms@gpu")

    assert [one.key for one in narrowed.objectives] == list(keys[:2])
    for key in keys:
        assert quantity(narrowed, key).name == key
        assert quantity(narrowed, key).source == "measured by the run's own evaluator"


def test_a_single_objective_is_drawn_over_the_numbers_of_the_candidates():
    run = replace(
        RUN, objectives=(Objective("error", "error", "", "minimize"),), experiment='{"evaluator": "own"}'
    )
    found = [Candidate(str(number), "{}", {"error": 9.0 - number}, number=number) for number in (1, 2, 3)]
    found = [replace(one, architecture=candidate(0, 1, 1).architecture) for one in found]
    stands = standing(run, found)

    x, y = front.axes(run, words.quantities(run, found), None, None)
    figure = figures.front(run, stands, quantity(run, x), quantity(run, y))

    assert (x, y) == (words.NUMBER.key, "error")
    drawn = {
        (px, py)
        for trace in figure.data[1:]
        if trace.mode == "markers"
        for px, py in zip(trace.x, trace.y, strict=True)
    }
    assert drawn == {(1, 8.0), (2, 7.0), (3, 6.0)}
    assert figures.pointed_at(found[1], quantity(run, x), quantity(run, y))["x"] == [2]
    assert front.axes(run, words.quantities(run, found), "error", None) == ("error", "error")
