"""The training of a run's supernet, live."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from dashboard import figures
from dashboard.pages import parts
from dashboard.reader import Reader
from nas.devices import is_latency
from nas.objectives import measure_of
from nas.storage.records import Run, TrainingPoint

BINS = "cost bins"
NOTES = {
    "loss": "cross-entropy, mean since the point before",
    "images_per_second": "all processes together",
    "macs": "per image and step, all architectures together",
    "deviation": "of a bin's progress from the others', against the spread within bins",
    BINS: "how the shift sampler shares its draws; dotted: equal shares",
}


def layout(reader: Reader, name: str) -> Component:
    run = reader.store.run(name)
    if run.evaluator is not None:
        return parts.no_supernet(run)
    points = reader.store.training_points(name)
    return parts.page(
        parts.run_header(run, "training"),
        html.Div(_panels(points, _unit(run)), id="training-panels", className="stack"),
        dcc.Store(id="training-run", data=name),
        dcc.Store(id="training-seen", data=_signs(run, points)),
        parts.tick("training-tick"),
    )


def register(app: Dash, reader: Reader) -> None:
    @app.callback(
        Output("training-panels", "children"),
        Output({"curve": ALL}, "figure"),
        Output("run-status", "children", allow_duplicate=True),
        Output("training-seen", "data"),
        Input("training-tick", "n_intervals"),
        State("training-run", "data"),
        State("training-seen", "data"),
        prevent_initial_call=True,
    )
    def refresh(_, name, seen):
        shown = [output["id"]["curve"] for output in ctx.outputs_list[1]]
        same = [no_update] * len(shown)
        run = reader.store.run(name)
        # `updated` is in whole seconds: a point of the same second is found by its step
        unchanged = _signs(run, [])[:2] == seen[:2]
        if unchanged and not reader.store.training_points(name, after=seen[2]):
            return no_update, same, no_update, no_update
        points = reader.store.training_points(name)
        news = parts.status(run), _signs(run, points)
        if sorted(shown) != sorted(drawn(points)):
            return _panels(points, _unit(run)), same, *news
        return no_update, [figure(points, key, _unit(run)) for key in shown], *news


def drawn(points: Sequence[TrainingPoint]) -> list[str]:
    """What there is to draw, in the order of the page."""
    if not points:
        return []
    loss, *others = figures.curve_keys(points)
    bins = [BINS] if any("probability/0" in point.values for point in points) else []
    return [loss, *bins, *others]


def figure(points: Sequence[TrainingPoint], key: str, unit: str) -> go.Figure:
    return figures.bins(points, unit) if key == BINS else figures.curve(points, key)


def _unit(run: Run) -> str:
    """Of the cost that the run's sampler, or the one inside it, cuts in bins."""
    sampler = json.loads(run.experiment).get("training", {}).get("sampler")
    while isinstance(sampler, Mapping):
        if cost := sampler.get("cost"):
            return ("predicted " if is_latency(cost) else "") + measure_of(cost).objective.unit
        sampler = sampler.get("of")
    return measure_of("macs").objective.unit


def _signs(run: Run, points: Sequence[TrainingPoint]) -> list:
    return [run.status, run.updated, points[-1].step if points else -1]


def _panels(points: Sequence[TrainingPoint], unit: str) -> list[Component]:
    if not points:
        return [parts.section("Training", html.P("Nothing has been recorded of the training yet."))]
    wide, narrow = [], []
    for key in drawn(points):
        large = key in ("loss", BINS)
        graph = parts.graph(figure(points, key, unit), 320 if large else 240, id={"curve": key})
        title = {"macs": "MACs trained"}.get(key, key.replace("_", " ").capitalize())
        (wide if large else narrow).append(parts.section(title, graph, note=NOTES.get(key, "")))
    return [*wide, html.Div(narrow, className="halves")]
