"""Scikit-learn's handwritten digits: 1,797 images of 1 x 8 x 8 that come with the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.data.images import Images

if TYPE_CHECKING:
    from nas.data import Data


def read(directory: Path | None, settings: Data) -> Images:
    """All digits as train; their 17 shades, 0..16, are stretched to 0..255."""
    if directory is not None:
        raise ValueError(
            f"data.directory is {directory}, but digits come with scikit-learn and are read from no folder; "
            "leave it out"
        )
    from sklearn.datasets import load_digits  # takes a second, so only those who read digits wait

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    return Images(images, digits.target.astype(np.int64), None, None, tuple(map(str, range(10))))
