"""What a network would reach if it were trained alone, predicted from what it inherits and from some that were.

A supernet favours some operators and some costs, and ranks within them. Landmarks, networks of the space that were
trained alone, tell by how much: the logarithm of their errors is regressed on the logit of the inherited accuracy, the
logarithm of the MACs and the shares of the blocks that have each operator and setting, by ridge regression whose
penalty the data choose (D. J. C. MacKay, "Bayesian interpolation", Neural Computation 4, 1992). The landmarks are those
of K. Yu, R. Ranftl and M. Salzmann, "Landmark regularization: ranking guided super-net training in neural architecture
search", CVPR 2021, who train the supernet to rank them as well; here it stays as it is, and what it says is corrected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nas.json_file import read_json, write_json
from search_spaces import NetworkArchitecture, architecture_from_json

FILE = "accuracy_model.json"  # in a run's folder
FORMAT = 1
FEWEST = 8  # landmarks, below which nothing is predicted
FOLDS, REPEATS = 5, 20  # of the cross-validation
UNSURE = 1.96  # deviations of what is predicted of landmarks by the others
BESIDE = 2  # features beside the shares
EDGE = 0.5  # percent: an accuracy, or an error, of less counts as this


@dataclass(frozen=True)
class Landmark:
    """An architecture, as JSON, that was measured both ways; accuracies in %, `alone` the mean over its seeds."""

    architecture: str
    macs: float
    inherited: float
    alone: float


@dataclass(frozen=True)
class AccuracyModel:
    """The logarithm of an error is `intercept` + coefficients @ (features - mean) / scale.

    The features (f,) are the logit of the inherited accuracy, the logarithm of the MACs, and the shares of the blocks
    that have each of `names`. `deviation` is of the logarithms, of what is predicted of landmarks by the others.
    """

    landmarks: tuple[Landmark, ...]
    names: tuple[str, ...]
    intercept: float
    coefficients: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    deviation: float

    def __call__(
        self, architecture: NetworkArchitecture, inherited: float, macs: float
    ) -> tuple[float, tuple[float, float]]:
        """The accuracy in % that a training alone is expected to give, and its 95 % interval."""
        shares = block_shares(architecture)
        row = _features(inherited, macs, [shares.get(name, 0.0) for name in self.names])
        log_error = self.intercept + ((row - self.mean) / self.scale) @ self.coefficients
        ends = log_error + UNSURE * self.deviation * np.array([1, -1])
        value, low, high = (float(np.clip(100 - np.exp(one), 0, 100)) for one in (log_error, *ends))
        return value, (low, high)

    # -- the file ------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the model in place of what was there."""
        write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> AccuracyModel:
        """What `save` wrote, to the last bit.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        way_out = "remove it, and the next `nas search` fits it again"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path.name} in {path.parent}, by which accuracy is predicted; `nas search` fits it"
            )
        content = read_json(path, way_out)
        try:
            if (of_format := content.pop("format")) != FORMAT:
                raise ValueError(f"it has format {of_format}, this version reads {FORMAT}")
            landmarks = tuple(Landmark(**one) for one in content.pop("landmarks"))
            numbers = {key: tuple(one) if isinstance(one, list) else one for key, one in content.items()}
            return cls(landmarks, **numbers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); {way_out}") from None


def fit_accuracies(landmarks: Sequence[Landmark]) -> AccuracyModel:
    """The model of trainings alone; the same landmarks always give the same.

    Raises:
        ValueError: they are fewer than eight.
    """
    if len(landmarks) < FEWEST:
        raise ValueError(
            f"{len(landmarks)} trainings alone are too few to predict others; {FEWEST} or more do"
        )
    rows, names = _rows(landmarks)
    logs = _log_errors(landmarks)
    intercept, coefficients, mean, scale = _regressed(rows, logs, BESIDE)
    return AccuracyModel(
        landmarks=tuple(landmarks),
        names=names,
        intercept=float(intercept),
        coefficients=tuple(coefficients.tolist()),
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        deviation=float(np.sqrt(np.mean(_left_out(rows, logs) ** 2))),
    )


def compared(landmarks: Sequence[Landmark], supernet: bool = True) -> np.ndarray:
    """Which of two landmarks models that saw neither expect to be better: (n, n), 1 for the one of the row, -1 for that
    of the column, and the mean where models disagree; 0 where none was asked.

    What is left out one by one is predicted too low where it is high, since the others' mean is lower then; of two that
    are both left out that is not so (A. Airola et al., "An experimental comparison of cross-validation techniques for
    estimating the area under the ROC curve", Computational Statistics & Data Analysis 55, 2011).

    Args:
        supernet: whether inherited accuracies take part; without them, MACs and operators predict alone.
    """
    (rows, _), logs = _rows(landmarks), _log_errors(landmarks)
    rows, beside = (rows, BESIDE) if supernet else (rows[:, 1:], BESIDE - 1)
    signs, asked = np.zeros((2, len(logs), len(logs)), np.float32)
    random = np.random.default_rng(0)
    for _ in range(REPEATS):
        folds = random.permutation(len(logs)) % FOLDS
        for fold in range(FOLDS):
            out = np.flatnonzero(folds == fold)
            found = _predicted(_regressed(rows[folds != fold], logs[folds != fold], beside), rows[out])
            signs[np.ix_(out, out)] += np.sign(found[None, :] - found[:, None])  # of errors
            asked[np.ix_(out, out)] += 1
    return signs / np.maximum(asked, 1)


def block_shares(architecture: NetworkArchitecture) -> dict[str, float]:
    """Which share of its blocks has each operator, setting, expansion and attention; of cells, of their paths or
    edges."""
    rows = architecture.traits
    counted = Counter(name for row in rows for name in row)
    return {name: times / len(rows) for name, times in counted.items()}


# -- regression --------------------------------------------------------------------------------


def _rows(landmarks: Sequence[Landmark]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The features (n, f) of landmarks, and the names of the shares among them."""
    shares = [block_shares(architecture_from_json(one.architecture)) for one in landmarks]
    names = tuple(sorted({name for one in shares for name in one}))
    rows = [
        _features(one.inherited, one.macs, [share.get(name, 0.0) for name in names])
        for one, share in zip(landmarks, shares, strict=True)
    ]
    return np.array(rows), names


def _features(inherited: float, macs: float, shares: Sequence[float]) -> np.ndarray:
    kept = float(np.clip(inherited, EDGE, 100 - EDGE))
    return np.array([np.log(kept / (100 - kept)), np.log(max(macs, 1.0)), *shares])


def _log_errors(landmarks: Sequence[Landmark]) -> np.ndarray:
    return np.log(np.maximum(100 - np.array([one.alone for one in landmarks]), EDGE))


def _regressed(
    rows: np.ndarray, logs: np.ndarray, beside: int
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Intercept, coefficients (f,), and the mean and scale (f,) of the features.

    All of the shares, which come after so many others, weigh together as much as one of these.
    """
    from sklearn.linear_model import BayesianRidge  # takes a second, so only those who fit wait

    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[beside:] *= np.sqrt(np.count_nonzero(scale[beside:]))
    scale[scale == 0] = 1.0
    fitted = BayesianRidge().fit((rows - mean) / scale, logs)
    return fitted.intercept_, fitted.coef_, mean, scale


def _predicted(regressed: tuple, rows: np.ndarray) -> np.ndarray:
    intercept, coefficients, mean, scale = regressed
    return intercept + ((rows - mean) / scale) @ coefficients


def _left_out(rows: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """By how much the logarithm of each error, (n,), is above what all others predict."""
    others = [np.arange(len(logs)) != one for one in range(len(logs))]
    found = [_predicted(_regressed(rows[kept], logs[kept], BESIDE), rows[~kept]) for kept in others]
    return logs - np.concatenate(found)
