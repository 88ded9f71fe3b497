"""What is shown of a latency record beside its median, without its samples; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dashboard import words
from nas.storage.records import Candidate, Latency


@dataclass(frozen=True)
class Timing:
    """One candidate's latency in short; times in milliseconds."""

    number: int  # of the candidate
    key: str
    conditions: tuple[str, ...]  # device, processor, clock, versions: what makes two latencies comparable
    median: float
    interval: tuple[float, float]  # 95 %, of the median
    spread: tuple[float, float]  # 10th and 90th percentile
    reference: tuple[float, ...]  # of the reference network, before and after; none in earlier records
    troubles: tuple[str, ...]  # what disturbed it

    @property
    def error(self) -> float:
        """Half of the interval, in percent of the median."""
        low, high = self.interval
        return 50 * (high - low) / self.median


def timing(candidate: Candidate) -> Timing:
    """Of a candidate with a record."""
    record = candidate.latency
    spread = tuple(float(one) for one in np.percentile(record.samples_ms, (10, 90)))
    unnamed = ("of an earlier version, which kept no reason",) if record.contended else ()
    return Timing(
        candidate.number,
        candidate.key,
        conditions(record),
        record.median_ms,
        record.interval_ms,
        spread,
        record.reference_ms,
        record.disturbed_by or unnamed,
    )


def conditions(record: Latency) -> tuple[str, ...]:
    """What two latencies must have in common to be compared."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    return words.device(record), record.processor, record.clock, versions


def by_conditions(timings: Iterable[Timing]) -> dict[tuple[str, ...], list[Timing]]:
    """Those that may be compared together, in the order of measuring."""
    groups: dict[tuple[str, ...], list[Timing]] = {}
    for one in timings:
        groups.setdefault(one.conditions, []).append(one)
    return groups


def troubles(timings: Sequence[Timing]) -> list[tuple[str, int]]:
    """What disturbed how many of them, the most frequent first: `waited`, `unsteady`, ..."""
    words_of = (reason.partition(":")[0] for one in timings for reason in one.troubles)
    kinds = Counter("interrupted" if word.startswith("interrupted") else word for word in words_of)
    return kinds.most_common()
