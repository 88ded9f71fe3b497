"""Records in, plotly figures out; pure. Knows neither Dash nor the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go

from dashboard.standing import Standing
from dashboard.words import NUMBER, Quantity, architecture_lines, count, number, quantities, source
from nas.pareto import nondominated
from nas.report import course_as_json
from nas.storage.records import Candidate, Constraint, Latency, Run, TrainingPoint

INK, LINE, GRID = "#22303c", "#7b8a97", "#e6eaee"
FRONT, DOMINATED, INFEASIBLE, LIMIT = "#1f5f8b", "#8f9ba6", "#c2571a", "#c2571a"
MARGIN = 0.06  # of an axis, beyond what is shown
VERY_MANY = 2000  # points; beyond, they are drawn small, and by WebGL

LAYOUT = go.Layout(
    font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
    paper_bgcolor="white",
    plot_bgcolor="white",
    margin={"l": 64, "r": 16, "t": 12, "b": 52},
    hoverlabel={"align": "left", "bgcolor": "white", "bordercolor": LINE, "font": {"size": 12, "color": INK}},
    hovermode="closest",
    legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom"},
    xaxis={"gridcolor": GRID, "linecolor": LINE, "ticks": "outside", "tickcolor": LINE, "zeroline": False},
    yaxis={"gridcolor": GRID, "linecolor": LINE, "ticks": "outside", "tickcolor": LINE, "zeroline": False},
)


# -- the front ---------------------------------------------------------------------------------


def front(run: Run, standing: Standing, x: Quantity, y: Quantity) -> go.Figure:
    """The candidates of a run, y over x: the front joined by its edge, the dominated faded, the infeasible crossed.

    Every point carries its candidate's key in `customdata`. Intervals are drawn of the front, where they do not hide
    the points; the first trace is for those of a point that is pointed at, which `pointed_at` gives.
    """
    figure = go.Figure(layout=LAYOUT)
    standing = _numbered(standing) if NUMBER in (x, y) else standing
    shown = _shown(standing, x, y)
    everyone = [one for group in shown.values() for one in group]
    if not everyone:
        return empty(figure, x, y, _nothing(run, standing))
    # WebGL lies above everything else, so it is all or nothing
    kind = go.Scattergl if len(everyone) > VERY_MANY else go.Scatter
    figure.add_trace(_pointer(kind))
    for group, style in (("dominated", _faded(len(everyone))), ("infeasible", _crossed(len(everyone)))):
        if shown[group]:
            points = _points(run, standing, shown[group], x, y)
            figure.add_trace(kind(**points, name=group, mode="markers", marker=style))
    hidden = too_wide(standing, x, y)
    if shown["front"]:
        figure.add_trace(_edge(kind, shown["front"], x, y))
        points = _points(run, standing, shown["front"], x, y)
        marker = {"color": FRONT, "size": 10, "line": {"color": "white", "width": 1}}
        bars = _bars(shown["front"], x, y, FRONT, hidden)
        figure.add_trace(kind(**points, **bars, name="front", mode="markers", marker=marker))
    if standing.knee in shown["front"]:
        figure.add_trace(_ring(kind, standing.knee, x, y))
    limits = _limits(figure, run.constraints, everyone, x, y)
    for axis, what in (("x", x), ("y", y)):
        barred = [] if what in hidden else shown["front"]
        _fit(figure, axis, what, everyone, barred, limits[axis])
    figure.update_layout(uirevision=f"{x.key} {y.key}")  # a redraw keeps the zoom
    return titled(figure, x.label, y.label)


def growth(run: Run, candidates: Sequence[Candidate]) -> go.Figure:
    """The hypervolume of the front after each candidate, as a share of the last one."""
    figure = go.Figure(layout=LAYOUT)
    told = course_as_json(run, candidates)
    if not told or not told[-1]["hypervolume_share"]:
        return empty(figure, NUMBER, REACHED, "nothing is on the front yet")
    figure.add_trace(
        go.Scatter(
            x=[one["number"] for one in told],
            y=[100 * one["hypervolume_share"] for one in told],
            mode="lines",
            line={"color": FRONT, "width": 1.5, "shape": "hv"},
            customdata=[[one["candidate"]] for one in told],
            text=[f"{number(one['seconds'], 's')} s of evaluating" for one in told],
            hovertemplate="%{y:.2f} % after candidate %{x:,} (%{customdata[0]}), %{text}<extra></extra>",
        )
    )
    figure.update_layout(uirevision="growth", showlegend=False, hovermode="x")
    figure.update_yaxes(range=[0, 103])
    return titled(figure, NUMBER.label, REACHED.label)


REACHED = Quantity("hypervolume", "hypervolume", "%")


def _numbered(standing: Standing) -> Standing:
    """With the numbers of the candidates among their values."""
    groups = ("dominated", "incomplete", "infeasible", "front")
    knee = standing.knee and _with_number(standing.knee)
    numbered = {group: [_with_number(one) for one in getattr(standing, group)] for group in groups}
    return replace(standing, knee=knee, **numbered)


def _with_number(candidate: Candidate) -> Candidate:
    return replace(candidate, values={**candidate.values, NUMBER.key: candidate.number})


def _shown(standing: Standing, x: Quantity, y: Quantity) -> dict[str, list[Candidate]]:
    """The candidates that have both values, by where they stand."""
    return {
        group: [one for one in candidates if x.key in one.values and y.key in one.values]
        for group, candidates in (
            ("dominated", [*standing.dominated, *standing.incomplete]),
            ("infeasible", standing.infeasible),
            ("front", standing.front),
        )
    }


def too_wide(standing: Standing, x: Quantity, y: Quantity) -> list[Quantity]:
    """The axes on which an interval of the front is, by the median, longer than all points are apart: drawn, they
    would hide these. So it is of predictions that tell little."""
    shown = _shown(standing, x, y)
    found = []
    for what in (x, y):
        lengths = [high - low for low, high in _intervals(shown["front"], what)]
        apart = np.ptp([one.values[what.key] for group in shown.values() for one in group] or [0.0])
        if lengths and 0 < apart < np.median(lengths):
            found.append(what)
    return found


def _intervals(candidates: Iterable[Candidate], what: Quantity) -> list[tuple[float, float]]:
    return [one.intervals[what.key] for one in candidates if what.key in one.intervals]


def _fit(
    figure: go.Figure,
    axis: str,
    what: Quantity,
    points: Sequence[Candidate],
    barred: Sequence[Candidate],
    limits: Sequence[float],
) -> None:
    """Let an axis show all points, bars and limits, and stay as it is when a longer bar is pointed at."""
    ends = [end for interval in _intervals(barred, what) for end in interval]
    values = np.array([*(one.values[what.key] for one in points), *ends, *limits])
    finite = values[np.isfinite(values)]
    if len(finite) and (low := finite.min()) < (high := finite.max()):
        reach = {"range": [low - MARGIN * (high - low), high + MARGIN * (high - low)]}
        figure.update_layout({f"{axis}axis": reach})


def _pointer(kind: type) -> go.Scatter | go.Scattergl:
    return kind(
        x=[],
        y=[],
        mode="markers",
        marker={"symbol": "circle-open", "color": INK, "size": 12, "line": {"width": 1.5}},
        name="pointed at",
        hoverinfo="skip",
        showlegend=False,
    )


def pointed_at(candidate: Candidate | None, x: Quantity, y: Quantity) -> dict[str, object]:
    """What the first trace of `front` becomes: a ring around a candidate with its intervals; none around None."""
    candidate = _with_number(candidate) if candidate and NUMBER in (x, y) else candidate
    several = [candidate] if candidate and {x.key, y.key} <= set(candidate.values) else []
    places = {axis: [one.values[what.key] for one in several] for axis, what in (("x", x), ("y", y))}
    return {**places, "error_x": None, "error_y": None, **_bars(several, x, y, INK)}


def _points(
    run: Run, standing: Standing, candidates: Sequence[Candidate], x: Quantity, y: Quantity
) -> Mapping[str, object]:
    knee = standing.knee.key if standing.knee else None
    return {
        "x": [one.values[x.key] for one in candidates],
        "y": [one.values[y.key] for one in candidates],
        "customdata": [one.key for one in candidates],
        "text": [hover(run, one, " · knee" if one.key == knee else "") for one in candidates],
        "hovertemplate": "%{text}<extra></extra>",
    }


def hover(run: Run, candidate: Candidate, remark: str = "") -> str:
    """A candidate in short: its key, its values with units, its architecture."""
    lines = [f"<b>{candidate.key}</b>{remark}"]
    for what in quantities(run, [candidate]):
        if what.key in candidate.values:
            interval = candidate.intervals.get(what.key)
            spread = f" (95 %: {what.interval_text(*interval)})" if interval else ""
            lines.append(
                f"{what.name}: {what.text(candidate.values[what.key])}{spread}, {source(what, candidate)}"
            )
        if what.key in candidate.again:
            value, *interval = candidate.again[what.key]
            lines.append(f"{what.name}, again: {what.text(value)} (95 %: {what.interval_text(*interval)})")
    return "<br>".join([*lines, "", *architecture_lines(candidate.architecture, run.dims)])


def _bars(
    candidates: Sequence[Candidate], x: Quantity, y: Quantity, color: str, hidden: Sequence[Quantity] = ()
) -> Mapping[str, object]:
    bars = {}
    for axis, what in (("error_x", x), ("error_y", y)):
        if what not in hidden and _intervals(candidates, what):
            values = np.array([one.values[what.key] for one in candidates])
            low, high = np.array([one.interval(what.key) for one in candidates]).T
            bars[axis] = {
                "array": high - values,
                "arrayminus": values - low,
                "color": color,
                "thickness": 1,
                "width": 3,
            }
    return bars


def _faded(total: int) -> dict:
    few = total <= VERY_MANY
    return {"color": DOMINATED, "size": 7 if few else 4, "opacity": 0.45 if few else 0.3}


def _crossed(total: int) -> dict:
    return {"color": INFEASIBLE, "size": 7 if total <= VERY_MANY else 5, "opacity": 0.6, "symbol": "x"}


def _edge(kind: type, front: Sequence[Candidate], x: Quantity, y: Quantity) -> go.Scatter | go.Scattergl:
    """The staircase that bounds what the front dominates in this view.

    With more than two objectives, or other axes, a point of the front may lie behind it.
    """
    points = np.array([[one.values[x.key], one.values[y.key]] for one in front], float)
    signs = np.array([-1 if what.goal == "maximize" else 1 for what in (x, y)])
    edge = points[nondominated(points * signs)] if x.goal and y.goal else points[:0]
    edge = edge[np.lexsort((edge[:, 1], edge[:, 0]))]
    shape = "vh" if x.goal == "maximize" else "hv"
    return kind(
        x=edge[:, 0],
        y=edge[:, 1],
        mode="lines",
        line={"color": FRONT, "width": 1.5, "shape": shape},
        name="edge of the front",
        hoverinfo="skip",
        showlegend=False,
    )


def _ring(kind: type, knee: Candidate, x: Quantity, y: Quantity) -> go.Scatter | go.Scattergl:
    """A ring around the knee; its name stands on the side of the ideal, where nothing else can be."""
    side = f"{'top' if y.goal == 'maximize' else 'bottom'} {'right' if x.goal == 'maximize' else 'left'}"
    return kind(
        x=[knee.values[x.key]],
        y=[knee.values[y.key]],
        customdata=[knee.key],
        mode="markers+text",
        text=["knee"],
        textposition=side,
        textfont={"color": FRONT, "weight": "bold"},
        marker={"symbol": "circle-open", "color": FRONT, "size": 19, "line": {"width": 2}},
        name="knee",
        hoverinfo="skip",
        **({"cliponaxis": False} if kind is go.Scatter else {}),  # at the axis its name would be cut
    )


def _limits(
    figure: go.Figure, constraints: Iterable[Constraint], shown: Sequence[Candidate], x: Quantity, y: Quantity
) -> dict[str, list[float]]:
    """The constraints' limits as lines; one far from everything shown as a word at that edge. The lines, by axis."""
    lines = {"x": [], "y": []}
    for limit in constraints:
        for axis, what in (("x", x), ("y", y)):
            if limit.key == what.key:
                values = np.array([one.values[what.key] for one in shown])
                for sign, bound in (("≥", limit.min), ("≤", limit.max)):
                    if bound is not None and _limit(
                        figure, axis, bound, f"{sign} {what.limit_text(bound)}", values
                    ):
                        lines[axis].append(bound)
    return lines


def _limit(figure: go.Figure, axis: str, value: float, text: str, values: np.ndarray) -> bool:
    """Whether it is a line."""
    font, reach = {"color": LIMIT}, 0.5 * np.ptp(values)
    beyond = value > values.max() + reach
    if not beyond and value >= values.min() - reach:
        draw = figure.add_vline if axis == "x" else figure.add_hline
        position = "top right" if axis == "x" else "top left"
        line = {"color": LIMIT, "width": 1.5, "dash": "dash"}
        draw(value, line=line, annotation={"text": text, "font": font}, annotation_position=position)
        return True
    place = {"xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "top", "x": 1, "y": 1}
    if axis == "x":
        place |= {"yanchor": "bottom", "y": 0} | ({} if beyond else {"xanchor": "left", "x": 0})
        text = f"limit {text} →" if beyond else f"← limit {text}"
    else:
        place |= {} if beyond else {"yanchor": "bottom", "y": 0.06}
        text = f"limit {text} ↑" if beyond else f"limit {text} ↓"
    figure.add_annotation(text=text, font=font, showarrow=False, **place)
    return False


def _nothing(run: Run, standing: Standing) -> str:
    if standing.failed and not (standing.front or standing.dominated or standing.infeasible):
        return f"{count(len(standing.failed), 'candidate')}, all failed: see why below"
    if standing.front or standing.dominated or standing.infeasible or standing.incomplete:
        return "no candidate has both values"
    waits = {"created": "it has not begun", "training": "the supernet is being trained"}
    return f"no candidates yet{': ' + waits[run.status] if run.status in waits else ''}"


# -- training ----------------------------------------------------------------------------------

CURVES = {
    "loss": Quantity("loss", "training loss", "nats"),
    "learning_rate": Quantity("learning_rate", "learning rate", ""),
    "images_per_second": Quantity("images_per_second", "images per second", "1/s"),
}
OTHERS = {
    "macs": Quantity("macs", "MACs", ""),
    "deviation": Quantity("deviation", "largest |t|", ""),
}


def curve_keys(points: Sequence[TrainingPoint]) -> list[str]:
    """What can be drawn over the steps, the known ones first; bins are drawn by `bins`."""
    seen = {key for point in points for key in point.values if "/" not in key}
    return [*CURVES, *sorted(seen - set(CURVES))]


def curve(points: Sequence[TrainingPoint], key: str) -> go.Figure:
    """One value over the training steps."""
    what = (CURVES | OTHERS).get(key, Quantity(key, key.replace("_", " "), ""))
    figure = go.Figure(layout=LAYOUT)
    having = [point for point in points if key in point.values]
    if not having:
        return empty(figure, STEP, what, "nothing recorded yet")
    figure.add_trace(
        go.Scatter(
            x=[point.step for point in having],
            y=[point.values[key] for point in having],
            mode="lines+markers" if len(having) < 60 else "lines",
            line={"color": FRONT, "width": 1.5},
            marker={"size": 5},
            hovertemplate=f"step %{{x:,}}<br>{what.name}: %{{y:.4g}} {what.unit}<extra></extra>",
        )
    )
    figure.update_layout(uirevision=key, showlegend=False)
    if key == "images_per_second":
        figure.update_yaxes(rangemode="tozero")
    return titled(figure, STEP.label, what.label)


STEP = Quantity("step", "training step", "")


def bins(points: Sequence[TrainingPoint], unit: str = "MACs") -> go.Figure:
    """How the shift sampler shares its draws among bins of a cost in `unit`, over the training steps."""
    figure = go.Figure(layout=LAYOUT)
    having = [point for point in points if "probability/0" in point.values]
    share = Quantity("share", "share of the draws", "%")
    if not having:
        return empty(figure, STEP, share, "this sampler has no cost bins")
    last = having[-1].values
    total = sum(1 for key in last if key.startswith("probability/"))
    for k, color in enumerate(shades(total)):
        figure.add_trace(
            go.Scatter(
                x=[point.step for point in having],
                y=[100 * point.values.get(f"probability/{k}", np.nan) for point in having],
                stackgroup="bins",
                mode="lines",
                line={"width": 0.5, "color": "white"},
                fillcolor=color,
                name=_bin_name(last, k, unit),
                hovertemplate=f"%{{y:.1f}} % · {_bin_name(last, k, unit)}<extra></extra>",
            )
        )
    for k in range(1, total):
        figure.add_hline(100 * k / total, line={"color": INK, "width": 0.7, "dash": "dot"}, opacity=0.5)
    figure.update_layout(
        hovermode="x unified",
        uirevision="bins",
        legend={"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top", "traceorder": "reversed"},
    )
    figure.update_yaxes(range=[0, 100])
    return titled(figure, STEP.label, share.label)


def _bin_name(values: Mapping[str, float], k: int, unit: str) -> str:
    """A bin by the range of its costs."""
    high = values.get(f"edge/{k}")
    if high is None:
        return f"bin {k + 1}"
    low = values.get(f"edge/{k - 1}")
    return f"up to {number(high)} {unit}" if low is None else f"{number(low)} to {number(high)} {unit}"


def shades(several: int) -> list[str]:
    """From light to dark, cheap to costly."""
    light, dark = np.array([205, 224, 238]), np.array([22, 66, 104])
    mixes = [light + (dark - light) * k / max(several - 1, 1) for k in range(several)]
    return [f"rgb({', '.join(str(round(channel)) for channel in mix)})" for mix in mixes]


# -- latency -----------------------------------------------------------------------------------


def latency(record: Latency) -> go.Figure:
    """How often each time was seen: on the clock that counts, and on the wall."""
    figure = go.Figure(layout=LAYOUT)
    samples, wall = np.array(record.samples_ms), np.array(record.wall_ms)
    times = {f"{record.clock} time": (samples, FRONT)}
    if record.clock != "wall":
        times["wall time"] = (wall, DOMINATED)
    # a few far outliers must not squeeze everything else into one bar
    start, end = (
        min(some.min() for some, _ in times.values()),
        max(_fence(some) for some, _ in times.values()),
    )
    size = max((end - start) / 30, 1e-9)
    for name, (some, color) in times.items():
        figure.add_trace(
            go.Histogram(
                x=np.minimum(some, end),
                xbins={"start": start, "end": end + size, "size": size},
                name=name,
                marker={"color": color},
                opacity=0.75,
                hovertemplate=f"%{{y}} runs of %{{x}} ms<extra>{name}</extra>",
            )
        )
    beyond = sum(int((some > end).sum()) for some, _ in times.values())
    low, high = record.interval_ms
    figure.add_vrect(low, high, fillcolor=FRONT, opacity=0.15, line_width=0)
    figure.add_vline(
        record.median_ms,
        line={"color": FRONT, "width": 1.5},
        annotation={"text": f"median {number(record.median_ms, 'ms')} ms", "font": {"color": FRONT}},
        annotation_position="top",
    )
    note = f"{count(beyond, 'run')} beyond {number(end, 'ms')} ms in the last bar" if beyond else ""
    corner = {"x": 1, "xanchor": "right", "y": 0.99, "yanchor": "top"}
    margin = {"t": 28, "b": 72 if note else 52}
    figure.update_layout(barmode="overlay", bargap=0.04, margin=margin, legend=corner)
    below = f"<br><span style='font-size:12px'>{note}</span>" if note else ""
    return titled(figure, f"time of one batch (ms){below}", "runs")


def _fence(times: np.ndarray) -> float:
    """The largest time that is no far outlier: three interquartile ranges above the upper quartile."""
    low, high = np.percentile(times, [25, 75])
    return float(min(times.max(), high + 3 * (high - low)))


# -- common ------------------------------------------------------------------------------------


def titled(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_xaxes(title={"text": x, "standoff": 8})
    figure.update_yaxes(title={"text": y, "standoff": 8})
    return figure


def empty(figure: go.Figure, x: Quantity, y: Quantity, why: str) -> go.Figure:
    """Axes without ticks, and why there is nothing to draw."""
    figure.add_annotation(
        text=why, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 15, "color": LINE}
    )
    figure.update_xaxes(showticklabels=False, showgrid=False, ticks="")
    figure.update_yaxes(showticklabels=False, showgrid=False, ticks="")
    return titled(figure, x.label, y.label)
