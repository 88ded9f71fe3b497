"""What the latencies of a run are worth: how certain each is, what disturbed them, how the machine drifted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from dashboard import hardware_figures as figures
from dashboard import routes
from dashboard.pages import explained, live, parts
from dashboard.reader import Reader
from dashboard.timings import Timing, by_conditions, troubles
from dashboard.words import count, number
from nas import explanations
from nas.devices import device_of
from nas.storage.records import Run


def layout(reader: Reader, name: str) -> Component:
    run = reader.store.run(name)
    if run.evaluator is not None:
        return parts.no_supernet(run)
    page = live.layout(run, "hardware", _panels(reader, run), _signs(reader, run))
    return html.Div([page, dcc.Location(id="hardware-url", refresh="callback-nav")])


def register(app: Dash, reader: Reader) -> None:
    live.register(app, reader, "hardware", _panels, _signs)

    @app.callback(
        Output("hardware-url", "pathname"),
        Input({"gap": ALL}, "clickData"),
        State("hardware-run", "data"),
        prevent_initial_call=True,
    )
    def open_candidate(_, name):
        key = parts.clicked_key(ctx.triggered[0]["value"])
        return routes.candidate(name, key) if key else no_update


def _signs(reader: Reader, run: Run) -> list:
    return [*(one.number for one in reader.timings(run)[-1:]), explanations.signs(run)]


def _panels(reader: Reader, run: Run) -> list[Component]:
    timings = reader.timings(run)
    if not timings:
        return [parts.section("Latency", html.P("No latency has been measured yet."))]
    groups = by_conditions(timings)
    warning = html.P(
        "Latencies were measured under different conditions: compare those of one group only.",
        className="warning",
    )
    shown = [
        panel
        for place, ((value, conditions), some) in enumerate(groups.items())
        for panel in (*_group(value, conditions, some), explained.gap(reader, run, some, place))
    ]
    shown += explained.overview(reader, run)
    return [warning, *shown] if len(groups) > len({value for value, _ in groups}) else shown


def _group(value: str, conditions: tuple[str, ...], timings: Sequence[Timing]) -> list[Component]:
    device, processor, clock, versions = conditions
    name = f"{device_of(value)}: " if device_of(value) else ""
    certainty = parts.section(
        "How certain they are",
        parts.graph(figures.certainty(timings), 380),
        note="measured; a steady machine has a narrow grey band",
    )
    drift = parts.section(
        "The machine meanwhile",
        parts.graph(figures.drift(timings), 300),
        note="what a small network, always the same, took before, between and after the rounds of each measurement",
    )
    facts = [("processor", processor), ("clock", clock), ("versions", versions), *_counts(timings)]
    return [
        parts.section(
            f"Latencies on {name}{device}",
            html.Div([parts.pairs(facts), _troubles(timings)], className="beside"),
        ),
        certainty,
        drift,
    ]


def _counts(timings: Sequence[Timing]) -> list[tuple[str, str]]:
    errors = [one.error for one in timings]
    return [
        ("measured", count(len(timings), "candidate")),
        ("95 % interval of the median", f"±{number(float(np.median(errors)))} % at the middle one, "
                                        f"±{number(max(errors))} % at the widest"),
    ]  # fmt: skip


def _troubles(timings: Sequence[Timing]) -> Component:
    disturbed = sum(1 for one in timings if one.troubles)
    if not disturbed:
        return html.P("Nothing was noticed that disturbed them.")
    rows = [(word, f"{times:,}") for word, times in troubles(timings)]
    return html.Div(
        [
            html.P(
                f"{disturbed:,} of {len(timings):,} were disturbed by other work on the machine, some in several ways:"
            ),
            parts.plain_table(("how", "measurements"), rows),
        ]
    )
