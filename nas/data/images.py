"""What a reader returns, and what must hold of it whatever the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images (N, C, H, W), uint8 or float32, or signals (N, C, L), float32, with their labels (N,), int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """All that a source holds: images (N, C, H, W), uint8 or float32, or signals (N, C, L), float32, and labels
    (N,), int64.

    `test` and `test_labels` are None where the source brings no test set. A label is an index
    into `classes`. `rate` is the samples per second of signals, where the source knows it.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray | None
    test_labels: np.ndarray | None
    classes: tuple[str, ...]
    rate: int | None = None


def noun(images: np.ndarray) -> str:
    """What one of them is called: an image or a signal."""
    return "signal" if images.ndim == 3 else "image"


def check(images: Images, source: str) -> None:
    """Raise a ValueError that names the source unless every promise of `Images` is kept."""
    if len(images.classes) < 2:
        raise ValueError(
            f"{source} holds the one class {', '.join(images.classes)}; needs at least two classes to tell apart"
        )
    what = f"{noun(images.train)}s"
    _check_part(images.train, images.train_labels, images.classes, f"{source} (training {what})")
    if images.test is None or images.test_labels is None:
        return
    _check_part(images.test, images.test_labels, images.classes, f"{source} (test {what})")
    if images.test.shape[1:] != images.train.shape[1:] or images.test.dtype != images.train.dtype:
        raise ValueError(
            f"{source}: test {what} are {_shape(images.test)}, training {what} are {_shape(images.train)}; "
            "they must be alike"
        )


def _check_part(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], source: str) -> None:
    one = noun(images)
    if images.ndim not in (3, 4) or images.dtype not in DTYPES[images.ndim == 3 :]:
        raise ValueError(
            f"{source}: {one}s are {images.dtype} {images.shape}; must be images (N, C, H, W), uint8 or float32, "
            "or signals (N, C, L), float32"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{source}: {len(images)} {one}s but {len(labels)} labels; each {one} needs one label"
        )
    part = "sample" if one == "signal" else "pixel"
    if images.size == 0:
        raise ValueError(f"{source}: {one}s have the shape {images.shape}, so there is not a single {part}")
    if images.dtype == np.float32 and not np.isfinite(images).all():
        bad = int(np.argmin(np.isfinite(images).reshape(len(images), -1).all(axis=1)))
        raise ValueError(f"{source}: {one} {bad} has a {part} that is NaN or infinite; repair or remove it")
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if outside.size:
        raise ValueError(
            f"{source}: label {labels[outside[0]]} of {one} {outside[0]} is out of range; "
            f"with {len(classes)} classes labels go from 0 to {len(classes) - 1}"
        )


def _shape(images: np.ndarray) -> str:
    return f"{' x '.join(map(str, images.shape[1:]))} {images.dtype}"
