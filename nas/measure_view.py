"""What this machine can measure on, and what was measured: as tables, and for scripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nas.hardware import machine
from nas.hardware.offers import Offer
from nas.hardware.timing import processor_name
from nas.measure import Measured
from nas.profile_view import significant
from nas.report import console, plain_table
from nas.storage.records import Latency

PROFILED = ("profiled (ms)", "share")  # of a step: its time by the runtime's profile


def print_devices(offers: Sequence[Offer]) -> None:
    """Every device: what may be chosen here, or why it is not here."""
    out = console()
    told = [processor_name(), f"{machine.cores()} cores", f"load {os.getloadavg()[0]:.1f}"]
    told += [f"{key.replace('_', ' ')} {value}" for key, value in machine.state().items()]
    out.print(", ".join(told), soft_wrap=True)
    table = plain_table("device", "here", "settings, the default first", "versions")
    for one in (one for one in offers if one.reason is None):
        choices = "; ".join(f"{name}: {', '.join(values)}" for name, values in one.choices.items())
        table.add_row(one.name, "yes", choices, ", ".join(f"{name} {v}" for name, v in one.versions.items()))
    out.print(table)
    for one in offers:
        for choice, reason in one.refused.items():
            out.print(f"{one.name}, {choice}: no, {reason}", soft_wrap=True)
        if one.reason is not None:
            out.print(f"{one.name}: not here, {one.reason}", soft_wrap=True)
    owners: dict[str, list[str]] = {}  # of each setting and its default that no table cell shows
    for one in offers:
        for name, value in one.settings.items():
            if name not in one.choices:
                owners.setdefault(f"{name}: {value}", []).append(one.name)
    defaults = ", ".join(setting for setting, names in owners.items() if len(names) == len(offers))
    out.print(f"settings of all of them, with their defaults: {defaults}", soft_wrap=True)
    for setting, names in owners.items():
        if len(names) < len(offers):
            out.print(f"of {', '.join(names)}: {setting}", soft_wrap=True)


def devices_as_json(offers: Sequence[Offer]) -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "cores": machine.cores(),
        "load": os.getloadavg()[0],
        "machine": machine.state(),
        "devices": [{"available": one.reason is None, **asdict(one)} for one in offers],
    }


def print_measured(found: Sequence[Measured], kernels: bool = False) -> None:
    """
    Args:
        kernels: what ran was asked for.
    """
    out = console()
    table = plain_table("network", "input", "device", "settings", "clock")
    for heading in ("median (ms)", "95 % interval", "p90", "CPU/wall"):
        table.add_column(heading, justify="right")
    table.add_column("contended")
    for one in found:
        low, high = one.latency.interval_ms
        ratio = one.latency.cpu_per_wall
        table.add_row(
            str(one.network.path),
            "×".join(map(str, one.network.input_shape)),
            one.latency.device,
            chosen(one.latency),
            one.latency.clock,
            significant(one.latency.median_ms),
            f"{significant(low)}-{significant(high)}",
            significant(one.latency.percentile_ms(90)),
            "-" if ratio is None else f"{ratio:.2f}",
            "yes" if one.latency.contended else "no",
        )
    out.print(table)
    for line in notes([one.latency for one in found]):
        out.print(line, soft_wrap=True)
    for one in found:
        if one.latency.contended:
            reasons = "; ".join(one.latency.disturbed_by)
            out.print(f"contended: {where(one)}: {reasons}", soft_wrap=True)
        if one.latency.reused_at:
            out.print(f"used again: {where(one)}: measured {one.latency.measured_at}", soft_wrap=True)
    for one in found if kernels else ():
        _print_kernels(one)


def notes(records: Sequence[Latency]) -> list[str]:
    """What must be known beside the table."""
    lines = [f"measured on {', '.join(dict.fromkeys(one.processor for one in records))}; of one batch"]
    if len(clocks := {one.clock for one in records}) > 1:
        lines.append(f"{' and '.join(sorted(clocks))} are different clocks: compare rows of one clock only")
    if any(one.contended for one in records):
        lines.append(
            "contended: other work on this machine disturbed the median; measure again when it is quiet"
        )
    return lines


def chosen(record: Latency) -> str:
    """The settings that make a difference: 1 thread, batch 1, float32, compiled."""
    settings = record.settings
    threads = f"{settings['threads']} thread{'s' if settings['threads'] != 1 else ''}"
    words = [threads, f"batch {settings['batch']}", str(settings["precision"])]
    return ", ".join(words + [str(settings[name]) for name in ("execution", "launch") if name in settings])


def where(one: Measured) -> str:
    """What a line under the table is about."""
    return f"{one.network.path} on {one.latency.device} ({chosen(one.latency)})"


def _print_kernels(one: Measured) -> None:
    """What ran, by kind and step by step; profiled times are called so, since they are not the latency."""
    out, kernels, measured = console(), one.latency.kernels, one.latency.median_ms
    if not kernels:
        out.print(f"\n{where(one)}: nothing tells what its steps take on this device", soft_wrap=True)
        return
    together = profiled_ms(one.latency)
    out.print(f"\nwhat ran of {where(one)}, by the runtime's own profile:", soft_wrap=True)
    kinds: dict[str, list[float]] = {}
    for kernel in kernels:
        kinds.setdefault(kernel.kind, []).append(kernel.milliseconds)
    table = plain_table("kind of step")
    for heading in ("steps", *PROFILED):
        table.add_column(heading, justify="right")
    for kind, times in sorted(kinds.items(), key=lambda pair: -sum(pair[1])):
        table.add_row(kind, str(len(times)), *_profiled(sum(times), together))
    table.add_row("all steps", str(len(kernels)), *_profiled(together, together))
    out.print(table)
    out.print()
    table = plain_table("step, in the order in which it ran", "kind", "kernel")
    for heading in PROFILED:
        table.add_column(heading, justify="right")
    for kernel in kernels:
        row = kernel.node, kernel.kind, kernel.kernel, *_profiled(kernel.milliseconds, together)
        largest = kernel.milliseconds == max(other.milliseconds for other in kernels)
        table.add_row(*row, style="bold" if largest else None)
    out.print(table)
    apart = (
        f"the other {measured - together:.4f} ms pass in the call and between the steps"
        if together <= measured
        else "a profile lengthens every step, so compare them with each other alone"
    )
    out.print(
        f"profiled: all steps together {together:.4f} ms, by the wall clock, while the latency is {measured:.4f} ms, "
        f"measured without a profile; {apart}",
        soft_wrap=True,
    )


def profiled_ms(record: Latency) -> float:
    """All steps of the runtime's profile together, which is not the latency."""
    return sum(kernel.milliseconds for kernel in record.kernels)


def _profiled(milliseconds: float, together: float) -> tuple[str, str]:
    share = f"{100 * milliseconds / together:.1f} %" if together else "-"
    return f"{milliseconds:.4f}", share


def measured_as_json(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Everything that `print_measured` says, and the whole records, for scripts."""
    return [
        {
            "network": str(one.network.path),
            "device": one.latency.device,
            "source": "measured",
            "median_ms": one.latency.median_ms,
            "interval_ms": list(one.latency.interval_ms),
            **{f"p{percent}_ms": one.latency.percentile_ms(percent) for percent in (10, 90, 99)},
            "cpu_per_wall": one.latency.cpu_per_wall,
            "drift": one.latency.drift,
            "profiled_ms": profiled_ms(one.latency) if one.latency.kernels else None,
            "contended": one.latency.contended,
            "disturbed_by": list(one.latency.disturbed_by),
            "record": asdict(one.latency),
        }
        for one in found
    ]
