"""What is shown of a latency record beside its median, without its samples; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dashboard import words
from nas.efficiency import Timed, timed
from nas.storage.records import Candidate, Latency


@dataclass(frozen=True)
class Timing:
    """One candidate's latency on one device in short; times in milliseconds."""

    number: int  # of the candidate
    key: str
    value: str  # the key of the value that it is: latency_ms, latency_ms@tablet
    conditions: tuple[str, ...]  # device, processor, clock, versions: what makes two latencies comparable
    median: float
    interval: tuple[float, float]  # 95 %, of the median
    spread: tuple[float, float]  # 10th and 90th percentile
    reference: tuple[float, ...]  # of the reference network; none in earlier records
    troubles: tuple[str, ...]  # what disturbed it
    timed: Timed | None  # what its efficiency needs

    @property
    def error(self) -> float:
        """Half of the interval, in percent of the median."""
        low, high = self.interval
        return 50 * (high - low) / self.median


def timings(candidate: Candidate) -> list[Timing]:
    """Of each record of a candidate."""
    return [timing(candidate, value) for value in candidate.latencies]


def timing(candidate: Candidate, value: str) -> Timing:
    """Of one of its records."""
    record = candidate.latencies[value]
    spread = tuple(float(one) for one in np.percentile(record.samples_ms, (10, 90)))
    unnamed = ("of an earlier version, which kept no reason",) if record.contended else ()
    return Timing(
        candidate.number,
        candidate.key,
        value,
        conditions(record),
        record.median_ms,
        record.interval_ms,
        spread,
        record.reference_ms,
        record.disturbed_by or unnamed,
        timed(candidate, record),
    )


def conditions(record: Latency) -> tuple[str, ...]:
    """What two latencies must have in common to be compared."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))
    return words.device(record), record.processor, record.clock, versions


def by_conditions(timings: Iterable[Timing]) -> dict[tuple[str, tuple[str, ...]], list[Timing]]:
    """Those that may be compared together, in the order of measuring: of one value, under the same conditions."""
    groups: dict[tuple[str, tuple[str, ...]], list[Timing]] = {}
    for one in timings:
        groups.setdefault((one.value, one.conditions), []).append(one)
    return groups


def troubles(timings: Sequence[Timing]) -> list[tuple[str, int]]:
    """What disturbed how many of them, the most frequent first: `waited`, `unsteady`, ..."""
    words_of = (reason.partition(":")[0] for one in timings for reason in one.troubles)
    kinds = Counter("interrupted" if word.startswith("interrupted") else word for word in words_of)
    return kinds.most_common()
