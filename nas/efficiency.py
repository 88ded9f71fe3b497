"""How far measured networks are from the peak of their machine: the efficiency gap (Lavin, arXiv 2404.03617).

A whole network needs no profile for it: its MACs are counted, its latency was measured, and so was the peak.

    ideal time = operations / peak,  efficiency = ideal time / latency
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nas.hardware.peaks import Peaks, place_of
from nas.storage.records import Candidate, Latency


@dataclass(frozen=True)
class Timed:
    """What of a candidate and its latency on one device its efficiency needs; milliseconds of one batch."""

    key: str  # of the candidate
    macs: float  # of the batch, counted on the network as one knows it, whatever its deployed form adds
    measured_ms: float
    interval_ms: tuple[float, float]
    place: Mapping[str, Any]  # where it was measured, as `nas.hardware.peaks.place_of`


@dataclass(frozen=True)
class Gap:
    """What lies between the time of a network's operations at the peak and the time that it takes."""

    timed: Timed
    ideal_ms: float

    @property
    def efficiency(self) -> float:
        return self.ideal_ms / self.timed.measured_ms


def timed(candidate: Candidate, record: Latency) -> Timed | None:
    """None where its MACs were not counted."""
    if "macs" not in candidate.values:
        return None
    macs = candidate.values["macs"] * int(record.settings.get("batch", 1))
    return Timed(candidate.key, macs, record.median_ms, record.interval_ms, place_of(record))


def gap(one: Timed, peaks: Iterable[Peaks]) -> Gap | None:
    """None where no peaks are those of where its latency was measured."""
    peak = next((some for some in peaks if some.are_of(one.place)), None)
    return None if peak is None else Gap(one, 2 * one.macs / peak.operations_per_ms)
