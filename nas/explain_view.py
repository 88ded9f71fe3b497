"""Why a network takes as long as it does: in words, as tables, and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nas.efficiency import Gap
from nas.explain import Explained, Step
from nas.measure_view import chosen
from nas.profile_view import quantity
from nas.report import console, plain_table

if TYPE_CHECKING:
    from nas.advice import Advice

SHOWN = 8  # steps in the table, and as few as matter in words
SAID = 3
NAMED = 3
COARSE_MS = 0.002  # a profile says little of a step below that
SLOWER = 0.1  # by which share of the whole the profiled steps may take longer before that is said
OUTSIDE = 0.25  # which share may pass outside of them before that is said
UNTOLD = 0.5  # and until nothing is said of whom to blame
BETWEEN = {"torch-cpu": "in Python, which calls them one by one"}  # what passes there, where it is known
COLUMNS = ("ms", "share", "MACs", "bytes", "ops/byte", "efficiency", "wasted (ms)", "by model", "by kernel")


def print_explained(found: Explained, advice: Advice | str) -> None:
    """
    Args:
        advice: or why there is none.
    """
    out = console()
    where = f"{found.name} on {found.latency.device} ({chosen(found.latency)})"
    out.print(f"{where}: {found.measured_ms:.4g} ms, measured", soft_wrap=True)
    out.print(_parts(found))
    for line in verdict(found):
        out.print(line, soft_wrap=True)
    if found.blocks:
        out.print("\nby block, in the order of the network:")
        out.print(_table("block", found, list(found.blocks.values())))
    worst = wasteful(found)
    out.print(f"\nthe {len(worst)} steps of {len(found.steps)} that waste the most:")
    out.print(_table("step", found, worst))
    for line in notes(found):
        out.print(line, soft_wrap=True)
    if isinstance(advice, str):
        out.print(f"\nwhat another choice would save is not predicted: {advice}", soft_wrap=True)
    else:
        _print_advice(advice)


def print_compared(found: Sequence[Explained], what: str) -> None:
    """Several networks in one table, a row each.

    Args:
        what: they are, "candidate" or "network".
    """
    out = console()
    out.print(f"on {found[0].latency.device} ({chosen(found[0].latency)}), measured; operations are counted:")
    table = plain_table(what)
    for heading in (
        "ms",
        "MACs",
        "efficiency",
        "model allows",
        "runtime makes",
        "by model",
        "by kernel",
        "outside",
    ):
        table.add_column(heading, justify="right")
    table.add_column("wastes the most")
    for one in found:
        kernels = sum(step.kernel_ms for step in one.steps)
        worst = None if doubtful(one) else max(places(one), key=lambda place: place.wasted_ms)
        table.add_row(
            f"{one.name} !" if one.latency.contended else one.name,
            f"{one.measured_ms:.4f}",
            quantity(one.macs),
            *map(_percent, (one.efficiency, one.max_efficiency, one.kernel_quality)),
            *(
                f"{round(ms, 4) + 0.0:.4f}"
                for ms in (one.attainable_ms - one.ideal_ms, kernels, one.outside_ms)
            ),
            "cannot be told"
            if worst is None
            else f"{worst.name} {worst.wasted_ms:.4f}, {worst.blame or 'nobody'}",
        )
    out.print(table)
    out.print("by model, by kernel, outside, wastes the most: ms; efficiency = model allows × runtime makes")
    if any(one.latency.contended for one in found):
        out.print("! contended: other work disturbed it; measure again when it is quiet", soft_wrap=True)


def print_gaps(gaps: Sequence[Gap], candidates: int, device: str) -> None:
    """The efficiencies of all candidates of a run on a device, in a line."""
    if not gaps:
        console().print(
            f"no latency of the run was measured on this {device}, with these settings and versions"
        )
        return
    shares = sorted(one.efficiency for one in gaps)
    console().print(
        f"efficiency of {len(gaps)} of {candidates} candidates on {device}, by the latencies of their search: "
        f"{_percent(shares[0])} to {_percent(shares[-1])}, the middle one {_percent(shares[len(shares) // 2])}",
        soft_wrap=True,
    )


def _print_advice(advice: Advice) -> None:
    out = console()
    if not advice.changes:
        out.print("\nno single choice in the space is predicted to save time", soft_wrap=True)
    else:
        out.print(
            f"\nwhat another choice in the space is predicted to save, of predicted {_ms(advice.milliseconds)} (what "
            "it costs in accuracy is not known):",
            soft_wrap=True,
        )
        table = plain_table("decision", "is", "instead")
        for heading in ("predicted (ms)", "saved (ms)", "share"):
            table.add_column(heading, justify="right")
        for one in advice.changes[:SHOWN]:
            share = _percent(one.saved_ms / advice.milliseconds)
            table.add_row(
                one.decision, one.was, one.becomes, f"{one.milliseconds:.4f}", f"{one.saved_ms:.4f}", share
            )
        out.print(table)
        if advice.error is not None:
            out.print(f"what saves less than {_percent(advice.error)} is within the error of the prediction")
    out.print(advice.prediction, soft_wrap=True)


def verdict(found: Explained) -> list[str]:
    """What the numbers say, in words."""
    lines = [
        f"efficiency {_percent(found.efficiency)} of the machine's peak = {_percent(found.max_efficiency)} that the "
        f"model allows × {_percent(found.kernel_quality)} that the runtime makes of it"
    ]
    if doubtful(found):
        return [*lines, "which steps waste the time cannot be told: the profile does not fit it, see below"]
    worst = max(places(found), key=lambda one: one.wasted_ms)
    if worst.wasted_ms <= 0:
        return [*lines, "no step wastes time, by these peaks"]
    lines.append(
        f"{worst.name} wastes the most, {_ms(worst.wasted_ms)} of {_ms(found.measured_ms)}: {reason(worst, found)}"
    )
    for step in wasteful(found)[:SAID]:
        if step.name != worst.name and step.wasted_ms > 0:
            lines.append(f"{step.name} ({step.kind}) wastes {_ms(step.wasted_ms)}: {reason(step, found)}")
    if found.outside_ms > OUTSIDE * found.measured_ms:
        lines.append(
            f"{_percent(found.outside_ms / found.measured_ms)} pass outside of the steps: "
            + BETWEEN.get(
                found.latency.device, "in the call, and in steps so short that the profile leaves them out"
            )
            + "; a larger --batch shows more"
        )
    return lines


def doubtful(found: Explained) -> bool:
    """Whether the profile fits the measured time so little that nobody can be blamed."""
    return found.outside_ms < -UNTOLD * found.measured_ms


def places(found: Explained) -> list[Step]:
    """The blocks of a network, or its steps where it names none."""
    return list(found.blocks.values()) or list(found.steps)


def reason(step: Step, found: Explained) -> str:
    """Whom to blame for what a step wastes, and why."""
    if step.blame == "runtime":
        return (
            "the runtime, since no node of the network is known to ask for it; such as a change of layout, or a norm "
            "that others fold into a convolution"
        )
    waterline = found.peaks.ridge(found.footprint)
    if step.blame == "kernel":
        share = step.attainable_ms / step.milliseconds if step.milliseconds else 1.0
        return f"the kernel, {_percent(share)} as fast as the machine allows for these operations and bytes"
    if not step.macs:
        return "the model, which moves bytes here and computes nothing"
    if step.intensity > waterline:  # of a block
        return "the model, some of whose steps here move many bytes and compute little"
    return f"the model, {step.intensity:.3g} operations per byte; below {waterline:.3g} this machine waits for memory"


def wasteful(found: Explained) -> list[Step]:
    """The steps that waste the most, the worst first."""
    return sorted(found.steps, key=lambda step: -step.wasted_ms)[:SHOWN]


def notes(found: Explained) -> list[str]:
    """What must be known beside the tables."""
    peaks, rate = found.peaks, found.peaks.bytes_per_ms(found.footprint)
    lines = [
        f"peaks: {peaks.operations_per_ms / 1e6:.3g} GFLOP/s, {rate / 1e6:.3g} GB/s for the "
        f"{quantity(found.footprint)}B of this network; so the waterline is at {peaks.ridge(found.footprint):.3g} "
        f"operations per byte (two per MAC); measured {peaks.measured_at}"
    ]
    fast = [step.name for step in found.steps if step.nodes and step.kernel_ms < 0]
    if fast:
        lines.append(
            f"faster than held attainable: {_some(fast)}; their data lay nearer than assumed, or the peaks were "
            "measured on a busy machine (--fresh measures them anew)"
        )
    if found.outside_ms < -SLOWER * found.measured_ms:
        lines.append(
            f"the steps take {_percent(1 - found.outside_ms / found.measured_ms)} of the measured time: other work on "
            "this machine, or profiling itself, slowed the profiled runs; compare steps with each other alone"
        )
    if found.profiling_ms:
        lines.append(
            f"profiling lengthens each step by {1e3 * found.profiling_ms:.1f} µs, which is taken off: by that the "
            f"{len(found.steps)} steps take longer together than the network without a profile"
        )
    coarse = [step.name for step in found.steps if step.milliseconds < COARSE_MS]
    if coarse:
        lines.append(
            f"less than {1e3 * COARSE_MS:g} µs: {_some(coarse)}; a profile says little of them, a larger --batch shows "
            "more"
        )
    if found.latency.contended:
        lines.append(f"contended: {'; '.join(found.latency.disturbed_by)}; measure again when it is quiet")
    return lines


def explained_as_json(found: Explained, advice: Advice | str) -> dict[str, Any]:
    """Everything that `print_explained` says, every step, and the record."""
    predicted = {"not_predicted": advice} if isinstance(advice, str) else asdict(advice)
    return {
        "network": found.name,
        "device": found.latency.device,
        "source": "measured",
        "macs": found.macs,
        "footprint_bytes": found.footprint,
        "measured_ms": found.measured_ms,
        "ideal_ms": found.ideal_ms,
        "attainable_ms": found.attainable_ms,
        "outside_ms": found.outside_ms,
        "profiling_ms_per_step": found.profiling_ms,
        "efficiency": found.efficiency,
        "max_efficiency": found.max_efficiency,
        "kernel_quality": found.kernel_quality,
        "waterline": found.peaks.ridge(found.footprint),
        "verdict": verdict(found),
        "notes": notes(found),
        "blocks": [_as_json(block) for block in found.blocks.values()],
        "steps": [_as_json(step) for step in found.steps],
        "advice": predicted,
        "peaks": asdict(found.peaks),
        "record": asdict(found.latency),
    }


def gap_as_json(one: Gap) -> dict[str, Any]:
    told = {"key": one.timed.key, "macs": one.timed.macs, "measured_ms": one.timed.measured_ms}
    return told | {"ideal_ms": one.ideal_ms, "efficiency": one.efficiency, "source": "measured"}


def _as_json(step: Step) -> dict[str, Any]:
    derived = ("intensity", "model_ms", "kernel_ms", "wasted_ms", "blame")
    return asdict(step) | {name: getattr(step, name) for name in derived}


def _parts(found: Explained):
    table = plain_table("of this time")
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right")
    inside = sum(step.kernel_ms for step in found.steps)
    rows = {
        "operations at the machine's peak": found.ideal_ms,
        "wasted by the model: bytes to be moved": found.attainable_ms - found.ideal_ms,
        "wasted by the kernels": inside,
        "outside of the steps": found.outside_ms,
    }
    for name, value in rows.items():
        table.add_row(name, f"{round(value, 4) + 0.0:.4f}", _percent(value / found.measured_ms))
    table.add_row("measured", f"{found.measured_ms:.4f}", "100 %")
    return table


def _table(what: str, found: Explained, steps: Sequence[Step]):
    table = plain_table(what)
    if what == "step":
        table.add_column("kind")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("to blame")
    for step in steps:
        kind = (step.kind,) if what == "step" else ()
        table.add_row(
            step.name,
            *kind,
            f"{step.milliseconds:.4f}",
            _percent(step.milliseconds / found.measured_ms),
            quantity(step.macs),
            quantity(step.bytes),
            "-" if step.intensity is None else f"{step.intensity:.3g}",
            _percent(step.ideal_ms / step.milliseconds) if step.milliseconds else "-",
            f"{step.wasted_ms:.4f}",
            f"{step.model_ms:.4f}",
            f"{step.kernel_ms:.4f}",
            step.blame or "-",
        )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if abs(share) >= 0.1 else 1}f} %"


def _some(names: Sequence[str]) -> str:
    """The first of many names, and how many there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _ms(value: float) -> str:
    return f"{value:.3g} ms"
