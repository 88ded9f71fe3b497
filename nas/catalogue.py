"""What a space can be made of: operators and attentions with their settings, sources and cost on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from inspect import getmodule
from typing import Any

from nas.hardware import Device
from search_spaces import SearchSpace, unroll
from search_spaces.parts import short
from supernets.attention import ATTENTIONS
from supernets.cost import count
from supernets.merging import forms, merged
from supernets.operators import OPERATORS
from supernets.supernet import Supernet

WIDTH, EXPANSION, SIDE, BLOCKS = (
    24,
    4,
    14,
    4,
)  # where a part is measured: 96 channels, 14×14 pixels, four times
ROUNDS = 3  # the part and nothing in its place are timed in turn, so often; the medians count


@dataclass(frozen=True)
class Entry:
    """An operator or attention as a person looks it up."""

    name: str
    kind: str  # operator, attention
    what: str
    settings: Mapping[str, tuple]  # all values that they may take
    defaults: Mapping[str, tuple]  # what is offered where a skeleton does not say
    dims: tuple[int, ...]
    experimental: bool
    paper: str
    exactness: str
    measured: Measured | None = None


@dataclass(frozen=True)
class Measured:
    """What one such part adds to a block, against nothing in its place."""

    choice: str
    macs: int
    milliseconds: float
    device: str
    processor: str

    @property
    def picoseconds_per_mac(self) -> float | None:
        """None where there are no MACs."""
        return 1e9 * self.milliseconds / self.macs if self.macs else None


def entries() -> list[Entry]:
    """All operators, then all attentions, by name; experimental ones last."""
    found = [_entry(name, "operator", one) for name, one in OPERATORS.items()]
    found.sort(key=lambda one: (one.experimental, one.name))
    return found + [_entry(name, "attention", one) for name, one in ATTENTIONS.items()]


def _entry(name: str, kind: str, part: Any) -> Entry:
    settings = dict(getattr(part, "settings", {}))
    return Entry(
        name=name,
        kind=kind,
        what=(getmodule(part).__doc__ or "").strip().partition("\n\n")[0].replace("\n", " "),
        settings=settings,
        defaults=settings | dict(getattr(part, "defaults", {})),
        dims=tuple(getattr(part, "dims", (2,))),
        experimental=bool(getattr(part, "experimental", False)),
        paper=getattr(part, "paper", ""),
        exactness=getattr(part, "exactness", ""),
    )


def measured(entry: Entry, device: Device) -> Entry:
    """The entry with the time that its first default choice takes in a block, on a device.

    Timed is a network of four inverted bottlenecks of 96 hidden channels on 14×14 pixels; of it, what the
    part adds to the same network with nothing in its place.
    """
    operator = {entry.name: {name: _plain(values[0]) for name, values in entry.defaults.items()}}
    inside = (operator, "none") if entry.kind == "operator" else ("identity", entry.name)
    network, nothing = _network(*inside), _network("identity", "none")
    shape = (3, SIDE, SIDE)
    times: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(ROUNDS):
        record, *others = device.measure_all([(one, shape) for one in (nothing, *forms(network).values())])
        times["with"].append(min(one.median_ms for one in others))
        times["without"].append(record.median_ms)
    added = sorted(times["with"])[ROUNDS // 2] - sorted(times["without"])[ROUNDS // 2]
    macs = int(count(network, shape)[0] - count(nothing, shape)[0])
    return replace(
        entry,
        measured=Measured(
            choice=", ".join(f"{name}={short(values[0])}" for name, values in entry.defaults.items()),
            macs=macs // BLOCKS,
            milliseconds=added / BLOCKS,
            device=f"{record.device}, {record.settings['threads']} thread, batch {record.settings['batch']}",
            processor=record.processor,
        ),
    )


def _network(operator: Any, attention: str):
    skeleton = {
        "name": "one part",
        "stem": {"width": WIDTH},
        "stages": [{"width": WIDTH, "depth": BLOCKS}],
        "operators": [operator],
        "expansion": EXPANSION,
        "attention": attention,
    }
    space: SearchSpace = unroll(skeleton, OPERATORS, ATTENTIONS, (3, SIDE, SIDE), 10)
    return merged(Supernet(space).eval().export(space.ends[0])).eval()


# -- views -------------------------------------------------------------------------------------


def settings_in_words(entry: Entry) -> str:
    """All values of each setting, what is offered only if asked for in brackets."""

    def values(name: str) -> str:
        shown = [
            short(one) if one in entry.defaults[name] else f"[{short(one)}]" for one in entry.settings[name]
        ]
        return " ".join(shown)

    return "; ".join(f"{name}: {values(name)}" for name in entry.settings) or "–"


def cost_in_words(entry: Entry) -> tuple[str, str, str]:
    """Choice, microseconds per block, picoseconds per MAC."""
    if (one := entry.measured) is None:
        return "", "", ""
    rate = one.picoseconds_per_mac
    return (
        one.choice or "–",
        f"{round(1000 * one.milliseconds, 1) + 0.0:.1f}",
        "–" if rate is None else f"{rate:.0f}",
    )


def as_json(found: Sequence[Entry]) -> list[dict[str, Any]]:
    return [asdict(one) for one in found]


def print_entries(found: Sequence[Entry]) -> None:
    from nas.report import console, plain_table

    out = console()
    timed = [one.measured for one in found if one.measured]
    for kind in ("operator", "attention"):
        if not (shown := [one for one in found if one.kind == kind]):
            continue
        table = plain_table(kind, "settings", "works on")
        for heading in ("measured at", "µs per block", "ps per MAC") if timed else ("source",):
            table.add_column(heading, justify="right" if heading[:2] in ("µs", "ps") else "left")
        for one in shown:
            name = f"{one.name} (experimental)" if one.experimental else one.name
            more = cost_in_words(one) if timed else (one.paper,)
            table.add_row(name, settings_in_words(one), works_on(one), *more)
        out.print(table)
        out.print()
    if any("[" in settings_in_words(one) for one in found):
        out.print("[values] in brackets are offered only where a skeleton names them")
    if timed:
        out.print(
            f"measured on {timed[0].device}: what one adds to an inverted bottleneck of {WIDTH * EXPANSION} hidden "
            f"channels on {SIDE}×{SIDE} pixels",
            soft_wrap=True,
        )


def works_on(entry: Entry) -> str:
    names = {2: "images", 1: "signals"}
    return ", ".join(names[one] for one in sorted(entry.dims, reverse=True))


def as_markdown(found: Sequence[Entry]) -> str:
    """The page docs/operators.md."""
    return PAGE.format(
        operators=_table(one for one in found if one.kind == "operator" and not one.experimental),
        experimental=_table(one for one in found if one.experimental),
        attentions=_table(one for one in found if one.kind == "attention"),
        measured=_how_measured(found),
        summaries="\n".join(f"- **{one.name}**: {one.what} *{one.paper}.*" for one in found),
    )


def _how_measured(found: Sequence[Entry]) -> str:
    one = next((one.measured for one in found if one.measured), None)
    if one is None:
        return "Nothing was measured for this page; `nas operators --measure` does."
    return (
        f"Measured on {one.processor} with {one.device}, {date.today():%d %B %Y}: a network of {BLOCKS} inverted "
        f"bottlenecks\nof {WIDTH * EXPANSION} hidden channels on {SIDE}×{SIDE} pixels, and of it what the part adds "
        "to the same network with nothing in its place,\nper block. Other sizes rank differently: "
        "`nas operators --measure` on your machine, and the search itself, measure yours."
    )


def _table(found: Iterable[Entry]) -> str:
    rows = ["| name | settings | works on | what its export keeps | measured at | µs | ps per MAC |"]
    rows.append("|---|---|---|---|---|---|---|")
    for one in found:
        cells = [one.name, settings_in_words(one), works_on(one), one.exactness, *cost_in_words(one)]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _plain(value: Any) -> Any:
    return [list(value)] if isinstance(value, tuple) else [value]


PAGE = """# Operators and attentions

Generated by `nas operators --measure --markdown`. An operator mixes space inside a block, an attention weighs the
channels after it. Their settings are what a skeleton may offer to the search; values in brackets are offered only where
the skeleton names them.

{measured}

## Operators

{operators}

## Experimental operators

Slow, dynamic, or little tried; in no preset.

{experimental}

## Attentions

{attentions}

## What each is

{summaries}
"""
