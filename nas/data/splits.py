"""Three splits that never mix, and a fourth for batch-norm statistics.

Training learns from `train`. The search judges by `validation`. Batch-norm statistics come from
`calibration`, which no weight was trained on. The test images are reached only by `read_test`, which
says in the log that they are read and why; the search never calls it.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nas.data.images import Images, Split, noun

if TYPE_CHECKING:
    from nas.data import Data

log = logging.getLogger(__name__)

VALIDATION = 5000  # images, or a fifth of the training set where that is less


@dataclass(frozen=True, eq=False, repr=False)
class Splits:
    """The images of one experiment; every image is in exactly one split.

    `mean` and `std` hold one number per channel of the train split, on the scale 0..1 for uint8.
    """

    settings: Data
    classes: tuple[str, ...]
    train: Split
    validation: Split
    calibration: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    _test: Split
    rate: int | None = None  # samples per second of signals, where it is known

    @property
    def shape(self) -> tuple[int, ...]:
        """C, H, W of every image, or C, L of every signal."""
        return self.train.images.shape[1:]

    @property
    def noun(self) -> str:
        return noun(self.train.images)

    def read_test(self, reason: str) -> Split:
        """The test images; reading them is logged with the reason."""
        count, name = len(self._test), self.settings.name
        log.info("reading the %d test %ss of %s: %s", count, self.noun, name, reason)
        return self._test

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any pixel, label, class name, or the way the splits were cut."""
        digest = hashlib.sha256(repr((self.shape, self.classes, self.settings.seed)).encode())
        for part in (self.train, self.validation, self.calibration, self._test):
            digest.update(f"{len(part)} {part.images.dtype}".encode())
            digest.update(np.ascontiguousarray(part.images))
            digest.update(np.ascontiguousarray(part.labels))
        return digest.hexdigest()[:16]

    def __str__(self) -> str:
        parts = {"train": self.train, "validation": self.validation, "calibration": self.calibration}
        counts = ", ".join(f"{len(part)} {name}" for name, part in (parts | {"test": self._test}).items())
        size = " x ".join(map(str, self.shape)) + (f" at {self.rate} Hz" if self.rate else "")
        return f"{counts} {self.noun}s of {size}, {len(self.classes)} classes"


def split(images: Images, settings: Data) -> Splits:
    """Cut the training images, class by class and at random, into the splits that `settings` ask for."""
    random = np.random.default_rng(settings.seed)
    classes = range(len(images.classes))
    rows = [random.permutation(np.flatnonzero(images.train_labels == label)) for label in classes]
    _require_enough(rows, images)

    def take(key: str, count: int, least: int, left: int) -> Split:
        nonlocal rows
        taken, rows = _take(rows, key, count, least, left, noun(images.train))
        # in random order, so that any part of a split is a fair sample of it
        return _part(images, random.permutation(taken))

    if images.test is not None and images.test_labels is not None:
        test = Split(images.test, images.test_labels)
    else:
        test = take("test", max(len(classes), round(settings.test * _count(rows))), least=1, left=2)
    count = _count(rows)
    validation = take("validation", _validation(settings, count, len(classes)), least=1, left=1)
    calibration = take("calibration", max(2, min(settings.calibration, count // 10)), least=0, left=1)
    train = _part(images, random.permutation(np.concatenate(rows)))
    mean, std = moments(train.images)
    return Splits(settings, images.classes, train, validation, calibration, mean, std, test, images.rate)


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (N, C, H, W) or (N, C, L), on the scale 0..1 for uint8."""
    total, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
    others = (0, *range(2, images.ndim))
    for start in range(0, len(images), 256):  # in parts, so that float64 copies stay small
        part = images[start : start + 256].astype(np.float64)
        total += part.sum(axis=others)
        squares += np.square(part).sum(axis=others)
    pixels = images.size / images.shape[1]
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    scale = 255 if images.dtype == np.uint8 else 1
    # a channel that never changes carries nothing; dividing by its deviation would only make noise of it
    std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, scale)
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def allot(counts: np.ndarray, total: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Deal `total` to the classes in proportion to `counts`, to each between its `low` and its `high`."""
    ideal = counts * (total / counts.sum())
    dealt = np.clip(np.floor(ideal), low, high).astype(np.int64)
    while dealt.sum() < total:
        dealt[np.argmax(np.where(dealt < high, ideal - dealt, -np.inf))] += 1
    while dealt.sum() > total:
        dealt[np.argmax(np.where(dealt > low, dealt - ideal, -np.inf))] -= 1
    return dealt


def _take(
    rows: list[np.ndarray], key: str, total: int, least: int, left: int, one: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """`total` of the rows, at least `least` of each class, and the rest, at least `left` of each."""
    counts = np.array([len(row) for row in rows])
    low, high = np.full(len(rows), least), counts - left
    if total < low.sum():
        raise ValueError(f"data.{key} asks for {total} {one}s; {len(rows)} classes need at least {low.sum()}")
    if total > high.sum():
        raise ValueError(
            f"data.{key} asks for {total} of {counts.sum()} {one}s; at most {high.sum()} can be taken "
            f"when {left} of each class must be left: lower it or add {one}s"
        )
    dealt = allot(counts, total, low, high)
    taken = [row[:count] for row, count in zip(rows, dealt, strict=True)]
    return np.concatenate(taken), [row[count:] for row, count in zip(rows, dealt, strict=True)]


def _require_enough(rows: list[np.ndarray], images: Images) -> None:
    needed = 2 if images.test is not None else 3
    few = [
        f"{name} ({len(row)})" for name, row in zip(images.classes, rows, strict=True) if len(row) < needed
    ]
    if few:
        one = noun(images.train)
        shown = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        uses = "one to train and one to validate" + ("" if needed == 2 else " and one to test")
        raise ValueError(
            f"too few training {one}s of class {shown}; needs at least {needed} of each class ({uses}): "
            f"add {one}s or remove the class"
        )


def _validation(settings: Data, count: int, classes: int) -> int:
    if settings.validation is None:
        return max(classes, min(VALIDATION, count // 5))
    if isinstance(settings.validation, float):
        return max(classes, round(settings.validation * count))
    return settings.validation


def _part(images: Images, rows: np.ndarray) -> Split:
    return Split(images.train[rows], images.train_labels[rows])


def _count(rows: list[np.ndarray]) -> int:
    return sum(map(len, rows))
