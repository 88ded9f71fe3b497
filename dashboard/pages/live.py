"""A page of a run whose panels are drawn again when there is something new to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from dashboard.pages import parts
from dashboard.reader import Reader
from nas.storage.records import Run


def layout(
    run: Run, name: str, panels: Sequence[Component], signs: Sequence[Any], which: Sequence[Any] = ()
) -> Component:
    """The page called `name` of a run; `signs` change whenever its panels do. `which` says what of several things it
    shows."""
    return parts.page(
        parts.run_header(run, name),
        html.Div(panels, id=f"{name}-panels", className="stack"),
        dcc.Store(id=f"{name}-run", data=run.name),
        dcc.Store(id=f"{name}-which", data=list(which)),
        dcc.Store(id=f"{name}-seen", data=_seen(run, signs)),
        parts.tick(f"{name}-tick"),
    )


def register(
    app: Dash,
    reader: Reader,
    name: str,
    panels: Callable[..., Sequence[Component]],
    signs: Callable[..., Sequence[Any]],
) -> None:
    """Let the page called `name` look now and then: the run's status may be new, or its panels, or neither.

    Args:
        panels, signs: of a reader, a run, and what `which` had.
    """

    @app.callback(
        Output(f"{name}-panels", "children"),
        Output("run-status", "children", allow_duplicate=True),
        Output(f"{name}-seen", "data"),
        Input(f"{name}-tick", "n_intervals"),
        State(f"{name}-run", "data"),
        State(f"{name}-which", "data"),
        State(f"{name}-seen", "data"),
        prevent_initial_call=True,
    )
    def refresh(_, run_name, which, seen):
        run = reader.store.run(run_name)
        now = _seen(run, signs(reader, run, *which))
        if now == seen:
            return (no_update,) * 3
        same = now[1:] == seen[1:]
        return no_update if same else panels(reader, run, *which), parts.status(run), now


def _seen(run: Run, signs: Sequence[Any]) -> list:
    return [f"{run.status} {run.updated}", *signs]
