"""The front of a run, live while it is searched."""

from __future__ import annotations

import json

import dash_mantine_components as dmc
from dash import Dash, Input, Output, Patch, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from dashboard import figures, routes, tables, words
from dashboard.pages import parts
from dashboard.reader import Reader
from dashboard.standing import Standing, on_device
from dashboard.words import Quantity, count, quantity
from nas.devices import devices_in
from nas.report import kept_again
from nas.storage.records import Run


def layout(reader: Reader, name: str, search: str | None) -> Component:
    run = reader.store.run(name)
    shown = _shown(run, reader.standing(run))
    x, y = axes(run, shown, *routes.chosen_axes(search))
    run = on_device(run, x, y)
    standing = reader.standing(run)
    return parts.page(
        parts.run_header(run, "front"),
        html.Div(
            [
                parts.section(
                    "Candidates",
                    html.Div(
                        [
                            _select("front-y", "vertical axis", shown, y),
                            _select("front-x", "horizontal axis", shown, x),
                        ],
                        className="controls",
                    ),
                    parts.graph(
                        figures.front(run, standing, quantity(run, x), quantity(run, y)),
                        470,
                        id="front-figure",
                        clear_on_unhover=True,
                    ),
                    html.P(summary(run, standing, x, y), id="front-summary", className="quiet"),
                ),
                html.Div(
                    [
                        parts.section(
                            "Front",
                            parts.grid(
                                *tables.front_table(run, standing),
                                empty="nothing is on the front yet",
                                id="front-table",
                            ),
                            html.P(
                                _provenance(reader, run, standing), id="front-provenance", className="quiet"
                            ),
                        ),
                        parts.section(
                            "Growth",
                            parts.graph(figures.growth(run, reader.candidates(run)), 230, id="front-growth"),
                            note="hypervolume after each candidate, as a share of what it is now",
                        ),
                    ],
                    className="stack",
                ),
            ],
            className="beside even",
        ),
        html.Div(_failed(run, standing), id="front-failed"),
        _about(run),
        dcc.Location(id="front-url", refresh="callback-nav"),
        dcc.Store(id="front-run", data=name),
        dcc.Store(id="front-seen", data=[reader.signs(run), x, y, len(standing.failed)]),
        parts.tick("front-tick"),
    )


def register(app: Dash, reader: Reader) -> None:
    @app.callback(
        Output("front-figure", "figure"),
        Output("front-summary", "children"),
        Output("front-table", "columnDefs"),
        Output("front-table", "rowData"),
        Output("front-table", "style"),
        Output("front-provenance", "children"),
        Output("front-growth", "figure"),
        Output("front-failed", "children"),
        Output("run-status", "children", allow_duplicate=True),
        Output("front-x", "data"),
        Output("front-y", "data"),
        Output("front-seen", "data"),
        Input("front-tick", "n_intervals"),
        Input("front-x", "value"),
        Input("front-y", "value"),
        State("front-run", "data"),
        State("front-seen", "data"),
        prevent_initial_call=True,
    )
    def refresh(_, x, y, name, seen):
        whole = reader.store.run(name)
        now = [reader.signs(whole), x, y]
        if now == seen[:3]:
            return (no_update,) * 12
        run = on_device(whole, x, y)
        standing = reader.standing(run)
        now.append(len(standing.failed))
        options = _options(_shown(run, standing))
        figure = figures.front(run, standing, quantity(run, x), quantity(run, y))
        if now[0] == seen[0] and run == on_device(whole, *seen[1:3]):  # other axes of the same front
            return figure, summary(run, standing, x, y), *(no_update,) * 9, now
        columns, rows = tables.front_table(run, standing)
        return (
            figure,
            summary(run, standing, x, y),
            columns,
            rows,
            parts.grid_size(rows),
            _provenance(reader, run, standing),
            figures.growth(run, reader.candidates(run)),
            _failed(run, standing) if len(standing.failed) != seen[3] else no_update,
            parts.status(run),
            options,
            options,
            now,
        )

    @app.callback(
        Output("front-x", "value"),
        Output("front-y", "value"),
        Output("front-url", "search"),
        Input("front-x", "value"),
        Input("front-y", "value"),
        Input("front-url", "search"),
        State("front-run", "data"),
        prevent_initial_call=True,
    )
    def keep_address(x, y, search, name):
        """The address says what is drawn: a choice changes the address, the browser's way back the choice."""
        if ctx.triggered_id != "front-url":
            return no_update, no_update, routes.axes(x, y)
        run = reader.store.run(name)
        return *axes(run, _shown(run, reader.standing(run)), *routes.chosen_axes(search)), no_update

    @app.callback(
        Output("front-figure", "figure", allow_duplicate=True),
        Input("front-figure", "hoverData"),
        State("front-x", "value"),
        State("front-y", "value"),
        State("front-run", "data"),
        prevent_initial_call=True,
    )
    def point_at(hover, x, y, name):
        """Intervals are drawn of the candidate that is pointed at, whether it is on the front or not."""
        key, run = parts.clicked_key(hover), reader.store.run(name)
        candidate = next((one for one in reader.candidates(run) if one.key == key), None)
        patch = Patch()
        for field, value in figures.pointed_at(candidate, quantity(run, x), quantity(run, y)).items():
            patch["data"][0][field] = value
        return patch

    @app.callback(
        Output("front-url", "pathname"),
        Output("front-url", "search", allow_duplicate=True),
        Input("front-figure", "clickData"),
        State("front-run", "data"),
        prevent_initial_call=True,
    )
    def open_candidate(click, name):
        key = parts.clicked_key(click)
        return (routes.candidate(name, key), "") if key else (no_update, no_update)


def axes(run: Run, shown: list[Quantity], x: str | None, y: str | None) -> tuple[str, str]:
    """What is drawn over what: as asked if there is such a value, else what is to be maximised over the rest, or what
    there is alone over the number of the candidate."""
    keys = [what.key for what in shown]
    up = [one.key for one in run.objectives if one.goal == "maximize"] or keys
    y = y if y in keys else up[0]
    others = [one.key for one in run.objectives if one.key != y] or [key for key in keys if key != y]
    return (x if x in keys else [*others, words.NUMBER.key][0]), y


def summary(run: Run, standing: Standing, x: str, y: str) -> str:
    """How many candidates stand where, and what limits them."""
    groups = {
        "on the front": standing.front,
        "dominated": standing.dominated,
        "infeasible": standing.infeasible,
        "incomplete": standing.incomplete,
        "failed": standing.failed,
    }
    total = sum(map(len, groups.values()))
    if not total:
        return ""
    standings = ", ".join(f"{len(several):,} {word}" for word, several in groups.items() if several)
    limits = [
        f"{quantity(run, one.key).name} {sign} {quantity(run, one.key).limit_text(bound)}"
        for one in run.constraints
        for sign, bound in (("≥", one.min), ("≤", one.max))
        if bound is not None
    ]
    required = f" Required: {', '.join(limits)}; an uncertain value by its worse end." if limits else ""
    click = " Click a point to open its candidate." if total > len(standing.failed) else ""
    wide = [what.name for what in figures.too_wide(standing, quantity(run, x), quantity(run, y))]
    unseen = (
        f" The 95 % intervals of {' and '.join(wide)} are wider than the candidates are apart: point at one to see its."
        if wide
        else ""
    )
    several = devices_in((x, y))
    own = f"The front on the device {several[0]}. " if len(several) == 1 else ""
    return f"{own}{count(total, 'candidate')}: {standings}.{required}{unseen}{click}"


def _shown(run: Run, standing: Standing) -> list[Quantity]:
    return words.quantities(
        run, [*standing.front, *standing.dominated, *standing.infeasible, *standing.incomplete]
    )


def _options(shown: list[Quantity]) -> list[dict]:
    several = shown if len(shown) > 1 else [*shown, words.NUMBER]
    return [{"value": what.key, "label": what.label} for what in several]


def _select(identity: str, label: str, shown: list[Quantity], value: str) -> Component:
    return dmc.Select(
        id=identity,
        label=label,
        data=_options(shown),
        value=value,
        allowDeselect=False,
        size="sm",
        comboboxProps={"withinPortal": True},
    )


def _provenance(reader: Reader, run: Run, standing: Standing) -> str:
    """Where the numbers of the front come from."""
    if not standing.knee:
        return ""
    timed = [
        f" {quantity(run, key).name.capitalize()} on {words.device(record)}: median of {record.clock} time."
        for key, record in reader.store.candidate(run.name, standing.knee.key).latencies.items()
    ]
    shown = words.quantities(run, standing.front)
    again = kept_again(run, standing.front)
    twice = f" {again[0].upper()}{again[1:]}." if again else ""
    return f"{words.sources(shown)}.{''.join(timed)}{twice} The knee is in bold."


def _failed(run: Run, standing: Standing) -> Component | None:
    if not standing.failed:
        return None
    columns, rows = tables.failed_table(run, standing)
    return parts.section(
        f"{count(len(rows), 'candidate')} failed",
        parts.grid(columns, rows),
    )


def _about(run: Run) -> Component:
    experiment = json.dumps(json.loads(run.experiment), indent=2)
    folder = [("folder", run.folder)] if run.folder else []
    return parts.details(
        "About this run",
        parts.pairs([("started", words.moment(run.created)), *folder, *run.facts.items()]),
        html.H3("Experiment"),
        html.Pre(experiment, className="json"),
    )
