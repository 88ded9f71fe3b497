"""What the latencies of a run are worth: how certain each is, what disturbed them, how the machine drifted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dash import Dash, html
from dash.development.base_component import Component

from dashboard import hardware_figures as figures
from dashboard.pages import live, parts
from dashboard.reader import Reader
from dashboard.timings import Timing, by_conditions, troubles
from dashboard.words import count, number
from nas.storage.records import Run


def layout(reader: Reader, name: str) -> Component:
    run = reader.store.run(name)
    if run.evaluator is not None:
        return parts.no_supernet(run)
    return live.layout(run, "hardware", _panels(reader, run), _signs(reader, run))


def register(app: Dash, reader: Reader) -> None:
    live.register(app, reader, "hardware", _panels, _signs)


def _signs(reader: Reader, run: Run) -> list[int]:
    return [one.number for one in reader.timings(run)[-1:]]


def _panels(reader: Reader, run: Run) -> list[Component]:
    timings = reader.timings(run)
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
