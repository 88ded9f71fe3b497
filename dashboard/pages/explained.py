"""Where the time goes, as `nas explain` has kept it: the parts of two pages, of a run and of a candidate."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dash import html
from dash.development.base_component import Component

from dashboard import explained_figures as figures
from dashboard import words
from dashboard.pages import parts
from dashboard.reader import Reader
from dashboard.standing import on_device
from dashboard.timings import Timing
from dashboard.words import Quantity, number, quantity
from nas.devices import TIMED, devices_in, on
from nas.efficiency import gap as gap_of
from nas.explain import Explained
from nas.explain_view import notes, verdict
from nas.storage.records import Candidate, Run
from search_spaces import Architecture, architecture_from_json

# -- of one candidate --------------------------------------------------------------------------


def panels(reader: Reader, run: Run, candidate: Candidate) -> list[Component]:
    """Why it takes so long, on each device on which that is known, or how to get to know it."""
    if run.evaluator is not None or candidate.error is not None:
        return []
    command = parts.line(reader, f"nas explain {shlex.quote(run.name)} --candidate {candidate.key}")
    try:
        found = reader.explained(run, candidate)
    except ValueError as error:
        return [_missing("It cannot be shown:", command, str(error))]
    if not found:
        return [
            _missing(
                "Nobody has taken its time apart yet; on the machine of its latency this does:",
                command,
            )
        ]
    operators = _operators(candidate)
    return [panel for name, one in found.items() for panel in _panels(name, one, operators)]


def _operators(candidate: Candidate) -> dict[str, str]:
    """What each block computes, by the name that it has in an export."""
    architecture = architecture_from_json(candidate.architecture)
    if not isinstance(architecture, Architecture):
        return {}
    choices = [block for stage in architecture.stages for block in stage.blocks]
    return {f"block{place}": one.operator.replace("_", " ") for place, one in enumerate(choices)}


def _missing(said: str, command: str, error: str = "") -> Component:
    warning = [html.P(error, className="warning")] if error else []
    return parts.section(
        "Why it takes so long", html.P(said), *warning, parts.command(command), id="explained"
    )


def _panels(name: str, found: Explained, operators: dict[str, str]) -> list[Component]:
    latency = found.latency
    trouble = f"other work disturbed it, take it with care: {'; '.join(latency.disturbed_by)}"
    where = f"{name}: {words.device(latency)}" if name else words.device(latency)
    return [
        parts.section(
            "Why it takes so long",
            html.P(trouble, className="warning") if latency.contended else None,
            html.Ul([html.Li(line) for line in verdict(found)]),
            html.Div(
                [
                    parts.graph(figures.blocks(found, operators), 340),
                    parts.plain_table(("of this time", "ms", "share", "how"), _rows(found)),
                ],
                className="beside",
            ),
            note=f"taken apart on {where}, {words.moment(latency.measured_at)}",
            id=f"explained-{name}" if name else "explained",
        ),
        parts.section(
            f"Waterline on {name}" if name else "Waterline",
            parts.graph(figures.waterline(found), 360),
            html.P(
                "A bar is a step of the runtime: as wide as the bytes that it moves, as high as its operations per "
                "byte, so that its area is its operations. Below the waterline this machine waits for memory.",
                className="quiet",
            ),
            parts.details("What to know of these numbers", html.Ul([html.Li(line) for line in notes(found)])),
        ),
    ]


def _rows(found: Explained) -> list[tuple[str, str, str, str]]:
    rows = (
        ("operations at the machine's peak", found.ideal_ms, "counted, at the measured peak"),
        ("wasted by the model", found.attainable_ms - found.ideal_ms, "counted, at the measured peak"),
        ("wasted by the kernels", sum(step.kernel_ms for step in found.steps), "measured, by the profile"),
        ("outside of the steps", found.outside_ms, "measured, what is left"),
        ("all", found.measured_ms, "measured"),
    )
    shares = [round(100 * ms / found.measured_ms, 1) + 0.0 for _, ms, _ in rows]  # 0.0, not -0.0
    return [
        (what, f"{round(ms, 4) + 0.0:.4f}", f"{share:.1f}\N{NO-BREAK SPACE}%", how)
        for (what, ms, how), share in zip(rows, shares, strict=True)
    ]


# -- of a run ----------------------------------------------------------------------------------


def gap(reader: Reader, run: Run, timings: Sequence[Timing], place: int) -> Component:
    """The efficiency gap over candidates that were timed alike, the one of that place on its page."""
    title = "Efficiency gap"
    try:
        peaks = reader.peaks(run)
    except ValueError as error:
        return parts.section(title, html.P(str(error), className="warning"))
    gaps = [one for timing in timings if timing.timed and (one := gap_of(timing.timed, peaks))]
    if not gaps:
        command = parts.line(reader, f"nas explain {shlex.quote(run.name)}")
        said = (
            "Nobody has measured the peaks of this device yet; this does, on the machine of these latencies:"
        )
        if peaks:
            said = (
                "The peaks that are kept with this run are of another machine, version or setting of the device; this "
                "measures those of this one, on the machine of these latencies:"
            )
        return parts.section(title, html.P(said), parts.command(command))
    candidates = {one.key: one for one in reader.candidates(run)}
    front = {one.key for one in reader.standing(on_device(run, timings[0].value)).front}
    shares = sorted(100 * one.efficiency for one in gaps)
    return parts.section(
        title,
        parts.graph(figures.gap(gaps, candidates, _height(run), front), 420, id={"gap": place}),
        html.P(
            "Left, open: the counted operations of a candidate at the measured peak of this machine. Right, filled: "
            "its measured latency, with the 95 % interval. Blue: on the front. Efficiency, the one by the other: "
            f"{number(shares[0])} to {number(shares[-1])} %, the middle one {number(shares[len(shares) // 2])} %. "
            "Click a point to open its candidate.",
            className="quiet",
        ),
        note=f"{words.count(len(gaps), 'candidate')} of {len(timings):,}",
    )


def _height(run: Run) -> Quantity:
    """What is drawn over the time: the first objective that is to be large, else the work."""
    keys = [one.key for one in run.objectives if one.goal == "maximize"]
    return quantity(run, keys[0] if keys else "macs")


def overview(reader: Reader, run: Run) -> list[Component]:
    """Where the time of the front's candidates goes, on each device of the run."""
    return [_overview(reader, run, name) for name in devices_in(one.key for one in run.objectives) or ("",)]


def _overview(reader: Reader, run: Run, name: str) -> Component:
    title = f"Where the time of the front on {name} goes" if name else "Where the time of the front goes"
    own = on_device(run, on(TIMED, name)) if name else run
    try:
        every = [reader.explained(run, one).get(name) for one in reader.standing(own).front]
    except ValueError as error:
        return parts.section(title, html.P(str(error), className="warning"))
    found = [one for one in every if one is not None]
    if not found:
        command = parts.line(reader, f"nas explain {shlex.quote(run.name)}")
        said = "Nobody has taken the candidates of the front apart yet; this does, on the machine of these latencies:"
        return parts.section(title, html.P(said), parts.command(command))
    several = f"{len(found):,} of {words.count(len(every), 'candidate')}"
    note = f"{several}, taken apart on {words.device(found[0].latency)}"
    disturbed = [one.name for one in found if one.latency.contended]
    warning = f"other work disturbed {', '.join(disturbed)}: explain again when the machine is quiet"
    trouble = html.P(warning, className="warning") if disturbed else None
    return parts.section(title, trouble, parts.graph(figures.candidates(found), 360), note=note)
