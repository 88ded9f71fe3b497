"""What the latencies of a run are worth: how certain each is, what disturbed them, how the machine drifted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from dashboard import hardware_figures as figures
from dashboard.pages import parts
from dashboard.reader import Reader
from dashboard.timings import Timing, by_conditions, troubles
from dashboard.words import count, number
from nas.storage.records import Run


def layout(reader: Reader, name: str) -> Component:
    run = reader.store.run(name)
    if run.evaluator is not None:
        return parts.no_supernet(run)
    timings = reader.timings(run)
    return parts.page(
        parts.run_header(run, "hardware"),
        html.Div(_panels(timings), id="hardware-panels", className="stack"),
        dcc.Store(id="hardware-run", data=name),
        dcc.Store(id="hardware-seen", data=_signs(run, timings)),
        parts.tick("hardware-tick"),
    )


def register(app: Dash, reader: Reader) -> None:
    @app.callback(
        Output("hardware-panels", "children"),
        Output("run-status", "children", allow_duplicate=True),
        Output("hardware-seen", "data"),
        Input("hardware-tick", "n_intervals"),
        State("hardware-run", "data"),
        State("hardware-seen", "data"),
        prevent_initial_call=True,
    )
    def refresh(_, name, seen):
        run = reader.store.run(name)
        timings = reader.timings(run)
        now = _signs(run, timings)
        if now == seen:
            return (no_update,) * 3
        same = now[1] == seen[1]
        return no_update if same else _panels(timings), parts.status(run), now


def _signs(run: Run, timings: Sequence[Timing]) -> list:
    """What changes when the run, and when its measurements have changed."""
    return [f"{run.status} {run.updated}", timings[-1].number if timings else 0]


def _panels(timings: Sequence[Timing]) -> list[Component]:
    if not timings:
        return [parts.section("Latency", html.P("No latency has been measured yet."))]
    groups = by_conditions(timings)
    warning = html.P(
        "Latencies were measured under different conditions: compare those of one group only.",
        className="warning",
    )
    shown = [panel for conditions, some in groups.items() for panel in _group(conditions, some)]
    return [warning, *shown] if len(groups) > 1 else shown


def _group(conditions: tuple[str, ...], timings: Sequence[Timing]) -> list[Component]:
    device, processor, clock, versions = conditions
    certainty = parts.section(
        "How certain they are",
        parts.graph(figures.certainty(timings), 380),
        note="measured; a steady machine has a narrow grey band",
    )
    drift = parts.section(
        "The machine meanwhile",
        parts.graph(figures.drift(timings), 300),
        note="a small network, always the same, timed before and after each measurement",
    )
    facts = [("processor", processor), ("clock", clock), ("versions", versions), *_counts(timings)]
    return [
        parts.section(
            f"Latencies on {device}", html.Div([parts.pairs(facts), _troubles(timings)], className="beside")
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
