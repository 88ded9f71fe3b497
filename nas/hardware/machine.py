"""What the machine says of its own state while it is measured. What it does not say is absent, never zero."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def state(root: Path = Path("/")) -> dict[str, float | str]:
    """Of a Linux machine, whatever is readable of:

    clock_mhz        of the fastest core at this moment; a virtual machine tells a constant
    governor         what decides about the clock, such as performance
    throttle_events  how often heat has slowed a core since the machine started
    power            mains or battery
    """
    cores = root / "sys/devices/system/cpu"
    clocks = [number / 1e3 for number in _numbers(cores.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    governors = sorted(
        {text for text in map(_text, cores.glob("cpu[0-9]*/cpufreq/scaling_governor")) if text}
    )
    throttled = _numbers(cores.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    clocks = clocks or _clocks_of_cpuinfo(root / "proc/cpuinfo")
    power = _power(root / "sys/class/power_supply")
    found: dict[str, float | str] = {}
    found |= {"clock_mhz": round(max(clocks), 1)} if clocks else {}
    found |= {"governor": ", ".join(governors)} if governors else {}
    found |= {"throttle_events": sum(throttled)} if throttled else {}
    return found | ({"power": power} if power else {})


def during(before: Mapping[str, float | str], after: Mapping[str, float | str]) -> dict[str, float | str]:
    """The state after a measurement, its throttle events only those since `before`."""
    if "throttle_events" not in before or "throttle_events" not in after:
        return {name: value for name, value in after.items() if name != "throttle_events"}
    return {**after, "throttle_events": after["throttle_events"] - before["throttle_events"]}


def _power(supplies: Path) -> str | None:
    kinds = {supply: _text(supply / "type") for supply in supplies.glob("*")}
    online = [_text(supply / "online") for supply, kind in kinds.items() if kind == "Mains"]
    if "1" in online:
        return "mains"
    return "battery" if "Battery" in kinds.values() and "0" in online else None


def _clocks_of_cpuinfo(path: Path) -> list[float]:
    lines = (_text(path) or "").splitlines()
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]


def _numbers(paths) -> list[float]:
    return [float(text) for text in map(_text, paths) if text and text.isdigit()]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # not there, or not for us
        return None
