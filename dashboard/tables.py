"""Records in, rows and columns out; pure. Columns are AG Grid's, their headers carry the units."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard import routes, words
from dashboard.standing import Standing
from dashboard.words import Quantity, quantity
from nas.objectives import KEYS
from nas.storage.records import Candidate, Export, Latency, Objective, Run

Rows = list[dict]
LINK = {"cellRenderer": "PageLink", "pinned": "left", "cellClass": "key", "width": 118, "flex": 0}


def run_table(runs: Sequence[tuple[Run, Standing]]) -> tuple[list[dict], Rows]:
    """Columns and rows of the list of runs: for each objective the best value on the front."""
    best = {_best_field(one): quantity(run, one.key) for run, _ in runs for one in run.objectives}
    columns = [
        {"field": "name", "headerName": "run", **LINK, "width": 220},
        {"field": "status", "headerName": "status", "cellRenderer": "Status", "minWidth": 110},
        {"field": "candidates", **_numeric("candidates")},
        {"field": "front", **_numeric("on the front")},
        *(_column(what, f"best {what.label}") | {"field": field} for field, what in best.items()),
        {"field": "created", "headerName": "started (UTC)", "minWidth": 160},
        {"field": "updated", "headerName": "updated (UTC)", "minWidth": 160},
    ]
    return columns, [_run_row(run, standing) for run, standing in runs]


def _best_field(one: Objective) -> str:
    """The column of an objective; two runs may mean different things by one key, in different units."""
    ours = one.key not in KEYS or KEYS[one.key].objective.unit == one.unit
    return one.key if ours else f"{one.key} {one.unit}"


def _run_row(run: Run, standing: Standing) -> dict:
    best = {}
    for one in run.objectives:
        values = [candidate.values[one.key] for candidate in standing.front]
        best[_best_field(one)] = min(values, key=one.loss) if values else None
    groups = (standing.front, standing.dominated, standing.infeasible, standing.incomplete, standing.failed)
    return {
        "name": run.name,
        "href": routes.run(run.name),
        "status": run.status,
        "message": run.message,
        "candidates": sum(map(len, groups)),
        "front": len(standing.front),
        "created": words.moment(run.created).removesuffix(" UTC"),
        "updated": words.moment(run.updated).removesuffix(" UTC"),
        **best,
    }


def front_table(run: Run, standing: Standing) -> tuple[list[dict], Rows]:
    """Columns and rows of a front, in its order."""
    shown = words.quantities(run, standing.front)
    columns = [
        {"field": "key", "headerName": "candidate", **LINK},
        *(column for what in shown for column in _columns_of(what, standing.front)),
    ]
    knee = standing.knee.key if standing.knee else None
    rows = [
        {
            "key": one.key,
            "href": routes.candidate(run.name, one.key),
            "knee": one.key == knee,
            **one.values,
            **{_again(key): value for key, (value, _, _) in one.again.items()},
        }
        for one in standing.front
    ]
    return columns, rows


def _columns_of(what: Quantity, front: Sequence[Candidate]) -> list[dict]:
    """The column of a value, and beside it that of a second measurement, if there was one."""
    own = _column(what, what.label)
    if not any(what.key in one.again for one in front):
        return [own]
    twice = _column(what, f"again ({what.unit})")
    tooltip = f"{what.label}, measured once more after the search"
    return [own, twice | {"field": _again(what.key), "headerTooltip": tooltip}]


def _again(key: str) -> str:
    return f"again/{key}"


def failed_table(run: Run, standing: Standing) -> tuple[list[dict], Rows]:
    """Columns and rows of the candidates that failed, the latest first."""
    columns = [
        {"field": "key", "headerName": "candidate", **LINK},
        {"field": "number", **_numeric("number"), "maxWidth": 100},
        {"field": "error", "headerName": "why", "minWidth": 300, "tooltipField": "error"},
    ]
    rows = [
        {
            "key": one.key,
            "href": routes.candidate(run.name, one.key),
            "number": one.number,
            "error": words.last_line(one.error or ""),
        }
        for one in reversed(standing.failed)
    ]
    return columns, rows


def measurement_rows(run: Run, candidate: Candidate) -> list[tuple[str, str, str, str]]:
    """What was measured of a candidate: name, value, 95 % interval, and how it came about."""
    rows = []
    for what in words.quantities(run, [candidate]):
        if what.key not in candidate.values:
            rows.append((what.name, "not measured", "", ""))
            continue
        low_high = candidate.intervals.get(what.key)
        rows.append(
            (
                what.name,
                what.text(candidate.values[what.key]),
                what.interval_text(*low_high) if low_high else "",
                _source(what, candidate),
            )
        )
        if what.key in candidate.again:
            value, low, high = candidate.again[what.key]
            how = "measured once more after the search, on the same device"
            rows.append((f"{what.name}, again", what.text(value), what.interval_text(low, high), how))
    return rows


def _source(what: Quantity, candidate: Candidate) -> str:
    if what.source == "counted":
        return "counted on the exported subnet"
    if what.key in candidate.latencies:
        return f"measured: {words.device(candidate.latencies[what.key])}"
    return words.source(what, candidate)


def limit_rows(run: Run, candidate: Candidate) -> list[tuple[str, str, str]]:
    """The constraints: what is limited, the limit, and whether the candidate keeps it."""
    rows = []
    for limit in run.constraints:
        what = quantity(run, limit.key)
        bounds = [("≥", limit.min), ("≤", limit.max)]
        text = " and ".join(f"{sign} {what.limit_text(value)}" for sign, value in bounds if value is not None)
        known = limit.key in candidate.values
        keeps = known and limit.violation(*candidate.interval(limit.key)) == 0
        said = "kept" if keeps else "broken" if known else "not measured"
        if limit.key in candidate.again:
            again = limit.violation(*candidate.second.interval(limit.key)) == 0
            said += f"; measured again, {'kept' if again else 'broken'}"
        rows.append((what.name, text, said))
    return rows


def latency_rows(record: Latency) -> list[tuple[str, str]]:
    """A latency record in words, without its samples."""
    low, high = record.interval_ms
    milliseconds = Quantity("latency_ms", "latency", "ms")
    settings = [(name.replace("_", " "), str(value)) for name, value in record.settings.items()]
    return [
        (
            "median",
            f"{milliseconds.text(record.median_ms)} (95 % interval {milliseconds.interval_text(low, high)})",
        ),
        ("90th and 99th percentile", _percentiles(record, milliseconds)),
        ("runs", f"{len(record.samples_ms):,}"),
        ("clock", record.clock),
        ("device", record.device),
        *([] if record.form == "plain" else [("deployed", f"{record.form}, which ran fastest here")]),
        *settings,
        (
            "input",
            "×".join(map(str, record.input_shape))
            + (" (C×H×W)" if len(record.input_shape) == 3 else " (C×L)"),
        ),
        ("processor", record.processor),
        ("load when it began", f"{record.load:.2f} (one-minute average)"),
        ("involuntary switches", f"{record.involuntary_switches:,}"),
        ("measured", words.moment(record.measured_at)),
        *((f"{name} version", version) for name, version in record.versions.items()),
    ]


def _percentiles(record: Latency, what: Quantity) -> str:
    return f"{what.text(record.percentile_ms(90))} and {what.text(record.percentile_ms(99))}"


def export_rows(export: Export) -> list[tuple[str, str]]:
    """An export in words."""
    return [
        ("folder", export.folder),
        ("verified", "yes" if export.verified else "no: its forms differ"),
        (
            "largest difference",
            f"{export.max_difference:.1e}, relative, between any two of its forms (measured)",
        ),
        ("agreement", f"{100 * export.agreement:.2f} % of what they were compared on (measured)"),
        ("test accuracy", f"{export.test_accuracy:.2f} % (measured)"),
        ("made", words.moment(export.created)),
    ]


def _column(what: Quantity, header: str) -> dict:
    prefixed = what.unit not in words.PHYSICAL
    numeric = _numeric(header, f"shortNumber(params.value, {what.unit!r}, {str(prefixed).lower()})")
    return {
        "field": what.key,
        "headerTooltip": f"{what.label}, {what.source}",
        **numeric,
        "minWidth": max(numeric["minWidth"], 92 if what.unit == "ms" else 0),  # 0.01412 in bold
    }


def _numeric(header: str, formatter: str = "shortNumber(params.value, '', false)") -> dict:
    """A column of numbers, wide enough for the longest word of its header, and for all of it in two lines."""
    longest = max(len(header) // 2, *(len(word) for word in header.split()))
    return {
        "headerName": header,
        "type": "rightAligned",
        "cellClass": "number ag-right-aligned-cell",
        "minWidth": max(72, 28 + 8 * longest),
        "valueFormatter": {"function": formatter},
    }
