"""The list of runs."""

from __future__ import annotations

from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from dashboard import tables
from dashboard.pages import parts
from dashboard.reader import Reader
from dashboard.words import count


def layout(reader: Reader) -> Component:
    columns, rows = _table(reader)
    return parts.page(
        html.Div(html.H1("Runs"), className="headline"),
        html.Div(_hint(reader), id="runs-hint"),
        html.Div(
            parts.grid(columns, rows, id="runs-table"),
            id="runs-card",
            className="card",
            hidden=not rows,
        ),
        dcc.Store(id="runs-seen", data=signs(reader)),
        parts.tick("runs-tick"),
    )


def register(app: Dash, reader: Reader) -> None:
    @app.callback(
        Output("runs-table", "columnDefs"),
        Output("runs-table", "rowData"),
        Output("runs-table", "style"),
        Output("runs-hint", "children"),
        Output("runs-card", "hidden"),
        Output("runs-seen", "data"),
        Input("runs-tick", "n_intervals"),
        State("runs-seen", "data"),
        prevent_initial_call=True,
    )
    def refresh(_, seen):
        now = signs(reader)
        if now == seen:
            return (no_update,) * 6
        columns, rows = _table(reader)
        return columns, rows, parts.grid_size(rows), _hint(reader), not rows, now


def signs(reader: Reader) -> list[str]:
    """What changes whenever the list would look different."""
    return [f"{run.name} {run.updated} {reader.signs(run)}" for run in reader.store.runs()]


def _table(reader: Reader) -> tuple[list[dict], list[dict]]:
    return tables.run_table([(run, reader.standing(run)) for run in reader.store.runs()])


def _hint(reader: Reader) -> list[Component]:
    runs = reader.store.runs()
    if runs:
        going = sum(run.status in ("training", "searching") for run in runs)
        going_words = f", {going} of them going on" if going else ""
        return [
            html.P(
                f"{count(len(runs), 'run')}{going_words} in {reader.store.url}. "
                "The best values are those on each front: measured, and within the run's constraints.",
                className="quiet",
            )
        ]
    return [
        html.Div(
            [
                html.P(f"There are no runs in {reader.store.url} yet. Start one, and it will show up here:"),
                parts.command(f"nas run examples/digits.yaml --store {reader.store.url}"),
            ],
            className="card",
        )
    ]
