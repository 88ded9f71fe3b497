"""What a supernet's rankings are worth, live while its subnets are trained alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dash import Dash, dcc, html
from dash.development.base_component import Component

from dashboard import health_figures as figures
from dashboard import routes, words
from dashboard.pages import live, parts
from dashboard.reader import Reader
from nas import health_reports, health_view
from nas.ranking import Health, health_of
from nas.storage.records import Run

TITLE = "Can its ranking be trusted?"
BAR = 26  # px, the height of a bar with its gap


def layout(reader: Reader, name: str, report: str = "") -> Component:
    """
    Args:
        report: the name of one against a table; by default of the trainings alone, or where there are none the
            latest against a table.
    """
    run = reader.store.run(name)
    if run.evaluator is not None:
        return parts.no_supernet(run)
    return live.layout(
        run, "health", _panels(reader, run, report), _signs(reader, run, report), which=[report]
    )


def register(app: Dash, reader: Reader) -> None:
    live.register(app, reader, "health", _panels, _signs)


def _signs(reader: Reader, run: Run, _: str) -> list:
    trials = reader.store.trials(run.name)
    return [len(trials), trials[-1].created if trials else "", health_reports.signs(run)]


def _panels(reader: Reader, run: Run, report: str) -> list[Component]:
    trials, against_tables = reader.store.trials(run.name), health_reports.names(run)
    own = any(one.kind == "alone" for one in trials)
    if against_tables and not own:
        report = report or against_tables[0]
    if not report and not trials:
        return [_nothing(reader, run)]
    choice = _choice(run, own, against_tables, report)
    if not report:
        health = health_of(trials)
        return [_trust(health, choice), *_numbers(health)]
    try:
        health, made = health_reports.kept(run, report), health_reports.made(run, report)
    except (LookupError, OSError, ValueError) as error:
        return [parts.section(TITLE, choice, html.P(str(error), className="warning"))]
    return [_trust(health, choice, f"reported {words.moment(made)}"), *_numbers(health)]


def _choice(run: Run, own: bool, against_tables: Sequence[str], report: str) -> Component | None:
    """Links to what else its accuracies were compared with, if there is anything else."""
    names = {"": "trainings alone"} if own or not against_tables else {}
    names |= {name: _compared_with(run, name) for name in against_tables}
    if len(names) < 2:
        return None
    links = [
        dcc.Link(said, routes.health(run.name, name), className="here" if name == report else "")
        for name, said in names.items()
    ]
    return html.Nav(["compared with", *links], className="choice", id="health-choice")


def _compared_with(run: Run, report: str) -> str:
    try:
        return health_view.columns(health_reports.kept(run, report).table)
    except (LookupError, OSError, ValueError):
        return report  # whose page says what is wrong with it


def _nothing(reader: Reader, run: Run) -> Component:
    return parts.section(
        TITLE,
        html.P(
            "Nobody has looked yet. This trains some of the subnets alone, and compares their accuracies with those "
            "that they inherit from the supernet; or with a table of accuracies, by --table FILE:"
        ),
        parts.command(parts.line(reader, f"nas health {shlex.quote(run.name)}")),
    )


def _trust(health: Health, choice: Component | None, note: str = "") -> Component:
    said = health_view.verdict(health)
    return parts.section(
        TITLE,
        choice,
        html.P([html.B(said.word), f": {said.why}."], id="health-verdict"),
        html.P(f"What to do: {said.next}."),
        *(html.P(line, className="quiet") for line in health_view.remarks(health)),
        note=note,
    )


def _numbers(health: Health) -> list[Component]:
    return [
        html.Div([_agreement(health), _taus(health)], className="beside even"),
        html.Div(_biases(health), className="halves"),
        _bins(health),
        html.Div([_sampled(health), _costs(health)], className="halves"),
    ]


def _agreement(health: Health) -> Component:
    own = health.table is None
    return parts.section(
        "Inherited and alone" if own else "Inherited and in the table",
        parts.graph(figures.agreement(health), 430, id="health-agreement"),
        note="a colour per cost bin" + ("; on the dotted line both are equal" if own else ""),
    )


def _taus(health: Health) -> Component:
    heading, rows = health_view.tau_table(health)
    return parts.section(
        "Kendall's τ",
        parts.plain_table(heading, rows, numbers=True)
        if rows
        else html.P("There is none yet.", className="quiet"),
        html.P(
            f"Against {'accuracy alone' if health.table is None else 'the table'}: 1 is the same order, 0 none, -1 the "
            "reverse. Intervals are of the bootstrap over architectures.",
            className="quiet",
        ),
        note="measured",
    )


def _biases(health: Health) -> list[Component]:
    height = 90 + BAR * max(len(health.bins), len(health.usages), 4)
    truth = "training alone" if health.table is None else "the table"
    return [
        parts.section(
            "Rank bias by cost",
            parts.graph(figures.bin_bias(health), height, id="health-bins"),
            html.P(
                f"Right of 0 the supernet ranks worse than {truth} does, left of it better: a network may be "
                "under- or overestimated. In shares of all ranks.",
                className="quiet",
            ),
            note="MACs; blue: the 95 % interval excludes 0",
        ),
        parts.section(
            "Rank bias by operator",
            parts.graph(figures.usage_bias(health), height, id="health-usages"),
            html.P(
                "Of the networks that use it, those more that use it more. Of twenty, one is blue by chance.",
                className="quiet",
            ),
        ),
    ]


def _bins(health: Health) -> Component | None:
    heading, rows = health_view.bin_table(health)
    return parts.section("Cost bins", parts.plain_table(heading, rows, numbers=True)) if rows else None


def _sampled(health: Health) -> Component:
    return parts.section(
        "Sampled cost",
        parts.graph(figures.sampled(health), 300, id="health-sampled"),
        note="of the supernet's training; dotted: equal shares",
    )


def _costs(health: Health) -> Component:
    return parts.section(
        "Accuracy over cost",
        parts.graph(figures.accuracy_over_cost(health), 300, id="health-costs"),
        note="with batch-norm statistics of each subnet's own, and without",
    )
