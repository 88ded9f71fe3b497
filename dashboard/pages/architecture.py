"""One candidate: its architecture, everything measured of it, and how to export it."""

from __future__ import annotations

import json
import shlex

from dash import html
from dash.development.base_component import Component

from dashboard import figures, tables, words
from dashboard.drawing import network
from dashboard.pages import explained, parts
from dashboard.reader import Reader
from nas.devices import device_of
from nas.storage.records import Candidate, Run
from search_spaces import (
    CategoricalArchitecture,
    NetworkArchitecture,
    architecture_from_json,
    space_from_json,
)


def layout(reader: Reader, name: str, key_prefix: str) -> Component:
    run = reader.store.run(name)
    candidate = reader.store.candidate(name, key_prefix)
    standing = reader.standing(run).word(candidate)
    architecture = architecture_from_json(candidate.architecture)
    return parts.page(
        parts.run_header(run, candidate=candidate.key, standing=standing),
        _failure(candidate),
        html.Div(
            [
                parts.section(
                    "Measurements",
                    *_measurements(run, candidate),
                    note=f"number {candidate.number} of the run",
                ),
                parts.section("Export", *_exports(reader, run, candidate)),
            ],
            className="beside",
        ),
        _architecture(run, architecture),
        *(_latency(candidate, value) for value in candidate.latencies),
        *explained.panels(reader, run, candidate),
        parts.details(
            "Architecture as JSON",
            html.Pre(json.dumps(json.loads(candidate.architecture), indent=2), className="json"),
        ),
    )


def _architecture(run: Run, architecture: NetworkArchitecture | CategoricalArchitecture) -> Component:
    if isinstance(architecture, CategoricalArchitecture):
        return parts.section("Architecture", parts.pairs(words.decision_words(architecture)))
    return parts.section(
        "Architecture",
        network(architecture, space_from_json(run.space)),
        note=f"sizes are channels × {'height × width' if run.dims == 2 else 'samples'}",
    )


def _failure(candidate: Candidate) -> Component | None:
    if candidate.error is None:
        return None
    return html.Section(
        [html.H2("It failed"), html.Pre(candidate.error)], className="card failure", id="candidate-error"
    )


def _measurements(run: Run, candidate: Candidate) -> list[Component]:
    shown = [
        parts.plain_table(("", "value", "95 % interval", "how"), tables.measurement_rows(run, candidate)),
        html.P(
            f"The evaluation took {words.number(candidate.seconds)} s (measured) and ended "
            f"{words.moment(candidate.created)}.",
            className="quiet",
        ),
    ]
    limits = tables.limit_rows(run, candidate)
    if limits:
        shown.insert(1, parts.plain_table(("constraint", "limit", ""), limits))
    return shown


def _exports(reader: Reader, run: Run, candidate: Candidate) -> list[Component]:
    if run.evaluator is not None:
        said = f"There is nothing to export: the candidates of this run were measured by {run.evaluator}."
        return [html.P(said, className="quiet")]
    if candidate.error is not None:
        return [html.P("A candidate that failed cannot be exported.", className="quiet")]
    line = f"nas export {shlex.quote(run.name)} --candidate {candidate.key}"
    mine = [one for one in reader.store.exports(run.name) if one.candidate == candidate.key]
    return [
        html.P("Writes the subnet as plain PyTorch and ONNX files, and proves them equal:"),
        parts.command(parts.line(reader, line)),
        html.P("Trains it alone from the start, in place of the supernet's weights, and writes that:"),
        parts.command(parts.line(reader, f"{line} --alone")),
        *(parts.pairs(tables.export_rows(one)) for one in mine),
        html.P("" if mine else "It has not been exported yet.", className="quiet"),
    ]


def _latency(candidate: Candidate, value: str) -> Component:
    record, name = candidate.latencies[value], device_of(value)
    trouble = f"other work disturbed it, take it with care: {'; '.join(record.disturbed_by)}"
    return parts.section(
        f"Latency on {name}" if name else "Latency",
        html.P(trouble, className="warning") if record.contended else None,
        html.Div(
            [
                parts.graph(figures.latency(record), 320),
                parts.pairs(tables.latency_rows(record)),
            ],
            className="beside",
        ),
        note=f"measured on {words.device(record)}",
    )
