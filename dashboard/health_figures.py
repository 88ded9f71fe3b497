"""A supernet's health in, plotly figures out; pure. Knows neither Dash nor the store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from dashboard.figures import DOMINATED, FRONT, INFEASIBLE, INK, LAYOUT, VERY_MANY, empty, shades, titled
from dashboard.words import Quantity, number
from nas.health_view import bin_name, columns, interval
from nas.rank_statistics import Estimate
from nas.ranking import PER_BIN, Compared, Health

INHERITED = Quantity("inherited", "inherited accuracy", "%")
ALONE = Quantity("alone", "accuracy alone", "%")
ACCURACY = Quantity("accuracy", "accuracy", "%")
MACS = Quantity("macs", "MACs", "MACs")
DIFFERENCE = Quantity("difference", "mean rank difference", "")
SHARE = Quantity("share", "share of the draws", "%")
WAYS = (  # in which an architecture was measured: of `Compared`, in words, how it is marked
    ("alone", "alone", {"color": DOMINATED, "symbol": "circle"}),
    ("inherited", "inherited", {"color": FRONT, "symbol": "circle"}),
    ("uncalibrated", "inherited, one set of statistics for all", {"color": INFEASIBLE, "symbol": "x"}),
)


def agreement(health: Health) -> go.Figure:
    """Accuracy alone over inherited accuracy, a colour per cost bin; on the dotted line they are equal. Against a
    table its values, in their own unit."""
    figure = go.Figure(layout=LAYOUT)
    truth = ALONE if health.table is None else Quantity("alone", columns(health.table), "")
    if not health.compared:
        return empty(figure, INHERITED, truth, "nothing was measured both ways yet")
    kind = go.Scattergl if len(health.compared) > VERY_MANY else go.Scatter
    groups = [(bin_name(one), number) for number, one in enumerate(health.bins)]
    groups += [("not known", None)] if any(one.bin is None for one in health.compared) else []
    for (name, place), color in zip(groups, shades(len(groups)), strict=True):
        several = [one for one in health.compared if one.bin == place]
        figure.add_trace(
            kind(
                x=[one.inherited for one in several],
                y=[one.alone for one in several],
                customdata=[one.key for one in several],
                text=[_hover(one, truth) for one in several],
                hovertemplate="%{text}<extra></extra>",
                mode="markers",
                marker={"color": color, "size": 10, "line": {"color": FRONT, "width": 1}},
                name=name,
            )
        )
    if health.table is None:
        _equality(figure, health.compared)
    legend = {"title": {"text": "MACs:"}, "font": {"size": 12}}
    figure.update_layout(uirevision="agreement", showlegend=True, legend=legend)
    return titled(figure, INHERITED.label, truth.label)


def _hover(one: Compared, truth: Quantity) -> str:
    mean = f" (mean of {one.seeds})" if one.seeds > 1 else ""
    lines = [
        f"<b>{one.key}</b>",
        f"inherited: {INHERITED.text(one.inherited)}",
        f"{'alone' if truth is ALONE else truth.name}: {truth.text(one.alone)}{mean}",
        f"rank difference: {one.difference:+.3f}",
    ]
    return "<br>".join([*lines, *([f"MACs: {number(one.macs)}"] if one.macs is not None else [])])


def _equality(figure: go.Figure, compared: Sequence[Compared]) -> None:
    """The line on which both are equal, as far as it is within what is shown; a word if it is not."""
    inherited = np.array([one.inherited for one in compared])
    alone = np.array([one.alone for one in compared])
    low, high = max(inherited.min(), alone.min()), min(inherited.max(), alone.max())
    if low < high:
        line = {"color": INK, "width": 1, "dash": "dot"}
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=line, layer="below")
        return
    text, y, side = ("above", 0.99, "top") if inherited.min() > alone.max() else ("below", 0.02, "bottom")
    figure.add_annotation(
        text=f"equal accuracies lie {text}",
        font={"color": INK},
        showarrow=False,
        **{"xref": "paper", "yref": "paper", "x": 0.99, "xanchor": "right", "y": y, "yanchor": side},
    )


# -- bias --------------------------------------------------------------------------------------


def bin_bias(health: Health) -> go.Figure:
    """The mean rank difference of each cost bin, the cheapest below."""
    bins = health.bins if len(health.bins) > 1 else ()  # all together have none
    why = f"cost bins need {2 * PER_BIN} architectures"
    return _bias([bin_name(one) for one in bins], [one.difference for one in bins], why)


def usage_bias(health: Health) -> go.Figure:
    """The mean rank difference of the networks that use something, the most underestimated above."""
    usages = health.usages[::-1]
    why = "nothing was measured both ways yet"
    return _bias([one.name for one in usages], [one.difference for one in usages], why)


def _bias(names: Sequence[str], differences: Sequence[Estimate], why_empty: str) -> go.Figure:
    """A bar per name with its 95 % interval, if it has one; blue where that excludes 0."""
    figure = go.Figure(layout=LAYOUT)
    if not names:
        return empty(figure, DIFFERENCE, Quantity("name", "", ""), why_empty)
    values = np.array([one.value for one in differences])
    low, high = (np.array([getattr(one, end) for one in differences], float) for end in ("low", "high"))
    bars = {"array": high - values, "arrayminus": values - low, "color": INK, "thickness": 1, "width": 3}
    figure.add_trace(
        go.Bar(
            x=values,
            y=list(names),
            orientation="h",
            error_x=bars,
            marker={"color": [FRONT if one.is_zero_outside else DOMINATED for one in differences]},
            text=[f"{one.value:+.3f} (95 %: {interval(one, '+.3f')})" for one in differences],
            textposition="none",
            hovertemplate="%{y}<br>%{text}<extra></extra>",
        )
    )
    figure.add_vline(0, line={"color": INK, "width": 1})
    reach = 1.08 * max(0.05, np.nanmax(np.abs([low, high, values])))
    figure.update_layout(showlegend=False, bargap=0.35, uirevision="bias")
    figure.update_xaxes(range=[-reach, reach])
    figure.update_yaxes(automargin=True, ticks="", type="category")
    return titled(figure, DIFFERENCE.label, "")


# -- cost --------------------------------------------------------------------------------------


def sampled(health: Health) -> go.Figure:
    """How often the supernet's training drew each cost; dotted where it would be equally often."""
    figure = go.Figure(layout=LAYOUT)
    if health.sampled is None or not sum(health.sampled.counts):
        return empty(figure, MACS, SHARE, "the training did not record what it sampled")
    edges, counts = np.array(health.sampled.edges), np.array(health.sampled.counts)
    share = 100 * counts / counts.sum()
    figure.add_trace(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=share,
            width=np.diff(edges),
            customdata=[f"{number(low)} to {number(high)} MACs" for low, high in pairwise(edges)],
            text=[f"{several:,}" for several in counts],
            textposition="none",
            hovertemplate="%{customdata}<br>%{y:.1f} %, %{text} draws<extra></extra>",
            marker={"color": FRONT, "line": {"color": "white", "width": 1}},
        )
    )
    figure.add_hline(100 / len(counts), line={"color": INK, "width": 0.7, "dash": "dot"})
    figure.update_layout(showlegend=False, uirevision="sampled")
    return titled(figure, MACS.label, SHARE.label)


def accuracy_over_cost(health: Health) -> go.Figure:
    """Accuracy over MACs, alone and inherited, with batch-norm statistics of its own and with one set for all; of a
    table nothing, which has a unit of its own."""
    figure = go.Figure(layout=LAYOUT)
    kind = go.Scattergl if len(health.compared) > VERY_MANY else go.Scatter
    for way, name, marker in WAYS if health.table is None else WAYS[1:]:
        points = [
            (one.macs, accuracy, one.key)
            for one in health.compared
            if one.macs is not None and (accuracy := getattr(one, way)) is not None
        ]
        if points:
            macs, values, keys = zip(*points, strict=True)
            figure.add_trace(
                kind(
                    x=macs,
                    y=values,
                    customdata=keys,
                    mode="markers",
                    marker={**marker, "size": 7},
                    name=name,
                    hovertemplate=f"<b>%{{customdata}}</b><br>{name}: %{{y:.2f}} %<br>%{{x:.3s}} MACs<extra></extra>",
                )
            )
    if not figure.data:
        return empty(figure, MACS, ACCURACY, "nothing was measured both ways yet")
    figure.update_layout(uirevision="cost", showlegend=True)
    return titled(figure, MACS.label, ACCURACY.label)
