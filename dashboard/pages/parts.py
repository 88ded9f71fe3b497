"""What several pages are made of."""

from __future__ import annotations

from collections.abc import Sequence

import dash_ag_grid as dag
import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboard import routes, words
from dashboard.reader import Reader
from nas.commands.arguments import with_store
from nas.storage.records import Run

REFRESH_MS = 3000


def page(*children: Component | None) -> html.Div:
    return html.Div([child for child in children if child is not None], className="page")


def run_header(run: Run, here: str | None = None, candidate: str = "", standing: str = "") -> html.Div:
    """The way back, what is shown and where it stands, and the run's pages; `here` is the one that is shown."""
    tabs = {"front": routes.run(run.name)}
    if run.evaluator is None:
        pages = {"training": routes.training, "health": routes.health, "hardware": routes.hardware}
        tabs |= {name: address(run.name) for name, address in pages.items()}
    above = {"runs": "/"} | ({run.name: routes.run(run.name)} if candidate else {})
    if candidate:
        title = [
            html.H1(["candidate ", html.Code(candidate)]),
            html.Span(standing, className=f"standing {standing}"),
        ]
    else:
        title = [html.H1(run.name), html.Span(status(run), id="run-status")]
    links = [
        dcc.Link(name, href, className="run-tab here" if name == here else "run-tab")
        for name, href in tabs.items()
    ]
    return html.Div(
        [
            html.Nav([dcc.Link(name, href) for name, href in above.items()], className="crumbs"),
            html.Div(title, className="headline"),
            html.Nav(links, className="run-tabs"),
        ]
    )


def no_supernet(run: Run) -> html.Div:
    """The page of what a run with a person's own evaluator does not have."""
    return page(
        run_header(run),
        section(
            "No supernet",
            html.P(f"The candidates of this run were measured by {run.evaluator}; no supernet was trained."),
        ),
    )


def status(run: Run) -> list[Component]:
    """The run's status, what it waits for or why it failed, and when it was last heard of."""
    return [
        html.Span(run.status, className=f"status {run.status}"),
        html.Span(run.message, className="message"),
        html.Span(f"updated {words.moment(run.updated)}", className="quiet"),
    ]


def section(title: str, *children: Component | str, note: str = "", **attributes: str) -> html.Section:
    heading = html.H2([title, html.Span(note, className="note")] if note else title)
    return html.Section([heading, *children], **{"className": "card", **attributes})


def line(reader: Reader, command: str) -> str:
    """A command to be typed, with the store that it is about."""
    return with_store(command, reader.store.url)


def graph(figure: go.Figure, height: int, **attributes: str) -> dcc.Graph:
    return dcc.Graph(
        figure=figure,
        config={
            "displaylogo": False,
            "responsive": True,
            "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
            "toImageButtonOptions": {"format": "svg"},
        },
        style={"height": f"{height}px"},
        **attributes,
    )


def clicked_key(click: dict | None) -> str | None:
    """The key of the candidate whose point was clicked."""
    keys = [point.get("customdata") for point in (click or {}).get("points", [])]
    return next((key[0] if isinstance(key, list) else key for key in keys if key), None)


def grid(columns: Sequence[dict], rows: Sequence[dict], empty: str = "", **attributes: str) -> dag.AgGrid:
    """A table to sort; `empty` is what it says without rows."""
    return dag.AgGrid(
        columnDefs=list(columns),
        rowData=list(rows),
        defaultColDef={
            "flex": 1,
            "sortable": True,
            "resizable": True,
            "suppressMovable": True,
            "wrapHeaderText": True,
            "autoHeaderHeight": True,
        },
        getRowId="params.data.href",
        rowClassRules={"knee": "params.data.knee"},
        dashGridOptions={
            "suppressFieldDotNotation": True,
            "suppressCellFocus": True,
            "enableCellTextSelection": True,
            "animateRows": False,
            "tooltipShowDelay": 300,
            "rowHeight": 36,
            "headerHeight": 38,
            "localeText": {"noRowsToShow": empty},
        },
        style=grid_size(rows),
        **attributes,
    )


def grid_size(rows: Sequence[dict]) -> dict[str, str]:
    """As high as the rows, but no higher than what one sees at once."""
    return {"width": "100%", "height": f"{min(62 + 36 * max(len(rows), 1), 490)}px"}


def pairs(rows: Sequence[tuple[str, str]]) -> html.Dl:
    """Names and what they are."""
    return html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in rows], className="pairs")


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False) -> html.Div:
    """A table to read; its cells stay on one line if they are numbers."""
    return html.Div(
        html.Table(
            [
                html.Thead(html.Tr([html.Th(name) for name in head])),
                html.Tbody([html.Tr([html.Td(cell) for cell in row]) for row in rows]),
            ],
            className="plain numbers" if numbers else "plain",
        ),
        className="scroll",
    )


def command(text: str, **attributes: str) -> html.Div:
    """A command line to copy."""
    return html.Div(
        [html.Code(text), dcc.Clipboard(content=text, title="copy", className="copy")],
        className="command",
        **attributes,
    )


def details(title: str, *children: Component) -> html.Details:
    return html.Details([html.Summary(title), *children], className="card")


def notice(title: str, *children: Component | str) -> html.Div:
    """A page that has nothing to show but the reason and the way on."""
    return page(
        html.Div(
            [
                html.H1(title),
                *(html.P(child) if isinstance(child, str) else child for child in children),
                html.P(dcc.Link("All runs", "/")),
            ],
            className="card notice",
        )
    )


def tick(identity: str) -> dcc.Interval:
    return dcc.Interval(id=identity, interval=REFRESH_MS)
