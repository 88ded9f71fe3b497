"""Latency records of a run in, plotly figures out; pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.figures import DOMINATED, FRONT, INFEASIBLE, LAYOUT, LINE, empty, titled
from dashboard.timings import Timing
from dashboard.words import NUMBER, Quantity

LATENCY = Quantity("latency_ms", "latency", "ms")
SLOWER = Quantity("slower", "above the fastest", "%")


def certainty(timings: Sequence[Timing]) -> go.Figure:
    """Every candidate's median with its 95 % interval, on the range from the 10th to the 90th percentile."""
    figure = go.Figure(layout=LAYOUT)
    rising = sorted(timings, key=lambda one: one.median)
    places = list(range(1, len(rising) + 1))
    low, high = (np.array([one.spread[side] for one in rising]) for side in (0, 1))
    figure.add_trace(
        go.Scatter(
            x=places + places[::-1],
            y=[*high, *low[::-1]],
            fill="toself",
            fillcolor="rgba(143, 155, 166, 0.25)",
            line={"width": 0},
            hoverinfo="skip",
            name="10th to 90th percentile of the runs",
        )
    )
    medians = np.array([one.median for one in rising])
    ends = np.array([one.interval for one in rising])
    figure.add_trace(
        go.Scatter(
            x=places,
            y=medians,
            error_y={
                "array": ends[:, 1] - medians,
                "arrayminus": medians - ends[:, 0],
                "color": FRONT,
                "thickness": 1,
                "width": 2,
            },
            mode="markers",
            marker={"color": [INFEASIBLE if one.troubles else FRONT for one in rising], "size": 5},
            text=[_hover(one) for one in rising],
            hovertemplate="%{text}<extra></extra>",
            name="median, 95 % interval; orange: disturbed",
        )
    )
    figure.update_yaxes(rangemode="tozero")
    return titled(figure, "candidates, the fastest first", LATENCY.label)


def drift(timings: Sequence[Timing]) -> go.Figure:
    """How much slower the reference network was during each measurement than at the best of the run.

    Records from before measurements had rounds of it say what it took before and after.
    """
    figure = go.Figure(layout=LAYOUT)
    having = [one for one in timings if one.reference]
    if not having:
        return empty(figure, NUMBER, SLOWER, "no reference network was timed")
    times = np.array([one.reference for one in having])
    slower = 100 * (times / times.min() - 1)
    for side, name, color in ((0, "first half", DOMINATED), (1, "second half", FRONT)):
        figure.add_trace(
            go.Scatter(
                x=[one.number for one in having],
                y=slower[:, side],
                mode="markers",
                marker={"color": color, "size": 5},
                name=f"{name} of the measurement",
                hovertemplate=f"{name} of candidate %{{x}}: %{{y:.1f}} % above the fastest<extra></extra>",
            )
        )
    figure.add_hline(
        float(np.median(slower)),
        line={"color": LINE, "width": 1, "dash": "dot"},
        annotation={"text": "median", "font": {"color": LINE}},
        annotation_position="top right",
    )
    figure.update_yaxes(rangemode="tozero")
    return titled(figure, NUMBER.label, SLOWER.label)


def _hover(one: Timing) -> str:
    lines = [
        f"<b>{one.key}</b>",
        f"median {LATENCY.text(one.median)} (95 %: {LATENCY.interval_text(*one.interval)})",
        f"10th to 90th percentile {LATENCY.interval_text(*one.spread)}",
        *one.troubles,
    ]
    return "<br>".join(lines)
