"""What a supernet's rankings are worth, live while its subnets are trained alone."""

from __future__ import annotations

import shlex

from dash import Dash, html
from dash.development.base_component import Component

from dashboard import health_figures as figures
from dashboard.pages import live, parts
from dashboard.reader import Reader
from nas import health_view
from nas.ranking import Health, health_of
from nas.storage.records import Run

BAR = 26  # px, the height of a bar with its gap


def layout(reader: Reader, name: str) -> Component:
    run = reader.store.run(name)
    if run.evaluator is not None:
        return parts.no_supernet(run)
    return live.layout(run, "health", _panels(reader, run), _signs(reader, run))


def register(app: Dash, reader: Reader) -> None:
    live.register(app, reader, "health", _panels, _signs)


def _signs(reader: Reader, run: Run) -> list:
    trials = reader.store.trials(run.name)
    return [len(trials), trials[-1].created if trials else ""]


def _panels(reader: Reader, run: Run) -> list[Component]:
    trials = reader.store.trials(run.name)
    if not trials:
        return [_nothing(reader, run)]
    health = health_of(trials)
    return [
        _trust(health),
        html.Div([_agreement(health), _taus(health)], className="beside even"),
        html.Div(_biases(health), className="halves"),
        _bins(health),
        html.Div([_sampled(health), _costs(health)], className="halves"),
    ]


def _nothing(reader: Reader, run: Run) -> Component:
    line = f"nas health {shlex.quote(run.name)}"
    if reader.store.url != "sqlite:///nas.db":
        line += f" --store {shlex.quote(reader.store.url)}"
    return parts.section(
        "Can its ranking be trusted?",
        html.P(
            "Nobody has looked yet. This trains some of the subnets alone, and compares their accuracies with those "
            "that they inherit from the supernet:"
        ),
        parts.command(line),
    )


def _trust(health: Health) -> Component:
    said = health_view.verdict(health)
    return parts.section(
        "Can its ranking be trusted?",
        html.P([html.B(said.word), f": {said.why}."], id="health-verdict"),
        html.P(f"What to do: {said.next}."),
        *(html.P(line, className="quiet") for line in health_view.remarks(health)),
    )


def _agreement(health: Health) -> Component:
    return parts.section(
        "Inherited and alone",
        parts.graph(figures.agreement(health), 430, id="health-agreement"),
        note="a colour per cost bin; on the dotted line both are equal",
    )


def _taus(health: Health) -> Component:
    heading, rows = health_view.tau_table(health)
    return parts.section(
        "Kendall's τ",
        parts.plain_table(heading, rows, numbers=True)
        if rows
        else html.P("There is none yet.", className="quiet"),
        html.P(
            "Against accuracy alone: 1 is the same order, 0 none, -1 the reverse. "
            "Intervals are of the bootstrap over architectures.",
            className="quiet",
        ),
        note="measured",
    )


def _biases(health: Health) -> list[Component]:
    height = 90 + BAR * max(len(health.bins), len(health.usages), 4)
    return [
        parts.section(
            "Rank bias by cost",
            parts.graph(figures.bin_bias(health), height, id="health-bins"),
            html.P(
                "Right of 0 the supernet ranks worse than training alone does, left of it better: a network may be "
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
