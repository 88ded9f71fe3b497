"""The architectures of a run that were examined, each with what its trials say of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.storage.records import Trial


@dataclass(frozen=True)
class Subject:
    """What is known of one architecture; NaN for what is not."""

    key: str
    architecture: str  # JSON
    macs: float
    parameters: float
    inherited: float  # accuracy with the supernet's weights, %
    loss: float  # with the same weights
    label_cosine: float  # with the same weights, %
    uncalibrated: float  # accuracy with them and one set of batch-norm statistics for all, %
    alone: Mapping[int, float]  # accuracy of each training alone by its seed, %

    @property
    def mean_alone(self) -> float:
        return float(np.mean(list(self.alone.values())))

    @property
    def both_ways(self) -> bool:
        """Whether it was measured with the supernet's weights, and trained alone."""
        return bool(self.alone) and math.isfinite(self.inherited)


def subjects_of(trials: Iterable[Trial]) -> list[Subject]:
    """One per architecture with a trial that succeeded, in order of their keys."""
    by_key: dict[str, list[Trial]] = defaultdict(list)
    for one in trials:
        if one.kind != "sampled" and succeeded(one):
            by_key[one.key].append(one)
    return [_subject(key, by_key[key]) for key in sorted(by_key)]


def succeeded(trial: Trial) -> bool:
    return trial.error is None and math.isfinite(trial.values.get("accuracy", math.nan))


def _subject(key: str, found: Sequence[Trial]) -> Subject:
    def value(name: str, *kinds: str) -> float:
        said = (one.values[name] for one in found if one.kind in kinds and name in one.values)
        return next((float(one) for one in said if math.isfinite(one)), math.nan)

    everywhere = ("inherited", "uncalibrated", "alone")
    return Subject(
        key,
        found[0].architecture,
        macs=value("macs", *everywhere),
        parameters=value("parameters", *everywhere),
        inherited=value("accuracy", "inherited"),
        loss=value("loss", "inherited"),
        label_cosine=value("label_cosine", "inherited"),
        uncalibrated=value("accuracy", "uncalibrated"),
        alone={one.seed: one.values["accuracy"] for one in found if one.kind == "alone"},
    )
