"""What a supernet's rankings are worth: inherited accuracies against those of the same networks trained alone,
by this run or by whoever made a table.

The criteria are those of X. Ning et al., "Evaluating efficient performance estimators of neural architectures",
NeurIPS 2021; their definitions are in `nas.rank_statistics`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from nas.health_table import Source, Table
from nas.predictors.accuracy import FOLDS, Landmark, block_shares, compared
from nas.rank_statistics import (
    Estimate,
    Pair,
    best_rank,
    mean_interval,
    mean_tau,
    null_error,
    precision_at,
    rank_difference,
    ranks,
    resamples,
    spearman,
    tau,
    tau_difference,
    worst_rank,
)
from nas.storage.records import Trial
from nas.subjects import Subject, subjects_of, succeeded
from search_spaces import architecture_from_json

TOP_SHARE = 0.2
TOP = 5
PER_BIN = 8  # architectures that a cost bin should have
MOST_BINS = 8
FEWEST_CORRECTED, MOST_CORRECTED = 10, 2000  # architectures between which it is told what others correct


@dataclass(frozen=True)
class Compared:
    """One architecture that was measured both ways; accuracies in %, `alone` the mean over its seeds.

    With a table, `alone` is everywhere what the table says, in its unit.
    """

    key: str
    macs: float | None
    parameters: float | None
    inherited: float
    uncalibrated: float | None  # with one set of batch-norm statistics for all
    alone: float
    seeds: int
    bin: int | None  # index in `Health.bins`
    difference: float  # of ranks, over n; positive: underestimated


@dataclass(frozen=True)
class Bin:
    """Architectures of about the same cost, between `low` and `high` MACs, both among them."""

    low: float
    high: float
    count: int
    inherited: float  # mean accuracy, %
    alone: float
    gap: Estimate | None  # inherited - alone, percentage points; None against a table, which has its own unit
    difference: Estimate  # mean rank difference; positive: underestimated
    tau: float | None


@dataclass(frozen=True)
class Usage:
    """How the networks that use an operator, or a setting, are ranked; those weigh more that use it more."""

    name: str
    count: int  # architectures that have it
    difference: Estimate


@dataclass(frozen=True)
class Taus:
    """Kendall's tau-b against accuracy alone, of what could rank architectures; None where it has none."""

    inherited: Estimate | None  # accuracy with the supernet's weights
    loss: Estimate | None  # their loss, the less the better
    label_cosine: Estimate | None  # of their logits with the labels, None where it was not measured of all
    sparse: Estimate | None  # both accuracies rounded to 0.1 points first; None against a table
    uncalibrated: Estimate | None  # accuracy without batch-norm statistics of its own
    macs: Estimate | None
    parameters: Estimate | None
    within: Estimate | None  # inherited, mean over the cost bins
    macs_within: Estimate | None
    one_seed: Estimate | None  # inherited against one seed alone, mean over the seeds: compares with `seeds`
    seeds: Estimate | None  # between two seeds alone, mean over their pairs: the ceiling
    over_macs: Estimate | None  # inherited - macs, on the same resamples
    over_macs_within: Estimate | None
    cosine_over_macs: Estimate | None  # label_cosine - macs, on the same resamples
    cosine_over_inherited: Estimate | None


@dataclass(frozen=True)
class Corrected:
    """Inherited accuracy corrected by the trainings alone of the other architectures, as `predicted_accuracy` is by
    landmarks: Kendall's tau-b against accuracy alone."""

    others: int  # by how many trainings, at least
    tau: Estimate
    without: Estimate | None  # MACs and operators alone, fitted to the same trainings
    over_inherited: Estimate  # tau - that of inherited accuracy, on the same resamples
    over_macs: Estimate | None
    over_without: Estimate | None  # what the supernet is worth


@dataclass(frozen=True)
class Spearman:
    """Spearman's ρ against accuracy alone, which is the correlation of the ranks."""

    inherited: float
    macs: float | None
    parameters: float | None


@dataclass(frozen=True)
class Top:
    """What the estimated best are truly worth; ranks count from 1, of n."""

    size: int  # how many the best `TOP_SHARE` are
    precision: float  # share of the estimated best that are among the true best; chance gives TOP_SHARE
    best_rank: float  # of the estimated best TOP
    worst_rank: float


@dataclass(frozen=True)
class Calibration:
    """What batch-norm statistics of their own are worth to the networks that were measured with and without."""

    count: int
    inherited: float  # mean accuracy, %
    uncalibrated: float
    gain: Estimate  # percentage points


@dataclass(frozen=True)
class Sampled:
    """Which costs the supernet's training drew: `counts` between consecutive `edges`, in MACs."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Health:
    """Everything that the trials of a run tell of its supernet; None where they tell nothing of it."""

    table: Source | None  # in place of trainings alone; None for the run's own
    architectures: int  # measured both ways: n of everything below
    waiting: int  # inherited is known, alone not yet
    failed: int  # trials that ended in an error, and whose result is no number
    reasons: tuple[str, ...]  # why they did, each once, the commonest first
    seeds: int  # most trainings alone of one architecture
    epochs: float | None  # of a training alone; a run's are equally long
    null_error: float | None  # of tau, if there were no relation
    taus: Taus
    corrected: Corrected | None
    spearman: Spearman | None
    top: Top | None
    gap: Estimate | None  # inherited - alone, percentage points; None against a table
    calibration: Calibration | None
    bins: tuple[Bin, ...]
    usages: tuple[Usage, ...]  # the most underestimated first
    sampled: Sampled | None
    seconds_inherited: float  # that all evaluations took
    seconds_alone: float  # that all trainings took
    compared: tuple[Compared, ...]  # in ascending order of MACs


def health_of(trials: Iterable[Trial], table: Table | None = None) -> Health:
    """The report on a supernet, from what was measured so far; the same trials always give the same.

    Args:
        table: takes the place of the trainings alone; then only its architectures count.
    """
    trials = list(trials) if table is None else [one for one in trials if _is_of(table, one)]
    good = [one for one in trials if one.kind == "sampled" or succeeded(one)]
    known = _known(trials, table)
    both = sorted(
        (one for one in known if one.both_ways),
        key=lambda one: (one.macs, one.key),
    )
    bins = _bins_of(both)
    inherited, alone = _column(both, "inherited"), _column(both, "mean_alone")
    difference = rank_difference(inherited, alone) if both else np.zeros(0)
    return Health(
        table=None if table is None else table.source,
        architectures=len(both),
        waiting=sum(not one.alone and math.isfinite(one.inherited) for one in known),
        failed=len(trials) - len(good),
        reasons=_reasons(one for one in trials if one.kind != "sampled" and not succeeded(one)),
        seeds=max((len(one.alone) for one in both), default=0),
        epochs=next((one.values.get("epochs") for one in good if one.kind == "alone"), None),
        null_error=null_error(len(both)),
        taus=_taus(both, bins, in_points=table is None),
        corrected=_corrected(both, in_points=table is None),
        spearman=_spearman(both),
        top=_top(both),
        gap=mean_interval(inherited - alone) if both and table is None else None,
        calibration=_calibration(known),
        bins=tuple(
            _bin(both, bins == number, difference, in_points=table is None)
            for number in range(bins.max(initial=-1) + 1)
        ),
        usages=_usages(both, difference),
        sampled=_sampled(trials),
        seconds_inherited=sum(one.seconds for one in trials if one.kind in ("inherited", "uncalibrated")),
        seconds_alone=sum(one.seconds for one in trials if one.kind == "alone"),
        compared=tuple(_compared(*row) for row in zip(both, bins, difference, strict=True)),
    )


# -- what was measured -------------------------------------------------------------------------


def _is_of(table: Table, trial: Trial) -> bool:
    return trial.kind == "sampled" or (trial.kind != "alone" and trial.key in table.accuracies)


def _reasons(failed: Iterable[Trial]) -> tuple[str, ...]:
    counted = Counter(one.error or "its accuracy is no number" for one in failed)
    return tuple(sorted(counted, key=lambda reason: (-counted[reason], reason)))


def _known(trials: Iterable[Trial], table: Table | None) -> list[Subject]:
    """One per architecture, in order of their keys; a table has what they reach alone."""
    found = subjects_of(trials)
    if table is None:
        return found
    return [replace(one, alone=dict(enumerate(table.accuracies[one.key]))) for one in found]


def _compared(one: Subject, number: int, difference: float) -> Compared:
    return Compared(
        one.key,
        _number(one.macs),
        _number(one.parameters),
        one.inherited,
        _number(one.uncalibrated),
        one.mean_alone,
        len(one.alone),
        None if number < 0 else int(number),
        float(difference),
    )


def _sampled(trials: Iterable[Trial]) -> Sampled | None:
    values = next((one.values for one in reversed(list(trials)) if one.kind == "sampled"), None)
    if values is None:
        return None
    total = sum(name.startswith("count/") for name in values)
    edges = tuple(float(values[f"edge/{k}"]) for k in range(total + 1))
    return Sampled(edges, tuple(int(values[f"count/{k}"]) for k in range(total)))


# -- cost bins ---------------------------------------------------------------------------------


def _bins_of(subjects: Sequence[Subject]) -> np.ndarray:
    """The cost bin of each, (n,), -1 without MACs: as many equally full bins as `PER_BIN` allows, cheap first.

    The subjects are in ascending order of MACs. Those of equal MACs share a bin.
    """
    macs = _column(subjects, "macs")
    known = np.flatnonzero(np.isfinite(macs))
    bins = np.full(len(subjects), -1)
    if len(known):
        several = min(max(len(known) // PER_BIN, 1), MOST_BINS)
        borders = [part[0] for part in np.array_split(known, several)]
        starts = np.unique(macs[borders])  # so that equals stay together
        bins[known] = np.searchsorted(starts, macs[known], side="right") - 1
    return bins


def _bin(subjects: Sequence[Subject], members: np.ndarray, difference: np.ndarray, in_points: bool) -> Bin:
    macs, inherited, alone = (
        _column(subjects, name)[members] for name in ("macs", "inherited", "mean_alone")
    )
    return Bin(
        float(macs.min()),
        float(macs.max()),
        int(members.sum()),
        float(inherited.mean()),
        float(alone.mean()),
        mean_interval(inherited - alone) if in_points else None,
        mean_interval(difference[members]),
        tau(inherited, alone),
    )


# -- taus --------------------------------------------------------------------------------------


def _taus(both: Sequence[Subject], bins: np.ndarray, in_points: bool) -> Taus:
    weights = resamples(len(both))
    inherited, alone, macs = (_column(both, name) for name in ("inherited", "mean_alone", "macs"))
    cosine = _of_all(_column(both, "label_cosine"))
    within, macs_within = _within(inherited, alone, bins), _within(macs, alone, bins)
    seeds = _seed_columns(both)
    rounded = [(np.round(inherited, 1), np.round(alone, 1))] if in_points else []

    def against_alone(estimated: np.ndarray) -> Estimate | None:
        return mean_tau([(estimated, alone)], weights)

    return Taus(
        inherited=against_alone(inherited),
        loss=against_alone(-_column(both, "loss")),
        label_cosine=against_alone(cosine),
        sparse=mean_tau(rounded, weights),
        uncalibrated=against_alone(_column(both, "uncalibrated")),
        macs=against_alone(macs),
        parameters=against_alone(_column(both, "parameters")),
        within=mean_tau(within, weights),
        macs_within=mean_tau(macs_within, weights),
        one_seed=mean_tau([(inherited, column) for column in seeds], weights),
        seeds=mean_tau(list(combinations(seeds, 2)), weights),
        over_macs=tau_difference([(inherited, alone)], [(macs, alone)], weights),
        over_macs_within=tau_difference(within, macs_within, weights),
        cosine_over_macs=tau_difference([(cosine, alone)], [(macs, alone)], weights),
        cosine_over_inherited=tau_difference([(cosine, alone)], [(inherited, alone)], weights),
    )


def _of_all(values: np.ndarray) -> np.ndarray:
    """The values, (n,), or nothing where some are missing: what was measured later is compared on no fewer."""
    return values if np.isfinite(values).all() else np.full(len(values), np.nan)


def _within(estimated: np.ndarray, alone: np.ndarray, bins: np.ndarray) -> list[Pair]:
    """A pair per bin; a single bin says nothing that the whole does not."""
    several = range(bins.max(initial=-1) + 1)
    return [(np.where(bins == one, estimated, np.nan), alone) for one in several] if len(several) > 1 else []


def _seed_columns(subjects: Sequence[Subject]) -> list[np.ndarray]:
    """The accuracies of each seed, (n,), that at least half of the subjects have: of fewer, a tau is chance."""
    counts = Counter(seed for one in subjects for seed in one.alone)
    seeds = sorted(seed for seed, count in counts.items() if 2 * count >= len(subjects))
    return [np.array([one.alone.get(seed, math.nan) for one in subjects]) for seed in seeds]


def _corrected(both: Sequence[Subject], in_points: bool) -> Corrected | None:
    """Any two compared by models that saw neither."""
    inherited, alone, macs = (_column(both, name) for name in ("inherited", "mean_alone", "macs"))
    if (
        not FEWEST_CORRECTED <= len(both) <= MOST_CORRECTED
        or not np.isfinite(macs).all()
        or not np.ptp(alone)
    ):
        return None
    truth = alone if in_points else 50 + 10 * _normal_scores(alone)  # percent, of a table in whatever unit
    landmarks = [
        Landmark(one.architecture, one.macs, one.inherited, y) for one, y in zip(both, truth, strict=True)
    ]
    with_supernet, without = compared(landmarks), compared(landmarks, supernet=False)
    weights = resamples(len(both))
    pairs = {
        name: [(one, alone)]
        for name, one in {"inherited": inherited, "macs": macs, "without": without}.items()
    }
    corrected = [(with_supernet, alone)]
    over = {name: tau_difference(corrected, one, weights) for name, one in pairs.items()}
    found = mean_tau(corrected, weights), over["inherited"]
    if None in found:
        return None
    return Corrected(
        others=len(both) - math.ceil(len(both) / FOLDS),
        tau=found[0],
        without=mean_tau(pairs["without"], weights),
        over_inherited=over["inherited"],
        over_macs=over["macs"],
        over_without=over["without"],
    )


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """What so many draws of a normal distribution would be expected to be, nearly, in the order of the values."""
    from scipy.special import ndtri  # takes half a second, so only those who need it wait

    return ndtri((len(values) - ranks(values) + 0.5) / len(values))


def _spearman(both: Sequence[Subject]) -> Spearman | None:
    names = ("inherited", "macs", "parameters")
    rhos = [spearman(_column(both, name), _column(both, "mean_alone")) for name in names]
    return None if rhos[0] is None else Spearman(*rhos)


def _top(both: Sequence[Subject]) -> Top | None:
    """Equal accuracies are told apart by their loss."""
    if len(both) < 2 * TOP:
        return None
    loss = np.nan_to_num(_column(both, "loss"), nan=math.inf)
    order = np.lexsort((-loss, _column(both, "inherited")))
    estimated, alone = np.empty(len(both)), _column(both, "mean_alone")
    estimated[order] = np.arange(len(both))
    return Top(
        max(1, round(TOP_SHARE * len(both))),
        precision_at(estimated, alone, TOP_SHARE),
        best_rank(estimated, alone, TOP),
        worst_rank(estimated, alone, TOP),
    )


# -- calibration and operators -----------------------------------------------------------------


def _calibration(subjects: Iterable[Subject]) -> Calibration | None:
    pairs = np.array([(one.inherited, one.uncalibrated) for one in subjects]).reshape(-1, 2)
    inherited, uncalibrated = pairs[np.isfinite(pairs).all(axis=1)].T
    if not len(inherited):
        return None
    gain = mean_interval(inherited - uncalibrated)
    return Calibration(len(inherited), float(inherited.mean()), float(uncalibrated.mean()), gain)


def _usages(both: Sequence[Subject], difference: np.ndarray) -> tuple[Usage, ...]:
    """Of everything that some use more than others, how they are ranked: the mean rank difference of the
    networks that have it, each weighted by the share of its blocks that have it."""
    shares = [block_shares(architecture_from_json(one.architecture)) for one in both]
    columns: dict[tuple[float, ...], str] = {}  # a setting that always comes with its operator says no more
    for name in sorted({name for one in shares for name in one}):
        columns.setdefault(tuple(one.get(name, 0.0) for one in shares), name)
    usages = [
        _usage(name, np.array(column), difference) for column, name in columns.items() if np.ptp(column)
    ]
    return tuple(sorted(usages, key=lambda one: (-one.difference.value, one.name)))


def _usage(name: str, shares: np.ndarray, difference: np.ndarray) -> Usage:
    having = shares > 0
    return Usage(name, int(having.sum()), mean_interval(difference[having], shares[having]))


def _column(subjects: Sequence[Subject], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in subjects], float)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
