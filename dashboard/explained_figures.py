"""Where the time goes: what `nas explain` found in, plotly figures out; pure. Knows neither Dash nor the store.

Axes are those of methods 5.2: the efficiency gap over the candidates of a run, the waterline of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import plotly.graph_objects as go

from dashboard.figures import DOMINATED, FRONT, INFEASIBLE, INK, LAYOUT, LINE, empty, titled
from dashboard.words import Quantity, number
from nas.efficiency import Gap
from nas.explain import Explained, Step
from nas.storage.records import Candidate

MODEL, KERNEL, OUTSIDE, LOST = "#e3a67c", INFEASIBLE, DOMINATED, "rgba(194, 87, 26, 0.13)"
ROOM = 9  # blocks beside each other
TIME = Quantity("latency_ms", "time of one batch", "ms")
PARTS = {  # of the time of a network, in the order in which they are stacked
    "operations at the machine's peak": FRONT,
    "wasted by the model": MODEL,
    "wasted by the kernels": KERNEL,
    "outside of the steps": OUTSIDE,
}


# -- the efficiency gap ------------------------------------------------------------------------


def gap(gaps: Sequence[Gap], candidates: Mapping[str, Candidate], y: Quantity, front: set[str]) -> go.Figure:
    """Each candidate twice at the height of a value: the ideal time of its operations, and the time that it takes.

    Both are joined; the length of what joins them is 1/efficiency on the logarithmic axis.

    Args:
        candidates: of the gaps, by key.
        front: the keys of those on the front.
    """
    figure = go.Figure(layout=LAYOUT)
    shown = [one for one in gaps if y.key in candidates[one.timed.key].values]
    if not shown:
        return empty(figure, TIME, y, "nothing that was measured has both")
    heights = [candidates[one.timed.key].values[y.key] for one in shown]
    figure.add_trace(_joins(shown, heights))
    keys = [one.timed.key for one in shown]
    common = {"y": heights, "customdata": keys, "text": [_hover(one, y, candidates) for one in shown]}
    common |= {"mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    colors = [FRONT if key in front else DOMINATED for key in keys]
    ideal = {"color": colors, "size": 8, "symbol": "circle-open", "line": {"width": 1.5}}
    figure.add_trace(go.Scatter(x=[one.ideal_ms for one in shown], marker=ideal, name="ideal", **common))
    bars = {
        "array": [one.timed.interval_ms[1] - one.timed.measured_ms for one in shown],
        "arrayminus": [one.timed.measured_ms - one.timed.interval_ms[0] for one in shown],
        "color": LINE,
        "thickness": 1,
        "width": 3,
    }
    taken = {"x": [one.timed.measured_ms for one in shown], "error_x": bars, "name": "measured"}
    figure.add_trace(go.Scatter(**taken, marker={"color": colors, "size": 8}, **common))
    figure.update_xaxes(type="log", dtick="D2")
    figure.update_layout(uirevision=f"gap {y.key}")
    return titled(figure, f"{TIME.label}, logarithmic", y.label)


def _joins(gaps: Sequence[Gap], heights: Sequence[float]) -> go.Scatter:
    return go.Scatter(
        x=[end for one in gaps for end in (one.ideal_ms, one.timed.measured_ms, None)],
        y=[end for height in heights for end in (height, height, None)],
        mode="lines",
        line={"color": LINE, "width": 1},
        opacity=0.35,
        hoverinfo="skip",
        name="gap",
        showlegend=False,
    )


def _hover(one: Gap, y: Quantity, candidates: Mapping[str, Candidate]) -> str:
    timed = one.timed
    lines = [
        f"<b>{timed.key}</b>",
        f"{y.name}: {y.text(candidates[timed.key].values[y.key])}, {y.source}",
        f"efficiency: {number(100 * one.efficiency)} % of the peak",
        f"latency: {TIME.text(timed.measured_ms)} (95 %: {TIME.interval_text(*timed.interval_ms)}), measured",
        f"ideal: {TIME.text(one.ideal_ms)}, counted operations at the measured peak",
        f"MACs: {number(timed.macs)}, counted",
    ]
    return "<br>".join(lines)


# -- the waterline -----------------------------------------------------------------------------


def waterline(found: Explained) -> go.Figure:
    """A bar per step in the order in which they ran, as wide as the bytes that it moves and as high as its
    operations per byte: its area is its operations. What is missing below the waterline is lost for memory."""
    figure = go.Figure(layout=LAYOUT)
    steps, ridge = [one for one in found.steps if one.bytes], found.peaks.ridge(found.footprint)
    ends = list(accumulate(one.bytes for one in steps))
    for above, name, color in (
        (True, "above the waterline: arithmetic is the limit", FRONT),
        (False, "below: memory is", INFEASIBLE),
    ):
        own = [(one, end) for one, end in zip(steps, ends, strict=True) if (one.intensity >= ridge) is above]
        figure.add_trace(_bars(own, [one.intensity for one, _ in own], name=name, marker={"color": color}))
    below = [(one, end) for one, end in zip(steps, ends, strict=True) if one.intensity < ridge]
    lost = [ridge - one.intensity for one, _ in below]
    floors = [one.intensity for one, _ in below]
    figure.add_trace(_bars(below, lost, base=floors, name="arithmetic that is lost", marker={"color": LOST}))
    figure.update_traces(marker={"line": {"color": "white", "width": 0.5}})
    figure.add_trace(
        go.Scatter(
            x=[0, ends[-1]],
            y=[ridge, ridge],
            mode="lines",
            line={"color": INK, "width": 1.5, "dash": "dash"},
            name=f"waterline: {ridge:.3g} operations per byte",
            hoverinfo="skip",
        )
    )
    figure.update_layout(barmode="overlay", uirevision="waterline", bargap=0)
    figure.update_xaxes(tickformat="~s", ticksuffix="B", range=[0, ends[-1]])
    return titled(figure, "bytes moved, counted", "operations per byte, counted")


def _bars(placed: Sequence[tuple[Step, int]], heights: Sequence[float], **style) -> go.Bar:
    return go.Bar(
        x=[end - one.bytes / 2 for one, end in placed],
        width=[one.bytes for one, _ in placed],
        y=heights,
        text=[_of_step(one) for one, _ in placed],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
        **style,
    )


def _of_step(one: Step) -> str:
    lines = [f"<b>{one.name}</b> ({one.kind})", f"{TIME.text(one.milliseconds)}, measured"]
    lines.append(f"{number(one.macs)} MACs, {number(one.bytes)}B, counted")
    lines += [] if one.intensity is None else [f"{one.intensity:.3g} operations per byte"]
    lines.append(f"wastes {TIME.text(one.wasted_ms)}" + (f", to blame: {one.blame}" if one.blame else ""))
    return "<br>".join(lines)


# -- where the time goes -----------------------------------------------------------------------


def blocks(found: Explained, operators: Mapping[str, str]) -> go.Figure:
    """What each block takes, or each step where no block is known, in the order of the network.

    Args:
        operators: of the blocks, by their names; written beside them where there is room.
    """
    places = list(found.blocks.values()) or list(found.steps)
    known = operators if len(places) <= ROOM else {}
    names = [f"{one.name}<br>{known[one.name]}" if one.name in known else one.name for one in places]
    figure = _stacked(names, [_parts(one) for one in places], list(map(_of_step, places)))
    figure.update_layout(uirevision="blocks", showlegend=True)
    figure.update_xaxes(type="category", showgrid=False)
    return titled(figure, "", TIME.label)


def _parts(one: Step) -> tuple[float, ...]:
    """The time of a step in parts that add up to it, none below zero: where it was faster than held attainable, what
    the model wastes is less than it was held to be."""
    ideal = min(one.ideal_ms, one.milliseconds)
    model = min(one.model_ms, one.milliseconds - ideal)
    return ideal, model, one.milliseconds - ideal - model


def _stacked(names: Sequence[str], parts: Sequence[tuple[float, ...]], texts: Sequence[str]) -> go.Figure:
    figure = go.Figure(layout=LAYOUT)
    for (part, color), heights in zip(PARTS.items(), zip(*parts, strict=True), strict=False):
        figure.add_trace(
            go.Bar(
                x=list(names),
                y=list(heights),
                name=part,
                marker={"color": color},
                text=list(texts),
                textposition="none",
                hovertemplate=f"%{{text}}<br>{part}: %{{y:.4f}} ms<extra></extra>",
            )
        )
    figure.update_layout(barmode="stack", bargap=0.35, legend={"traceorder": "normal"})
    return figure


def candidates(found: Sequence[Explained]) -> go.Figure:
    """The times of several candidates beside each other, each in its four parts, the fastest first."""
    rising = sorted(found, key=lambda one: one.measured_ms)
    parts = [(*_of_network(one), max(one.outside_ms, 0.0)) for one in rising]
    figure = _stacked([one.name for one in rising], parts, [f"<b>{one.name}</b>" for one in rising])
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_layout(uirevision="candidates")
    return titled(figure, "", TIME.label)


def _of_network(one: Explained) -> tuple[float, ...]:
    return tuple(map(sum, zip(*(_parts(step) for step in one.steps), strict=True)))
