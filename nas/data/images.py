"""What a reader returns, and what must hold of it whatever the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images (N, C, H, W), uint8 or float32, with their labels (N,), int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """All that a source holds: images (N, C, H, W), uint8 or float32, and labels (N,), int64.

    `test` and `test_labels` are None where the source brings no test set. A label is an index
    into `classes`.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray | None
    test_labels: np.ndarray | None
    classes: tuple[str, ...]


def check(images: Images, source: str) -> None:
    """Raise a ValueError that names the source unless every promise of `Images` is kept."""
    if len(images.classes) < 2:
        raise ValueError(
            f"{source} holds the one class {', '.join(images.classes)}; needs at least two classes to tell apart"
        )
    _check_part(images.train, images.train_labels, images.classes, f"{source} (training images)")
    if images.test is None or images.test_labels is None:
        return
    _check_part(images.test, images.test_labels, images.classes, f"{source} (test images)")
    if images.test.shape[1:] != images.train.shape[1:] or images.test.dtype != images.train.dtype:
        raise ValueError(
            f"{source}: test images are {_shape(images.test)}, training images are {_shape(images.train)}; "
            "they must be alike"
        )


def _check_part(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], source: str) -> None:
    if images.ndim != 4 or images.dtype not in DTYPES:
        raise ValueError(
            f"{source}: images are {images.dtype} {images.shape}; must be uint8 or float32 (N, C, H, W)"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{source}: {len(images)} images but {len(labels)} labels; each image needs one label"
        )
    if images.size == 0:
        raise ValueError(f"{source}: images have the shape {images.shape}, so there is not a single pixel")
    if images.dtype == np.float32 and not np.isfinite(images).all():
        bad = int(np.argmin(np.isfinite(images).reshape(len(images), -1).all(axis=1)))
        raise ValueError(f"{source}: image {bad} has a pixel that is NaN or infinite; repair or remove it")
    outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if outside.size:
        raise ValueError(
            f"{source}: label {labels[outside[0]]} of image {outside[0]} is out of range; "
            f"with {len(classes)} classes labels go from 0 to {len(classes) - 1}"
        )


def _shape(images: np.ndarray) -> str:
    return f"{' x '.join(map(str, images.shape[1:]))} {images.dtype}"
